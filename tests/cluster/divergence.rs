//! Nodes whose memory does not hold what their log says: the others notice, and whoever differs from a majority ends.

use crate::harness::{Cluster, wait_for};
use crate::node::{Node, PATIENCE};
use apexkv_client::protocol::{Command as Request, Status};
use apexkv_client::{Connection, Pipeline};
use std::time::Instant;

/// Names the entry whose effect a node loses.
const LOSE_VARIABLE: &str = "APEXKV_TEST_LOSE_ENTRY";
/// States are compared behind every so many entries.
const SPACING: u64 = 1024;
/// Requests that are under way at a time.
const DEPTH: u64 = 64;

/// Writes one key until so many entries are applied, or the node ends.
fn write_until(leader: &Node, index: u64) {
    let deadline = Instant::now() + PATIENCE;
    let mut pipeline = Pipeline::new(Connection::open(&leader.client_address, PATIENCE, deadline).expect("the client port is open"));
    loop {
        let Some(applied) = leader.status().map(|status| status.number("applied_index")) else { return };
        let count = DEPTH.min(index.saturating_sub(applied));
        if count == 0 {
            return;
        }
        (0..count).for_each(|_| pipeline.push(Request::Set, b"key", &[b"value"]));
        if pipeline.flush(deadline).is_err() {
            return;
        }
        for _ in 0..count {
            let Ok(answer) = pipeline.receive(deadline) else { return };
            // A node that is about to end, or has lost leadership, says no more.
            if answer.status == Status::Unknown {
                return;
            }
            assert_eq!(answer.status, Status::Ok);
        }
    }
}

/// Starts a node again that is to lose the effect of an entry that is still to come.
fn restart_to_lose_an_entry(cluster: &mut Cluster, number: usize) {
    let last = cluster.nodes[number].wait_status("answers", |_| true).number("last_index");
    cluster.nodes[number].stop();
    cluster.nodes[number].environment.push((LOSE_VARIABLE.to_owned(), (last + 100).to_string().into()));
    cluster.nodes[number].start();
    cluster.nodes[number].wait_status("follows", |status| !status.text("leader").is_empty());
}

fn next_checkpoint(node: &Node) -> u64 {
    let last = node.wait_status("answers", |_| true).number("last_index");
    (last + 200).next_multiple_of(SPACING)
}

/// The hash behind an entry, once the node has it.
fn hash_behind(node: &Node, index: u64) -> String {
    let status = node.wait_status("has a state hash", |status| status.0["state_hash"]["index"] == index);
    status.0["state_hash"]["hash"].as_str().expect("text").to_owned()
}

fn alarms(node: &Node) -> u64 {
    node.wait_status("answers", |_| true).0["counters"]["state_hash_alarms"].as_u64().expect("there is such a counter")
}

/// The node says why it ends, and the others go on; what it has lost in memory is in its log.
fn ends_and_comes_back(cluster: &mut Cluster, number: usize) {
    assert_eq!(cluster.nodes[number].wait_exit().code(), Some(7));
    let said = cluster.nodes[number].output();
    let line = said.lines().find(|line| line.starts_with("fatal: ")).unwrap_or_else(|| panic!("no word about it: {said}"));
    assert!(line.contains("behind entry ") && line.contains("start it again"), "{line}");

    let (leader, _) = cluster.wait_leader();
    let next = next_checkpoint(&cluster.nodes[leader]);
    cluster.nodes[number].environment.clear();
    cluster.nodes[number].start();
    write_until(&cluster.nodes[leader], next);
    let hashes: Vec<String> = cluster.nodes.iter().map(|node| hash_behind(node, next)).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    for node in &mut cluster.nodes {
        assert!(node.is_running());
        node.wait_status("nothing is wrong", |status| status.0["state_hash_alarm"].is_null());
    }
}

#[test]
fn a_follower_that_differs_from_the_others_ends() {
    let mut cluster = Cluster::steady(3);
    let (leader, _) = cluster.wait_leader();
    let follower = (leader + 1) % 3;
    cluster.client(PATIENCE).set(b"key", b"first").expect("the cluster works");
    restart_to_lose_an_entry(&mut cluster, follower);
    let (leader, _) = cluster.wait_leader();
    let index = next_checkpoint(&cluster.nodes[leader]);
    write_until(&cluster.nodes[leader], index);
    ends_and_comes_back(&mut cluster, follower);
}

#[test]
fn a_leader_at_rest_that_differs_from_the_others_ends() {
    let mut cluster = Cluster::steady(3);
    cluster.client(PATIENCE).set(b"key", b"first").expect("the cluster works");
    restart_to_lose_an_entry(&mut cluster, 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (leader, _) = cluster.wait_leader();
        if leader == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "node 0 has not been chosen");
        cluster.nodes[leader].stop();
        cluster.wait_leader();
        cluster.nodes[leader].start();
    }
    // Nothing that is written later is needed to notice it.
    let last = cluster.nodes[0].wait_status("answers", |_| true).number("last_index");
    write_until(&cluster.nodes[0], last + 200);
    ends_and_comes_back(&mut cluster, 0);
}

#[test]
fn where_no_majority_says_who_is_right_nobody_ends_and_an_alarm_stands() {
    let mut cluster = Cluster::steady(2);
    cluster.client(PATIENCE).set(b"key", b"first").expect("the cluster works");
    restart_to_lose_an_entry(&mut cluster, 0);
    let (leader, _) = cluster.wait_leader();
    let index = next_checkpoint(&cluster.nodes[leader]);
    write_until(&cluster.nodes[leader], index);
    let text = wait_for("an alarm", PATIENCE, || {
        let status = cluster.nodes[leader].status()?;
        status.0["state_hash_alarm"].as_str().map(str::to_owned)
    });
    assert!(text.contains("behind entry "), "{text}");
    let before = alarms(&cluster.nodes[leader]);
    assert!(before > 0, "{before}");
    assert_eq!(cluster.nodes[leader].count_said(&text), 1, "it is said once for each entry");
    write_until(&cluster.nodes[leader], index + SPACING);
    wait_for("the next alarm", PATIENCE, || (alarms(&cluster.nodes[leader]) > before).then_some(()));
    assert!(cluster.nodes.iter_mut().all(Node::is_running));
}
