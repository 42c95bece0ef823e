//! Data files: values that have left the log. A data file holds records, each with one operation that takes effect unconditionally and
//! with the index and term of the entry that it came from; of each key at most one. Written whole by a [`DataWriter`], with its hint,
//! before any manifest names it, and never changed. Which records go in is decided by others.

use super::batch::BODY_MAX;
use super::bytes::NUMBER_MAX;
use super::disk::{Disk, DiskFile};
use super::hint::{self, Hint, HintKey, HintLog};
use super::record::{self, Kind, Operation};
use super::segment::{HEADER_BLOCK, LENGTH_MAX, Segment, SegmentHeader, data_name};
use crate::error::Result;
use crate::raft::EntryId;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Written at once.
const PART: usize = 1 << 20;
/// What has been written is synced after so many bytes, so that a sync of the log never waits behind a whole file.
const SYNC_EVERY: u64 = 8 << 20;

/// Numbers for segments and data files: each is given out once.
#[derive(Debug)]
pub(super) struct Numbers(AtomicU32);

impl Numbers {
    /// The first number given out is `next`.
    pub(super) fn new(next: u32) -> Numbers {
        Numbers(AtomicU32::new(next))
    }

    /// The number that comes next, for messages.
    pub(super) fn next(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// A number that no file has had.
    pub(super) fn take(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// To whom new files belong.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) cluster: u128,
    pub(super) node: u128,
    pub(super) numbers: Arc<Numbers>,
}

/// A data file that is durable and named nowhere yet.
#[derive(Clone, Debug)]
pub(super) struct DataFile {
    pub(super) segment: Arc<Segment>,
    /// The lowest version in it.
    pub(super) first: u64,
    /// The highest version in it.
    pub(super) last: u64,
    /// Bytes of records that delete a key.
    pub(super) deletions: u64,
}

/// The record of a data file, in place of whatever gave the key its value.
pub(super) fn encode_record(out: &mut Vec<u8>, id: EntryId, key: &[u8], value: Option<&[u8]>) {
    let start = out.len();
    record::encode_operation(out, &value.map_or(Operation::Delete { key }, |value| Operation::Set { key, value }));
    record::seal(&mut out[start..], id);
}

/// Size of a data file's record.
pub(super) fn record_bytes(key: usize, value: usize) -> u64 {
    (record::HEADER_BYTES + 9 + key + value) as u64
}

#[derive(Debug)]
struct Key {
    key: Box<[u8]>,
    version: u64,
    offset: u32,
    record_bytes: u32,
    value_bytes: Option<u32>,
}

/// Writes one data file.
#[derive(Debug)]
pub(super) struct DataWriter {
    owner: Owner,
    id: u32,
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    /// Where the buffer's first byte goes.
    flushed: u64,
    synced: u64,
    keys: Vec<Key>,
}

impl DataWriter {
    /// Begins a file.
    pub(super) fn begin(owner: &Owner) -> io::Result<DataWriter> {
        let id = owner.numbers.take();
        let file = owner.disk.create(&temporary(&data_name(id)))?;
        Ok(DataWriter { owner: owner.clone(), id, file, buffer: Vec::new(), flushed: HEADER_BLOCK, synced: HEADER_BLOCK, keys: Vec::new() })
    }

    /// Where the next record goes.
    pub(super) fn end(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Whether a record of `bytes` fits in a file that is to stay below `limit`; any fits an empty file.
    pub(super) fn takes(&self, bytes: u64, limit: u64) -> bool {
        self.keys.is_empty() || self.end() + bytes <= limit.min(LENGTH_MAX)
    }

    /// Appends the record that sets or deletes a key which the file does not hold yet, and returns its offset.
    pub(super) fn append(&mut self, id: EntryId, key: &[u8], value: Option<&[u8]>) -> io::Result<u32> {
        let offset = self.end() as u32;
        encode_record(&mut self.buffer, id, key, value);
        let record_bytes = (self.end() - u64::from(offset)) as u32;
        let value_bytes = value.map(|value| value.len() as u32);
        self.keys.push(Key { key: key.into(), version: id.index, offset, record_bytes, value_bytes });
        if self.buffer.len() >= PART {
            self.flush()?;
        }
        Ok(offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&[&self.buffer], self.flushed)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        if self.buffer.capacity() > BODY_MAX as usize {
            self.buffer = Vec::new();
        }
        if self.flushed - self.synced >= SYNC_EVERY {
            self.file.sync()?;
            self.synced = self.flushed;
        }
        Ok(())
    }

    /// Makes the file and its hint durable under their names, or removes what was begun.
    pub(super) fn finish(self) -> io::Result<Result<DataFile>> {
        let (disk, id) = (Arc::clone(&self.owner.disk), self.id);
        let finished = self.make_durable();
        if !matches!(finished, Ok(Ok(_))) {
            remove_made(&*disk, id);
        }
        finished
    }

    fn make_durable(mut self) -> io::Result<Result<DataFile>> {
        self.flush()?;
        let length = self.flushed;
        let header = SegmentHeader { cluster: self.owner.cluster, node: self.owner.node, id: self.id, length, seed: 0, data: true };
        let (block, crc) = header.encode();
        self.file.write_at(&[&block], 0)?;
        self.file.sync()?;
        self.keys.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let keys: Vec<HintKey<'_>> = self.keys.iter().map(Key::hint).collect();
        let deletions = keys.iter().filter(|key| key.value_bytes.is_none()).map(|key| u64::from(key.record_bytes)).sum();
        let hint = match hint_of(&header, &keys) {
            Ok(hint) => hint,
            Err(error) => return Ok(Err(error)),
        };
        let (disk, data) = (&self.owner.disk, data_name(self.id));
        hint::write(&**disk, self.id, hint.encoded())?;
        disk.rename(&temporary(&data), &data)?;
        disk.sync_directory()?;
        let segment = match Segment::new(Arc::clone(&self.file), header, crc, length) {
            Ok(segment) => Arc::new(segment),
            Err(error) => return Ok(Err(error)),
        };
        let (first, last) = (hint.log.first, hint.log.last);
        Ok(Ok(DataFile { segment, first, last, deletions }))
    }

    /// Removes what was begun. Without room even this may fail; the next start sweeps what is left.
    pub(super) fn abandon(self) {
        remove_made(&*self.owner.disk, self.id);
    }
}

impl Key {
    fn hint(&self) -> HintKey<'_> {
        let Key { version, offset, record_bytes, value_bytes, .. } = *self;
        HintKey { key: &self.key, version, offset, record_bytes, value_bytes }
    }
}

/// Removes a data file that no manifest names, and what else was made for it.
pub(super) fn remove_made(disk: &dyn Disk, id: u32) {
    let (data, hint) = (data_name(id), hint::hint_name(id));
    for name in [temporary(&data), data, temporary(&hint), hint] {
        let _ = disk.remove(&name);
    }
}

fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

/// The hint of a data file with these keys, which must rise strictly.
fn hint_of(header: &SegmentHeader, keys: &[HintKey<'_>]) -> Result<Hint> {
    let versions = || keys.iter().map(|key| key.version);
    let (first, last) = (versions().min().unwrap_or(0), versions().max().unwrap_or(0));
    let log = HintLog { first, last, end: header.length, ..HintLog::default() };
    let bytes = hint::encode(header, &log, keys);
    Hint::decode(bytes, header).map_err(|reason| super::corrupt(&header.name(), 0, format!("no hint can be made of it: {reason}")))
}

/// What the hint of a data file says, from its records: every byte is checked. Damage names file and offset.
pub(super) fn scan(segment: &Segment) -> Result<Hint> {
    let mut keys = std::collections::BTreeMap::<Box<[u8]>, Key>::new();
    let mut window = super::scan::Window::new(segment);
    let mut at = HEADER_BLOCK;
    while at < segment.length() {
        let corrupt = |reason: String| super::corrupt(segment.name(), at, reason);
        let left = segment.length() - at;
        let (bytes, _) = record::parse_header(window.get(at, left.min(record::HEADER_BYTES as u64))?)
            .map_err(|bad| corrupt(format!("no valid record stands here: {bad:?}")))?;
        if bytes as u64 > left {
            return Err(corrupt(format!("a record of {bytes} bytes does not fit the file")));
        }
        let (record, _) =
            record::parse(window.get(at, bytes as u64)?).map_err(|bad| corrupt(format!("no valid record stands here: {bad:?}")))?;
        let (key, value) = only_operation(&record).ok_or_else(|| corrupt(format!("record {} is none of a data file", record.id)))?;
        let value_bytes = value.map(|value| value.len() as u32);
        let found = Key { key: key.into(), version: record.id.index, offset: at as u32, record_bytes: bytes as u32, value_bytes };
        if keys.insert(key.into(), found).is_some() {
            return Err(corrupt(format!("record {} names a key for the second time", record.id)));
        }
        at += bytes as u64;
    }
    let list: Vec<HintKey<'_>> = keys.values().map(Key::hint).collect();
    hint_of(segment.header(), &list)
}

/// Key and value (`None`: deleted) of a data file's record.
pub(super) fn only_operation<'a>(record: &record::Record<'a>) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let mut operations = record::operations(record.payload);
    if record.kind != Kind::Command || !(1..=NUMBER_MAX).contains(&record.id.index) {
        return None;
    }
    match (operations.next().flatten()?, operations.next()) {
        (Operation::Set { key, value }, None) => Some((key, Some(value))),
        (Operation::Delete { key }, None) => Some((key, None)),
        _ => None,
    }
}
