//! Writes to all nodes at once, without looking for the leader: a thread for each endpoint, short attempts, a fresh key each. So the first
//! node that takes writes is noticed within a millisecond or so of it, and no client's search for the leader is part of what is measured.

use crate::error::Error;
use apexkv_client::Connection;
use apexkv_client::protocol::{Command, Status};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time of one attempt, with its connection.
const ATTEMPT: Duration = Duration::from_millis(50);
/// Pause between two attempts at a node that refuses, so that asking does not take the processor from those who elect.
const PAUSE: Duration = Duration::from_millis(1);

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// When the answer was there.
    pub(super) at: Instant,
    /// By which node.
    pub(super) endpoint: String,
}

/// The first acknowledged write that was sent at a given moment or later.
#[derive(Debug, Default)]
struct Watch {
    /// Nothing counts before it is set.
    sent_from: Option<Instant>,
    /// What was acknowledged after the arming, with the moment of sending: it may have been sent before that moment was known.
    candidates: Vec<(Instant, Acknowledged)>,
    armed: bool,
}

impl Watch {
    fn acknowledge(&mut self, sent: Instant, acknowledged: Acknowledged) {
        let counts = self.sent_from.is_none_or(|from| sent >= from);
        // One that counts is enough; more than that need not be kept.
        if self.armed && counts && (self.sent_from.is_none() || self.candidates.is_empty()) {
            self.candidates.push((sent, acknowledged));
        }
    }

    fn count_from(&mut self, moment: Instant) {
        self.sent_from = Some(moment);
        self.candidates.retain(|(sent, _)| *sent >= moment);
    }

    fn first(&self) -> Option<Acknowledged> {
        self.sent_from?;
        self.candidates.iter().map(|(_, acknowledged)| acknowledged).min_by_key(|acknowledged| acknowledged.at).cloned()
    }
}

/// The threads. They stop when it is dropped.
pub(super) struct Probe {
    watch: Arc<Mutex<Watch>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Probe {
    /// Starts to write keys below `prefix`.
    pub(super) fn start(endpoints: &[String], prefix: &str) -> Result<Probe, Error> {
        let mut probe = Probe { watch: Arc::default(), over: Arc::default(), threads: Vec::new() };
        for (number, endpoint) in endpoints.iter().enumerate() {
            let (watch, over, endpoint) = (Arc::clone(&probe.watch), Arc::clone(&probe.over), endpoint.clone());
            let prefix = format!("{prefix}{number}:");
            let builder = thread::Builder::new().name(format!("probe-{number}"));
            let thread = builder.spawn(move || write(&endpoint, &prefix, &watch, &over));
            probe.threads.push(thread.map_err(|error| Error::local("start a thread for each endpoint", error))?);
        }
        Ok(probe)
    }

    /// Forgets the last round; acknowledgements are kept from now on.
    pub(super) fn arm(&self) {
        *self.watch.lock() = Watch { armed: true, ..Watch::default() };
    }

    /// Only what was sent at `moment` or later counts.
    pub(super) fn count_from(&self, moment: Instant) {
        self.watch.lock().count_from(moment);
    }

    /// The first acknowledgement that counts, if there is one.
    pub(super) fn first(&self) -> Option<Acknowledged> {
        self.watch.lock().first()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic would have ended the process.
            let _ = thread.join();
        }
    }
}

/// One thread: attempts at one node until it is over.
fn write(endpoint: &str, prefix: &str, watch: &Mutex<Watch>, over: &AtomicBool) {
    let mut connection = None;
    let mut number = 0u64;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        let sent = Instant::now();
        if attempt(endpoint, format!("{prefix}{number}").as_bytes(), &mut connection, sent + ATTEMPT) {
            watch.lock().acknowledge(sent, Acknowledged { at: Instant::now(), endpoint: endpoint.to_owned() });
        }
        thread::sleep(PAUSE);
    }
}

/// Whether the node acknowledged the write in time. A connection is kept only while its answers are in step.
fn attempt(endpoint: &str, key: &[u8], kept: &mut Option<Connection>, deadline: Instant) -> bool {
    let opened = match kept.take() {
        Some(connection) => Ok(connection),
        None => Connection::open(endpoint, ATTEMPT, deadline),
    };
    let Ok(mut connection) = opened else { return false };
    if connection.request(Command::Set, key, &[b"probe"], deadline).is_err() {
        return false;
    }
    let Ok(status) = connection.receive(deadline).map(|response| response.status) else { return false };
    *kept = Some(connection);
    status == Status::Ok
}

#[cfg(test)]
mod tests {
    use super::*;
    use apexkv_client::testing::MemoryNode;

    fn acknowledged(at: Instant) -> Acknowledged {
        Acknowledged { at, endpoint: "node".to_owned() }
    }

    #[test]
    fn only_what_was_sent_after_the_signal_counts() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut watch = Watch::default();
        watch.acknowledge(after(1), acknowledged(after(2)));
        watch.armed = true;
        // Sent before the signal and answered after it; then one that was sent after it, before anybody could say so.
        watch.acknowledge(after(3), acknowledged(after(11)));
        watch.acknowledge(after(12), acknowledged(after(15)));
        assert_eq!(watch.first(), None, "nobody has said yet from when on it counts");
        watch.count_from(after(10));
        assert_eq!(watch.first(), Some(acknowledged(after(15))));
        watch.acknowledge(after(14), acknowledged(after(16)));
        watch.acknowledge(after(9), acknowledged(after(17)));
        assert_eq!(watch.first(), Some(acknowledged(after(15))));
    }

    #[test]
    fn the_node_that_takes_writes_is_found_beside_one_that_is_dead() {
        let node = MemoryNode::start().expect("a free port");
        let probe = Probe::start(&["127.0.0.1:1".to_owned(), node.endpoint()], "p:").expect("threads");
        probe.arm();
        let struck = Instant::now();
        probe.count_from(struck);
        let deadline = struck + Duration::from_secs(20);
        let found = loop {
            assert!(Instant::now() < deadline, "nothing was acknowledged");
            match probe.first() {
                Some(found) => break found,
                None => thread::sleep(PAUSE),
            }
        };
        assert!(found.endpoint == node.endpoint() && found.at >= struck);
    }
}
