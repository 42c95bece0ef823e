//! File descriptors that run out: the node lives, does not spin, and serves again as soon as there are some.

use crate::harness::{Cluster, STEADY, wait_for};
use crate::node::PATIENCE;
use apexkv_client::Error;
use apexkv_client::protocol::{Command, Status};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// More than a node needs for itself, and few enough that clients exhaust them at once.
const OPEN_FILES: u32 = 64;
const CLIENTS: usize = 150;
/// What a node says once for as long as it lasts.
const EXHAUSTED: &str = "raise the limits on open files";

/// Connections of clients that say nothing. Those that the node cannot accept wait in its listener's queue.
fn crowd(address: &str) -> Vec<TcpStream> {
    (0..CLIENTS).map(|_| TcpStream::connect(address).expect("the queue of the listener has room")).collect()
}

#[test]
fn running_out_of_file_descriptors_costs_no_processor_time_and_passes() {
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].open_files = Some(OPEN_FILES);
    cluster.start_all();
    let node = &mut cluster.nodes[0];
    let mut early = node.connect();
    let crowd = crowd(&node.client_address);
    node.wait_says(EXHAUSTED);

    let (before, began) = (node.processor_ticks(), Instant::now());
    let deadline = began + PATIENCE;
    while began.elapsed() < Duration::from_secs(2) {
        early.request(Command::Set, b"key", &[b"value"], deadline).expect("a connection that was there before");
        assert_eq!(early.receive(deadline).expect("an answer").status, Status::Ok);
        std::thread::sleep(Duration::from_millis(50));
    }
    let spent = node.processor_ticks() - before;
    assert!(spent < 50, "{spent} hundredths of a second of processor time were spent in two seconds of waiting");
    assert_eq!(node.count_said(EXHAUSTED), 1, "said again and again:\n{}", node.output());

    drop(crowd);
    assert!(node.is_running());
    let mut client = node.client(PATIENCE);
    client.set(b"key", b"after").expect("the node serves again");
    assert_eq!(client.get(b"key").expect("the node serves again"), Some(b"after".to_vec()));
}

#[test]
fn a_log_that_cannot_open_its_next_segment_refuses_writes_until_it_can() {
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].open_files = Some(OPEN_FILES);
    cluster.start_all();
    let node = &mut cluster.nodes[0];
    let mut client = node.client(Duration::from_millis(400));
    client.set(b"key 0", b"opens the connection").expect("the node works");
    let crowd = crowd(&node.client_address);
    node.wait_says(EXHAUSTED);

    let value = vec![7; 100_000];
    let mut kept = Vec::new();
    let refused = wait_for("a write is refused", PATIENCE, || {
        let key = format!("key {}", kept.len());
        match client.set(key.as_bytes(), &value) {
            Ok(_) => {
                kept.push(key);
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(refused, Error::Unavailable { .. }), "a refused write must have had no effect: {refused}");
    node.wait_says("no new log segment");
    assert!(node.is_running());

    drop(crowd);
    let mut client = node.client(PATIENCE);
    client.set(b"after", &value).expect("the node serves again");
    for key in &kept {
        assert!(client.get(key.as_bytes()).expect("the node serves again").as_ref() == Some(&value), "{key} comes back changed");
    }
    cluster.nodes[0].kill();
    cluster.start_all();
    let mut client = cluster.client(PATIENCE);
    for key in &kept {
        assert!(client.get(key.as_bytes()).expect("the node works").as_ref() == Some(&value), "{key} comes back changed");
    }
}

#[test]
fn three_nodes_without_file_descriptors_keep_their_leader() {
    // A segment that takes all writes of the test: the next one could not be opened.
    let mut cluster = Cluster::new(3).with_flags(&STEADY).with_flags(&["--segment-bytes", "64MiB"]);
    cluster.nodes.iter_mut().for_each(|node| node.open_files = Some(OPEN_FILES));
    cluster.start_all();
    let (leader, before) = cluster.wait_leader();
    let mut early = cluster.nodes[leader].connect();
    let crowds: Vec<_> = cluster.nodes.iter().map(|node| crowd(&node.client_address)).collect();
    cluster.nodes.iter().for_each(|node| node.wait_says(EXHAUSTED));
    let began = Instant::now();
    let deadline = began + PATIENCE;
    while began.elapsed() < Duration::from_secs(5) {
        early.request(Command::Set, b"key", &[b"value"], deadline).expect("a connection that was there before");
        assert_eq!(early.receive(deadline).expect("an answer").status, Status::Ok);
    }
    drop(crowds);
    let (leader_after, after) = cluster.wait_leader();
    assert_eq!((leader_after, after.number("term")), (leader, before.number("term")));
}
