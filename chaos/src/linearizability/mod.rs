//! Is a recorded history linearizable? That is: could every operation have taken effect at one moment between its call and its answer,
//! such that all answers come out as they did?
//!
//! * **Per key.** Linearizability is local (Herlihy and Wing, 1990): a history is linearizable if the history of each key is.
//! * **Search** (`search.rs`): the algorithm of Wing and Gong (1993) with Lowe's memoisation (2017): take any operation that may come
//!   next, apply it to the model, go on, and step back when stuck; never go on twice from one set of operations in one state.
//! * **Model** (`model.rs`): a register with a version that grows with every write. A write whose outcome was not learned may take
//!   effect at any time after its call, or never, and its version is known only when an answer shows it.
//! * **The smallest bad piece** (`shrink.rs`): a violation is shown by few answers that contradict each other whatever all other
//!   operations did.
//!
//! The search is bounded by a number of steps, and what was not decided is said to be undecided. Operations over several keys, such as
//! a scan, are not judged here.
//!
//! ```
//! use apexkv_chaos::linearizability::{Answer, Call, History, Operation, Returned, Verdict, check};
//!
//! let mut history = History::default();
//! let key = b"k".to_vec();
//! let put = Call::Put { value: b"new".to_vec() };
//! let returned = Some(Returned { at: 20, answer: Answer::Written { version: 7 } });
//! history.push(Operation { process: 1, key: key.clone(), invoked: 10, call: put, returned });
//! history.push(Operation { process: 2, key, invoked: 30, call: Call::Get, returned: Some(Returned { at: 40, answer: Answer::Absent }) });
//! assert!(matches!(check(&history), Verdict::Violation { .. }), "the read began after the write was acknowledged");
//! ```

mod history;
mod model;
mod search;
mod shrink;

pub use history::{Answer, Call, History, Operation, Returned};

use search::Outcome;
use std::collections::BTreeMap;

/// Steps that [`check`] spends on one key at most. Histories of tens of thousands of operations by tens of processes need about one
/// step an operation.
pub const STEPS_MAX: u64 = 2_000_000;

/// What a history has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every key's history is linearizable.
    Linearizable,
    /// This key's history is not.
    Violation {
        /// The first such key, in byte order.
        key: Vec<u8>,
        /// Few operations, in the order of their calls, whose answers contradict each other whatever all others did.
        piece: Vec<Operation>,
    },
    /// This key's history was not decided within the steps allowed; no other key's is known to be wrong.
    Undecided {
        /// The first such key, in byte order.
        key: Vec<u8>,
        /// The steps spent on it.
        steps: u64,
    },
}

/// Judges a history, with up to [`STEPS_MAX`] steps for each key.
pub fn check(history: &History) -> Verdict {
    check_within(history, STEPS_MAX)
}

/// Judges a history, with up to `steps` steps for each key.
pub fn check_within(history: &History, steps: u64) -> Verdict {
    let mut by_key: BTreeMap<&[u8], Vec<&Operation>> = BTreeMap::new();
    for operation in history.operations() {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    let mut undecided = None;
    for (key, mut operations) in by_key {
        operations.sort_by_key(|operation| operation.invoked);
        match judge(&operations, steps) {
            (Outcome::Linearizable, _) => {}
            (Outcome::Violation, piece) => return Verdict::Violation { key: key.to_vec(), piece },
            (Outcome::Undecided, _) => undecided = undecided.or(Some(Verdict::Undecided { key: key.to_vec(), steps })),
        }
    }
    undecided.unwrap_or(Verdict::Linearizable)
}

/// Judges one key; `operations` are in the order of their calls. The smallest bad piece comes with a violation.
fn judge(operations: &[&Operation], steps: u64) -> (Outcome, Vec<Operation>) {
    let compiled = model::compile(operations, |_| true);
    let shown = |trusted| shrink::smallest(operations, trusted).into_iter().cloned().collect();
    // A linearizable history seldom needs more; where the search got stuck, a contradiction is seldom far.
    let (mut outcome, stuck) = search::search(&compiled, steps.min(4 * operations.len() as u64 + 1_000));
    if outcome != Outcome::Linearizable {
        let behind = operations.partition_point(|operation| operation.invoked <= stuck);
        if let Some(trusted) = shrink::contradiction_before(operations, behind) {
            return (Outcome::Violation, shown(trusted));
        }
    }
    if outcome == Outcome::Undecided {
        outcome = search::search(&compiled, steps).0;
    }
    let piece = if outcome == Outcome::Violation { shown(vec![true; operations.len()]) } else { Vec::new() };
    (outcome, piece)
}

#[cfg(test)]
mod tests;
