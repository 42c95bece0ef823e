//! Read rounds (Ongaro's thesis, section 6.4): a leader shows that it still leads by messages that a majority answers. Holds which round
//! is under way, which reads it may serve, and who is asked. Never confirms by an answer to a message that left before the read came.
//!
//! One round serves all reads that came before it, and the next begins when it is confirmed: the more reads come, the more share a round.
//! A round for several reads first asks no more followers than it needs, those that were quickest last time, because the processors have
//! enough to do. If they do not answer soon, or are not known, all are asked; so they are for one read alone, for which nothing counts but
//! the first answer.

use super::leader::Leadership;
use super::message::{Message, NodeId};
use super::node::Node;
use super::quorum;
use super::ready::ReadTicket;
use crate::bugbank::planted;

/// A round that was not confirmed within an eighth of a heartbeat interval is asked of everybody, and at the latest after
/// [`PATIENCE_TICKS_MAX`].
const PATIENCE_DIVISOR: u32 = 8;
const PATIENCE_TICKS_MAX: u32 = 10;

/// Rounds for at least so many reads (the host may count those of one connection that came together as one) spare the followers that need
/// not answer.
const SEVERAL_READS: u32 = 2;

/// What a leader keeps of its read rounds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rounds {
    /// The newest one begun.
    pub(super) begun: u64,
    /// How many reads wait for the round after it.
    waiting: u32,
    /// Ticks until the round under way is asked of everybody; `None` if it has been, or none is under way.
    until_all: Option<u32>,
    /// Whose answers confirmed the last round.
    quickest: Vec<NodeId>,
}

impl Rounds {
    /// None is under way; `begun` is the newest that is confirmed.
    pub(super) fn new(begun: u64) -> Rounds {
        Rounds { begun, waiting: 0, until_all: None, quickest: Vec::new() }
    }

    pub(super) fn normalise_for_search(&mut self) {
        self.until_all = self.until_all.map(|_| 1);
        self.waiting = self.waiting.min(SEVERAL_READS);
    }

    /// Ticks until something is due.
    pub(super) fn next_deadline(&self) -> Option<u32> {
        self.until_all
    }

    /// Lets time pass; true once, when everybody is to be asked.
    pub(super) fn tick(&mut self, ticks: u32) -> bool {
        self.until_all = self.until_all.map(|left| left.saturating_sub(ticks));
        self.until_all.take_if(|left| *left == 0).is_some()
    }
}

impl Node {
    /// Admits a read: what must be confirmed and applied before it may be served. `None` when this node does not lead.
    pub fn read(&mut self) -> Option<ReadTicket> {
        let (commit, confirmed) = (self.commit, self.confirmed_round);
        let leadership = self.leadership_mut()?;
        leadership.rounds.waiting = leadership.rounds.waiting.saturating_add(1);
        let index = if planted(28) { commit } else { commit.max(leadership.noop) };
        let round = match () {
            () if planted(27) => 0,
            // The round under way, if there is one: its messages may have left before the read arrived.
            () if planted(29) => leadership.rounds.begun.max(confirmed + 1),
            () => leadership.rounds.begun + 1,
        };
        Some(ReadTicket { round, index })
    }

    /// Whether a read round is under way: reads that are admitted now wait for the one after it.
    pub fn is_confirming(&self) -> bool {
        self.leadership().is_some_and(|leadership| leadership.rounds.begun > self.confirmed_round)
    }

    /// Begins a round if reads wait and none is under way.
    pub(super) fn begin_round(&mut self) {
        let patience = (self.settings.heartbeat_ticks / PATIENCE_DIVISOR).clamp(1, PATIENCE_TICKS_MAX);
        let confirming = self.is_confirming();
        let Some(rounds) = self.leadership_mut().map(|leadership| &mut leadership.rounds) else { return };
        if rounds.waiting == 0 || confirming {
            return;
        }
        let few = std::mem::take(&mut rounds.waiting) < SEVERAL_READS;
        rounds.begun += 1;
        match self.whom_to_ask().filter(|_| !few) {
            Some(quickest) => {
                if let Some(Leadership { rounds, .. }) = self.leadership_mut() {
                    rounds.until_all = Some(patience);
                }
                quickest.into_iter().for_each(|peer| self.send_heartbeat(peer));
            }
            None => self.broadcast_heartbeat(),
        }
        self.confirm_reads();
    }

    /// `peer` cannot be reached now: a round that waits for it asks everybody else.
    pub(super) fn ask_without(&mut self, peer: NodeId) {
        let Some(Leadership { rounds, .. }) = self.leadership_mut() else { return };
        let known = rounds.quickest.len();
        rounds.quickest.retain(|quick| *quick != peer);
        if rounds.quickest.len() < known && rounds.until_all.take().is_some() {
            self.broadcast_heartbeat();
        }
    }

    /// As many of the voters that confirmed the last round as it takes beside this node; `None` if they are too few.
    fn whom_to_ask(&self) -> Option<Vec<NodeId>> {
        let voters = &self.config().voters;
        let needed = quorum::majority(voters.len()) - usize::from(voters.contains(&self.id));
        let quickest = self.leadership()?.rounds.quickest.iter().copied().filter(|voter| voters.contains(voter));
        let asked: Vec<NodeId> = quickest.take(needed).collect();
        (asked.len() == needed).then_some(asked)
    }

    pub(super) fn send_heartbeat(&mut self, peer: NodeId) {
        let Some(leadership) = self.leadership() else { return };
        let Some(progress) = leadership.progress.get(&peer) else { return };
        let commit = if planted(94) { self.commit } else { self.commit.min(progress.matched) };
        let round = leadership.rounds.begun;
        self.send(peer, Message::Heartbeat { commit, round });
    }

    /// Notes that `from` was heard in this term and which round it answered.
    pub(super) fn hear_follower(&mut self, from: NodeId, round: u64) {
        let begun = self.leadership().map_or(0, |leadership| leadership.rounds.begun);
        if let Some(progress) = self.progress_mut(from) {
            progress.silent = 0;
            // An answer to a round that has not begun would confirm reads yet to come.
            progress.round = progress.round.max(round.min(begun));
            self.confirm_reads();
        }
    }

    fn confirm_reads(&mut self) {
        let Some(leadership) = self.leadership() else { return };
        let answered = |voter: NodeId| match leadership.progress.get(&voter) {
            Some(progress) => progress.round,
            None if voter == self.id => leadership.rounds.begun,
            None => 0,
        };
        let voters = &self.config().voters;
        let agreed = quorum::agreed(voters, answered);
        let confirmed = if planted(30) { leadership.rounds.begun } else { agreed };
        if confirmed <= self.confirmed_round {
            return;
        }
        let quickest = voters.iter().copied().filter(|voter| *voter != self.id && answered(*voter) >= confirmed).collect();
        self.confirmed_round = confirmed;
        if let Some(Leadership { rounds, .. }) = self.leadership_mut() {
            rounds.quickest = quickest;
            rounds.until_all = None;
        }
    }
}
