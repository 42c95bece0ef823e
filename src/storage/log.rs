//! The log as the Raft thread sees it: which entry stands where, which places are free, what has to be written next. Gives every record
//! its place when it is appended and never gives that place away again. Pure memory: it never reads, writes or waits.

use super::batch;
use super::hint::HintLog;
use super::hinter::HintJob;
use super::merge::File;
use super::record::{self, Kind};
use super::retire::MergeState;
use super::segment::{HEADER_BLOCK, Segment};
use super::stage::{self, Stage};
use super::state_hash::StateHash;
use super::store::Store;
use super::writer::{Completion, Edit, Job};
use crate::raft::{Config, EntryId, TermRun};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub use super::location::Location;
pub use super::piece::Piece;

/// Whether records can be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// They fit.
    Yes,
    /// They do not, and no prepared segment is left: ask the preparer for one.
    NoSegment,
    /// They do not fit a segment of the usual size: ask the preparer for one that takes this many bytes.
    Oversized(u64),
}

/// The live entries of one segment.
#[derive(Debug)]
pub(super) struct LogSegment {
    pub(super) segment: Arc<Segment>,
    /// Index of the entry at `offsets[0]`.
    pub(super) first: u64,
    /// Where each entry's record starts.
    pub(super) offsets: Vec<u32>,
    /// Where each batch with entries starts.
    pub(super) bases: Vec<u32>,
    /// Where the last record ends, or a later batch that holds none.
    pub(super) end: u64,
    /// Once its seal is durable: the number that no batch in it exceeds.
    pub(super) sealed: Option<u64>,
    /// Whether a hint covers it; such segments are a prefix of the log.
    pub(super) hinted: bool,
    /// The hash of the state behind the last entry, once it is hinted.
    pub(super) hash: StateHash,
}

impl LogSegment {
    /// A segment without entries, whose first will be `first`.
    pub(super) fn new(segment: Arc<Segment>, first: u64) -> LogSegment {
        let (offsets, bases, hash) = (Vec::new(), Vec::new(), StateHash::UNKNOWN);
        LogSegment { segment, first, offsets, bases, end: HEADER_BLOCK, sealed: None, hinted: false, hash }
    }

    /// One past the index of its last entry.
    pub(super) fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    /// Where the records before the entry at `index` end, or the whole batch if that entry begins the next one.
    fn end_before(&self, index: u64) -> u64 {
        let offset = self.offsets[(index - self.first) as usize];
        let base = offset - batch::HEADER_BYTES as u32;
        u64::from(if self.bases.binary_search(&base).is_ok() { base } else { offset })
    }
}

/// The log: entries, free places and work to do.
#[derive(Debug)]
pub struct Log {
    pub(super) store: Arc<Store>,
    /// What a segment of the usual size takes.
    pub(super) usual_capacity: u64,
    /// The entry before the first.
    pub(super) base: EntryId,
    /// The hash of the state behind the base.
    pub(super) base_hash: StateHash,
    /// First index and term of each run of entries of one term.
    pub(super) terms: Vec<(u64, u64)>,
    pub(super) configs: Vec<(u64, Config)>,
    /// Segments with live entries, in log order.
    pub(super) segments: VecDeque<LogSegment>,
    /// What has left the log and still holds values.
    pub(super) files: BTreeMap<u32, File>,
    pub(super) merging: MergeState,
    /// What the manifest has dropped, and somebody may still read.
    pub(super) leaving: Vec<Arc<Segment>>,
    /// Whether the last of `segments` still takes entries.
    pub(super) active: bool,
    /// Whether the last batch holds entries, so that nothing proves it yet.
    pub(super) unproved: bool,
    /// Highest index known durable here.
    pub(super) durable: u64,
    /// What the job in flight makes durable.
    pub(super) in_flight: u64,
    pub(super) prepared: VecDeque<Arc<Segment>>,
    pub(super) stage: Stage,
}

impl Log {
    /// Index of the first entry, or of the one to come if there is none.
    pub fn first(&self) -> u64 {
        self.base.index + 1
    }

