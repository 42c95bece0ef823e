//! From received bytes to one batch for the Raft thread: walks the complete frames, answers on the spot what needs no quorum, and
//! sorts reads into those that a later write follows and those behind the last write. Pure but for the counters.

use super::clients::{ClientLimits, NodeView};
use super::event::{Request, Slot};
use super::metrics::Metrics;
use super::output::Entry;
use super::request::{Ask, BackupQuery, Frame, Parsed, Query, form_so_far, parse};
use super::response::{Form, refuse};
use crate::storage::record::{Operation, encode_operation};
use apexkv_client::protocol::{Status, encode_response};

/// Most requests of one batch, so that its bookkeeping stays small however tiny the frames are.
const REQUESTS_MAX: usize = 4096;
/// A batch ends when its local answers reach this size: requests of 9 bytes must not become megabytes of STATUS before the client has
/// taken any.
const ANSWERED_BYTES_MAX: usize = 256 << 10;
/// What a waiting request costs in memory beside its bytes, about: counted against the limits on bytes in flight, so that these
/// limit the number of requests and batches too.
const REQUEST_OVERHEAD: usize = 128;

/// Where a batch ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All complete frames are used up; see [`Parsed::Incomplete`] for the fields.
    Incomplete {
        /// Size of the frame at the front.
        frame_bytes: usize,
        /// It is going to be refused whatever its key and value are.
        doomed: bool,
    },
    /// The batch is closed although further complete frames may follow.
    Closed,
    /// The connection is to be closed when everything up to here has been answered.
    Fault,
}

/// A read that the connection's thread answers.
#[derive(Debug)]
pub(super) struct PlannedRead<'a> {
    /// Its place.
    pub(super) slot: Slot,
    /// How to answer.
    pub(super) form: Form,
    /// What to read.
    pub(super) query: Query<'a>,
    /// Whether a write follows in the batch, so that the location comes from the Raft thread; otherwise it waits for the barrier.
    pub(super) located_in_order: bool,
}

/// What one walk over the received bytes made of them.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    first: Slot,
    /// One for each frame, in order, for the connection's output.
    pub(super) entries: Vec<Entry>,
    /// For the Raft thread.
    pub(super) requests: Vec<Request>,
    /// The unsealed records of the writes among `requests`.
    pub(super) records: Vec<u8>,
    /// What is to be read, in order.
    pub(super) reads: Vec<PlannedRead<'a>>,
    /// The first read behind the last write.
    pub(super) barrier: Option<Slot>,
    /// Time limit in milliseconds; 0 is the server's default.
    pub(super) deadline_ms: u32,
    /// Bytes used.
    pub(super) consumed: usize,
    /// Cost of all that goes to the Raft thread.
    pub(super) cost: usize,
    /// Where it ended.
    pub(super) end: End,
    /// Index in `entries` that collects the run of local answers at their end, if they end with one.
    run: Option<usize>,
    /// Bytes of local answers.
    answered_bytes: usize,
    /// Reads before this position in `reads` have a write behind them.
    settled_reads: usize,
}

