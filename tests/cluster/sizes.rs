//! Values larger than a segment, limits that were lowered, pipelines as long as a socket takes.

use crate::harness::Cluster;
use crate::node::PATIENCE;
use apexkv_client::protocol::{Command, Status};
use apexkv_client::{Connection, Error, Pipeline};
use std::time::{Duration, Instant};

/// Pairs of SET and GET in one go.
const PAIRS: usize = 500;

fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

#[test]
fn each_read_of_a_pipeline_sees_exactly_the_write_before_it() {
    let cluster = Cluster::steady(3);
    let (leader, _) = cluster.wait_leader();
    let deadline = Instant::now() + PATIENCE;
    for round in 0..3 {
        let connection = Connection::open(&cluster.nodes[leader].client_address, PATIENCE, deadline).expect("the client port is open");
        let mut pipeline = Pipeline::new(connection);
        for pair in 0..PAIRS {
            pipeline.push(Command::Set, b"key", &[format!("round {round} pair {pair}").as_bytes()]);
            pipeline.push(if pair % 2 == 0 { Command::Get } else { Command::Getv }, b"key", &[]);
        }
        pipeline.flush(deadline).expect("the socket takes it");
        let mut before = 0;
        for pair in 0..PAIRS {
            let set = pipeline.receive(deadline).expect("an answer to the SET");
            assert_eq!(set.status, Status::Ok, "SET {pair}");
            let version = u64::from_le_bytes(set.payload.try_into().expect("a SET is answered with a version"));
            assert!(version > before, "SET {pair} got version {version} after {before}");
            before = version;
            let expected = format!("round {round} pair {pair}").into_bytes();
            let expected = if pair % 2 == 0 { expected } else { [&version.to_le_bytes()[..], &expected].concat() };
            let get = pipeline.receive(deadline).expect("an answer to the GET");
            let found = (get.status, get.payload.escape_ascii().to_string());
            assert_eq!(found, (Status::Ok, expected.escape_ascii().to_string()), "the GET behind SET {pair} of round {round}");
        }
    }
}

#[test]
fn a_value_larger_than_a_segment_is_kept_and_outlives_a_lowered_limit() {
    let mut cluster = Cluster::steady(3);
    let mut client = cluster.client(Duration::from_secs(60));
    let (largest, large) = (pattern(16 << 20, 1), pattern(3 << 20, 2));
    client.set(b"small before", b"1").expect("the cluster works");
    client.set(b"largest", &largest).expect("16 MiB is the default limit");
    client.set(b"large", &large).expect("3 MiB is within the limit");
    client.set(b"small after", b"2").expect("the cluster works");
    assert!(client.get(b"largest").expect("readable") == Some(largest.clone()), "the largest value comes back changed");

    cluster.stop_all();
    let mut cluster = cluster.with_flags(&["--max-value-bytes", "1MiB"]);
    cluster.start_all();
    let mut client = cluster.client(Duration::from_secs(60));
    for (key, value) in
        [(&b"largest"[..], &largest), (b"large", &large), (b"small before", &b"1".to_vec()), (b"small after", &b"2".to_vec())]
    {
        let found = client.get(key).expect("a lowered limit makes no old value bad");
        assert!(found.as_ref() == Some(value), "{} comes back changed after the restart", key.escape_ascii());
    }
    match client.set(b"new", &pattern(2 << 20, 3)) {
        Err(Error::Refused { status: Status::BadRequest, message, .. }) => {
            assert!(message.contains("1048576"), "the refusal does not name the limit: {message}");
        }
        other => panic!("2 MiB over a limit of 1 MiB ended with {other:?}"),
    }
    client.set(b"new", b"within the limit").expect("the cluster works");
    // Every node holds the large values itself, whoever led when they were written.
    for _ in 0..3 {
        let (leader, _) = cluster.wait_leader();
        cluster.wait_caught_up(leader);
        assert!(cluster.nodes[leader].client(PATIENCE).get(b"largest").expect("readable").as_ref() == Some(&largest));
        cluster.nodes[leader].stop();
        cluster.nodes[leader].start();
    }
}

#[test]
fn a_log_of_many_segments_is_recovered_whole() {
    let mut cluster = Cluster::started(1);
    let mut client = cluster.client(PATIENCE);
    for number in 0..60_u8 {
        client.set(&[b'k', number], &pattern(100_000, number)).expect("the node works");
    }
    assert!(cluster.nodes[0].segments().len() >= 6, "6 MB do not fit fewer segments of 1 MiB: {:?}", cluster.nodes[0].segments());
    cluster.nodes[0].kill();
    cluster.start_all();
    let mut client = cluster.client(PATIENCE);
    for number in 0..60_u8 {
        assert!(client.get(&[b'k', number]).expect("readable") == Some(pattern(100_000, number)), "value {number} comes back changed");
    }
}

/// An append that a follower must refuse is sent again only after a multiple of the election timeout, which is long here: a write that
/// takes as long as that was refused.
#[test]
fn the_change_to_a_new_segment_holds_up_no_write_even_with_a_node_down() {
    let mut cluster = Cluster::new(3).with_flags(&["--election-timeout", "1500ms"]);
    cluster.start_all();
    let (leader, _) = cluster.wait_leader();
    cluster.nodes[(leader + 1) % 3].kill();
    let mut client = cluster.client(PATIENCE);
    let value = pattern(10_000, 4);
    for number in 0..500 {
        let began = Instant::now();
        client.set(format!("key {number}").as_bytes(), &value).expect("two of three are up");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(3), "write {number} took {took:?}");
    }
    assert!(cluster.nodes[leader].segments().len() >= 5, "5 MB do not fit fewer segments of 1 MiB");
}
