//! Looking at a data directory that no node runs on: what is there, what of it is damaged, and what a start would do about it. Shares
//! every judgement with recovery, so that it finds damage exactly where a start would refuse; but it goes on behind it, and it
//! changes nothing: it reads through a disk that refuses everything else.
//!
//! The directory of a running node is refused. Its log could be read up to its last synced batch, but slot files are rewritten in place
//! and segments come and go, so that what is going on could not be told from damage.

mod entries;
mod segments;

use super::aside;
use super::directory::{self, CLUSTER, Founding, IDENTITY, Identity, LOCK, MARKS};
use super::disk::Disk;
use super::founding::decode_identity;
use super::hint;
use super::manifest::{self, Manifest};
use super::read_only::ReadOnly;
use super::reserve;
use super::scan::Scan;
use super::segment::{data_id_of, id_of};
use super::slots;
use super::writer::{HARD_STATE_NAME, decode_hard_state};
use crate::error::{Error, Result};
use crate::raft::{EntryId, HardState};
use segments::Walk;
use std::fmt;
use std::io;
use std::sync::Arc;

pub use entries::Entry;

/// Something about a file that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file's name.
    pub file: String,
    /// Where in it, if it is about a place and not about the file.
    pub offset: Option<u64>,
    /// What was found.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{} at offset {offset}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}

/// What was found in a directory.
#[derive(Debug, Default)]
pub struct Report {
    /// How many files it holds.
    pub files: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Who the node is, and its id.
    pub node: Option<(Identity, String)>,
    /// The cluster it belongs to.
    pub founding: Option<Founding>,
    /// Its term and vote.
    pub hard_state: Option<HardState>,
    /// Its log; `None` if there is none, or nothing can be told about it.
    pub log: Option<LogReport>,
    /// What a start would refuse. Nothing is missing here but what stands where other damage makes it unreachable.
    pub damage: Vec<Finding>,
    /// What a start would change or pass over, and what could not be checked.
    pub notes: Vec<Finding>,
}

/// What was found in the segments.
#[derive(Debug, Default)]
pub struct LogReport {
    /// Segments with entries.
    pub segments: u64,
    /// Segments that are ready to be written.
    pub prepared: u64,
    /// Entries that are whole.
    pub entries: u64,
    /// How many terms wrote them.
    pub terms: u64,
    /// The last entry.
    pub last: EntryId,
    /// The highest index that is known to be committed: some file says so, or the node is a cluster of its own.
    pub commit: u64,
    /// Keys after applying what is known to be committed; `None` if an entry is damaged.
    pub keys: Option<u64>,
    /// Where a start would go on writing: file and offset. `None` if it would begin another segment.
    pub open: Option<(String, u64)>,
}

/// What the caller contributes.
pub struct Caller<'a> {
    /// Judges the payload of the marks file, which is opaque here.
    pub marks: &'a dyn Fn(&[u8]) -> Result<()>,
    /// Is told how many of all bytes are done, after each file.
    pub progress: &'a dyn Fn(u64, u64),
}

/// A directory that was looked at. Owners are kept out until it is dropped.
pub struct Inspected {
    /// What was found.
    pub report: Report,
    /// The log up to its first damage.
    log: Option<Scan>,
    _lock: Option<Box<dyn Send + Sync>>,
}

impl fmt::Debug for Inspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inspected({:?})", self.report)
    }
}

/// Reads everything in a directory and judges it. An index of all keys is built in memory, as at a start.
///
/// Errors are those that leave nothing to tell: [`Error::Directory`] if a node runs on it, [`Error::Io`] if it cannot be listed.
pub fn inspect(disk: Arc<dyn Disk>, caller: &Caller<'_>) -> Result<Inspected> {
    let disk = ReadOnly::new(disk);
    let lock = lock(&disk)?;
    let names = disk.list().map_err(Error::io(format!("list {}", disk.path())))?;
    let mut inspection = Inspection { disk: &disk, caller, names, done: 0, report: Report::default() };
    if lock.is_none() && !inspection.names.is_empty() {
        inspection.note(LOCK, None, "the file is missing: nothing keeps a node from starting while this runs");
    }
    inspection.measure();
    inspection.sort_out_strangers();
    let log = inspection.node();
    inspection.unreadable();
    Ok(Inspected { report: inspection.report, log, _lock: lock })
}

/// Keeps nodes out, if the directory has a lock.
fn lock(disk: &ReadOnly) -> Result<Option<Box<dyn Send + Sync>>> {
    let path = disk.path();
    match disk.lock_for_reading(LOCK) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let process = owner(disk).map_or(String::new(), |pid| format!(" (process {pid})"));
            let remedy = "stop it, or look at a copy that was made while it was stopped";
            Err(Error::Directory(format!("a running node holds {path}{process}, and what it writes would look like damage: {remedy}")))
        }
        Err(source) => Err(Error::Io { doing: format!("lock {path}/{LOCK}"), source }),
    }
}

/// The process that the lock's file names.
fn owner(disk: &ReadOnly) -> Option<u32> {
    let file = disk.open(LOCK).ok()?;
    let mut bytes = vec![0; file.length().ok()?.min(32) as usize];
    file.read_at(&mut bytes, 0).ok()?;
    std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
}

struct Inspection<'a> {
    disk: &'a ReadOnly,
    caller: &'a Caller<'a>,
    names: Vec<String>,
    done: u64,
    report: Report,
}

