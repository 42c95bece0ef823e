//! Nodes that forgot what they promised: wiped, foreign, copied or rolled-back directories. None of them counts for anything, both
//! sides say why, and the others go on.

use crate::harness::Cluster;
use crate::node::{Node, PATIENCE};
use apexkv_client::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("the scratch directory is writable");
    for entry in std::fs::read_dir(from).expect("the data directory is readable") {
        let entry = entry.expect("the data directory is readable");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("files can be copied");
    }
}

/// Expects that the cluster works, that `outsider` takes no part, and that with another node down it does not stand in for it.
fn assert_does_not_count(cluster: &mut Cluster, outsider: usize) {
    let mut members: Vec<usize> = (0..3).filter(|number| *number != outsider).collect();
    let mut client = cluster.client_of(&members, PATIENCE);
    client.set(b"beside an outsider", b"value").expect("two of three are up");
    let (leader, status) = cluster.wait_leader();
    assert!(members.contains(&leader), "the outsider leads");
    let peer = status.0["peers"].as_array().and_then(|peers| peers.iter().find(|peer| peer["id"] == cluster.nodes[outsider].id.as_str()));
    assert_eq!(peer.map(|peer| &peer["alive"]), Some(&serde_json::Value::Bool(false)), "the outsider counts as alive: {status:?}");

    members.retain(|number| *number != leader);
    for down in [members[0], leader] {
        cluster.nodes[down].kill();
        cluster.assert_no_quorum();
        cluster.nodes[down].start();
        client.set(b"beside an outsider", b"again").expect("two of three are up");
    }
}

/// A node that does not lead.
fn follower(cluster: &Cluster) -> usize {
    (cluster.wait_leader().0 + 1) % 3
}

#[test]
fn a_wiped_node_stays_out_and_the_others_go_on() {
    let mut cluster = Cluster::steady(3);
    cluster.client(PATIENCE).set(b"key", b"value").expect("the cluster works");
    for wiped in 0..2 {
        cluster.nodes[wiped].stop();
        let kept = cluster.scratch().join(format!("kept-{wiped}"));
        std::fs::rename(&cluster.nodes[wiped].data, &kept).expect("the scratch directory is writable");
        cluster.nodes[wiped].start();
        let node = &cluster.nodes[wiped];
        node.wait_says(&format!("{} lost its disk", node.id));
        for other in (0..3).filter(|number| *number != wiped) {
            cluster.nodes[other].wait_says(&format!("a peer is refused: {} lost its disk", node.id));
        }
        assert_does_not_count(&mut cluster, wiped);
        let status = cluster.nodes[wiped].wait_status("answers", |_| true);
        assert_eq!((status.number("keys"), status.number("last_index")), (0, 0), "the wiped node took something in");
        // Its own newest directory brings it back.
        cluster.nodes[wiped].stop();
        std::fs::remove_dir_all(&cluster.nodes[wiped].data).expect("the scratch directory is writable");
        std::fs::rename(&kept, &cluster.nodes[wiped].data).expect("the scratch directory is writable");
        cluster.nodes[wiped].start();
        let (leader, _) = cluster.wait_leader();
        cluster.wait_caught_up(leader);
    }
}

#[test]
fn two_wiped_nodes_found_no_empty_cluster_beside_the_survivor() {
    for survivor in 0..3 {
        // Where so many elections fit into the time in which no write may succeed.
        let mut cluster = Cluster::as_shipped(3);
        cluster.start_all();
        cluster.client(PATIENCE).set(b"key", b"value").expect("the cluster works");
        cluster.stop_all();
        let wiped: Vec<usize> = (0..3).filter(|number| *number != survivor).collect();
        for number in &wiped {
            std::fs::remove_dir_all(&cluster.nodes[*number].data).expect("the scratch directory is writable");
            // The wiped ones first: they must wait for the third before they conclude anything.
            cluster.nodes[*number].start();
        }
        let waits_for = cluster.nodes[survivor].id.clone();
        wiped.iter().for_each(|number| cluster.nodes[*number].wait_says(&format!("waiting for {waits_for}")));
        cluster.nodes[survivor].start();
        for number in &wiped {
            cluster.nodes[*number].wait_says("lost its disk");
        }
        cluster.assert_no_quorum();
        for number in wiped {
            let status = cluster.nodes[number].wait_status("answers", |_| true);
            assert!(status.0["cluster_id"].is_null(), "{} belongs to a cluster: {status:?}", cluster.nodes[number].id);
        }
    }
}

