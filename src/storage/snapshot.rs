//! Snapshots: the state at the end of the hinted prefix, as the files that make it up. They are pinned, so that it stays what it is while
//! it is read, however the log and the files change meanwhile; nothing is copied for it. A [`SnapshotReader`] hands out the records that
//! their hints name, file by file; a [`SnapshotWriter`] makes data files of them in another directory, where they count for nothing until
//! one change of the manifest puts them in the place of everything else.
//!
//! Files are not comparable across nodes, because each merges on its own; so records travel, each with its own CRC, and both sides check
//! them.

use super::data_file::{self, DataFile, DataWriter, Owner};
use super::disk::Disk;
use super::hint;
use super::log::Log;
use super::merge::{self, File};
use super::preparer::is_shortage;
use super::record;
use super::recovery;
use super::reserve::Reserve;
use super::retire::Discarded;
use super::scan::Window;
use super::segment::{HEADER_BLOCK, Segment};
use super::state::State;
use super::state_hash::StateHash;
use crate::error::{Error, Result};
use crate::raft::EntryId;
use std::sync::Arc;

/// A received data file takes no further record beyond this size.
const FILE_BYTES: u64 = 256 << 20;

/// The state behind an entry, pinned.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The last entry that it includes.
    pub last: EntryId,
    /// The hash of the state behind it.
    pub hash: StateHash,
    files: Vec<File>,
    least_bytes: u64,
}

impl Snapshot {
    /// Bytes of all files: at least as many as will be read.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.end).sum()
    }

    /// Bytes of the records that will be read at least: of a segment of the log nobody has counted what its hint names, but only what is in
    /// force.
    pub fn least_bytes(&self) -> u64 {
        self.least_bytes
    }

    /// How many files it consists of.
    pub fn files(&self) -> u32 {
        self.files.len() as u32
    }
}

/// A place in a snapshot: the file, and how many records of it come before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the file among those of the snapshot, from 0.
    pub file: u32,
    /// Number of the record within the file, from 0.
    pub record: u32,
}

impl Log {
    /// The state at the end of the hinted prefix; `None` while nothing has a hint. The entries behind it are in the log.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let hinted = self.segments.iter().take_while(|holder| holder.hinted);
        let from_log = hinted.map(|holder| File {
            segment: Arc::clone(&holder.segment),
            first: holder.first,
            last: holder.next() - 1,
            end: holder.end,
            deletions: 0,
            hinted: 0,
        });
        let files: Vec<File> = self.files.values().cloned().chain(from_log).collect();
        let index = self.hinted();
        let last = EntryId { term: self.term_of(index), index };
        let live = self.store.live_of(files.iter().map(|file| file.segment.id()));
        let whole = |file: &File| file.segment.header().data.then(|| file.end - HEADER_BLOCK);
        let least_bytes = files.iter().zip(live).map(|(file, live)| whole(file).unwrap_or(live)).sum();
        (index > 0).then(|| Snapshot { last, hash: self.hinted_hash(), files, least_bytes })
    }
}

/// One file being read.
#[derive(Debug)]
struct Opened {
    segment: Arc<Segment>,
    /// Each record's offset and length, in the order in which they stand.
    records: Vec<Wanted>,
}

#[derive(Debug)]
struct Wanted {
    key: Box<[u8]>,
    version: u64,
    offset: u32,
    record_bytes: u32,
    value_bytes: Option<u32>,
}

/// Reads a snapshot from front to back, or from any place on.
#[derive(Debug)]
pub struct SnapshotReader {
    disk: Arc<dyn Disk>,
    snapshot: Snapshot,
    at: Position,
    opened: Option<Opened>,
}

impl SnapshotReader {
    /// Where the next record comes from.
    pub fn position(&self) -> Position {
        self.at
    }

    /// Appends records to `out`, all from one file, about `budget` bytes but at least one, and returns where they come from and how many
    /// they are; `None` at the end. Each holds one operation that takes effect, and the index and term of its entry. Damage names file and
    /// offset.
    pub fn read(&mut self, budget: usize, out: &mut Vec<u8>) -> Result<Option<(Position, u32)>> {
        while let Some(file) = self.snapshot.files.get(self.at.file as usize) {
            let opened = match self.opened.take() {
                Some(opened) => opened,
                None => Opened::open(file, &*self.disk)?,
            };
            let from = self.at;
            let before = out.len();
            let mut window = Window::new(&opened.segment);
            let mut value = Vec::new();
            for wanted in opened.records.get(self.at.record as usize..).unwrap_or(&[]) {
                if out.len() > before && out.len() - before + wanted.record_bytes as usize > budget {
                    break;
                }
                value.clear();
                let found = wanted.hint();
                let id = merge::read(&opened.segment, &mut window, &found, &mut value)?;
                data_file::encode_record(out, id, &wanted.key, found.value_bytes.map(|_| &value[..]));
                self.at.record += 1;
            }
            let count = self.at.record - from.record;
            if count > 0 {
                self.opened = Some(opened);
                return Ok(Some((from, count)));
            }
            self.at = Position { file: self.at.file + 1, record: 0 };
        }
        Ok(None)
    }
}

