//! The follower's rules: appends, heartbeats, votes and pre-votes of others, acknowledgements. Also what every role does when
//! asked for a vote. Decides only from the outline and the message; records are the host's.

use super::message::{Entries, EntryId, Message, NodeId};
use super::node::{Node, Role};
use super::ready::Take;
use crate::bugbank::planted;

/// After granting a pre-vote a node holds its own back for at least this many ticks, so that two do not split the votes.
const YIELD_TICKS: u32 = 20;
/// A refused suspicion is repeated after this many ticks, from and to, while the leader's link is down.
const RETRY_TICKS: (u32, u32) = (10, 20);

impl Node {
    /// Whether a leader other than this node counts as alive, or this node leads.
    fn hears_leader(&self) -> bool {
        self.is_leader() || self.heard > 0
    }

    /// Whether a log that ends in `last` is at least as up to date as this one (paper, section 5.4.1), or as this one once was. Of two
    /// voters the other has all that was ever committed, since that needed both, and does not ask if it has lost its log itself.
    fn is_current(&self, last: EntryId) -> bool {
        let floor = if self.config().voters.len() == 2 || planted(117) { EntryId::default() } else { self.fitness.floor };
        let own = self.outline.last().max(floor);
        if planted(5) {
            return last.term >= own.term && last.index >= own.index;
        }
        last >= own
    }

    /// Would this node vote for the sender? Changes nothing that lasts.
    pub(super) fn on_pre_vote(&mut self, from: NodeId, _term: u64, proposed_term: u64, last: EntryId) {
        let current = self.is_current(last);
        let granted = proposed_term > self.state.term && current && (planted(12) || !self.hears_leader());
        if granted {
            self.yield_to(from, last);
        }
        self.send_unbound(from, Message::PreVoteReply { proposed_term, granted });
    }

    /// Holds the own candidacy back in favour of another: of two that seek pre-votes at once the one with the longer log, then the
    /// greater number, goes on.
    fn yield_to(&mut self, other: NodeId, last: EntryId) {
        if self.suspicion.is_some() {
            self.suspicion = None;
            self.suspect(YIELD_TICKS, 2 * YIELD_TICKS);
        }
        let own = (self.outline.last(), self.id);
        if let Role::Candidate(candidacy) = &self.role
            && candidacy.is_pre_vote()
            && own < (last, other)
        {
            self.retire();
        }
    }

    /// `RequestVote` (paper, sections 5.2 and 5.4.1). A node that hears a live leader refuses and keeps its term (thesis, 4.2.3).
    pub(super) fn on_vote(&mut self, from: NodeId, term: u64, last: EntryId, transfer: bool) {
        if term < self.state.term || (self.hears_leader() && !transfer && !planted(13)) {
            self.send(from, Message::VoteReply { granted: false });
            return;
        }
        if term > self.state.term {
            self.adopt_term(term);
        }
        let free = self.state.vote.is_none() || self.state.vote == Some(from);
        let granted = free && self.is_current(last) && self.leader.is_none();
        if granted {
            self.become_follower(None);
            self.state.vote = Some(from);
            self.suspicion = None;
            self.arm_election();
        }
        self.send(from, Message::VoteReply { granted });
    }

    /// Notes that the leader of the present term lives.
    fn hear_leader(&mut self, from: NodeId) {
        assert!(!self.is_leader(), "{from} and {} both lead term {}", self.id, self.state.term);
        assert!(self.leader.is_none_or(|leader| leader == from), "{from} and {:?} both lead term {}", self.leader, self.state.term);
        self.become_follower(Some(from));
        self.heard = self.settings.election_ticks;
        self.leader_lost = false;
        self.suspicion = None;
        self.failed_elections = 0;
        self.arm_election();
    }

