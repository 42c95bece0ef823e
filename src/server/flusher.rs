//! The thread that finishes what clients did not take at once. It sleeps in poll(2) over the sockets of all blocked connections, sends
//! when they can take more, and cuts a connection that takes no byte for too long. It never waits for a single client.

use super::connection::{Connection, Flushed};
use super::wake::Wake;
use crate::error::Result;
use crossbeam_channel::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The flusher's front: where blocked connections are reported.
#[derive(Debug)]
pub(super) struct Flusher {
    arrivals: (Sender<Arc<Connection>>, Receiver<Arc<Connection>>),
    wake: Wake,
    stopping: AtomicBool,
}

impl Flusher {
    pub(super) fn new() -> Result<Flusher> {
        Ok(Flusher { arrivals: crossbeam_channel::unbounded(), wake: Wake::new()?, stopping: AtomicBool::new(false) })
    }

    /// Takes over a connection with unsent bytes. Never blocks; at most one report for each connection is open at a time.
    pub(super) fn watch(&self, connection: Arc<Connection>) {
        self.arrivals.0.send(connection).expect("the flusher holds both ends of its queue");
        self.wake.ring();
    }

    /// Ends [`Flusher::run`].
    pub(super) fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.wake.ring();
    }

    /// The thread's body.
    pub(super) fn run(&self, stall: Duration) {
        // Between two rounds every blocked socket is tried even if poll stays silent about it: poll calls a socket writable only when
        // a good part of its buffer is free, but a slow client that takes anything at all makes progress and must not be cut.
        let round = (stall / 8).clamp(Duration::from_millis(5), Duration::from_secs(1));
        let mut watched: Vec<Arc<Connection>> = Vec::new();
        let mut last_round = Instant::now();
        while !self.stopping.load(SeqCst) {
            let ready = self.poll(&watched, round);
            let try_all = last_round.elapsed() >= round;
            if try_all {
                last_round = Instant::now();
            }
            let mut place = 0;
            watched.retain(|connection| {
                let due = try_all || ready.get(place).copied().unwrap_or(true);
                place += 1;
                !due || connection.flush(stall) == Flushed::Blocked
            });
            while let Ok(connection) = self.arrivals.1.try_recv() {
                watched.push(connection);
            }
        }
        // A report that nobody takes would hold the connection, and with it the port and this queue, for ever.
        while self.arrivals.1.try_recv().is_ok() {}
    }

    /// Sleeps until something can be done, and says which of `watched` can take bytes or have failed.
    fn poll(&self, watched: &[Arc<Connection>], round: Duration) -> Vec<bool> {
        let bell = self.wake.descriptor();
        let mut descriptors = vec![PollFd::new(&bell, PollFlags::IN)];
        descriptors.extend(watched.iter().map(|connection| PollFd::new(connection.socket(), PollFlags::OUT)));
        let limit = (!watched.is_empty()).then(|| timespec(round));
        if poll(&mut descriptors, limit.as_ref()).is_err() {
            // Interrupted by a signal, or short of memory: the next round comes anyway.
            return vec![false; watched.len()];
        }
        if !descriptors[0].revents().is_empty() {
            self.wake.clear();
        }
        descriptors[1..].iter().map(|descriptor| !descriptor.revents().is_empty()).collect()
    }
}

/// A duration as poll(2) takes it.
pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(duration.subsec_nanos()) }
}
