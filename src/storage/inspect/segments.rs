//! The segments of a directory that is looked at: the scan of recovery, taken up again behind every damage. It must not conclude
//! anything about the log from what it finds there: entries whose predecessors are lost are counted, never applied for good.

use super::{Inspection, LogReport};
use crate::error::{Error, Result};
use crate::storage::applier::Applier;
use crate::storage::batch::{self, ALIGNMENT, BatchHeader, HEADER_BYTES};
use crate::storage::hint;
use crate::storage::manifest::{Listed, Manifest, State};
use crate::storage::merge::File;
use crate::storage::record::{self, BadRecord};
use crate::storage::recovery::{self, Sorted};
use crate::storage::scan::{Scan, header_at};
use crate::storage::segment::{HEADER_BLOCK, Segment, data_id_of, data_name, file_name, id_of};
use crate::storage::store::Store;
use crate::storage::tail::{self, Tail};
use crate::storage::writer::Edit;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A walk over all segments.
pub(super) struct Walk<'a, 'b> {
    inspection: &'a mut Inspection<'b>,
    cluster: u128,
    report: LogReport,
    terms: BTreeSet<u64>,
    /// The log up to its first damage, once there is any.
    prefix: Option<Scan>,
    /// A listed segment could not be opened, so that there is no telling where the log ends.
    gap: bool,
}

/// A listed segment, if its file could be opened, with the entries that it should hold and its seal.
struct Sealed {
    segment: Option<Arc<Segment>>,
    listed: Listed,
    first: u64,
    last: u64,
    offset: u64,
}

impl<'a, 'b> Walk<'a, 'b> {
    /// Walks over segments of a node of `cluster`.
    pub(super) fn new(inspection: &'a mut Inspection<'b>, cluster: u128) -> Walk<'a, 'b> {
        Walk { inspection, cluster, report: LogReport::default(), terms: BTreeSet::new(), prefix: None, gap: false }
    }

    /// Checks the header blocks of all segments, where nothing says what else they should hold.
    pub(super) fn headers(&mut self) {
        for name in self.inspection.names.clone() {
            let Some(id) = id_of(&name) else { continue };
            match Segment::open(self.inspection.disk, id, self.cluster) {
                Ok(_) => self.inspection.note(&name, None, "only its header is checked: the manifest would say where it ends"),
                Err(error) => self.inspection.damage(&name, error),
            }
            self.inspection.finished(&name);
        }
    }

    /// Segments that nobody lists.
    pub(super) fn unlisted(&mut self, manifest: &Manifest) {
        for name in self.inspection.names.clone() {
            if data_id_of(&name).is_some_and(|id| !manifest.segments.iter().any(|listed| listed.id == id)) {
                self.inspection.note(&name, None, "left by a merge that did not come to its end; a start removes it");
                self.inspection.finished(&name);
            }
            let Some(id) = id_of(&name).filter(|id| !manifest.segments.iter().any(|listed| listed.id == *id)) else { continue };
            match recovery::may_be_removed(self.inspection.disk, id, self.cluster) {
                Ok(Err(reason)) => {
                    let text = format!("a start leaves it alone, {}: {reason}", recovery::LEFT_ALONE);
                    self.inspection.note(&name, None, text);
                }
                Ok(Ok(())) => self.inspection.note(&name, None, "the manifest does not list it, and it holds nothing; a start removes it"),
                Err(error) => self.inspection.damage(&name, error),
            }
            self.inspection.finished(&name);
        }
    }

    /// Hints that nobody names.
    pub(super) fn unnamed_hints(&mut self, manifest: &Manifest) {
        for name in self.inspection.names.clone() {
            let Some(id) = hint::id_of(&name) else { continue };
            let named = |listed: &Listed| listed.id == id && listed.state.has_hint();
            if !manifest.segments.iter().any(named) {
                self.inspection.note(&name, None, "the manifest does not name this hint; a start removes it");
            }
        }
    }

