//! Applying: committed entries change the index, in log order, and conditions are decided here and nowhere else. Keys and conditions
//! of entries that are not applied yet wait in memory, so that applying touches neither file nor map. Called by the Raft thread.

use super::keydir::Value;
use super::location::Location;
use super::record::{self, Kind, Operation, Record};
use super::state::State;
use super::state_hash::{Checkpoints, Hashed, Met, RollingHash, StateHash};
use super::store::{Located, Store};
use crate::bugbank::planted;
use crate::raft::EntryId;
use parking_lot::RwLockWriteGuard;
use std::collections::VecDeque;
use std::sync::Arc;

/// What an applied entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It holds no operation.
    None,
    /// All its operations took effect, with the entry's index as version.
    Written,
    /// Nothing took effect: a key to be deleted is absent.
    NotFound,
    /// Nothing took effect: a key has another version than the condition names.
    Conflict {
        /// The version it has; 0 if it is absent.
        current: u64,
    },
}

/// An applied entry and what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The entry.
    pub id: EntryId,
    /// What it did.
    pub effect: Effect,
}

#[derive(Debug)]
struct Pending {
    id: EntryId,
    location: Location,
    operations: usize,
    /// Of its record's header.
    crc: u32,
}

#[derive(Debug)]
struct PendingOperation {
    key: Box<[u8]>,
    action: Action,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Set { value_bytes: u32 },
    Delete,
    CompareAndSet { expected: u64, value_bytes: u32 },
}

/// Entries waiting to be applied.
#[derive(Debug)]
pub struct Applier {
    store: Arc<Store>,
    applied: u64,
    pending: VecDeque<Pending>,
    /// The operations of all pending entries, one entry after another.
    operations: VecDeque<PendingOperation>,
    effects: Effects,
    hash: RollingHash,
    /// For tests of what happens when memory and log disagree: the entry whose effect this node is to lose.
    lost: Option<u64>,
}

/// For each applied entry of the log that no hint covers, whether its operations took effect.
#[derive(Debug)]
struct Effects {
    /// Index of the entry at the front.
    first: u64,
    took: VecDeque<bool>,
}

/// Whether a record's payload follows the format, so that it may be appended and staged. Records from peers and files are checked
/// with this before anything else is done with them.
pub fn is_well_formed(record: &Record<'_>) -> bool {
    match record.kind {
        Kind::NoOp => record.payload.is_empty(),
        Kind::Config => record::decode_config(record.payload).is_some(),
        Kind::Command => !record.payload.is_empty() && record::operations(record.payload).all(|operation| operation.is_some()),
    }
}

impl Applier {
    /// Starts behind the entry `applied`, whose state the store has, with the hash behind that entry.
    pub(super) fn new(store: Arc<Store>, applied: u64, hash: StateHash) -> Applier {
        store.set_applied(applied);
        let effects = Effects { first: applied + 1, took: VecDeque::new() };
        let hash = RollingHash::new(applied, hash);
        Applier { store, applied, pending: VecDeque::new(), operations: VecDeque::new(), effects, hash, lost: None }
    }

    /// Takes over what applying these records will need: sealed, checked, one after another, in log order. Their places follow with
    /// [`Applier::place`] as soon as the log has given them.
    pub fn stage(&mut self, records: &[u8]) {
        let mut rest = records;
        while !rest.is_empty() {
            let (record, bytes) = record::view(rest);
            self.stage_record(&record, record::header_crc(rest));
            rest = &rest[bytes..];
        }
    }

    fn stage_record(&mut self, record: &Record<'_>, crc: u32) {
        let id = record.id;
        let last = self.pending.back().map_or(self.applied, |pending| pending.id.index);
        assert!(id.index == last + 1, "{id} is staged behind {last}");
        let mut operations = 0;
        if record.kind == Kind::Command {
            for operation in record::operations(record.payload) {
                let operation = operation.unwrap_or_else(|| panic!("the operations of {id} were not checked"));
                let action = match operation {
                    Operation::Set { value, .. } => Action::Set { value_bytes: value.len() as u32 },
                    Operation::Delete { .. } => Action::Delete,
                    Operation::CompareAndSet { expected, value, .. } => Action::CompareAndSet { expected, value_bytes: value.len() as u32 },
                };
                let action = if planted(39) { self.decided_early(operation.key(), action) } else { action };
                self.operations.push_back(PendingOperation { key: operation.key().into(), action });
                operations += 1;
            }
        }
        self.pending.push_back(Pending { id, location: Location::default(), operations, crc });
    }

    /// A condition decided against what is applied here by chance, not what stands before the entry.
    fn decided_early(&self, key: &[u8], action: Action) -> Action {
        match action {
            Action::CompareAndSet { expected, value_bytes } if self.store.lookup(key).map_or(0, |found| found.version) == expected => {
                Action::Set { value_bytes }
            }
            other => other,
        }
    }

    /// The places of the newest entries staged, one each.
    pub fn place(&mut self, locations: &[Location]) {
        let first = self.pending.len() - locations.len();
        for (pending, location) in self.pending.range_mut(first..).zip(locations) {
            pending.location = *location;
        }
    }

