//! A segment: one file of the log, written once from front to back, shared by every thread; or a data file, which a merge has written
//! whole. Knows where its bytes are (still staged in memory, or in the file) and hands them out; never writes, never decides what is
//! valid.

use super::disk::{Disk, DiskFile, Mapping};
use super::fill;
use crate::bugbank::planted;
use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Size of the header block in front of the first batch.
pub(super) const HEADER_BLOCK: u64 = 4096;
/// Smallest segment: one that takes nothing but a closing batch.
const LENGTH_MIN: u64 = HEADER_BLOCK + super::batch::HEADER_BYTES;
/// Largest segment: offsets are kept in four bytes.
pub(super) const LENGTH_MAX: u64 = 1 << 31;

const MAGIC: [u8; 8] = *b"ApexKVsg";
const DATA_MAGIC: [u8; 8] = *b"ApexKVdt";
const VERSION: u32 = 1;

/// What stands in a segment's header block. The layout is in the format document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The cluster it belongs to.
    pub(super) cluster: u128,
    /// The node that made it.
    pub(super) node: u128,
    /// Its number within the node; never used again.
    pub(super) id: u32,
    /// The length the file was made with.
    pub(super) length: u64,
    /// Where the fill is computed from; 0 in a data file, which has none.
    pub(super) seed: u64,
    /// Whether it is a data file: records without batches, up to its end.
    pub(super) data: bool,
}

impl SegmentHeader {
    /// The file's name.
    pub(super) fn name(&self) -> String {
        if self.data { data_name(self.id) } else { file_name(self.id) }
    }

    /// The header block, and its CRC, which the first batch repeats.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut block = vec![0; HEADER_BLOCK as usize];
        block[0..8].copy_from_slice(if self.data { &DATA_MAGIC } else { &MAGIC });
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[16..32].copy_from_slice(&self.cluster.to_le_bytes());
        block[32..48].copy_from_slice(&self.node.to_le_bytes());
        block[48..52].copy_from_slice(&self.id.to_le_bytes());
        block[52..60].copy_from_slice(&self.length.to_le_bytes());
        block[60..68].copy_from_slice(&self.seed.to_le_bytes());
        let crc = block_crc(&block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        (block, crc)
    }

    /// Reads the header block of `file` and checks that it is what a node of `cluster` named so.
    pub(super) fn read(file: &dyn DiskFile, name: &str, cluster: u128) -> Result<(SegmentHeader, u32)> {
        let corrupt = |reason: String| super::corrupt(name, 0, reason);
        let actual = file.length().map_err(Error::io(format!("read the length of {name}")))?;
        if actual < HEADER_BLOCK {
            return Err(corrupt(format!("the file has {actual} bytes, fewer than its header block of {HEADER_BLOCK}")));
        }
        let mut block = vec![0; HEADER_BLOCK as usize];
        file.read_at(&mut block, 0).map_err(|source| super::unread(name, 0, source))?;
        let mut fields = super::bytes::Fields::new(&block);
        let truncated = || super::corrupt(name, 0, "the header block is too short");
        let magic = fields.slice(8).ok_or_else(truncated)?;
        if magic != MAGIC && magic != DATA_MAGIC {
            return Err(corrupt("the header block does not start like one of a segment".into()));
        }
        let data = magic == DATA_MAGIC;
        let version = fields.u32().ok_or_else(truncated)?;
        let crc = fields.u32().ok_or_else(truncated)?;
        if block_crc(&block) != crc {
            return Err(corrupt("the header block does not match its CRC".into()));
        }
        if version != VERSION {
            return Err(super::newer(name, version, VERSION));
        }
        let header = SegmentHeader {
            cluster: fields.u128().ok_or_else(truncated)?,
            node: fields.u128().ok_or_else(truncated)?,
            id: fields.u32().ok_or_else(truncated)?,
            length: fields.u64().ok_or_else(truncated)?,
            seed: fields.u64().ok_or_else(truncated)?,
            data,
        };
        if header.cluster != cluster {
            return Err(corrupt(format!("it belongs to cluster {:032x}, this node to {cluster:032x}", header.cluster)));
        }
        let length_min = if header.data { HEADER_BLOCK } else { LENGTH_MIN };
        if header.name() != name || !(length_min..=LENGTH_MAX).contains(&header.length) {
            return Err(corrupt(format!("its header says {} of {} bytes", header.name(), header.length)));
        }
        if actual < header.length {
            return Err(super::corrupt(name, actual, format!("the file ends here, it was made with {} bytes", header.length)));
        }
        Ok((header, crc))
    }

