//! The stage: records that have a place but are not known to be durable. Gathers them into batches, keeps batches and seals in the
//! order in which the log writer must carry them out, and remembers the one it works on. Pure memory; used by the log alone.

use super::batch::{self, BODY_MAX, HEADER_BYTES};
use super::segment::{Chunk, Segment};
use super::writer::{Batch, Edit, Job, Seal};
use crate::bugbank::planted;
use crate::raft::EntryId;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

/// Buffers at least this large become a chunk as they are; smaller ones are copied together.
const OWN_CHUNK_BYTES: usize = 64 << 10;

/// A batch that still takes records.
#[derive(Debug)]
struct Gathering {
    batch: Batch,
    /// Length of all records placed.
    body: u64,
    /// The last records, not yet shared.
    open: Vec<u8>,
}

impl Gathering {
    /// Where the records placed so far end.
    fn end(&self) -> u64 {
        self.batch.offset + HEADER_BYTES + self.body
    }

    fn freeze(&mut self) {
        if !self.open.is_empty() {
            let bytes = std::mem::take(&mut self.open);
            let chunk = Arc::new(Chunk::new(self.end() - bytes.len() as u64, bytes));
            self.batch.segment.stage(Arc::clone(&chunk));
            self.batch.chunks.push(chunk);
        }
    }
}

#[derive(Debug)]
enum Queued {
    /// A closed batch, its bytes, and the last of its entries that nothing has superseded.
    Batch {
        batch: Batch,
        bytes: u64,
        durable: u64,
    },
    Seal(Vec<Edit>),
}

#[derive(Debug)]
struct InFlight {
    sequence: u64,
    /// The segment it writes, where it ends there, and how many bytes of records it carries.
    batch: Option<(Arc<Segment>, u64, u64)>,
}

/// What waits for the log writer.
#[derive(Debug, Default)]
pub(super) struct Stage {
    gathering: Option<Gathering>,
    queue: VecDeque<Queued>,
    in_flight: Option<InFlight>,
    /// Number of the last job handed out.
    sequence: u64,
    /// Bytes of records not known to be durable.
    bytes: u64,
    /// How many bytes were placed before the last freeze: about as many will be before the next.
    usual: usize,
}

/// Whether a batch at `base` with `body` bytes takes one more record of `bytes` in a segment of `length`, a closing batch left room
/// for.
pub(super) fn takes(base: u64, body: u64, bytes: u64, length: u64) -> bool {
    let end = batch::align(base + HEADER_BYTES + body + bytes) + HEADER_BYTES;
    end <= length && (body == 0 || body + bytes <= BODY_MAX)
}

impl Stage {
    /// Whether the batch being gathered takes `bytes` more on top of `placed` that the caller is about to place.
    pub(super) fn takes(&self, placed: u64, bytes: u64) -> bool {
        let gathering = self.gathering.as_ref();
        gathering.is_some_and(|gathering| takes(gathering.batch.offset, gathering.body + placed, bytes, gathering.batch.segment.length()))
    }

    /// Starts a batch at `base` of `segment`; the one gathered before must have been closed.
    pub(super) fn begin(&mut self, segment: &Arc<Segment>, base: u64, first: u64) {
        assert!(self.gathering.is_none(), "a batch at {base} begins before the one in {:?} is closed", self.gathering);
        let last = EntryId { term: 0, index: first - 1 };
        let batch = Batch { sequence: 0, segment: Arc::clone(segment), offset: base, first, last, commit: 0, chunks: Vec::new() };
        self.gathering = Some(Gathering { batch, body: 0, open: Vec::new() });
    }

    /// Where the next record would stand, if a batch is being gathered.
    pub(super) fn end(&self) -> Option<u64> {
        self.gathering.as_ref().map(Gathering::end)
    }

    /// Places records that the gathered batch takes, the last of which is `last`. A large buffer that is handed over is not copied.
    pub(super) fn place(&mut self, records: Cow<'_, [u8]>, last: EntryId) {
        let gathering = self.gathering.as_mut().expect("a batch was begun for these records");
        let bytes = records.len() as u64;
        if records.len() >= OWN_CHUNK_BYTES {
            gathering.freeze();
            gathering.open = records.into_owned();
            gathering.body += bytes;
            gathering.freeze();
        } else {
            if gathering.open.capacity() == 0 {
                gathering.open.reserve(self.usual.max(records.len()));
            }
            gathering.open.extend_from_slice(&records);
            gathering.body += bytes;
        }
        gathering.batch.last = last;
        self.bytes += bytes;
    }

