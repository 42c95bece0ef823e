//! The applied state behind the store's lock: the keydir, the files that it points into, and how much of each file it still needs. Plain
//! data; it never reads a file.

use super::hint::HintKey;
use super::keydir::{Keydir, Value};
use super::location::Location;
use super::segment::Segment;
use super::store::Located;
use ahash::RandomState;
use std::collections::HashMap;
use std::sync::Arc;

/// A file that values stand in.
#[derive(Debug)]
struct Held {
    segment: Arc<Segment>,
    /// What a merge would keep of it: bytes of records whose value is the present one.
    live: u64,
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(super) struct State {
    keydir: Keydir,
    files: HashMap<u32, Held, RandomState>,
    /// For the hash of each key that was deleted by an entry which no hint covers yet, the highest such entry. Other keys may have the same
    /// hash; a merge then keeps a record that it could have left out.
    deletions: HashMap<u64, u64>,
}

/// What follows a portion of hints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Whether another portion does.
    pub(super) hints: bool,
    /// About how many keys do that are in no hint.
    pub(super) keys: usize,
}

/// While hints are loaded: keys that some file deletes. What is loaded later may be older.
#[derive(Debug, Default)]
pub(super) struct Deleted(HashMap<Box<[u8]>, u64>);

/// What a merge would write for a value that stands.
fn live_bytes(key: &[u8], value: &Value) -> u64 {
    super::data_file::record_bytes(key.len(), value.value_bytes as usize)
}

impl State {
    /// The pinned place of a key's value.
    pub(super) fn lookup(&self, key: &[u8]) -> Option<Located> {
        self.keydir.get(key).map(|value| self.pin(value))
    }

    /// The version of a key, 0 if it is absent.
    pub(super) fn version(&self, key: &[u8]) -> u64 {
        self.keydir.get(key).map_or(0, |value| value.version)
    }

    /// A place, pinned.
    pub(super) fn pin(&self, value: &Value) -> Located {
        let held = self.files.get(&value.location.segment);
        let held = held.unwrap_or_else(|| panic!("version {} is in a file that was given up", value.version));
        Located::new(value, Arc::clone(&held.segment))
    }

    /// All keys, to look at.
    pub(super) fn keydir(&self) -> &Keydir {
        &self.keydir
    }

    /// Sets a key, and returns the version that it had, 0 if it was absent.
    pub(super) fn put(&mut self, key: &[u8], value: Value) -> u64 {
        self.count(key, &value, true);
        let Some(before) = self.keydir.put(key, value) else { return 0 };
        self.count(key, &before, false);
        before.version
    }

    /// Removes a key that an entry with this index deletes, and returns the version that it had, 0 if it was absent.
    pub(super) fn delete(&mut self, key: &[u8], index: u64) -> u64 {
        let Some(before) = self.keydir.remove(key) else { return 0 };
        self.count(key, &before, false);
        self.deletions.insert(self.keydir.hash(key), index);
        before.version
    }

    /// Hints cover the entries up to `hinted`.
    pub(super) fn hinted(&mut self, hinted: u64) {
        self.deletions.retain(|_, index| *index > hinted);
        if self.deletions.len() < self.deletions.capacity() / 4 {
            self.deletions.shrink_to_fit();
        }
    }

    fn count(&mut self, key: &[u8], value: &Value, more: bool) {
        let (bytes, segment) = (live_bytes(key, value), value.location.segment);
        let held = self.files.get_mut(&segment).unwrap_or_else(|| panic!("version {} is in a file that was given up", value.version));
        held.live = if more { held.live + bytes } else { held.live - bytes };
    }

    /// Bytes of memory that the index takes, about.
    pub(super) fn bytes(&self) -> u64 {
        self.keydir.bytes() + (self.deletions.capacity() * 18) as u64
    }

    /// Whether a merge must keep what a hinted file says of a key: anything newer is not in a hinted file. `hinted` is the last entry that
    /// hints covered when the merge began. A record that deletes is kept; whether it is needed depends on the other files.
    pub(super) fn keeps(&self, found: &HintKey<'_>, hinted: u64) -> bool {
        let version = self.version(found.key);
        assert!(version == 0 || version >= found.version, "version {} of a key is in a file, {version} stands", found.version);
        match (version, found.value_bytes) {
            (0, None) => true,
            // Without the deletion, a condition in the part of the log that is still to be replayed could meet this value.
            (0, Some(_)) => self.deletions.get(&self.keydir.hash(found.key)).is_some_and(|index| *index > hinted),
            _ => version == found.version || version > hinted,
        }
    }

    /// A value was written to another place; `from` is the segment and offset of the old one. Nothing happens if the key has changed.
    pub(super) fn relocate(&mut self, key: &[u8], from: (u32, u32), to: Location) {
        if self.keydir.relocate(key, from, to) {
            let value = *self.keydir.get(key).unwrap_or_else(|| panic!("a key that was just moved to {to:?} is there"));
            self.count(key, &value, true);
            self.count(key, &Value { location: Location { segment: from.0, ..value.location }, ..value }, false);
        }
    }

    /// Takes over what hints name, before anything is applied: keys that rise strictly, each with its newest version among the files at
    /// hand, and its value unless that deletes it. `more` says what follows; `deleted` is kept between the calls.
    pub(super) fn load<'a>(&mut self, keys: impl Iterator<Item = (&'a [u8], u64, Option<Value>)>, more: Expected, deleted: &mut Deleted) {
        if self.keydir.len() == 0 && deleted.0.is_empty() {
            let values = keys.filter_map(|(key, version, value)| {
                if value.is_none() && more.hints {
                    deleted.0.insert(key.into(), version);
                }
                let value = value?;
                self.count(key, &value, true);
                Some((key, value))
            });
            self.keydir = Keydir::of_rising(values, more.keys);
            return;
        }
        for (key, version, value) in keys {
            if self.version(key) > version || deleted.0.get(key).is_some_and(|newer| *newer > version) {
                continue;
            }
            if let Some(value) = value {
                self.put(key, value);
            } else {
                if let Some(before) = self.keydir.remove(key) {
                    self.count(key, &before, false);
                }
                deleted.0.insert(key.into(), version);
            }
        }
    }

    /// Values may stand in this file from now on.
    pub(super) fn register(&mut self, segment: Arc<Segment>) {
        self.files.entry(segment.id()).or_insert(Held { segment, live: 0 });
    }

    /// No value stands in this file, and none will.
    pub(super) fn forget(&mut self, id: u32) {
        if let Some(held) = self.files.remove(&id) {
            assert_eq!(held.live, 0, "{:?} is given up while values stand in it", held.segment);
        }
    }

    /// What a merge would keep of a file.
    pub(super) fn live_of(&self, id: u32) -> u64 {
        self.files.get(&id).map_or(0, |held| held.live)
    }
}
