//! What the clients saw, as the judge of linearizability wants it. The oracle checks each answer against what it knows of the inside;
//! the judge knows only calls, answers and their order, and so it also judges the oracle.

use apexkv_chaos::linearizability::{Answer, Call, History, Operation as Recorded, Returned, Verdict, check_within};

use super::operations::{Action, Learned, Operation, key_bytes};
use super::world::World;

/// Steps for each key. A history of some thousand operations takes about one step for each; a hundred times as many leave room for
/// writes whose outcome nobody learned, and an undecided history costs no more than a few seeds.
const STEPS_MAX: u64 = 200_000;

/// Values are told apart by the number of the operation that wrote them; the oracle has compared all their bytes.
fn name_of_value(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn recorded(number: usize, operation: &Operation) -> Recorded {
    let value = name_of_value(number as u64);
    let call = match operation.action {
        Action::Set => Call::Put { value },
        Action::Delete => Call::Delete,
        Action::CompareAndSet { expected } => Call::CompareAndSet { expected, value },
        Action::Get => Call::Get,
    };
    let returned = operation.learned.and_then(|(at, learned)| {
        let answer = match learned {
            Learned::Written(version) => Answer::Written { version },
            Learned::Deleted(version) => Answer::Deleted { version },
            Learned::Absent => Answer::Absent,
            Learned::Conflict(current) => Answer::Conflict { current },
            Learned::Refused => Answer::Refused,
            Learned::Found { version, writer } => Answer::Found { version: Some(version), value: name_of_value(writer?) },
        };
        Some(Returned { at, answer })
    });
    Recorded { process: number as u32, key: key_bytes(operation.key).to_vec(), invoked: operation.invoked, call, returned }
}

/// The history of operations that were called and answered on one clock. Reads that nobody saw the end of say nothing.
pub(crate) fn history(operations: &[Operation]) -> History {
    let numbered = operations.iter().enumerate();
    let telling = numbered.filter(|(_, operation)| match operation.learned {
        None => operation.action != Action::Get,
        Some((_, Learned::Refused | Learned::Found { writer: None, .. })) => false,
        Some(_) => true,
    });
    telling.map(|(number, operation)| recorded(number, operation)).collect()
}

impl World {
    /// Reads every key from a member that is up to date and from which nothing is in flight any more.
    pub(crate) fn read_back(&mut self, node: usize) {
        let Some(process) = &self.members[node].process else { return };
        let (store, life) = (process.store.clone(), process.life);
        for key in 0..self.plan.keys {
            let read = self.oracle.invoke(key, Action::Get, 0);
            let located = store.lookup(&key_bytes(key));
            self.oracle.read(read, store.applied(), located.as_ref().map_or(0, |located| located.version));
            if let Some(located) = located {
                self.read_value(node, life, read, &located);
            }
        }
    }

    /// Judges everything that the clients saw. An undecided history is counted.
    pub(crate) fn judge_history(&mut self) {
        let history = history(&self.oracle.operations);
        self.counts.judged += history.operations().len() as u64;
        match check_within(&history, STEPS_MAX) {
            Verdict::Linearizable => {}
            Verdict::Undecided { .. } => self.counts.undecided += 1,
            Verdict::Violation { key, piece } => {
                let piece: Vec<String> = piece.iter().map(|operation| format!("  {operation}")).collect();
                panic!("the history of {} is not linearizable:\n{}", key.escape_ascii(), piece.join("\n"));
            }
        }
    }
}

/// The judge must be shown what happened: a history in which one read is older than it was is convicted.
#[test]
fn a_history_with_one_stale_read_is_convicted() {
    let operation = |invoked, action, learned| Operation {
        invoked,
        learned: Some((invoked + 1, learned)),
        key: 0,
        action,
        value_bytes: 8,
        floor: 0,
        entry: None,
        committed: true,
        refused: false,
    };
    let read = |version, writer| Learned::Found { version, writer: Some(writer) };
    let told = [operation(1, Action::Set, Learned::Written(2)), operation(3, Action::Set, Learned::Written(3))];
    let good = [&told[..], &[operation(5, Action::Get, read(3, 1))]].concat();
    assert_eq!(check_within(&history(&good), STEPS_MAX), Verdict::Linearizable);
    let stale = [&told[..], &[operation(5, Action::Get, read(2, 0))]].concat();
    assert!(matches!(check_within(&history(&stale), STEPS_MAX), Verdict::Violation { .. }));
    let mixed_up = [&told[..], &[operation(5, Action::Get, read(3, 0))]].concat();
    assert!(matches!(check_within(&history(&mixed_up), STEPS_MAX), Verdict::Violation { .. }));
}