    /// Makes all placed records readable and sendable.
    pub(super) fn freeze(&mut self) {
        if let Some(gathering) = &mut self.gathering {
            self.usual = gathering.open.len().min(OWN_CHUNK_BYTES);
            gathering.freeze();
        }
    }

    /// Ends the batch being gathered, if there is one; it takes no further record.
    pub(super) fn close(&mut self) {
        self.freeze();
        if let Some(Gathering { batch, body, .. }) = self.gathering.take() {
            let durable = batch.last.index;
            self.queue.push_back(Queued::Batch { batch, bytes: body, durable });
        }
    }

    /// Queues an empty batch that proves the one before it.
    pub(super) fn push_closing(&mut self, segment: &Arc<Segment>, base: u64, last: EntryId) {
        assert!(self.is_idle(), "a closing batch at {base} is staged behind other work");
        let batch =
            Batch { sequence: 0, segment: Arc::clone(segment), offset: base, first: last.index + 1, last, commit: 0, chunks: Vec::new() };
        self.queue.push_back(Queued::Batch { batch, bytes: 0, durable: last.index });
    }

    /// Queues a change of the manifest behind everything staged so far; the gathered batch must have been closed.
    pub(super) fn push_seal(&mut self, edits: Vec<Edit>) {
        assert!(self.gathering.is_none(), "{edits:?} would overtake {:?}", self.gathering);
        self.queue.push_back(Queued::Seal(edits));
    }

    /// Entries from `from` on are superseded: batches that still have to be written make them durable in vain.
    pub(super) fn supersede(&mut self, from: u64) {
        assert!(self.gathering.is_none(), "entries from {from} on are superseded in {:?}", self.gathering);
        for queued in &mut self.queue {
            if let Queued::Batch { durable, .. } = queued {
                *durable = (*durable).min(from - 1);
            }
        }
    }

    /// Whether a job could start and only the gathered batch is there to become one.
    pub(super) fn wants_batch(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_none()
    }

    /// Whether nothing is staged and nothing is being written.
    pub(super) fn is_idle(&self) -> bool {
        self.gathering.is_none() && self.queue.is_empty() && self.in_flight.is_none()
    }

    /// The next job, unless one is being worked on, and the last index that its completion makes durable (0 for a seal). `commit` is
    /// what is known to be committed, `durable` what is durable here.
    pub(super) fn next_job(&mut self, commit: u64, durable: u64) -> Option<(Job, u64)> {
        if self.in_flight.is_some() {
            return None;
        }
        let queued = self.queue.pop_front()?;
        self.sequence += 1;
        let sequence = self.sequence;
        Some(match queued {
            Queued::Batch { mut batch, bytes, durable } => {
                let end = batch::align(batch.offset + HEADER_BYTES + bytes);
                self.in_flight = Some(InFlight { sequence, batch: Some((Arc::clone(&batch.segment), end, bytes)) });
                batch.sequence = sequence;
                // Entries that were superseded while they waited never count as committed.
                batch.commit = commit.min(durable);
                (Job::Batch(batch), durable)
            }
            Queued::Seal(edits) => {
                self.in_flight = Some(InFlight { sequence, batch: None });
                (Job::Seal(Seal { sequence, edits, applied: if planted(106) { commit } else { commit.min(durable) } }), 0)
            }
        })
    }

    /// The job with this number is done: what it wrote leaves memory.
    pub(super) fn completed(&mut self, sequence: u64) {
        let done = self.in_flight.take_if(|in_flight| in_flight.sequence == sequence);
        let done = done.unwrap_or_else(|| panic!("job {sequence} completed, but {:?} was being worked on", self.in_flight));
        if let Some((segment, end, bytes)) = done.batch {
            segment.unstage(end);
            self.bytes -= bytes;
        }
    }

    /// Bytes of records that are not in a file yet.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        let written = match &self.in_flight {
            Some(InFlight { batch: Some((segment, end, bytes)), .. }) if segment.written() >= *end => *bytes,
            _ => 0,
        };
        self.bytes - written
    }
}
