//! Comparing the replicas' states: every node tells the leader the hash of its state behind every so many entries, and behind the last one
//! when it is at rest, and the leader holds those behind the same entry against each other. Where more than half of the voters agree,
//! whoever differs is told, and ends: what it would serve is not what was decided. Where they do not, nobody can know who is right, and
//! nobody ends; it is said as loudly as can be.
//!
//! Part of the replica: plain data and decisions. It stands beside the core, which knows nothing of states. What is told may be lost,
//! because a hash that differs once differs behind every later entry too.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bugbank::planted;
use crate::error::Error;
use crate::protocol::peer::Note;
use crate::raft::NodeId;
use crate::storage::state_hash::{Checkpoint, Checkpoints, StateHash};

use super::replica::Replica;

/// The newest checkpoint is told again after this long: the leader may be another one, or what was told may be lost. A node that has
/// applied nothing for as long is at rest.
const TELL_AGAIN_MS: u64 = 1_000;

/// What is known of the others' states, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// As leader: what each peer has told.
    told: BTreeMap<NodeId, Checkpoints>,
    /// The newest own checkpoint that was told or compared.
    newest: u64,
    tell_again_at: u64,
    /// What was applied when it was last told again.
    applied: u64,
    alarm: Option<Alarm>,
    /// How often there was an alarm.
    pub(super) alarms: u64,
}

/// Nodes differ, and no majority says who is right.
#[derive(Debug)]
struct Alarm {
    /// Behind which entry.
    index: u64,
    text: Arc<str>,
}

/// What the hashes behind one entry say.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing that is known contradicts anything else.
    Agreed {
        /// Whether a majority is known.
        majority: bool,
    },
    /// These nodes differ from a majority.
    Diverged { expected: StateHash, differing: Vec<(NodeId, StateHash)> },
    /// Nodes differ, and none of their hashes has a majority.
    Split,
}

/// Judges the hashes behind one entry that are known; those of nodes that do not vote count for no majority.
fn judge(voters: &[NodeId], hashes: &BTreeMap<NodeId, StateHash>) -> Verdict {
    let mut votes: BTreeMap<StateHash, usize> = BTreeMap::new();
    for hash in voters.iter().filter_map(|voter| hashes.get(voter)) {
        *votes.entry(*hash).or_default() += 1;
    }
    let majority = votes.iter().find(|(_, count)| **count > voters.len() / 2).map(|(hash, _)| *hash);
    let Some(first) = hashes.values().next() else { return Verdict::Agreed { majority: false } };
    if hashes.values().all(|hash| hash == first) {
        return Verdict::Agreed { majority: majority.is_some() };
    }
    let Some(expected) = majority else { return Verdict::Split };
    let differing = hashes.iter().filter(|(_, hash)| **hash != expected).map(|(node, hash)| (*node, *hash)).collect();
    Verdict::Diverged { expected, differing }
}

impl Comparison {
    /// The alarm that stands, in words.
    pub(super) fn alarm(&self) -> Option<Arc<str>> {
        self.alarm.as_ref().map(|alarm| Arc::clone(&alarm.text))
    }

    fn sound(&mut self, index: u64, hashes: &BTreeMap<NodeId, StateHash>) {
        if self.alarm.as_ref().is_some_and(|alarm| alarm.index >= index) {
            return;
        }
        let told: Vec<String> = hashes.iter().map(|(node, hash)| format!("node {node} has {hash}")).collect();
        let text = format!(
            "the nodes' states behind entry {index} differ, and no majority says whose is right: {}; compare their data before one is lost",
            told.join(", ")
        );
        log::error!("{text}");
        self.alarms += 1;
        self.alarm = Some(Alarm { index, text: text.into() });
    }
}

impl<C: Clone> Replica<C> {
    /// Tells or compares what has been applied since the last time.
    pub(super) fn compare(&mut self) {
        let newest = self.applier.checkpoints().newest();
        if !self.node.is_leader() {
            // The next leader compares on its own.
            self.comparison.told.clear();
            self.comparison.alarm = None;
            return self.tell(newest);
        }
        let Some(newest) = newest.filter(|newest| newest.index != self.comparison.newest) else { return };
        let fresh: Vec<Checkpoint> = self.applier.checkpoints().after(self.comparison.newest).collect();
        self.comparison.newest = newest.index;
        fresh.iter().for_each(|checkpoint| self.compare_at(checkpoint.index));
    }

    /// Tells the leader what it does not know yet, and now and then the newest again.
    fn tell(&mut self, newest: Option<Checkpoint>) {
        let Some(leader) = self.node.leader() else { return };
        let again = self.now >= self.comparison.tell_again_at;
        let newest_index = newest.map_or(0, |newest| newest.index);
        if newest_index != self.comparison.newest || again {
            let behind = self.comparison.newest.min(newest_index.saturating_sub(1));
            self.actions.notes.extend(self.applier.checkpoints().after(behind).map(|checkpoint| (leader, Note::StateHash(checkpoint))));
            self.comparison.newest = newest_index;
        }
        if again {
            let present = Checkpoint { index: self.applier.applied(), hash: self.applier.hash() };
            let at_rest = std::mem::replace(&mut self.comparison.applied, present.index) == present.index;
            if at_rest && present.index > newest_index && present.hash.is_known() {
                self.actions.notes.push((leader, Note::StateHash(present)));
            }
            self.comparison.tell_again_at = self.now + TELL_AGAIN_MS;
        }
    }

