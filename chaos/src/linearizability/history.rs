//! The vocabulary of recorded histories: who called what when, and what was answered. Records; judges nothing.

use std::fmt;

/// What was asked of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Store a value.
    Put {
        /// The value.
        value: Vec<u8>,
    },
    /// Read the value.
    Get,
    /// Remove the key.
    Delete,
    /// Store a value if the key has this version.
    CompareAndSet {
        /// The version that the key must have; 0: the key must be absent.
        expected: u64,
        /// The value.
        value: Vec<u8>,
    },
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The put, or the compare-and-set, took effect as this version.
    Written {
        /// The version made.
        version: u64,
    },
    /// The get found a value.
    Found {
        /// Its version, if the answer told it.
        version: Option<u64>,
        /// The value.
        value: Vec<u8>,
    },
    /// The get, or the delete, found nothing.
    Absent,
    /// The delete removed what was there.
    Deleted {
        /// The version of the deletion.
        version: u64,
    },
    /// The compare-and-set met another version and had no effect.
    Conflict {
        /// The version met; 0: the key was absent.
        current: u64,
    },
    /// The operation certainly had no effect, and says nothing about the state.
    Refused,
}

/// The end of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Returned {
    /// When the answer was there.
    pub at: u64,
    /// The answer.
    pub answer: Answer,
}

/// One operation. Times are of one clock for the whole history, in any unit; of two operations the first came before the second only
/// if it returned at a smaller time than the second was invoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    /// Who called: for people only, the judgement goes by the times.
    pub process: u32,
    /// The key.
    pub key: Vec<u8>,
    /// When it was called.
    pub invoked: u64,
    /// What was asked.
    pub call: Call,
    /// Its end; `None` if the outcome was never learned: it may take effect at any time after its call, or never.
    pub returned: Option<Returned>,
}

/// Operations in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    operations: Vec<Operation>,
}

impl History {
    /// Adds an operation.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// Adds all operations of another history of the same clock.
    pub fn append(&mut self, mut other: History) {
        self.operations.append(&mut other.operations);
    }

    /// All operations, in the order in which they were added.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

impl FromIterator<Operation> for History {
    fn from_iter<T: IntoIterator<Item = Operation>>(operations: T) -> History {
        History { operations: operations.into_iter().collect() }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Put { value } => write!(f, "SET {}", value.escape_ascii()),
            Call::Get => f.write_str("GET"),
            Call::Delete => f.write_str("DEL"),
            Call::CompareAndSet { expected, value } => write!(f, "CAS from version {expected} to {}", value.escape_ascii()),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Written { version } => write!(f, "written as version {version}"),
            Answer::Found { version: Some(version), value } => write!(f, "version {version}, {}", value.escape_ascii()),
            Answer::Found { version: None, value } => write!(f, "{}", value.escape_ascii()),
            Answer::Absent => f.write_str("absent"),
            Answer::Deleted { version } => write!(f, "deleted as version {version}"),
            Answer::Conflict { current: 0 } => f.write_str("conflict: absent"),
            Answer::Conflict { current } => write!(f, "conflict: version {current}"),
            Answer::Refused => f.write_str("refused"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { process, invoked, call, .. } = self;
        match &self.returned {
            Some(Returned { at, answer }) => write!(f, "process {process}, {invoked} to {at}: {call} -> {answer}"),
            None => write!(f, "process {process}, from {invoked} on: {call} -> outcome unknown"),
        }
    }
}
