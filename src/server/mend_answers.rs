//! What a running replica answers a peer that mends its log, and what it takes note of about the links with its peers. Part of the replica:
//! the answer names pieces of the log; whoever carries them reads them.

use super::event::{Holding, LinkChange, MendAnswer, MendQuestion};
use super::replica::Replica;
use crate::protocol::mend::Standing;
use crate::raft::{NodeId, Outline};
use crate::storage::mend::{Missing, Wanted};

/// About how many bytes of records go into one answer.
const ANSWER_BYTES: u64 = 1 << 20;

impl<C: Clone> Replica<C> {
    pub(super) fn on_link(&mut self, peer: NodeId, change: LinkChange) {
        match change {
            LinkChange::Up { fresh } => self.node.link_up(peer, fresh),
            LinkChange::Down => self.node.link_down(peer),
            LinkChange::Dropped => self.node.dropped(peer),
            LinkChange::Arriving => self.node.arriving(peer),
        }
    }

    pub(super) fn on_mend(&mut self, question: &MendQuestion) {
        let floor = self.node.floor();
        // Damage that was found while it runs is put right at the next start only, maybe by what the asker has.
        let whole = floor.term == 0 && self.upkeep.damage.is_none();
        let standing = Standing { running: true, whole, last: self.node.last().max(floor) };
        let holding = question.wanted.as_ref().map(|wanted| self.hold(wanted));
        // Whoever asked may have gone.
        let _ = question.answer.try_send(MendAnswer { standing, holding });
    }

    /// What the log has of the first of the wanted entries.
    fn hold(&mut self, wanted: &Wanted) -> Holding {
        let (first, last) = (wanted.first, wanted.last);
        if first < self.log.first() {
            return Holding::Missing { through: last.min(self.log.first() - 1), why: Missing::Compacted };
        }
        let by_term = wanted.terms.iter().map(|term| last_of(self.node.outline(), *term)).max().unwrap_or(0);
        // All logs have the same entries as far as those are committed.
        let proved = by_term.max(wanted.commit.min(self.node.commit())).min(last).min(self.node.last().index);
        if first > proved {
            // What was lost to damage may be among them.
            let why = if self.node.floor().term > 0 { Missing::Damaged } else { Missing::Other };
            return Holding::Missing { through: last, why };
        }
        self.log.freeze();
        let count = self.log.fit(first, proved, ANSWER_BYTES);
        Holding::Pieces(self.log.pieces(first, count))
    }
}

/// Index of the last entry of a term, 0 if there is none.
fn last_of(outline: &Outline, term: u64) -> u64 {
    let (mut low, mut high) = (outline.base().index, outline.last().index);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if outline.term_of(middle).is_some_and(|found| found <= term) { low = middle } else { high = middle - 1 }
    }
    if outline.term_of(low) == Some(term) { low } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Config, EntryId};

    #[test]
    fn the_last_entry_of_a_term_is_found() {
        let mut outline = Outline::new(EntryId { term: 2, index: 5 }, Config { voters: vec![NodeId(1)], learners: Vec::new() });
        assert_eq!((last_of(&outline, 1), last_of(&outline, 2), last_of(&outline, 3)), (0, 5, 0));
        outline.extend(2, 2);
        outline.extend(4, 1);
        outline.extend(7, 3);
        let found: Vec<u64> = (1..9).map(|term| last_of(&outline, term)).collect();
        assert_eq!(found, [0, 7, 0, 8, 0, 0, 11, 0]);
    }
}
