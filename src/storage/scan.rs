//! Scanning: walks the batches of one segment after another, checks each byte of them, and collects what the log and the index need.
//! Reads files in large parts, never the map. Changes nothing on disk.

use super::applier::{Applier, is_well_formed};
use super::batch::{self, BatchHeader, HEADER_BYTES};
use super::bytes::NUMBER_MAX;
use super::hint::HintLog;
use super::location::Location;
use super::log::LogSegment;
use super::manifest::State;
use super::record::{self, BadRecord, Kind};
use super::segment::{HEADER_BLOCK, Segment};
use super::state_hash::StateHash;
use super::store::Store;
use super::tail::{self, Tail};
use super::writer::Chain;
use crate::bugbank::planted;
use crate::error::{Error, Result};
use crate::raft::{Config, EntryId};
use std::collections::VecDeque;
use std::sync::Arc;

/// Read at once; a larger batch is read whole.
const PART: u64 = 1 << 20;

/// The header of a segment's first batch, if it is a valid one.
pub(super) fn first_header(segment: &Segment) -> Result<Option<BatchHeader>> {
    header_at(segment, HEADER_BLOCK)
}

/// The header of the batch that begins at `offset`, if it is a valid one.
pub(super) fn header_at(segment: &Segment, offset: u64) -> Result<Option<BatchHeader>> {
    let mut bytes = [0; HEADER_BYTES as usize];
    if offset + HEADER_BYTES > segment.length() {
        return Ok(None);
    }
    segment.read_file(&mut bytes, offset)?;
    Ok(BatchHeader::decode(&bytes, segment.seed()).map(|(header, _)| header))
}

/// A part of a file in memory.
pub(super) struct Window<'a> {
    segment: &'a Segment,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    /// Nothing of the file yet.
    pub(super) fn new(segment: &'a Segment) -> Window<'a> {
        Window { segment, start: 0, bytes: Vec::new() }
    }

    /// `length` bytes from `offset` on, which the file must hold.
    pub(super) fn get(&mut self, offset: u64, length: u64) -> Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if offset < held.start || offset + length > held.end {
            self.bytes.resize(length.max(PART).min(self.segment.length() - offset) as usize, 0);
            self.start = offset;
            self.segment.read_file(&mut self.bytes, offset)?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..from + length as usize])
    }
}

/// What has been collected so far.
pub(super) struct Scan {
    cluster: u128,
    store: Arc<Store>,
    pub(super) last: EntryId,
    pub(super) segments: VecDeque<LogSegment>,
    pub(super) terms: Vec<(u64, u64)>,
    pub(super) configs: Vec<(u64, Config)>,
    pub(super) applier: Applier,
    pub(super) chain: Chain,
    /// The highest index that some batch, or the manifest, knew to be committed.
    pub(super) commit: u64,
    /// Whether the last batch holds entries.
    pub(super) unproved: bool,
}

impl Scan {
    /// Starts behind `base`; `applied` is what the manifest knows to be applied.
    pub(super) fn new(cluster: u128, base: EntryId, applied: u64, store: Arc<Store>, applier: Applier) -> Scan {
        Scan {
            cluster,
            store,
            last: base,
            segments: VecDeque::new(),
            terms: Vec::new(),
            configs: Vec::new(),
            applier,
            chain: Chain::default(),
            commit: applied.max(base.index),
            unproved: false,
        }
    }

    /// Takes every entry for committed, and applies it. Only for a cluster of one, whose quorum is this directory.
    pub(super) fn commit_all(&mut self) {
        self.commit = self.last.index;
        self.apply();
    }

