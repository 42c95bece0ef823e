//! The storage engine as its host uses it, on the simulated disk and on real files: what is acknowledged must be there again.

mod crashes;
mod damage;
mod directory;
mod hints;
mod inspect;
mod keys;
mod log;
mod mend;
mod merges;
mod quarantine;
mod real_files;
mod restore;

mod room;
mod scrub;
mod snapshots;
mod unread;

use super::Options;
use super::applier::{Applied, Applier, Effect};
use super::directory::{Directory, Founding, FoundingMember, Opened, Workers};
use super::disk::Disk;
use super::hinter::Hinter;
use super::log::{Location, Log, Room};
use super::merge::Merger;
use super::preparer::{PrepareError, Preparer};
use super::record::{self, Kind, Operation};
use super::scrub::Scrubber;
use super::simulated::SimulatedDisk;
use super::snapshot::{Received, SnapshotMaker};
use super::store::Store;
use super::writer::{Completion, Job, LogWriter};
use crate::error::{Error, Result};
use crate::raft::{EntryId, HardState};
use std::collections::BTreeMap;
use std::sync::Arc;

const ID: &str = "localhost:8001";
const SEGMENT: u64 = 16 << 10;

/// A record with its place.
fn sealed(id: EntryId, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    record::encode(&mut bytes, kind, payload);
    record::seal(&mut bytes, id);
    bytes
}

fn sealed_operation(id: EntryId, operation: &Operation<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record::encode_operation(&mut bytes, operation);
    record::seal(&mut bytes, id);
    bytes
}

/// Opens a directory, and founds it at first.
fn open_directory(disk: Arc<dyn Disk>) -> Result<Directory> {
    let mut directory = Directory::open(disk, ID)?;
    if directory.founding().is_none() {
        let member = FoundingMember { id: ID.into(), uuid: directory.identity().uuid };
        directory.found(&Founding { cluster: 0xC1, members: vec![member] })?;
    }
    Ok(directory)
}

/// What the server's threads own, driven by hand.
struct Engine {
    log: Log,
    applier: Applier,
    writer: LogWriter,
    preparer: Preparer,
    hinter: Hinter,
    merger: Merger,
    scrubber: Scrubber,
    snapshots: SnapshotMaker,
    store: Arc<Store>,
    commit: u64,
    durable: u64,
    hard_state: HardState,
    _lock: super::directory::Lock,
}

impl Engine {
    fn open(disk: Arc<dyn Disk>) -> Result<Engine> {
        Engine::open_with(disk, SEGMENT)
    }

    fn open_with(disk: Arc<dyn Disk>, segment_bytes: u64) -> Result<Engine> {
        Engine::open_reserving(disk, segment_bytes, 0)
    }

    fn open_reserving(disk: Arc<dyn Disk>, segment_bytes: u64, reserve_bytes: u64) -> Result<Engine> {
        let opened = open_directory(disk)?.open_log(&Options { segment_bytes, reserve_bytes })?;
        let Opened { log, applier, workers, snapshots, store, commit, lock, hard_state, .. } = opened;
        let Workers { writer, preparer, hinter, merger, scrubber } = workers;
        let durable = log.last().index;
        Ok(Engine { log, applier, writer, preparer, hinter, merger, scrubber, snapshots, store, commit, durable, hard_state, _lock: lock })
    }

    fn last(&self) -> EntryId {
        self.log.last()
    }

    /// Adopts a term, durably.
    fn set_term(&mut self, term: u64) -> Result<()> {
        self.hard_state = HardState { term, vote: None };
        let completion = self.writer.run(Job::HardState { ticket: term, state: self.hard_state })?;
        assert!(matches!(completion, Completion::HardState { ticket } if ticket == term), "{completion:?}");
        Ok(())
    }