    /// The last entry, durable or not; the base if there is none.
    pub fn last(&self) -> EntryId {
        let Some(last) = self.segments.back() else { return self.base };
        self.terms.last().map_or(self.base, |(_, term)| EntryId { term: *term, index: last.next() - 1 })
    }

    /// The entry before the first one, the terms of all entries, and the memberships among them.
    pub fn outline(&self) -> (EntryId, Vec<TermRun>, Vec<(u64, Config)>) {
        let end = self.last().index + 1;
        let ends = self.terms.iter().skip(1).map(|(first, _)| *first).chain([end]);
        let runs = self.terms.iter().zip(ends).map(|((first, term), end)| TermRun { term: *term, count: end - first });
        (self.base, runs.collect(), self.configs.clone())
    }

    /// Whether records of `bytes` in all can be appended now. Must be asked before [`Log::append`], and again before the next.
    pub fn room(&self, bytes: usize) -> Room {
        let need = bytes as u64 + batch::overhead(bytes as u64);
        let active_end = self.active_end().unwrap_or(u64::MAX);
        let fits_active = self.segments.back().is_some_and(|active| active_end.saturating_add(need) <= active.segment.length());
        if fits_active || self.fitting(need).is_some() {
            Room::Yes
        } else if self.prepared.is_empty() && need <= self.usual_capacity {
            Room::NoSegment
        } else {
            Room::Oversized(need)
        }
    }

    /// Whether records of `bytes` in all could be appended after a [`Log::truncate`], which leaves the active segment.
    pub fn room_after_truncation(&self, bytes: usize) -> Room {
        let need = bytes as u64 + batch::overhead(bytes as u64);
        match self.fitting(need) {
            Some(_) => Room::Yes,
            None if self.prepared.is_empty() && need <= self.usual_capacity => Room::NoSegment,
            None => Room::Oversized(need),
        }
    }

    /// Where the active segment's next record or batch goes.
    fn active_end(&self) -> Option<u64> {
        let active = self.segments.back().filter(|_| self.active)?;
        Some(batch::align(active.end))
    }

    /// The position of the first prepared segment that takes `need` bytes.
    fn fitting(&self, need: u64) -> Option<usize> {
        self.prepared.iter().position(|segment| segment.capacity() >= need)
    }

    /// Appends sealed records that follow each other and the last entry, and returns the place of each. They are written by a later
    /// job. There must be [`Log::room`] for them.
    pub fn append(&mut self, mut records: Vec<u8>) -> Vec<Location> {
        let entries = self.examine(&records);
        let mut locations = Vec::with_capacity(entries.len());
        let (mut next, mut start) = (0, 0);
        while next < entries.len() {
            self.make_place(entries[next].1, (records.len() - start) as u64);
            let (from, run_start) = (next, start);
            while let Some((_, bytes)) = entries.get(next)
                && self.stage.takes((start - run_start) as u64, *bytes)
            {
                start += *bytes as usize;
                next += 1;
            }
            assert!(next > from, "a place made for a record of {} bytes takes it", entries[from].1);
            self.locate(&entries[from..next], &mut locations);
            let last = entries[next - 1].0;
            let whole = next - from == entries.len();
            let run = if whole { Cow::Owned(std::mem::take(&mut records)) } else { Cow::Borrowed(&records[run_start..start]) };
            self.stage.place(run, last);
        }
        self.unproved |= !locations.is_empty();
        locations
    }

    /// Checks what the caller promised about records and returns their ids and sizes; keeps their terms and memberships.
    fn examine(&mut self, records: &[u8]) -> Vec<(EntryId, u64)> {
        let mut entries = Vec::new();
        let mut last = self.last();
        let mut rest = records;
        while !rest.is_empty() {
            let (bytes, id) = match record::parse_header(rest) {
                Ok((bytes, id)) if bytes <= rest.len() => (bytes, id),
                other => panic!("the record after {last} was not checked before it was appended: {other:?}"),
            };
            assert!(id.index == last.index + 1 && id.term >= last.term && id.term > 0, "{id} was appended behind {last}");
            if self.terms.last().is_none_or(|(_, term)| *term != id.term) {
                self.terms.push((id.index, id.term));
            }
            if rest[4] == Kind::Config as u8 {
                let payload = &rest[record::HEADER_BYTES..bytes];
                let config = record::decode_config(payload).unwrap_or_else(|| panic!("the membership {id} was not checked"));
                self.configs.push((id.index, config));
            }
            entries.push((id, bytes as u64));
            last = id;
            rest = &rest[bytes..];
        }
        entries
    }

