//! A disk that can only be looked at, for whoever inspects a directory that is not his: every call that would change something is
//! refused, whatever the disk below would do. It reads around what the device cannot give back, so that one unreadable sector does not
//! hide the rest of a file; and it remembers each, because what was read in its place is nothing.

use super::disk::{Disk, DiskFile, Mapping};
use parking_lot::Mutex;
use std::{
    fmt,
    io::{self, ErrorKind},
    sync::Arc,
};

/// What a device loses at once, and the least that is read at once around it.
const PIECE: u64 = 512;

/// A disk below, and what was seen of it.
#[derive(Debug)]
pub(super) struct ReadOnly {
    below: Arc<dyn Disk>,
    unreadable: Known,
}

type Known = Arc<Mutex<Vec<Unreadable>>>;

/// A piece of a file that the device could not give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) reason: String,
}

impl ReadOnly {
    /// Looks at `below`.
    pub(super) fn new(below: Arc<dyn Disk>) -> ReadOnly {
        ReadOnly { below, unreadable: Arc::default() }
    }

    /// The pieces that could not be read, each once, in the order in which they were met; what was read in their place is zeros.
    pub(super) fn unreadable(&self) -> Vec<Unreadable> {
        self.unreadable.lock().clone()
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::new(ErrorKind::ReadOnlyFilesystem, "the directory is only looked at"))
}

impl Disk for ReadOnly {
    fn create(&self, _: &str) -> io::Result<Arc<dyn DiskFile>> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let below = self.below.open(name)?;
        // What the device holds is of interest, not a cache. Where the cache cannot be dropped, the cache has to do.
        let _ = below.drop_cache(0);
        Ok(Arc::new(ReadOnlyFile { below, name: name.to_owned(), unreadable: Arc::clone(&self.unreadable) }))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.below.list()
    }

    fn sync_directory(&self) -> io::Result<()> {
        refused()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.below.free_bytes()
    }

    fn lock(&self, _: &str) -> io::Result<Box<dyn Send + Sync>> {
        refused()
    }

    fn lock_for_reading(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        self.below.lock_for_reading(name)
    }

    fn path(&self) -> String {
        self.below.path()
    }
}

struct ReadOnlyFile {
    below: Arc<dyn DiskFile>,
    name: String,
    unreadable: Known,
}

impl fmt::Debug for ReadOnlyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadOnly({:?})", self.below)
    }
}

impl ReadOnlyFile {
    /// Reads piece by piece, and zeros where the device fails.
    fn read_around(&self, buffer: &mut [u8], offset: u64) {
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let length = (PIECE - at % PIECE).min(rest.len() as u64);
            let (piece, later) = rest.split_at_mut(length as usize);
            if let Err(error) = self.below.read_at(piece, at) {
                piece.fill(0);
                self.note(at / PIECE * PIECE, &error);
            }
            at += length;
            rest = later;
        }
    }

    fn note(&self, offset: u64, error: &io::Error) {
        let mut unreadable = self.unreadable.lock();
        if !unreadable.iter().any(|known| known.offset == offset && known.file == self.name) {
            unreadable.push(Unreadable { file: self.name.clone(), offset, reason: error.to_string() });
        }
    }
}

impl DiskFile for ReadOnlyFile {
    fn write_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        refused()
    }

    /// A file that ends too early is an error here too; that is no fault of the device.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.below.read_at(buffer, offset) {
            Err(error) if !matches!(error.kind(), ErrorKind::UnexpectedEof) => {
                self.read_around(buffer, offset);
                Ok(())
            }
            result => result,
        }
    }

    fn length(&self) -> io::Result<u64> {
        self.below.length()
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        refused()
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }

    fn drop_cache(&self, offset: u64) -> io::Result<()> {
        self.below.drop_cache(offset)
    }

    fn map(&self) -> io::Result<Arc<dyn Mapping>> {
        self.below.map()
    }
}
