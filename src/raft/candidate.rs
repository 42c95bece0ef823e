//! Seeking leadership: timeouts, pre-votes, votes. A vote counts only once it is durable, the own one too.

use crate::bugbank::planted;
use std::collections::BTreeSet;

use super::message::{Envelope, HardState, Message, NodeId};
use super::node::{Node, Role};
use super::quorum;

/// Which answers are being counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// For the term after the present one, which has not begun.
    PreVote,
    /// For the present term.
    Vote,
}

/// The state of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Candidacy {
    phase: Phase,
    transfer: bool,
    granted: BTreeSet<NodeId>,
    refused: BTreeSet<NodeId>,
}

impl Candidacy {
    pub(super) fn new(phase: Phase, transfer: bool, own: NodeId) -> Candidacy {
        let granted = if phase == Phase::PreVote { BTreeSet::from([own]) } else { BTreeSet::new() };
        Candidacy { phase, transfer, granted, refused: BTreeSet::new() }
    }

    pub(super) fn is_pre_vote(&self) -> bool {
        self.phase == Phase::PreVote
    }

    pub(super) fn granted(&self) -> &BTreeSet<NodeId> {
        &self.granted
    }
}

impl Node {
    /// An election timeout or a suspicion has run out.
    pub(super) fn on_timeout(&mut self) {
        if let Role::Candidate(candidacy) = &self.role
            && candidacy.phase == Phase::Vote
        {
            self.failed_elections += 1;
        }
        self.arm_election();
        if self.is_voter() && self.fitness.may_campaign() && self.ban == 0 && !self.is_storing() {
            self.seek_pre_votes();
        } else if matches!(self.role, Role::Candidate(_)) && !self.is_storing() {
            self.become_follower(None);
        }
    }

    fn seek_pre_votes(&mut self) {
        self.become_candidate(Phase::PreVote, false);
        let (proposed_term, last) = (self.state.term + 1, self.outline.last());
        for peer in self.other_voters() {
            self.send_unbound(peer, Message::PreVote { proposed_term, last });
        }
        self.count_votes();
    }

    /// Begins a new term and stands for it. The requests leave, and the timeout starts, once term and vote are durable.
    pub(super) fn campaign(&mut self, transfer: bool) {
        assert!(!self.is_storing(), "a term begins while the hard state of term {} is being written", self.stored.term);
        self.enter_term(HardState { term: self.state.term + 1, vote: Some(self.id) });
        self.become_candidate(Phase::Vote, transfer);
        self.election = None;
        if planted(87) {
            self.ask_for_votes(transfer, |node, request| node.outbox.push(request));
        }
    }

    /// Term and vote as they stand are durable now. A candidate's requests leave, and its own vote counts.
    pub(super) fn on_vote_durable(&mut self) {
        let Role::Candidate(candidacy) = &mut self.role else { return };
        if candidacy.phase != Phase::Vote || !candidacy.granted.insert(self.id) {
            return;
        }
        let transfer = candidacy.transfer;
        self.ask_for_votes(transfer, |node, request| node.send(request.to, request.message));
        self.arm_election();
        self.count_votes();
    }

    fn ask_for_votes(&mut self, transfer: bool, send: impl Fn(&mut Node, Envelope)) {
        let (last, term) = (self.outline.last(), self.state.term);
        for to in self.other_voters() {
            send(self, Envelope { from: self.id, to, term, message: Message::Vote { last, transfer } });
        }
    }

    pub(super) fn on_pre_vote_reply(&mut self, from: NodeId, term: u64, proposed_term: u64, granted: bool) {
        if !granted && term > self.state.term {
            self.adopt_term(term);
            return;
        }
        let current = proposed_term == self.state.term + 1;
        if let Role::Candidate(candidacy) = &mut self.role
            && candidacy.phase == Phase::PreVote
            && current
        {
            candidacy.note(from, granted);
            self.count_votes();
            if !granted {
                self.suspect_again();
            }
        }
    }

    /// Nobody was asked before the own vote was durable, so what arrives earlier answers nothing.
    pub(super) fn on_vote_reply(&mut self, from: NodeId, granted: bool) {
        let asked = self.may_write();
        if let Role::Candidate(candidacy) = &mut self.role
            && asked
            && candidacy.phase == Phase::Vote
        {
            candidacy.note(from, granted);
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let voters = self.config().voters.clone();
        let Role::Candidate(candidacy) = &self.role else { return };
        let won = quorum::reached(&voters, |voter| candidacy.granted.contains(&voter));
        let lost = voters.len() - voters.iter().filter(|voter| candidacy.refused.contains(voter)).count() < quorum::majority(voters.len());
        match (candidacy.phase, won, lost) {
            (Phase::PreVote, true, _) => self.campaign(false),
            // Without room for its no-op a leader could do nothing but hold the others up.
            (Phase::Vote, true, _) if self.fitness.able => self.become_leader(),
            (Phase::Vote, true, _) => self.retire(),
            (Phase::PreVote, _, true) => self.retire(),
            (Phase::Vote, _, true) => {
                self.failed_elections += 1;
                self.retire();
                self.suspect_again();
            }
            _ => {}
        }
    }
}

impl Candidacy {
    fn note(&mut self, from: NodeId, granted: bool) {
        if granted {
            self.granted.insert(from);
            self.refused.remove(&from);
        } else if !self.granted.contains(&from) {
            self.refused.insert(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Config, EntryId, Envelope};
    use super::super::node::Recovered;
    use super::super::outline::Outline;
    use super::*;
    use crate::raft::Settings;

    #[test]
    fn a_vote_that_nobody_was_asked_for_yet_does_not_count() {
        let config = Config { voters: vec![NodeId(1), NodeId(2), NodeId(3)], learners: vec![] };
        let outline = Outline::new(EntryId::default(), config);
        let settings = Settings { append_bytes: 10, window_bytes: 10, ..Settings::few_ticks() };
        let mut node = Node::new(NodeId(1), settings, 7, Recovered { hard_state: HardState::default(), outline, commit: 0 });
        let from_second = |term, message| Envelope { from: NodeId(2), to: NodeId(1), term, message };
        node.tick(20);
        node.step(from_second(0, Message::PreVoteReply { proposed_term: 1, granted: true }), true);
        assert!(node.term() == 1 && node.durable_term() == 0, "it stands in a term that is not durable yet");
        node.step(from_second(1, Message::VoteReply { granted: true }), true);
        assert!(!node.is_leader(), "a vote counted before the own one was durable");
        for _ in 0..2 {
            node.step(from_second(1, Message::VoteReply { granted: true }), true);
        }
        assert!(!node.is_leader());
    }
}
