//! The model that a key is held against: a register whose version grows with every write, and what each operation does to it. Also turns
//! recorded operations into steps of the model.
//!
//! A write whose answer is unknown makes a version that nobody has seen. The register then knows only its least possible value; the
//! first answer that shows the version settles it. Versions are whole numbers, so such writes need room between two known ones.

use super::history::{Answer, Call, Operation, Returned};
use std::collections::HashMap;

/// A value, as its number among the values of the key.
type Value = u32;

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Register {
    value: Option<Value>,
    /// The version of the newest write or deletion; if not `exact`, the least that it may be.
    version: u64,
    exact: bool,
}

/// What an operation does, its answer included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Writes. The version is `None` if it was never seen.
    Put { value: Value, version: Option<u64> },
    /// Removes what is there.
    Delete { version: Option<u64> },
    /// Writes over the expected version (0: over nothing).
    CompareAndSet { expected: u64, value: Value, version: Option<u64> },
    /// Saw another version than the expected one.
    Conflict { expected: u64, current: u64 },
    /// Saw a value.
    Found { value: Value, version: Option<u64> },
    /// Saw nothing.
    Absent,
    /// An answer that does not belong to its call.
    Impossible,
}

/// One operation, ready for the search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compiled {
    pub(super) invoked: u64,
    /// `None`: it may come at any time after its call, or never.
    pub(super) returned: Option<u64>,
    pub(super) step: Step,
}

impl Register {
    /// A key that was never written.
    pub(super) const EMPTY: Register = Register { value: None, version: 0, exact: true };

    fn written(value: Value, version: Option<u64>, above: u64) -> Option<Register> {
        match version {
            Some(version) if version <= above => None,
            Some(version) => Some(Register { value: Some(value), version, exact: true }),
            None => Some(Register { value: Some(value), version: above.saturating_add(1), exact: false }),
        }
    }

    /// The same state with the version settled, if there is a value and it can be that version.
    fn seen_as(self, version: u64) -> Option<Register> {
        let possible = self.value.is_some() && if self.exact { version == self.version } else { version >= self.version };
        possible.then_some(Register { version, exact: true, ..self })
    }

    /// The state after a step; `None` if the step's answer cannot come out in this state.
    pub(super) fn after(self, step: Step) -> Option<Register> {
        match step {
            Step::Put { value, version } => Register::written(value, version, self.version),
            Step::Delete { version } => {
                self.value?;
                let least = self.version.saturating_add(1);
                let version = version.unwrap_or(least);
                (version >= least).then_some(Register { value: None, version, exact: true })
            }
            Step::CompareAndSet { expected: 0, value, version } => {
                if self.value.is_some() {
                    None
                } else {
                    Register::written(value, version, self.version)
                }
            }
            Step::CompareAndSet { expected, value, version } => Register::written(value, version, self.seen_as(expected)?.version),
            Step::Conflict { expected, current: 0 } => (self.value.is_none() && expected != 0).then_some(self),
            Step::Conflict { expected, current } => self.seen_as(current).filter(|_| expected != current),
            Step::Found { value, version } => {
                let seen = if self.value == Some(value) { self } else { return None };
                version.map_or(Some(seen), |version| seen.seen_as(version))
            }
            Step::Absent => self.value.is_none().then_some(self),
            Step::Impossible => None,
        }
    }

    /// Whether no later state can give the step its answer: it saw or made a version that lies behind.
    pub(super) fn has_missed(self, step: Step) -> bool {
        let seen = |version: u64| version < self.version || (self.exact && version == self.version && self.value.is_none());
        match step {
            Step::Found { version: Some(version), value } => {
                seen(version) || (self.exact && version == self.version && self.value != Some(value))
            }
            Step::Conflict { current: version, .. } | Step::CompareAndSet { expected: version, .. } if version > 0 => seen(version),
            Step::Put { version: Some(version), .. } | Step::Delete { version: Some(version) } => version <= self.version,
            Step::Impossible => true,
            _ => false,
        }
    }
}

impl Step {
    /// Whether the step comes out the same in every state.
    pub(super) fn is_blind(self) -> bool {
        matches!(self, Step::Put { .. })
    }

    /// The version that the step made, if it is known.
    pub(super) fn made(self) -> Option<u64> {
        match self {
            Step::Put { version, .. } | Step::Delete { version } | Step::CompareAndSet { version, .. } => version,
            _ => None,
        }
    }
}

