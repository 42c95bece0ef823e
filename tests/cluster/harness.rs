//! A cluster of real processes in a scratch directory of its own. When a test fails, what every node said is printed; whatever happens,
//! no process stays behind.

use crate::node::{Node, PATIENCE, Status};
use crate::ports::{Permit, Ports};
use apexkv_client::{Client, Error};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Pause between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Flags of nodes that take no pause of the machine for a dead leader, but soon notice one.
const PATIENT: [&str; 2] = ["--election-timeout", "1s"];
/// Flags of nodes that keep their leader as long as its links hold, however the machine stumbles.
pub(crate) const STEADY: [&str; 2] = ["--election-timeout", "2s"];
/// Of each node's output, this much is printed when a test fails.
const OUTPUT_SHOWN: usize = 6000;

/// Waits until `look` finds something, and fails when that takes longer than `limit`.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(LOOK_AGAIN);
    }
}

/// Nodes that name each other as peers, numbered from 0.
pub(crate) struct Cluster {
    /// The nodes. Dropped before the directory they write to.
    pub(crate) nodes: Vec<Node>,
    ports: Ports,
    scratch: TempDir,
    _permit: Permit,
}

impl Cluster {
    /// `count` nodes that have not been started, with small segments, so that a start does not wait for large files.
    pub(crate) fn new(count: usize) -> Cluster {
        Cluster::as_shipped(count).with_flags(&PATIENT)
    }

    /// As [`Cluster::new`], with the timeouts that users have who say nothing.
    pub(crate) fn as_shipped(count: usize) -> Cluster {
        let permit = Permit::acquire();
        let ports = Ports::claim();
        // Beside the build, not in a system directory for temporary files that may lie in memory: syncs shall be real.
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build directory is writable");
        let ids: Vec<String> = (0..count).map(|number| format!("127.0.0.1:{}", ports.peer(number))).collect();
        let node = |number: usize| {
            let peers = ids.iter().filter(|id| **id != ids[number]).cloned().collect();
            let (data, output) = (scratch.path().join(format!("node-{number}")), scratch.path().join(format!("node-{number}.stderr")));
            let mut node = Node::new(ports.peer(number), peers, data, output);
            node.flags = vec!["--segment-bytes".to_owned(), "1MiB".to_owned()];
            node
        };
        Cluster { nodes: (0..count).map(node).collect(), ports, scratch, _permit: permit }
    }

    /// `count` nodes that have found a leader.
    pub(crate) fn started(count: usize) -> Cluster {
        let mut cluster = Cluster::new(count);
        cluster.start_all();
        cluster
    }

    /// `count` nodes that have found a leader and keep it: for tests that count on who leads.
    pub(crate) fn steady(count: usize) -> Cluster {
        let mut cluster = Cluster::new(count).with_flags(&STEADY);
        cluster.start_all();
        cluster
    }

    /// Adds flags to every node, pairs of name and value, each in place of what the flag said before.
    pub(crate) fn with_flags(mut self, flags: &[&str]) -> Cluster {
        for node in &mut self.nodes {
            for pair in flags.chunks(2) {
                if let Some(at) = node.flags.iter().position(|flag| flag == pair[0]) {
                    node.flags.drain(at..at + pair.len());
                }
                node.flags.extend(pair.iter().map(|text| (*text).to_owned()));
            }
        }
        self
    }

    /// Where the cluster's files are.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Peer ports that no node of the cluster has by default, by number.
    pub(crate) fn spare_port(&self, number: usize) -> u16 {
        self.ports.peer(self.nodes.len() + number)
    }

    /// Starts all nodes and waits for a leader.
    pub(crate) fn start_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::start);
        self.wait_leader();
    }

    /// Stops all nodes with SIGTERM at the same time.
    pub(crate) fn stop_all(&mut self) {
        self.nodes.iter().for_each(|node| node.signal(rustix::process::Signal::TERM));
        for node in &mut self.nodes {
            let status = node.wait_exit();
            assert!(status.success(), "{} stopped with {status}\n{}", node.id, node.output());
        }
    }

    /// Waits until a majority of the nodes agrees on a leader that can serve: its number and STATUS.
    pub(crate) fn wait_leader(&self) -> (usize, Status) {
        wait_for("a leader that a majority follows", PATIENCE, || self.leader())
    }

    fn leader(&self) -> Option<(usize, Status)> {
        let statuses: Vec<Option<Status>> = self.nodes.iter().map(Node::status).collect();
        let term = statuses.iter().flatten().map(|status| status.number("term")).max()?;
        let agree = |address: &str| {
            let follows = |status: &&Status| status.number("term") == term && status.text("leader") == address;
            statuses.iter().flatten().filter(follows).count() > self.nodes.len() / 2
        };
        let number = (0..self.nodes.len()).find(|number| {
            let leads = statuses[*number].as_ref().is_some_and(|status| status.leads() && status.number("commit_index") > 0);
            leads && agree(&self.nodes[*number].client_address)
        })?;
        statuses.into_iter().nth(number).flatten().map(|status| (number, status))
    }

    /// Waits until every node has applied what node `of` has committed.
    pub(crate) fn wait_caught_up(&self, of: usize) {
        let commit = self.nodes[of].wait_status("answers", |_| true).number("commit_index");
        for node in &self.nodes {
            node.wait_status(&format!("has applied {commit}"), |status| status.number("applied_index") >= commit);
        }
    }

    /// A client that knows all nodes.
    pub(crate) fn client(&self, timeout: Duration) -> Client {
        self.client_of(&(0..self.nodes.len()).collect::<Vec<_>>(), timeout)
    }

    /// A client that knows some nodes.
    pub(crate) fn client_of(&self, numbers: &[usize], timeout: Duration) -> Client {
        let endpoints = numbers.iter().map(|number| self.nodes[*number].client_address.clone());
        Client::builder().endpoints(endpoints).timeout(timeout).build().expect("the settings are valid")
    }

    /// Expects that no write succeeds: fewer than a majority of nodes that count are up.
    pub(crate) fn assert_no_quorum(&self) {
        match self.client(Duration::from_millis(1500)).set(b"without a quorum", b"") {
            Err(Error::Unavailable { .. } | Error::Unknown { .. }) => {}
            other => panic!("a write without a quorum ended with {other:?}"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in &self.nodes {
                let output = node.all_output();
                let from = output.char_indices().rev().nth(OUTPUT_SHOWN).map_or(0, |(at, _)| at);
                eprintln!("---- {} said:\n{}", node.id, &output[from..]);
            }
        }
    }
}
