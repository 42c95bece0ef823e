//! Whether a node with a damaged log mends it, waits, puts it aside, or gives up. A pure judgement: what is missing here against what the
//! others have said. No socket, no file, no clock.
//!
//! Everything is safe but one thing: an answer given without an entry that was committed. None of these ways gives one. What is at stake is
//! that a good copy of an entry is not thrown away while another node may need it, and that nobody waits for what cannot come.
//!
//! * **Mend** as soon as nothing is missing any more.
//! * **Put aside** when the others can go on without this log: if a majority runs and is whole without this node, or together with it, one
//!   of them holding all that this node stood for. Then every committed entry is in a log that may lead, and that one fills this node.
//! * **Refuse** when an entry is missing that everybody was asked for, that nobody has, and without which there can be no such set.
//! * **Wait** otherwise: somebody who has not answered may have it, or damage hides whether somebody has.

use std::collections::BTreeMap;

use crate::protocol::mend::Standing;
use crate::raft::{EntryId, NodeId};
use crate::storage::mend::{Missing, Wanted};

/// What one of the others has said.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// How it stands; `None` if it did not answer in this round.
    now: Option<Standing>,
    /// How it stood when it last answered.
    last: Standing,
    /// What it does not have: first and last index, and why. What it has is not missing any more.
    missing: Vec<(u64, u64, Missing)>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is missing: the log can be put together.
    Mend,
    /// The others have all that is needed: the log can be put aside.
    PutAside,
    /// No node has this entry any more.
    Refuse {
        /// Its index.
        index: u64,
    },
    /// Ask again; text for a person about what is waited for.
    Wait(String),
}

/// What the others have said so far.
#[derive(Debug)]
pub struct Inquiry {
    others: BTreeMap<NodeId, (String, Heard)>,
}

impl Inquiry {
    /// Nobody has been asked yet. `others` are all members but this node.
    pub fn new(others: &[(NodeId, String)]) -> Inquiry {
        Inquiry { others: others.iter().map(|(node, id)| (*node, (id.clone(), Heard::default()))).collect() }
    }

    /// A new round of questions begins. Silence makes nobody whole; but what was lost stays lost.
    pub fn begin(&mut self) {
        self.others.values_mut().for_each(|(_, heard)| heard.now = None);
    }

    /// A node has said how it stands, and will say anew what it lacks.
    pub fn stands(&mut self, peer: NodeId, standing: Standing) {
        if let Some((_, heard)) = self.others.get_mut(&peer) {
            *heard = Heard { now: Some(standing), last: standing, missing: Vec::new() };
        }
    }

    /// A node does not have these entries.
    pub fn lacks(&mut self, peer: NodeId, first: u64, last: u64, why: Missing) {
        if let Some((_, heard)) = self.others.get_mut(&peer) {
            heard.missing.push((first, last, why));
        }
    }

    /// What is to be done. `last` is the last entry of this node's log, lost ones counted, if it is known; `wanted` is what is missing,
    /// and `complete` says that nothing is and nothing hinders.
    pub fn step(&self, last: Option<EntryId>, wanted: &[Wanted], complete: bool) -> Step {
        if complete {
            return Step::Mend;
        }
        let answered = || self.others.values().filter_map(|(_, heard)| Some((heard.now?, &heard.missing)));
        let whole: Vec<EntryId> = answered().filter(|(now, _)| now.running && now.whole).map(|(now, _)| now.last).collect();
        // A connection that broke in the middle is no answer.
        let lacks = |missing: &[(u64, u64, Missing)], index| missing.iter().any(|(first, last, _)| (*first..=*last).contains(&index));
        let all_asked = answered().all(|(_, missing)| wanted.iter().all(|wanted| lacks(missing, wanted.first)));
        if all_asked && self.suffice(&whole, last) {
            return Step::PutAside;
        }
        match wanted.iter().find_map(|wanted| self.find_hopeless(wanted, last)) {
            Some(index) => Step::Refuse { index },
            None => Step::Wait(self.describe(wanted)),
        }
    }