    /// What the header block says, whether its CRC matches or not. Only for looking at what is damaged.
    pub(super) fn read_unchecked(file: &dyn DiskFile) -> Result<SegmentHeader> {
        let mut block = [0; 68];
        file.read_at(&mut block, 0).map_err(Error::io("read a header block"))?;
        let mut fields = super::bytes::Fields::new(&block[16..]);
        let truncated = || Error::Closed;
        Ok(SegmentHeader {
            cluster: fields.u128().ok_or_else(truncated)?,
            node: fields.u128().ok_or_else(truncated)?,
            id: fields.u32().ok_or_else(truncated)?,
            length: fields.u64().ok_or_else(truncated)?,
            seed: fields.u64().ok_or_else(truncated)?,
            data: false,
        })
    }
}

fn block_crc(block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..12]);
    hasher.update(&block[16..]);
    hasher.finalize()
}

/// The name of the segment with this number.
pub(super) fn file_name(id: u32) -> String {
    format!("{id:08x}.log")
}

/// The name of the data file with this number.
pub(super) fn data_name(id: u32) -> String {
    format!("{id:08x}.data")
}

/// The number in a segment's name; `None` for any other file.
pub(super) fn id_of(name: &str) -> Option<u32> {
    number_in(name, ".log", file_name)
}

/// The number in a data file's name; `None` for any other file.
pub(super) fn data_id_of(name: &str) -> Option<u32> {
    number_in(name, ".data", data_name)
}

/// The number in the name of a file of one kind, if `name_of` would give it that name.
pub(super) fn number_in(name: &str, suffix: &str, name_of: impl Fn(u32) -> String) -> Option<u32> {
    let id = u32::from_str_radix(name.strip_suffix(suffix)?, 16).ok()?;
    (name_of(id) == name).then_some(id)
}

/// Records that stand contiguous in a batch and are not known to be in the file yet: shared, immutable, placed.
pub struct Chunk {
    offset: u64,
    bytes: Vec<u8>,
}

impl Chunk {
    /// Records whose first byte will stand at `offset` of the segment.
    pub(super) fn new(offset: u64, bytes: Vec<u8>) -> Chunk {
        Chunk { offset, bytes }
    }

    /// Where in the segment it starts.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Where in the segment it ends.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Its records.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({}..{})", self.offset, self.end())
    }
}

/// A segment's file and what of it is still in memory. Bytes below `written` are in the file and will never change.
pub struct Segment {
    header: SegmentHeader,
    header_crc: u32,
    name: String,
    file: Arc<dyn DiskFile>,
    mapping: Arc<dyn Mapping>,
    written: AtomicU64,
    /// The manifest does not name it any more.
    given_up: AtomicBool,
    /// In order of their offsets. The lock is held for a push, a pop or a clone, never over I/O.
    staging: Mutex<VecDeque<Arc<Chunk>>>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({}, written {})", self.name, self.written())
    }
}

impl Segment {
    /// A segment whose file has its full length and whose header block is `header`. `written` is where its last batch ends.
    pub(super) fn new(file: Arc<dyn DiskFile>, header: SegmentHeader, header_crc: u32, written: u64) -> Result<Segment> {
        let name = header.name();
        let mapping = file.map().map_err(Error::io(format!("map {name}")))?;
        let (written, given_up) = (AtomicU64::new(written), AtomicBool::new(false));
        Ok(Segment { header, header_crc, name, file, mapping, written, given_up, staging: Mutex::default() })
    }

    /// Notes that the manifest does not name it any more. Whoever reads it may go on.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Whether the manifest does not name it any more: damage in it harms nobody.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Opens a listed segment and checks its header block and length.
    pub(super) fn open(disk: &dyn Disk, id: u32, cluster: u128) -> Result<Segment> {
        Segment::open_named(disk, file_name(id), cluster, HEADER_BLOCK)
    }

    /// Opens a listed data file, all of whose `length` bytes were written before it was listed.
    pub(super) fn open_data(disk: &dyn Disk, id: u32, cluster: u128, length: u64) -> Result<Segment> {
        Segment::open_named(disk, data_name(id), cluster, length)
    }