impl Wanted {
    fn hint(&self) -> hint::HintKey<'_> {
        let Wanted { version, offset, record_bytes, value_bytes, .. } = *self;
        hint::HintKey { key: &self.key, version, offset, record_bytes, value_bytes }
    }
}

impl Opened {
    fn open(file: &File, disk: &dyn Disk) -> Result<Opened> {
        let hint = file.hint(disk)?;
        let mut records: Vec<Wanted> = hint
            .keys()
            .map(|found| Wanted {
                key: found.key.into(),
                version: found.version,
                offset: found.offset,
                record_bytes: found.record_bytes,
                value_bytes: found.value_bytes,
            })
            .collect();
        // Several keys may stand in one record; the key makes the order the same each time.
        records.sort_unstable_by(|a, b| (a.offset, &a.key).cmp(&(b.offset, &b.key)));
        Ok(Opened { segment: Arc::clone(&file.segment), records })
    }
}

/// Why received records are of no use.
#[derive(Debug)]
pub enum SnapshotError {
    /// There is no room for them here; text for a person. It can be tried later.
    Full(String),
    /// They are not what a snapshot consists of; text for a person.
    Bad(String),
    /// This node's disk has failed: the process must end.
    Fatal(Error),
}

impl From<Error> for SnapshotError {
    /// Nothing that was received counts yet, so damage in it says nothing about what this node has.
    fn from(error: Error) -> SnapshotError {
        match &error {
            Error::Corrupt { .. } => SnapshotError::Bad(error.to_string()),
            Error::Io { source, .. } if is_shortage(source) => SnapshotError::Full(error.to_string()),
            _ => SnapshotError::Fatal(error),
        }
    }
}

/// Reads snapshots of this node, and makes data files of those of others.
#[derive(Clone, Debug)]
pub struct SnapshotMaker {
    pub(super) owner: Owner,
    pub(super) reserve: Arc<Reserve>,
}

/// Makes data files of a snapshot's records. What was made is removed unless it is finished.
#[derive(Debug)]
pub struct SnapshotWriter {
    owner: Owner,
    last: EntryId,
    hash: StateHash,
    at: Position,
    /// What is complete.
    files: Vec<DataFile>,
    /// The one being written.
    writer: Option<DataWriter>,
}

/// A snapshot that is durable here and counts for nothing yet.
#[derive(Debug)]
pub struct Received {
    /// The last entry that it includes.
    pub last: EntryId,
    /// The hash of the state behind it, in the sender's words.
    pub hash: StateHash,
    pub(super) files: Vec<File>,
    /// The index of its keys.
    pub(super) state: State,
}

impl Received {
    /// Its files and its index, which are not wanted.
    pub fn discard(self) -> Discarded {
        let Received { files, state, .. } = self;
        let files = files.into_iter().map(|file| file.segment).collect();
        Discarded { files, states: vec![OldState(Box::new(state))], ..Discarded::default() }
    }
}

/// One change of the manifest: these files instead of everything that the log and its files consist of now.
#[derive(Debug)]
pub struct Installation {
    /// The last entry that the snapshot includes.
    pub last: EntryId,
    /// The hash of the state behind it.
    pub(super) hash: StateHash,
    pub(super) files: Vec<File>,
    /// What goes.
    pub(super) dropped: Vec<u32>,
}

impl Log {
    /// Whether a snapshot may take the log's place now: nothing is staged or being written.
    pub fn may_install(&self) -> bool {
        self.stage.is_idle()
    }

    /// What the log writer has to do to put a snapshot in the place of everything. Until it is done the log must not change.
    pub fn installation(&self, received: &Received) -> Installation {
        assert!(self.may_install(), "a snapshot up to {} is installed while {:?} is staged", received.last, self.stage);
        let dropped = self.segments.iter().map(|holder| holder.segment.id()).chain(self.files.keys().copied()).collect();
        Installation { last: received.last, hash: received.hash, files: received.files.clone(), dropped }
    }

    /// The snapshot has taken the log's place: it is empty and goes on behind it. Returns the state that went, whose memory should be given
    /// back where nobody waits.
    pub fn installed(&mut self, received: Received) -> OldState {
        assert!(self.may_install(), "a snapshot up to {} was installed while {:?} is staged", received.last, self.stage);
        let Received { last, hash, files, state } = received;
        let old = self.store.replace(state, last.index);
        self.prepared.iter().for_each(|segment| self.store.register_segment(Arc::clone(segment)));
        self.leaving.extend(self.segments.drain(..).map(|holder| holder.segment));
        self.leaving.extend(std::mem::take(&mut self.files).into_values().map(|file| file.segment));
        self.leaving.iter().for_each(|segment| segment.give_up());
        self.files = files.into_iter().map(|file| (file.segment.id(), file)).collect();
        (self.base, self.base_hash) = (last, hash);
        (self.durable, self.in_flight) = (last.index, 0);
        (self.active, self.unproved) = (false, false);
        self.terms.clear();
        self.configs.clear();
        OldState(Box::new(old))
    }
}

