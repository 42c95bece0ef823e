//! The store: what reads see. Any thread looks keys up under a short lock and copies values after it, from the map or, until they are
//! written, from the stage. It only ever shows applied entries, checks every value against its CRC, and never writes.

use super::hint::HintKey;
use super::keydir::Value;
use super::location::Location;
use super::record::{self, Kind, Operation};
use super::segment::Segment;
use super::state::{Deleted, Expected, State};
use crate::bugbank::planted;
use crate::error::Result;
use parking_lot::{RwLock, RwLockWriteGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A value's place, pinned: it can be read however the log and the index change meanwhile.
#[derive(Clone, Debug)]
pub struct Located {
    /// Log index of the write that made the value.
    pub version: u64,
    /// Length of the value in bytes.
    pub value_bytes: u32,
    segment: Arc<Segment>,
    offset: u32,
    record_bytes: u32,
}

impl Located {
    /// The place of a value in `segment`.
    pub(super) fn new(value: &Value, segment: Arc<Segment>) -> Located {
        let Value { version, location, value_bytes } = *value;
        Located { version, value_bytes, segment, offset: location.offset, record_bytes: location.bytes }
    }

    /// The file and where in it the record starts.
    #[cfg(test)]
    pub(super) fn place(&self) -> (String, u64) {
        (self.segment.name().to_owned(), u64::from(self.offset))
    }
}

/// A value whose record was checked, to be copied piece by piece.
#[derive(Clone, Debug)]
pub struct Checked {
    segment: Arc<Segment>,
    /// Where the value itself starts.
    offset: u64,
    /// Length of the value in bytes.
    pub bytes: u32,
    /// CRC-32 (IEEE) of the value.
    pub crc: u32,
}

impl Checked {
    /// Appends the bytes of the value from `from` on, at most `limit` of them. Whoever copies all of it compares the CRC of what came
    /// with [`Checked::crc`] before the last byte counts: a disk may change what it shows between two looks.
    pub fn copy(&self, from: u32, limit: usize, out: &mut Vec<u8>) {
        let length = limit.min((self.bytes - from) as usize);
        let there = self.segment.look(self.offset + u64::from(from), length, &mut |bytes| out.extend_from_slice(bytes));
        assert!(there, "a value at {} of {:?} was there when it was checked", self.offset, self.segment);
    }

    /// What to say when the bytes that came are not those that were checked.
    pub fn changed(&self) -> crate::error::Error {
        super::corrupt(self.segment.name(), self.offset, "the value here was whole, and is not any more")
    }
}

/// One page of a scan.
#[derive(Debug, Default)]
pub struct Page {
    /// Keys in byte order with their values' places.
    pub entries: Vec<(Box<[u8]>, Located)>,
    /// Whether keys follow the last one.
    pub more: bool,
}

/// The applied state, shared by all threads.
#[derive(Debug, Default)]
pub struct Store {
    state: RwLock<State>,
    applied: AtomicU64,
    index_bytes: AtomicU64,
}

impl Store {
    /// Where the value of `key` stands, if the key is there.
    pub fn lookup(&self, key: &[u8]) -> Option<Located> {
        self.state.read().lookup(key)
    }

    /// Appends the value of `key` that `located` names to `out`. [`crate::error::Error::Corrupt`] if its bytes are not what was
    /// written; then `out` is as it was.
    pub fn read(&self, key: &[u8], located: &Located, out: &mut Vec<u8>) -> Result<()> {
        let mut found = Err(String::new());
        let mut copy = |bytes: &[u8]| found = sized_value_in(bytes, located, key).map(|value| out.extend_from_slice(value));
        let segment = &located.segment;
        let there = segment.look(u64::from(located.offset), located.record_bytes as usize, &mut copy);
        assert!(there, "version {} at {} of {segment:?} is neither staged nor written", located.version, located.offset);
        found.map_err(|reason| super::corrupt(segment.name(), u64::from(located.offset), reason))
    }

    /// Checks the value of `key` that `located` names without copying it. [`crate::error::Error::Corrupt`] as in [`Store::read`].
    pub fn check(&self, key: &[u8], located: &Located) -> Result<Checked> {
        let (segment, start) = (&located.segment, u64::from(located.offset));
        let mut found = Err(String::new());
        let mut check = |bytes: &[u8]| {
            found = sized_value_in(bytes, located, key).map(|value| {
                let before = value.as_ptr() as usize - bytes.as_ptr() as usize;
                (start + before as u64, value.len() as u32, crc32fast::hash(value))
            });
        };
        let there = segment.look(start, located.record_bytes as usize, &mut check);
        assert!(there, "version {} at {start} of {segment:?} is neither staged nor written", located.version);
        let (offset, bytes, crc) = found.map_err(|reason| super::corrupt(segment.name(), start, reason))?;
        Ok(Checked { segment: Arc::clone(segment), offset, bytes, crc })
    }

    /// As [`Store::read`], from the file and not from the map, where an unreadable sector would end the process: for somebody who has
    /// time.
    pub(super) fn read_from_file(&self, key: &[u8], located: &Located, out: &mut Vec<u8>) -> Result<()> {
        let mut bytes = vec![0; located.record_bytes as usize];
        located.segment.read_file(&mut bytes, u64::from(located.offset))?;
        let corrupt = |reason| super::corrupt(located.segment.name(), u64::from(located.offset), reason);
        out.extend_from_slice(value_in(&bytes, located.version, key).map_err(corrupt)?);
        Ok(())
    }

    /// One page of the keys that start with `prefix` and come after `cursor` (empty: from the first one): at most `limit` of them, and
    /// as many as an answer of `max_bytes` holds, but at least one while there is any. Shows one applied state.
    pub fn scan(&self, prefix: &[u8], cursor: &[u8], limit: usize, max_bytes: usize, keys_only: bool) -> Page {
        let state = self.state.read();
        let mut page = Page::default();
        let mut bytes = 0;
        for (key, value) in state.keydir().page(prefix, cursor) {
            // Lengths and version stand in front of each pair.
            bytes += 16 + key.len() + if keys_only { 0 } else { value.value_bytes as usize };
            if page.entries.len() >= limit.max(1) || (bytes > max_bytes && !page.entries.is_empty()) {
                page.more = true;
                break;
            }
            page.entries.push((key.into(), state.pin(value)));
        }
        page
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.state.read().keydir().len() as u64
    }

    /// Bytes of memory that the index takes, about: keys, places, hash tables and the ordered view.
    pub fn index_bytes(&self) -> u64 {
        self.index_bytes.load(Ordering::Relaxed)
    }

    /// Called with the lock of [`Store::write`] held.
    pub(super) fn note_index_bytes(&self, state: &State) {
        self.index_bytes.store(state.bytes(), Ordering::Relaxed);
    }

    /// Log index of the last applied entry. What it covers can be looked up.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// For applying entries: readers wait meanwhile.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// Called with the lock of [`Store::write`] held.
    pub(super) fn set_applied(&self, index: u64) {
        let before = self.applied.swap(index, Ordering::Release);
        assert!(before <= index, "applied went back from {before} to {index}");
    }

    /// See [`State::load`].
    pub(super) fn load<'a>(&self, keys: impl Iterator<Item = (&'a [u8], u64, Option<Value>)>, more: Expected, deleted: &mut Deleted) {
        let mut state = self.state.write();
        assert_eq!(self.applied(), 0, "hints are loaded first");
        state.load(keys, more, deleted);
        self.note_index_bytes(&state);
    }

    /// The state alone.
    pub(super) fn into_state(self) -> State {
        self.state.into_inner()
    }

    /// Puts another state in the place of this one, with everything applied up to `index`; returns the old one, whose memory should be
    /// given back where nobody waits.
    pub(super) fn replace(&self, other: State, index: u64) -> State {
        let mut state = self.state.write();
        let old = std::mem::replace(&mut *state, other);
        self.set_applied(index);
        self.note_index_bytes(&state);
        old
    }

    /// Values may stand in this file from now on.
    pub(super) fn register_segment(&self, segment: Arc<Segment>) {
        self.state.write().register(segment);
    }

    /// No value stands in this file, and none will.
    pub(super) fn forget_segment(&self, id: u32) {
        self.state.write().forget(id);
    }

    /// For each file, what a merge would keep of it, in bytes.
    pub(super) fn live_of(&self, ids: impl Iterator<Item = u32>) -> Vec<u64> {
        let state = self.state.read();
        ids.map(|id| state.live_of(id)).collect()
    }

    /// For each of some keys of hinted files, whether a merge must keep it; see [`State::keeps`].
    pub(super) fn keeps(&self, keys: &[HintKey<'_>], hinted: u64) -> Vec<bool> {
        let state = self.state.read();
        keys.iter().map(|key| state.keeps(key, hinted)).collect()
    }

    /// Points keys to their new places: each with the segment and offset of its old one. Readers wait for a few keys at a time.
    pub(super) fn relocate(&self, moves: &[(&[u8], (u32, u32), Location)]) {
        for some in moves.chunks(MOVED_AT_ONCE) {
            let mut state = self.state.write();
            some.iter().for_each(|(key, from, to)| state.relocate(key, *from, *to));
        }
    }
}

