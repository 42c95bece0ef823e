//! Damage on the disks of some nodes: what another node has comes back by itself, what nobody has is refused, and nothing wrong is ever
//! answered. Which copies are lost, case by case, is in `mend`.

use crate::harness::{Cluster, wait_for};
use crate::node::{Node, PATIENCE};
use crate::startup::flip_byte;
use apexkv::storage::Options;
use apexkv::storage::directory::Directory;
use apexkv::storage::real::RealDisk;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const KEYS: usize = 60;

pub(crate) fn value(number: usize) -> Vec<u8> {
    format!("needle {number} ").repeat(30).into_bytes()
}

/// Three nodes with the same values on their disks, stopped. Each closed its last batch before it stopped.
pub(crate) fn stopped_with_values(keys: usize) -> Cluster {
    let mut cluster = Cluster::started(3);
    let mut client = cluster.client(PATIENCE);
    for number in 0..keys {
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

pub(crate) fn wait_healed(cluster: &Cluster, node: usize) {
    cluster.nodes[node].wait_status("healed", |status| status.0["lost_to_damage"].is_null() && status.number("applied_index") > 0);
}

#[test]
fn a_damaged_node_is_filled_again_and_counts_as_before() {
    let mut cluster = stopped_with_values(KEYS);
    damage(&cluster, 1, 17);
    cluster.start_all();
    wait_healed(&cluster, 1);
    let said = cluster.nodes[1].all_output();
    assert!(said.contains("00000001.log") && said.contains("offset") && said.contains("has been mended with 1 entries"), "{said}");
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
    let mut cluster = stopped_with_values(KEYS);
    damage(&cluster, 0, 3);
    damage(&cluster, 2, 44);
    cluster.start_all();
    wait_healed(&cluster, 0);
    wait_healed(&cluster, 2);
    assert_all_there(&cluster);
}

#[test]
fn three_nodes_damaged_at_different_places_fill_each_other() {
    let mut cluster = stopped_with_values(KEYS);
    (0..3).for_each(|node| drop(damage(&cluster, node, 10 * node)));
    cluster.start_all();
    (0..3).for_each(|node| wait_healed(&cluster, node));
    assert_all_there(&cluster);
}

#[test]
fn where_no_node_has_an_entry_nothing_is_answered_and_nothing_is_thrown_away() {
    let mut cluster = stopped_with_values(KEYS);
    let damaged: Vec<(PathBuf, u64)> = (0..3).map(|node| damage(&cluster, node, 20)).collect();
    let before: Vec<Vec<PathBuf>> = cluster.nodes.iter().map(Node::segments).collect();
    cluster.nodes.iter_mut().for_each(Node::start);
    for node in &mut cluster.nodes {
        let status = node.wait_exit();
        let said = node.output();
        assert_eq!(status.code(), Some(7), "{said}");
        for text in ["00000001.log is damaged at offset", "no node of the cluster has a good copy", "from a copy", "backup"] {
            assert!(said.contains(text), "'{text}' is not in what {} said:\n{said}", node.id);
        }
    }
    assert_eq!(before, cluster.nodes.iter().map(Node::segments).collect::<Vec<_>>());
    // One node whose file is mended by hand has everything again, and the others get it from there.
    flip_byte(&damaged[0].0, damaged[0].1);
    cluster.start_all();
    (0..3).for_each(|node| wait_healed(&cluster, node));
    assert_all_there(&cluster);
}

#[test]
fn what_was_put_aside_comes_back_by_hand_when_no_other_node_has_it_any_more() {
    let mut cluster = stopped_with_values(KEYS);
    let damaged: Vec<(PathBuf, u64)> = (0..3).map(|node| damage(&cluster, node, 20)).collect();
    // As if the others had been whole when this node met its damage.
    let disk = Arc::new(RealDisk::open(&cluster.nodes[0].data).expect("the directory is ours"));
    let directory = Directory::open(disk, &cluster.nodes[0].id).expect("nobody else has it");
    drop(directory.open_log(&Options { segment_bytes: 1 << 20, reserve_bytes: 0 }).expect("put aside"));
    cluster.nodes.iter_mut().for_each(Node::start);
    for node in &mut cluster.nodes[1..] {
        assert_eq!(node.wait_exit().code(), Some(7), "{}", node.output());
    }
    cluster.nodes[0].wait_status("put aside", |status| status.0["lost_to_damage"].is_u64());
    cluster.nodes[0].stop();
    flip_byte(&damaged[0].0, damaged[0].1);
    let data = cluster.nodes[0].data.clone();
    std::fs::rename(data.join("manifest.aside"), data.join("manifest.back")).expect("it was kept");
    cluster.start_all();
    (0..3).for_each(|node| wait_healed(&cluster, node));
    assert_all_there(&cluster);
}

#[test]
fn a_node_whose_log_has_no_end_waits_until_the_others_can_do_without_it() {
    let mut cluster = stopped_with_values(KEYS);
    // The whole tail is gone, so nobody knows what this node had promised.
    let segments = cluster.nodes[1].segments();
    segments.iter().for_each(|segment| std::fs::remove_file(segment).expect("the file is ours"));
    cluster.nodes[1].start();
    cluster.nodes[1].wait_says("waits until they can do without it");
    let status = cluster.nodes[1].wait_status("answers", |_| true);
    assert!(status.number("applied_index") == 0 && !status.leads() && status.text("damage").contains(".log"), "{}", status.0);
    cluster.nodes[0].start();
    cluster.nodes[2].start();
    cluster.nodes[1].wait_says("all of the log is put aside");
    wait_healed(&cluster, 1);
    assert_all_there(&cluster);
    // While it waits it can be stopped like any other.
    cluster.stop_all();
    damage(&cluster, 0, 5);
    cluster.nodes[0].start();
    cluster.nodes[0].wait_says("waits to be mended");
    cluster.nodes[0].stop();
}
