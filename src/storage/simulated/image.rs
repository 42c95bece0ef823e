//! What a simulated disk holds: files with what is durable kept apart from what is only written, and a directory likewise. Pure data;
//! knows nothing of faults, handles or threads. It must never make anything durable that was not asked to be.
//!
//! The unit that survives a power cut or not is the sector; a file's length and every change of the directory are units too. A file's
//! entry in the directory and its content are independent: syncing one says nothing of the other.

use super::content::Content;
use rustix::io::Errno;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

/// What the disk writes wholly or not at all, in bytes.
pub const SECTOR: u64 = 512;
/// Cache is dropped in whole pages.
const PAGE: u64 = 4096;

/// Something that was done and not synced: a power cut may keep it or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// A creation, renaming or removal, in words.
    Directory(String),
    /// The file became longer.
    Length {
        /// Which file.
        name: String,
    },
    /// A sector of a file was written.
    Sector {
        /// Which file.
        name: String,
        /// Offset of its first byte.
        offset: u64,
    },
}

/// Names a file whatever it is called.
pub(super) type InodeNumber = u64;

#[derive(Clone, Debug)]
pub(super) struct Inode {
    /// As last created or renamed.
    pub(super) name: Arc<str>,
    /// What readers see.
    cached: Content,
    /// What a power cut leaves.
    durable: Content,
    /// Sectors that the next sync will write.
    dirty: BTreeSet<u64>,
    /// The next sync will make the length durable.
    length_dirty: bool,
    /// Sectors that a failed sync marked as clean although they never reached the device.
    stale: BTreeSet<u64>,
    /// Sectors that the device cannot read.
    unreadable: BTreeSet<u64>,
    /// Counts the open handles and maps, which keep the content of a removed file.
    pub(super) handles: Arc<()>,
}

/// What a sync that has begun will make durable.
#[derive(Debug)]
pub(super) struct Flush {
    sectors: Vec<u64>,
    /// What they held when it began.
    content: Content,
    length: Option<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Create { name: String, inode: InodeNumber },
    Remove { name: String, inode: InodeNumber },
    Rename { from: String, to: String, inode: InodeNumber },
}

/// Everything on a simulated disk at one moment, cache included. Opaque: to be kept and put back.
#[derive(Clone, Debug, Default)]
pub struct DiskImage {
    inodes: BTreeMap<InodeNumber, Inode>,
    last_inode: InodeNumber,
    entries: BTreeMap<String, InodeNumber>,
    durable_entries: BTreeMap<String, InodeNumber>,
    changes: Vec<Change>,
    /// Bytes that all files together may have; no limit if absent.
    capacity: Option<u64>,
}

impl DiskImage {
    pub(super) fn inode(&self, number: InodeNumber) -> &Inode {
        self.inodes.get(&number).expect("an inode lives as long as an entry or a handle of the running process names it")
    }

    pub(super) fn inode_mut(&mut self, number: InodeNumber) -> &mut Inode {
        self.inodes.get_mut(&number).expect("an inode lives as long as an entry or a handle of the running process names it")
    }

    pub(super) fn find(&self, name: &str) -> io::Result<InodeNumber> {
        self.entries.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    pub(super) fn create(&mut self, name: &str) -> io::Result<InodeNumber> {
        if self.entries.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.last_inode += 1;
        let inode = self.last_inode;
        self.inodes.insert(inode, Inode::new(name, &[]));
        self.change(Change::Create { name: name.into(), inode });
        Ok(inode)
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        let inode = self.find(name)?;
        self.change(Change::Remove { name: name.into(), inode });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.find(from)?;
        self.change(Change::Rename { from: from.into(), to: to.into(), inode });
        self.inode_mut(inode).name = to.into();
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.entries);
        self.changes.push(change);
    }

    pub(super) fn sync_directory(&mut self) {
        self.durable_entries.clone_from(&self.entries);
        self.changes.clear();
        self.forget_unnamed(true);
    }

    /// Drops the content of files that no name and, if `handles` count, no handle reaches any more.
    pub(super) fn forget_unnamed(&mut self, handles: bool) {
        let mut named: BTreeSet<InodeNumber> = self.entries.values().chain(self.durable_entries.values()).copied().collect();
        named.extend(self.changes.iter().map(Change::inode));
        self.inodes.retain(|number, inode| named.contains(number) || handles && Arc::strong_count(&inode.handles) > 1);
    }

    /// Bytes that files may still grow by.
    pub(super) fn free_bytes(&self) -> u64 {
        let used: u64 = self.entries.values().map(|inode| self.inode(*inode).length()).sum();
        self.capacity.map_or(1 << 50, |capacity| capacity.saturating_sub(used))
    }

