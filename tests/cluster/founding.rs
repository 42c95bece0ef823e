//! How a cluster comes to be: in whatever order its nodes are started, exactly one; and none while the command lines contradict
//! each other.

use crate::harness::Cluster;
use crate::node::{Node, PATIENCE, Status};
use std::time::Duration;

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

fn is_empty(status: &Status) -> bool {
    status.0["cluster_id"].is_null() && status.text("leader").is_empty() && status.number("last_index") == 0
}

/// Expects that all nodes belong to one cluster, that it works, and that it is still the same after a restart.
fn assert_one_cluster(cluster: &mut Cluster) {
    let (leader, status) = cluster.wait_leader();
    let id = status.text("cluster_id").to_owned();
    assert_eq!(id.len(), 32, "a cluster id: {id}");
    let version = cluster.client(PATIENCE).set(b"key", b"value").expect("the cluster works");
    cluster.wait_caught_up(leader);
    for node in &cluster.nodes {
        assert_eq!(node.wait_status("answers", |_| true).text("cluster_id"), id);
        node.wait_says(&format!("ready id={} client={} admin=", node.id, node.client_address));
        assert_eq!(node.count_said("ready id="), 1);
    }
    cluster.stop_all();
    cluster.start_all();
    assert_eq!(cluster.wait_leader().1.text("cluster_id"), id);
    let found = cluster.client(PATIENCE).get_versioned(b"key").expect("the cluster works");
    assert_eq!(found, Some((version, b"value".to_vec())));
}

/// Starts nodes one after another, each when the one before waits and says for whom.
fn start_in_order(order: &[usize]) -> Cluster {
    let mut cluster = Cluster::as_shipped(3);
    for (at, number) in order.iter().enumerate() {
        for absent in &order[at..] {
            let id = cluster.nodes[*absent].id.clone();
            order[..at].iter().for_each(|waiting| cluster.nodes[*waiting].wait_says(&id));
        }
        for waiting in &order[..at] {
            cluster.nodes[*waiting].wait_says("not founded yet, waiting for");
            assert!(is_empty(&cluster.nodes[*waiting].wait_status("answers", |_| true)), "two nodes of three found nothing");
        }
        cluster.nodes[*number].start();
    }
    cluster
}

#[test]
fn nodes_found_one_cluster_in_every_order_of_starting() {
    for order in ORDERS {
        assert_one_cluster(&mut start_in_order(&order));
    }
}

#[test]
fn nodes_killed_in_the_middle_of_founding_found_one_cluster_in_the_end() {
    let mut cluster = Cluster::as_shipped(3);
    for round in 0..12 {
        cluster.nodes.iter_mut().for_each(Node::start);
        // Each round gets a little further into the founding before one node dies.
        let victim = round % 3;
        std::thread::sleep(Duration::from_millis(4 * round as u64));
        cluster.nodes[victim].kill();
        let others = (0..3).filter(|number| *number != victim);
        others.for_each(|number| cluster.nodes[number].kill());
    }
    cluster.start_all();
    assert_one_cluster(&mut cluster);
}

#[test]
fn a_node_without_peers_is_a_cluster_of_one() {
    assert_one_cluster(&mut Cluster::started(1));
}

#[test]
fn five_nodes_found_a_cluster_and_outlive_two() {
    let mut cluster = Cluster::started(5);
    let (leader, _) = cluster.wait_leader();
    let mut client = cluster.client(PATIENCE);
    client.set(b"key", b"before").expect("the cluster works");
    cluster.nodes[leader].kill();
    cluster.nodes[(leader + 1) % 5].kill();
    client.set(b"key", b"after").expect("three of five are up");
    assert_eq!(client.get(b"key").expect("three of five are up"), Some(b"after".to_vec()));
}

#[test]
fn command_lines_that_name_different_members_found_nothing_and_say_so() {
    let mut cluster = Cluster::as_shipped(3);
    let other = format!("127.0.0.1:{}", cluster.spare_port(0));
    cluster.nodes[2].peers[0].clone_from(&other);
    cluster.nodes.iter_mut().for_each(Node::start);
    for number in [1, 2] {
        cluster.nodes[number].wait_says("give all nodes the same set");
        cluster.nodes[number].wait_says(&other);
    }
    for node in &cluster.nodes {
        assert!(is_empty(&node.wait_status("answers", |_| true)), "{} belongs to a cluster", node.id);
        assert_eq!(node.count_said("ready id="), 0);
    }
    cluster.assert_no_quorum();
    // Starting the odd one out again with the right members is all it takes.
    cluster.nodes[2].stop();
    cluster.nodes[2].peers[0] = cluster.nodes[0].id.clone();
    cluster.nodes[2].start();
    assert_one_cluster(&mut cluster);
}

#[test]
fn a_founded_node_refuses_to_start_with_other_members() {
    let mut cluster = Cluster::started(3);
    cluster.stop_all();
    let dropped = cluster.nodes[0].peers.pop().expect("two peers");
    let (code, said) = cluster.nodes[0].start_in_vain();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--peers") && said.contains(&dropped), "{said}");
}

#[test]
fn a_peer_name_that_does_not_resolve_is_tried_again_and_complained_of_once() {
    let mut cluster = Cluster::new(1);
    let node = &mut cluster.nodes[0];
    node.peers = vec!["no-such-host.invalid:18002".to_owned(), "also-no-such-host.invalid:18003".to_owned()];
    node.start();
    node.wait_says("no-such-host.invalid:18002 (the name does not resolve");
    node.wait_says("also-no-such-host.invalid:18003 (the name does not resolve");
    // Many rounds of questions later, it has not been said again.
    let tried = node.wait_status("answers", |_| true).number("uptime_ms") + 1500;
    let status = node.wait_status("goes on", |status| status.number("uptime_ms") > tried);
    assert!(is_empty(&status));
    assert!(node.count_said("does not resolve") <= 4, "{}", node.output());
    node.stop();
}
