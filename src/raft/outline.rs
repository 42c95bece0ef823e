//! The outline of the log: which term wrote which indexes, and which entries change the membership. All that the core knows of the
//! log; it never holds a payload byte. Mirrors the host's log entry for entry.

use super::message::{Config, Entries, EntryId, TermRun};

/// The first index of a run of entries of one term; the run ends where the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Run {
    first: u64,
    term: u64,
}

/// The terms of entries `base.index + 1 ..= last().index`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outline {
    base: EntryId,
    runs: Vec<Run>,
    last: u64,
    configs: Vec<(u64, Config)>,
}

impl Outline {
    /// An outline that starts behind `base` (the zero entry for a whole log), where `config` was in force.
    pub fn new(base: EntryId, config: Config) -> Outline {
        Outline { base, runs: Vec::new(), last: base.index, configs: vec![(base.index, config)] }
    }

    /// The entry right before the first one held; its term is known, its record may be gone.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// The newest entry.
    pub fn last(&self) -> EntryId {
        let term = self.runs.last().map_or(self.base.term, |run| run.term);
        EntryId { term, index: self.last }
    }

    /// The term of the entry at `index`; `None` before the base and behind the end.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        Some(self.runs[self.run_at(index)].term)
    }

    /// Whether this very entry stands in the log.
    pub fn contains(&self, id: EntryId) -> bool {
        self.term_of(id.index) == Some(id.term)
    }

    /// Position in `runs` of the run that holds `index`, which must be held.
    fn run_at(&self, index: u64) -> usize {
        self.runs.partition_point(|run| run.first <= index) - 1
    }

    /// Adds one entry of `term` at the end and returns its place.
    pub fn push(&mut self, term: u64) -> EntryId {
        assert!(term >= self.last().term, "terms in a log never fall: {term} after {}", self.last());
        self.last += 1;
        if self.runs.last().is_none_or(|run| run.term != term) {
            self.runs.push(Run { first: self.last, term });
        }
        EntryId { term, index: self.last }
    }

    /// Adds `count` entries of `term`.
    pub fn extend(&mut self, term: u64, count: u64) {
        if count > 0 {
            self.push(term);
            self.last += count - 1;
        }
    }

    /// Notes that the entry at `index`, already pushed, puts `config` in force.
    pub fn push_config(&mut self, index: u64, config: Config) {
        let newest = self.configs.last().map_or(0, |(at, _)| *at);
        assert!(index > newest && index <= self.last, "configuration at {index} does not follow {newest} within {}", self.last);
        self.configs.push((index, config));
    }

    /// Forgets the entries from `first` on. Configurations among them are no longer in force.
    pub fn truncate(&mut self, first: u64) {
        assert!(first > self.base.index, "cannot drop entry {first}: the log starts behind {}", self.base);
        self.runs.retain(|run| run.first < first);
        self.configs.retain(|(index, _)| *index < first);
        self.last = self.last.min(first - 1);
    }

    /// Forgets the entries up to and including `index`, which must be held, and moves the base there.
    pub fn compact(&mut self, index: u64) {
        let Some(term) = self.term_of(index) else { return };
        let in_force = self.configs.partition_point(|(at, _)| *at <= index) - 1;
        self.configs.drain(..in_force);
        self.configs[0].0 = self.configs[0].0.max(self.base.index);
        self.runs.drain(..self.runs.partition_point(|run| run.first <= index).saturating_sub(1));
        if let Some(run) = self.runs.first_mut() {
            run.first = run.first.max(index + 1);
        }
        if index == self.last {
            self.runs.clear();
        }
        self.base = EntryId { term, index };
    }

    /// The configuration in force: the newest one in the log, committed or not (thesis, section 4.1).
    pub fn config(&self) -> &Config {
        &self.configs[self.configs.len() - 1].1
    }

    /// The index of the entry that put the present configuration in force.
    pub fn config_index(&self) -> u64 {
        self.configs[self.configs.len() - 1].0
    }

    /// The newest entry that could match a log in which `wanted` stands: index and term both at most those of `wanted`. Skips whole
    /// terms in one step (paper, end of section 5.3).
    pub fn hint(&self, wanted: EntryId) -> EntryId {
        let mut index = wanted.index.min(self.last);
        while index > self.base.index {
            let run = self.runs[self.run_at(index)];
            if run.term <= wanted.term {
                return EntryId { term: run.term, index };
            }
            index = run.first - 1;
        }
        self.base
    }

    /// The outline of `count` entries from `first` on, all of which must be held.
    pub fn entries(&self, first: u64, count: u64) -> Entries {
        let mut entries = Entries::default();
        if count == 0 {
            return entries;
        }
        let end = first + count;
        assert!(first > self.base.index && end <= self.last + 1, "entries {first}..{end} are not held");
        for position in self.run_at(first)..self.runs.len() {
            let from = self.runs[position].first.max(first);
            let to = self.runs.get(position + 1).map_or(self.last + 1, |next| next.first).min(end);
            if from >= end {
                break;
            }
            entries.runs.push(TermRun { term: self.runs[position].term, count: to - from });
        }
        entries.configs = self.configs.iter().filter(|(at, _)| (first..end).contains(at)).cloned().collect();
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(terms: &[u64]) -> Outline {
        let mut outline = Outline::new(EntryId::default(), Config::default());
        terms.iter().for_each(|term| {
            outline.push(*term);
        });
        outline
    }

    #[test]
    fn terms_are_found_at_every_index_and_nowhere_else() {
        let terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
        let outline = outline(&terms);
        for (at, term) in terms.iter().enumerate() {
            assert_eq!(outline.term_of(at as u64 + 1), Some(*term));
        }
        assert_eq!(outline.term_of(0), Some(0));
        assert_eq!(outline.term_of(11), None);
    }

    #[test]
    fn entries_of_every_stretch_repeat_the_terms() {
        let terms = [1, 1, 2, 5, 5, 5, 7];
        let outline = outline(&terms);
        for first in 1..=7_u64 {
            for count in 0..=(8 - first) {
                let entries = outline.entries(first, count);
                let flat: Vec<u64> = entries.runs.iter().flat_map(|run| vec![run.term; run.count as usize]).collect();
                assert_eq!(flat, terms[first as usize - 1..(first - 1 + count) as usize]);
            }
        }
    }

    #[test]
    fn a_hint_never_has_a_greater_term_or_index_than_wanted() {
        let outline = outline(&[1, 1, 2, 2, 4, 4]);
        let id = |term, index| EntryId { term, index };
        assert_eq!(outline.hint(id(3, 6)), id(2, 4));
        assert_eq!(outline.hint(id(4, 9)), id(4, 6));
        assert_eq!(outline.hint(id(1, 5)), id(1, 2));
        assert_eq!(outline.hint(id(0, 5)), id(0, 0));
    }

    #[test]
    fn truncation_takes_back_configurations() {
        let mut outline = outline(&[1, 1, 1]);
        let config = Config { voters: vec![super::super::NodeId(7)], learners: vec![] };
        outline.push_config(2, config.clone());
        assert_eq!(outline.config(), &config);
        outline.truncate(2);
        assert_eq!(outline.config(), &Config::default());
        assert_eq!(outline.last(), EntryId { term: 1, index: 1 });
    }

    #[test]
    fn compaction_keeps_terms_above_the_base() {
        let terms = [1, 1, 2, 2, 3];
        for to in 1..=5_u64 {
            let mut outline = outline(&terms);
            outline.compact(to);
            assert_eq!(outline.base(), EntryId { term: terms[to as usize - 1], index: to });
            for index in to..=5 {
                assert_eq!(outline.term_of(index), Some(terms[index as usize - 1]), "base {to} index {index}");
            }
            assert_eq!(outline.term_of(to - 1), None);
            assert_eq!(outline.push(9), EntryId { term: 9, index: 6 });
            assert_eq!(outline.term_of(6), Some(9));
        }
    }
}
