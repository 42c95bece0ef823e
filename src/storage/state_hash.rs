//! The rolling hash of applied state: a chain over every entry that was applied and over what it met and did. Two nodes with the same
//! hash behind the same entry have applied the same entries and decided the same conditions against the same versions. Nodes compare it;
//! whatever differs once stays different for good, so comparing now and then is enough.
//!
//! # What goes in
//!
//! For each entry, in log order: its index, its term, the CRC of its record's header (which covers kind, length, index, term and the
//! payload's CRC), whether its operations took effect, and the version that each key had before; if they did not, only the version that a
//! condition met. The versions are what makes it a hash of state and not only of the log: a key that one node lost, or kept although it
//! was deleted, differs as soon as it is touched again. A key that is never touched again is not covered.
//!
//! Nothing local goes in: no place in a file, no batch, no segment. Merges, hints, snapshots and starts leave the hash as it is.
//!
//! # How
//!
//! Each 64-bit word is taken in by one step of splitmix64: `h = mix((h + 0x9e3779b97f4a7c15) ^ word)`, where `mix` is its output function
//! and `+` wraps. The words of an entry are: index; term; CRC, shifted left by one bit, and in the lowest bit whether it took effect; the
//! versions met, taken in one after another behind 0. The hash before the first entry is [`StateHash::START`]. These numbers are part of
//! the format of files and of the protocol between nodes: they never change.

use std::collections::VecDeque;
use std::fmt;

/// Nodes compare the hash behind every entry whose index is a multiple of this, and keep it for that.
pub const CHECKPOINT_SPACING: u64 = 1024;
/// So many checkpoints are remembered: a node that is further behind cannot be compared until it has caught up.
const CHECKPOINTS_KEPT: usize = 64;

/// The hash behind an entry, or that it is not known.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StateHash(u64);

impl StateHash {
    /// Not known: what comes behind is not known either.
    pub const UNKNOWN: StateHash = StateHash(0);
    /// The hash of the empty state, before the first entry.
    pub const START: StateHash = StateHash(0x6170_6578_6b76_0001);

    /// From its number, 0 if it is not known.
    pub fn from_number(number: u64) -> StateHash {
        StateHash(number)
    }

    /// As a number, 0 if it is not known.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Whether it is known.
    pub fn is_known(self) -> bool {
        self != StateHash::UNKNOWN
    }

    /// With another word taken in.
    fn with(self, word: u64) -> StateHash {
        let mut mixed = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        StateHash(mixed ^ (mixed >> 31))
    }

    /// The hash behind the next entry.
    #[must_use]
    pub(super) fn after(self, entry: &Hashed) -> StateHash {
        if !self.is_known() {
            return self;
        }
        let Hashed { index, term, crc, took, met } = *entry;
        let next = self.with(index).with(term).with(u64::from(crc) << 1 | u64::from(took)).with(met.0);
        // One hash in 2^64 would pass for an unknown one.
        if next.is_known() { next } else { StateHash::START }
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The versions that the operations of one entry met, in order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met(u64);

impl Met {
    /// The next key had this version; 0 if it was absent.
    pub(super) fn version(&mut self, version: u64) {
        self.0 = StateHash(self.0).with(version).0;
    }
}

/// What of an applied entry goes into the hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashed {
    pub(super) index: u64,
    pub(super) term: u64,
    /// CRC of the record's header.
    pub(super) crc: u32,
    /// Whether its operations took effect.
    pub(super) took: bool,
    pub(super) met: Met,
}

/// The hash behind an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The entry.
    pub index: u64,
    /// The hash behind it.
    pub hash: StateHash,
}

/// The newest checkpoints of one node, by rising index.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints(VecDeque<Checkpoint>);

impl Checkpoints {
    /// Adds the newest one. Those that do not lie before it are forgotten: the node tells them anew.
    pub fn push(&mut self, checkpoint: Checkpoint) {
        while self.0.pop_back_if(|last| last.index >= checkpoint.index).is_some() {}
        if self.0.len() == CHECKPOINTS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(checkpoint);
    }

    /// The newest.
    pub fn newest(&self) -> Option<Checkpoint> {
        self.0.back().copied()
    }

    /// The hash behind this entry, if it is remembered.
    pub fn at(&self, index: u64) -> Option<StateHash> {
        self.0.binary_search_by_key(&index, |checkpoint| checkpoint.index).ok().map(|position| self.0[position].hash)
    }

    /// Those behind this entry.
    pub fn after(&self, index: u64) -> impl Iterator<Item = Checkpoint> + '_ {
        self.0.range(self.0.partition_point(|checkpoint| checkpoint.index <= index)..).copied()
    }
}

/// The hash behind the last applied entry, and those behind some before it.
#[derive(Debug)]
pub(super) struct RollingHash {
    now: Checkpoint,
    /// The segment that holds the last applied entry.
    segment: Option<u32>,
    /// Behind the last entry of each segment that is applied whole and has no hint yet.
    ends: VecDeque<Checkpoint>,
    checkpoints: Checkpoints,
}

