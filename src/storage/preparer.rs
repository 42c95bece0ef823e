//! The preparer: makes the next segment ahead of need, so that rotation never waits for the disk to find room. It creates, fills and
//! syncs files that nobody else knows of yet; listing them is the log writer's job. It also keeps the reserve of disk space standing, and
//! never makes a segment out of its space.

use super::batch;
use super::data_file::Numbers;
use super::disk::{Disk, DiskFile};
use super::fill;
use super::reserve::{self, Reserve};
use super::segment::{HEADER_BLOCK, LENGTH_MAX, Segment, SegmentHeader, file_name};
use crate::bugbank::planted;
use crate::error::{Error, Result};
use std::io;
use std::sync::Arc;

/// The fill is computed in parts of this size.
const PART: usize = 1 << 20;
/// It is written page by page: a cache that keeps a file in units as large as the writes that made it would handle such a unit as a whole
/// for every batch that is written into it later.
const PAGE: usize = 4096;

/// Why there is no new segment.
#[derive(Debug)]
pub enum PrepareError {
    /// No room, no quota, no file handles or no memory for a map; what was begun has been removed. Text for a person; it can be tried
    /// later.
    Full(String),
    /// Anything else: the process must end.
    Fatal(Error),
}

impl From<Error> for PrepareError {
    /// What ran out may be there again later; everything else is fatal.
    fn from(error: Error) -> PrepareError {
        match &error {
            Error::Io { source, .. } if is_shortage(source) => PrepareError::Full(error.to_string()),
            _ => PrepareError::Fatal(error),
        }
    }
}

/// Makes segments.
#[derive(Debug)]
pub struct Preparer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) cluster: u128,
    pub(super) node: u128,
    pub(super) segment_bytes: u64,
    pub(super) numbers: Arc<Numbers>,
    pub(super) reserve: Arc<Reserve>,
}

impl Preparer {
    /// Makes a segment that takes at least `min_record_bytes` (0: of the usual size) and returns it when it is durable. It must be
    /// listed before it is used.
    pub fn prepare(&mut self, min_record_bytes: u64) -> std::result::Result<Arc<Segment>, PrepareError> {
        let needed = HEADER_BLOCK + min_record_bytes + batch::overhead(0);
        let length = self.segment_bytes.max(needed).next_multiple_of(HEADER_BLOCK);
        assert!(length <= LENGTH_MAX, "a segment of {length} bytes is beyond the limit of {LENGTH_MAX}");
        self.check_room(&format!("{}/{}", self.disk.path(), file_name(self.numbers.next())), length)?;
        // A number that was tried is not tried again: whether the removal of a failed attempt survives a crash is not known.
        let id = self.numbers.take();
        let header = SegmentHeader { cluster: self.cluster, node: self.node, id, length, seed: rand::random(), data: false };
        let path = format!("{}/{}", self.disk.path(), file_name(id));
        let temporary = format!("{}.tmp", file_name(header.id));
        let made = match self.make(&temporary, &header) {
            Ok(segment) => segment.map(Arc::new).map_err(PrepareError::from),
            Err(error) => Err(self.failed(&path, length, error)),
        };
        made.inspect_err(|_| {
            // Whichever name it has by now. Without room even this may fail; the next start sweeps what is left.
            let _ = self.disk.remove(&temporary);
            let _ = self.disk.remove(&file_name(header.id));
        })
    }

    /// Makes the reserve if it is missing, nobody works in its space, and there is room.
    pub fn keep_reserve(&self) -> std::result::Result<(), PrepareError> {
        let missing = self.reserve.missing();
        self.reserve.keep().map_err(|error| self.failed(&format!("{}/{}", self.disk.path(), reserve::NAME), missing, error))
    }

    /// How many bytes the reserve holds now.
    pub fn reserve_held(&self) -> u64 {
        self.reserve.held()
    }

    /// Whether the file system has room for a file of `length` bytes besides the reserve.
    fn check_room(&self, path: &str, length: u64) -> std::result::Result<(), PrepareError> {
        let free = self.disk.free_bytes().map_err(|error| self.failed(path, length, error))?;
        let missing = self.reserve.missing();
        if free >= length.saturating_add(missing) || planted(112) {
            return Ok(());
        }
        let reserve = if missing > 0 { format!(" and the reserve {missing}") } else { String::new() };
        Err(PrepareError::Full(format!("{path} needs {length} bytes{reserve}, the file system has {free} left")))
    }

    fn make(&self, temporary: &str, header: &SegmentHeader) -> io::Result<Result<Segment>> {
        let file = self.disk.create(temporary)?;
        file.allocate(header.length)?;
        let (block, crc) = header.encode();
        file.write_at(&[&block], 0)?;
        if !planted(50) {
            write_fill(&*file, header)?;
        }
        file.sync()?;
        self.disk.rename(temporary, &file_name(header.id))?;
        if !planted(54) {
            self.disk.sync_directory()?;
        }
        Ok(Segment::new(file, *header, crc, HEADER_BLOCK))
    }

    fn failed(&self, path: &str, length: u64, error: io::Error) -> PrepareError {
        if is_shortage(&error) {
            let left = self.disk.free_bytes().map_or(String::new(), |free| format!(", the file system has {free} left"));
            return PrepareError::Full(format!("{path} needs {length} bytes{left}: {error}"));
        }
        PrepareError::Fatal(Error::Io { doing: format!("make {path} of {length} bytes"), source: error })
    }
}

fn write_fill(file: &dyn DiskFile, header: &SegmentHeader) -> io::Result<()> {
    let mut part = vec![0; PART.min((header.length - HEADER_BLOCK) as usize)];
    let mut at = HEADER_BLOCK;
    while at < header.length {
        let length = PART.min((header.length - at) as usize);
        fill::fill(header.seed, at, &mut part[..length]);
        for page in part[..length].chunks(PAGE) {
            file.write_at(&[page], at)?;
            at += page.len() as u64;
        }
    }
    Ok(())
}

/// Whether an error says that something ran out, which time or a person can change.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    if planted(112) {
        return false;
    }
    let shortage = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || error.raw_os_error().is_some_and(|code| shortage.iter().any(|errno| errno.raw_os_error() == code))
}
