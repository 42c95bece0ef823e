//! The keydir: from each live key to the record that set it. A hash table answers single keys, an ordered view answers ranges, and both
//! refer to the same key bytes, which lie packed. Plain data without locks or files; reached only through get, put, remove and page.

use super::keys::{KeyBytes, KeyRef};
use super::location::Location;
use super::ordered::Ordered;
use crate::bugbank::planted;
use ahash::RandomState;
use hashbrown::HashTable;

/// Tables that split the keys between them, so that growing one never moves more than a small part of all keys at once.
const SHARDS: usize = 256;
/// Slots are allocated in blocks of this size and never move.
const BLOCK: usize = 4096;

/// What is known of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// Log index of the write that made it.
    pub(super) version: u64,
    /// Where that write's record stands.
    pub(super) location: Location,
    /// Length of the value alone.
    pub(super) value_bytes: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: KeyRef,
    value: Value,
}

/// All live keys.
#[derive(Debug)]
pub(super) struct Keydir {
    hasher: RandomState,
    /// Numbers of slots, by the hash of their keys.
    shards: Vec<HashTable<u32>>,
    ordered: Ordered,
    slots: Slots,
    count: usize,
    /// What the tables take.
    table_bytes: usize,
}

#[derive(Debug, Default)]
struct Slots {
    keys: KeyBytes,
    blocks: Vec<Vec<Slot>>,
    free: Vec<u32>,
}

impl Slots {
    fn get(&self, number: u32) -> &Slot {
        &self.blocks[number as usize / BLOCK][number as usize % BLOCK]
    }

    fn key(&self, number: u32) -> &[u8] {
        self.keys.get(self.get(number).key)
    }

    fn get_mut(&mut self, number: u32) -> &mut Slot {
        &mut self.blocks[number as usize / BLOCK][number as usize % BLOCK]
    }

    fn add(&mut self, key: &[u8], value: Value) -> u32 {
        let slot = Slot { key: self.keys.add(key), value };
        if let Some(number) = self.free.pop() {
            *self.get_mut(number) = slot;
            return number;
        }
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let before = (self.blocks.len() - 1) * BLOCK;
        let block = self.blocks.last_mut().expect("a block with room is the last one");
        block.push(slot);
        u32::try_from(before + block.len() - 1).expect("four billion keys exceed any memory this runs on")
    }

    fn take(&mut self, number: u32) -> Value {
        self.free.push(number);
        let slot = *self.get(number);
        self.keys.remove(slot.key);
        slot.value
    }

    fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.blocks.len() * (BLOCK * size_of::<Slot>() + size_of::<Vec<Slot>>())
            + self.free.capacity() * size_of::<u32>()
    }
}

impl Default for Keydir {
    fn default() -> Keydir {
        Keydir {
            hasher: RandomState::new(),
            shards: vec![HashTable::new(); SHARDS],
            ordered: Ordered::default(),
            slots: Slots::default(),
            count: 0,
            table_bytes: 0,
        }
    }
}

/// Bits that the tables themselves do not use first.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

