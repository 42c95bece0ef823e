//! Signals: SIGTERM and Ctrl-C end a node cleanly, and a leader leaves only when another one can go on.

use crate::harness::{Cluster, wait_for};
use crate::node::PATIENCE;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// A stop is a matter of moments; the bound allows for a busy machine.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn sigterm_and_ctrl_c_end_with_exit_code_0_and_nothing_lost() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut cluster = Cluster::started(3);
        let version = cluster.client(PATIENCE).set(b"key", b"value").expect("the cluster works");
        let began = Instant::now();
        cluster.nodes.iter().for_each(|node| node.signal(signal));
        for node in &mut cluster.nodes {
            let status = node.wait_exit();
            assert_eq!(status.code(), Some(0), "{signal:?}: {}", node.output());
        }
        assert!(began.elapsed() < STOPS_WITHIN, "{signal:?} took {:?}", began.elapsed());
        cluster.start_all();
        let found = cluster.client(PATIENCE).get_versioned(b"key").expect("the cluster works");
        assert_eq!(found, Some((version, b"value".to_vec())), "{signal:?}");
    }
}

#[test]
fn a_node_that_waits_for_its_cluster_stops_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[0].start();
    cluster.nodes[0].wait_says("not founded yet");
    let began = Instant::now();
    cluster.nodes[0].stop();
    assert!(began.elapsed() < STOPS_WITHIN, "it took {:?}", began.elapsed());
}

#[test]
fn a_follower_without_a_leader_stops_at_once() {
    let mut cluster = Cluster::started(3);
    let (leader, _) = cluster.wait_leader();
    let rest = (leader + 1) % 3;
    (0..3).filter(|number| *number != rest).for_each(|number| cluster.nodes[number].kill());
    cluster.nodes[rest].wait_status("knows that its leader is gone", |status| status.text("leader").is_empty());
    let began = Instant::now();
    cluster.nodes[rest].stop();
    assert!(began.elapsed() < STOPS_WITHIN, "it took {:?}", began.elapsed());
}

/// With an election timeout of many seconds, only a leader that hands over leaves no gap of that length.
#[test]
fn a_leader_that_is_asked_to_stop_hands_leadership_over_first() {
    let mut cluster = Cluster::new(3).with_flags(&["--election-timeout", "5s"]);
    // The very first leader has nobody to take over from.
    cluster.nodes.iter_mut().for_each(|node| node.start());
    wait_for("the first leader", Duration::from_secs(60), || cluster.client(Duration::from_secs(5)).set(b"key", b"first").ok());
    for round in 0..3 {
        let (old, before) = cluster.wait_leader();
        let others: Vec<usize> = (0..3).filter(|number| *number != old).collect();
        let mut client = cluster.client_of(&others, PATIENCE);
        let value = format!("round {round}").into_bytes();
        client.set(b"key", &value).expect("the cluster works");
        cluster.wait_caught_up(old);
        let began = Instant::now();
        cluster.nodes[old].signal(Signal::TERM);
        let new = wait_for("the successor", PATIENCE, || {
            let later = |number: &&usize| cluster.nodes[**number].status().is_some_and(|status| status.leads());
            others.iter().find(later).copied()
        });
        assert_eq!(client.get(b"key").expect("the successor serves"), Some(value));
        let gap = began.elapsed();
        assert!(gap < Duration::from_secs(3), "without a handover, an election takes 5 s at least; this took {gap:?}");
        let term = cluster.nodes[new].wait_status("leads", |status| status.leads()).number("term");
        // The old leader's connections break when it ends; the other follower may take that for a death and be the faster one.
        let elections = term - before.number("term");
        assert!((1..=2).contains(&elections), "{elections} elections for one handover");
        let status = cluster.nodes[old].wait_exit();
        assert_eq!(status.code(), Some(0));
        cluster.nodes[old].start();
        cluster.wait_leader();
    }
}