/// Memory that is no longer needed.
#[derive(Debug)]
pub struct OldState(#[expect(dead_code, reason = "held until it is dropped")] Box<State>);

impl SnapshotMaker {
    /// Reads a snapshot of this node from `at` on.
    pub fn read(&self, snapshot: Snapshot, at: Position) -> SnapshotReader {
        SnapshotReader { disk: Arc::clone(&self.owner.disk), snapshot, at, opened: None }
    }

    /// Whether there is room for received records of so many bytes besides the reserve; text for a person.
    pub fn check_room(&self, bytes: u64) -> std::result::Result<(), String> {
        // Where it is not known, the first write says so.
        let free = self.owner.disk.free_bytes().unwrap_or(u64::MAX);
        let missing = self.reserve.missing();
        if free >= bytes.saturating_add(missing) {
            return Ok(());
        }
        let reserve = if missing > 0 { format!(" and the reserve {missing}") } else { String::new() };
        Err(format!("its records need {bytes} bytes{reserve}, the file system of {} has {free} left", self.owner.disk.path()))
    }

    /// Begins to take a snapshot in, of the state behind `last` with this hash.
    pub fn begin(&self, last: EntryId, hash: StateHash) -> SnapshotWriter {
        SnapshotWriter { owner: self.owner.clone(), last, hash, at: Position::default(), files: Vec::new(), writer: None }
    }
}

impl SnapshotWriter {
    /// Where the next record must come from, in the sender's words.
    pub fn position(&self) -> Position {
        self.at
    }

    /// The last entry that the snapshot includes.
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// Takes over records that a [`SnapshotReader`] has read at `from`. On an error everything that was taken is of no use.
    pub fn take(&mut self, from: Position, records: &[u8]) -> std::result::Result<(), SnapshotError> {
        let next_file = from.file > self.at.file && from.record == 0;
        if from != self.at && !next_file {
            return Err(SnapshotError::Bad(format!("records from {from:?} behind {:?}", self.at)));
        }
        if next_file {
            self.finish_file()?;
        }
        self.at = from;
        let last = self.last;
        let mut rest = records;
        while !rest.is_empty() {
            let (record, bytes) =
                record::parse(rest).map_err(|bad| SnapshotError::Bad(format!("a bad record at {:?}: {bad:?}", self.at)))?;
            let bad = || SnapshotError::Bad(format!("record {} in a snapshot up to {last}", record.id));
            let (key, value) = data_file::only_operation(&record).ok_or_else(bad)?;
            if record.id.index > last.index || record.id.term > last.term || record.id.term == 0 {
                return Err(bad());
            }
            self.append(record.id, key, value, bytes as u64)?;
            self.at.record = self.at.record.checked_add(1).ok_or_else(bad)?;
            rest = &rest[bytes..];
        }
        Ok(())
    }

    fn append(&mut self, id: EntryId, key: &[u8], value: Option<&[u8]>, bytes: u64) -> std::result::Result<(), SnapshotError> {
        if self.writer.as_ref().is_some_and(|writer| !writer.takes(bytes, FILE_BYTES)) {
            self.finish_file()?;
        }
        let disk = Arc::clone(&self.owner.disk);
        let failed = |error| failure(&*disk, error);
        let writer = match self.writer.take() {
            Some(writer) => self.writer.insert(writer),
            None => self.writer.insert(DataWriter::begin(&self.owner).map_err(failed)?),
        };
        writer.append(id, key, value).map_err(failed)?;
        Ok(())
    }

    fn finish_file(&mut self) -> std::result::Result<(), SnapshotError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        self.files.push(writer.finish().map_err(|error| failure(&*self.owner.disk, error))??);
        Ok(())
    }

    /// Ends with the last record: all files are durable, and their keys are in memory.
    pub fn finish(mut self) -> std::result::Result<Received, SnapshotError> {
        self.finish_file()?;
        let files: Vec<File> = self.files.iter().cloned().map(File::from).collect();
        let state = recovery::load_files(&*self.owner.disk, &files)?;
        self.files.clear();
        Ok(Received { last: self.last, hash: self.hash, files, state })
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.abandon();
        }
        self.files.iter().for_each(|file| data_file::remove_made(&*self.owner.disk, file.segment.id()));
    }
}

fn failure(disk: &dyn Disk, error: std::io::Error) -> SnapshotError {
    Error::Io { doing: format!("write a received file in {}", disk.path()), source: error }.into()
}