    /// Has segments prepared until `room` answers yes.
    fn make_room(&mut self, room: impl Fn(&Log) -> Room) -> Result<()> {
        loop {
            let minimum = match room(&self.log) {
                Room::Yes => return Ok(()),
                Room::NoSegment => 0,
                Room::Oversized(minimum) => minimum,
            };
            let segment = self.preparer.prepare(minimum).map_err(|error| match error {
                PrepareError::Full(reason) => Error::Config(reason),
                PrepareError::Fatal(error) => error,
            })?;
            match self.writer.run(Job::List(segment))? {
                Completion::Listed(segment) => self.log.add_prepared(segment),
                other => panic!("a listing ended with {other:?}"),
            }
        }
    }

    /// Appends sealed records without writing them.
    fn stage(&mut self, records: &[u8]) -> Result<Vec<Location>> {
        self.make_room(|log| log.room(records.len()))?;
        self.applier.stage(records);
        let locations = self.log.append(records.to_vec());
        self.applier.place(&locations);
        Ok(locations)
    }

    /// Appends one operation as the next entry of the current term.
    fn propose(&mut self, operation: &Operation<'_>) -> Result<EntryId> {
        let id = EntryId { term: self.hard_state.term, index: self.last().index + 1 };
        self.stage(&sealed_operation(id, operation))?;
        Ok(id)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<EntryId> {
        self.propose(&Operation::Set { key, value })
    }

    /// One job of the log writer; false if there is none.
    fn run_job(&mut self) -> Result<bool> {
        self.log.freeze();
        let Some((job, durable)) = self.log.next_job(self.commit) else { return Ok(false) };
        let completion = self.writer.run(job)?;
        self.log.completed(&completion);
        self.durable = self.durable.max(durable);
        Ok(true)
    }

    /// Makes the next hint; false if no segment may have one.
    fn hint(&mut self) -> Result<bool> {
        let Some(job) = self.log.next_hint(self.applier.applied()) else { return Ok(false) };
        let (first, last) = job.range();
        let job = job.with_effects(self.applier.effects(first, last), self.applier.hash_behind(last));
        let hinted = self.hinter.make(&job).map_err(|error| match error {
            PrepareError::Full(reason) => Error::Config(reason),
            PrepareError::Fatal(error) => error,
        })?;
        let completion = self.writer.run(Job::Hint(hinted))?;
        self.log.completed(&completion);
        self.applier.forget_effects(self.log.hinted());
        Ok(true)
    }

    /// Lets segments leave the log of which at least `retain` bytes stay; false if none may.
    fn retire(&mut self, retain: u64) -> Result<bool> {
        let Some(retirement) = self.log.next_retirement(retain, u64::MAX) else { return Ok(false) };
        let completion = self.writer.run(Job::Retire(retirement))?;
        self.log.completed(&completion);
        Ok(true)
    }

    /// Merges what should be merged now, and removes the inputs; false if there is nothing.
    fn merge(&mut self) -> Result<bool> {
        let Some(job) = self.log.next_merge() else { return Ok(false) };
        let merged = self.merger.merge(&job, &mut |_| {}).map_err(|error| match error {
            PrepareError::Full(reason) => Error::Config(reason),
            PrepareError::Fatal(error) => error,
        })?;
        let completion = self.writer.run(Job::Merge(merged))?;
        self.log.completed(&completion);
        drop((job, completion));
        self.discard()?;
        Ok(true)
    }

    /// Removes what is no longer named or read.
    fn discard(&mut self) -> Result<()> {
        let ids = self.merger.discard(self.log.take_discardable())?;
        self.writer.run(Job::Forget(ids))?;
        Ok(())
    }

    /// Puts a received snapshot in the place of everything.
    fn install(&mut self, received: Received) -> Result<()> {
        let (last, hash) = (received.last, received.hash);
        let completion = self.writer.run(Job::Install(self.log.installation(&received)))?;
        self.log.completed(&completion);
        self.applier.installed(last.index, hash);
        drop(self.log.installed(received));
        (self.commit, self.durable) = (last.index, last.index);
        self.discard()
    }

    /// Makes everything staged durable.
    fn flush(&mut self) -> Result<()> {
        while self.run_job()? {}
        assert_eq!(self.log.staged_bytes(), 0);
        assert_eq!(self.durable, self.last().index);
        Ok(())
    }

    /// Applies everything durable.
    fn apply(&mut self) -> Vec<Applied> {
        self.commit = self.durable;
        self.apply_to(self.commit)
    }

    fn apply_to(&mut self, index: u64) -> Vec<Applied> {
        let count = index - self.applier.applied();
        let mut slice = self.applier.slice();
        (0..count).map(|_| slice.apply_next()).collect()
    }

    fn truncate(&mut self, from: u64) {
        self.log.truncate(from);
        self.applier.truncate(from);
        self.durable = self.durable.min(from - 1);
    }

    /// All records of the log, through the path that peers are served by.
    fn records(&mut self) -> Vec<Vec<u8>> {
        self.log.freeze();
        let (first, last) = (self.log.first(), self.last().index);
        let mut bytes = Vec::new();
        for piece in self.log.pieces(first, last + 1 - first) {
            let before = bytes.len();
            piece.write_to(&mut bytes).expect("the log is whole");
            assert!(bytes.len() as u64 - before as u64 <= piece.bytes(), "{piece:?}");
        }
        split(&bytes)
    }

    fn get(&self, key: &[u8]) -> Option<(u64, Vec<u8>)> {
        let located = self.store.lookup(key)?;
        let mut value = Vec::new();
        self.store.read(key, &located, &mut value).expect("the value is whole");
        Some((located.version, value))
    }

    /// All keys, page by page.
    fn contents(&self) -> Contents {
        let mut contents = Contents::new();
        let mut cursor = Vec::new();
        loop {
            let page = self.store.scan(b"", &cursor, 7, 4096, false);
            for (key, located) in &page.entries {
                let mut value = Vec::new();
                self.store.read(key, located, &mut value).expect("the value is whole");
                assert_eq!(value.len(), located.value_bytes as usize);
                contents.insert(key.to_vec(), (located.version, value));
                cursor = key.to_vec();
            }
            if !page.more {
                return contents;
            }
        }
    }
}

/// What a map of keys to versions and values holds.
type Contents = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// Cuts records apart.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (_, length) = record::parse(bytes).expect("records in tests are valid");
        records.push(bytes[..length].to_vec());
        bytes = &bytes[length..];
    }
    records
}

