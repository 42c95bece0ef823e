//! Reads whose values were looked up before they are confirmed. A connection's thread that knows this node to be a leader whose state is
//! current looks a value up at once, leaves the response in its output, and the read here; what is still to be shown is that the node led
//! at that moment, and a read round that begins later shows it. The value was read first and the leadership confirmed after, so the read
//! stands at the moment of the lookup: every write that anyone had acknowledged by then was applied here.
//!
//! So a GET costs its thread one sleep, as an echo would, and the Raft thread one event for however many reads have gathered.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::event::Slot;

/// A read that waits for nothing but the confirmation.
#[derive(Debug)]
pub struct EarlyRead<C> {
    /// Whom to answer.
    pub client: C,
    /// To be answered with [`super::event::Outcome::Proceed`] once it is confirmed: the response built before may leave.
    pub slot: Slot,
    /// The term that [`ReadGate::serving`] said before the lookup.
    pub term: u64,
    /// Time limit in milliseconds.
    pub deadline_ms: u32,
}

/// The reads that have gathered, and whether lookups may come before confirmations.
#[derive(Debug)]
pub struct ReadGate<C> {
    serving: AtomicU64,
    reads: Mutex<Vec<EarlyRead<C>>>,
}

impl<C> ReadGate<C> {
    /// Nobody waits, and nothing is served.
    pub fn new() -> ReadGate<C> {
        ReadGate { serving: AtomicU64::new(0), reads: Mutex::new(Vec::new()) }
    }

    /// The term in which this node leads with a state that holds everything acknowledged in earlier terms; 0 if there is none. To be asked
    /// *before* the lookup: a read that is confirmed for this term may then be answered with what the lookup finds.
    pub fn serving(&self) -> u64 {
        self.serving.load(SeqCst)
    }

    /// Says what [`ReadGate::serving`] returns, after what it promises was applied.
    pub fn set_serving(&self, term: u64) {
        self.serving.store(term, SeqCst);
    }

    /// Leaves a read; true if it is the first one, and the Raft thread is to be told.
    pub fn enter(&self, read: EarlyRead<C>) -> bool {
        let mut reads = self.reads.lock();
        reads.push(read);
        reads.len() == 1
    }

    /// Takes all reads out.
    pub fn take(&self) -> Vec<EarlyRead<C>> {
        let mut reads = self.reads.lock();
        let next = Vec::with_capacity(reads.len());
        std::mem::replace(&mut *reads, next)
    }
}

impl<C> Default for ReadGate<C> {
    fn default() -> Self {
        ReadGate::new()
    }
}