    /// The state after the entries that are known to be committed.
    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// A scan that goes on behind damage, with the batch of this header, and knows nothing of what was before: what it collects is no
    /// log, and only good for looking at. `None` if no batch of a log has such a header.
    pub(super) fn behind_damage(&self, segment: &Segment, header: &BatchHeader) -> Option<Scan> {
        let numbers = [header.sequence, header.first_index];
        if numbers.iter().any(|number| !(1..=NUMBER_MAX).contains(number)) {
            return None;
        }
        let mut scan = self.behind_gap(header.first_index - 1);
        scan.chain = Chain { sequence: header.sequence - 1, previous: Some((segment.id(), header.previous)) };
        Some(scan)
    }

    /// The same, with a segment whose first entry follows the one at `index`.
    pub(super) fn behind_gap(&self, index: u64) -> Scan {
        let store = Arc::new(Store::default());
        let applier = Applier::new(Arc::clone(&store), index, StateHash::UNKNOWN);
        let base = EntryId { term: self.last.term, index };
        let chain = Chain { previous: None, ..self.chain };
        Scan { commit: self.commit, chain, ..Scan::new(self.cluster, base, 0, store, applier) }
    }

    /// Scans a segment that ended where the manifest says. All below must be whole.
    pub(super) fn sealed(&mut self, segment: &Arc<Segment>, state: &State) -> Result<()> {
        let (State::Sealed { first, last, offset } | State::Hinted { first, last, offset }) = *state else {
            panic!("{segment:?} is scanned to its seal: {state:?}")
        };
        let corrupt = |at, reason: String| Err(super::corrupt(segment.name(), at, reason));
        if first != self.last.index + 1 {
            return corrupt(HEADER_BLOCK, format!("it begins with entry {first}, the one before it ends with {}", self.last));
        }
        if offset > segment.length() || last < first {
            return corrupt(HEADER_BLOCK, format!("the manifest seals it at {offset} behind entry {last}"));
        }
        self.sealed_from(segment, HEADER_BLOCK, last, offset)
    }

    /// Scans the batches from `from` up to the seal at `offset`, behind entry `last`.
    pub(super) fn sealed_from(&mut self, segment: &Arc<Segment>, from: u64, last: u64, offset: u64) -> Result<()> {
        let corrupt = |at, reason: String| Err(super::corrupt(segment.name(), at, reason));
        let end = self.batches(segment, from, offset)?;
        if let Some(tail) = end.tail {
            let found = if tail == Tail::Untouched { "nothing was written there" } else { "the batch there is not whole" };
            return corrupt(end.at, format!("{found}, but the manifest seals the segment at {offset} behind entry {last}"));
        }
        if self.last.index != last {
            return corrupt(end.at, format!("the segment ends with {}, the manifest seals it behind entry {last}", self.last));
        }
        let last_batch = self.chain.sequence;
        self.current().sealed = Some(last_batch);
        Ok(())
    }

    /// Takes over a segment whose hint was checked, without reading it.
    pub(super) fn hinted(&mut self, segment: &Arc<Segment>, hint: HintLog) -> Result<()> {
        let oldest = hint.runs.first().map_or(0, |(_, term)| *term);
        if hint.first != self.last.index + 1 || oldest < self.last.term {
            let reason = format!("it begins with entry {oldest}:{}, the one before it is {}", hint.first, self.last);
            return Err(super::corrupt(segment.name(), HEADER_BLOCK, reason));
        }
        self.store.register_segment(Arc::clone(segment));
        segment.publish_written(batch::align(hint.end));
        let known = self.terms.last().map(|(_, term)| *term);
        self.terms.extend(hint.runs.iter().filter(|(_, term)| Some(*term) != known));
        self.configs.extend(hint.configs);
        let term = hint.runs.last().map_or(oldest, |(_, term)| *term);
        self.last = EntryId { term, index: hint.last };
        self.commit = self.commit.max(hint.last);
        self.chain = Chain { sequence: self.chain.sequence.max(hint.last_batch), previous: None };
        let mut holder = LogSegment::new(Arc::clone(segment), hint.first);
        (holder.offsets, holder.end, holder.sealed) = (hint.offsets, hint.end, Some(hint.last_batch));
        (holder.hinted, holder.hash) = (true, hint.hash);
        self.segments.push_back(holder);
        Ok(())
    }

