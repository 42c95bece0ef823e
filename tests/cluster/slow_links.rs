//! Links between nodes that take seconds for what a disk takes in milliseconds. That is slow and nothing else: nobody is deposed for it,
//! nothing is sent twice, and every write is answered honestly.

use crate::harness::{Cluster, wait_for};
use crate::ledger::Ledger;
use crate::node::PATIENCE;
use crate::proxy::between_all;
use std::thread;
use std::time::Duration;

/// Bytes a second: one megabit.
const RATE: u64 = 125_000;
/// Takes six seconds at that rate: several times what a leader without a commit allows itself, and more than a request is given.
const LARGE_BYTES: usize = 768 << 10;
/// Between two small writes.
const PAUSE: Duration = Duration::from_millis(20);

#[test]
fn a_value_that_takes_seconds_to_replicate_deposes_nobody() {
    let flags = ["--election-timeout", "2s", "--disk-stall-handover", "1s", "--request-timeout", "2s"];
    let mut cluster = Cluster::new(3).with_flags(&flags);
    let links = between_all(&mut cluster);
    cluster.start_all();
    let (leader, before) = cluster.wait_leader();
    cluster.client(PATIENCE).set(b"key", b"before").expect("the cluster works");
    cluster.wait_caught_up(leader);
    links.values().for_each(|proxy| proxy.set_rate(RATE));

    let (mut large, mut small) = (Ledger::default(), Ledger::default());
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = cluster.client(PATIENCE);
            for (seed, bytes) in [(1, LARGE_BYTES), (2, LARGE_BYTES / 4)] {
                large.set(&mut client, b"large", vec![seed; bytes]);
            }
        });
        let mut client = cluster.client(PATIENCE);
        let mut number = 0_u32;
        while !writer.is_finished() {
            small.set(&mut client, &number.to_le_bytes(), b"small".to_vec());
            number += 1;
            thread::sleep(PAUSE);
        }
    });
    let mut client = cluster.client(PATIENCE);
    wait_for("a small write is acknowledged again", 2 * PATIENCE, || small.set(&mut client, b"after", b"small".to_vec()).then_some(()));
    large.verify(&mut client);
    small.verify(&mut client);
    let (leader_after, after) = cluster.wait_leader();
    assert_eq!((leader_after, after.number("term")), (leader, before.number("term")), "a slow link changes no leader");
    cluster.wait_caught_up(leader);
    for (_, proxy) in links.iter().filter(|((from, _), _)| *from == leader) {
        let carried = proxy.carried();
        assert!(carried < 2 * LARGE_BYTES as u64, "{carried} bytes were carried to a follower: the large values were sent again");
    }
}
