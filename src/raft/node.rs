//! The node: its state, its doors, and what all roles share (terms, timers, sending, durability). The roles' own rules are in
//! `follower.rs`, `candidate.rs` and `leader.rs`. Never blocks, never fails, never looks at a clock: time comes as ticks, chance from a
//! seeded generator, so that one sequence of inputs has exactly one outcome.

use crate::bugbank::planted;
use std::collections::VecDeque;

use super::candidate::{Candidacy, Phase};
use super::chance::Chance;
use super::fitness::Fitness;
use super::invariants::Watch;
use super::leader::Leadership;
use super::message::{Config, Entries, EntryId, Envelope, HardState, Message, NodeId};
use super::outline::Outline;
use super::ready::{Ready, Sizes, Take};
use super::settings::Settings;

/// What a node is at the moment, as others may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleName {
    /// Follows, or waits for a leader.
    Follower,
    /// Asks for votes or pre-votes.
    Candidate,
    /// Leads.
    Leader,
    /// Receives the log and counts for nothing.
    Learner,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Follower,
    Candidate(Candidacy),
    Leader(Box<Leadership>),
}

/// What the host recovered from disk, all of it durable.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// Outline of the log.
    pub outline: Outline,
    /// Entries up to here are known to be committed.
    pub commit: u64,
}

/// A write of records that the host has issued and the disk has not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub(super) sequence: u64,
    /// Last entry of this log that its completion makes durable; lowered when a conflict drops entries under it.
    last: u64,
}

/// One member's consensus state machine (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", figure 2;
/// pre-vote, check-quorum and transfer after Ongaro's thesis, sections 9.6, 6.2 and 3.10).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub(super) id: NodeId,
    pub(super) settings: Settings,
    pub(super) chance: Chance,
    /// Term and vote as decided; ahead of `stored` while a write is due or under way.
    pub(super) state: HardState,
    /// Term and vote as known durable.
    pub(super) stored: HardState,
    pub(super) storing: Option<(u64, HardState)>,
    pub(super) next_ticket: u64,
    pub(super) outline: Outline,
    pub(super) writes: VecDeque<Write>,
    pub(super) next_write: u64,
    pub(super) durable: u64,
    pub(super) commit: u64,
    /// Highest index verified against the leader of the present term; at least `commit`.
    pub(super) verified: u64,
    /// Newest read round seen in the present term.
    pub(super) heard_round: u64,
    pub(super) role: Role,
    pub(super) leader: Option<NodeId>,
    /// Ticks for which the leader counts as alive.
    pub(super) heard: u32,
    /// The leader's link broke and nobody has led since.
    pub(super) leader_lost: bool,
    pub(super) election: Option<u32>,
    pub(super) suspicion: Option<u32>,
    pub(super) failed_elections: u32,
    pub(super) ban: u32,
    pub(super) fitness: Fitness,
    /// What this process asks leaders for the end of their logs with; 0 until it does.
    pub(super) floor_token: u64,
    /// Messages of the present term that wait for term and vote to be durable.
    held: Vec<Envelope>,
    pub(super) outbox: Vec<Envelope>,
    pub(super) snapshots: Vec<NodeId>,
    pub(super) confirmed_round: u64,
    noop: Option<EntryId>,
}

impl Node {
    /// A node as it comes back from a stop: a follower that knows no leader.
    pub fn new(id: NodeId, settings: Settings, seed: u64, recovered: Recovered) -> Node {
        let durable = recovered.outline.last().index;
        assert!(recovered.commit <= durable, "commit {} is behind the log's end {durable}", recovered.commit);
        let mut node = Node {
            id,
            settings,
            chance: Chance::new(seed),
            state: recovered.hard_state,
            stored: recovered.hard_state,
            storing: None,
            next_ticket: 1,
            writes: VecDeque::new(),
            next_write: 1,
            durable,
            commit: recovered.commit.max(recovered.outline.base().index),
            verified: recovered.commit.max(recovered.outline.base().index),
            heard_round: 0,
            outline: recovered.outline,
            role: Role::Follower,
            leader: None,
            heard: 0,
            leader_lost: false,
            election: None,
            suspicion: None,
            failed_elections: 0,
            ban: 0,
            fitness: Fitness::UNKNOWN,
            floor_token: 0,
            held: Vec::new(),
            outbox: Vec::new(),
            snapshots: Vec::new(),
            confirmed_round: 0,
            noop: None,
        };
        node.arm_election();
        if node.config().voters == [id] {
            // Nobody else could lead: waiting for one would only delay the start.
            node.election = Some(1);
        }
        node
    }

