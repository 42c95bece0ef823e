//! The responses of one connection in the order of its requests: which are still owed, which are ready behind an unanswered one, and
//! which bytes the operating system has not taken yet. Plain data behind the connection's lock; the only system call is a send that
//! cannot wait.

use super::clients::NodeView;
use super::event::{Outcome, Slot};
use super::response::{Form, encode_outcome};
use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// A buffer of sent responses that is larger than this is given back.
const KEEP_BYTES: usize = 256 << 10;
/// Sent bytes in front of unsent ones are dropped from this many on.
const COMPACT_BYTES: usize = 64 << 10;

/// One request whose response has not moved on to the send buffer.
#[derive(Debug)]
pub(super) enum Entry {
    /// A write that the Raft thread will answer.
    Write {
        /// How to answer.
        form: Form,
        /// What it costs while it waits.
        cost: u32,
    },
    /// A read that the connection's thread will answer.
    Read {
        /// What it costs while it waits for the Raft thread; 0 when it does not, or no longer.
        cost: u32,
    },
    /// Reads that were looked up already: their responses may leave when the Raft thread has confirmed them.
    Looked {
        /// The responses, of all these reads; the entries behind this one that belong to them are empty.
        bytes: Vec<u8>,
        /// How to answer each of them if they are not confirmed.
        forms: Vec<Form>,
        /// What they cost while they wait.
        cost: u32,
    },
    /// Response bytes, possibly those of the following entries too, which then are empty.
    Encoded(Vec<u8>),
}

/// What the connection's thread sleeps for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The outcomes of all reads of the last batch; with `writes`, also of all writes sent so far.
    Reads {
        /// Reads behind a barrier must see every earlier write of this connection that succeeded.
        writes: bool,
    },
    /// Room for more: fewer unsent bytes and unanswered requests than given.
    Room {
        /// Bytes of responses that the client has not taken.
        unsent: usize,
        /// Requests without an answer.
        unanswered: usize,
        /// What these cost.
        cost: usize,
    },
    /// Fewer bytes than given offered to the client and not taken by it. For a thread that itself owes the answer at the front: what is
    /// ready behind that answer cannot leave before it.
    Taken {
        /// Bytes of responses that the client has not taken.
        unsent: usize,
    },
    /// Every request before this slot answered.
    Front {
        /// Which slot.
        slot: Slot,
    },
    /// Everything answered, and every response taken by the operating system.
    Drained,
}

/// The output side of one connection.
#[derive(Debug)]
pub(super) struct Output {
    /// Slot of the front entry, or of the next one to come.
    first: Slot,
    entries: VecDeque<Entry>,
    /// Responses in order; what lies before `sent` has been taken.
    buffer: Vec<u8>,
    sent: usize,
    /// Bytes of encoded entries that wait behind an unanswered one.
    held: usize,
    /// What the sum over all connections holds of this one.
    reported: usize,
    unanswered_writes: usize,
    unanswered_cost: usize,
    awaited_reads: usize,
    read_outcomes: Vec<(Slot, Outcome)>,
    /// The flusher does the sending until it has caught up.
    pub(super) blocked: bool,
    /// When bytes were last taken, or had to wait for the first time.
    pub(super) progress: Instant,
    /// Nothing is sent any more.
    pub(super) closed: bool,
    /// What the connection's thread sleeps for, if it does.
    pub(super) wait: Option<Wait>,
}

impl Output {
    pub(super) fn new() -> Output {
        Output {
            first: 0,
            entries: VecDeque::new(),
            buffer: Vec::new(),
            sent: 0,
            held: 0,
            reported: 0,
            unanswered_writes: 0,
            unanswered_cost: 0,
            awaited_reads: 0,
            read_outcomes: Vec::new(),
            blocked: false,
            progress: Instant::now(),
            closed: false,
            wait: None,
        }
    }

