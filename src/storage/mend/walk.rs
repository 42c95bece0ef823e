//! A walk over the batches of one segment that goes on behind damage. Records are looked for only where their places follow from something
//! that was checked: behind a whole header, or behind a whole record in the same batch. Nobody knows a segment's seed, so a header cannot
//! be forged; what looks like a record anywhere else may be part of a value that somebody made up.

use super::part::{Body, Part, Place};
use super::terms::Terms;
use crate::error::{Error, Result};
use crate::raft::EntryId;
use crate::storage::applier::is_well_formed;
use crate::storage::batch::{self, ALIGNMENT, BatchHeader, HEADER_BYTES};
use crate::storage::bytes::NUMBER_MAX;
use crate::storage::record::{self, BadRecord};
use crate::storage::scan::{Window, bad_record};
use crate::storage::segment::{HEADER_BLOCK, Segment};
use crate::storage::tail;
use std::sync::Arc;

/// See the file's doc.
pub(super) struct Walk<'a> {
    part: &'a mut Part,
    terms: &'a mut Terms,
    cluster: u128,
    segment: Arc<Segment>,
    /// Where the walk ends.
    limit: u64,
    /// What the next batch must repeat; `None` behind a gap.
    previous: Option<u32>,
    sequence: Option<u64>,
    /// Where the gap begins, while there is one.
    gap: u64,
}

/// What a walk over an open segment has found at its end.
#[derive(Debug)]
pub(super) enum End {
    /// It is known where the entries end.
    Known,
    /// What stands there may have been more of them.
    Unknown(Error),
}

/// A batch that can be read, and the CRC of its header.
struct Found {
    header: BatchHeader,
    crc: u32,
}

