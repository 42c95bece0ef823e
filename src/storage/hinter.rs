//! The hinter: reads a sealed segment whose entries are all applied and durable, and writes its hint file. Works in the background on
//! files that nobody changes; that the hint counts is for the log writer to say, in the manifest.

use super::disk::Disk;
use super::hint::{self, HintKey, HintLog};
use super::preparer::{PrepareError, is_shortage};
use super::record::{self, Kind, Operation};
use super::reserve::Reserve;
use super::segment::Segment;
use super::state_hash::StateHash;
use crate::bugbank::planted;
use crate::error::Error;
use std::sync::Arc;

/// Read at once; a larger record is read whole.
const PART: u64 = 1 << 20;

/// One segment to make a hint for; see [`super::log::Log::next_hint`].
#[derive(Debug)]
pub struct HintJob {
    pub(super) segment: Arc<Segment>,
    pub(super) log: HintLog,
    /// For each entry, whether its operations took effect.
    pub(super) effects: Vec<bool>,
}

/// A hint file that is durable, to be named in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hinted {
    /// The segment's number.
    pub(super) id: u32,
    /// Its last entry.
    pub(super) last: u64,
    /// Where it is sealed.
    pub(super) end: u64,
    /// The hash of the state behind its last entry.
    pub(super) hash: StateHash,
}

impl HintJob {
    /// The first and the last entry of the segment.
    pub fn range(&self) -> (u64, u64) {
        (self.log.first, self.log.last)
    }

    /// Adds what the entries of [`HintJob::range`] did, in their order, and the hash of the state behind the last.
    pub fn with_effects(mut self, effects: Vec<bool>, hash: StateHash) -> HintJob {
        assert_eq!(effects.len(), self.log.offsets.len(), "one effect for each entry of {:?}", self.segment);
        self.log.hash = hash;
        HintJob { effects, ..self }
    }
}

/// Makes hint files.
#[derive(Debug)]
pub struct Hinter {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) reserve: Arc<Reserve>,
}

/// What took effect in a segment, in log order, the keys side by side. Sorting now and then takes less time than keeping order all the
/// time, and leaves each key once.
struct Effects {
    keys: Vec<u8>,
    operations: Vec<Effective>,
    /// Superseded operations are dropped when there are so many operations, or so many bytes of keys.
    settle_at: (usize, usize),
}

struct Effective {
    /// The key's first bytes, and zeros behind a shorter one: where they differ, the rest need not be looked at.
    front: [u8; 8],
    /// Where the key stands among the keys, and its length.
    key: (u32, u32),
    version: u64,
    offset: u32,
    record_bytes: u32,
    value_bytes: Option<u32>,
}

/// So many operations, or bytes of keys, may gather at least before they are sorted.
const SETTLE_AT_LEAST: (usize, usize) = (256 << 10, 16 << 20);

impl Effects {
    fn new() -> Effects {
        Effects { keys: Vec::new(), operations: Vec::new(), settle_at: SETTLE_AT_LEAST }
    }

    fn push(&mut self, key: &[u8], effective: Effective) {
        if self.operations.len() >= self.settle_at.0 || self.keys.len() >= self.settle_at.1 {
            self.settle();
        }
        let mut front = [0; 8];
        let length = key.len().min(8);
        front[..length].copy_from_slice(&key[..length]);
        let key_at = (self.keys.len() as u32, key.len() as u32);
        self.keys.extend_from_slice(key);
        self.operations.push(Effective { front, key: key_at, ..effective });
    }

    /// Leaves of each key the newest operation, in the order of the keys.
    fn settle(&mut self) {
        let (keys, mut operations) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.operations));
        let key = |effective: &Effective| slice(&keys, effective.key);
        operations.sort_by(|a, b| a.front.cmp(&b.front).then_with(|| key(a).cmp(key(b))));
        // Operations of one key have kept their order.
        operations.dedup_by(|later, kept| {
            let same = later.front == kept.front && key(later) == key(kept);
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        for operation in &mut operations {
            let at = self.keys.len() as u32;
            self.keys.extend_from_slice(slice(&keys, operation.key));
            operation.key.0 = at;
        }
        self.settle_at = (SETTLE_AT_LEAST.0.max(2 * operations.len()), SETTLE_AT_LEAST.1.max(2 * self.keys.len()));
        self.operations = operations;
    }

    /// Each key once, in order, with its newest operation.
    fn newest(&mut self) -> Vec<HintKey<'_>> {
        self.settle();
        let newest = |operation: &Effective| HintKey {
            key: slice(&self.keys, operation.key),
            version: operation.version,
            offset: operation.offset,
            record_bytes: operation.record_bytes,
            value_bytes: operation.value_bytes,
        };
        self.operations.iter().map(newest).collect()
    }
}

fn slice(bytes: &[u8], (start, length): (u32, u32)) -> &[u8] {
    &bytes[start as usize..(start + length) as usize]
}