    /// `AppendEntries` (paper, section 5.3).
    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        prev: EntryId,
        entries: &Entries,
        commit: u64,
        round: u64,
        room: bool,
    ) -> Option<Take> {
        self.hear_leader(from);
        self.heard_round = self.heard_round.max(round);
        if !entries.may_follow(prev, self.state.term) {
            return None;
        }
        // Up to the commit index every leader's log is equal to this one.
        if prev.index > self.commit && !self.outline.contains(prev) {
            let hint = self.outline.hint(prev);
            self.send(from, Message::AppendRejected { prev_index: prev.index, hint, round: self.heard_round });
            return None;
        }
        let end = prev.index + entries.count();
        let matching = if planted(6) { prev.index } else { self.matching_up_to(prev.index, entries) };
        if matching < self.commit.min(end) && !planted(9) || self.outline.term_of(prev.index).is_some_and(|term| term != prev.term) {
            // No leader's log differs from committed entries: whatever sent this gets no acknowledgement.
            return None;
        }
        let cut = planted(7) && matching == end && end >= self.commit && end < self.outline.last().index;
        let take = (cut || matching < end && room).then(|| self.take_from(matching + 1, prev.index, entries));
        self.verified = self.verified.max(if take.is_some() { end } else { matching });
        self.commit_up_to(commit, if planted(8) { self.outline.last().index } else { self.verified });
        let refused = matching < end && !room;
        // What is durable already, or cannot be taken for lack of room, is answered now; the rest after its sync.
        if self.verified <= self.durable || refused || planted(41) {
            self.acknowledge();
        }
        if refused {
            let hint = EntryId { term: self.outline.term_of(matching).unwrap_or(0), index: matching };
            self.send(from, Message::AppendRejected { prev_index: matching + 1, hint, round: self.heard_round });
        }
        take
    }

    /// The last index up to which the entries behind `prev_index` stand in this log already.
    fn matching_up_to(&self, prev_index: u64, entries: &Entries) -> u64 {
        let mut index = prev_index;
        for run in &entries.runs {
            for _ in 0..run.count {
                // The last entry that went into files is still known; it shows whether the ones before it were these.
                let held = index + 1 >= self.outline.base().index || planted(9);
                if held && self.outline.term_of(index + 1) != Some(run.term) {
                    return index;
                }
                index += 1;
            }
        }
        index
    }

    /// Appends from `first` on, dropping what stands there only because its term differs.
    fn take_from(&mut self, first: u64, prev_index: u64, entries: &Entries) -> Take {
        let conflict = first <= self.outline.last().index;
        if conflict {
            self.truncate(first);
        }
        self.take_entries(first, entries, first - 1 - prev_index);
        Take { truncate_from: conflict.then_some(first), first }
    }

    pub(super) fn on_heartbeat(&mut self, from: NodeId, commit: u64, round: u64) {
        self.hear_leader(from);
        self.heard_round = self.heard_round.max(round);
        self.commit_up_to(commit, if planted(94) { self.outline.last().index } else { self.verified });
        self.send(from, Message::HeartbeatReply { round, verified: self.verified, able: self.fitness.may_succeed() });
        self.ask_for_floor(from);
        // The leader counts less than was acknowledged, or could be: an acknowledgement may be lost, and none would follow by itself.
        if commit < self.durable.min(self.verified) {
            self.acknowledge();
        }
    }

    /// Never commits beyond what was verified against this leader in this term: a heartbeat may overtake the appends that would
    /// have replaced a stale suffix.
    fn commit_up_to(&mut self, commit: u64, verified: u64) {
        self.commit = self.commit.max(commit.min(verified));
    }

    /// Files up to `last` are on their way; says at once when they are not needed.
    pub(super) fn on_snapshot_offer(&mut self, from: NodeId, last: EntryId) {
        self.hear_leader(from);
        if last.index <= self.commit || self.outline.contains(last) {
            self.verified = self.verified.max(last.index.min(self.outline.last().index));
            self.send(from, Message::SnapshotReply { matched: self.durable.min(self.verified) });
        }
    }

    /// Bytes of a message are arriving on the bulk link from `peer`, and it is not complete yet. To be said now and then while that lasts,
    /// several times within [`super::Settings::resend_ticks`].
    pub fn arriving(&mut self, peer: NodeId) {
        if self.leader == Some(peer) && !self.is_leader() {
            self.send(peer, Message::Arriving);
        }
    }

    /// Acknowledges to the leader of the present term what is both durable and verified against it.
    pub(super) fn acknowledge(&mut self) {
        if let Some(leader) = self.leader
            && leader != self.id
        {
            let matched = if planted(41) { self.verified } else { self.durable.min(self.verified) };
            self.send(leader, Message::Appended { matched, round: self.heard_round });
        }
    }

    pub(super) fn on_timeout_now(&mut self, from: NodeId) {
        if self.leader == Some(from) && self.is_voter() && self.fitness.may_succeed() && !self.is_storing() {
            self.campaign(true);
        }
    }

    /// After a refused suspicion: tries again shortly while the leader's link is down.
    pub(super) fn suspect_again(&mut self) {
        if self.leader_lost {
            self.suspect(RETRY_TICKS.0, RETRY_TICKS.1);
        }
    }
}