/// Turns operations of one key, in the order of their calls, into steps. The answers of those for which `trusted` is false (by position)
/// are ignored, as if they had never been learned.
pub(super) fn compile(operations: &[&Operation], trusted: impl Fn(usize) -> bool) -> Vec<Compiled> {
    let known = |position: usize| operations[position].returned.as_ref().filter(|_| trusted(position));
    let refused = |operation: &Operation| operation.returned.as_ref().is_some_and(|returned| returned.answer == Answer::Refused);
    let values = Values::of((0..operations.len()).filter(|at| !refused(operations[*at])).map(|at| (operations[at], known(at))));
    let mut compiled = Vec::with_capacity(operations.len());
    for (position, operation) in operations.iter().enumerate().filter(|(_, operation)| !refused(operation)) {
        let invoked = operation.invoked;
        match known(position) {
            Some(Returned { at, answer }) => {
                compiled.push(Compiled { invoked, returned: Some(*at), step: answered(&operation.call, answer, &values) });
            }
            None => compiled.extend(open(&operation.call, &values).map(|(step, returned)| Compiled { invoked, returned, step })),
        }
    }
    compiled
}

/// What is known of a value of the key.
#[derive(Default)]
struct Known {
    writers: u32,
    /// The number of the value if it was read, the first end of such a read, and a version that was told.
    read: Option<(Value, u64, Option<u64>)>,
}

/// All values of the key. Those that were never read need not be told apart.
struct Values<'a>(HashMap<&'a [u8], Known>);

/// Stands for every value that was never read.
const NEVER_READ: Value = Value::MAX;

impl<'a> Values<'a> {
    fn of(operations: impl Iterator<Item = (&'a Operation, Option<&'a Returned>)>) -> Values<'a> {
        let mut values: HashMap<&[u8], Known> = HashMap::new();
        let mut next = 0;
        for (operation, returned) in operations {
            if let Call::Put { value } | Call::CompareAndSet { value, .. } = &operation.call {
                values.entry(value).or_default().writers += 1;
            }
            if let Some(Returned { at, answer: Answer::Found { version, value } }) = returned {
                let known = values.entry(value).or_default();
                let (number, first, told) = known.read.unwrap_or((next, *at, None));
                next += Value::from(number == next);
                known.read = Some((number, first.min(*at), told.or(*version)));
            }
        }
        Values(values)
    }

    fn number(&self, value: &[u8]) -> Value {
        self.0.get(value).and_then(|known| known.read).map_or(NEVER_READ, |(number, ..)| number)
    }

    /// When the value was first read, at the latest, and as which version, if only one operation can have written it.
    fn witness(&self, value: &[u8]) -> Option<(u64, Option<u64>)> {
        let known = self.0.get(value).filter(|known| known.writers == 1)?;
        known.read.map(|(_, first, version)| (first, version))
    }

    fn was_written(&self, value: &[u8]) -> bool {
        self.0.get(value).is_some_and(|known| known.writers > 0)
    }
}

fn answered(call: &Call, answer: &Answer, values: &Values<'_>) -> Step {
    match (call, answer) {
        (Call::Put { value }, Answer::Written { version }) => Step::Put { value: values.number(value), version: Some(*version) },
        (Call::Get, Answer::Found { version, value }) if values.was_written(value) => {
            Step::Found { value: values.number(value), version: *version }
        }
        (Call::Get | Call::Delete, Answer::Absent) => Step::Absent,
        (Call::Delete, Answer::Deleted { version }) => Step::Delete { version: Some(*version) },
        (Call::CompareAndSet { expected, value }, Answer::Written { version }) => {
            Step::CompareAndSet { expected: *expected, value: values.number(value), version: Some(*version) }
        }
        (Call::CompareAndSet { expected, .. }, Answer::Conflict { current }) => Step::Conflict { expected: *expected, current: *current },
        _ => Step::Impossible,
    }
}

/// What an operation does whose answer is not known, and by when it has done it, if that follows from a read; `None` if it changes
/// nothing. Who reads a value that only this operation can have written has learned its outcome.
fn open(call: &Call, values: &Values<'_>) -> Option<(Step, Option<u64>)> {
    let witness = |value: &[u8]| values.witness(value).map_or((None, None), |(by, version)| (Some(by), version));
    match call {
        Call::Put { value } => {
            let (by, version) = witness(value);
            Some((Step::Put { value: values.number(value), version }, by))
        }
        Call::Get => None,
        Call::Delete => Some((Step::Delete { version: None }, None)),
        Call::CompareAndSet { expected, value } => {
            let (by, version) = witness(value);
            Some((Step::CompareAndSet { expected: *expected, value: values.number(value), version }, by))
        }
    }
}