    /// Checks every listed segment. Returns the log up to its first damage.
    pub(super) fn log(&mut self, manifest: &Manifest) -> Scan {
        let (mut sealed, mut sorted, mut broken_tails) = (Vec::new(), Sorted::default(), Vec::new());
        for listed in &manifest.segments {
            self.sort(listed, manifest.decided, &mut sealed, &mut sorted, &mut broken_tails);
        }
        sealed.sort_by_key(|sealed| sealed.first);
        let store = Arc::new(Store::default());
        let applier = Applier::new(Arc::clone(&store), manifest.base.index, manifest.base_hash);
        let mut scan = Scan::new(self.cluster, manifest.base, manifest.applied, store, applier);
        for sealed in &sealed {
            scan = self.sealed(scan, sealed);
        }
        if let Some(segment) = &sorted.tail {
            scan = self.tail(scan, segment);
        }
        for (segment, error) in broken_tails {
            scan = self.go_on(scan, &segment, error, segment.length(), |scan, from| scan.tail_from(&segment, from).map(drop)).0;
        }
        let whole = self.prefix.is_none() && !self.gap;
        if whole && (!sorted.files.is_empty() || manifest.decided > 0) {
            let found = sealed.into_iter().filter_map(|sealed| Some((sealed.segment?, sealed.listed)));
            sorted.sealed = found.collect();
            scan = self.state(scan, manifest, &mut sorted);
        }
        self.finish(scan, manifest, &sorted)
    }

    /// What has left the log is needed for its state, and so are hints. Returns a scan that has both, as a start would have it.
    fn state(&mut self, checked: Scan, manifest: &Manifest, sorted: &mut Sorted) -> Scan {
        let scanned = recovery::scan_sealed(self.inspection.disk, self.cluster, manifest, sorted).and_then(|(mut scan, _)| {
            sorted.tail.as_ref().map_or(Ok(()), |segment| scan.tail(segment).map(drop))?;
            Ok(scan)
        });
        match scanned {
            Ok(scan) => scan,
            Err(error) => {
                self.inspection.damage(crate::storage::manifest::NAME, error);
                self.leave(checked, |scan| scan.behind_gap(scan.last.index))
            }
        }
    }

    /// Opens a listed segment and puts it where it belongs.
    fn sort(
        &mut self,
        listed: &Listed,
        decided: u64,
        sealed: &mut Vec<Sealed>,
        sorted: &mut Sorted,
        broken_tails: &mut Vec<(Arc<Segment>, Error)>,
    ) {
        if listed.state == State::Dropped {
            for name in [file_name(listed.id), data_name(listed.id)] {
                if self.inspection.has(&name) {
                    self.inspection.note(&name, None, "all that it holds was superseded; a start removes it");
                }
            }
            return;
        }
        if listed.state == State::Quarantined {
            for name in
                [file_name(listed.id), data_name(listed.id)].iter().filter(|name| self.inspection.has(name)).cloned().collect::<Vec<_>>()
            {
                self.inspection.note(
                    &name,
                    None,
                    "put aside because of damage; it is not read, and goes when the log has been fetched again",
                );
            }
            return;
        }
        let name = if let State::Data { .. } = listed.state { data_name(listed.id) } else { file_name(listed.id) };
        let node = self.inspection.report.node.as_ref().map_or(listed.node, |(identity, _)| identity.uuid);
        let segment = recovery::open_listed(self.inspection.disk, listed, self.cluster, node);
        let segment = segment.map_err(|error| self.inspection.damage(&name, error)).ok();
        self.gap |= segment.is_none();
        if let (Some(segment), State::Hinted { first, last, offset }) = (&segment, &listed.state) {
            self.hint(segment, (*first, *last, *offset), *first <= decided);
        }
        if let State::Retired { first, last, offset } | State::Data { first, last, offset } = listed.state {
            if let Some(segment) = segment {
                let file = File { segment, first, last, end: offset, deletions: 0, hinted: 0 };
                if let Err(error) = file.check(self.inspection.disk) {
                    self.inspection.damage(&name, error);
                    self.gap = true;
                }
                sorted.files.push(file);
            }
            return self.inspection.finished(&name);
        }
        if let State::Sealed { first, last, offset } | State::Hinted { first, last, offset } = listed.state {
            return sealed.push(Sealed { segment, listed: *listed, first, last, offset });
        }
        let Some(segment) = segment else { return };
        if let Err(error) = sorted.add_open(Arc::clone(&segment)) {
            broken_tails.push((segment, error));
        }
        self.inspection.finished(&name);
    }

