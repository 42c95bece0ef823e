//! What is left of a damaged log: its parts in order, the terms that are known, and whatever keeps others from filling the holes.

use super::part::Part;
use super::terms::Terms;
use super::walk::{End, Walk};
use crate::error::{Error, Result};
use crate::raft::EntryId;
use crate::storage::disk::Disk;
use crate::storage::hint;
use crate::storage::manifest::{Listed, Manifest, State};
use crate::storage::merge::File;
use crate::storage::recovery::open_listed;
use crate::storage::segment::{HEADER_BLOCK, Segment};
use crate::storage::tail;
use std::sync::Arc;

/// See the file's doc.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) base: EntryId,
    pub(super) terms: Terms,
    /// Segments that hold entries, in log order.
    pub(super) parts: Vec<Part>,
    /// Segments that hold nothing and are damaged.
    pub(super) useless: Vec<u32>,
    /// Why the log cannot be mended from records of others; the first reason that was found.
    pub(super) obstacle: Option<Error>,
    /// Whether it is known where the log ends.
    pub(super) end_known: bool,
    /// No batch of what has left the log has a higher number.
    pub(super) last_batch: u64,
    /// Entries up to this one were known to be committed, and the log has held those ever since.
    pub(super) commit: u64,
}

/// Looks at a directory.
struct Surveyor<'a> {
    disk: &'a dyn Disk,
    cluster: u128,
    node: u128,
    manifest: &'a Manifest,
    survey: Survey,
}

impl Survey {
    /// Looks at every byte of the log that the manifest lists, also where a start would believe a hint: where there is some damage, there
    /// may be more. An error is one of the disk.
    pub(super) fn new(disk: &dyn Disk, cluster: u128, node: u128, manifest: &Manifest) -> Result<Survey> {
        let (base, mut terms) = (manifest.base, Terms::default());
        let sound = base.index == 0 || terms.note(base);
        let commit = manifest.applied.max(base.index);
        let survey = Survey { base, terms, parts: Vec::new(), useless: Vec::new(), obstacle: None, end_known: true, last_batch: 0, commit };
        let mut surveyor = Surveyor { disk, cluster, node, manifest, survey };
        if !sound {
            surveyor.hinder(crate::storage::corrupt(crate::storage::manifest::NAME, 0, format!("the log begins behind {base}")));
        }
        surveyor.files()?;
        surveyor.sealed()?;
        surveyor.open()?;
        surveyor.unproved_end();
        Ok(surveyor.survey)
    }

    /// One past the index of the last known entry.
    pub(super) fn next(&self) -> u64 {
        self.parts.last().map_or(self.base.index + 1, Part::next)
    }

    /// The part that holds the entry at `index`.
    pub(super) fn part_of(&self, index: u64) -> Option<&Part> {
        let after = self.parts.partition_point(|part| part.first <= index);
        after.checked_sub(1).map(|at| &self.parts[at]).filter(|part| index < part.next())
    }

    /// Ranges of lost entries, each within one part, and each with one answer to what proves it.
    pub(super) fn lost(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for part in &self.parts {
            let mut open = false;
            for (index, place) in (part.first..).zip(&part.places) {
                match ranges.last_mut() {
                    Some((_, last)) if place.is_lost() && open && self.terms.behind(*last) == self.terms.behind(index) => *last = index,
                    _ if place.is_lost() => ranges.push((index, index)),
                    _ => {}
                }
                open = place.is_lost();
            }
        }
        ranges
    }
}