    /// Scans the segment that is still open, up to its last whole batch, and says what follows.
    pub(super) fn tail(&mut self, segment: &Arc<Segment>) -> Result<Tail> {
        self.tail_from(segment, HEADER_BLOCK)
    }

    /// The same, from the batch at `from` on.
    pub(super) fn tail_from(&mut self, segment: &Arc<Segment>, from: u64) -> Result<Tail> {
        let end = self.batches(segment, from, u64::MAX)?;
        Ok(end.tail.unwrap_or(Tail::Untouched))
    }

    /// Scans batch after batch from `from` up to `seal`, or until there is none.
    fn batches(&mut self, segment: &Arc<Segment>, from: u64, seal: u64) -> Result<End> {
        self.store.register_segment(Arc::clone(segment));
        self.segments.push_back(LogSegment::new(Arc::clone(segment), self.last.index + 1));
        let mut window = Window::new(segment);
        let mut at = from;
        let tail = loop {
            if at >= seal || at + HEADER_BYTES > segment.length() {
                break None;
            }
            let Some((header, crc)) = BatchHeader::decode(window.get(at, HEADER_BYTES)?, segment.seed()) else {
                break Some(judge(segment, at, None, seal)?);
            };
            self.check_header(segment, at, &header)?;
            let end = at + HEADER_BYTES + u64::from(header.body);
            let cut = seal < end;
            let body = window.get(at + HEADER_BYTES, u64::from(header.body))?;
            if !cut && crc32fast::hash(body) != header.body_crc && !planted(44) {
                break Some(judge(segment, at, Some(&header), seal)?);
            }
            self.records(segment, at, body, seal)?;
            if !cut {
                self.check_end(segment, at, &header)?;
                let padding = window.get(end, (batch::align(end)).min(seal) - end)?;
                check_padding(segment, end, padding)?;
            }
            self.chain = Chain { sequence: header.sequence, previous: Some((segment.id(), crc)) };
            self.commit = self.commit.max(header.commit.min(self.last.index));
            self.unproved = header.body > 0;
            self.apply();
            at = batch::align(end).min(seal);
            self.current().end = at;
        };
        if self.current().offsets.is_empty() {
            self.segments.pop_back();
        }
        segment.publish_written(batch::align(at));
        Ok(End { at, tail })
    }

    fn current(&mut self) -> &mut LogSegment {
        self.segments.back_mut().expect("the segment being scanned was pushed")
    }

    /// Whether a valid header belongs exactly here. A write never leaves one that does not, so this is damage at once.
    fn check_header(&self, segment: &Segment, at: u64, header: &BatchHeader) -> Result<()> {
        let corrupt = |reason: String| Err(super::corrupt(segment.name(), at, reason));
        if header.cluster != self.cluster || header.segment != segment.id() || u64::from(header.offset) != at {
            return corrupt(format!("this batch was written for segment {} at {}", header.segment, header.offset));
        }
        let before = self.chain.previous.filter(|(id, _)| *id == segment.id());
        let (previous, follows) = match before {
            Some((_, crc)) => (crc, header.sequence == self.chain.sequence + 1),
            None => (segment.header_crc(), header.sequence > self.chain.sequence),
        };
        if header.previous != previous || !follows || header.sequence > NUMBER_MAX {
            return corrupt(format!("batch {} does not follow batch {}", header.sequence, self.chain.sequence));
        }
        if at + HEADER_BYTES + u64::from(header.body) > segment.length() {
            return corrupt(format!("a batch of {} bytes does not fit the file", header.body));
        }
        if header.body == 0 && before.is_none() {
            return corrupt("it closes nothing: it is the first one of its segment".into());
        }
        if header.first_index != self.last.index + 1 {
            return corrupt(format!("it begins with entry {}, the one before is {}", header.first_index, self.last));
        }
        Ok(())
    }