impl RollingHash {
    /// Behind the entry `index`.
    pub(super) fn new(index: u64, hash: StateHash) -> RollingHash {
        let now = Checkpoint { index, hash };
        RollingHash { now, segment: None, ends: VecDeque::new(), checkpoints: Checkpoints::default() }
    }

    /// The next entry, which stands in this segment, was applied.
    pub(super) fn applied(&mut self, segment: u32, entry: &Hashed) {
        if self.segment.replace(segment).is_some_and(|before| before != segment) {
            self.ends.push_back(self.now);
        }
        self.now = Checkpoint { index: entry.index, hash: self.now.hash.after(entry) };
        if entry.index.is_multiple_of(CHECKPOINT_SPACING) && self.now.hash.is_known() {
            self.checkpoints.push(self.now);
        }
    }

    /// Behind the last applied entry.
    pub(super) fn now(&self) -> StateHash {
        self.now.hash
    }

    /// Behind the last entry of a segment; its entries must be applied, and no hint may cover them.
    pub(super) fn behind(&self, last: u64) -> StateHash {
        let end = self.ends.iter().chain([&self.now]).find(|end| end.index == last);
        end.unwrap_or_else(|| panic!("entry {last} ends no segment at {:?} behind {:?}", self.now, self.ends)).hash
    }

    /// Hints cover the entries up to `last`.
    pub(super) fn forget(&mut self, last: u64) {
        while self.ends.pop_front_if(|end| end.index <= last).is_some() {}
    }

    /// The newest checkpoints since the start.
    pub(super) fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Hashed {
        let mut met = Met::default();
        met.version(index / 2);
        Hashed { index, term: 3, crc: index as u32 * 7, took: true, met }
    }

    #[test]
    fn the_function_is_the_one_that_every_version_uses() {
        let hash = (1..=3).fold(StateHash::START, |hash, index| hash.after(&entry(index)));
        assert_eq!(hash.to_string(), "0f64af6f51b282b7");
    }

    #[test]
    fn everything_that_goes_in_makes_a_difference_and_the_order_too() {
        let hash = StateHash::START.after(&entry(5));
        let mut met = Met::default();
        met.version(6);
        let others = [
            Hashed { index: 6, ..entry(5) },
            Hashed { term: 4, ..entry(5) },
            Hashed { crc: 36, ..entry(5) },
            Hashed { took: false, ..entry(5) },
            Hashed { met, ..entry(5) },
            Hashed { met: Met::default(), ..entry(5) },
        ];
        for other in others {
            assert_ne!(StateHash::START.after(&other), hash, "{other:?}");
        }
        assert_ne!(hash.after(&entry(5)), hash);
        assert_ne!(StateHash::START.after(&entry(1)).after(&entry(2)), StateHash::START.after(&entry(2)).after(&entry(1)));
    }

    #[test]
    fn what_is_not_known_stays_so() {
        assert_eq!(StateHash::UNKNOWN.after(&entry(1)), StateHash::UNKNOWN);
        let mut rolling = RollingHash::new(1023, StateHash::UNKNOWN);
        rolling.applied(1, &entry(1024));
        assert_eq!(rolling.checkpoints().newest(), None);
    }

    #[test]
    fn checkpoints_are_kept_for_a_while_and_told_anew_after_a_restart() {
        let checkpoint = |index: u64, hash| Checkpoint { index: index * CHECKPOINT_SPACING, hash: StateHash::from_number(hash) };
        let mut checkpoints = Checkpoints::default();
        (1..=100).for_each(|index| checkpoints.push(checkpoint(index, index)));
        assert_eq!(checkpoints.at(36 * CHECKPOINT_SPACING), None);
        assert_eq!(checkpoints.at(37 * CHECKPOINT_SPACING), Some(StateHash::from_number(37)));
        assert_eq!(checkpoints.after(98 * CHECKPOINT_SPACING).collect::<Vec<_>>(), [checkpoint(99, 99), checkpoint(100, 100)]);
        checkpoints.push(checkpoint(50, 7));
        assert_eq!((checkpoints.newest(), checkpoints.at(51 * CHECKPOINT_SPACING)), (Some(checkpoint(50, 7)), None));
    }

    #[test]
    fn the_hash_behind_a_segment_is_known_until_its_hint_is() {
        let mut rolling = RollingHash::new(0, StateHash::START);
        let mut hashes = vec![rolling.now()];
        for index in 1..=9 {
            rolling.applied(index as u32 / 4, &entry(index));
            hashes.push(rolling.now());
        }
        assert_eq!([3, 7, 9].map(|last| rolling.behind(last)), [hashes[3], hashes[7], hashes[9]]);
        rolling.forget(3);
        assert_eq!(rolling.behind(7), hashes[7]);
    }
}
