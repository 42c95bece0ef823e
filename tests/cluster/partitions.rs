//! Nodes that live and do not reach each other.

use crate::harness::{Cluster, wait_for};
use crate::node::PATIENCE;
use crate::proxy::{Links, between_all};
use apexkv_client::Error;
use apexkv_client::protocol::{Command, Status};
use std::time::{Duration, Instant};

/// Three nodes whose links all lead through proxies. The election timeout is long, so that a leader that is cut off believes in itself
/// for long, while the others, whose links break, replace it at once.
fn partitionable_cluster() -> (Cluster, Links) {
    let mut cluster = Cluster::new(3).with_flags(&["--election-timeout", "2s"]);
    let links = between_all(&mut cluster);
    cluster.start_all();
    (cluster, links)
}

/// Cuts a node off from the others, or ends that.
fn set_isolated(links: &Links, number: usize, isolated: bool) {
    let touching = links.iter().filter(|((from, to), _)| *from == number || *to == number);
    touching.for_each(|(_, proxy)| proxy.set_cut(isolated));
}

#[test]
fn a_deposed_leader_that_does_not_know_it_yet_serves_no_stale_read() {
    let (cluster, links) = partitionable_cluster();
    let mut believed = 0;
    for round in 0..4 {
        let (old, status) = cluster.wait_leader();
        let others: Vec<usize> = (0..3).filter(|number| *number != old).collect();
        let (stale, fresh) = (format!("stale {round}").into_bytes(), format!("fresh {round}").into_bytes());
        cluster.client(PATIENCE).set(b"key", &stale).expect("the cluster works");
        let mut connection = cluster.nodes[old].connect();

        set_isolated(&links, old, true);
        let later =
            |number: &usize| cluster.nodes[*number].status().is_some_and(|now| now.leads() && now.number("term") > status.number("term"));
        wait_for("another leader", PATIENCE, || others.iter().any(later).then_some(()));
        cluster.client_of(&others, PATIENCE).set(b"key", &fresh).expect("a majority is up");

        let deadline = Instant::now() + PATIENCE;
        believed += usize::from(cluster.nodes[old].wait_status("answers alone", |_| true).leads());
        connection.request(Command::Get, b"key", &[], deadline).expect("an open connection");
        let answer = connection.receive(deadline).expect("a node that is cut off answers its clients");
        let said = answer.payload.escape_ascii().to_string();
        assert!(matches!(answer.status, Status::NotLeader | Status::Busy), "a deposed leader answered {:?} '{said}'", answer.status);
        match cluster.nodes[old].client(Duration::from_millis(500)).set(b"key", b"lost") {
            Err(Error::Unavailable { .. } | Error::Unknown { .. }) => {}
            other => panic!("a write without a majority ended with {other:?}"),
        }
        set_isolated(&links, old, false);
        assert_eq!(cluster.client_of(&others, PATIENCE).get(b"key").expect("a majority is up"), Some(fresh));
        cluster.wait_caught_up(cluster.wait_leader().0);
    }
    assert!(believed > 0, "in no round did the deposed leader still believe in itself, so nothing was tested");
}