impl Inspection<'_> {
    fn note(&mut self, file: &str, offset: Option<u64>, text: impl Into<String>) {
        self.report.notes.push(Finding { file: file.to_owned(), offset, text: text.into() });
    }

    /// Takes an error down as damage to `file`, or to the file that it names. A place is named once.
    fn damage(&mut self, file: &str, error: Error) {
        let finding = finding(file, error);
        let known = |other: &Finding| other.file == finding.file && other.offset == finding.offset && finding.offset.is_some();
        if !self.report.damage.iter().any(known) {
            self.report.damage.push(finding);
        }
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|other| other == name)
    }

    fn length(&self, name: &str) -> u64 {
        self.disk.open(name).and_then(|file| file.length()).unwrap_or(0)
    }

    fn measure(&mut self) {
        self.report.files = self.names.len() as u64;
        self.report.bytes = self.names.iter().map(|name| self.length(name)).sum();
    }

    /// Moves the progress on by a file.
    fn finished(&mut self, name: &str) {
        self.done += self.length(name);
        (self.caller.progress)(self.done.min(self.report.bytes), self.report.bytes);
    }

    /// Files that do not belong to a node.
    fn sort_out_strangers(&mut self) {
        let slots = [IDENTITY, CLUSTER, HARD_STATE_NAME, MARKS, manifest::NAME];
        for name in self.names.clone() {
            if name.ends_with(".tmp") {
                self.note(&name, None, "half-made; a start removes it");
            } else if hint::id_of(&name).is_some() {
                // Looked at with its segment, if the manifest names it.
                continue;
            } else if name == aside::NAME {
                let remedy = format!("once the files are mended, rename it to {} to have a start go on with them", aside::BACK);
                self.note(&name, None, format!("lists what was put aside because of damage; {remedy}"));
            } else if name == aside::BACK {
                self.note(
                    &name,
                    None,
                    "lists what was put aside because of damage; a start goes on with that, and puts the present log aside",
                );
            } else if name == reserve::NAME {
                // What it holds is nothing.
                self.finished(&name);
            } else if name != LOCK && !slots.contains(&&*name) && id_of(&name).is_none() && data_id_of(&name).is_none() {
                self.note(&name, None, "no file that this version knows; it is not looked at, and a start leaves it alone");
            }
        }
    }

    /// A slot file's newest payload, decoded.
    fn slot<T>(&mut self, name: &str, decode: impl FnOnce(&[u8]) -> Result<T>) -> Option<T> {
        let decoded = slots::look(self.disk, name).and_then(|found| {
            for (offset, reason) in found.repairs {
                self.note(name, Some(offset), format!("{reason}; a start rewrites this copy from its twin"));
            }
            decode(&found.payload)
        });
        self.finished(name);
        decoded.map_err(|error| self.damage(name, error)).ok()
    }

    /// Everything that belongs to the node; its log up to the first damage.
    fn node(&mut self) -> Option<Scan> {
        if self.has(IDENTITY) {
            self.report.node = self.slot(IDENTITY, |payload| decode_identity(payload, IDENTITY));
        } else if let Err(error) = directory::check_without_identity(&self.names) {
            self.damage(IDENTITY, error);
        }
        if !self.has(CLUSTER) {
            self.unfounded();
            return None;
        }
        self.report.founding = self.slot(CLUSTER, directory::decode_founding);
        if let (Some(founding), Some((_, id))) = (&self.report.founding, &self.report.node)
            && let Err(error) = directory::node_of(founding, id)
        {
            self.damage(CLUSTER, error);
        }
        let caller = self.caller;
        self.slot(MARKS, |payload| (caller.marks)(payload));
        self.report.hard_state = self.slot(HARD_STATE_NAME, decode_hard_state);
        let manifest = self.slot(manifest::NAME, Manifest::decode);
        self.log(manifest)
    }

    /// A node that belongs to no cluster.
    fn unfounded(&mut self) {
        let look = || slots::look(self.disk, HARD_STATE_NAME).map(|found| found.payload);
        match directory::half_founded(&self.names, look) {
            Err(error) => self.damage(CLUSTER, error),
            Ok(half_made) => half_made.iter().for_each(|name| self.note(name, None, "left by an interrupted founding; a start removes it")),
        }
    }

    fn log(&mut self, manifest: Option<Manifest>) -> Option<Scan> {
        let Some(cluster) = self.report.founding.as_ref().map(|founding| founding.cluster) else {
            self.note(CLUSTER, None, "the segments are not checked: it is not known to which cluster they should belong");
            return None;
        };
        let mut walk = Walk::new(self, cluster);
        let Some(manifest) = manifest else {
            walk.headers();
            return None;
        };
        let log = walk.log(&manifest);
        walk.unlisted(&manifest);
        walk.unnamed_hints(&manifest);
        Some(log)
    }

    /// What the device could not give back. In a segment a start would refuse it; a slot file has copies.
    fn unreadable(&mut self) {
        for piece in self.disk.unreadable() {
            let finding = Finding { file: piece.file, offset: Some(piece.offset), text: format!("it cannot be read: {}", piece.reason) };
            let list = if id_of(&finding.file).is_some() || data_id_of(&finding.file).is_some() {
                &mut self.report.damage
            } else {
                &mut self.report.notes
            };
            list.push(finding);
        }
    }
}

/// What an error says about a file.
fn finding(file: &str, error: Error) -> Finding {
    match error {
        Error::Corrupt { file, offset, reason } => {
            let name = file.rsplit('/').next().unwrap_or(&file).to_owned();
            let text = reason.trim_end_matches(super::REMEDY).trim_end_matches("; ").to_owned();
            Finding { file: name, offset: Some(offset), text }
        }
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Finding { file: file.to_owned(), offset: None, text: "the file is missing".to_owned() }
        }
        other => Finding { file: file.to_owned(), offset: None, text: other.to_string() },
    }
}
