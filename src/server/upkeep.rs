//! What a replica does for its files besides writing the log: hints for sealed segments, segments that leave the log, merges, snapshots for
//! followers that need what has left it, and the installation of a snapshot that was received. Part of the replica: plain data and
//! decisions; what is to be done is handed out, and nothing waits.
//!
//! Each kind of work is done once at a time. While a snapshot waits to be installed, no other work is begun and nothing is appended: the
//! one change of the manifest that puts it in the place of everything must find everything as it was when it was made.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bugbank::planted;
use crate::raft::{EntryId, Envelope, Message, NodeId};
use crate::storage::quarantine::END_UNKNOWN;
use crate::storage::snapshot::Received;
use crate::storage::writer::{Completion, Job};

use super::event::{Outgoing, OutgoingSnapshot};
use super::replica::Replica;

/// A log that is longer than it should be by this factor loses entries that a living follower lacks.
const LAGGING_FACTOR: u64 = 4;
/// A snapshot that ended without the follower having it is tried again after this long.
const SNAPSHOT_RETRY_MS: u64 = 500;
/// The entries behind a snapshot that was sent stay in the log for the follower, at most this long.
const SNAPSHOT_PINNED_MS: u64 = 60_000;

/// One kind of work.
#[derive(Debug, Default)]
struct Chore {
    /// It is being done.
    running: bool,
    /// It cannot be done any more, because a file that it needs is damaged.
    blocked: bool,
    retry_at: u64,
}

impl Chore {
    fn may_begin(&self, now: u64) -> bool {
        !self.running && !self.blocked && now >= self.retry_at
    }

    fn failed(&mut self, retry: bool, retry_at: u64) {
        *self = Chore { running: false, blocked: !retry, retry_at };
    }
}

/// A snapshot on its way to a follower, or just arrived there.
#[derive(Debug)]
struct Transfer {
    /// The last entry that it includes. What comes behind stays in the log.
    last: u64,
    /// When it ended.
    ended: Option<u64>,
}

/// What is known of a peer's process.
#[derive(Debug, Default)]
struct Peer {
    /// Counts its starts; 0 before its first link.
    boot: u64,
    /// The newest term in which it led.
    leads: u64,
    /// Where its log ended when a process of it last welcomed this one, and the number of that start.
    welcome: (EntryId, u64),
}

/// How far the present round of scrubbing has come.
#[derive(Debug, Default)]
struct Scrub {
    running: bool,
    /// The number of the file that was read last.
    after: u32,
    /// When the next round may begin.
    next_round: u64,
}

/// See the module's doc. Times are milliseconds since the start.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    hint: Chore,
    merge: Chore,
    retiring: bool,
    look_at: u64,
    /// What [`crate::storage::log::Log::file_bytes`] said when it was last looked.
    pub(super) bytes: (u64, u64),
    transfers: BTreeMap<NodeId, Transfer>,
    /// Waits until nothing else is being done, with the term in which it was offered.
    received: Option<(Received, u64)>,
    /// What the log writer is putting in the place of everything.
    installing: Option<Received>,
    healing: bool,
    peers: BTreeMap<NodeId, Peer>,
    scrub: Scrub,
    /// What the scrubber has found.
    pub(super) damage: Option<Arc<str>>,
}

impl Upkeep {
    pub(super) fn not_hinted(&mut self, retry: bool, retry_at: u64) {
        self.hint.failed(retry, retry_at);
    }

    pub(super) fn not_merged(&mut self, retry: bool, retry_at: u64) {
        self.merge.failed(retry, retry_at);
    }

    pub(super) fn snapshot_ended(&mut self, peer: NodeId, now: u64) {
        if let Some(transfer) = self.transfers.get_mut(&peer) {
            transfer.ended = Some(now);
        }
    }

    /// What follows from this peer comes from its process with this number, up to the next call.
    pub(super) fn link_up(&mut self, peer: NodeId, boot: u64) {
        let peer = self.peers.entry(peer).or_default();
        if peer.boot != boot {
            (peer.boot, peer.leads) = (boot, 0);
        }
    }

    pub(super) fn welcomed(&mut self, peer: NodeId, last: EntryId, boot: u64) {
        self.peers.entry(peer).or_default().welcome = (last, boot);
    }

    pub(super) fn heard(&mut self, envelope: &Envelope) {
        if let Message::Append { .. } | Message::Heartbeat { .. } = envelope.message {
            let peer = self.peers.entry(envelope.from).or_default();
            peer.leads = peer.leads.max(envelope.term);
        }
    }

