//! A cluster in one place: hosts, network and oracle. Every input to a member goes through a method here, which checks everything
//! after it. Deterministic: one sequence of calls has one outcome.

use apexkv::raft::{Config, EntryId, Envelope, Message, Node, NodeId, ReadTicket, RoleName, Settings};

use super::host::{Entry, Host, OneByte, Packet};
use super::network::{Link, Network, links_between};
use super::oracle::Oracle;

/// How a read ended, or that it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadState {
    /// Not confirmed yet.
    Waiting,
    /// It may be served once this index is applied.
    Confirmed(u64),
    /// Its leader stepped down: NOT_LEADER.
    Refused,
}

/// A read that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) name: String,
    at: NodeId,
    term: u64,
    boots: u64,
    ticket: ReadTicket,
    /// What was committed anywhere when it was admitted.
    committed: u64,
    pub(crate) state: ReadState,
}

/// Hosts, network and oracle.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) hosts: Vec<Host>,
    pub(crate) network: Network,
    pub(crate) oracle: Oracle,
    pub(crate) reads: Vec<Read>,
    seed: u64,
    /// What happened, for a person; kept only if asked for.
    pub(crate) trace: Option<Vec<String>>,
    before: String,
}

impl Cluster {
    /// All members running, with empty disks. Learners stand behind the voters.
    pub(crate) fn new(voters: u32, learners: u32, settings: Settings, seed: u64) -> Cluster {
        let ids = |range: std::ops::RangeInclusive<u32>| range.map(NodeId).collect::<Vec<_>>();
        let founders = Config { voters: ids(1..=voters), learners: ids(voters + 1..=voters + learners) };
        let hosts = ids(1..=voters + learners).into_iter().map(|id| Host::new(id, settings.clone(), founders.clone())).collect();
        let network = Network::default();
        let mut cluster = Cluster { hosts, network, oracle: Oracle::default(), reads: vec![], seed, trace: None, before: String::new() };
        cluster.ids().into_iter().for_each(|id| cluster.start(id));
        cluster
    }

