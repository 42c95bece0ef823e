//! The data directory, in two phases. [`Directory::open`] locks it, sweeps what a crash left half-made and finds out who this node is;
//! [`Directory::found`] makes it a member of a cluster; [`Directory::open_log`] recovers the log. Nothing here is used once the node
//! runs.

use super::aside;
use super::disk::Disk;
use super::founding::{FOUNDING_CAPACITY, IDENTITY_CAPACITY, decode_identity, encode_identity};
use super::manifest::{self, Manifest};
use super::mend::Damaged;
use super::recovery::Recovered;
use super::segment;
use super::slots::SlotFile;
use super::writer::{self, HARD_STATE_CAPACITY, HARD_STATE_NAME, LogWriter, decode_hard_state, encode_hard_state};
use super::{Options, recovery};
use crate::bugbank::planted;
use crate::error::{Error, Result};
use crate::raft::{HardState, NodeId};
use std::io;
use std::sync::Arc;

pub use super::founding::{Founding, FoundingMember, Identity};
pub use super::recovery::{Opened, Workers};

pub(super) const LOCK: &str = "lock";
pub(super) const IDENTITY: &str = "identity";
pub(super) const CLUSTER: &str = "cluster";
pub(super) const MARKS: &str = "marks";
/// Most payload bytes of the marks file.
pub const MARKS_CAPACITY: usize = 16 << 10;

/// Keeps other processes out of the directory until it is dropped.
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Box<dyn Send + Sync>);

impl Lock {
    /// A lock that was taken.
    pub(super) fn new(held: Box<dyn Send + Sync>) -> Lock {
        Lock(held)
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

/// An open and locked data directory whose log is not open yet.
#[derive(Debug)]
pub struct Directory {
    disk: Arc<dyn Disk>,
    lock: Lock,
    id: String,
    identity: Identity,
    founding: Option<Founding>,
    marks: Option<(SlotFile, Vec<u8>)>,
}

impl Directory {
    /// Locks the directory, sweeps half-made files, and makes this start's identity durable. `id` is the text of `--id`.
    ///
    /// Errors: [`Error::Directory`] when another process holds the lock, or the directory is another node's or a newer version's;
    /// [`Error::Corrupt`] when its files contradict each other.
    pub fn open(disk: Arc<dyn Disk>, id: &str) -> Result<Directory> {
        let path = disk.path();
        let lock = disk.lock(LOCK).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => {
                Error::Directory(format!("data directory {path} is in use by another process; stop it, or give another --data-dir"))
            }
            _ => Error::Io { doing: format!("lock {path}/{LOCK}"), source },
        })?;
        // What an earlier process did to names may only be in memory; nothing may be concluded from it before it is durable.
        disk.sync_directory().map_err(Error::io(format!("sync directory {path}")))?;
        let names = list(&*disk)?;
        let has = |name: &str| names.iter().any(|other| other == name);
        let temporary: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.ends_with(".tmp")).collect();
        remove_all(&*disk, &temporary)?;
        if !has(IDENTITY) {
            check_without_identity(&names)?;
        }
        let identity = start_identity(&disk, id, has(IDENTITY))?;
        let mut directory = Directory { disk, lock: Lock(lock), id: id.to_owned(), identity, founding: None, marks: None };
        if has(CLUSTER) {
            let (_, payload) = SlotFile::open(&directory.disk, CLUSTER)?;
            directory.founding = Some(decode_founding(&payload)?);
            directory.marks = Some(SlotFile::open(&directory.disk, MARKS)?);
        } else {
            directory.sweep_half_founded(&names)?;
        }
        Ok(directory)
    }

    /// A crash in the middle of founding leaves some of its files. They are removed, unless they show that the node has lived.
    fn sweep_half_founded(&self, names: &[String]) -> Result<()> {
        let half_made = half_founded(names, || SlotFile::open(&self.disk, HARD_STATE_NAME).map(|(_, payload)| payload))?;
        remove_all(&*self.disk, &half_made)
    }

    /// Who this node is, at this start.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The cluster this node belongs to; `None` while it is empty.
    pub fn founding(&self) -> Option<&Founding> {
        self.founding.as_ref()
    }

    /// Makes an empty node a member. Durable when it returns: from then on the node may vote. The record must name this node's id and
    /// uuid.
    pub fn found(&mut self, founding: &Founding) -> Result<()> {
        assert!(self.founding.is_none(), "a node that belongs to {:?} is founded into {founding:?}", self.founding);
        let own = founding.members.iter().find(|member| member.id == self.id);
        if own.is_none_or(|own| own.uuid != self.identity.uuid) {
            let uuid = self.identity.uuid;
            return Err(Error::Directory(format!("the founding record does not name {} with uuid {uuid:032x}", self.id)));
        }
        // An attempt that failed in this very process may have left some.
        self.sweep_half_founded(&list(&*self.disk)?)?;
        if planted(108) {
            SlotFile::create(&self.disk, CLUSTER, FOUNDING_CAPACITY, &founding.encode())?;
        }
        let hard_state = encode_hard_state(&HardState::default());
        SlotFile::create(&self.disk, HARD_STATE_NAME, HARD_STATE_CAPACITY, &hard_state)?;
        SlotFile::create(&self.disk, manifest::NAME, manifest::CAPACITY, &Manifest::default().encode())?;
        let marks = SlotFile::create(&self.disk, MARKS, MARKS_CAPACITY, &[])?;
        if !planted(108) {
            SlotFile::create(&self.disk, CLUSTER, FOUNDING_CAPACITY, &founding.encode())?;
        }
        self.marks = Some((marks, Vec::new()));
        self.founding = Some(founding.clone());
        Ok(())
    }

    /// The file in which the host keeps what it knows of its peers, and its newest payload (empty at first). Only for a founded
    /// directory, and only once.
    pub fn take_marks(&mut self) -> (SlotFile, Vec<u8>) {
        self.marks.take().expect("marks are taken once, after founding")
    }

    /// Recovers the log and everything around it. The directory must be founded. See the format document for what is believed. A node that
    /// is not alone and finds damage puts everything aside at once.
    pub fn open_log(self, options: &Options) -> Result<Opened> {
        let unopened = self.prepare(options)?;
        let alone = unopened.founding.members.len() == 1;
        unopened.open(|writer, node, hard_state, options| recovery::recover(writer, node, hard_state, options, alone))
    }

    /// The same, but a node that is not alone gets its damaged log to do something about it.
    pub fn try_open_log(self, options: &Options) -> Result<Attempt> {
        self.prepare(options)?.attempt()
    }

    fn prepare(self, options: &Options) -> Result<Unopened> {
        let founding = self.founding.expect("the log is opened after founding");
        let node = node_of(&founding, &self.id)?;
        let (hard_state_file, payload) = SlotFile::open(&self.disk, HARD_STATE_NAME)?;
        let hard_state = decode_hard_state(&payload)?;
        let (manifest_file, payload) = SlotFile::open(&self.disk, manifest::NAME)?;
        let mut writer = writer::LogWriter {
            disk: self.disk,
            cluster: founding.cluster,
            boot: self.identity.boot,
            hard_state: hard_state_file,
            manifest_file,
            manifest: Manifest::decode(&payload)?,
            chain: writer::Chain::default(),
        };
        aside::put_back(&mut writer, self.identity.uuid, &hard_state)?;
        Ok(Unopened { lock: self.lock, identity: self.identity, founding, node, hard_state, options: *options, writer })
    }
}

