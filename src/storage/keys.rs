//! The bytes of keys, packed: keys of one length lie side by side in blocks that never move, so that a key takes no more than its own
//! bytes. A place that becomes free is taken by the next key of that length. Plain memory; who refers to which key is not known here.

/// Longer keys are allocated one by one; beside their bytes that costs little.
const PACKED_MAX: usize = 512;
/// A block holds at least this many bytes; keys of few lengths waste little, and neither do a few keys of many lengths.
const BLOCK_BYTES: usize = 4096;

/// Names a key: its length and its number among those of that length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyRef {
    length: u32,
    number: u32,
}

/// Keys of one length.
#[derive(Debug, Default)]
struct Class {
    blocks: Vec<Box<[u8]>>,
    /// How many places were ever taken.
    taken: u32,
    free: Vec<u32>,
}

/// All keys.
#[derive(Debug)]
pub(super) struct KeyBytes {
    /// By length.
    packed: Vec<Class>,
    long: Vec<Box<[u8]>>,
    free: Vec<u32>,
    bytes: usize,
}

impl Default for KeyBytes {
    fn default() -> KeyBytes {
        let packed = (0..=PACKED_MAX).map(|_| Class::default()).collect();
        KeyBytes { packed, long: Vec::new(), free: Vec::new(), bytes: (PACKED_MAX + 1) * size_of::<Class>() }
    }
}

/// How many keys of a length share a block, as a power of two.
fn shift_of(length: usize) -> u32 {
    BLOCK_BYTES.div_ceil(length.max(1)).next_power_of_two().trailing_zeros()
}

impl Class {
    fn place(length: usize, number: u32) -> (usize, std::ops::Range<usize>) {
        let shift = shift_of(length);
        let start = (number as usize & ((1 << shift) - 1)) * length;
        (number as usize >> shift, start..start + length)
    }
}

impl KeyBytes {
    /// Keeps a copy of `key`.
    pub(super) fn add(&mut self, key: &[u8]) -> KeyRef {
        let length = key.len() as u32;
        if key.len() > PACKED_MAX {
            self.bytes += key.len() + size_of::<Box<[u8]>>();
            if let Some(number) = self.free.pop() {
                self.long[number as usize] = key.into();
                return KeyRef { length, number };
            }
            self.long.push(key.into());
            return KeyRef { length, number: (self.long.len() - 1) as u32 };
        }
        let class = &mut self.packed[key.len()];
        let number = class.free.pop().unwrap_or_else(|| {
            class.taken = class.taken.checked_add(1).expect("four billion keys exceed any memory this runs on");
            class.taken - 1
        });
        let (block, range) = Class::place(key.len(), number);
        if block == class.blocks.len() {
            let size = key.len() << shift_of(key.len());
            class.blocks.push(vec![0; size].into());
            self.bytes += size + size_of::<Box<[u8]>>();
        }
        class.blocks[block][range].copy_from_slice(key);
        KeyRef { length, number }
    }

    /// The key.
    pub(super) fn get(&self, key: KeyRef) -> &[u8] {
        let length = key.length as usize;
        if length > PACKED_MAX {
            return &self.long[key.number as usize];
        }
        let (block, range) = Class::place(length, key.number);
        &self.packed[length].blocks[block][range]
    }

    /// Forgets the key; its name must not be used again.
    pub(super) fn remove(&mut self, key: KeyRef) {
        let length = key.length as usize;
        if length > PACKED_MAX {
            self.long[key.number as usize] = Box::default();
            self.free.push(key.number);
            self.bytes -= length + size_of::<Box<[u8]>>();
        } else {
            self.packed[length].free.push(key.number);
        }
    }

    /// Bytes of memory in use, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn keys_stay_what_they_are() {
        let seed: u64 = rand::random();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut keys, mut model) = (KeyBytes::default(), Vec::<(KeyRef, Vec<u8>)>::new());
        let empty = keys.bytes();
        for _ in 0..20_000 {
            if random.random_bool(0.4) && !model.is_empty() {
                let (name, key) = model.swap_remove(random.random_range(0..model.len()));
                assert_eq!(keys.get(name), key, "seed {seed}");
                keys.remove(name);
            } else {
                let length = [16, 16, 1, 511, 512, 513, 3000][random.random_range(0..7)];
                let key: Vec<u8> = (0..length).map(|_| random.random()).collect();
                model.push((keys.add(&key), key));
            }
        }
        assert!(model.iter().all(|(name, key)| keys.get(*name) == key), "seed {seed}");
        let live: usize = model.iter().map(|(_, key)| key.len()).sum();
        assert!(keys.bytes() - empty < live * 3 / 2 + 100_000, "seed {seed}: {} bytes for {live}", keys.bytes() - empty);
    }

    #[test]
    fn many_keys_of_one_length_take_little_more_than_their_bytes() {
        let mut keys = KeyBytes::default();
        let names: Vec<KeyRef> = (0..100_000u128).map(|key| keys.add(&key.to_le_bytes())).collect();
        assert!(keys.bytes() < 1_700_000, "{}", keys.bytes());
        assert!((0..100_000u128).zip(names).all(|(key, name)| keys.get(name) == key.to_le_bytes()));
    }
}
