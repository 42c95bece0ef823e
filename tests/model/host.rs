//! One member: the core, and a disk that keeps only what was synced. Entries have no payload: a term has one leader, so term and index
//! name an entry. Does what the core's contract asks of a host and no more.

use apexkv::raft::{Config, EntryId, Envelope, HardState, Message, Node, NodeId, Outline, Recovered, Settings, Sizes};

use super::bounds::Bounds;

/// More ticks than any timer has.
pub(crate) const LONG: u32 = 10_000;
const ELECTION_TICKS: u32 = 10;
const HEARTBEAT_TICKS: u32 = 2;

/// A write on its way: the log from index `from` on becomes these terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Write {
    from: u64,
    terms: Vec<u64>,
}

/// A running member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub(crate) node: Node,
    /// Term and vote on the disk.
    pub(crate) stored: HardState,
    /// Terms of the entries on the disk, from index 1 on.
    pub(crate) log: Vec<u64>,
    /// The write under way, if any.
    write: Option<Write>,
    storing: Option<HardState>,
    /// First index that was not handed to the disk.
    unissued: u64,
}

/// Every entry is one byte long, and an append carries one.
struct OneByte;

impl Sizes for OneByte {
    fn fit(&self, from: u64, last: u64, budget: u64) -> (u64, u64) {
        let count = (last + 1 - from).min(budget.max(1));
        (count, count)
    }
}

fn settings() -> Settings {
    Settings {
        election_ticks: ELECTION_TICKS,
        heartbeat_ticks: HEARTBEAT_TICKS,
        suspicion_ticks: 1,
        election_ticks_max: 8 * ELECTION_TICKS,
        resend_ticks: HEARTBEAT_TICKS,
        stall_ticks: LONG * 10,
        ban_ticks: 0,
        append_bytes: 1,
        window_bytes: 100,
    }
}

fn boot(id: NodeId, stored: HardState, log: &[u64]) -> Node {
    let voters = (1..=3).map(NodeId).collect();
    let mut outline = Outline::new(EntryId::default(), Config { voters, learners: vec![] });
    log.iter().for_each(|term| {
        outline.push(*term);
    });
    Node::new(id, settings(), 0, Recovered { hard_state: stored, outline, commit: 0 })
}

impl Host {
    pub(crate) fn new(id: NodeId) -> Host {
        let stored = HardState::default();
        Host { node: boot(id, stored, &[]), stored, log: vec![], write: None, storing: None, unissued: 1 }
    }

    /// Lets no time but the given ticks pass.
    pub(crate) fn beat(&mut self) {
        self.node.tick(HEARTBEAT_TICKS);
    }

    /// The leader is heard no more, and nothing else happens.
    pub(crate) fn fall_silent(&mut self) {
        if !self.node.is_leader() {
            self.node.tick(ELECTION_TICKS);
        }
    }

    /// Hands a message to the core and does at once what it asks for.
    pub(crate) fn step(&mut self, envelope: Envelope) {
        if let Some(take) = self.node.step(envelope, true) {
            self.unissued = take.truncate_from.map_or(self.unissued, |first| self.unissued.min(first));
        }
    }

    /// Does what is due after an input, with the disk as slow as the bounds say. Returns what leaves and the newest read round confirmed.
    pub(crate) fn flush(&mut self, bounds: &Bounds) -> (Vec<Envelope>, u64) {
        let mut sent = Vec::new();
        loop {
            self.node.take_noop();
            let ready = self.node.ready(&OneByte);
            sent.extend(ready.send);
            if let Some((_, state)) = ready.hard_state {
                self.storing = Some(state);
            }
            self.issue_write();
            let finished = (self.storing.is_some() && !bounds.slow_votes && self.finish_hard_state())
                || (self.write.is_some() && !bounds.slow_writes && self.finish_write());
            if !finished {
                let confirmed = ready.confirmed_round;
                self.node.normalise_for_search();
                return (sent, confirmed);
            }
            self.node.normalise_for_search();
        }
    }

    fn issue_write(&mut self) {
        let last = self.node.last().index;
        if self.write.is_none() && self.node.may_write() && self.unissued <= last {
            let terms = (self.unissued..=last).map(|index| self.node.outline().term_of(index).unwrap_or(0)).collect();
            self.node.issue_write(last);
            self.write = Some(Write { from: self.unissued, terms });
            self.unissued = last + 1;
        }
    }

    fn land_write(&mut self) {
        if let Some(write) = self.write.take() {
            self.log.truncate(write.from as usize - 1);
            self.log.extend(write.terms);
        }
    }

    /// The disk reports the write under way; false if there is none.
    pub(crate) fn finish_write(&mut self) -> bool {
        let any = self.write.is_some();
        self.land_write();
        if any {
            self.node.normalise_for_search();
            self.node.synced(1);
        }
        any
    }

    /// The disk reports term and vote; false if none are under way.
    pub(crate) fn finish_hard_state(&mut self) -> bool {
        let Some(state) = self.storing.take() else { return false };
        self.stored = state;
        self.node.normalise_for_search();
        self.node.hard_state_stored(1);
        true
    }

    /// Whether a write of entries, and one of term and vote, are under way.
    pub(crate) fn under_way(&self) -> (bool, bool) {
        (self.write.is_some(), self.storing.is_some())
    }

    /// Stops and starts again from the disk, on which what was under way has arrived or not.
    pub(crate) fn restart(&mut self, write: bool, state: bool) {
        if write {
            self.land_write();
        }
        if let Some(state) = self.storing.filter(|_| state) {
            self.stored = state;
        }
        let log = std::mem::take(&mut self.log);
        let unissued = log.len() as u64 + 1;
        *self = Host { node: boot(self.node.id(), self.stored, &log), stored: self.stored, log, write: None, storing: None, unissued };
    }

    /// Whether this member, hearing no leader, would grant a pre-vote to one whose log ends in `last`.
    pub(crate) fn would_vote(&self, from: NodeId, last: EntryId) -> bool {
        let mut asked = self.clone();
        asked.fall_silent();
        let message = Message::PreVote { proposed_term: asked.node.term() + 10, last };
        asked.node.step(Envelope { from, to: asked.node.id(), term: 0, message }, true);
        let answers = asked.node.ready(&OneByte).send;
        answers.iter().any(|answer| answer.to == from && matches!(answer.message, Message::PreVoteReply { granted: true, .. }))
    }

    /// The term of the entry at `index` in memory.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        self.node.outline().term_of(index)
    }
}