    /// Sets what [`DiskImage::free_bytes`] answers from here on, until files grow or go; `None` is no limit.
    pub(super) fn set_free_bytes(&mut self, free: Option<u64>) {
        let used: u64 = self.entries.values().map(|inode| self.inode(*inode).length()).sum();
        self.capacity = free.map(|free| used + free);
    }

    /// Writes as much as there is room for.
    pub(super) fn write(&mut self, number: InodeNumber, bytes: &[u8], offset: u64) -> io::Result<()> {
        let growth = (offset + bytes.len() as u64).saturating_sub(self.inode(number).length());
        let missing = growth.saturating_sub(self.free_bytes()).min(bytes.len() as u64);
        self.inode_mut(number).write(&bytes[..bytes.len() - missing as usize], offset);
        if missing > 0 { Err(Errno::NOSPC.into()) } else { Ok(()) }
    }

    pub(super) fn allocate(&mut self, number: InodeNumber, length: u64) -> io::Result<()> {
        let growth = length.saturating_sub(self.inode(number).length());
        if growth > self.free_bytes() {
            return Err(Errno::NOSPC.into());
        }
        if growth > 0 {
            self.inode_mut(number).grow(length);
        }
        Ok(())
    }

    /// Everything that a power cut may keep or lose, in a fixed order: changes of the directory as they were made, then file by file.
    pub(super) fn unsynced(&self) -> Vec<Unsynced> {
        let directory = self.changes.iter().map(|change| Unsynced::Directory(change.to_string()));
        directory.chain(self.inodes.values().flat_map(Inode::unsynced)).collect()
    }

    /// Cuts the power. `keep` is asked once for everything un-synced, in the order of [`DiskImage::unsynced`], how many of its first
    /// bytes survive: of a sector up to [`SECTOR`], otherwise 0 for no and anything else for yes.
    pub(super) fn cut_power(&mut self, keep: &mut dyn FnMut(&Unsynced) -> u64) {
        for change in std::mem::take(&mut self.changes) {
            if keep(&Unsynced::Directory(change.to_string())) > 0 {
                change.apply(&mut self.durable_entries);
            }
        }
        self.inodes.values_mut().for_each(|inode| inode.cut_power(keep));
        self.entries.clone_from(&self.durable_entries);
        self.forget_unnamed(false);
        for (name, inode) in self.entries.clone() {
            self.inode_mut(inode).name = name.into();
        }
    }

    /// Puts a file there, durable with its name, in place of what stood there.
    pub(super) fn put(&mut self, name: &str, content: &[u8]) {
        self.last_inode += 1;
        self.inodes.insert(self.last_inode, Inode::new(name, content));
        self.entries.insert(name.into(), self.last_inode);
        self.durable_entries.insert(name.into(), self.last_inode);
    }

    /// Takes a file away for good, as somebody else with access to the directory could.
    pub(super) fn delete(&mut self, name: &str) -> io::Result<()> {
        let inode = self.find(name)?;
        self.entries.remove(name);
        self.durable_entries.retain(|_, other| *other != inode);
        self.changes.retain(|change| change.inode() != inode);
        Ok(())
    }
}

impl Inode {
    fn new(name: &str, content: &[u8]) -> Inode {
        let (name, content) = (name.into(), Content::new(content));
        let (dirty, stale, unreadable) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Inode { name, cached: content.clone(), durable: content, dirty, length_dirty: false, stale, unreadable, handles: Arc::new(()) }
    }

    pub(super) fn length(&self) -> u64 {
        self.cached.len() as u64
    }

    pub(super) fn durable(&self) -> Vec<u8> {
        self.durable.to_vec()
    }

