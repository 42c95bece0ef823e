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
use crate::storage::retire::Discarded;
use crate::storage::snapshot::Received;
use crate::storage::writer::{Completion, Job};

use super::event::{Outgoing, OutgoingSnapshot};
use super::replica::Replica;

/// A log that is longer than it should be by this factor loses entries that a living follower lacks.
const LAGGING_FACTOR: u64 = 4;
/// A snapshot that ended without the follower having it is tried again after this long.
const SNAPSHOT_RETRY_MS: u64 = 500;
/// A follower that has taken over a snapshot, and then nothing for so long, is not kept log for.
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

/// A snapshot on its way to a follower, or one that arrived there until the follower has caught up with the log.
#[derive(Debug)]
struct Transfer {
    /// The last entry that it includes.
    last: u64,
    /// The last entry that the follower has, once it has the snapshot.
    reached: u64,
    /// When that last moved.
    moved: u64,
    /// Bytes of its files.
    bytes: u64,
    /// When it ended.
    ended: Option<u64>,
}

impl Transfer {
    /// Entries from this one on stay in the log.
    fn needed(&self) -> u64 {
        // Until it has ended, whatever comes of it, the follower may begin behind it.
        if self.ended.is_some() { self.reached + 1 } else { self.last + 1 }
    }

    /// Whether log is still kept for it. `matched` is what the follower has, `leaving` the last entry that would leave the log otherwise.
    fn is_pinning(&mut self, matched: Option<u64>, leaving: u64, now: u64) -> bool {
        if let Some(matched) = matched.filter(|matched| *matched > self.reached) {
            (self.reached, self.moved) = (matched, now);
        }
        let Some(matched) = matched.filter(|_| self.ended.is_some()) else { return self.ended.is_none() };
        let caught_up = matched >= self.last && self.reached >= leaving;
        !caught_up && now < self.moved + SNAPSHOT_PINNED_MS
    }
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
    scrub: Scrub,
    /// What damage was found last.
    pub(super) damage: Option<Arc<str>>,
}

impl Upkeep {
    pub(super) fn not_hinted(&mut self, retry: bool, retry_at: u64) {
        self.hint.failed(retry, retry_at);
    }

    pub(super) fn snapshot_ended(&mut self, peer: NodeId, now: u64) {
        if let Some(transfer) = self.transfers.get_mut(&peer) {
            (transfer.ended, transfer.moved) = (Some(now), now);
        }
    }

    pub(super) fn scrubbed(&mut self) {
        self.scrub.running = false;
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
            Completion::Healed(ids) => {
                self.actions.discard.add(Discarded::put_aside(ids));
                self.upkeep.healing = false;
                self.node.set_floor(EntryId::default());
                log::info!("the log that was lost to damage has been fetched again");
            }
            _ => {}
        }
    }

    /// A merge came to nothing; `retry` if that was for lack of room.
    pub(super) fn not_merged(&mut self, retry: bool) {
        self.upkeep.merge.failed(retry, self.now + self.limits.prepare_retry_ms);
        if retry {
            self.log.merge_had_no_room();
        }
    }

    /// Somebody found damage. Whoever leads is asked for everything, so another should.
    pub(super) fn on_damaged(&mut self, text: String) {
        self.upkeep.damage = Some(text.into());
        self.node.set_damaged(true);
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

    /// Entries from this one on stay in the log though it is long enough: what followers lack that have a snapshot on its way or have just
    /// got one, as long as the log has room; and what others lack, as long as the log is not much too long.
    fn needed_log(&mut self) -> u64 {
        if planted(70) {
            return u64::MAX;
        }
        let node = &self.node;
        let config = node.config();
        let peers = config.voters.iter().chain(&config.learners);
        let lacking = peers.filter_map(|peer| node.matched(*peer)).map(|matched| matched + 1).min().unwrap_or(u64::MAX);
        let much_too_long = self.log.log_bytes() > self.limits.retain_log_bytes.saturating_mul(LAGGING_FACTOR);
        let lacking = if much_too_long { u64::MAX } else { lacking };
        self.pinned_log().min(lacking)
    }

    /// What transfers keep in the log: without it their followers would need another snapshot as soon as they have one, for ever.
    fn pinned_log(&mut self) -> u64 {
        let (now, node, retain) = (self.now, &self.node, self.limits.retain_log_bytes);
        let leaving = self.log.next_retirement(retain, u64::MAX).map_or(0, |retirement| retirement.last());
        self.upkeep.transfers.retain(|peer, transfer| transfer.is_pinning(node.matched(*peer), leaving, now));
        if self.preparing.is_short() {
            return u64::MAX;
        }
        // A log of a few segments is never much, however little of it is to be kept.
        let (log_bytes, most) = (self.log.log_bytes(), retain.max(self.log.usual_bytes()).saturating_mul(self.limits.pinned_log_factor));
        let kept = self.upkeep.transfers.values().filter(|transfer| log_bytes <= most.saturating_add(transfer.bytes));
        kept.map(Transfer::needed).min().unwrap_or(u64::MAX)
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

    // ---- snapshots of this node ----

    fn send_snapshots(&mut self, lagging: Vec<NodeId>) {
        for peer in lagging {
            let waits = self.upkeep.transfers.get(&peer).is_some_and(|transfer| match transfer.ended {
                None => true,
                Some(ended) => self.now < ended + SNAPSHOT_RETRY_MS,
            });
            // It names every file, so it is made for whoever gets it.
            let Some(snapshot) = (!waits).then(|| self.log.snapshot()).flatten() else { continue };
            let (from, term, last) = (self.node.id(), self.node.term(), snapshot.last);
            let (reached, bytes) = (last.index, snapshot.bytes());
            self.upkeep.transfers.insert(peer, Transfer { last: last.index, reached, moved: self.now, bytes, ended: None });
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

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;