#[test]
fn a_node_of_another_cluster_is_refused_and_both_say_why() {
    let mut cluster = Cluster::steady(3);
    let first = cluster.wait_leader().1.text("cluster_id").to_owned();
    cluster.client(PATIENCE).set(b"key", b"first cluster").expect("the cluster works");
    cluster.stop_all();
    let kept: Vec<_> = cluster.nodes.iter().map(|node| node.data.with_extension("kept")).collect();
    for (node, kept) in cluster.nodes.iter().zip(&kept) {
        std::fs::rename(&node.data, kept).expect("the scratch directory is writable");
    }
    cluster.start_all();
    let second = cluster.wait_leader().1.text("cluster_id").to_owned();
    assert_ne!(first, second);
    cluster.stop_all();
    for number in [0, 1] {
        cluster.nodes[number].data.clone_from(&kept[number]);
    }
    cluster.start_all();
    // Nodes 0 and 1 are of the first cluster, node 2 is of the second.
    for number in [0, 1] {
        let id = &cluster.nodes[2].id;
        cluster.nodes[number].wait_says(&format!("{id} belongs to cluster {second} and this node to {first}"));
        let id = &cluster.nodes[number].id;
        cluster.nodes[2].wait_says(&format!("{id} belongs to cluster {first} and this node to {second}"));
    }
    let found = cluster.client_of(&[0, 1], PATIENCE).get(b"key").expect("two of three are up");
    assert_eq!(found, Some(b"first cluster".to_vec()));
    assert_does_not_count(&mut cluster, 2);
}

/// Copies the directory of a follower that is stopped, lets the original live on and acknowledge more, and puts the copy in its place.
/// Returns the node's number and the original directory.
fn swap_in_old_copy(cluster: &mut Cluster) -> (usize, PathBuf) {
    let mut client = cluster.client(PATIENCE);
    client.set(b"key", b"before the copy").expect("the cluster works");
    let copied = follower(cluster);
    let copy = cluster.scratch().join("copy");
    cluster.nodes[copied].stop();
    copy_directory(&cluster.nodes[copied].data, &copy);
    cluster.nodes[copied].start();
    cluster.nodes[copied].wait_says("ready id=");
    client.set(b"key", b"after the copy").expect("the cluster works");
    cluster.wait_caught_up(cluster.wait_leader().0);
    cluster.nodes[copied].stop();
    client.set(b"key", b"after the original").expect("the cluster works");
    (copied, std::mem::replace(&mut cluster.nodes[copied].data, copy))
}

#[test]
fn an_old_copy_of_a_directory_is_refused_and_the_original_is_welcome() {
    let mut cluster = Cluster::steady(3);
    let (copied, original) = swap_in_old_copy(&mut cluster);
    cluster.nodes[copied].start();
    let id = cluster.nodes[copied].id.clone();
    for number in (0..3).filter(|number| *number != copied) {
        cluster.nodes[number].wait_says(&format!("a peer is refused: {id} runs on an old copy of its data directory"));
    }
    cluster.nodes[copied].wait_says("it refuses this node");
    assert_does_not_count(&mut cluster, copied);

    cluster.nodes[copied].kill();
    cluster.nodes[copied].data = original;
    cluster.nodes[copied].start();
    let found = cluster.client(PATIENCE).get(b"key").expect("the cluster works");
    assert_eq!(found, Some(b"after the original".to_vec()));
    cluster.wait_caught_up(cluster.wait_leader().0);
}

