//! All orders, tried one by one: slow, and too simple to be wrong. Every operation is tried at every place that real time allows, every
//! write of unknown outcome with every version that could matter, or left out.

use super::*;

/// Whether some order of the operations explains all answers.
pub(super) fn is_linearizable(operations: &[Operation]) -> bool {
    let mentioned = operations.iter().map(newest_version).max().unwrap_or(0);
    let all: Vec<&Operation> =
        operations.iter().filter(|one| one.returned.as_ref().is_none_or(|returned| returned.answer != Answer::Refused)).collect();
    extend(&all, &mut vec![false; all.len()], (0, None), mentioned + operations.len() as u64)
}

fn newest_version(operation: &Operation) -> u64 {
    let answered = match operation.returned.as_ref().map(|returned| &returned.answer) {
        Some(Answer::Written { version } | Answer::Deleted { version } | Answer::Conflict { current: version }) => *version,
        Some(Answer::Found { version, .. }) => version.unwrap_or(0),
        _ => 0,
    };
    if let Call::CompareAndSet { expected, .. } = operation.call { answered.max(expected) } else { answered }
}

/// The newest version of the key, and its value if it has one.
type State<'a> = (u64, Option<&'a [u8]>);

fn extend<'a>(all: &[&'a Operation], taken: &mut Vec<bool>, state: State<'a>, versions: u64) -> bool {
    let finished = (0..all.len()).all(|at| taken[at] || all[at].returned.is_none());
    if finished {
        return true;
    }
    for at in 0..all.len() {
        let precedes = |other: usize| {
            let returned = all[other].returned.as_ref();
            !taken[other] && returned.is_some_and(|returned| returned.at < all[at].invoked)
        };
        if taken[at] || (0..all.len()).any(precedes) {
            continue;
        }
        for next in results(all[at], state, versions) {
            taken[at] = true;
            let found = extend(all, taken, next, versions);
            taken[at] = false;
            if found {
                return true;
            }
        }
    }
    false
}

/// The states that the operation may leave behind with its answer.
fn results<'a>(operation: &'a Operation, (newest, value): State<'a>, versions: u64) -> Vec<State<'a>> {
    let answer = operation.returned.as_ref().map(|returned| &returned.answer);
    let current = if value.is_some() { newest } else { 0 };
    let effect = match &operation.call {
        Call::Put { value } => Some(Some(value.as_slice())),
        Call::Delete => value.is_some().then_some(None),
        Call::CompareAndSet { expected, value } => (*expected == current).then_some(Some(value.as_slice())),
        Call::Get => None,
    };
    let refused = match &operation.call {
        Call::CompareAndSet { .. } => Answer::Conflict { current },
        Call::Get if value.is_some() => {
            let told = matches!(answer, Some(Answer::Found { version: Some(_), .. }));
            Answer::Found { version: told.then_some(newest), value: value.unwrap_or_default().to_vec() }
        }
        _ => Answer::Absent,
    };
    let Some(effect) = effect else {
        return if answer.is_none_or(|answer| *answer == refused) { vec![(newest, value)] } else { vec![] };
    };
    let right_kind = |version: u64| match (&operation.call, answer) {
        (_, None) => true,
        (Call::Delete, Some(answer)) => *answer == Answer::Deleted { version },
        (_, Some(answer)) => *answer == Answer::Written { version },
    };
    (newest + 1..=versions).filter(|version| right_kind(*version)).map(|version| (version, effect)).collect()
}