/// What an attempt to open the log comes to.
#[derive(Debug)]
pub enum Attempt {
    /// It is whole.
    Opened(Box<Opened>),
    /// It is damaged, and other nodes may have what is missing.
    Damaged(Box<Damaged>),
}

/// A founded directory, and what is to be known before its log is looked at.
#[derive(Debug)]
pub(super) struct Unopened {
    pub(super) lock: Lock,
    pub(super) identity: Identity,
    pub(super) founding: Founding,
    pub(super) node: NodeId,
    pub(super) hard_state: HardState,
    pub(super) options: Options,
    pub(super) writer: LogWriter,
}

impl Unopened {
    /// Opens the log if it is whole; a node that is alone has no other way.
    pub(super) fn attempt(self) -> Result<Attempt> {
        if self.founding.members.len() == 1 {
            let opened = self.open(|writer, node, hard_state, options| recovery::recover(writer, node, hard_state, options, true))?;
            return Ok(Attempt::Opened(Box::new(opened)));
        }
        let Unopened { lock, identity, founding, node, hard_state, options, writer } = self;
        match recovery::recover_whole(writer, identity.uuid, &hard_state, &options)? {
            Ok(recovered) => Ok(Attempt::Opened(Box::new(opened(lock, identity, founding, node, hard_state, recovered)))),
            Err((writer, cause)) => {
                let unopened = Unopened { lock, identity, founding, node, hard_state, options, writer };
                Damaged::new(unopened, cause).map(|damaged| Attempt::Damaged(Box::new(damaged)))
            }
        }
    }