    pub(super) fn scrubbed(&mut self, damage: Option<String>) {
        self.scrub.running = false;
        if let Some(damage) = damage {
            self.damage = Some(damage.into());
        }
    }

    /// Whether nothing may be appended.
    pub(super) fn is_installing(&self) -> bool {
        self.received.is_some() || self.installing.is_some()
    }

    fn is_idle(&self) -> bool {
        !self.hint.running && !self.merge.running && !self.retiring
    }
}

impl<C: Clone> Replica<C> {
    /// Begins what can be done now. `lagging` are the followers that need entries which have left the log.
    pub(super) fn keep_up(&mut self, lagging: Vec<NodeId>) {
        self.send_snapshots(lagging);
        if self.upkeep.is_installing() {
            return self.install();
        }
        self.learn_floor();
        self.heal();
        self.ask_for_hint();
        self.ask_for_merge();
    }

    /// The log writer has done some of it.
    pub(super) fn kept_up(&mut self, completion: Completion) {
        match completion {
            Completion::Hinted(_) => {
                self.upkeep.hint.running = false;
                self.applier.forget_effects(self.log.hinted());
            }
            Completion::Retired(retirement) => {
                self.upkeep.retiring = false;
                self.upkeep.look_at = self.now;
                self.node.compacted(retirement.last());
            }
            Completion::Merged(_) => {
                self.upkeep.merge.running = false;
                self.upkeep.look_at = self.now;
            }
            Completion::Installed => self.installed(),
            Completion::Healed => {
                self.upkeep.healing = false;
                self.node.set_floor(EntryId::default());
                log::info!("the log that was lost to damage has been fetched again");
            }
            _ => {}
        }
    }

    /// One hint at a time, in the order of the log.
    fn ask_for_hint(&mut self) {
        if !self.upkeep.hint.may_begin(self.now) {
            return;
        }
        if let Some(job) = self.log.next_hint(self.applier.applied()) {
            let (first, last) = job.range();
            self.actions.hint = Some(job.with_effects(self.applier.effects(first, last), self.applier.hash_behind(last)));
            self.upkeep.hint.running = true;
        }
    }

    /// Lets old segments leave the log, and has files merged of which little is needed.
    fn ask_for_merge(&mut self) {
        if self.now < self.upkeep.look_at {
            return;
        }
        self.upkeep.look_at = self.now + self.limits.merge_look_ms;
        self.ask_for_scrub();
        self.upkeep.bytes = self.log.file_bytes();
        self.actions.discard.add(self.log.take_discardable());
        if !self.upkeep.retiring {
            let needed = self.needed_log();
            if let Some(retirement) = self.log.next_retirement(self.limits.retain_log_bytes, needed) {
                self.upkeep.retiring = true;
                self.actions.jobs.push(Job::Retire(retirement));
            }
        }
        if self.upkeep.merge.may_begin(self.now)
            && let Some(job) = self.log.next_merge()
        {
            self.upkeep.merge.running = true;
            self.actions.merge = Some(job);
        }
    }

    /// One file after another, and a pause between the rounds.
    fn ask_for_scrub(&mut self) {
        let scrub = &mut self.upkeep.scrub;
        if scrub.running || (scrub.after == 0 && self.now < scrub.next_round) {
            return;
        }
        if scrub.after == 0 {
            scrub.next_round = self.now + self.limits.scrub_round_ms;
        }
        match self.log.next_scrub(scrub.after) {
            Some((id, job)) => {
                (scrub.running, scrub.after) = (true, id);
                self.actions.scrub = Some(job);
            }
            None => scrub.after = 0,
        }
    }

    /// Entries from this one on stay in the log though it is long enough: what comes behind snapshots on their way, and, as long as the log
    /// is not much too long, what followers lack.
    fn needed_log(&mut self) -> u64 {
        let (now, node) = (self.now, &self.node);
        self.upkeep.transfers.retain(|peer, transfer| {
            let arrived = node.matched(*peer).is_none_or(|matched| matched >= transfer.last);
            transfer.ended.is_none_or(|ended| !arrived && now < ended + SNAPSHOT_PINNED_MS)
        });
        let pinned = self.upkeep.transfers.values().map(|transfer| transfer.last + 1).min().unwrap_or(u64::MAX);
        let config = node.config();
        let peers = config.voters.iter().chain(&config.learners);
        let lacking = peers.filter_map(|peer| node.matched(*peer)).map(|matched| matched + 1).min().unwrap_or(u64::MAX);
        let much_too_long = self.log.log_bytes() > self.limits.retain_log_bytes.saturating_mul(LAGGING_FACTOR);
        if planted(70) {
            return u64::MAX;
        }
        pinned.min(if much_too_long { u64::MAX } else { lacking })
    }

