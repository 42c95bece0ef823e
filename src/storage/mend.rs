//! Mending: what a node can do about damage in its log when other nodes still have the entries. The log is looked through ([`Damaged`]),
//! holes are filled with the very records that stood there, and each damaged segment is replaced by a new one. Nothing here knows how the
//! records travel, and nothing decides whether they are worth waiting for.
//!
//! * A *hole* is a run of entries whose records cannot be read, and whose indexes are known: from a seal, from a whole header of a batch
//!   behind it, or from its own. What a hole held is proved by a term, see the file `terms.rs`, or by its having been committed. If the end
//!   of the log cannot be read, it is not known what is missing: there is an *obstacle*, and the log cannot be mended here.
//! * A record is the same bytes on every node. So what another node has at the index of a lost one, in a log that proves to be the same up
//!   to there, is the lost record: committed or not, acknowledged or not. A node whose holes are filled has lost nothing.
//! * What has left the log is not made of entries, and what a hint decided cannot be decided again once a merge has run. Damage there is an
//!   obstacle.
//! * While a log waits to be mended it still gives: others may have their holes where this one is whole.

mod around;
mod build;
mod fetched;
mod part;
mod survey;
mod terms;
mod walk;

use super::applier::is_well_formed;
use super::directory::{Attempt, Unopened};
use super::disk::Disk;
use super::manifest;
use super::quarantine::{self, quarantine};
use super::recovery::{self, Opened};
use super::{record, reserve, writer};
use crate::error::{Error, Result};
use crate::raft::EntryId;
use fetched::Fetched;
use part::Part;
use std::io;
use survey::Survey;

/// Records are handed out up to this size, or one at a time if it is larger.
const CHUNK_BYTES: usize = 1 << 20;

/// Most terms that are named as proofs of one run of entries.
pub const PROOFS_MAX: usize = 16;

/// A run of entries that is asked for. Whoever holds, at an index or behind it, an entry of one of the terms has the right record there; so
/// has whoever knows the entry at that index to be committed, if the asker knows it, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Index of the first entry.
    pub first: u64,
    /// Index of the last entry.
    pub last: u64,
    /// The terms that prove them, rising: of the first entry behind the last of them that the asker knows, and of some later ones. At least
    /// one, at most [`PROOFS_MAX`].
    pub terms: Vec<u64>,
    /// The asker knows that its entries up to this one are committed.
    pub commit: u64,
}

/// Why a log does not give what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// It holds them, and cannot read them.
    Damaged,
    /// Damage hides whether it holds them.
    Unsure,
    /// Nothing proves that it holds them: it ends before, or goes another way there or somewhere behind.
    Other,
    /// They have left it; their effect is in the state.
    Compacted,
}

/// What a log has of what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The records of the first of the wanted entries, back to back.
    Records(Vec<u8>),
    /// No record of the first of the wanted entries up to `through`.
    Missing {
        /// Index of the last entry for which that is so.
        through: u64,
        /// Why.
        why: Missing,
    },
}

/// A log with damage in it, as far as it can be read, in a locked directory. Nothing is changed before [`Damaged::mend`] or
/// [`Damaged::put_aside`].
#[derive(Debug)]
pub struct Damaged {
    unopened: Unopened,
    /// What the start found.
    cause: Error,
    survey: Survey,
    /// No entry behind this one can have been in the log.
    position_at_most: EntryId,
    /// What is still missing: first and last index.
    lost: Vec<(u64, u64)>,
    fetched: Fetched,
}

/// All entries of a damaged log that are there again.
struct Entries<'a> {
    fetched: &'a Fetched,
}

impl Entries<'_> {
    /// Appends the record of an entry, and says how many bytes that were.
    fn read(&self, part: &Part, index: u64, out: &mut Vec<u8>) -> Result<usize> {
        let read = match part.read(index, out)? {
            None => self.fetched.read(index, out)?,
            read => read,
        };
        read.ok_or_else(|| super::corrupt(&part.name, part.offset_near(index), format!("entry {index} cannot be read any more")))
    }
}

/// Does what needs room on the disk; if there is none, gives the reserve up and does it once more. A start makes another reserve when there
/// is room. `work` must leave nothing in its own way when it fails.
fn with_room<T>(disk: &dyn Disk, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let is_full = |error: &Error| {
        let Error::Io { source, .. } = error else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    };
    match work() {
        Err(error) if is_full(&error) && disk.remove(reserve::NAME).is_ok() => work(),
        done => done,
    }
}

