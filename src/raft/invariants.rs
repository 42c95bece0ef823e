//! Raft's invariants: what holds in every state of a node and between any two. Checked after every input, in release builds too; a
//! broken one ends the process, because whatever state made it possible must not be spread further.

use super::candidate::Candidacy;
use super::message::HardState;
use super::node::{Node, Role};

/// What is remembered of the state before an input.
pub(super) struct Watch {
    state: HardState,
    stored: HardState,
    commit: u64,
}

impl Watch {
    pub(super) fn of(node: &Node) -> Watch {
        Watch { state: node.state, stored: node.stored, commit: node.commit }
    }

    /// Compares with the state after the input.
    pub(super) fn check(&self, node: &Node) {
        let (before, after) = (self.state, node.state);
        assert!(after.term >= before.term, "{}: term fell from {} to {}", node.id, before.term, after.term);
        if after.term == before.term {
            assert!(before.vote.is_none() || before.vote == after.vote, "{}: vote changed within term {}", node.id, after.term);
        }
        assert!(node.stored.term >= self.stored.term, "{}: durable term fell to {}", node.id, node.stored.term);
        assert!(node.commit >= self.commit, "{}: commit fell from {} to {}", node.id, self.commit, node.commit);
        check_state(node);
    }
}

fn check_state(node: &Node) {
    let last = node.outline.last();
    assert!(node.stored.term <= node.state.term, "{}: durable term {} is ahead of {}", node.id, node.stored.term, node.state.term);
    assert!(last.term <= node.state.term, "{}: the log ends at {last} in a term ahead of {}", node.id, node.state.term);
    assert!(node.commit <= last.index, "{}: commit {} is behind the log's end {last}", node.id, node.commit);
    assert!(node.durable <= last.index, "{}: durable {} is behind the log's end {last}", node.id, node.durable);
    assert!(node.verified <= last.index, "{}: verified {} is behind the log's end {last}", node.id, node.verified);
    match &node.role {
        Role::Follower => {}
        Role::Candidate(candidacy) => check_candidate(node, candidacy),
        Role::Leader(_) => check_leader(node),
    }
}

fn check_candidate(node: &Node, candidacy: &Candidacy) {
    if !candidacy.is_pre_vote() {
        assert!(node.state.vote == Some(node.id), "{}: stands in term {} without its own vote", node.id, node.state.term);
        let durable = node.stored == node.state;
        assert!(
            durable || candidacy.granted().is_empty(),
            "{}: counts votes of term {} before its own is durable",
            node.id,
            node.state.term
        );
    }
}

fn check_leader(node: &Node) {
    assert!(node.stored.term == node.state.term, "{}: leads term {} before it is durable", node.id, node.state.term);
    assert!(node.outline.last().term == node.state.term, "{}: leads term {} without an entry of it", node.id, node.state.term);
    let Some(leadership) = node.leadership() else { return };
    for (peer, progress) in &leadership.progress {
        assert!(progress.matched < progress.next, "{peer}: matches {} at or above next {}", progress.matched, progress.next);
        assert!(progress.next <= node.outline.last().index + 1, "{peer}: next {} is behind the log's end", progress.next);
    }
}