    fn grow(&mut self, length: u64) {
        self.cached.resize(length as usize);
        self.length_dirty = true;
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        if end > self.length() {
            self.grow(end);
        }
        self.cached.write(bytes, offset as usize);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            self.dirty.insert(sector);
            self.stale.remove(&sector);
            self.unreadable.remove(&sector);
        }
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(buffer.len() as u64);
        if end > self.length() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.unreadable.range(offset / SECTOR..end.div_ceil(SECTOR)).next().is_some() {
            return Err(Errno::IO.into());
        }
        self.cached.read(buffer, offset as usize);
        Ok(())
    }

    pub(super) fn begin_sync(&self) -> Flush {
        let sectors = self.dirty.iter().copied().collect();
        Flush { sectors, content: self.cached.clone(), length: self.length_dirty.then_some(self.cached.len()) }
    }

    /// Makes durable what was there when the sync began; what was written since stays dirty.
    pub(super) fn complete_sync(&mut self, flush: Flush) {
        let mut next = 0;
        while let Some(first) = flush.sectors.get(next) {
            // Neighbours go together, so that whole pages can be shared.
            let run = flush.sectors[next..].iter().zip(*first..).take_while(|(sector, expected)| **sector == *expected).count();
            let start = (first * SECTOR) as usize;
            let end = (start + run * SECTOR as usize).min(flush.content.len());
            self.durable.take(&flush.content, start, end.saturating_sub(start));
            next += run;
        }
        for sector in flush.sectors {
            let range = self.range(sector, SECTOR);
            if range.is_empty() || self.cached.equals(&self.durable, range.start, range.len()) {
                self.dirty.remove(&sector);
            }
        }
        let length = flush.length.unwrap_or(0).max(self.durable.len());
        self.durable.resize(length);
        self.length_dirty &= self.durable.len() < self.cached.len();
    }

    /// What the kernel does when the device refuses: the pages count as clean, and their content is not on the device.
    pub(super) fn fail_sync(&mut self, flush: Flush) {
        self.stale.extend(flush.sectors.iter().filter(|sector| self.dirty.remove(sector)));
        self.length_dirty &= flush.length.is_none();
    }

    /// The first `bytes` of a sector, as far as the file goes.
    fn range(&self, sector: u64, bytes: u64) -> std::ops::Range<usize> {
        let start = (sector * SECTOR) as usize;
        start..(start + bytes as usize).min(self.cached.len())
    }

    /// Makes the first `bytes` of a written sector durable.
    fn keep(&mut self, sector: u64, bytes: u64) {
        let range = self.range(sector, bytes);
        self.durable.take(&self.cached, range.start, range.len());
    }

    pub(super) fn drop_cache(&mut self, offset: u64) {
        for sector in self.stale.split_off(&(offset / PAGE * PAGE / SECTOR)) {
            let range = self.range(sector, SECTOR);
            let mut bytes = vec![0; range.len()];
            let there = self.durable.len().saturating_sub(range.start).min(bytes.len());
            self.durable.read(&mut bytes[..there], range.start.min(self.durable.len()));
            self.cached.write(&bytes, range.start);
        }
    }

    fn unsynced(&self) -> Vec<Unsynced> {
        let name = || self.name.to_string();
        let length = self.length_dirty.then(|| Unsynced::Length { name: name() });
        let sectors = self.dirty.iter().map(|sector| Unsynced::Sector { name: name(), offset: sector * SECTOR });
        length.into_iter().chain(sectors).collect()
    }

    fn cut_power(&mut self, keep: &mut dyn FnMut(&Unsynced) -> u64) {
        let mut length = self.durable.len();
        if self.length_dirty && keep(&Unsynced::Length { name: self.name.to_string() }) > 0 {
            length = self.cached.len();
        }
        for sector in std::mem::take(&mut self.dirty) {
            let bytes = keep(&Unsynced::Sector { name: self.name.to_string(), offset: sector * SECTOR });
            if bytes > 0 {
                self.keep(sector, bytes);
            }
        }
        let length = length.max(self.durable.len());
        self.durable.resize(length);
        self.cached.clone_from(&self.durable);
        self.length_dirty = false;
        self.stale.clear();
    }

    /// Lets `damage` change a range of the content, cached and (where it reaches there) durable, by whatever else than our writes.
    pub(super) fn damage(&mut self, offset: usize, length: usize, damage: impl Fn(&mut [u8])) -> io::Result<()> {
        if offset + length > self.cached.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for content in [&mut self.cached, &mut self.durable] {
            if offset + length <= content.len() {
                let mut bytes = vec![0; length];
                content.read(&mut bytes, offset);
                damage(&mut bytes);
                content.write(&bytes, offset);
            }
        }
        Ok(())
    }

    pub(super) fn truncate(&mut self, length: u64) {
        for content in [&mut self.cached, &mut self.durable] {
            content.resize(content.len().min(length as usize));
        }
        for set in [&mut self.dirty, &mut self.stale, &mut self.unreadable] {
            set.split_off(&length.div_ceil(SECTOR));
        }
    }

    pub(super) fn make_unreadable(&mut self, offset: u64) {
        self.unreadable.insert(offset / SECTOR);
    }
}

impl Change {
    fn inode(&self) -> InodeNumber {
        match self {
            Change::Create { inode, .. } | Change::Remove { inode, .. } | Change::Rename { inode, .. } => *inode,
        }
    }

    /// Does it to `entries`, which may lack what was done before it.
    fn apply(&self, entries: &mut BTreeMap<String, InodeNumber>) {
        match self {
            Change::Create { name, inode } => {
                entries.insert(name.clone(), *inode);
            }
            Change::Remove { name, inode } => entries.retain(|other, number| other != name || *number != *inode),
            Change::Rename { to, inode, .. } => {
                // Not only from the old name: if an earlier renaming was lost, the file still stands under another one.
                entries.retain(|_, number| *number != *inode);
                entries.insert(to.clone(), *inode);
            }
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Change::Create { name, .. } => write!(f, "create {name}"),
            Change::Remove { name, .. } => write!(f, "remove {name}"),
            Change::Rename { from, to, .. } => write!(f, "rename {from} to {to}"),
        }
    }
}