    /// Forgets the entries from `from` on, which were dropped from the log; none of them may have been applied.
    pub fn truncate(&mut self, from: u64) {
        assert!(from > self.applied, "entries from {from} on are dropped, but {} is applied", self.applied);
        while let Some(dropped) = self.pending.pop_back_if(|pending| pending.id.index >= from) {
            let dropped = if planted(51) { 0 } else { dropped.operations };
            self.operations.truncate(self.operations.len() - dropped);
        }
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Bytes of memory that the index takes, about.
    pub fn index_bytes(&self) -> u64 {
        self.store.index_bytes()
    }

    /// How many entries are staged and not applied.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// For each of the entries `first ..= last`, whether its operations took effect. They must be applied, and stay known until
    /// [`Applier::forget_effects`].
    pub fn effects(&self, first: u64, last: u64) -> Vec<bool> {
        assert!(self.effects.first <= first && last <= self.applied, "effects of {first}..={last} are asked for at {}", self.applied);
        let position = |index: u64| (index - self.effects.first) as usize;
        self.effects.took.range(position(first)..=position(last)).copied().collect()
    }

    /// The hash of the state behind the last entry of a segment whose entries are applied; known until [`Applier::forget_effects`].
    pub fn hash_behind(&self, last: u64) -> StateHash {
        self.hash.behind(last)
    }

    /// The hash of the state behind the last applied entry.
    pub fn hash(&self) -> StateHash {
        self.hash.now()
    }

    /// The hashes that nodes compare: behind the newest of the entries that were applied here since the start.
    pub fn checkpoints(&self) -> &Checkpoints {
        self.hash.checkpoints()
    }

    /// Makes this node lose the effect of an entry, as memory that fails would, for tests: it goes on as if the entry had taken effect.
    pub fn lose(&mut self, index: u64) {
        self.lost = Some(index);
    }

    /// A hint names what took effect up to `last`.
    pub fn forget_effects(&mut self, last: u64) {
        while self.effects.first <= last && self.effects.took.pop_front().is_some() {
            self.effects.first += 1;
        }
        self.hash.forget(last);
        self.store.write().hinted(last);
    }

    /// A snapshot has taken the place of everything up to `last`, behind which the state has this hash: what waits is forgotten.
    pub fn installed(&mut self, last: u64, hash: StateHash) {
        assert!(last > self.applied, "a snapshot up to {last} was installed behind {}", self.applied);
        self.pending.clear();
        self.operations.clear();
        self.applied = last;
        self.effects = Effects { first: last + 1, took: VecDeque::new() };
        self.hash = RollingHash::new(last, hash);
    }

    /// Locks the index for applying some entries; readers wait until the slice is dropped, so it must be a short one.
    pub fn slice(&mut self) -> Slice<'_> {
        let Applier { store, applied, pending, operations, effects, hash, lost } = self;
        Slice { state: store.write(), store, applied, pending, operations, effects, hash, lost: *lost }
    }
}

/// A run of entries applied under one lock.
#[derive(Debug)]
pub struct Slice<'a> {
    state: RwLockWriteGuard<'a, State>,
    store: &'a Store,
    applied: &'a mut u64,
    pending: &'a mut VecDeque<Pending>,
    operations: &'a mut VecDeque<PendingOperation>,
    effects: &'a mut Effects,
    hash: &'a mut RollingHash,
    lost: Option<u64>,
}

impl Slice<'_> {
    /// Applies the next staged entry, which must be there and committed. Conditions are decided against the state before the entry; if
    /// one fails, none of its operations takes effect.
    pub fn apply_next(&mut self) -> Applied {
        let entry = self.pending.pop_front().unwrap_or_else(|| panic!("no entry is staged behind {}", self.applied));
        assert_eq!(entry.id.index, *self.applied + 1, "entries are applied in log order");
        *self.applied = entry.id.index;
        let failed = self.operations.iter().take(entry.operations).find_map(|operation| failure(&self.state, operation));
        let mut met = Met::default();
        if let Some(Effect::Conflict { current }) = failed {
            met.version(current);
        }
        for operation in self.operations.drain(..entry.operations).filter(|_| failed.is_none()) {
            met.version(if self.lost == Some(entry.id.index) {
                self.state.version(&operation.key)
            } else {
                take_effect(&mut self.state, operation, &entry)
            });
        }
        let took = failed.is_none() && entry.operations > 0;
        self.effects.took.push_back(took);
        let EntryId { index, term } = entry.id;
        self.hash.applied(entry.location.segment, &Hashed { index, term, crc: entry.crc, took, met });
        let effect = failed.unwrap_or(if entry.operations == 0 { Effect::None } else { Effect::Written });
        Applied { id: entry.id, effect }
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> u64 {
        *self.applied
    }

    /// Where the value of `key` stands after the entries applied so far.
    pub fn lookup(&self, key: &[u8]) -> Option<Located> {
        self.state.lookup(key)
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        // Published before the lock is released: whoever sees the index finds the entries.
        self.store.set_applied(*self.applied);
        self.store.note_index_bytes(&self.state);
    }
}

/// Why an operation's condition does not hold.
fn failure(state: &State, operation: &PendingOperation) -> Option<Effect> {
    let current = || state.version(&operation.key);
    match operation.action {
        Action::Set { .. } => None,
        Action::Delete => (current() == 0).then_some(Effect::NotFound),
        Action::CompareAndSet { expected, .. } => {
            let current = current();
            (current != expected).then_some(Effect::Conflict { current })
        }
    }
}

/// Returns the version that the key had, 0 if it was absent.
fn take_effect(state: &mut State, operation: PendingOperation, entry: &Pending) -> u64 {
    match operation.action {
        Action::Delete => state.delete(&operation.key, entry.id.index),
        Action::Set { value_bytes } | Action::CompareAndSet { value_bytes, .. } => {
            let value = Value { version: entry.id.index, location: entry.location, value_bytes };
            state.put(&operation.key, value)
        }
    }
}