impl Surveyor<'_> {
    fn hinder(&mut self, reason: Error) {
        self.survey.obstacle.get_or_insert(reason);
    }

    /// Damage hinders, an error of the disk is handed on.
    fn hindered<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(error @ Error::Corrupt { .. }) => {
                self.hinder(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What has left the log must be whole: it is not made of entries that somebody else could have.
    fn files(&mut self) -> Result<()> {
        for listed in &self.manifest.segments {
            let (State::Retired { first, last, offset } | State::Data { first, last, offset }) = listed.state else { continue };
            let checked = open_listed(self.disk, listed, self.cluster, self.node).and_then(|segment| {
                let file = File { segment, first, last, end: offset, deletions: 0, hinted: 0 };
                if self.manifest.distrusted {
                    file.check(self.disk)?;
                }
                file.hint(self.disk)
            });
            // A part of such a file that cannot be read is damage as well.
            if let Some(hint) = self.hindered(checked)? {
                self.survey.last_batch = self.survey.last_batch.max(hint.log.last_batch);
            }
        }
        Ok(())
    }

    fn sealed(&mut self) -> Result<()> {
        let first_of = |listed: &Listed| match listed.state {
            State::Sealed { first, .. } | State::Hinted { first, .. } => Some(first),
            _ => None,
        };
        let mut sealed: Vec<(u64, Listed)> =
            self.manifest.segments.iter().filter_map(|listed| Some((first_of(listed)?, *listed))).collect();
        sealed.sort_by_key(|(first, _)| *first);
        for (first, listed) in sealed {
            let (part, whole) = Part::open(self.disk, listed, self.cluster, self.node, first)?;
            let follows = if first == self.survey.next() { Ok(()) } else { Err(part.corrupt("it does not follow the segment before it")) };
            if self.hindered(follows.and_then(|()| part.check_seal()))?.is_none() {
                self.survey.end_known = false;
                return Ok(());
            }
            self.sealed_part(part, whole)?;
        }
        Ok(())
    }

    fn sealed_part(&mut self, mut part: Part, whole: bool) -> Result<()> {
        self.take_hint(&mut part)?;
        let Some((last, _)) = part.seal() else { return Ok(()) };
        match &part.segment {
            Some(segment) => {
                let segment = Arc::clone(segment);
                let walked = Walk::new(&mut part, &mut self.survey.terms, self.cluster, segment, whole).run();
                self.hindered(walked)?;
                part.lose_to(last + 1, HEADER_BLOCK);
            }
            None => part.lose_to(last + 1, 0),
        }
        part.look_where_the_hint_says()?;
        part.note_lost_reads();
        self.survey.commit = self.survey.commit.max(part.commit);
        if let Some(hint) = &part.hint {
            part.last_batch = part.last_batch.max(hint.log.last_batch);
        }
        if part.damage.is_none() {
            part.hint = None;
        }
        self.survey.parts.push(part);
        Ok(())
    }

    /// Reads the hint that the manifest names.
    fn take_hint(&mut self, part: &mut Part) -> Result<()> {
        let State::Hinted { first, last, offset } = part.listed.state else { return Ok(()) };
        let Listed { id, node, length, .. } = part.listed;
        let header = crate::storage::segment::SegmentHeader { cluster: self.cluster, node, id, length, seed: 0, data: false };
        let reason = match hint::read(self.disk, &header)? {
            Ok(hint) if (hint.log.first, hint.log.last, hint.log.end) == (first, last, offset) => {
                let runs = hint.log.runs.iter().skip(1).map(|(next, _)| next - 1).chain([last]);
                let mut sound = true;
                for ((from, term), until) in hint.log.runs.iter().zip(runs) {
                    sound &= self.survey.terms.note(EntryId { term: *term, index: *from });
                    sound &= self.survey.terms.note(EntryId { term: *term, index: until });
                }
                if sound {
                    part.hint = Some(hint);
                    return Ok(());
                }
                "its terms contradict those of the log".to_owned()
            }
            Ok(hint) => format!("its hint ends at {}, the manifest at {last}", hint.log.last),
            Err(reason) => reason,
        };
        if first <= self.manifest.decided {
            let needed = "conditions cannot be decided again, because a merge has left out what they were decided against";
            self.hinder(crate::storage::corrupt(&hint::hint_name(id), 0, format!("{reason}; {needed}")));
        }
        Ok(())
    }

    /// Lost entries behind everything that is known could be anything.
    fn unproved_end(&mut self) {
        let Some(part) = self.survey.parts.last().filter(|part| part.places.last().is_some_and(|place| place.is_lost())) else { return };
        let last = part.next() - 1;
        if self.survey.terms.behind(last).is_none() {
            let reason = part.corrupt(&format!("entry {last} cannot be read, nor anything that tells its term"));
            self.survey.end_known = false;
            self.hinder(reason);
        }
    }

    /// At most one listed segment is open and holds batches. Another one that is damaged holds nothing.
    fn open(&mut self) -> Result<()> {
        let first = self.survey.next();
        let listed: Vec<Listed> = self.manifest.segments.iter().filter(|listed| listed.state == State::Open).copied().collect();
        let (mut tails, mut bad) = (Vec::new(), Vec::new());
        for listed in listed {
            let (part, whole) = Part::open(self.disk, listed, self.cluster, self.node, first)?;
            let Some(segment) = part.segment.clone() else {
                bad.push(part);
                continue;
            };
            self.make_durable(&segment)?;
            if tail::find_batch(&segment, HEADER_BLOCK)?.is_some() {
                tails.push((part, whole, segment));
                continue;
            }
            match tail::judge(&segment, HEADER_BLOCK, None) {
                Ok(_) if !whole => bad.push(part),
                // The first header that would stand here was never written as a whole, so nothing else was; but a start reads all of it.
                Ok(_) if part.lost_reads().is_some() => self.survey.useless.push(part.listed.id),
                Ok(_) => {}
                Err(Error::Corrupt { .. }) => bad.push(part),
                Err(error) => return Err(error),
            }
        }
        match tails.len() {
            0 => {
                if let Some(part) = bad.first() {
                    let reason = part.corrupt("it may have held the last entries, and nothing says which they were");
                    self.hinder(reason);
                    self.survey.end_known = false;
                }
                return Ok(());
            }
            1 => self.survey.useless.extend(bad.iter().map(|part| part.listed.id)),
            _ => self.hinder(tails[1].0.corrupt("it holds a batch, although another segment was never sealed")),
        }
        let (mut part, whole, segment) = tails.swap_remove(0);
        let walked = Walk::new(&mut part, &mut self.survey.terms, self.cluster, segment, whole).run();
        match self.hindered(walked)? {
            Some(End::Known) => {}
            Some(End::Unknown(reason)) => {
                self.survey.end_known = false;
                self.hinder(reason);
            }
            None => self.survey.end_known = false,
        }
        part.note_lost_reads();
        self.survey.commit = self.survey.commit.max(part.commit);
        self.survey.parts.push(part);
        Ok(())
    }

    /// Bytes that only the cache holds prove nothing.
    fn make_durable(&self, segment: &Segment) -> Result<()> {
        let doing = |what: &str| format!("{what} {}/{}", self.disk.path(), segment.name());
        let file = self.disk.open(segment.name()).map_err(Error::io(doing("open")))?;
        file.sync().map_err(Error::io(doing("sync")))?;
        file.drop_cache(0).map_err(Error::io(doing("drop the cache of")))
    }
}