impl Damaged {
    /// Looks through the log in which a start has met `cause`. Fails with the cause if that is no damage to the log or to files, and with
    /// an error of the disk.
    pub(super) fn new(unopened: Unopened, cause: Error) -> Result<Damaged> {
        let Error::Corrupt { file, .. } = &cause else { return Err(cause) };
        if file == manifest::NAME || file == writer::HARD_STATE_NAME {
            return Err(cause);
        }
        let writer = &unopened.writer;
        let mut survey = Survey::new(&*writer.disk, writer.cluster, unopened.identity.uuid, &writer.manifest)?;
        let found = survey.parts.iter().any(|part| part.damage.is_some()) || !survey.useless.is_empty();
        if !found && survey.obstacle.is_none() && !writer.manifest.distrusted {
            survey.obstacle = Some(super::corrupt("the log", 0, "it cannot be read, though each of its records can"));
        }
        let lost = survey.lost();
        let position_at_most =
            quarantine::position(&*writer.disk, &writer.manifest, writer.cluster, unopened.identity.uuid, &unopened.hard_state)?
                .max(writer.manifest.floor);
        Ok(Damaged { unopened, cause, survey, position_at_most, lost, fetched: Fetched::default() })
    }

    /// What the start found, for a person who need not do anything about it yet.
    pub fn cause(&self) -> String {
        super::without_remedy(&self.cause)
    }

    /// What keeps this log from being mended, if there is anything.
    pub fn obstacle(&self) -> Option<String> {
        self.survey.obstacle.as_ref().map(super::without_remedy)
    }

    /// This node's durable term.
    pub fn term(&self) -> u64 {
        self.unopened.hard_state.term
    }

    /// The last entry of the log, lost ones counted as present; `None` if the end cannot be read.
    pub fn last(&self) -> Option<EntryId> {
        let last = self.survey.terms.newest();
        let known = self.survey.end_known && last.index + 1 == self.survey.next();
        known.then(|| last.max(self.unopened.writer.manifest.floor))
    }

    /// The same, but never less than the log can have held: what this node stands for.
    pub fn position(&self) -> EntryId {
        self.last().unwrap_or(self.position_at_most)
    }

    /// What is still missing.
    pub fn wanted(&self) -> Vec<Wanted> {
        let Survey { terms, commit, .. } = &self.survey;
        let proved =
            |(first, last): &(u64, u64)| Wanted { first: *first, last: *last, terms: terms.proofs(*last, PROOFS_MAX), commit: *commit };
        self.lost.iter().map(proved).filter(|wanted| !wanted.terms.is_empty()).collect()
    }