    /// Reads the hint of a segment. One that cannot be believed is no damage, unless it is needed: nothing is lost with it.
    fn hint(&mut self, segment: &Segment, seal: (u64, u64, u64), needed: bool) {
        let name = hint::hint_name(segment.id());
        let told = match hint::read(self.inspection.disk, segment.header()) {
            Ok(Ok(hint)) if (hint.log.first, hint.log.last, hint.log.end) == seal => None,
            Ok(Ok(_)) => Some(format!("{name} describes another seal")),
            Ok(Err(reason)) => Some(reason),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = told {
            if needed {
                let error =
                    crate::storage::corrupt(&name, 0, format!("{reason}; a merge has left out what its entries were decided against"));
                self.inspection.damage(&name, error);
            }
            self.inspection.note(&name, None, format!("{reason}; a start reads {} instead, and makes another", segment.name()));
        }
        self.inspection.finished(&name);
    }

    fn sealed(&mut self, mut scan: Scan, sealed: &Sealed) -> Scan {
        let Sealed { segment, first, last, offset, .. } = sealed;
        let Some(segment) = segment else { return self.leave(scan, |scan| scan.behind_gap(*last)) };
        let state = State::Sealed { first: *first, last: *last, offset: *offset };
        let mut whole = true;
        if let Err(error) = scan.sealed(segment, &state) {
            (scan, _) = self.go_on(scan, segment, error, *offset, |scan, from| scan.sealed_from(segment, from, *last, *offset));
            whole = scan.last.index == *last;
        }
        self.inspection.finished(segment.name());
        if whole { scan } else { self.leave(scan, |scan| scan.behind_gap(*last)) }
    }

    fn tail(&mut self, mut scan: Scan, segment: &Arc<Segment>) -> Scan {
        let found = match scan.tail(segment) {
            Ok(tail) => Some(tail),
            Err(error) => {
                let found;
                (scan, found) = self.go_on(scan, segment, error, segment.length(), |scan, from| scan.tail_from(segment, from));
                found
            }
        };
        match (found, recovery::end_of(scan.segments.back(), segment)) {
            (Some(Tail::Untouched), Edit::Seal { offset, .. }) => self.report.open = Some((segment.name().to_owned(), offset)),
            (Some(_), Edit::Seal { offset, last, .. }) => {
                let text = format!("a write was interrupted here and never acknowledged; a start seals the segment behind entry {last}");
                self.inspection.note(segment.name(), Some(offset), text);
            }
            (Some(_), Edit::Drop { .. }) => self.torn(segment.id()),
            (None, _) => {}
        }
        scan
    }

    fn torn(&mut self, id: u32) {
        let text = "its first write was interrupted and never acknowledged; a start removes the segment";
        self.inspection.note(&file_name(id), Some(HEADER_BLOCK), text);
    }

    /// Leaves a scan that met damage for another one, and keeps what it found.
    fn leave(&mut self, scan: Scan, next: impl FnOnce(&Scan) -> Scan) -> Scan {
        let next = next(&scan);
        self.count(&scan);
        self.prefix.get_or_insert(scan);
        next
    }

    fn count(&mut self, scan: &Scan) {
        self.report.entries += scan.segments.iter().map(|segment| segment.offsets.len() as u64).sum::<u64>();
        self.terms.extend(scan.terms.iter().map(|(_, term)| *term));
    }

    /// Takes damage down and takes the scan up again behind it, again and again, up to `limit`: the seal, or the end of the file. Returns
    /// what the last scan came to, if it came to an end.
    fn go_on<T>(
        &mut self,
        mut scan: Scan,
        segment: &Arc<Segment>,
        mut error: Error,
        limit: u64,
        scan_from: impl Fn(&mut Scan, u64) -> Result<T>,
    ) -> (Scan, Option<T>) {
        let mut from = HEADER_BLOCK;
        loop {
            let at = match &error {
                Error::Corrupt { file, offset, .. } if file == segment.name() => (*offset).max(HEADER_BLOCK),
                _ => from,
            };
            self.inspection.damage(segment.name(), error);
            let next = self.next_batch(&scan, segment, batch::align(at).max(from), limit).unwrap_or_else(|unreadable| {
                self.inspection.damage(segment.name(), unreadable);
                None
            });
            let Some((next, start)) = next else { return (self.leave(scan, |scan| scan.behind_gap(scan.last.index)), None) };
            scan = self.leave(scan, |_| next);
            match scan_from(&mut scan, start) {
                Ok(found) => return (scan, Some(found)),
                Err(again) => (error, from) = (again, start + ALIGNMENT),
            }
        }
    }

    /// A scan that goes on with the first whole batch at or behind `from`, and where that is. Damage on the way is taken down.
    fn next_batch(&mut self, scan: &Scan, segment: &Segment, from: u64, limit: u64) -> Result<Option<(Scan, u64)>> {
        let (mut at, mut expected) = (from, None);
        loop {
            let found = tail::find_batch(segment, at)?.filter(|found| *found < limit);
            // Behind the last batch of a segment that is not sealed, nothing has to follow.
            let end = found.or((limit < segment.length()).then_some(limit));
            if let (Some(expected), Some(end)) = (expected, end)
                && expected < end
            {
                let reason = format!("no valid batch begins here, and there was one: the log goes on at {end}");
                self.inspection.damage(segment.name(), crate::storage::corrupt(segment.name(), expected, reason));
            }
            let Some(found) = found else { return Ok(None) };
            let Some(header) = header_at(segment, found)? else { return Ok(None) };
            let end = found + HEADER_BYTES + u64::from(header.body);
            // Of a batch that the seal cuts, the records say whether they are whole.
            if (end > limit || is_whole(segment, found, &header))
                && let Some(next) = scan.behind_damage(segment, &header)
            {
                return Ok(Some((next, found)));
            }
            self.records(segment, found, &header, limit);
            (at, expected) = (found + ALIGNMENT, Some(batch::align(end)));
        }
    }

    /// Names the records of a damaged batch that are damaged themselves.
    fn records(&mut self, segment: &Segment, at: u64, header: &BatchHeader, limit: u64) {
        let start = at + HEADER_BYTES;
        let Some(body) = body(segment, start, header.body) else { return };
        let entries = format!("entries {} to {}", header.first_index, header.last_index);
        let reason = format!("the records of this batch, {entries}, do not match their CRC");
        self.inspection.damage(segment.name(), crate::storage::corrupt(segment.name(), at, reason));
        let mut done = 0;
        while done < body.len() && start + (done as u64) < limit {
            let offset = start + done as u64;
            let whole = record::parse(&body[done..]);
            let Ok((bytes, id)) = record::parse_header(&body[done..]) else {
                let reason = "no valid record stands here, and those behind it in the batch cannot be told apart";
                return self.inspection.damage(segment.name(), crate::storage::corrupt(segment.name(), offset, reason));
            };
            if let Err(BadRecord::PayloadCrc | BadRecord::Short) = whole {
                let reason = format!("the payload of entry {id} does not match its CRC");
                self.inspection.damage(segment.name(), crate::storage::corrupt(segment.name(), offset, reason));
            }
            done += bytes;
        }
    }

    /// Whether the node is a cluster of its own, so that whatever is durable here is committed.
    fn is_alone(&self, scan: &Scan) -> bool {
        let founders = self.inspection.report.founding.as_ref().map_or(0, |founding| founding.members.len());
        founders == 1 && scan.configs.iter().all(|(_, config)| config.voters.len() == 1)
    }

    /// Holds the end of the log against the other files, and sums up.
    fn finish(&mut self, mut scan: Scan, manifest: &Manifest, sorted: &Sorted) -> Scan {
        if let Some(state) = self.inspection.report.hard_state
            && let Err(error) = recovery::check_term(scan.last, &state)
        {
            self.inspection.damage(crate::storage::writer::HARD_STATE_NAME, error);
        }
        let whole = self.prefix.is_none() && !self.gap;
        if whole && let Err(error) = recovery::check_commit(&scan, manifest) {
            self.inspection.damage(crate::storage::manifest::NAME, error);
        }
        if whole && self.is_alone(&scan) {
            scan.commit_all();
        }
        sorted.torn.iter().for_each(|id| self.torn(*id));
        self.count(&scan);
        let report = LogReport {
            segments: manifest.segments.iter().filter(|listed| matches!(listed.state, State::Sealed { .. } | State::Hinted { .. })).count()
                as u64
                + u64::from(sorted.tail.is_some()),
            prepared: sorted.prepared.len() as u64,
            terms: self.terms.len() as u64,
            last: scan.last,
            commit: scan.commit,
            keys: whole.then(|| scan.store().keys()),
            ..std::mem::take(&mut self.report)
        };
        self.inspection.report.log = Some(report);
        self.prefix.take().unwrap_or(scan)
    }
}

/// The records of a batch, if the file holds so many bytes.
fn body(segment: &Segment, start: u64, length: u32) -> Option<Vec<u8>> {
    if start + u64::from(length) > segment.length() {
        return None;
    }
    let mut bytes = vec![0; length as usize];
    segment.read_file(&mut bytes, start).ok()?;
    Some(bytes)
}

fn is_whole(segment: &Segment, at: u64, header: &BatchHeader) -> bool {
    body(segment, at + HEADER_BYTES, header.body).is_some_and(|body| crc32fast::hash(&body) == header.body_crc)
}
