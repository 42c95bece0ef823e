//! From a history that is not linearizable to the few answers that show it. An answer is left out by pretending that it was never
//! learned: a read then says nothing, a write may have taken effect or not. So what remains is a contradiction whatever the others did,
//! and not one that leaving out has made.
//!
//! For the same reason a contradiction among neighbours is one of the whole history, and much faster found: to refute the whole one, the
//! search must exhaust what writes of unknown outcome could have done at every earlier moment.

use super::history::{Answer, Call, Operation};
use super::model::compile;
use super::search::{Outcome, search};
use std::collections::HashSet;

/// Searches made at most, so that a long history is still shown soon, if not as its very smallest piece.
const SEARCHES_MAX: u32 = 2_000;
/// Steps of one search: what is not decided by then is left in.
const STEPS_MAX: u64 = 5_000;
/// The smallest neighbourhood that is tried, in operations.
const NEIGHBOURS_MIN: usize = 16;

/// Whether answers near the place where a search got stuck contradict each other: which ones, if so. `operations` are of one key, in
/// the order of their calls, those from `behind` on called after that place.
pub(super) fn contradiction_before(operations: &[&Operation], behind: usize) -> Option<Vec<bool>> {
    let mut width = NEIGHBOURS_MIN;
    loop {
        let from = behind.saturating_sub(width);
        let trusted: Vec<bool> = (0..operations.len()).map(|at| at >= from && at < behind).collect();
        if is_bad(operations, &trusted, 20 * width as u64 + STEPS_MAX) {
            return Some(trusted);
        }
        if from == 0 {
            return None;
        }
        width *= 2;
    }
}

/// The operations whose answers contradict each other, and the writes that they speak of, out of those `trusted`, which are known to
/// contradict each other.
pub(super) fn smallest<'a>(operations: &[&'a Operation], trusted: Vec<bool>) -> Vec<&'a Operation> {
    let mut piece = Piece { operations, trusted, searches: SEARCHES_MAX };
    piece.drop_answers();
    piece.named()
}

struct Piece<'a, 'b> {
    operations: &'b [&'a Operation],
    /// Whose answers still count.
    trusted: Vec<bool>,
    searches: u32,
}

/// Whether the answers that count contradict each other.
fn is_bad(operations: &[&Operation], trusted: &[bool], steps: u64) -> bool {
    let answers = operations.iter().zip(trusted).filter(|(_, trusted)| **trusted).filter_map(|(operation, _)| operation.returned.as_ref());
    let end = answers.map(|returned| returned.at).max().unwrap_or(0);
    // What was not called before the last answer that counts cannot explain anything.
    let called = operations.partition_point(|operation| operation.invoked <= end);
    search(&compile(&operations[..called], |at| trusted[at]), steps).0 == Outcome::Violation
}

impl<'a> Piece<'a, '_> {
    /// Ignores answer after answer, first many at a time, as long as the rest is still a contradiction.
    fn drop_answers(&mut self) {
        let mut chunk = self.trusted.len().div_ceil(2).max(1);
        loop {
            let counted: Vec<usize> = (0..self.trusted.len()).filter(|at| self.trusted[*at]).collect();
            chunk = chunk.min(counted.len().div_ceil(2)).max(1);
            let mut dropped = false;
            for group in counted.chunks(chunk) {
                dropped |= self.drop_group(group);
            }
            if (chunk == 1 && !dropped) || self.searches == 0 {
                return;
            }
            chunk = if dropped { chunk } else { chunk.div_ceil(2) };
        }
    }

    fn drop_group(&mut self, group: &[usize]) -> bool {
        let mut trusted = self.trusted.clone();
        group.iter().for_each(|at| trusted[*at] = false);
        let bad = self.searches > 0 && is_bad(self.operations, &trusted, STEPS_MAX);
        self.searches = self.searches.saturating_sub(1);
        if bad {
            self.trusted = trusted;
        }
        bad
    }

    /// What counts, and the writes whose values or versions it names.
    fn named(&self) -> Vec<&'a Operation> {
        let counted = || self.operations.iter().zip(&self.trusted).filter(|(_, trusted)| **trusted).map(|(operation, _)| *operation);
        let mut values: HashSet<&[u8]> = HashSet::new();
        let mut versions: HashSet<u64> = HashSet::new();
        for operation in counted() {
            if let Call::CompareAndSet { expected, .. } = &operation.call {
                versions.insert(*expected);
            }
            match operation.returned.as_ref().map(|returned| &returned.answer) {
                Some(Answer::Found { version, value }) => {
                    values.insert(value);
                    versions.extend(version);
                }
                Some(Answer::Conflict { current }) => {
                    versions.insert(*current);
                }
                _ => {}
            }
        }
        let names = |operation: &Operation| match (&operation.call, operation.returned.as_ref().map(|returned| &returned.answer)) {
            (_, Some(Answer::Refused)) | (Call::Get, _) => false,
            (_, Some(Answer::Written { version } | Answer::Deleted { version })) if versions.contains(version) => true,
            (Call::Put { value } | Call::CompareAndSet { value, .. }, _) => values.contains(value.as_slice()),
            _ => false,
        };
        let chosen = self.operations.iter().zip(&self.trusted).filter(|(operation, trusted)| **trusted || names(operation));
        chosen.map(|(operation, _)| *operation).collect()
    }
}