/// Its boot counter passes the original's after some starts. What it no longer has, and the leader remembers, still gives it away.
#[test]
fn an_old_copy_that_is_started_often_is_refused_for_what_it_forgot() {
    let mut cluster = Cluster::steady(3);
    let (leader, before) = cluster.wait_leader();
    let (copied, original) = swap_in_old_copy(&mut cluster);
    let id = cluster.nodes[copied].id.clone();
    for _ in 0..4 {
        cluster.nodes[copied].start();
        cluster.nodes[copied].wait_says("it refuses this node");
        cluster.nodes[copied].kill();
    }
    cluster.nodes[copied].start();
    cluster.nodes[leader].wait_says(&format!("a peer is refused: {id} was rolled back"));
    cluster.nodes[copied].wait_says("was rolled back");
    let now = cluster.wait_leader();
    assert_eq!((now.0, now.1.number("term")), (leader, before.number("term")), "the copy disturbed the cluster");
    let other = 3 - leader - copied;
    cluster.nodes[other].kill();
    cluster.assert_no_quorum();
    cluster.nodes[copied].kill();
    cluster.nodes[copied].data = original;
    cluster.nodes[copied].start();
    cluster.nodes[other].start();
    let found = cluster.client(PATIENCE).get(b"key").expect("the cluster works");
    assert_eq!(found, Some(b"after the original".to_vec()));
}

/// A second process that calls itself by a member's id, on a directory of its own, and listens elsewhere.
fn twin(cluster: &Cluster, number: usize) -> Node {
    let member = &cluster.nodes[number];
    let port = cluster.spare_port(0);
    let mut twin = Node::new(port, member.peers.clone(), cluster.scratch().join("twin"), cluster.scratch().join("twin.stderr"));
    let listen = [("--listen-peer", port), ("--listen-client", port + 1000), ("--listen-admin", port + 2000)];
    twin.flags = listen.iter().flat_map(|(flag, port)| [(*flag).to_owned(), format!("127.0.0.1:{port}")]).collect();
    twin.id.clone_from(&member.id);
    twin
}

#[test]
fn a_second_node_with_the_id_of_a_member_stays_out() {
    let mut cluster = Cluster::steady(3);
    let mut client = cluster.client(PATIENCE);
    client.set(b"key", b"value").expect("the cluster works");
    let (_, before) = cluster.wait_leader();
    for number in 0..3 {
        let mut twin = twin(&cluster, number);
        twin.start();
        twin.wait_says(&format!("{} lost its disk", twin.id));
        match twin.client(Duration::from_secs(1)).set(b"key", b"twin") {
            Err(Error::Unavailable { .. } | Error::Unknown { .. }) => {}
            other => panic!("a node outside the cluster answered {other:?}"),
        }
        let status = twin.wait_status("answers", |_| true);
        assert!(!status.leads() && status.number("last_index") == 0, "a node outside the cluster took something in: {status:?}");
        twin.stop();
        std::fs::remove_dir_all(&twin.data).expect("the scratch directory is writable");
    }
    assert_eq!(client.get(b"key").expect("the cluster works"), Some(b"value".to_vec()));
    assert_eq!(cluster.wait_leader().1.number("term"), before.number("term"), "the twins disturbed the cluster");
    cluster.nodes.iter_mut().for_each(|node| assert!(node.is_running()));
}

#[test]
fn a_copy_that_runs_beside_the_original_stays_out() {
    let mut cluster = Cluster::steady(3);
    let mut client = cluster.client(PATIENCE);
    client.set(b"key", b"value").expect("the cluster works");
    let copied = follower(&cluster);
    cluster.nodes[copied].stop();
    let mut twin = twin(&cluster, copied);
    copy_directory(&cluster.nodes[copied].data, &twin.data);
    cluster.nodes[copied].start();
    let (leader, _) = cluster.wait_leader();
    cluster.wait_caught_up(leader);
    cluster.nodes[leader].wait_status("hears the original", |status| {
        status.0["peers"].as_array().is_some_and(|peers| peers.iter().all(|peer| peer["alive"] == true))
    });
    twin.start();
    twin.wait_says("old copy of its data directory");
    client.set(b"key", b"newer").expect("the cluster works");
    assert_eq!(client.get(b"key").expect("the cluster works"), Some(b"newer".to_vec()));
    twin.kill();
}
