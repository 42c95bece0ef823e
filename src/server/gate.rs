//! Reads whose values were looked up before they are confirmed. A connection's thread that knows this node to be a leader whose state is
//! current looks a value up at once, leaves the response in its output, and the read here; what is still to be shown is that the node led
//! at that moment, and a read round that begins later shows it. The value was read first and the leadership confirmed after, so the read
//! stands at the moment of the lookup: every write that anyone had acknowledged by then was applied here.
//!
//! So a GET costs its thread one sleep, as an echo would, and the Raft thread is woken once for however many reads have gathered: those
//! that come while a round is under way, which cannot serve them, are left here until it has ended, or some time has passed.

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
    gathered: Mutex<Gathered<C>>,
}

#[derive(Debug)]
struct Gathered<C> {
    reads: Vec<EarlyRead<C>>,
    /// The Raft thread has been told, or looks again by itself.
    attended: bool,
}

impl<C> ReadGate<C> {
    /// Nobody waits, and nothing is served.
    pub fn new() -> ReadGate<C> {
        ReadGate { serving: AtomicU64::new(0), gathered: Mutex::new(Gathered { reads: Vec::new(), attended: false }) }
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

    /// Leaves a read; true if the Raft thread is to be told.
    pub fn enter(&self, read: EarlyRead<C>) -> bool {
        let mut gathered = self.gathered.lock();
        gathered.reads.push(read);
        !std::mem::replace(&mut gathered.attended, true)
    }

    /// Takes all reads out. Whoever enters next is to tell the Raft thread.
    pub fn take(&self) -> Vec<EarlyRead<C>> {
        let mut gathered = self.gathered.lock();
        gathered.attended = false;
        std::mem::take(&mut gathered.reads)
    }

    /// Takes all reads out. If there were any, or with `stay`, nobody tells the Raft thread of further ones until it has called this again:
    /// it must do so as soon as they can be of use.
    pub fn attend(&self, stay: bool) -> Vec<EarlyRead<C>> {
        let mut gathered = self.gathered.lock();
        let next = Vec::with_capacity(gathered.reads.len());
        let reads = std::mem::replace(&mut gathered.reads, next);
        gathered.attended = stay || !reads.is_empty();
        reads
    }
}

impl<C> Default for ReadGate<C> {
    fn default() -> Self {
        ReadGate::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_raft_thread_is_told_once_and_never_left_without_being_told() {
        let gate = ReadGate::new();
        let enter = |slot| gate.enter(EarlyRead { client: (), slot, term: 1, deadline_ms: 1 });
        assert!(enter(1), "nobody looks after the gate");
        assert!(!enter(2), "it has been told");
        assert_eq!(gate.attend(false).len(), 2);
        assert!(!enter(3), "it looks again: there were some");
        assert_eq!(gate.attend(true).len(), 1);
        assert_eq!(gate.attend(true).len(), 0);
        assert!(!enter(4), "it stays");
        assert_eq!(gate.attend(false).len(), 1);
        assert_eq!(gate.attend(false).len(), 0);
        assert!(enter(5), "it has gone away");
        assert_eq!(gate.take().len(), 1);
        assert!(enter(6), "it has gone away whatever there was");
    }
}
