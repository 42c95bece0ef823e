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

/// What a client learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    Written(u64),
    Deleted(u64),
    Absent,
    Conflict(u64),
    /// It certainly has no effect.
    Refused,
    /// A version, and once its value was read, the number of the operation that the value names.
    Found {
        version: u64,
        writer: Option<u64>,
    },
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// When it was handed in, on a clock that every call and every answer moves on.
    pub(crate) invoked: u64,
    /// When it was answered, on the same clock, and what was answered; `None` if nobody knows.
    pub(crate) learned: Option<(u64, Learned)>,
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

/// Most keys that a seed may draw: each is one digit.
pub(crate) const KEYS_MAX: u64 = 10;

/// The bytes of a key.
pub(crate) fn key_bytes(key: u64) -> [u8; 2] {
    assert!(key < KEYS_MAX, "key {key} has more than one digit");
    [b'k', b'0' + key as u8]
}

/// Which operation wrote a value, as the value says.
pub(crate) fn writer_of(value: &[u8]) -> u64 {
    let mut number = [0; 8];
    let length = value.len().min(8);
    number[..length].copy_from_slice(&value[..length]);
    u64::from_le_bytes(number)
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