    // ---- what others may ask ----

    /// This node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The present term, durable or not.
    pub fn term(&self) -> u64 {
        self.state.term
    }

    /// The term that is known durable: what may be told to others.
    pub fn durable_term(&self) -> u64 {
        self.stored.term
    }

    /// The leader of the present term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// What this node is.
    pub fn role(&self) -> RoleName {
        match self.role {
            Role::Leader(_) => RoleName::Leader,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Follower if self.config().learners.contains(&self.id) => RoleName::Learner,
            Role::Follower => RoleName::Follower,
        }
    }

    /// Highest committed index known here.
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// Highest index durable here.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The newest entry, durable or not.
    pub fn last(&self) -> EntryId {
        self.outline.last()
    }

    /// The outline of the log.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        self.outline.config()
    }

    /// As leader: the highest index that `peer` is known to match.
    pub fn matched(&self, peer: NodeId) -> Option<u64> {
        self.leadership().and_then(|leadership| leadership.progress.get(&peer)).map(|progress| progress.matched)
    }

    /// Whether term and vote are durable as they stand. Until then the host must issue no write of records: a batch that holds
    /// entries of a term whose hard state a crash could take back would let the term be led twice.
    pub fn may_write(&self) -> bool {
        self.stored == self.state
    }

    /// How many ticks may pass before something is due.
    pub fn ticks_to_deadline(&self) -> u32 {
        let leader = self.leadership().map(|leadership| leadership.next_deadline(self.outline.last().index));
        [self.election, self.suspicion, leader].into_iter().flatten().min().unwrap_or(self.settings.heartbeat_ticks).max(1)
    }

    // ---- doors ----

    /// Lets time pass.
    pub fn tick(&mut self, ticks: u32) {
        let watch = Watch::of(self);
        self.heard = self.heard.saturating_sub(ticks);
        self.ban = self.ban.saturating_sub(ticks);
        if self.is_leader() {
            self.tick_leader(ticks);
        } else if expired(&mut self.suspicion, ticks) || expired(&mut self.election, ticks) {
            self.on_timeout();
        }
        watch.check(self);
    }

    /// Takes a message in. `room` says whether the host could append the message's records now. The returned work must be done
    /// before the next call.
    pub fn step(&mut self, envelope: Envelope, room: bool) -> Option<Take> {
        if envelope.to != self.id || envelope.from == self.id {
            return None;
        }
        let watch = Watch::of(self);
        let take = self.dispatch(envelope, room);
        watch.check(self);
        take
    }

    fn dispatch(&mut self, envelope: Envelope, room: bool) -> Option<Take> {
        let Envelope { from, term, message, .. } = envelope;
        match message {
            Message::PreVote { proposed_term, last } => self.on_pre_vote(from, term, proposed_term, last),
            Message::PreVoteReply { proposed_term, granted } => self.on_pre_vote_reply(from, term, proposed_term, granted),
            Message::Vote { last, transfer } => self.on_vote(from, term, last, transfer),
            Message::VoteReply { granted } if planted(11) => self.on_vote_reply(from, granted),
            _ if term < self.state.term => self.refuse_stale(from, &message),
            message => {
                if term > self.state.term {
                    self.adopt_term(term);
                }
                return self.dispatch_current(from, message, room);
            }
        }
        None
    }

    /// Messages of the present term.
    fn dispatch_current(&mut self, from: NodeId, message: Message, room: bool) -> Option<Take> {
        match message {
            Message::VoteReply { granted } => self.on_vote_reply(from, granted),
            Message::Append { prev, entries, commit, round } => return self.on_append(from, prev, &entries, commit, round, room),
            Message::Heartbeat { commit, round } => self.on_heartbeat(from, commit, round),
            Message::Snapshot { last, .. } => self.on_snapshot_offer(from, last),
            Message::TimeoutNow => self.on_timeout_now(from),
            Message::Appended { matched, round } => self.on_appended(from, matched, round),
            Message::AppendRejected { prev_index, hint, round } => self.on_append_rejected(from, prev_index, hint, round),
            Message::HeartbeatReply { round, verified, able } => self.on_heartbeat_reply(from, round, verified, able),
            Message::SnapshotReply { matched } => self.on_appended(from, matched, 0),
            Message::Arriving => self.on_arriving(from),
            Message::LastIndex { token } => self.on_last_index(from, token),
            Message::LastIndexReply { token, index } => self.on_last_index_reply(from, token, index),
            Message::PreVote { .. } | Message::PreVoteReply { .. } | Message::Vote { .. } => {
                unreachable!("votes and pre-votes settle terms on their own")
            }
        }
        None
    }

    /// Appends `count` entries of the present term; the host stages their records at the returned places right away. `None` when
    /// this node does not lead or is handing leadership over.
    pub fn propose(&mut self, count: u64) -> Option<EntryId> {
        assert!(self.noop.is_none(), "the no-op of term {} must be staged before anything is proposed", self.state.term);
        if !self.accepts_proposals() || count == 0 {
            return None;
        }
        let first = EntryId { term: self.state.term, index: self.last().index + 1 };
        self.outline.extend(self.state.term, count);
        Some(first)
    }

    /// The no-op entry that a fresh leader has put into its log and whose record the host must stage now; given once.
    pub fn take_noop(&mut self) -> Option<EntryId> {
        self.noop.take()
    }

    /// The host issues a write of everything staged up to `last`. The returned sequence number names its completion.
    pub fn issue_write(&mut self, last: u64) -> u64 {
        assert!(self.may_write(), "records of term {} must not reach the disk before the term has", self.state.term);
        assert!(last <= self.last().index, "a write ends at {last}, behind the log's end {}", self.last());
        let sequence = self.next_write;
        self.next_write += 1;
        self.writes.push_back(Write { sequence, last });
        sequence
    }

    /// The write with this sequence number, and every earlier one, has been synced.
    pub fn synced(&mut self, sequence: u64) {
        let watch = Watch::of(self);
        while self.writes.front().is_some_and(|write| write.sequence <= sequence) {
            let last = self.writes.pop_front().map_or(0, |write| write.last);
            self.durable = self.durable.max(last);
        }
        if self.is_leader() {
            self.advance_commit();
        } else {
            self.acknowledge();
        }
        watch.check(self);
    }

    /// The hard state of this ticket is durable.
    pub fn hard_state_stored(&mut self, ticket: u64) {
        let watch = Watch::of(self);
        if let Some((outstanding, state)) = self.storing
            && outstanding == ticket
        {
            self.storing = None;
            self.stored = state;
            if self.may_write() {
                self.release_held();
                self.on_vote_durable();
            }
        }
        watch.check(self);
    }

    /// The control link from `peer` opened; `fresh` when its process is not the one seen before.
    pub fn link_up(&mut self, peer: NodeId, fresh: bool) {
        if let Some(progress) = self.progress_mut(peer) {
            if fresh {
                progress.matched = 0;
                progress.verified = 0;
                progress.round = 0;
                let next = self.outline.last().index + 1;
                if let Some(progress) = self.progress_mut(peer) {
                    progress.probe(next, 0);
                }
            } else {
                progress.resume();
            }
        }
    }

    /// The control link from `peer` broke. If it led, it no longer counts as alive and a pre-vote follows within a few ticks.
    pub fn link_down(&mut self, peer: NodeId) {
        if self.leader == Some(peer) && !self.is_leader() {
            self.heard = 0;
            self.leader_lost = true;
            self.suspect(1, self.settings.suspicion_ticks);
        }
        self.ask_without(peer);
    }

    /// Messages on the bulk link to `peer` were dropped.
    pub fn dropped(&mut self, peer: NodeId) {
        let pause = self.settings.heartbeat_ticks;
        if let Some(progress) = self.progress_mut(peer)
            && progress.mode == super::progress::Mode::Replicate
        {
            progress.probe(progress.matched + 1, pause);
        }
    }

    /// Everything up to `last` has been installed as files, durably; the log is empty or goes on behind it. Like a write of records, the
    /// files are switched in only while [`Node::may_write`].
    pub fn snapshot_installed(&mut self, last: EntryId, config: Config) {
        assert!(last.term <= self.stored.term, "files of term {} are installed before it is durable", last.term);
        let watch = Watch::of(self);
        if last.index > self.commit {
            if self.outline.contains(last) {
                self.outline.compact(last.index);
            } else {
                self.outline = Outline::new(last, config);
                self.writes.iter_mut().for_each(|write| write.last = 0);
                self.durable = last.index;
            }
            self.durable = self.durable.max(last.index);
            self.commit = last.index;
            self.verified = self.verified.max(last.index).min(self.last().index);
        }
        if let Some(leader) = self.leader.filter(|leader| *leader != self.id) {
            self.send(leader, Message::SnapshotReply { matched: self.durable.min(self.verified) });
        }
        watch.check(self);
    }

    /// The host has given up the log's records up to `index`, all applied and kept elsewhere.
    pub fn compacted(&mut self, index: u64) {
        assert!(index <= self.commit, "records up to {index} go, but only {} are committed", self.commit);
        self.outline.compact(index);
    }

    /// Collects what the host has to do. Called after a burst of inputs, so that one message can carry many proposals.
    pub fn ready(&mut self, sizes: &dyn Sizes) -> Ready {
        let watch = Watch::of(self);
        self.feed_followers(sizes);
        let mut ready = Ready { commit: self.commit, confirmed_round: self.confirmed_round, ..Ready::default() };
        if self.storing.is_none() && self.stored != self.state {
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            self.storing = Some((ticket, self.state));
            let kept = if planted(4) && self.state.vote.is_none() { self.stored } else { self.state };
            ready.hard_state = Some((ticket, kept));
        }
        ready.send = std::mem::take(&mut self.outbox);
        ready.snapshots = std::mem::take(&mut self.snapshots);
        watch.check(self);
        ready
    }

    // ---- what the roles share ----

    /// Takes over a greater term, as a follower that knows no leader.
    pub(super) fn adopt_term(&mut self, term: u64) {
        assert!(term > self.state.term, "term {term} does not follow {}", self.state.term);
        self.held.clear();
        self.enter_term(HardState { term, vote: None });
        self.become_follower(None);
        self.suspect_again();
    }

    /// Takes over a greater term. What was learned from the leader of one term says nothing about the next; within a term it stays
    /// true whatever this node does, for the term has only one leader.
    pub(super) fn enter_term(&mut self, state: HardState) {
        self.state = state;
        self.leader = None;
        self.verified = self.commit;
        self.heard_round = if planted(115) { self.heard_round } else { 0 };
        self.heard = 0;
    }

    /// Becomes (or stays) a follower in the present term.
    pub(super) fn become_follower(&mut self, leader: Option<NodeId>) {
        if self.leader != leader {
            self.heard = 0;
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.noop = None;
        if self.election.is_none() {
            self.arm_election();
        }
    }

    /// Becomes a follower after a failed or given-up candidacy and waits a whole timeout again.
    pub(super) fn retire(&mut self) {
        self.become_follower(None);
        self.arm_election();
    }

    /// Leads the present term, whose vote is durable: appends the no-op that lets the term commit.
    pub(super) fn become_leader(&mut self) {
        assert!(self.may_write(), "term {} is led before it is durable", self.state.term);
        let next = self.outline.last().index + 1;
        let noop = self.outline.push(self.state.term);
        self.role = Role::Leader(Box::new(Leadership::new(noop.index, next, self.confirmed_round, self.config(), self.id)));
        self.leader = Some(self.id);
        self.leader_lost = false;
        self.noop = Some(noop);
        self.election = None;
        self.suspicion = None;
        self.failed_elections = 0;
        self.broadcast_heartbeat();
        self.advance_commit();
    }

    pub(super) fn become_candidate(&mut self, phase: Phase, transfer: bool) {
        self.leader = None;
        self.noop = None;
        self.suspicion = None;
        self.heard = 0;
        self.role = Role::Candidate(Candidacy::new(phase, transfer, self.id));
    }

    /// Drops the log from `first` on: the entry there differs from the leader's.
    pub(super) fn truncate(&mut self, first: u64) {
        assert!(first > self.commit, "entry {first} is committed (commit {}) and would be dropped", self.commit);
        self.outline.truncate(first);
        self.durable = self.durable.min(first - 1);
        // A write under way that held dropped entries still makes the ones before them durable, and nothing more.
        if !planted(23) {
            self.writes.iter_mut().for_each(|write| write.last = write.last.min(first - 1));
        }
    }

    pub(super) fn take_entries(&mut self, first: u64, entries: &Entries, skip: u64) {
        let mut skip = skip;
        for run in &entries.runs {
            let skipped = skip.min(run.count);
            skip -= skipped;
            self.outline.extend(run.term, run.count - skipped);
        }
        for (index, config) in &entries.configs {
            if *index >= first {
                self.outline.push_config(*index, config.clone());
            }
        }
    }

    /// Sends in the present term; waits for the hard state if term and vote are not durable yet.
    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        let envelope = Envelope { from: self.id, to, term: self.state.term, message };
        let premature = planted(3) && matches!(envelope.message, Message::VoteReply { .. })
            || planted(105) && matches!(envelope.message, Message::Appended { .. });
        if self.may_write() || premature {
            self.outbox.push(envelope);
        } else {
            self.held.push(envelope);
        }
    }

    /// Sends what promises nothing, pre-votes and their answers, with the durable term.
    pub(super) fn send_unbound(&mut self, to: NodeId, message: Message) {
        self.outbox.push(Envelope { from: self.id, to, term: self.stored.term, message });
    }

    fn release_held(&mut self) {
        let term = self.state.term;
        let held = std::mem::take(&mut self.held);
        self.outbox.extend(held.into_iter().filter(|envelope| envelope.term == term));
    }

    /// Tells a sender of an old term which term it has missed, so that it adopts it.
    fn refuse_stale(&mut self, from: NodeId, message: &Message) {
        let reply = match message {
            Message::Append { prev, .. } => Message::AppendRejected { prev_index: prev.index, hint: EntryId::default(), round: 0 },
            Message::Heartbeat { .. } => Message::HeartbeatReply { round: 0, verified: 0, able: self.fitness.may_succeed() },
            Message::Snapshot { .. } => Message::SnapshotReply { matched: 0 },
            _ => return,
        };
        self.send(from, reply);
    }

    pub(super) fn arm_election(&mut self) {
        let doubled = self.settings.election_ticks.saturating_mul(1 << self.failed_elections.min(if planted(110) { 0 } else { 16 }));
        let shortest = doubled.min(self.settings.election_ticks_max).max(self.settings.election_ticks);
        self.election = Some(self.chance.between(shortest, shortest.saturating_mul(2)));
    }

    /// Starts a pre-vote after a short jitter, unless one is due sooner.
    pub(super) fn suspect(&mut self, from: u32, to: u32) {
        let jitter = self.chance.between(from, to);
        self.suspicion = Some(self.suspicion.map_or(jitter, |due| due.min(jitter)));
    }

    /// Whether a hard-state write is due or under way; no new term begins meanwhile.
    pub(super) fn is_storing(&self) -> bool {
        self.storing.is_some() || self.stored != self.state
    }

    pub(super) fn is_voter(&self) -> bool {
        self.config().voters.contains(&self.id)
    }

    pub(super) fn other_voters(&self) -> Vec<NodeId> {
        self.config().voters.iter().copied().filter(|voter| *voter != self.id).collect()
    }
}

/// Counts a timer down; true when it ran out, after which it is off.
fn expired(timer: &mut Option<u32>, ticks: u32) -> bool {
    match timer {
        Some(left) if *left > ticks => {
            *left -= ticks;
            false
        }
        Some(_) => {
            *timer = None;
            true
        }
        None => false,
    }
}
