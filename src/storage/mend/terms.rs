//! Which term wrote which entries of a log, as far as that is known of a log with holes. Pure.
//!
//! In one term only one leader writes, and it only appends. So all logs that hold an entry of a term agree with that leader's log, and with
//! each other, up to the last entry of that term that both hold. A hole in front of an entry of term t is therefore filled rightly by what
//! any log has there that holds an entry of term t at the same place or behind it, committed or not.

use crate::raft::EntryId;

/// The lowest and the highest index that are known to be of one term; all between are of that term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    term: u64,
    first: u64,
    last: u64,
}

/// See the file's doc. Terms rise, and so do indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    runs: Vec<Run>,
}

impl Terms {
    /// Takes note of an entry that stands in the log. False, and nothing changes, if it cannot stand beside those that are known.
    #[must_use]
    pub(super) fn note(&mut self, id: EntryId) -> bool {
        let EntryId { term, index } = id;
        let at = self.runs.partition_point(|run| run.term < term);
        let known = self.runs.get(at).filter(|run| run.term == term);
        let run = known.map_or(Run { term, first: index, last: index }, |run| Run {
            first: run.first.min(index),
            last: run.last.max(index),
            ..*run
        });
        let after = at + usize::from(known.is_some());
        let follows = at == 0 || self.runs[at - 1].last < run.first;
        let precedes = self.runs.get(after).is_none_or(|next| run.last < next.first);
        if !follows || !precedes || term == 0 {
            return false;
        }
        self.runs.splice(at..after, [run]);
        true
    }

    /// The term of the first known entry at or behind `index`: who holds one of that term there can tell what stands at `index`.
    pub(super) fn behind(&self, index: u64) -> Option<u64> {
        self.runs.get(self.runs.partition_point(|run| run.last < index)).map(|run| run.term)
    }

    /// The terms of known entries at or behind `index`, rising: the nearest ones and the newest, no more than so many. Whoever holds one of
    /// any of them there can tell what stands at `index`; the more are named, the likelier it is that he knows of one.
    pub(super) fn proofs(&self, index: u64, most: usize) -> Vec<u64> {
        let behind = &self.runs[self.runs.partition_point(|run| run.last < index)..];
        let mut terms: Vec<u64> = behind.iter().map(|run| run.term).take(most).collect();
        if let (true, Some(newest), Some(last)) = (behind.len() > most, behind.last(), terms.last_mut()) {
            *last = newest.term;
        }
        terms
    }

    /// The terms between which the one of the entry at `index` must lie.
    pub(super) fn bounds(&self, index: u64) -> (u64, u64) {
        let at = self.runs.partition_point(|run| run.last < index);
        let lowest = match self.runs.get(at) {
            Some(run) if run.first <= index => run.term,
            _ => at.checked_sub(1).map_or(1, |before| self.runs[before].term),
        };
        (lowest, self.runs.get(at).map_or(u64::MAX, |run| run.term))
    }

    /// The last known entry of this term, 0 if there is none.
    pub(super) fn last_of(&self, term: u64) -> u64 {
        self.runs.iter().find(|run| run.term == term).map_or(0, |run| run.last)
    }

    /// No entry of this term can stand behind the answer, in a log that ends with the entry `end`; 0 if there can be none at all.
    pub(super) fn bound_of(&self, term: u64, end: u64) -> u64 {
        let after = self.runs.partition_point(|run| run.term <= term);
        let bound = self.runs.get(after).map_or(end, |next| next.first - 1);
        let before = after.checked_sub(1).map(|before| self.runs[before]);
        if before.is_some_and(|before| before.term < term && before.last >= bound) { 0 } else { bound }
    }

    /// The newest known entry.
    pub(super) fn newest(&self) -> EntryId {
        self.runs.last().map_or(EntryId::default(), |run| EntryId { term: run.term, index: run.last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term, index }
    }

    #[test]
    fn what_is_known_of_a_log_with_holes() {
        let mut terms = Terms::default();
        for known in [id(2, 3), id(2, 7), id(5, 12), id(5, 10), id(3, 8)] {
            assert!(terms.note(known), "{known}");
        }
        assert_eq!((terms.behind(1), terms.behind(5), terms.behind(8), terms.behind(9)), (Some(2), Some(2), Some(3), Some(5)));
        assert_eq!((terms.behind(12), terms.behind(13)), (Some(5), None));
        assert_eq!((terms.proofs(4, 9), terms.proofs(4, 2), terms.proofs(9, 2)), (vec![2, 3, 5], vec![2, 5], vec![5]));
        assert_eq!((terms.bounds(1), terms.bounds(5), terms.bounds(9), terms.bounds(11)), ((1, 2), (2, 2), (3, 5), (5, 5)));
        assert_eq!((terms.last_of(2), terms.last_of(4), terms.last_of(5)), (7, 0, 12));
        assert_eq!((terms.bound_of(2, 20), terms.bound_of(3, 20), terms.bound_of(4, 20), terms.bound_of(5, 20)), (7, 9, 9, 20));
        assert_eq!((terms.bound_of(1, 20), terms.bound_of(6, 20), terms.bound_of(6, 12)), (2, 20, 0));
        assert_eq!(terms.newest(), id(5, 12));
    }

    #[test]
    fn what_contradicts_is_refused_and_changes_nothing() {
        let mut terms = Terms::default();
        assert!(terms.note(id(2, 3)) && terms.note(id(4, 9)));
        let before = terms.clone();
        for wrong in [id(4, 3), id(3, 3), id(3, 9), id(2, 9), id(1, 3), id(5, 8), id(0, 1), id(1, 4)] {
            assert!(!terms.note(wrong), "{wrong}");
        }
        assert_eq!(terms, before);
    }
}