impl<'a> Batch<'a> {
    /// Walks `bytes`; the first frame gets slot `first`.
    pub(super) fn build(bytes: &'a [u8], first: Slot, limits: &ClientLimits, view: &dyn NodeView, metrics: &Metrics) -> Batch<'a> {
        let mut batch = Batch {
            first,
            entries: Vec::new(),
            requests: Vec::new(),
            records: Vec::new(),
            reads: Vec::new(),
            barrier: None,
            deadline_ms: 0,
            consumed: 0,
            cost: 0,
            end: End::Closed,
            run: None,
            answered_bytes: 0,
            settled_reads: 0,
        };
        while batch.entries.len() < REQUESTS_MAX && batch.answered_bytes < ANSWERED_BYTES_MAX {
            match parse(&bytes[batch.consumed..], limits) {
                Parsed::Incomplete { frame_bytes, doomed } => {
                    batch.end = End::Incomplete { frame_bytes, doomed };
                    break;
                }
                Parsed::Fault { form, reason } => {
                    batch.refuse(form, &reason, metrics);
                    batch.end = End::Fault;
                    break;
                }
                Parsed::Frame(frame) if batch.deadline_differs(&frame) || batch.wants_to_be_first(&frame) => break,
                Parsed::Frame(frame) => {
                    let ends = matches!(frame.ask, Ok(Ask::Read(Query::Scan { .. } | Query::Backup(_))));
                    batch.take(&frame, bytes.len(), view, metrics);
                    if ends {
                        break;
                    }
                }
            }
        }
        batch.place_barrier();
        batch
    }

    /// The answer to a frame of too large lengths whose request id did not arrive in time.
    pub(super) fn doomed(bytes: &'a [u8], first: Slot, limits: &ClientLimits, view: &dyn NodeView, metrics: &Metrics) -> Batch<'a> {
        let mut batch = Batch::build(&[], first, limits, view, metrics);
        batch.refuse(form_so_far(bytes), "the frame's lengths are over this server's limits; the connection is closed", metrics);
        batch.end = End::Fault;
        batch
    }

    /// Whether anything goes to the Raft thread.
    pub(super) fn needs_raft(&self) -> bool {
        !self.requests.is_empty() || self.barrier.is_some()
    }

    /// How many outcomes the reads of this batch wait for.
    pub(super) fn awaited_reads(&self) -> usize {
        self.settled_reads + usize::from(self.barrier.is_some())
    }

    /// All slots that the Raft thread would answer, for refusing them together.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        let requests = self.requests.iter().map(|request| match request {
            Request::Write { slot } | Request::Lookup { slot, .. } => *slot,
        });
        requests.chain(self.barrier)
    }

    /// Whether it holds reads of single keys and nothing else.
    pub(super) fn gets_only(&self) -> bool {
        self.reads.len() == self.entries.len() && self.reads.iter().all(|read| matches!(read.query, Query::Get { .. }))
    }

    /// A batch has one time limit: a frame for the Raft thread with another one starts the next batch.
    fn deadline_differs(&mut self, frame: &Frame<'_>) -> bool {
        if !matches!(frame.ask, Ok(Ask::Write(_) | Ask::Read(_))) {
            return false;
        }
        if self.requests.is_empty() && self.reads.is_empty() {
            self.deadline_ms = frame.deadline_ms;
        }
        self.deadline_ms != frame.deadline_ms
    }

    /// The frame of a backup is a batch of its own.
    fn wants_to_be_first(&self, frame: &Frame<'_>) -> bool {
        matches!(frame.ask, Ok(Ask::Read(Query::Backup(_)))) && !self.entries.is_empty()
    }

    /// What a backup wants, if this is the frame of one.
    pub(super) fn backup(&self) -> Option<(&PlannedRead<'a>, BackupQuery)> {
        match &self.reads[..] {
            [read] => match read.query {
                Query::Backup(query) => Some((read, query)),
                _ => None,
            },
            _ => None,
        }
    }

    fn take(&mut self, frame: &Frame<'a>, bytes_left: usize, view: &dyn NodeView, metrics: &Metrics) {
        let bytes_left = bytes_left - self.consumed;
        self.consumed += frame.bytes;
        match &frame.ask {
            Ok(ask) => metrics.count_request(ask.command()),
            Err(reason) => return self.refuse(frame.form, reason, metrics),
        }
        match frame.ask {
            Ok(Ask::Write(operation)) => self.write(frame.form, &operation, bytes_left),
            Ok(Ask::Read(query)) => self.read(frame.form, query),
            Ok(Ask::Ping(payload)) => self.answer(|out| encode_response(out, Status::Ok, &[payload], frame.form)),
            Ok(Ask::Status) => self.answer(|out| encode_response(out, Status::Ok, &[view.status_json().as_bytes()], frame.form)),
            Err(_) => {}
        }
    }

    fn next_slot(&self) -> Slot {
        self.first + self.entries.len() as u64
    }

    fn write(&mut self, form: Form, operation: &Operation<'_>, bytes_left: usize) {
        self.settle_reads();
        let slot = self.next_slot();
        if self.records.is_empty() {
            // Never more than has arrived; what follows is mostly more of the same.
            self.records.reserve(bytes_left + 64);
        }
        let before = self.records.len();
        encode_operation(&mut self.records, operation);
        let cost = REQUEST_OVERHEAD + self.records.len() - before;
        self.cost += cost;
        self.requests.push(Request::Write { slot });
        self.push(Entry::Write { form, cost: cost as u32 });
    }

    fn read(&mut self, form: Form, query: Query<'a>) {
        self.reads.push(PlannedRead { slot: self.next_slot(), form, query, located_in_order: false });
        self.push(Entry::Read { cost: 0 });
    }

    /// A write follows: the reads since the last one must be located by the Raft thread at exactly their place.
    fn settle_reads(&mut self) {
        for at in self.settled_reads..self.reads.len() {
            let read = &mut self.reads[at];
            read.located_in_order = true;
            let Query::Get { key, .. } = read.query else {
                panic!("a SCAN at slot {} has a write behind it in its batch", read.slot);
            };
            let slot = read.slot;
            self.requests.push(Request::Lookup { slot, key: key.into() });
            self.expect_outcome(slot, REQUEST_OVERHEAD + key.len());
        }
        self.settled_reads = self.reads.len();
    }

    fn place_barrier(&mut self) {
        if matches!(self.backup(), Some((_, BackupQuery::Next { .. }))) {
            return;
        }
        self.barrier = self.reads.get(self.settled_reads).map(|read| read.slot);
        if let Some(slot) = self.barrier {
            self.expect_outcome(slot, REQUEST_OVERHEAD);
        }
    }

    fn expect_outcome(&mut self, slot: Slot, cost: usize) {
        self.cost += cost;
        self.entries[(slot - self.first) as usize] = Entry::Read { cost: cost as u32 };
    }

    fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
        self.run = None;
    }

    fn refuse(&mut self, form: Form, reason: &str, metrics: &Metrics) {
        metrics.requests_refused.increment();
        self.answer(|out| refuse(out, form, Status::BadRequest, reason));
    }

    /// Answers the frame on the spot; neighbouring answers share one buffer.
    fn answer(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let at = *self.run.get_or_insert(self.entries.len());
        self.entries.push(Entry::Encoded(Vec::new()));
        let Entry::Encoded(out) = &mut self.entries[at] else {
            panic!("entry {at} of the batch begins a run of local answers and is none itself");
        };
        let before = out.len();
        encode(out);
        self.answered_bytes += out.len() - before;
    }
}
