//! Disks that hang for seconds. A majority without the hung one commits, and the leader, hung or not, goes on to serve what it has
//! in memory; nobody is deposed for it.

use crate::harness::Cluster;
use crate::node::{PATIENCE, STALL_VARIABLE};
use std::time::{Duration, Instant};

/// How long a disk hangs: longer than any election timeout of these clusters, far shorter than what makes a leader hand over.
const HUNG: Duration = Duration::from_millis(4000);
/// A request is far quicker than a hung disk, even on a busy machine.
const PROMPT: Duration = Duration::from_millis(2500);
/// Between two writes: all that wait for a hung disk fit a small segment, however fast the machine is. Beyond the segments prepared
/// before it hung, a leader rightly answers busy.
const PAUSE: Duration = Duration::from_millis(5);

/// Three nodes whose syncs can be stalled, with election timeouts long enough that a busy machine is not taken for a dead leader and
/// short enough that a leader without heartbeats would be voted out while its disk hangs.
fn stallable_cluster() -> Cluster {
    let mut cluster = Cluster::new(3).with_flags(&["--election-timeout", "1500ms", "--disk-stall-handover", "30s"]);
    let scratch = cluster.scratch().to_path_buf();
    for (number, node) in cluster.nodes.iter_mut().enumerate() {
        node.environment.push((STALL_VARIABLE.to_owned(), scratch.join(format!("stall-{number}")).into()));
    }
    cluster.start_all();
    cluster
}

/// Stalls the disk of one node and writes and reads meanwhile.
fn serve_while_stalled(cluster: &Cluster, stalled: usize) {
    let (leader, before) = cluster.wait_leader();
    let mut client = cluster.client(PROMPT);
    client.set(b"key", b"before").expect("the cluster works");
    cluster.wait_caught_up(leader);
    let durable = cluster.nodes[stalled].wait_status("answers", |_| true).number("durable_index");

    cluster.nodes[stalled].stall_syncs(true);
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < HUNG {
        let value = format!("value {number}").repeat(50).into_bytes();
        let asked = Instant::now();
        let version = client.set(b"key", &value).unwrap_or_else(|error| {
            let statuses: Vec<_> = cluster.nodes.iter().map(|node| node.status()).collect();
            panic!("write {number} after {:?} failed although a majority has a working disk: {error}; {statuses:?}", began.elapsed())
        });
        assert_eq!(client.get_versioned(b"key").expect("the leader serves"), Some((version, value)), "write {number}");
        let took = asked.elapsed();
        assert!(took < PROMPT, "write {number} and its read took {took:?} while one disk hung");
        number += 1;
        std::thread::sleep(PAUSE);
    }
    let during = cluster.nodes[stalled].wait_status("answers while its disk hangs", |_| true);
    assert!(during.number("durable_index") <= durable + 1, "nothing becomes durable on a hung disk: {during:?}");
    assert!(number > 5, "only {number} writes in {HUNG:?}");
    cluster.nodes[stalled].stall_syncs(false);

    let (leader_after, after) = cluster.wait_leader();
    assert_eq!((leader_after, after.number("term")), (leader, before.number("term")), "a hung disk changes no leader");
    let commit = after.number("commit_index");
    cluster.nodes[stalled].wait_status("its disk has caught up", |status| status.number("durable_index") >= commit);
}

#[test]
fn a_follower_whose_disk_hangs_changes_nothing_for_the_others() {
    let cluster = stallable_cluster();
    let (leader, _) = cluster.wait_leader();
    serve_while_stalled(&cluster, (leader + 1) % 3);
}

#[test]
fn a_leader_whose_disk_hangs_commits_and_serves_what_it_has_not_written() {
    let mut cluster = stallable_cluster();
    let (leader, _) = cluster.wait_leader();
    serve_while_stalled(&cluster, leader);
    // What was acknowledged while the leader's disk hung is on the others' disks, and after that on its own.
    cluster.nodes.iter_mut().for_each(|node| node.kill());
    cluster.start_all();
    let value = cluster.client(PATIENCE).get(b"key").expect("the cluster works").expect("the key was acknowledged");
    assert!(value.starts_with(b"value "), "the key holds '{}'", value.escape_ascii());
}

#[test]
fn a_leader_whose_disk_hangs_for_good_hands_leadership_over() {
    let mut cluster = Cluster::new(3).with_flags(&["--disk-stall-handover", "500ms"]);
    let scratch = cluster.scratch().to_path_buf();
    for (number, node) in cluster.nodes.iter_mut().enumerate() {
        node.environment.push((STALL_VARIABLE.to_owned(), scratch.join(format!("stall-{number}")).into()));
    }
    cluster.start_all();
    let (old, before) = cluster.wait_leader();
    let mut client = cluster.client(PATIENCE);
    client.set(b"key", b"before").expect("the cluster works");
    cluster.nodes[old].stall_syncs(true);
    client.set(b"key", b"after").expect("a majority has a working disk");
    let others: Vec<usize> = (0..3).filter(|number| *number != old).collect();
    let later =
        |number: &usize| cluster.nodes[*number].status().filter(|status| status.leads() && status.number("term") > before.number("term"));
    crate::harness::wait_for("another node leads", PATIENCE, || others.iter().find_map(later));
    assert_eq!(cluster.client_of(&others, PATIENCE).get(b"key").expect("a majority is up"), Some(b"after".to_vec()));
    cluster.nodes[old].stall_syncs(false);
}