    /// Whether nodes whose logs end so can go on while this node lacks what it lacks.
    fn suffice(&self, lasts: &[EntryId], own: Option<EntryId>) -> bool {
        let members = self.others.len() + 1;
        let newest = lasts.iter().max();
        // Of two nodes the other has all that was ever committed: that needed both.
        if members == 2 && !lasts.is_empty() {
            return true;
        }
        lasts.len() > members / 2 || (lasts.len() >= members / 2 && newest.is_some_and(|newest| own.is_some_and(|own| *newest >= own)))
    }

    /// The first of the wanted entries that nobody has, though everybody was asked, and without which nobody can go on.
    fn find_hopeless(&self, wanted: &Wanted, own: Option<EntryId>) -> Option<u64> {
        // Answers change at the ends of the ranges only.
        let ends = self.others.values().flat_map(|(_, heard)| &heard.missing).flat_map(|(first, last, _)| [*first, last + 1]);
        let mut looked: Vec<u64> = ends.filter(|index| (wanted.first..=wanted.last).contains(index)).chain([wanted.first]).collect();
        looked.sort_unstable();
        looked.into_iter().find(|index| self.is_hopeless(*index, own))
    }

    fn is_hopeless(&self, index: u64, own: Option<EntryId>) -> bool {
        let mut without = Vec::new();
        for (_, heard) in self.others.values() {
            match heard.missing.iter().find(|(first, last, _)| (*first..=*last).contains(&index)) {
                Some((_, _, Missing::Damaged)) => {}
                // Its log goes another way, and can become whole without the entry.
                Some((_, _, Missing::Other)) => without.push(heard.last.last),
                // It may have the entry's effect, or become whole without it.
                Some((_, _, Missing::Compacted | Missing::Unsure)) | None => return false,
            }
        }
        !self.suffice(&without, own)
    }