    /// A log that was lost to damage has been fetched again as soon as what is durable here reaches as far: then nothing that this node
    /// ever acknowledged is missing.
    fn heal(&mut self) {
        let (floor, durable) = (self.node.floor(), self.node.durable());
        let position = self.node.outline().term_of(durable).map(|term| EntryId { term, index: durable });
        if floor.term > 0 && !self.upkeep.healing && position.is_some_and(|position| position >= floor || planted(118)) {
            self.upkeep.healing = true;
            self.actions.jobs.push(Job::Heal);
        }
    }

    /// Finds out how far a log went of whose end only the term is known. The leader of that term wrote all its entries; so what this node
    /// acknowledged before it started stood in the leader's log when the same process, which leads or will lead that term, welcomed this
    /// one. Without this a node would wait for another term, and until then vote for nobody who holds entries of that one.
    fn learn_floor(&mut self) {
        let floor = self.node.floor();
        if floor.index != END_UNKNOWN {
            return;
        }
        let same_process = |peer: &&Peer| peer.boot > 0 && peer.boot == peer.welcome.1;
        let known = |peer: &&Peer| same_process(peer) && (peer.leads == floor.term || planted(119));
        if let Some(Peer { welcome: (last, _), .. }) = self.upkeep.peers.values().find(known) {
            let index = if last.term == floor.term { last.index } else { 0 };
            self.node.set_floor(EntryId { index, ..floor });
        }
    }

    // ---- snapshots of this node ----

    fn send_snapshots(&mut self, lagging: Vec<NodeId>) {
        for peer in lagging {
            let waits = self.upkeep.transfers.get(&peer).is_some_and(|transfer| match transfer.ended {
                None => true,
                Some(ended) => self.now < ended + SNAPSHOT_RETRY_MS,
            });
            let Some(snapshot) = self.log.snapshot().filter(|_| !waits) else { continue };
            let (from, term, last) = (self.node.id(), self.node.term(), snapshot.last);
            self.upkeep.transfers.insert(peer, Transfer { last: last.index, ended: None });
            // A follower that holds its last entry already says so, which it would not for files that it throws away.
            let message = Message::Snapshot { last, config: self.node.config().clone() };
            self.actions.send.push(Outgoing { envelope: Envelope { from, to: peer, term, message }, records: Vec::new() });
            self.actions.snapshots.push(OutgoingSnapshot { to: peer, term, snapshot });
        }
    }

    // ---- snapshots of others ----

    /// A snapshot has arrived whole.
    pub(super) fn on_received(&mut self, received: Received, term: u64) {
        if !self.upkeep.is_installing() && self.wants(&received, term) {
            self.upkeep.received = Some((received, term));
        } else {
            self.actions.discard.add(received.discard());
        }
    }

    /// Whether a snapshot says more than this node knows: it comes from the present term, ends behind what is committed here, and the log
    /// does not hold its last entry, so that the log could not simply go on.
    fn wants(&self, received: &Received, term: u64) -> bool {
        let last = received.last;
        let held = self.node.outline().contains(last) || last.index <= self.node.commit();
        self.node.term() == term && !self.node.is_leader() && (!held || planted(103))
    }

    /// Installs what was received as soon as nothing else is being done.
    fn install(&mut self) {
        let idle = self.upkeep.is_idle() && self.log.may_install() && self.disk.write_since.is_none();
        if !idle || !self.node.may_write() || self.upkeep.installing.is_some() {
            return;
        }
        let Some((received, term)) = self.upkeep.received.take() else { return };
        if !self.wants(&received, term) {
            self.actions.discard.add(received.discard());
            return;
        }
        self.actions.jobs.push(Job::Install(self.log.installation(&received)));
        self.upkeep.installing = Some(received);
    }

    fn installed(&mut self) {
        let Some(received) = self.upkeep.installing.take() else { panic!("a snapshot was installed that nobody asked for") };
        let last = received.last;
        self.applier.installed(last.index, received.hash);
        self.actions.old_state = Some(self.log.installed(received));
        self.node.snapshot_installed(last, self.node.config().clone());
        // Files that were in the way are gone.
        (self.upkeep.hint, self.upkeep.merge) = (Chore::default(), Chore::default());
    }
}