impl Hinter {
    /// Makes the hint file of a segment, durable when it returns.
    pub fn make(&self, job: &HintJob) -> std::result::Result<Hinted, PrepareError> {
        let mut effects = effects_of(job)?;
        let list = effects.newest();
        let bytes = hint::encode(job.segment.header(), &job.log, &list);
        let name = hint::hint_name(job.segment.id());
        let temporary = format!("{name}.tmp");
        let make = || {
            hint::write(&*self.disk, job.segment.id(), &bytes)?;
            self.disk.sync_directory()
        };
        // A hint is what a merge works from, and a merge is what makes room.
        let made = self.reserve.with_room(|| {
            make().inspect_err(|_| {
                let _ = self.disk.remove(&temporary);
                let _ = self.disk.remove(&name);
            })
        });
        made.map_err(|error| {
            let doing = format!("make {}/{name} of {} bytes", self.disk.path(), bytes.len());
            if is_shortage(&error) {
                PrepareError::Full(format!("cannot {doing}: {error}"))
            } else {
                PrepareError::Fatal(Error::Io { doing, source: error })
            }
        })?;
        Ok(Hinted { id: job.segment.id(), last: job.log.last, end: job.log.end, hash: job.log.hash })
    }
}

/// What took effect. Every record is checked; a damaged one is an error, since a hint would hide it.
fn effects_of(job: &HintJob) -> crate::error::Result<Effects> {
    let mut effects = Effects::new();
    let (offsets, end) = (&job.log.offsets, job.log.end);
    let mut window: (u64, Vec<u8>) = (0, Vec::new());
    for (position, (offset, effective)) in offsets.iter().zip(&job.effects).enumerate() {
        let (start, stop) = (u64::from(*offset), offsets.get(position + 1).map_or(end, |next| u64::from(*next)));
        if start < window.0 || stop > window.0 + window.1.len() as u64 {
            let length = (stop - start).max(PART).min(end - start);
            window.1.resize(length as usize, 0);
            job.segment.read_file(&mut window.1, start)?;
            window.0 = start;
        }
        let index = job.log.first + position as u64;
        let corrupt = |found: String| super::corrupt(job.segment.name(), start, format!("entry {index} should stand here, found {found}"));
        let (record, record_bytes) = record::parse(&window.1[(start - window.0) as usize..]).map_err(|bad| corrupt(format!("{bad:?}")))?;
        if record.id.index != index || (*effective && record.kind != Kind::Command) {
            return Err(corrupt(record.id.to_string()));
        }
        let refused = !effective && !planted(92);
        if refused || record.kind != Kind::Command {
            continue;
        }
        for operation in record::operations(record.payload) {
            let operation = operation.ok_or_else(|| corrupt("an operation that does not follow the format".to_owned()))?;
            let value_bytes = match operation {
                Operation::Delete { .. } => None,
                Operation::Set { value, .. } | Operation::CompareAndSet { value, .. } => Some(value.len() as u32),
            };
            let record_bytes = record_bytes as u32;
            effects.push(
                operation.key(),
                Effective { front: [0; 8], key: (0, 0), version: index, offset: *offset, record_bytes, value_bytes },
            );
        }
    }
    Ok(effects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn of_each_key_the_newest_operation_is_left_whenever_it_is_sorted() {
        let keys: [&[u8]; 8] = [b"", b"a", b"a\0", b"a\0\0\0\0\0\0\0", b"a\0\0\0\0\0\0\0b", b"b", b"12345678", b"123456789"];
        for settle_every in [1, 3, 50, 1000] {
            let (mut effects, mut expected) = (Effects::new(), BTreeMap::new());
            for version in 0..200_u64 {
                let key = keys[(version * version % 13 % 8) as usize];
                let value_bytes = (version % 3 > 0).then_some(version as u32);
                let (front, offset) = ([0; 8], version as u32 * 10);
                effects.push(key, Effective { front, key: (0, 0), version, offset, record_bytes: 9, value_bytes });
                expected.insert(key, (version, offset, 9, value_bytes));
                if version % settle_every == 0 {
                    effects.settle();
                }
            }
            let found = effects.newest();
            let found = found.iter().map(|key| (key.key, (key.version, key.offset, key.record_bytes, key.value_bytes)));
            assert!(found.eq(expected), "sorted every {settle_every} operations");
        }
    }

    #[test]
    fn few_keys_take_little_memory_however_often_they_are_written() {
        let mut effects = Effects::new();
        for version in 0..SETTLE_AT_LEAST.0 as u64 * 3 {
            let key = [version as u8 % 10; 100];
            effects.push(&key, Effective { front: [0; 8], key: (0, 0), version, offset: 0, record_bytes: 0, value_bytes: None });
            assert!(effects.operations.len() <= SETTLE_AT_LEAST.0 && effects.keys.len() <= SETTLE_AT_LEAST.1 + 100);
        }
        assert_eq!(effects.newest().len(), 10);
    }
}