    fn describe(&self, wanted: &[Wanted]) -> String {
        let of = |which: &dyn Fn(Option<Standing>) -> bool| {
            let found = self.others.values().filter(|(_, heard)| which(heard.now)).map(|(id, _)| id.as_str());
            found.collect::<Vec<_>>().join(", ")
        };
        let (silent, hurt) = (of(&|now| now.is_none()), of(&|now| now.is_some_and(|now| !now.running || !now.whole)));
        let what = match wanted.first() {
            Some(Wanted { first, last, .. }) if first == last => format!("entry {first}"),
            Some(Wanted { first, last, .. }) => format!("entries {first}..={last}"),
            None => "enough nodes that can go on without it".to_owned(),
        };
        let more = if wanted.len() > 1 { format!(" and {} more gaps", wanted.len() - 1) } else { String::new() };
        let mut reasons = Vec::new();
        if !silent.is_empty() {
            reasons.push(format!("cannot be asked: {silent}"));
        }
        if !hurt.is_empty() {
            reasons.push(format!("damaged as well: {hurt}"));
        }
        if reasons.is_empty() {
            reasons.push("no other node has that, and too few of them can go on without it".to_owned());
        }
        format!("{what}{more}; {}", reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: EntryId = EntryId { term: 2, index: 9 };

    fn inquiry(others: u32) -> Inquiry {
        Inquiry::new(&(2..2 + others).map(|node| (NodeId(node), format!("node-{node}"))).collect::<Vec<_>>())
    }

    fn wanted(first: u64, last: u64) -> Vec<Wanted> {
        vec![Wanted { first, last, terms: vec![2], commit: 0 }]
    }

    fn standing(running: bool, whole: bool, index: u64) -> Standing {
        Standing { running, whole, last: EntryId { term: 2, index } }
    }

    #[test]
    fn a_node_waits_for_whoever_may_have_the_entry() {
        let mut asked = inquiry(2);
        asked.stands(NodeId(2), standing(false, false, 9));
        asked.lacks(NodeId(2), 3, 3, Missing::Damaged);
        let Step::Wait(text) = asked.step(Some(LAST), &wanted(3, 3), false) else { panic!("node-3 was not asked") };
        assert_eq!(text, "entry 3; cannot be asked: node-3; damaged as well: node-2");
        assert_eq!(asked.step(Some(LAST), &[], true), Step::Mend);
    }

    #[test]
    fn an_entry_that_nobody_has_is_refused_although_one_has_gone_silent() {
        let mut asked = inquiry(2);
        asked.stands(NodeId(2), standing(false, false, 9));
        asked.lacks(NodeId(2), 2, 4, Missing::Damaged);
        asked.begin();
        asked.stands(NodeId(3), standing(false, false, 9));
        asked.lacks(NodeId(3), 4, 5, Missing::Damaged);
        assert_eq!(asked.step(Some(LAST), &wanted(2, 6), false), Step::Refuse { index: 4 });
        assert!(matches!(asked.step(Some(LAST), &wanted(2, 3), false), Step::Wait(_)), "node-3 may have those");
        asked.lacks(NodeId(3), 2, 3, Missing::Unsure);
        assert!(matches!(asked.step(Some(LAST), &wanted(2, 3), false), Step::Wait(_)), "node-3 may do without those");
    }

    #[test]
    fn a_log_is_put_aside_only_if_the_others_can_go_on_with_all_that_was_committed() {
        let mut asked = inquiry(2);
        asked.stands(NodeId(2), standing(true, true, 8));
        asked.lacks(NodeId(2), 9, 9, Missing::Other);
        assert!(matches!(asked.step(Some(LAST), &wanted(9, 9), false), Step::Wait(_)), "it may lack what this node acknowledged");
        asked.stands(NodeId(3), standing(true, true, 7));
        assert!(matches!(asked.step(Some(LAST), &wanted(9, 9), false), Step::Wait(_)), "it has not said that it lacks the entry");
        asked.lacks(NodeId(3), 9, 9, Missing::Other);
        assert_eq!(asked.step(Some(LAST), &wanted(9, 9), false), Step::PutAside, "a majority never had the entry");
        let mut asked = inquiry(2);
        asked.stands(NodeId(3), standing(true, true, 9));
        asked.lacks(NodeId(3), 1, 1, Missing::Compacted);
        assert_eq!(asked.step(Some(LAST), &wanted(1, 1), false), Step::PutAside);
        assert!(matches!(asked.step(None, &[], false), Step::Wait(_)), "who knows what this node acknowledged");
        asked.begin();
        assert!(matches!(asked.step(Some(LAST), &wanted(1, 1), false), Step::Wait(_)), "it has gone silent");
    }

    #[test]
    fn of_two_nodes_the_other_has_all_that_was_committed() {
        let mut asked = inquiry(1);
        asked.stands(NodeId(2), standing(true, false, 9));
        assert!(matches!(asked.step(None, &[], false), Step::Wait(_)), "it is not whole");
        asked.stands(NodeId(2), standing(true, true, 4));
        assert_eq!(asked.step(None, &[], false), Step::PutAside);
        asked.lacks(NodeId(2), 5, 5, Missing::Other);
        assert_eq!(asked.step(Some(LAST), &wanted(5, 5), false), Step::PutAside);
        asked.lacks(NodeId(2), 3, 3, Missing::Damaged);
        assert_eq!(asked.step(Some(LAST), &wanted(3, 3), false), Step::PutAside);
    }

    #[test]
    fn an_entry_that_a_majority_never_had_is_not_lost() {
        let mut asked = inquiry(2);
        for peer in [2, 3] {
            asked.stands(NodeId(peer), standing(false, false, 8));
            asked.lacks(NodeId(peer), 9, 9, Missing::Other);
        }
        assert!(matches!(asked.step(Some(LAST), &wanted(9, 9), false), Step::Wait(_)), "they mend their own first");
        asked.stands(NodeId(3), standing(false, false, 9));
        asked.lacks(NodeId(3), 9, 9, Missing::Damaged);
        assert_eq!(asked.step(Some(LAST), &wanted(9, 9), false), Step::Refuse { index: 9 }, "two of three had it");
    }
}
