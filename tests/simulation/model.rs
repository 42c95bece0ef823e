//! The state machine as simply as it can be said: which version each key has after each committed entry.

use apexkv::storage::store::Store;

use super::operations::{Action, Operation, key_bytes};

/// What an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    Written,
    NotFound,
    Conflict(u64),
}

/// All states so far.
#[derive(Debug, Default)]
pub(crate) struct Model {
    effects: Vec<Effect>,
    /// The key of each entry that wrote one.
    changed: Vec<Option<u64>>,
    /// For each key: from which entry on it has which version; 0 is absent.
    versions: Vec<Vec<(u64, u64)>>,
}

impl Model {
    pub(crate) fn new(keys: u64) -> Model {
        Model { effects: Vec::new(), changed: Vec::new(), versions: vec![Vec::new(); keys as usize] }
    }

    /// An entry without operations.
    pub(crate) fn skip(&mut self) {
        self.effects.push(Effect::None);
        self.changed.push(None);
    }

    pub(crate) fn apply(&mut self, _number: usize, operation: &Operation) {
        let index = self.effects.len() as u64 + 1;
        let history = &mut self.versions[operation.key as usize];
        let current = history.last().map_or(0, |(_, version)| *version);
        let effect = match operation.action {
            Action::Delete if current == 0 => Effect::NotFound,
            Action::CompareAndSet { expected } if expected != current => Effect::Conflict(current),
            _ => Effect::Written,
        };
        if effect == Effect::Written {
            history.push((index, if operation.action == Action::Delete { 0 } else { index }));
        }
        self.effects.push(effect);
        self.changed.push((effect == Effect::Written).then_some(operation.key));
    }

    pub(crate) fn effect(&self, index: u64) -> Effect {
        self.effects[index as usize - 1]
    }

    /// The version of a key right after the entry at `index`.
    pub(crate) fn version_at(&self, key: u64, index: u64) -> u64 {
        let history = &self.versions[key as usize];
        let after = history.partition_point(|(from, _)| *from <= index);
        after.checked_sub(1).map_or(0, |position| history[position].1)
    }

    /// How many keys there can be.
    pub(crate) fn keys(&self) -> u64 {
        self.versions.len() as u64
    }

    /// Holds what a node's state has become by the entries after `before` against the model's at the same entry.
    pub(crate) fn compare_changes(&self, node: usize, before: u64, applied: u64, store: &Store) {
        for key in self.changed[before as usize..applied as usize].iter().flatten() {
            let found = store.lookup(&key_bytes(*key)).map_or(0, |located| located.version);
            let version = self.version_at(*key, applied);
            assert!(found == version, "at {applied}, {node} holds version {found} of k{key}, the model {version}");
        }
    }

    /// Holds a node's whole state against the model's at the same entry.
    pub(crate) fn compare(&self, node: usize, applied: u64, store: &Store) {
        let page = store.scan(b"", b"", usize::MAX, usize::MAX, true);
        let mut found = page.entries.iter().map(|(key, located)| (&**key, located.version));
        for key in 0..self.keys() {
            let version = self.version_at(key, applied);
            if version > 0 {
                let (bytes, next) = (key_bytes(key), found.next());
                assert!(next == Some((&bytes[..], version)), "at {applied}, {node} holds {next:?} where k{key} has version {version}");
            }
        }
        let more = found.next();
        assert!(more.is_none() && !page.more, "at {applied}, {node} holds {more:?}, which the model does not");
    }
}