    /// The hash of the own state behind an entry, if it is still known.
    fn hash_at(&self, index: u64) -> Option<StateHash> {
        let present = (index == self.applier.applied()).then(|| self.applier.hash()).filter(|hash| hash.is_known());
        present.or_else(|| self.applier.checkpoints().at(index))
    }

    /// A peer has told something.
    pub(super) fn on_note(&mut self, from: NodeId, note: Note) {
        match note {
            Note::StateHash(checkpoint) if self.node.is_leader() && !planted(86) => {
                self.comparison.told.entry(from).or_default().push(checkpoint);
                self.compare_at(checkpoint.index);
            }
            Note::StateHash(_) => {}
            Note::Diverged { index, expected, found } => {
                // What was told before a snapshot came, or by an earlier process of this node, says nothing about this state.
                if self.hash_at(index) == Some(found) && expected != found {
                    self.actions.fatal = Some(diverged(index, expected, found));
                }
            }
        }
    }

    /// As leader: holds the hashes behind an entry against each other.
    fn compare_at(&mut self, index: u64) {
        let own = (self.node.id(), self.hash_at(index));
        let told = self.comparison.told.iter().map(|(peer, checkpoints)| (*peer, checkpoints.at(index)));
        let known = told.chain([own]).filter_map(|(node, hash)| Some((node, hash?)));
        let hashes: BTreeMap<NodeId, StateHash> = known.collect();
        match judge(&self.node.config().voters, &hashes) {
            Verdict::Agreed { majority: false } => {}
            Verdict::Agreed { majority: true } => {
                self.comparison.alarm.take_if(|alarm| alarm.index <= index);
            }
            Verdict::Split => self.comparison.sound(index, &hashes),
            Verdict::Diverged { expected, differing } => {
                self.comparison.alarm.take_if(|alarm| alarm.index <= index);
                for (node, found) in differing {
                    self.end_differing(node, Checkpoint { index, hash: found }, expected);
                }
            }
        }
    }

    fn end_differing(&mut self, node: NodeId, found: Checkpoint, expected: StateHash) {
        let Checkpoint { index, hash: found } = found;
        if node == self.node.id() {
            self.actions.fatal = Some(diverged(index, expected, found));
            return;
        }
        log::error!("the state of node {node} behind entry {index} has the hash {found}, that of a majority {expected}: it is told to end");
        // It tells the same again if it goes on; after another start it may be right.
        self.comparison.told.remove(&node);
        self.actions.notes.push((node, Note::Diverged { index, expected, found }));
    }
}

fn diverged(index: u64, expected: StateHash, found: StateHash) -> Error {
    Error::Diverged { index, expected: expected.number(), found: found.number() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(hashes: &[u64]) -> BTreeMap<NodeId, StateHash> {
        let known = (1..).zip(hashes).filter(|(_, hash)| **hash > 0);
        known.map(|(node, hash)| (NodeId(node), StateHash::from_number(*hash))).collect()
    }

    fn voters(count: u32) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    /// The verdict on hashes by node from 1, 0 where none is known: which nodes differ; `None` without a majority that says so.
    fn differing(count: u32, hashes: &[u64]) -> Option<Vec<u32>> {
        match judge(&voters(count), &nodes(hashes)) {
            Verdict::Agreed { .. } => Some(Vec::new()),
            Verdict::Diverged { differing, .. } => Some(differing.iter().map(|(node, _)| node.0).collect()),
            Verdict::Split => None,
        }
    }

    #[test]
    fn whoever_differs_from_more_than_half_of_all_voters_is_named() {
        for (count, hashes, expected) in [
            (3, &[7, 7, 7][..], Some(vec![])),
            (3, &[7, 8, 7], Some(vec![2])),
            (3, &[8, 7, 7], Some(vec![1])),
            (3, &[7, 8, 0], None),
            (3, &[7, 8, 9], None),
            (3, &[7, 0, 0], Some(vec![])),
            (3, &[], Some(vec![])),
            (2, &[7, 8], None),
            (4, &[7, 7, 8, 8], None),
            (4, &[7, 7, 8, 7], Some(vec![3])),
            (5, &[7, 7, 8, 9, 7], Some(vec![3, 4])),
            (5, &[7, 7, 8, 0, 0], None),
            // The fourth only learns: it makes no majority, and differs as any other.
            (3, &[7, 8, 0, 7], None),
            (3, &[7, 7, 0, 8], Some(vec![4])),
        ] {
            assert_eq!(differing(count, hashes), expected, "{hashes:?} of {count} voters");
        }
    }

    #[test]
    fn only_a_majority_ends_an_alarm() {
        assert_eq!(judge(&voters(3), &nodes(&[7, 7])), Verdict::Agreed { majority: true });
        assert_eq!(judge(&voters(3), &nodes(&[7])), Verdict::Agreed { majority: false });
    }
}