/// The state that applying `records` in order leads to, by the plainest means.
fn model(records: &[Vec<u8>]) -> Contents {
    let mut contents = Contents::new();
    for bytes in records {
        let (record, _) = record::parse(bytes).expect("records in tests are valid");
        if record.kind == Kind::Command {
            apply_to_model(&mut contents, &record);
        }
    }
    contents
}

fn apply_to_model(contents: &mut Contents, record: &record::Record<'_>) -> Effect {
    let operations: Vec<Operation<'_>> = record::operations(record.payload).flatten().collect();
    for operation in &operations {
        let current = contents.get(operation.key()).map_or(0, |(version, _)| *version);
        match *operation {
            Operation::Delete { .. } if current == 0 => return Effect::NotFound,
            Operation::CompareAndSet { expected, .. } if expected != current => return Effect::Conflict { current },
            _ => {}
        }
    }
    for operation in operations {
        match operation {
            Operation::Set { key, value } | Operation::CompareAndSet { key, value, .. } => {
                contents.insert(key.to_vec(), (record.id.index, value.to_vec()));
            }
            Operation::Delete { key } => {
                contents.remove(key);
            }
        }
    }
    Effect::Written
}

/// The offset that an error names; panics unless it is damage to a file whose name ends so.
fn damage_at(error: &Error, file_end: &str) -> u64 {
    match error {
        Error::Corrupt { file, offset, .. } if file.ends_with(file_end) => *offset,
        other => panic!("expected damage to {file_end}, found: {other}"),
    }
}
