//! The simulated disk as one process sees it: [`Disk`], [`DiskFile`] and [`Mapping`] on top of the shared state. Each call checks
//! first that its process still lives.

use super::{Asked, Hold, InodeNumber, OperationKind, SECTOR, Shared, SimulatedDisk, next_random, powered_off};
use crate::storage::disk::{Disk, DiskFile, Mapping};
use std::{fmt, io, sync::Arc};

/// A [`Disk`] for one life of a process.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) shared: Arc<Shared>,
    pub(super) life: u64,
}

fn operation(kind: OperationKind, name: &str) -> Asked<'_> {
    Asked { kind, name, offset: 0, bytes: &[] }
}

impl Process {
    fn file(&self, number: InodeNumber, handles: &Arc<()>) -> SimulatedFile {
        SimulatedFile { process: self.clone(), number, _handle: handles.clone() }
    }
}

impl Disk for Process {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.shared.state.lock();
        state.begin(self.life, &operation(OperationKind::Create, name))??;
        let number = state.image.create(name)?;
        Ok(Arc::new(self.file(number, &state.image.inode(number).handles)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.shared.state.lock();
        state.alive(self.life)?;
        if let Some((_, errno)) = state.refused.as_ref().filter(|(part, _)| name.contains(part.as_str())) {
            return Err((*errno).into());
        }
        let number = state.image.find(name)?;
        Ok(Arc::new(self.file(number, &state.image.inode(number).handles)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.begin(self.life, &Asked { bytes: to.as_bytes(), ..operation(OperationKind::Rename, from) })??;
        state.image.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.begin(self.life, &operation(OperationKind::Remove, name))??;
        state.image.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.shared.state.lock();
        state.alive(self.life)?;
        Ok(state.image.names())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.begin(self.life, &operation(OperationKind::SyncDirectory, ""))??;
        state.image.sync_directory();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.shared.state.lock();
        state.alive(self.life)?;
        Ok(state.image.free_bytes())
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.shared.state.lock();
        state.alive(self.life)?;
        if state.locks.contains(name) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if state.image.find(name).is_err() {
            state.begin(self.life, &operation(OperationKind::Create, name))??;
            state.image.create(name)?;
        }
        state.locks.insert(name.into());
        Ok(Box::new(Lock { process: self.clone(), name: name.into() }))
    }

    /// Stricter than a system: one reader at a time.
    fn lock_for_reading(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.shared.state.lock();
        state.alive(self.life)?;
        state.image.find(name)?;
        if !state.locks.insert(name.into()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock { process: self.clone(), name: name.into() }))
    }

    fn path(&self) -> String {
        "simulated".into()
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedDisk(life {})", self.life)
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.living().create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.living().open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.living().rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.living().remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.living().list()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.living().sync_directory()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.living().free_bytes()
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        self.living().lock(name)
    }

    fn lock_for_reading(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        self.living().lock_for_reading(name)
    }

    fn path(&self) -> String {
        self.living().path()
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.living().fmt(f)
    }
}

/// Held until it is dropped, or its process ends.
struct Lock {
    process: Process,
    name: String,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.process.shared.state.lock();
        if state.life == self.process.life {
            state.locks.remove(&self.name);
        }
    }
}

/// An open file, and a map of it.
struct SimulatedFile {
    process: Process,
    number: InodeNumber,
    /// Keeps the content when the file is removed.
    _handle: Arc<()>,
}

impl SimulatedFile {
    /// Runs an operation on the file. `act` learns whether it is to fail.
    fn operate(
        &self,
        kind: OperationKind,
        offset: u64,
        bytes: &[u8],
        act: impl FnOnce(&mut super::State, io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = self.process.shared.state.lock();
        state.alive(self.process.life)?;
        let name = Arc::clone(&state.image.inode(self.number).name);
        let outcome = state.begin(self.process.life, &Asked { kind, name: &name, offset, bytes })?;
        act(&mut state, outcome.map_err(io::Error::from))
    }
}

/// How much of a write that breaks off after `bytes` is there: systems copy whole pages into the cache, so it ends with a sector.
fn first_part(offset: u64, bytes: u64) -> usize {
    ((offset + bytes) / SECTOR * SECTOR).saturating_sub(offset) as usize
}

impl DiskFile for SimulatedFile {
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let bytes = parts.concat();
        self.operate(OperationKind::Write, offset, &bytes, |state, outcome| match outcome {
            Ok(()) => state.image.write(self.number, &bytes, offset),
            Err(error) => {
                let written = first_part(offset, next_random(&mut state.random) % (bytes.len() as u64 + 1));
                state.image.write(self.number, &bytes[..written], offset)?;
                Err(error)
            }
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.process.shared.state.lock();
        state.alive(self.process.life)?;
        state.image.inode(self.number).read(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        let state = self.process.shared.state.lock();
        state.alive(self.process.life)?;
        Ok(state.image.inode(self.number).length())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.operate(OperationKind::Allocate, length, &[], |state, outcome| {
            outcome?;
            state.image.allocate(self.number, length)
        })
    }

    /// Makes durable what was written before the call: a write made while the sync is held stays un-synced.
    fn sync(&self) -> io::Result<()> {
        let shared = &self.process.shared;
        let mut state = shared.state.lock();
        state.alive(self.process.life)?;
        let name = Arc::clone(&state.image.inode(self.number).name);
        if let Some(Hold::Refuse(errno)) = state.hold(&name) {
            return Err(errno.into());
        }
        let outcome = state.begin(self.process.life, &operation(OperationKind::Sync, &name))?;
        let flush = state.image.inode(self.number).begin_sync();
        while let Some(Hold::Block) = state.hold(&name) {
            state.blocked += 1;
            shared.changed.notify_all();
            shared.changed.wait(&mut state);
            state.blocked -= 1;
            state.alive(self.process.life)?;
        }
        let inode = state.image.inode_mut(self.number);
        match outcome {
            Ok(()) => inode.complete_sync(flush),
            Err(_) => inode.fail_sync(flush),
        }
        Ok(outcome?)
    }

    fn drop_cache(&self, offset: u64) -> io::Result<()> {
        let mut state = self.process.shared.state.lock();
        state.alive(self.process.life)?;
        state.image.inode_mut(self.number).drop_cache(offset);
        Ok(())
    }

    fn map(&self) -> io::Result<Arc<dyn Mapping>> {
        let state = self.process.shared.state.lock();
        state.alive(self.process.life)?;
        let inode = state.image.inode(self.number);
        Ok(Arc::new(SimulatedMapping { file: self.process.file(self.number, &inode.handles), length: inode.length() }))
    }
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedFile({} of life {})", self.number, self.process.life)
    }
}

/// A map: shows what is in the cache when it is looked at.
#[derive(Debug)]
struct SimulatedMapping {
    file: SimulatedFile,
    length: u64,
}

impl Mapping for SimulatedMapping {
    fn with(&self, offset: u64, length: usize, look: &mut dyn FnMut(&[u8])) {
        let end = offset.checked_add(length as u64);
        assert!(end.is_some_and(|end| end <= self.length), "{length} bytes at offset {offset} exceed a mapping of {} bytes", self.length);
        let mut bytes = vec![0; length];
        let read = self.file.read_at(&mut bytes, offset);
        assert!(read.is_ok(), "SIGBUS in {:?} at offset {offset}: {}", self.file, read.err().unwrap_or_else(powered_off));
        look(&bytes);
    }
}