    /// Sees to it that the gathered batch takes a record of `bytes`; `remaining` is what is to be appended from it on.
    fn make_place(&mut self, bytes: u64, remaining: u64) {
        if self.stage.takes(0, bytes) {
            return;
        }
        self.close_batch();
        let fits = match self.active_end() {
            Some(end) => self.segments.back().is_some_and(|active| stage::takes(end, 0, bytes, active.segment.length())),
            None => false,
        };
        if !fits {
            self.rotate(remaining);
        }
        let active = self.segments.back_mut().expect("rotation left an active segment");
        let base = active.end;
        assert_eq!(base, batch::align(base), "batches of {:?} are aligned", active.segment);
        active.bases.push(base as u32);
        self.stage.begin(&active.segment, base, active.next());
    }

    /// Leaves the active segment, if there is one, and goes on in a prepared one.
    fn rotate(&mut self, remaining: u64) {
        let next = self.last_index() + 1;
        if let Some(full) = self.segments.back().filter(|_| self.active) {
            let (first, last, offset) = (full.first, full.next() - 1, full.end);
            self.stage.push_seal(vec![Edit::Seal { id: full.segment.id(), first, last, offset }]);
        }
        let position = self.fitting(remaining + batch::overhead(remaining));
        let segment = position.and_then(|position| self.prepared.remove(position));
        let segment = segment.unwrap_or_else(|| panic!("{remaining} bytes are appended at {next} without asking for room"));
        self.segments.push_back(LogSegment::new(segment, next));
        self.active = true;
    }

    /// The index of the last entry that has a place.
    pub(super) fn last_index(&self) -> u64 {
        self.segments.back().map_or(self.base.index, |last| last.next() - 1)
    }

    /// Ends the gathered batch; the next one begins behind its padding.
    fn close_batch(&mut self) {
        if let (Some(end), Some(active)) = (self.stage.end(), self.segments.back_mut()) {
            assert_eq!(active.end, end, "the gathered batch is at the end of {:?}", active.segment);
            active.end = batch::align(end);
            self.stage.close();
        }
    }

    /// Gives each of `entries` its place behind what the gathered batch holds.
    fn locate(&mut self, entries: &[(EntryId, u64)], locations: &mut Vec<Location>) {
        let mut offset = self.stage.end().expect("a batch is being gathered");
        let active = self.segments.back_mut().expect("a batch is gathered in a segment");
        for (_, bytes) in entries {
            active.offsets.push(offset as u32);
            locations.push(Location { segment: active.segment.id(), offset: offset as u32, bytes: *bytes as u32 });
            offset += bytes;
        }
        active.end = offset;
    }

    /// Makes everything appended readable and sendable. Called before [`Log::pieces`].
    pub fn freeze(&mut self) {
        self.stage.freeze();
    }

    /// Drops the entries from `from` on, which another leader's have superseded. Where the entry before it ends, its segment ends; the
    /// log goes on in a prepared one. Nothing is overwritten.
    pub fn truncate(&mut self, from: u64) {
        let last = self.last().index;
        assert!(self.base.index < from && from <= last, "entries from {from} on are dropped from a log of {}..={last}", self.first());
        self.close_batch();
        self.stage.supersede(from);
        let mut edits = Vec::new();
        while let Some(dropped) = self.segments.pop_back_if(|segment| segment.first >= from) {
            edits.push(Edit::Drop { id: dropped.segment.id() });
            self.store.forget_segment(dropped.segment.id());
        }
        if let Some(kept) = self.segments.back_mut().filter(|kept| kept.next() > from) {
            let offset = kept.end_before(from);
            kept.offsets.truncate((from - kept.first) as usize);
            kept.bases.retain(|base| u64::from(*base) < offset);
            kept.end = offset;
            kept.sealed = None;
            edits.push(Edit::Seal { id: kept.segment.id(), first: kept.first, last: from - 1, offset });
        }
        self.stage.push_seal(edits);
        self.active = false;
        self.unproved = false;
        self.durable = self.durable.min(from - 1);
        self.in_flight = self.in_flight.min(from - 1);
        self.terms.truncate(self.terms.partition_point(|(first, _)| *first < from));
        self.configs.truncate(self.configs.partition_point(|(index, _)| *index < from));
    }