/// Keys whose places are changed under one lock.
const MOVED_AT_ONCE: usize = 256;

/// As [`value_in`], and of the length that the index promised to whoever framed it.
fn sized_value_in<'a>(bytes: &'a [u8], located: &Located, key: &[u8]) -> std::result::Result<&'a [u8], String> {
    let value = value_in(bytes, located.version, key)?;
    if value.len() == located.value_bytes as usize {
        return Ok(value);
    }
    Err(format!("version {} has {} bytes, {} were expected", located.version, value.len(), located.value_bytes))
}

/// The value that the record in `bytes` gave to `key`; why not, if these are other bytes.
pub(super) fn value_in<'a>(bytes: &'a [u8], version: u64, key: &[u8]) -> std::result::Result<&'a [u8], String> {
    let parsed = if planted(61) { Ok(record::view(bytes)) } else { record::parse(bytes) };
    let (record, length) = parsed.map_err(|bad| format!("version {version} should stand here, found {bad:?}"))?;
    if record.id.index != version || length != bytes.len() || record.kind != Kind::Command {
        return Err(format!("version {version} should stand here, found entry {} of {length} bytes", record.id));
    }
    let mut value = None;
    for operation in record::operations(record.payload) {
        // The last operation on a key is the one that stands.
        value = match operation {
            Some(Operation::Set { key: other, value } | Operation::CompareAndSet { key: other, value, .. }) if other == key => Some(value),
            Some(Operation::Delete { key: other }) if other == key => None,
            _ => value,
        };
    }
    value.ok_or_else(|| format!("version {version} does not set the key that points to it"))
}