    fn open_named(disk: &dyn Disk, name: String, cluster: u128, written: u64) -> Result<Segment> {
        let file = disk.open(&name).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => super::corrupt(&name, 0, "the manifest lists this file, and it is missing"),
            _ => super::unread(&name, 0, source),
        })?;
        let (header, crc) = SegmentHeader::read(&*file, &name, cluster)?;
        Segment::new(file, header, crc, written)
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.header.id
    }

    /// Its file's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length of the file in bytes.
    pub fn length(&self) -> u64 {
        self.header.length
    }

    pub(super) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    pub(super) fn header_crc(&self) -> u32 {
        self.header_crc
    }

    pub(super) fn seed(&self) -> u64 {
        self.header.seed
    }

    pub(super) fn file(&self) -> &dyn DiskFile {
        &*self.file
    }

    /// How many bytes of records and frames fit, a closing batch left room for.
    pub(super) fn capacity(&self) -> u64 {
        self.header.length - HEADER_BLOCK - super::batch::HEADER_BYTES
    }

    /// Where the bytes end that are in the file, synced or not.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Called by the log writer when a write has returned: from now on readers use the map.
    pub(super) fn publish_written(&self, end: u64) {
        let before = self.written.swap(end, Ordering::Release);
        assert!(before <= end, "{}: written went back from {before} to {end}", self.name);
    }

    /// Makes a chunk readable before it is in the file.
    pub(super) fn stage(&self, chunk: Arc<Chunk>) {
        let mut staging = self.staging.lock();
        let last = staging.back().map_or(0, |last| last.end());
        assert!(last <= chunk.offset(), "{}: {chunk:?} was staged behind {last}", self.name);
        staging.push_back(chunk);
    }

    /// Forgets staged chunks that end at or below `end`; they are in the file.
    pub(super) fn unstage(&self, end: u64) {
        let mut staging = self.staging.lock();
        while staging.front().is_some_and(|chunk| chunk.end() <= end) {
            staging.pop_front();
        }
    }

    /// The staged chunk that holds the byte at `offset`.
    pub(super) fn staged(&self, offset: u64) -> Option<Arc<Chunk>> {
        let staging = self.staging.lock();
        let after = staging.partition_point(|chunk| chunk.end() <= offset);
        staging.get(after).filter(|chunk| chunk.offset() <= offset).cloned()
    }

    /// Where the first staged chunk starts; everything given out below is in the file.
    pub(super) fn first_staged(&self) -> u64 {
        self.staging.lock().front().map_or(u64::MAX, |chunk| chunk.offset())
    }

    /// Hands `length` bytes from `offset` to `look`, from the map if they are written, else from the stage. `false` when they are
    /// neither, which a location that was given out cannot be.
    pub(super) fn look(&self, offset: u64, length: usize, look: &mut dyn FnMut(&[u8])) -> bool {
        let end = offset + length as u64;
        // The stage is emptied only after `written` was published, so bytes missing in the stage are in the file by the second look.
        for _ in 0..2 {
            if end <= self.written() || planted(95) {
                self.mapping.with(offset, length, look);
                return true;
            }
            if let Some(chunk) = self.staged(offset) {
                let start = (offset - chunk.offset()) as usize;
                let Some(bytes) = chunk.bytes().get(start..start + length) else { return false };
                look(bytes);
                return true;
            }
        }
        false
    }

    /// Whether everything from `offset` to the end of the file still holds the fill. Reads the file, not the map.
    pub(super) fn is_fill_from(&self, offset: u64) -> Result<bool> {
        let mut buffer = vec![0; 1 << 20];
        let mut at = offset;
        while at < self.length() {
            let length = buffer.len().min((self.length() - at) as usize);
            self.read_file(&mut buffer[..length], at)?;
            if !fill::is_fill(self.seed(), at, &buffer[..length]) {
                return Ok(false);
            }
            at += length as u64;
        }
        Ok(true)
    }

    /// Fills `buffer` from the file itself; an unreadable sector is damage here and would be a SIGBUS under the map.
    pub(super) fn read_file(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_at(buffer, offset).map_err(|source| super::unread(&self.name, offset, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_belong_together() {
        assert_eq!(file_name(26), "0000001a.log");
        assert_eq!(id_of("0000001a.log"), Some(26));
        for other in ["0000001A.log", "1a.log", "0000001a.log.tmp", "manifest", "+000001a.log"] {
            assert_eq!(id_of(other), None, "{other}");
        }
    }
}