impl<'a> Walk<'a> {
    /// Prepares a walk. `whole` says whether the header block of the segment can be believed.
    pub(super) fn new(part: &'a mut Part, terms: &'a mut Terms, cluster: u128, segment: Arc<Segment>, whole: bool) -> Walk<'a> {
        let limit = part.seal().map_or(segment.length(), |(_, offset)| offset.min(segment.length()));
        let previous = whole.then(|| segment.header_crc());
        Walk { part, terms, cluster, segment, limit, previous, sequence: None, gap: HEADER_BLOCK }
    }

    /// Fills the part. An error says what contradicts itself, or that the disk does not answer.
    pub(super) fn run(mut self) -> Result<End> {
        let segment = Arc::clone(&self.segment);
        let mut window = Window::new(&segment);
        let (mut at, mut end) = (HEADER_BLOCK, End::Known);
        while at < self.limit && at + HEADER_BYTES <= segment.length() {
            let next = match self.header(&mut window, at)? {
                Some(found) => self.batch(&mut window, at, &found)?,
                None => self.unreadable(&mut window, at, &mut end)?,
            };
            let Some(next) = next else { break };
            at = next;
        }
        if let Some((last, _)) = self.part.seal() {
            self.part.lose_to(last + 1, at);
            if self.part.next() != last + 1 {
                return self.contradiction(at, "more entries than the manifest says");
            }
        }
        Ok(end)
    }

    fn contradiction<T>(&self, at: u64, found: &str) -> Result<T> {
        Err(crate::storage::corrupt(&self.part.name, at, format!("it contradicts itself: {found}")))
    }

    fn note(&mut self, id: EntryId, at: u64) -> Result<()> {
        if self.terms.note(id) { Ok(()) } else { self.contradiction(at, &format!("{id} cannot stand there")) }
    }

    /// The header at `at`, if it belongs there.
    fn header(&self, window: &mut Window<'_>, at: u64) -> Result<Option<Found>> {
        let decoded = BatchHeader::decode(window.get(at, HEADER_BYTES)?, self.segment.seed());
        let place = (self.cluster, self.segment.id(), at);
        Ok(decoded.map(|(header, crc)| Found { header, crc }).filter(|found| {
            let BatchHeader { cluster, segment, offset, sequence, body, first_index, last_index, commit, .. } = found.header;
            let numbers = [sequence, first_index].iter().all(|number| (1..=NUMBER_MAX).contains(number)) && last_index <= NUMBER_MAX;
            let entries = last_index.checked_add(1).and_then(|next| next.checked_sub(first_index));
            let fits = entries.is_some_and(|count| (count == 0) == (body == 0) && count <= u64::from(body) / record::HEADER_BYTES as u64);
            let inside = at + HEADER_BYTES + u64::from(body) <= self.segment.length();
            (cluster, segment, u64::from(offset)) == place && numbers && fits && inside && commit <= last_index
        }))
    }

    /// The next header at or behind `from`.
    fn find(&self, window: &mut Window<'_>, from: u64) -> Result<Option<(u64, Found)>> {
        let mut from = from;
        while let Some(at) = tail::find_batch(&self.segment, from)?.filter(|at| *at < self.limit) {
            if let Some(found) = self.header(window, at)? {
                return Ok(Some((at, found)));
            }
            from = at + ALIGNMENT;
        }
        Ok(None)
    }

    /// Takes what can be read of a batch, and says where the next one begins; nothing follows a write that was interrupted.
    fn batch(&mut self, window: &mut Window<'_>, at: u64, found: &Found) -> Result<Option<u64>> {
        let header = &found.header;
        self.follow(at, header)?;
        let (start, end) = (at + HEADER_BYTES, at + HEADER_BYTES + u64::from(header.body));
        let seal = self.part.seal();
        let cut = seal.filter(|(_, offset)| *offset < end);
        let stop = cut.map_or(end, |(_, offset)| offset);
        let whole = cut.is_none() && crc32fast::hash(window.get(start, u64::from(header.body))?) == header.body_crc;
        if !whole && seal.is_none() && !self.was_durable(at, header)? {
            return Ok(None);
        }
        let last = cut.map_or(header.last_index, |(last, _)| last);
        let (first, lost) = (self.part.next(), self.part.spots.len());
        self.take(window, start, stop, last)?;
        self.part.lose_to(last + 1, stop);
        if cut.is_none() && header.last_index > 0 {
            self.note(EntryId { term: header.last_term, index: header.last_index }, at)?;
        }
        if !whole && cut.is_none() {
            self.part.note_damage(at);
            self.part.bodies.push(Body { first, last, bytes: header.body, crc: header.body_crc });
        }
        let next = batch::align(end).min(self.limit);
        let (padding, length) = batch::padding(self.segment.seed(), end);
        if cut.is_none() && window.get(end, next.max(end) - end)? != &padding[..length.min((next.max(end) - end) as usize)] {
            self.part.note_damage(end);
        }
        if whole && self.part.spots.len() > lost {
            return self.contradiction(at, "a batch that matches its CRC holds something else than records");
        }
        self.part.commit = self.part.commit.max(header.commit.min(last));
        self.part.last_batch = self.part.last_batch.max(header.sequence);
        (self.previous, self.sequence) = (Some(found.crc), Some(header.sequence));
        Ok(Some(if cut.is_some() { self.limit } else { next }))
    }

    /// Whether a batch follows what stands before it. Entries of a gap are lost.
    fn follow(&mut self, at: u64, header: &BatchHeader) -> Result<()> {
        let next = self.part.next();
        let Some(missing) = header.first_index.checked_sub(next) else {
            return self.contradiction(at, &format!("a batch begins with entry {}, {next} would be next", header.first_index));
        };
        let room = if self.previous.is_some() { 0 } else { (at - self.gap) / record::HEADER_BYTES as u64 };
        if missing > room {
            return self.contradiction(at, &format!("{missing} entries from {next} on do not fit in front of this batch"));
        }
        self.part.lose_to(header.first_index, self.gap);
        let follows = self.previous.is_none_or(|crc| crc == header.previous);
        let counted = self.sequence.is_none_or(|before| before + 1 == header.sequence);
        if !follows || !counted || (header.body == 0 && self.sequence.is_none()) {
            self.part.note_damage(at);
        }
        Ok(())
    }

    /// Whether a batch of an open segment, whose body is not what its header says, was whole once.
    fn was_durable(&self, at: u64, header: &BatchHeader) -> Result<bool> {
        match tail::judge(&self.segment, at, Some(header)) {
            Ok(_) => Ok(false),
            Err(Error::Corrupt { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Records from `at` up to `stop`, of entries up to `last`, as far as one follows another.
    fn take(&mut self, window: &mut Window<'_>, at: u64, stop: u64, last: u64) -> Result<()> {
        let mut at = at;
        while self.part.next() <= last && at + record::HEADER_BYTES as u64 <= stop {
            let index = self.part.next();
            let parsed = match record::parse_header(window.get(at, record::HEADER_BYTES as u64)?) {
                // A newer program has written it. That is no damage, and nobody can do without that program.
                Err(bad @ BadRecord::Unknown) => return Err(bad_record(&self.segment, at, bad)),
                parsed => parsed.ok(),
            };
            let fits = |(bytes, id): &(usize, EntryId)| id.index == index && at + *bytes as u64 <= stop;
            let Some((bytes, id)) = parsed.filter(fits) else { return Ok(()) };
            self.note(id, at)?;
            let record = record::parse(window.get(at, bytes as u64)?).ok().filter(|(record, _)| is_well_formed(record));
            match record {
                Some(_) => self.part.places.push(Place { offset: at as u32, bytes: bytes as u32 }),
                None => self.part.lose_to(index + 1, at),
            }
            at += bytes as u64;
        }
        Ok(())
    }

    /// There is no header at `at`. Says where the next batch begins.
    fn unreadable(&mut self, window: &mut Window<'_>, at: u64, end: &mut End) -> Result<Option<u64>> {
        let sealed = self.part.seal();
        let found = self.find(window, at + ALIGNMENT)?;
        if found.is_none() && sealed.is_none() {
            match tail::judge(&self.segment, at, None) {
                Ok(_) => {}
                Err(error @ Error::Corrupt { .. }) => {
                    self.part.note_damage(at);
                    // Records never equal the fill, so a batch that was durable and has none behind its header closed the log.
                    if !self.segment.is_fill_from(at + HEADER_BYTES)? {
                        *end = End::Unknown(error);
                    }
                }
                Err(error) => return Err(error),
            }
            return Ok(None);
        }
        self.part.note_damage(at);
        (self.previous, self.sequence, self.gap) = (None, None, at);
        let (stop, last) = match (&found, sealed) {
            (Some((next, found)), _) => (*next, found.header.first_index - 1),
            (None, Some((last, _))) => (self.limit, last),
            (None, None) => return Ok(None),
        };
        self.take(window, at + HEADER_BYTES, stop, last)?;
        // What could not be read stands behind what could.
        Ok(found.map(|(next, _)| next))
    }
}