impl Keydir {
    /// A keydir of keys that rise strictly. About `more` keys will follow.
    pub(super) fn of_rising<'a>(keys: impl Iterator<Item = (&'a [u8], Value)>, more: usize) -> Keydir {
        let mut keydir = Keydir::default();
        for (key, value) in keys {
            keydir.slots.add(key, value);
            keydir.count += 1;
        }
        let count = u32::try_from(keydir.count).expect("slots have numbers of four bytes");
        let (slots, hasher) = (&keydir.slots, &keydir.hasher);
        let hash_of = |number: &u32| hasher.hash_one(slots.key(*number));
        // Tables that have their size from the start need not hash all keys again as they grow. What is expected may never come, and tables
        // do not shrink: so not more than growing by itself could have taken.
        let expected = keydir.count + more.min(keydir.count);
        keydir.shards.iter_mut().for_each(|shard| shard.reserve(expected / SHARDS, hash_of));
        for number in 0..count {
            let hash = hash_of(&number);
            keydir.shards[shard_of(hash)].insert_unique(hash, number, hash_of);
        }
        keydir.table_bytes = keydir.shards.iter().map(HashTable::allocation_size).sum();
        keydir.ordered = Ordered::of_rising(count, &|number| slots.key(number));
        keydir
    }

    /// Bytes of memory that keys, places and both views take, about.
    pub(super) fn bytes(&self) -> u64 {
        (self.slots.bytes() + self.table_bytes + self.ordered.bytes()) as u64
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Value> {
        let hash = self.hasher.hash_one(key);
        let number = self.shards[shard_of(hash)].find(hash, |number| self.slots.key(*number) == key)?;
        Some(&self.slots.get(*number).value)
    }

    /// The hash of a key; another one in every process.
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Sets the value of a key; returns what it had.
    pub(super) fn put(&mut self, key: &[u8], value: Value) -> Option<Value> {
        let hash = self.hasher.hash_one(key);
        let shard = &mut self.shards[shard_of(hash)];
        if let Some(number) = shard.find(hash, |number| self.slots.key(*number) == key) {
            return Some(std::mem::replace(&mut self.slots.get_mut(*number).value, value));
        }
        let number = self.slots.add(key, value);
        let slots = &self.slots;
        self.table_bytes -= shard.allocation_size();
        shard.insert_unique(hash, number, |number| self.hasher.hash_one(slots.key(*number)));
        self.table_bytes += shard.allocation_size();
        self.ordered.insert(number, &|number| slots.key(number));
        self.count += 1;
        None
    }

    /// Changes where a key's value stands, if it stands at `from` (segment and offset); says whether it did.
    pub(super) fn relocate(&mut self, key: &[u8], from: (u32, u32), to: Location) -> bool {
        let hash = self.hasher.hash_one(key);
        let slots = &mut self.slots;
        let Some(number) = self.shards[shard_of(hash)].find(hash, |number| slots.key(*number) == key).copied() else { return false };
        let location = &mut slots.get_mut(number).value.location;
        let stands = (location.segment, location.offset) == from || planted(63);
        if stands {
            *location = to;
        }
        stands
    }

    /// Removes a key; returns what it had.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Value> {
        let hash = self.hasher.hash_one(key);
        let slots = &self.slots;
        let entry = self.shards[shard_of(hash)].find_entry(hash, |number| slots.key(*number) == key).ok()?;
        self.ordered.remove(key, &|number| slots.key(number));
        let (number, _) = entry.remove();
        self.count -= 1;
        Some(self.slots.take(number))
    }

    /// The keys that start with `prefix` and come after `cursor` (empty: from the first one), in byte order.
    pub(super) fn page(&self, prefix: &[u8], cursor: &[u8]) -> impl Iterator<Item = (&[u8], &Value)> {
        let slots = &self.slots;
        let numbers = self.ordered.range(prefix.max(cursor), &|number| slots.key(number));
        let pairs = numbers.map(|number| (slots.key(number), &slots.get(number).value));
        let pairs = pairs.skip_while(move |(key, _)| !cursor.is_empty() && *key <= cursor);
        pairs.take_while(move |(key, _)| key.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeMap;

    fn value(version: u64) -> Value {
        Value { version, location: Location { segment: 1, offset: version as u32, bytes: 40 }, value_bytes: 3 }
    }

    #[test]
    fn it_behaves_like_an_ordered_map() {
        let seed: u64 = rand::random();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut model = BTreeMap::<Box<[u8]>, u64>::new();
        for _ in 0..random.random_range(0..3_000) {
            model.insert(format!("{:x}", random.next_u32() % 5_000).into_bytes().into(), 0);
        }
        let mut keydir = Keydir::of_rising(model.keys().map(|key| (&**key, value(0))), 0);
        for version in 1..30_000 {
            let key: Box<[u8]> = format!("{:x}", random.next_u32() % 5_000).into_bytes().into();
            match random.random_range(0..3) {
                0 => {
                    assert_eq!(keydir.remove(&key).map(|value| value.version), model.remove(&key), "seed {seed}");
                }
                _ => {
                    keydir.put(&key, value(version));
                    model.insert(key.clone(), version);
                }
            }
            assert_eq!(keydir.len(), model.len(), "seed {seed}");
            if version % 50 == 0 {
                let cursor = key.clone();
                let prefix = &key[..1];
                let page = keydir.page(prefix, &cursor).map(|(key, value)| (key, value.version));
                let expected = model.iter().filter(|(key, _)| key.starts_with(prefix) && **key > cursor);
                assert!(page.eq(expected.map(|(key, version)| (&**key, *version))), "seed {seed}, version {version}");
                assert_eq!(keydir.get(&key).map(|value| value.version), model.get(&key).copied(), "seed {seed}");
            }
        }
        assert!(keydir.page(b"", b"").map(|(key, _)| key).eq(model.keys().map(|key| &**key)), "seed {seed}");
    }

    #[test]
    fn a_key_takes_little_more_than_its_bytes() {
        let seed: u64 = rand::random();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut keydir = Keydir::default();
        let empty = keydir.bytes();
        for version in 0..200_000 {
            keydir.put(&random.random::<[u8; 16]>(), value(version));
        }
        let (bytes, ordered) = ((keydir.bytes() - empty) / 200_000, keydir.ordered.bytes() / 200_000);
        assert!(bytes - 16 <= 56, "seed {seed}: {bytes} bytes for a key of 16");
        assert!(ordered <= 12, "seed {seed}: {ordered} bytes of them for the order");
        let mut again = Keydir::of_rising(keydir.page(b"", b"").map(|(key, value)| (key, *value)), 0);
        assert!(again.bytes() <= keydir.bytes(), "seed {seed}: {} bytes after a start", again.bytes());
        let keys: Vec<Vec<u8>> = keydir.page(b"", b"").map(|(key, _)| key.to_vec()).collect();
        let full = again.bytes();
        keys.iter().for_each(|key| assert!(again.remove(key).is_some()));
        keys.iter().for_each(|key| assert!(again.put(key, value(1)).is_none()));
        assert!(again.bytes() <= full + full / 5, "seed {seed}: {full} bytes became {}", again.bytes());
    }

    #[test]
    fn keys_that_are_expected_get_no_more_room_than_growing_would_have_taken() {
        let keys: Vec<[u8; 4]> = (0..20_000_u32).map(|number| std::array::from_fn(|digit| (number >> (24 - 8 * digit)) as u8)).collect();
        let pairs = || keys.iter().map(|key| (&key[..], value(1)));
        let (alone, expecting) = (Keydir::of_rising(pairs(), 0), Keydir::of_rising(pairs(), usize::MAX));
        assert!(expecting.table_bytes <= 3 * alone.table_bytes, "{} bytes, and {}", expecting.table_bytes, alone.table_bytes);
        assert!(expecting.get(&keys[19_999]).is_some() && expecting.len() == 20_000);
    }
}