    /// Every member.
    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.hosts.iter().map(|host| host.id).collect()
    }

    pub(crate) fn host(&self, id: NodeId) -> &Host {
        &self.hosts[id.0 as usize - 1]
    }

    pub(crate) fn host_mut(&mut self, id: NodeId) -> &mut Host {
        &mut self.hosts[id.0 as usize - 1]
    }

    /// The running leader of the newest term.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let nodes = self.hosts.iter().filter_map(|host| host.node.as_ref());
        nodes.filter(|node| node.is_leader()).max_by_key(|node| node.term()).map(|node| node.id())
    }

    /// Adds a line to the trace.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    // ---- inputs ----

    /// Starts a member from its disk and tells the others that its process is a new one.
    pub(crate) fn start(&mut self, id: NodeId) {
        self.oracle.check_started(self.host(id));
        let seed = self.seed ^ u64::from(id.0) << 32 ^ self.host(id).boots;
        self.host_mut(id).start(seed);
        self.oracle.check_staged(&self.hosts[id.0 as usize - 1], 1);
        for other in self.ids() {
            let linked = links_between(id, other).iter().all(|link| !self.network.is_cut(*link));
            if other != id && linked && self.host(other).node.is_some() {
                self.meet(other, id);
                self.meet(id, other);
            }
        }
    }

    /// Stops a member at once; see [`Host::crash`]. What was under way to it is lost.
    pub(crate) fn crash(&mut self, id: NodeId, writes: usize, state: bool) {
        self.host_mut(id).crash(writes, state);
        for other in self.ids() {
            self.network.clear(Link { from: other, to: id, bulk: false });
            self.network.clear(Link { from: other, to: id, bulk: true });
        }
        self.settle_reads(id);
    }

    pub(crate) fn tick(&mut self, id: NodeId, ticks: u32) {
        self.core(id, |node| node.tick(ticks));
    }

    fn meet(&mut self, id: NodeId, peer: NodeId) {
        let boot = self.host(peer).boots;
        self.input(id, |host| {
            host.meet(peer, boot);
            None
        });
    }

    /// Hands a packet to its receiver, which may be down. Its connection opened before it; what an older life sent is not listened to.
    pub(crate) fn deliver(&mut self, packet: Packet) {
        self.note(|| describe(&packet));
        self.input(packet.envelope.to, |host| {
            let listens = host.meet(packet.envelope.from, packet.boot);
            if listens { host.step(packet) } else { None }
        });
    }

    /// Appends `count` entries at a leader. Says whether it took them.
    pub(crate) fn propose(&mut self, id: NodeId, labels: &[String]) -> bool {
        let mut taken = false;
        self.input(id, |host| {
            let place = host.node.as_mut().and_then(|node| node.propose(labels.len() as u64))?;
            taken = true;
            labels.iter().for_each(|label| host.stage(Entry { term: place.term, label: label.clone(), config: None }));
            Some(place.index)
        });
        taken
    }

    /// Asks a leader for a read. Says whether it was admitted.
    pub(crate) fn read(&mut self, id: NodeId, name: &str) -> bool {
        let committed = self.oracle.committed();
        let mut ticket = None;
        self.input(id, |host| {
            ticket = host.node.as_mut().and_then(|node| node.read());
            None
        });
        let Some(ticket) = ticket else { return false };
        let host = self.host(id);
        let term = host.node.as_ref().map_or(0, |node| node.term());
        let boots = host.boots;
        self.reads.push(Read { name: name.to_string(), at: id, term, boots, ticket, committed, state: ReadState::Waiting });
        true
    }

    pub(crate) fn transfer(&mut self, id: NodeId, to: Option<NodeId>) -> bool {
        let mut begun = false;
        self.input(id, |host| {
            begun = host.node.as_mut().is_some_and(|node| node.transfer(to));
            None
        });
        begun
    }

    pub(crate) fn link_up(&mut self, id: NodeId, peer: NodeId, fresh: bool) {
        self.core(id, |node| node.link_up(peer, fresh));
    }

    pub(crate) fn link_down(&mut self, id: NodeId, peer: NodeId) {
        self.core(id, |node| node.link_down(peer));
    }

    pub(crate) fn dropped(&mut self, id: NodeId, peer: NodeId) {
        self.core(id, |node| node.dropped(peer));
    }

    pub(crate) fn arriving(&mut self, id: NodeId, peer: NodeId) {
        self.core(id, |node| node.arriving(peer));
    }

    pub(crate) fn set_disk(&mut self, id: NodeId, able: bool, stalled: bool) {
        self.core(id, |node| node.set_disk(able, stalled));
    }

    pub(crate) fn set_floor(&mut self, id: NodeId, floor: EntryId) {
        self.core(id, |node| node.set_floor(floor));
    }

    pub(crate) fn set_short(&mut self, id: NodeId, short: bool) {
        self.core(id, |node| node.set_short(short));
    }

    pub(crate) fn finish_writes(&mut self, id: NodeId, count: usize) {
        self.input(id, |host| {
            host.finish_writes(count);
            None
        });
    }

    pub(crate) fn finish_hard_state(&mut self, id: NodeId) {
        self.input(id, |host| {
            host.finish_hard_state();
            None
        });
    }

    pub(crate) fn finish_install(&mut self, id: NodeId) {
        self.input(id, |host| {
            host.finish_install();
            None
        });
        // Files replace a log as a whole.
        self.oracle.check_staged(&self.hosts[id.0 as usize - 1], 1);
    }

    pub(crate) fn compact(&mut self, id: NodeId, index: u64) {
        self.input(id, |host| {
            host.compact(index);
            None
        });
    }

    /// Gives a member's core an input that stages nothing.
    fn core(&mut self, id: NodeId, act: impl FnOnce(&mut Node)) {
        self.input(id, |host| {
            if let Some(node) = &mut host.node {
                act(node);
            }
            None
        });
    }

    /// Gives a member one input, which may stage entries, and does what is due right after it.
    fn input(&mut self, id: NodeId, act: impl FnOnce(&mut Host) -> Option<u64>) {
        self.remember(id);
        let at = id.0 as usize - 1;
        let staged = act(&mut self.hosts[at]);
        let noop = self.hosts[at].stage_noop().map(|noop| noop.index);
        if let Some(first) = staged.or(noop) {
            self.oracle.check_staged(&self.hosts[at], first);
        }
        self.oracle.check(&self.hosts, &self.hosts[at]);
        self.compare(id);
    }

    // ---- outputs ----

    /// Collects what a member wants done, and does what needs no waiting: messages get under way, work for the disk is issued.
    pub(crate) fn flush(&mut self, id: NodeId) {
        self.remember(id);
        let at = id.0 as usize - 1;
        let Some(node) = &mut self.hosts[at].node else { return };
        let ready = node.ready(&OneByte);
        assert_eq!(ready.commit, node.commit(), "{id}: what may be applied is what is committed");
        if let Some(storing) = ready.hard_state {
            assert!(self.hosts[at].storing.is_none(), "{id}: two hard states under way");
            self.hosts[at].storing = Some(storing);
        }
        for envelope in ready.send {
            self.leave(envelope);
        }
        for peer in ready.snapshots {
            if let Some(packet) = self.hosts[at].pack_snapshot(peer) {
                self.oracle.check_leaving(&self.hosts[at], &packet);
                self.network.send(packet);
            }
        }
        self.oracle.check(&self.hosts, &self.hosts[at]);
        self.confirm_reads(id, ready.confirmed_round);
        self.settle_reads(id);
        self.compare(id);
    }

    fn leave(&mut self, envelope: Envelope) {
        let at = envelope.from.0 as usize - 1;
        let packet = self.hosts[at].pack(envelope);
        self.oracle.check_leaving(&self.hosts[at], &packet);
        let lost = format!("lost: {}", if self.trace.is_some() { describe(&packet) } else { String::new() });
        if !self.network.send(packet) {
            self.note(|| lost);
        }
    }

    fn confirm_reads(&mut self, id: NodeId, round: u64) {
        let host = &self.hosts[id.0 as usize - 1];
        let Some(node) = &host.node else { return };
        let current = (id, node.term(), host.boots);
        let mut lines = Vec::new();
        for read in self.reads.iter_mut().filter(|read| read.state == ReadState::Waiting && (read.at, read.term, read.boots) == current) {
            if node.is_leader() && read.ticket.round <= round {
                let (index, committed) = (read.ticket.index, read.committed);
                assert!(index >= committed, "{id}: a read of index {index} is confirmed, but {committed} was committed when it came");
                read.state = ReadState::Confirmed(index);
                lines.push(format!("{id} confirms read {} at index {index}", read.name));
            }
        }
        lines.into_iter().for_each(|line| self.note(|| line));
    }

    /// Reads whose leader no longer leads that term are refused.
    fn settle_reads(&mut self, id: NodeId) {
        let host = &self.hosts[id.0 as usize - 1];
        let leads = host.node.as_ref().filter(|node| node.is_leader()).map(|node| (node.term(), host.boots));
        let mut lines = Vec::new();
        for read in self.reads.iter_mut().filter(|read| read.state == ReadState::Waiting && read.at == id) {
            if leads != Some((read.term, read.boots)) {
                read.state = ReadState::Refused;
                lines.push(format!("{id} refuses read {}", read.name));
            }
        }
        lines.into_iter().for_each(|line| self.note(|| line));
    }

    // ---- for a person ----

    fn remember(&mut self, id: NodeId) {
        if self.trace.is_some() {
            self.before = self.state(id);
        }
    }

    /// Notes which parts of a member's state the last input changed.
    fn compare(&mut self, id: NodeId) {
        if self.trace.is_none() {
            return;
        }
        let (before, after) = (std::mem::take(&mut self.before), self.state(id));
        let changed: Vec<&str> = after.split(' ').zip(before.split(' ')).filter(|(now, then)| now != then).map(|(now, _)| now).collect();
        if !changed.is_empty() {
            let line = format!("    {id} {}", changed.join(" "));
            self.note(|| line);
        }
    }

    /// A member's state in `key=value` words, always the same keys.
    pub(crate) fn state(&self, id: NodeId) -> String {
        let host = self.host(id);
        let Some(node) = &host.node else {
            return format!(
                "role=down term={} vote={} leader=- last=- commit=- durable=- voters=- log=-",
                host.disk.hard_state.term,
                name(host.disk.hard_state.vote)
            );
        };
        let role = match node.role() {
            RoleName::Follower => "follower",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
            RoleName::Learner => "learner",
        };
        let voters: Vec<String> = node.config().voters.iter().map(NodeId::to_string).collect();
        let vote = host.storing.map_or(host.disk.hard_state, |(_, state)| state).vote;
        let (term, last, commit, durable) = (node.term(), node.last(), node.commit(), node.durable());
        let floor = if node.floor().term > 0 { format!(" floor={}", node.floor()) } else { String::new() };
        format!(
            "role={role} term={term} vote={} leader={} last={last} commit={commit} durable={durable} voters={} log={}{floor}",
            name(vote),
            name(node.leader()),
            voters.join(","),
            terms(&host.log)
        )
    }
}