    /// Opens the log as `recover` has it.
    pub(super) fn open(self, recover: impl FnOnce(LogWriter, u128, &HardState, &Options) -> Result<Recovered>) -> Result<Opened> {
        let Unopened { lock, identity, founding, node, hard_state, options, writer } = self;
        let recovered = recover(writer, identity.uuid, &hard_state, &options)?;
        Ok(opened(lock, identity, founding, node, hard_state, recovered))
    }
}

fn opened(lock: Lock, identity: Identity, founding: Founding, node: NodeId, hard_state: HardState, recovered: Recovered) -> Opened {
    let Recovered { log, applier, workers, snapshots, store, commit, floor } = recovered;
    let disk = Arc::clone(&workers.writer.disk);
    Opened { disk, lock, identity, founding, node, hard_state, log, applier, workers, snapshots, store, commit, floor }
}

/// Files that are only made behind an identity need one.
pub(super) fn check_without_identity(names: &[String]) -> Result<()> {
    let Some(orphan) = names.iter().find(|name| *name == CLUSTER || segment::id_of(name).is_some()) else { return Ok(()) };
    let reason = format!("the directory holds {orphan}, so this node had an identity, and its file is missing");
    Err(super::corrupt(IDENTITY, 0, reason))
}

/// What an interrupted founding has left where there is no cluster file; damage, if it shows that the node has lived. `hard_state`
/// reads the payload of that file.
pub(super) fn half_founded(names: &[String], hard_state: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<&'static str>> {
    if let Some(segment) = names.iter().find(|name| segment::id_of(name).is_some()) {
        let reason = format!("the file is missing, but the directory holds {segment}, which only a founded node has");
        return Err(super::corrupt(CLUSTER, 0, reason));
    }
    let half_made = [HARD_STATE_NAME, manifest::NAME, MARKS];
    let present: Vec<&str> = half_made.into_iter().filter(|half| names.iter().any(|name| name == half)).collect();
    if present.contains(&HARD_STATE_NAME) {
        let HardState { term, .. } = decode_hard_state(&hard_state()?)?;
        if term > 0 {
            let restored = "(or a restore into this directory was interrupted: then empty it and restore again)";
            let reason = format!("the file is missing, but {HARD_STATE_NAME} says that this node has been in term {term} {restored}");
            return Err(super::corrupt(CLUSTER, 0, reason));
        }
    }
    Ok(present)
}

/// The founding record in the payload of the cluster file.
pub(super) fn decode_founding(payload: &[u8]) -> Result<Founding> {
    Founding::decode(payload).ok_or_else(|| super::corrupt(CLUSTER, 0, "it holds no founding record"))
}

/// The core's number of the node that calls itself `id`.
pub(super) fn node_of(founding: &Founding, id: &str) -> Result<NodeId> {
    let foreign = || Error::Directory(format!("{CLUSTER} does not name {id}: the directory is another node's"));
    founding.node(id).ok_or_else(foreign)
}

/// Makes the identity of this start durable: a new one, or the old one with the next boot.
fn start_identity(disk: &Arc<dyn Disk>, id: &str, exists: bool) -> Result<Identity> {
    let nonce = rand::random();
    if !exists {
        let identity = Identity { uuid: rand::random(), boot: 1, nonce };
        SlotFile::create(disk, IDENTITY, IDENTITY_CAPACITY, &encode_identity(&identity, id))?;
        return Ok(identity);
    }
    let (mut file, payload) = SlotFile::open(disk, IDENTITY)?;
    let (before, owner) = decode_identity(&payload, IDENTITY)?;
    if owner != id {
        let path = disk.path();
        let remedy = format!("start with --id {owner}, or give another --data-dir");
        return Err(Error::Directory(format!("data directory {path} belongs to {owner}, not to {id}: {remedy}")));
    }
    let identity = Identity { uuid: before.uuid, boot: before.boot + 1, nonce };
    file.write(&encode_identity(&identity, id))?;
    Ok(identity)
}

fn list(disk: &dyn Disk) -> Result<Vec<String>> {
    disk.list().map_err(Error::io(format!("list {}", disk.path())))
}

/// Removes files for good.
pub(super) fn remove_all(disk: &dyn Disk, names: &[&str]) -> Result<()> {
    for name in names {
        disk.remove(name).map_err(Error::io(format!("remove {}/{name}", disk.path())))?;
    }
    if !names.is_empty() {
        disk.sync_directory().map_err(Error::io(format!("sync directory {}", disk.path())))?;
    }
    Ok(())
}