    /// The next job for the log writer, and the last index that its completion makes durable (0: none). One is in flight at a time, in
    /// the order in which the log changed; a batch is what was appended while the one before ran. `commit` is what the node knows to
    /// be committed.
    pub fn next_job(&mut self, commit: u64) -> Option<(Job, u64)> {
        if self.stage.wants_batch() {
            self.close_batch();
        }
        let (job, durable) = self.stage.next_job(commit, self.durable)?;
        self.in_flight = durable;
        Some((job, durable))
    }

    /// Takes note of a completed job; other completions than those of the log's jobs are ignored.
    pub fn completed(&mut self, completion: &Completion) {
        if let Completion::Batch { sequence } | Completion::Sealed { sequence, .. } = completion {
            self.stage.completed(*sequence);
            self.durable = self.durable.max(std::mem::take(&mut self.in_flight));
        }
        match completion {
            Completion::Sealed { ends, last_batch, .. } => {
                // A conflict may have shortened a segment again after this seal was made: then its last one is still to come.
                let sealed = self.segments.iter_mut().rev().filter(|holder| ends.contains(&(holder.segment.id(), holder.next() - 1)));
                sealed.for_each(|holder| holder.sealed = Some(*last_batch));
            }
            Completion::Hinted(hinted) => {
                let holder = self.segments.iter_mut().find(|holder| holder.segment.id() == hinted.id);
                let holder = holder.unwrap_or_else(|| panic!("{hinted:?} is no longer in the log"));
                (holder.hinted, holder.hash) = (true, hinted.hash);
            }
            Completion::Retired(retirement) => self.retired(retirement),
            Completion::Merged(merged) => self.merged(merged),
            _ => {}
        }
    }

    /// Hints name what took effect up to this index; the entry before the first one if there is no hint.
    pub fn hinted(&self) -> u64 {
        self.last_hinted().map_or(self.base.index, |last| last.next() - 1)
    }

    /// The hash of the state behind the entry up to which hints reach.
    pub(super) fn hinted_hash(&self) -> StateHash {
        self.last_hinted().map_or(self.base_hash, |last| last.hash)
    }

    fn last_hinted(&self) -> Option<&LogSegment> {
        let after = self.segments.partition_point(|holder| holder.hinted);
        after.checked_sub(1).and_then(|last| self.segments.get(last))
    }

    /// The oldest segment that has no hint, if it may get one: its seal is durable, and all its entries up to `applied` are applied. The
    /// job still lacks what took effect: see [`HintJob::range`].
    pub fn next_hint(&self, applied: u64) -> Option<HintJob> {
        let holder = self.segments.get(self.segments.partition_point(|holder| holder.hinted))?;
        let (last_batch, last) = (holder.sealed?, holder.next() - 1);
        if last > applied.min(self.durable) {
            return None;
        }
        let after = self.terms.partition_point(|(first, _)| *first <= holder.first);
        let mut runs = vec![(holder.first, self.terms[after - 1].1)];
        runs.extend(self.terms[after..].iter().take_while(|(first, _)| *first <= last));
        let configs = self.configs.iter().filter(|(index, _)| (holder.first..=last).contains(index)).cloned().collect();
        let log = HintLog {
            first: holder.first,
            last,
            end: holder.end,
            last_batch,
            runs,
            configs,
            offsets: holder.offsets.clone(),
            ..HintLog::default()
        };
        Some(HintJob { segment: Arc::clone(&holder.segment), log, effects: Vec::new() })
    }