    /// Takes over the entries of a batch, which continue where the last ones ended.
    pub(super) fn push(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            match &entry {
                Entry::Write { cost, .. } => {
                    self.unanswered_writes += 1;
                    self.unanswered_cost += *cost as usize;
                }
                Entry::Read { cost } => {
                    self.awaited_reads += usize::from(*cost > 0);
                    self.unanswered_cost += *cost as usize;
                }
                Entry::Looked { bytes, cost, .. } => {
                    self.held += bytes.len();
                    self.unanswered_cost += *cost as usize;
                }
                Entry::Encoded(bytes) => self.held += bytes.len(),
            }
            self.entries.push_back(entry);
        }
    }

    /// Takes the Raft thread's answer to a slot and returns what it cost while it waited.
    pub(super) fn answer(&mut self, slot: Slot, outcome: Outcome, view: &dyn NodeView) -> usize {
        let end = self.first + self.entries.len() as u64;
        assert!((self.first..end).contains(&slot), "slot {slot} is answered, but only {} to {end} (exclusive) are open", self.first);
        let at = (slot - self.first) as usize;
        let cost = match &mut self.entries[at] {
            Entry::Write { form, cost } => {
                let (form, cost) = (*form, *cost);
                self.unanswered_writes -= 1;
                self.answer_write(at, form, &outcome, view);
                cost
            }
            Entry::Read { cost } if *cost > 0 => {
                self.awaited_reads -= 1;
                self.read_outcomes.push((slot, outcome));
                std::mem::take(cost)
            }
            Entry::Looked { bytes, forms, cost } => {
                let (bytes, forms, cost) = (std::mem::take(bytes), std::mem::take(forms), *cost);
                self.answer_looked(at, bytes, &forms, &outcome, view);
                cost
            }
            entry => panic!("slot {slot} is answered with {outcome:?} and expects no answer: {entry:?}"),
        } as usize;
        self.unanswered_cost -= cost;
        cost
    }

    fn answer_write(&mut self, at: usize, form: Form, outcome: &Outcome, view: &dyn NodeView) {
        if at == 0 && !self.closed {
            self.entries.pop_front();
            self.first += 1;
            encode_outcome(&mut self.buffer, form, outcome, view);
            self.advance();
            return;
        }
        let mut bytes = Vec::new();
        if !self.closed {
            encode_outcome(&mut bytes, form, outcome, view);
        }
        self.held += bytes.len();
        self.entries[at] = Entry::Encoded(bytes);
    }

    fn answer_looked(&mut self, at: usize, mut bytes: Vec<u8>, forms: &[Form], outcome: &Outcome, view: &dyn NodeView) {
        self.held -= bytes.len();
        if self.closed {
            bytes = Vec::new();
        } else if !matches!(outcome, Outcome::Proceed) {
            bytes.clear();
            forms.iter().for_each(|form| encode_outcome(&mut bytes, *form, outcome, view));
        }
        self.held += bytes.len();
        self.entries[at] = Entry::Encoded(bytes);
        self.advance();
    }

    /// Whether a write that was sent has no answer yet.
    pub(super) fn has_unanswered_writes(&self) -> bool {
        self.unanswered_writes > 0
    }

    /// Takes the bytes that answer `count` reads from `first` on. In the usual case nothing is copied: `bytes` and the empty send
    /// buffer change places.
    pub(super) fn fill(&mut self, first: Slot, count: usize, bytes: &mut Vec<u8>) {
        let at = (first - self.first) as usize;
        for (offset, entry) in self.entries.range_mut(at..at + count).enumerate() {
            let before = std::mem::replace(entry, Entry::Encoded(Vec::new()));
            assert!(matches!(before, Entry::Read { cost: 0 }), "slot {} is filled and was {before:?}", first + offset as u64);
        }
        if self.closed {
            bytes.clear();
        } else if at == 0 && self.buffer.is_empty() {
            std::mem::swap(&mut self.buffer, bytes);
        } else {
            self.held += bytes.len();
            self.entries[at] = Entry::Encoded(std::mem::take(bytes));
        }
        self.advance();
    }

    /// Takes some bytes of the answer to the read at the front, and leaves it open; [`Output::fill`] takes the last ones. `bytes` is
    /// empty afterwards.
    pub(super) fn fill_part(&mut self, slot: Slot, bytes: &mut Vec<u8>) {
        let front = self.entries.front();
        assert!(
            self.first == slot && matches!(front, Some(Entry::Read { cost: 0 })),
            "slot {slot} is filled in part at {}: {front:?}",
            self.first
        );
        if self.closed {
            bytes.clear();
        } else if self.buffer.is_empty() {
            std::mem::swap(&mut self.buffer, bytes);
        } else {
            self.buffer.append(bytes);
        }
    }

    /// Moves responses to the send buffer up to the first that is still owed.
    pub(super) fn advance(&mut self) {
        while let Some(Entry::Encoded(bytes)) = self.entries.front_mut() {
            self.held -= bytes.len();
            if self.closed {
                bytes.clear();
            } else if self.buffer.is_empty() && bytes.capacity() > self.buffer.capacity() {
                std::mem::swap(&mut self.buffer, bytes);
            } else {
                self.buffer.extend_from_slice(bytes);
            }
            self.entries.pop_front();
            self.first += 1;
        }
    }

    /// Offers the unsent bytes to the operating system once, without waiting; returns how many it took. An error ends the output.
    pub(super) fn send(&mut self, socket: &TcpStream) -> usize {
        let taken = loop {
            match rustix::net::send(socket, &self.buffer[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(taken) => break taken,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break 0,
                Err(_) => {
                    self.close();
                    return 0;
                }
            }
        };
        self.sent += taken;
        if self.sent == self.buffer.len() {
            self.sent = 0;
            self.buffer.clear();
            if self.buffer.capacity() > KEEP_BYTES {
                self.buffer = Vec::new();
            }
        } else if self.sent >= COMPACT_BYTES && self.sent * 2 > self.buffer.len() {
            self.buffer.drain(..self.sent);
            self.sent = 0;
        }
        taken
    }

    /// Whether the send buffer holds bytes.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.buffer.len()
    }

    /// Brings `total`, the sum over all connections, up to date with this one.
    pub(super) fn report_unsent(&mut self, total: &AtomicUsize) {
        let now = self.unsent();
        if now > self.reported {
            total.fetch_add(now - self.reported, Ordering::Relaxed);
        } else if now < self.reported {
            total.fetch_sub(self.reported - now, Ordering::Relaxed);
        }
        self.reported = now;
    }

    /// Bytes of responses that exist and have not been taken.
    fn unsent(&self) -> usize {
        self.buffer.len() - self.sent + self.held
    }

    /// Drops what has not been sent and sends nothing any more. Entries stay, for the answers that are still on their way.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.buffer = Vec::new();
        self.sent = 0;
    }

    /// Forgets everything, when the connection itself is forgotten.
    pub(super) fn discard(&mut self) {
        self.close();
        self.entries.clear();
        self.held = 0;
    }

    /// Gives back the memory of an idle connection.
    pub(super) fn shrink(&mut self) {
        if self.entries.is_empty() && !self.has_unsent() {
            self.buffer = Vec::new();
            self.entries = VecDeque::new();
            self.read_outcomes = Vec::new();
        }
    }

    /// Whether what `wait` stands for has come.
    pub(super) fn satisfies(&self, wait: Wait) -> bool {
        match wait {
            Wait::Reads { writes } => self.awaited_reads == 0 && (!writes || self.unanswered_writes == 0),
            Wait::Room { unsent, unanswered, cost } => {
                self.unsent() < unsent && self.entries.len() < unanswered && self.unanswered_cost < cost
            }
            Wait::Taken { unsent } => self.buffer.len() - self.sent < unsent,
            Wait::Front { slot } => self.first == slot,
            Wait::Drained => self.entries.is_empty() && !self.has_unsent(),
        }
    }

    /// The answers that reads have got, by slot.
    pub(super) fn take_read_outcomes(&mut self) -> Vec<(Slot, Outcome)> {
        let mut outcomes = std::mem::take(&mut self.read_outcomes);
        outcomes.sort_unstable_by_key(|(slot, _)| *slot);
        outcomes
    }
}
