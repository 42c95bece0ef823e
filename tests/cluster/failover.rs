//! Leaders that die or freeze, under load. What was acknowledged stays, and nobody reads what is no longer true.

use crate::harness::{Cluster, wait_for};
use crate::ledger::Ledger;
use crate::node::{Node, PATIENCE};
use apexkv_client::protocol::{Command, Status};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WRITERS: usize = 4;
const KEYS_PER_WRITER: u64 = 20;

/// Threads that write until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<Ledger>>,
}

impl Load {
    fn start(cluster: &Cluster) -> Load {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..WRITERS).map(|writer| {
            let (stop, acknowledged, mut client) = (stop.clone(), acknowledged.clone(), cluster.client(Duration::from_secs(5)));
            thread::spawn(move || {
                let mut ledger = Ledger::default();
                for number in 0_u64.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let key = format!("writer {writer} key {}", number % KEYS_PER_WRITER);
                    let value = format!("writer {writer} write {number}").repeat(8).into_bytes();
                    let done = ledger.set(&mut client, key.as_bytes(), value);
                    acknowledged.fetch_add(u64::from(done), Ordering::SeqCst);
                }
                ledger
            })
        });
        Load { threads: threads.collect(), stop, acknowledged }
    }

    /// Waits until `count` further writes have been acknowledged.
    fn wait_progress(&self, count: u64) {
        let before = self.acknowledged.load(Ordering::SeqCst);
        wait_for("writes are acknowledged", PATIENCE, || (self.acknowledged.load(Ordering::SeqCst) >= before + count).then_some(()));
    }

    fn finish(self) -> Vec<Ledger> {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().map(|thread| thread.join().expect("no writer panicked")).collect()
    }
}

fn verify(cluster: &Cluster, ledgers: &[Ledger]) {
    let mut client = cluster.client(PATIENCE);
    ledgers.iter().for_each(|ledger| ledger.verify(&mut client));
}

#[test]
fn nothing_acknowledged_is_lost_while_twenty_leaders_are_killed() {
    let mut cluster = Cluster::as_shipped(3);
    cluster.start_all();
    let load = Load::start(&cluster);
    load.wait_progress(20);
    let mut term = 0;
    for _ in 0..20 {
        let (leader, status) = cluster.wait_leader();
        assert!(status.number("term") > term, "term {term} was led before its leader was killed");
        term = status.number("term");
        cluster.nodes[leader].kill();
        load.wait_progress(WRITERS as u64 + 1);
        cluster.nodes[leader].start();
        load.wait_progress(20);
    }
    let ledgers = load.finish();
    let (acknowledged, unknown) = ledgers.iter().fold((0, 0), |(sum, open), ledger| (sum + ledger.acknowledged, open + ledger.unknown));
    assert!(acknowledged > 500, "only {acknowledged} writes were acknowledged");
    assert!(unknown <= 20 * WRITERS as u64 * 2, "{unknown} writes have an open outcome; a kill leaves at most one per writer");
    verify(&cluster, &ledgers);
    let (leader, _) = cluster.wait_leader();
    cluster.wait_caught_up(leader);
}

#[test]
fn everything_acknowledged_is_there_after_all_nodes_were_killed_at_once() {
    let mut cluster = Cluster::started(3);
    for _ in 0..3 {
        let load = Load::start(&cluster);
        load.wait_progress(100);
        cluster.nodes.iter().for_each(|node| node.signal(Signal::KILL));
        for node in &mut cluster.nodes {
            node.wait_exit();
        }
        let stop = load.stop.clone();
        stop.store(true, Ordering::SeqCst);
        cluster.start_all();
        verify(&cluster, &load.finish());
    }
}

/// The newest value that a node gives out for `key` on this connection, unless it refuses or closes.
fn answer(connection: &mut apexkv_client::Connection) -> Option<Vec<u8>> {
    match connection.receive(Instant::now() + PATIENCE) {
        Ok(response) if response.status == Status::Ok => Some(response.payload.to_vec()),
        Ok(response) => {
            assert!(matches!(response.status, Status::NotLeader | Status::Busy), "a read was answered {:?}", response.status);
            None
        }
        Err(error) => {
            assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "a read got no answer at all");
            None
        }
    }
}

#[test]
fn a_leader_that_was_paused_serves_no_stale_read_when_it_wakes() {
    let cluster = Cluster::started(3);
    for round in 0..4 {
        let (old, status) = cluster.wait_leader();
        let others: Vec<usize> = (0..3).filter(|number| *number != old).collect();
        let (stale, fresh) = (format!("stale {round}").into_bytes(), format!("fresh {round}").into_bytes());
        let mut client = cluster.client(PATIENCE);
        client.set(b"key", &stale).expect("the cluster works");
        let mut before = cluster.nodes[old].connect();
        let mut during = cluster.nodes[old].connect();
        let deadline = Instant::now() + PATIENCE;
        before.request(Command::Get, b"key", &[], deadline).expect("an open connection");
        assert_eq!(answer(&mut before), Some(stale.clone()));

        cluster.nodes[old].signal(Signal::STOP);
        wait_new_leader(&cluster.nodes, &others, status.number("term"));
        cluster.client_of(&others, PATIENCE).set(b"key", &fresh).expect("a majority is up");
        // These wait in the sockets of the sleeping leader, one of them behind a write, and are the first that it finds.
        during.request(Command::Get, b"key", &[], deadline).expect("an open connection");
        during.request(Command::Set, b"other", &[b"value"], deadline).expect("an open connection");
        during.request(Command::Get, b"key", &[], deadline).expect("an open connection");
        cluster.nodes[old].signal(Signal::CONT);
        for _ in 0..50 {
            if before.request(Command::Get, b"key", &[], deadline).is_err() {
                before = cluster.nodes[old].connect();
                continue;
            }
            assert_ne!(answer(&mut before), Some(stale.clone()), "a stale read was served");
        }
        assert_ne!(answer(&mut during), Some(stale.clone()), "a stale read was served");
        if during.receive(deadline).is_ok() {
            assert_ne!(answer(&mut during), Some(stale), "a stale read was served");
        }
        assert_eq!(client.get(b"key").expect("the cluster works"), Some(fresh));
    }
}

/// Waits until one of `numbers` leads a term after `term`.
fn wait_new_leader(nodes: &[Node], numbers: &[usize], term: u64) {
    let leads = |number: &usize| nodes[*number].status().is_some_and(|status| status.leads() && status.number("term") > term);
    wait_for("another leader", PATIENCE, || numbers.iter().any(leads).then_some(()));
}