    /// Whether the records ended as the header says.
    fn check_end(&self, segment: &Segment, at: u64, header: &BatchHeader) -> Result<()> {
        let last = EntryId { term: header.last_term, index: header.last_index };
        if last != self.last || header.commit > header.last_index {
            let reason = format!("its header says that it ends with {last}, commit {}, its records end with {}", header.commit, self.last);
            return Err(super::corrupt(segment.name(), at, reason));
        }
        Ok(())
    }

    /// Takes over the records of a batch, up to the seal.
    fn records(&mut self, segment: &Segment, base: u64, body: &[u8], seal: u64) -> Result<()> {
        let start = base + HEADER_BYTES;
        let mut at = 0;
        while at < body.len() && start + (at as u64) < seal {
            let offset = start + at as u64;
            let (record, bytes) = record::parse(&body[at..]).map_err(|bad| bad_record(segment, offset, bad))?;
            let id = record.id;
            if id.index != self.last.index + 1 || id.term < self.last.term || id.term == 0 || !is_well_formed(&record) {
                return Err(super::corrupt(segment.name(), offset, format!("record {id} does not follow {}", self.last)));
            }
            if offset + bytes as u64 > seal {
                return Err(super::corrupt(segment.name(), offset, format!("the manifest's seal at {seal} cuts record {id}")));
            }
            if self.last.term != id.term || self.terms.is_empty() {
                self.terms.push((id.index, id.term));
            }
            if record.kind == Kind::Config {
                self.configs.extend(record::decode_config(record.payload).map(|config| (id.index, config)));
            }
            let place = Location { segment: segment.id(), offset: offset as u32, bytes: bytes as u32 };
            self.applier.stage(&body[at..at + bytes]);
            self.applier.place(&[place]);
            let current = self.current();
            if at == 0 {
                current.bases.push(base as u32);
            }
            current.offsets.push(offset as u32);
            self.last = id;
            at += bytes;
        }
        Ok(())
    }

    /// Applies what is known to be committed, so that only the keys of the rest have to be kept.
    fn apply(&mut self) {
        let until = self.commit.min(self.last.index);
        if self.applier.applied() < until {
            let count = until - self.applier.applied();
            let mut slice = self.applier.slice();
            (0..count).for_each(|_| {
                slice.apply_next();
            });
        }
    }
}

/// Where a segment's batches ended, and what follows if it is not the seal or the end of the file.
struct End {
    at: u64,
    tail: Option<Tail>,
}

/// Judges bytes that are no whole batch. Below a seal everything was durable, so there it is damage in any case.
fn judge(segment: &Segment, at: u64, header: Option<&BatchHeader>, seal: u64) -> Result<Tail> {
    let judged = tail::judge(segment, at, header)?;
    if seal != u64::MAX {
        let what = if header.is_some() { "the records of this batch do not match their CRC" } else { "this is no batch header" };
        return Err(super::corrupt(segment.name(), at, format!("{what}, but the segment was sealed at {seal}")));
    }
    Ok(judged)
}

/// What a record that is none comes to; one of a kind that only a newer program knows is no damage.
pub(super) fn bad_record(segment: &Segment, offset: u64, bad: BadRecord) -> Error {
    match bad {
        BadRecord::Unknown => Error::Directory(format!(
            "{} holds at offset {offset} a record of a kind that this program does not know: start a newer apexkv",
            segment.name()
        )),
        bad => super::corrupt(segment.name(), offset, format!("no valid record stands here: {bad:?}")),
    }
}

fn check_padding(segment: &Segment, end: u64, found: &[u8]) -> Result<()> {
    let (expected, length) = batch::padding(segment.seed(), end);
    if expected[..length.min(found.len())] != *found {
        return Err(super::corrupt(segment.name(), end, "the padding behind this batch has changed"));
    }
    Ok(())
}
