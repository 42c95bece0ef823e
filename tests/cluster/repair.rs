//! Damage on the disks of some nodes: what another node has comes back by itself, what nobody has is refused, and nothing wrong is ever
//! answered.

use crate::harness::{Cluster, wait_for};
use crate::node::{Node, PATIENCE};
use crate::startup::flip_byte;
use std::path::PathBuf;
use std::time::Duration;

const KEYS: usize = 60;

fn value(number: usize) -> Vec<u8> {
    format!("needle {number} ").repeat(30).into_bytes()
}

/// Three nodes with the same values on their disks, stopped. Each closed its last batch before it stopped.
fn stopped_with_values() -> Cluster {
    let mut cluster = Cluster::started(3);
    let mut client = cluster.client(PATIENCE);
    for number in 0..KEYS {
        client.set(format!("key {number}").as_bytes(), &value(number)).expect("the cluster works");
    }
    let (leader, _) = cluster.wait_leader();
    cluster.wait_caught_up(leader);
    let batches = |cluster: &Cluster| -> Vec<u64> {
        let counters = cluster.nodes.iter().filter_map(|node| node.status());
        counters.map(|status| status.0["counters"]["log_batches"].as_u64().unwrap_or(0)).collect()
    };
    let mut before = batches(&cluster);
    wait_for("closing batches", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(300));
        let now = batches(&cluster);
        let still = now == before;
        before = now;
        still.then_some(())
    });
    cluster.stop_all();
    cluster
}

/// Changes a byte of a value in a node's log, and says which.
fn damage(cluster: &Cluster, node: usize, number: usize) -> (PathBuf, u64) {
    let needle = value(number);
    let found = cluster.nodes[node].segments().into_iter().find_map(|segment| {
        let bytes = std::fs::read(&segment).expect("the file is ours");
        let at = bytes.windows(needle.len()).position(|window| window == needle)?;
        Some((segment, at as u64))
    });
    let (segment, at) = found.expect("the value stands in the log");
    flip_byte(&segment, at + 20);
    (segment, at + 20)
}

fn assert_all_there(cluster: &Cluster) {
    let mut client = cluster.client(PATIENCE);
    for number in 0..KEYS {
        let found = client.get(format!("key {number}").as_bytes()).expect("the cluster works");
        assert!(found == Some(value(number)), "key {number}");
    }
}

fn wait_healed(cluster: &Cluster, node: usize) {
    cluster.nodes[node].wait_status("healed", |status| status.0["lost_to_damage"].is_null() && status.number("applied_index") > 0);
}

#[test]
fn a_damaged_node_is_filled_again_and_counts_as_before() {
    let mut cluster = stopped_with_values();
    damage(&cluster, 1, 17);
    cluster.start_all();
    wait_healed(&cluster, 1);
    let said = cluster.nodes[1].all_output();
    assert!(said.contains("00000001.log") && said.contains("offset"), "{said}");
    assert_all_there(&cluster);
    // With one of the others gone for good, the healed node is needed for every quorum.
    let (leader, _) = cluster.wait_leader();
    cluster.wait_caught_up(leader);
    let other = if leader == 1 { 0 } else { leader };
    cluster.nodes[other].kill();
    assert_all_there(&cluster);
    cluster.client(PATIENCE).set(b"new", b"value").expect("two of three");
    // The next start finds nothing to complain about.
    cluster.nodes[1].stop();
    cluster.nodes[1].start();
    cluster.nodes[other].start();
    assert_all_there(&cluster);
    wait_healed(&cluster, 1);
    let left = std::fs::read_dir(&cluster.nodes[1].data).expect("listed").flatten();
    assert!(left.map(|entry| entry.file_name()).all(|name| name != "manifest.aside" && name != "00000001.log"));
}

#[test]
fn one_of_two_nodes_that_does_not_know_how_far_its_log_went_is_filled_again() {
    let mut cluster = Cluster::started(2);
    let mut client = cluster.client(PATIENCE);
    for number in 0..KEYS {
        client.set(format!("key {number}").as_bytes(), &value(number)).expect("the cluster works");
    }
    let (leader, _) = cluster.wait_leader();
    cluster.wait_caught_up(leader);
    cluster.stop_all();
    let damaged = 1 - leader;
    std::fs::remove_file(&cluster.nodes[damaged].segments()[0]).expect("it is ours");
    cluster.start_all();
    wait_healed(&cluster, damaged);
    assert_all_there(&cluster);
}

#[test]
fn two_nodes_damaged_at_different_places_are_filled_by_the_third() {
    let mut cluster = stopped_with_values();
    damage(&cluster, 0, 3);
    damage(&cluster, 2, 44);
    cluster.start_all();
    wait_healed(&cluster, 0);
    wait_healed(&cluster, 2);
    assert_all_there(&cluster);
}

#[test]
fn where_no_node_is_whole_nothing_is_answered_and_nothing_is_thrown_away() {
    let mut cluster = stopped_with_values();
    let damaged: Vec<(PathBuf, u64)> = (0..3).map(|node| damage(&cluster, node, 10 * node)).collect();
    cluster.nodes.iter_mut().for_each(Node::start);
    for node in &cluster.nodes {
        node.wait_status("put aside", |status| status.0["lost_to_damage"].is_u64());
    }
    cluster.assert_no_quorum();
    cluster.stop_all();
    // A node whose file is mended by hand, with its list put back, has everything again, and the others get it from there.
    flip_byte(&damaged[0].0, damaged[0].1);
    let data = cluster.nodes[0].data.clone();
    std::fs::rename(data.join("manifest.aside"), data.join("manifest.back")).expect("it was kept");
    cluster.start_all();
    assert_all_there(&cluster);
    wait_healed(&cluster, 1);
    wait_healed(&cluster, 2);
}