fn name(id: Option<NodeId>) -> String {
    id.map_or("-".to_string(), |id| id.to_string())
}

/// The terms of a log, as the paper's figures show them.
pub(crate) fn terms(log: &[Entry]) -> String {
    if log.is_empty() {
        return "-".to_string();
    }
    log.iter().map(|entry| entry.term.to_string()).collect::<Vec<_>>().join(",")
}

/// A packet in one line.
pub(crate) fn describe(packet: &Packet) -> String {
    let Envelope { from, to, term, message } = &packet.envelope;
    let text = match message {
        Message::PreVote { proposed_term, last } => format!("PreVote proposed={proposed_term} last={last}"),
        Message::PreVoteReply { proposed_term, granted } => format!("PreVoteReply proposed={proposed_term} granted={granted}"),
        Message::Vote { last, transfer } => format!("Vote last={last}{}", if *transfer { " transfer" } else { "" }),
        Message::VoteReply { granted } => format!("VoteReply granted={granted}"),
        Message::Append { prev, commit, round, .. } => {
            format!("Append prev={prev} entries={} commit={commit} round={round}", contents(prev, &packet.records))
        }
        Message::Appended { matched, round } => format!("Appended matched={matched} round={round}"),
        Message::AppendRejected { prev_index, hint, round } => format!("AppendRejected prev={prev_index} hint={hint} round={round}"),
        Message::Heartbeat { commit, round } => format!("Heartbeat commit={commit} round={round}"),
        Message::HeartbeatReply { round, verified, able } => {
            format!("HeartbeatReply round={round} verified={verified}{}", if *able { "" } else { " unable" })
        }
        Message::Snapshot { last, .. } => format!("Snapshot last={last}"),
        Message::SnapshotReply { matched } => format!("SnapshotReply matched={matched}"),
        Message::TimeoutNow => "TimeoutNow".to_string(),
        Message::Arriving => "Arriving".to_string(),
        // Random, so that scripts do not depend on it.
        Message::LastIndex { .. } => "LastIndex".to_string(),
        Message::LastIndexReply { index, .. } => format!("LastIndexReply index={index}"),
    };
    format!("{from} → {to} term={term} {text}")
}

fn contents(prev: &EntryId, records: &[Entry]) -> String {
    let places = (prev.index + 1..).zip(records).map(|(index, entry)| {
        let label = if entry.label.is_empty() { String::new() } else { format!("({})", entry.label) };
        let config = if entry.config.is_some() { "(config)" } else { "" };
        format!("{}:{index}{label}{config}", entry.term)
    });
    let places: Vec<String> = places.collect();
    if places.is_empty() { "-".to_string() } else { places.join(",") }
}