    /// Whether nothing is missing any more, and nothing keeps the log from being mended.
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty() && self.survey.obstacle.is_none()
    }

    /// The damage at an entry, with what is to be said about it.
    pub fn loss_of(&self, index: u64, reason: &str) -> Error {
        let part = self.survey.part_of(index);
        let (file, offset) = part.map_or(("the log", 0), |part| (part.name.as_str(), part.offset_near(index)));
        super::corrupt(file, offset, format!("entry {index} cannot be read here, {reason}"))
    }

    /// What this log has of what another one lacks.
    ///
    /// Errors: it cannot be read now, which says nothing about what is there.
    pub fn look(&self, wanted: &Wanted) -> Result<Found> {
        let (first, last) = (wanted.first, wanted.last);
        let survey = &self.survey;
        if first <= survey.base.index {
            return Ok(Found::Missing { through: last.min(survey.base.index), why: Missing::Compacted });
        }
        let by_term = wanted.terms.iter().map(|term| survey.terms.last_of(*term)).max().unwrap_or(0);
        // All logs have the same entries as far as those are committed.
        let proved = by_term.max(wanted.commit.min(survey.commit)).min(survey.next() - 1);
        if first > proved {
            // Whether this log goes another way, the nearest term says best.
            let nearest = wanted.terms.first().copied().unwrap_or(0);
            let end = if survey.end_known { survey.next() - 1 } else { u64::MAX };
            let possible = survey.terms.bound_of(nearest, end);
            return Ok(if first <= possible {
                Found::Missing { through: last.min(possible), why: Missing::Unsure }
            } else {
                Found::Missing { through: last, why: Missing::Other }
            });
        }
        self.read(first, last.min(proved))
    }

    /// As many records from `first` on as there are in a row.
    fn read(&self, first: u64, last: u64) -> Result<Found> {
        let (mut out, mut next) = (Vec::new(), first);
        while next <= last {
            let before = out.len();
            let read = match self.survey.part_of(next).map(|part| part.read(next, &mut out)).transpose()?.flatten() {
                None => self.fetched.read(next, &mut out)?,
                read => read,
            };
            if read.is_none() || out.len() > CHUNK_BYTES && before > 0 {
                out.truncate(before);
                break;
            }
            next += 1;
        }
        if !out.is_empty() {
            return Ok(Found::Records(out));
        }
        let is_lost = |index: &u64| self.lost.iter().any(|(first, last)| (*first..=*last).contains(index));
        let through = (first + 1..=last).take_while(is_lost).last().unwrap_or(first);
        Ok(Found::Missing { through, why: Missing::Damaged })
    }

    /// Takes records of the wanted entries from another node, and returns the index behind them. They are checked: an error of the protocol
    /// says that they cannot be what is wanted.
    pub fn take(&mut self, wanted: &Wanted, records: &[u8]) -> Result<u64> {
        let (mut lengths, mut ids, mut rest) = (Vec::new(), Vec::new(), records);
        let mut next = wanted.first;
        while !rest.is_empty() {
            let refused = |reason: String| Error::Protocol(format!("a record where entry {next} is wanted: {reason}"));
            let (record, length) = record::parse(rest).map_err(|bad| refused(format!("{bad:?}")))?;
            let (lowest, highest) = self.survey.terms.bounds(next);
            let fits = record.id.index == next && next <= wanted.last && (lowest..=highest).contains(&record.id.term);
            if !fits || !is_well_formed(&record) {
                return Err(refused(format!("{} of {length} bytes", record.id)));
            }
            if ids.last().is_some_and(|before: &EntryId| before.term > record.id.term) {
                return Err(refused(format!("{} follows a newer term", record.id)));
            }
            lengths.push(length);
            ids.push(record.id);
            (rest, next) = (&rest[length..], next + 1);
        }
        let mut terms = self.survey.terms.clone();
        if let Some(id) = ids.iter().find(|id| !terms.note(**id)) {
            return Err(Error::Protocol(format!("the record {id} cannot stand beside those that are known")));
        }
        let disk = &*self.unopened.writer.disk;
        with_room(disk, || self.fetched.keep(disk, wanted.first, &lengths, records))?;
        self.survey.terms = terms;
        self.found(wanted.first, next);
        Ok(next)
    }

    /// The entries from `first` up to the one before `next` are not missing any more.
    fn found(&mut self, first: u64, next: u64) {
        let without = |(from, until): (u64, u64)| {
            let left = (from, until.min(first.saturating_sub(1)));
            let right = (from.max(next), until);
            if next <= from || first > until { vec![(from, until)] } else { vec![left, right] }
        };
        let lost = std::mem::take(&mut self.lost);
        self.lost = lost.into_iter().flat_map(without).filter(|(from, until)| from <= until).collect();
    }

    /// Puts the log together again, and starts with it. All must be there.
    pub fn mend(self) -> Result<Attempt> {
        assert!(self.is_complete(), "a log that lacks {:?} is mended in spite of {:?}", self.lost, self.survey.obstacle);
        let Damaged { mut unopened, survey, fetched, .. } = self;
        let node = unopened.identity.uuid;
        build::replace(&mut unopened.writer, node, &survey, &Entries { fetched: &fetched })?;
        drop(survey);
        fetched.discard(&*unopened.writer.disk);
        unopened.attempt()
    }

    /// Puts everything aside, and starts with an empty log that others fill.
    pub fn put_aside(self) -> Result<Opened> {
        let floor = self.position();
        let Damaged { mut unopened, cause, survey, fetched, .. } = self;
        drop(survey);
        fetched.discard(&*unopened.writer.disk);
        quarantine(&mut unopened.writer, floor, cause)?;
        unopened.open(recovery::recover_rest)
    }
}
