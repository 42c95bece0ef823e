//! What clients ask for, and what is remembered of it. Values tell which operation wrote them.

use apexkv::raft::EntryId;
use apexkv::storage::record;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Set,
    Delete,
    CompareAndSet { expected: u64 },
    Get,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) key: u64,
    pub(crate) action: Action,
    pub(crate) value_bytes: u64,
    /// What answers before it have relied on: it must stand behind.
    pub(crate) floor: u64,
    /// Where a leader put it.
    pub(crate) entry: Option<EntryId>,
    pub(crate) committed: bool,
    /// It was answered that it has no effect.
    pub(crate) refused: bool,
}

/// The bytes of a key.
pub(crate) fn key_bytes(key: u64) -> Vec<u8> {
    format!("k{key}").into_bytes()
}

impl Operation {
    /// The value that it writes.
    pub(crate) fn value(&self, number: usize) -> Vec<u8> {
        let mut value = vec![number as u8; self.value_bytes as usize];
        let front = (number as u64).to_le_bytes();
        let length = value.len().min(8);
        value[..length].copy_from_slice(&front[..length]);
        value
    }

    /// Appends its unsealed record.
    pub(crate) fn encode(&self, number: usize, out: &mut Vec<u8>) {
        let (key, value) = (key_bytes(self.key), self.value(number));
        let operation = match self.action {
            Action::Set => record::Operation::Set { key: &key, value: &value },
            Action::Delete => record::Operation::Delete { key: &key },
            Action::CompareAndSet { expected } => record::Operation::CompareAndSet { key: &key, expected, value: &value },
            Action::Get => panic!("a read is no record"),
        };
        record::encode_operation(out, &operation);
    }
}