    /// Stages an empty batch that proves the last one, if nothing else is to do. Without it, damage to the last batch could pass for a
    /// write that a power cut interrupted.
    pub fn close_when_idle(&mut self) {
        if !self.unproved || !self.active || !self.stage.is_idle() {
            return;
        }
        let last = self.last();
        let active = self.segments.back_mut().expect("an active segment is one of them");
        let base = batch::align(active.end);
        assert!(base + batch::HEADER_BYTES <= active.segment.length(), "{:?} has room for a closing batch", active.segment);
        active.end = base + batch::HEADER_BYTES;
        self.stage.push_closing(&active.segment, base, last);
        self.unproved = false;
    }

    /// The `count` entries from `from` on, in order, pinned: they stay what they are whatever happens to the log. All must be frozen.
    pub fn pieces(&self, from: u64, count: u64) -> Vec<Piece> {
        let end = from + count;
        assert!(self.first() <= from && end <= self.last().index + 1, "entries {from}..{end} are not in the log up to {}", self.last());
        let mut pieces = Vec::new();
        let mut next = from;
        while next < end {
            let holder = self.holder(next);
            let (piece, after) = match holder.segment.staged(u64::from(holder.offsets[(next - holder.first) as usize])) {
                Some(chunk) => Piece::staged(holder, chunk, next, end),
                None => Piece::stored(holder, next, end),
            };
            pieces.push(piece);
            next = after;
        }
        pieces
    }

    /// How many entries from `from` on, none behind `last`, fit in about `budget` bytes: at least one.
    pub fn fit(&self, from: u64, last: u64, budget: u64) -> u64 {
        let mut left = budget;
        let mut next = from;
        while next <= last {
            let holder = self.holder(next);
            let offsets = &holder.offsets[(next - holder.first) as usize..];
            let limit = u64::from(offsets[0]).saturating_add(left);
            // An entry ends about where the next one starts.
            let mut fits = offsets[1..].partition_point(|offset| u64::from(*offset) <= limit);
            if fits + 1 == offsets.len() && holder.end <= limit {
                fits += 1;
            }
            let wanted = offsets.len().min((last + 1 - next) as usize);
            next += fits.min(wanted) as u64;
            if fits < wanted {
                break;
            }
            left = limit.saturating_sub(holder.end);
        }
        (next - from).max(1)
    }

    /// About how many bytes the `count` entries from `from` on take; never fewer than they do.
    pub fn bytes(&self, from: u64, count: u64) -> u64 {
        let (mut next, end, mut bytes) = (from, from + count, 0);
        while next < end {
            let holder = self.holder(next);
            let offsets = &holder.offsets[(next - holder.first) as usize..];
            let stop = offsets.get((end - next) as usize).map_or(holder.end, |offset| u64::from(*offset));
            bytes += stop - u64::from(offsets[0]);
            next = end.min(holder.next());
        }
        bytes
    }

    /// The segment that holds the entry at `index`.
    fn holder(&self, index: u64) -> &LogSegment {
        let after = self.segments.partition_point(|segment| segment.first <= index);
        let holder = after.checked_sub(1).and_then(|position| self.segments.get(position));
        let holder = holder.filter(|holder| index < holder.next());
        holder.unwrap_or_else(|| panic!("entry {index} is not in the log of {}..={}", self.first(), self.last().index))
    }

    /// Takes over a listed segment to go on in.
    pub fn add_prepared(&mut self, segment: Arc<Segment>) {
        self.store.register_segment(Arc::clone(&segment));
        self.prepared.push_back(segment);
    }

    /// How many prepared segments are left.
    pub fn prepared(&self) -> usize {
        self.prepared.len()
    }

    /// Bytes of records that are not in a file yet.
    pub fn staged_bytes(&self) -> u64 {
        self.stage.unwritten_bytes()
    }

    /// Length of all files with records in bytes, prepared segments included.
    pub fn disk_bytes(&self) -> u64 {
        let prepared: u64 = self.prepared.iter().map(|segment| segment.length()).sum();
        self.log_bytes() + prepared + self.files.values().map(|file| file.segment.length()).sum::<u64>()
    }
}
