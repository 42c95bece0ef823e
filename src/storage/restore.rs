//! Makes the data directory of a new cluster's member from values that are known already. The directory begins with these values as files
//! that have left the log; the log itself is empty and goes on behind the entry to which they belong. It never touches a directory that
//! holds anything.
//!
//! # A crash in the middle
//!
//! The cluster file is renamed into place last, and hard state with a term above 0 comes first. So a directory that was not finished is
//! either empty but for its lock, or holds hard state with a term and no cluster file, which no founding leaves behind: a start refuses it.

use super::data_file::{DataFile, DataWriter, Numbers, Owner};
use super::directory::{CLUSTER, IDENTITY, LOCK, Lock, MARKS, MARKS_CAPACITY, node_of};
use super::disk::Disk;
use super::founding::{FOUNDING_CAPACITY, Founding, IDENTITY_CAPACITY, Identity, encode_identity};
use super::manifest::{self, Listed, Manifest, State};
use super::slots::SlotFile;
use super::writer::{HARD_STATE_CAPACITY, HARD_STATE_NAME, encode_hard_state};
use crate::error::{Error, Result};
use crate::raft::{EntryId, HardState};
use std::io;
use std::sync::Arc;

/// A data file takes no further record beyond this size.
const FILE_BYTES: u64 = 256 << 20;

/// A directory being made. One that is dropped before [`Restorer::finish`] stays as a crash would leave it.
#[derive(Debug)]
pub struct Restorer {
    owner: Owner,
    #[expect(dead_code, reason = "held for its drop")]
    lock: Lock,
    id: String,
    founding: Founding,
    last: EntryId,
    writer: Option<DataWriter>,
    files: Vec<DataFile>,
    file_bytes: u64,
}

impl Restorer {
    /// Begins. `id` is the text of `--id`, which `founding` must name; `last` is the entry behind which the log goes on.
    ///
    /// Errors: [`Error::Directory`] when the directory holds anything, or another process uses it.
    pub fn begin(disk: Arc<dyn Disk>, id: &str, founding: Founding, last: EntryId) -> Result<Restorer> {
        assert!(last.index > 0 && last.term > 0, "a state behind the entry {last} is restored");
        node_of(&founding, id)?;
        let path = disk.path();
        // Before it is looked at, so that no other process fills it behind the look.
        let lock = disk.lock(LOCK).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Directory(format!("data directory {path} is in use by another process; stop it")),
            _ => Error::Io { doing: format!("lock {path}/{LOCK}"), source },
        })?;
        let names = disk.list().map_err(Error::io(format!("list {path}")))?;
        if let Some(name) = names.iter().find(|name| *name != LOCK) {
            let remedy = "a restore needs an empty one: name another one, or remove its content if nobody needs it";
            return Err(Error::Directory(format!("data directory {path} is not empty, it holds {name}: {remedy}")));
        }
        let own = founding.members.iter().find(|member| member.id == id);
        let node = own.map_or(0, |member| member.uuid);
        let hard_state = encode_hard_state(&HardState { term: last.term, vote: None });
        SlotFile::create(&disk, HARD_STATE_NAME, HARD_STATE_CAPACITY, &hard_state)?;
        let owner = Owner { disk, cluster: founding.cluster, node, numbers: Arc::new(Numbers::new(1)) };
        let (files, id) = (Vec::new(), id.to_owned());
        Ok(Restorer { owner, lock: Lock::new(lock), id, founding, last, writer: None, files, file_bytes: FILE_BYTES })
    }

    /// Makes files no larger than this, for tests.
    #[cfg(test)]
    pub(super) fn with_file_bytes(self, file_bytes: u64) -> Restorer {
        Restorer { file_bytes, ..self }
    }

    /// Takes over the value of a key; each key once. `written` is the entry that wrote it, at most the last one.
    pub fn append(&mut self, written: EntryId, key: &[u8], value: &[u8]) -> Result<()> {
        assert!(written.index <= self.last.index, "{written} is restored into a state that ends with {}", self.last);
        let bytes = super::data_file::record_bytes(key.len(), value.len());
        if self.writer.as_ref().is_some_and(|writer| !writer.takes(bytes, self.file_bytes)) {
            self.finish_file()?;
        }
        let failed = |error| Error::io(format!("write a data file in {}", self.owner.disk.path()))(error);
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => DataWriter::begin(&self.owner).map_err(failed)?,
        };
        writer.append(written, key, Some(value)).map_err(failed)?;
        self.writer = Some(writer);
        Ok(())
    }

    fn finish_file(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let file = writer.finish().map_err(Error::io(format!("write a data file in {}", self.owner.disk.path())))??;
        self.files.push(file);
        Ok(())
    }

    /// Ends with the last value: when it returns, a start finds a member of the new cluster.
    pub fn finish(mut self) -> Result<()> {
        self.finish_file()?;
        let disk = &self.owner.disk;
        let manifest = self.manifest();
        if !manifest.fits(0) {
            return Err(Error::Directory(format!("{} data files are more than a manifest can list", self.files.len())));
        }
        SlotFile::create(disk, manifest::NAME, manifest::CAPACITY, &manifest.encode())?;
        SlotFile::create(disk, MARKS, MARKS_CAPACITY, &[])?;
        // The first start makes it the first boot.
        let identity = Identity { uuid: self.owner.node, boot: 0, nonce: 0 };
        SlotFile::create(disk, IDENTITY, IDENTITY_CAPACITY, &encode_identity(&identity, &self.id))?;
        SlotFile::create(disk, CLUSTER, FOUNDING_CAPACITY, &self.founding.encode())?;
        Ok(())
    }

    fn manifest(&self) -> Manifest {
        let listed = |file: &DataFile| {
            let header = file.segment.header();
            let state = State::Data { first: file.first, last: file.last, offset: header.length };
            Listed { id: header.id, node: header.node, length: header.length, state }
        };
        let last_id = self.owner.numbers.next() - 1;
        let segments = self.files.iter().map(listed).collect();
        Manifest { base: self.last, applied: self.last.index, last_id, segments, ..Manifest::default() }
    }
}
