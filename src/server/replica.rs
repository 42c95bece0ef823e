//! The replica: node, log, applied state, and the proposals and reads in flight, as one plain struct driven by events and ticks. It
//! decides the order of effects and carries nothing itself: what is to be written, sent and answered comes back as [`Actions`]. No
//! thread, socket, file, clock or wait in it, so that a simulator can run it whole.
//!
//! Order of effects within one [`Replica::flush`]: freeze what was staged, take in the reads that have gathered, ask the core, queue
//! messages and disk work, apply what is committed, answer. An answer to a write leaves only from applying its entry, and an entry is
//! applied only when a quorum has it durably; so no answer can be ahead of the disks.

use std::sync::Arc;

use crate::bugbank::planted;
use crate::error::Error;
use crate::protocol::peer::Note;
use crate::raft::{EntryId, Message, Node, NodeId, RoleName, Sizes};
use crate::storage::applier::Applier;
use crate::storage::hinter::HintJob;
use crate::storage::log::{Log, Room};
use crate::storage::merge::MergeJob;
use crate::storage::record::{self, Kind};
use crate::storage::retire::Discarded;
use crate::storage::scrub::ScrubJob;
use crate::storage::snapshot::OldState;
use crate::storage::state_hash::{Checkpoint, StateHash};
use crate::storage::writer::{Completion, Job};

use super::comparison::Comparison;
use super::event::{BackupRequest, ClientBatch, Event, Incoming, Outcome, Outgoing, OutgoingSnapshot, Reply, Text};
use super::gate::ReadGate;
use super::preparing::Preparing;
use super::upkeep::Upkeep;
use super::waiting::Waiting;

/// A node leads only if this many bytes of records have a place: its no-op and then some.
const ROOM_TO_LEAD: usize = 4096;
/// Clients leave this much of the last segment when there is no next one: a block for the no-op of each who leads until then.
const ROOM_FOR_LEADERS: usize = 16 * ROOM_TO_LEAD;

/// Limits of a replica, in bytes and milliseconds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients' proposals stop when this much is staged and not yet written.
    pub stage_clients_bytes: u64,
    /// Clients' proposals stop when this much of the log waits for a quorum. One record of any size fits when nothing does.
    pub uncommitted_bytes: u64,
    /// A leader's entries are refused when this much is staged and not yet written.
    pub stage_bytes: u64,
    /// A disk that has not answered for this long is stalled.
    pub disk_stall_ms: u64,
    /// A disk that has not answered for this long is no place to lead from.
    pub disk_slow_ms: u64,
    /// After this much idleness an empty closing batch proves the last acknowledged one.
    pub idle_close_ms: u64,
    /// A segment that could not be prepared is asked for again after this long.
    pub prepare_retry_ms: u64,
    /// Most entries applied under one lock of the index, for which readers wait.
    pub apply_slice: u64,
    /// Most entries applied before other events get their turn.
    pub apply_turn: u64,
    /// Clients' writes that may add keys stop when the index takes this much memory.
    pub index_bytes: u64,
    /// So much log is kept for followers that were away, and for starts to replay; what is older leaves it.
    pub retain_log_bytes: u64,
    /// Log is kept for a snapshot on its way up to so many times that, and the snapshot's size: a large one takes its time, but one that
    /// creeps must not fill the disk.
    pub pinned_log_factor: u64,
    /// How often files are looked through for some to merge.
    pub merge_look_ms: u64,
    /// A round of the scrubber begins at most this often.
    pub scrub_round_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            stage_clients_bytes: 64 << 20,
            uncommitted_bytes: 64 << 20,
            stage_bytes: 160 << 20,
            disk_stall_ms: 3_000,
            disk_slow_ms: 1_000,
            idle_close_ms: 100,
            prepare_retry_ms: 1_000,
            apply_slice: 512,
            apply_turn: 8192,
            index_bytes: u64::MAX,
            retain_log_bytes: 256 << 20,
            pinned_log_factor: 16,
            merge_look_ms: 1_000,
            scrub_round_ms: 24 * 3_600_000,
        }
    }
}

/// What the threads around a replica are to do, in this order.
#[derive(Debug)]
pub struct Actions<C> {
    /// This node must end at once, and do nothing of the rest.
    pub fatal: Option<Error>,
    /// Messages for peers.
    pub send: Vec<Outgoing>,
    /// What is to be said to peers about states.
    pub notes: Vec<(NodeId, Note)>,
    /// Work for the log writer.
    pub jobs: Vec<Job>,
    /// The preparer is to make a segment that fits a record of this many bytes.
    pub prepare: Option<u64>,
    /// The hinter is to make the hint of a sealed segment.
    pub hint: Option<HintJob>,
    /// The merger is to merge these files.
    pub merge: Option<MergeJob>,
    /// The scrubber is to read this file.
    pub scrub: Option<ScrubJob>,
    /// Snapshots for followers that need entries which have left the log.
    pub snapshots: Vec<OutgoingSnapshot>,
    /// Memory that is to be given back where nobody waits.
    pub old_state: Option<OldState>,
    /// The merger is to remove these files, which the manifest has dropped, and then to have them forgotten.
    pub discard: Discarded,
    /// Answers for connections, in the order in which they came about.
    pub replies: Vec<Reply<C>>,
    /// Committed entries wait to be applied, or reads to be taken in: call [`Replica::flush`] again soon.
    pub more: bool,
}

impl<C> Default for Actions<C> {
    fn default() -> Self {
        Actions {
            fatal: None,
            send: Vec::new(),
            notes: Vec::new(),
            jobs: Vec::new(),
            prepare: None,
            hint: None,
            merge: None,
            scrub: None,
            snapshots: Vec::new(),
            old_state: None,
            discard: Discarded::default(),
            replies: Vec::new(),
            more: false,
        }
    }
}

/// A replica's view of itself, for STATUS and for the peers' handshakes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// What it is.
    pub role: Option<RoleName>,
    /// The term that is durable.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// Highest committed index.
    pub commit: u64,
    /// Highest applied index.
    pub applied: u64,
    /// The newest entry.
    pub last: EntryId,
    /// Where the log ended that was lost to damage; zero unless it is still being fetched again.
    pub floor: EntryId,
    /// Highest durable index.
    pub durable: u64,
    /// Bytes of log on disk.
    pub disk_bytes: u64,
    /// A start reads the log only behind this entry; hints name what the ones up to it did.
    pub hinted: u64,
    /// What damage was found since the start.
    pub damage: Option<Arc<str>>,
    /// Bytes of files that have left the log.
    pub file_bytes: u64,
    /// What is needed of them.
    pub live_bytes: u64,
    /// The oldest entry of the log.
    pub first: u64,
    /// Read rounds confirmed since the start.
    pub read_rounds: u64,
    /// Requests in flight.
    pub waiting: usize,
    /// Bytes staged and not yet written.
    pub staged_bytes: u64,
    /// What the next segment is missing, if it could not be made: writes are refused as soon as the present one takes no more.
    pub no_room: Option<Arc<str>>,
    /// The newest hash of its state that it compares with those of the others.
    pub state_hash: Option<Checkpoint>,
    /// As leader: that the nodes' states differ, and no majority says whose is right.
    pub state_hash_alarm: Option<Arc<str>>,
    /// How often that has been found since the start.
    pub state_hash_alarms: u64,
    /// As leader: what each follower is known to match.
    pub matched: Vec<(NodeId, u64)>,
}

/// The disk job under way and since when.
#[derive(Debug, Default)]
pub(super) struct DiskWatch {
    hard_state_since: Option<u64>,
    pub(super) write_since: Option<u64>,
    /// The core's sequence number of the write under way; `None` for work that makes no entry durable.
    sequence: Option<u64>,
    last_done: u64,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Replica<C> {
    pub(super) node: Node,
    pub(super) log: Log,
    pub(super) applier: Applier,
    pub(super) limits: Limits,
    pub(super) waiting: Waiting<C>,
    /// The term this node leads, as far as waiting clients have been told.
    leading: Option<u64>,
    /// Milliseconds since start.
    pub(super) now: u64,
    pub(super) disk: DiskWatch,
    pub(super) preparing: Preparing,
    pub(super) upkeep: Upkeep,
    pub(super) comparison: Comparison,
    confirmed_round: u64,
    /// Where reads gather, as long as there were some when it was last looked at.
    pub(super) gate: Option<Arc<ReadGate<C>>>,
    pub(super) actions: Actions<C>,
}

struct LogSizes<'a>(&'a Log);

impl Sizes for LogSizes<'_> {
    fn fit(&self, from: u64, last: u64, budget: u64) -> (u64, u64) {
        let count = self.0.fit(from, last, budget);
        (count, self.0.bytes(from, count))
    }
}

impl<C: Clone> Replica<C> {
    /// A replica around what was recovered.
    pub fn new(node: Node, log: Log, applier: Applier, limits: Limits) -> Replica<C> {
        Replica {
            node,
            log,
            applier,
            limits,
            waiting: Waiting::new(),
            leading: None,
            now: 0,
            disk: DiskWatch::default(),
            preparing: Preparing::default(),
            upkeep: Upkeep::default(),
            comparison: Comparison::default(),
            confirmed_round: 0,
            gate: None,
            actions: Actions::default(),
        }
    }

    /// The consensus state, to look at.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.node.is_leader()
    }

    /// The hash of the state behind the last applied entry.
    pub fn state_hash(&self) -> StateHash {
        self.applier.hash()
    }

    /// Milliseconds that may pass before [`Replica::tick`] has something to do.
    pub fn ms_to_deadline(&self) -> u64 {
        u64::from(self.node.ticks_to_deadline()).min(if self.waiting.is_empty() { 100 } else { 20 })
    }

    /// The view for STATUS and handshakes.
    pub fn position(&self) -> Position {
        let node = &self.node;
        let peers = node.config().voters.iter().chain(&node.config().learners);
        Position {
            role: Some(node.role()),
            term: node.durable_term(),
            leader: node.leader(),
            commit: node.commit(),
            applied: self.applier.applied(),
            last: node.last(),
            floor: node.floor(),
            durable: node.durable(),
            disk_bytes: self.log.disk_bytes(),
            hinted: self.log.hinted(),
            damage: self.upkeep.damage.clone(),
            file_bytes: self.upkeep.bytes.0,
            live_bytes: self.upkeep.bytes.1,
            first: self.log.first(),
            read_rounds: self.confirmed_round,
            waiting: self.waiting.len(),
            staged_bytes: self.log.staged_bytes(),
            no_room: self.preparing.reason(self.now),
            state_hash: self.applier.checkpoints().newest(),
            state_hash_alarm: self.comparison.alarm(),
            state_hash_alarms: self.comparison.alarms,
            matched: peers.filter_map(|peer| node.matched(*peer).map(|matched| (*peer, matched))).collect(),
        }
    }

    /// Answers everyone who waits, and whoever else has asked, when the process ends: nothing more will be decided here.
    pub fn close(&mut self, unread: impl Iterator<Item = Event<C>>) -> Vec<Reply<C>> {
        self.waiting.lose_leadership(None, &mut self.actions.replies);
        let outcome = Outcome::NotLeader { leader: self.node.leader() };
        if let Some(gate) = self.gate.take() {
            self.refuse_reads(gate.take(), &outcome);
        }
        for event in unread {
            let outcome = outcome.clone();
            match event {
                Event::Client(batch) => Waiting::refuse(&batch, &outcome, true, &mut self.actions.replies),
                Event::Reads(gate) => self.refuse_reads(gate.take(), &outcome),
                Event::Backup(BackupRequest { client, slot, .. }) => self.actions.replies.push(Reply { client, slot, outcome }),
                _ => {}
            }
        }
        std::mem::take(&mut self.actions.replies)
    }

    /// Takes one event in. What it causes is collected by the next [`Replica::flush`].
    pub fn handle(&mut self, event: Event<C>) {
        self.watch_disk();
        match event {
            Event::Client(batch) => self.on_client(batch),
            Event::Reads(gate) => self.gate = Some(gate),
            Event::Backup(request) => self.on_backup(request),
            Event::Peer(incoming) => self.on_peer(incoming),
            Event::Note(from, note) => self.on_note(from, note),
            Event::Link(peer, change) => self.on_link(peer, change),
            Event::Mend(question) => self.on_mend(&question),
            Event::Disk(completion) => self.on_disk(completion),
            Event::NotPrepared(reason) => self.on_not_prepared(reason),
            Event::NotHinted { retry } => self.upkeep.not_hinted(retry, self.now + self.limits.prepare_retry_ms),
            Event::NotMerged { retry } => self.not_merged(retry),
            Event::Received { received, term } => self.on_received(*received, term),
            Event::Scrubbed => self.upkeep.scrubbed(),
            Event::Damaged(text) => self.on_damaged(text),
            Event::SnapshotEnded(peer) => self.upkeep.snapshot_ended(peer, self.now),
            Event::Shutdown => {
                self.node.transfer(None);
            }
        }
        self.after_core();
    }

    /// Lets `ms` pass.
    pub fn tick(&mut self, ms: u64) {
        self.now += ms;
        self.watch_disk();
        self.node.tick(u32::try_from(ms).unwrap_or(u32::MAX));
        self.after_core();
        self.gather_reads(true);
        self.waiting.expire(self.now, &mut self.actions.replies);
        let idle = self.disk.write_since.is_none() && self.now >= self.disk.last_done + self.limits.idle_close_ms;
        if idle && self.node.may_write() && !self.upkeep.is_installing() {
            self.log.close_when_idle();
        }
    }

    /// Collects what is to be done.
    pub fn flush(&mut self) -> Actions<C> {
        self.log.freeze();
        self.gather_reads(false);
        let ready = self.node.ready(&LogSizes(&self.log));
        if let Some((ticket, state)) = ready.hard_state {
            self.disk.hard_state_since = Some(self.now);
            self.actions.jobs.push(Job::HardState { ticket, state });
        }
        for envelope in ready.send {
            let records = match &envelope.message {
                Message::Append { prev, entries, .. } if entries.count() > 0 => self.log.pieces(prev.index + 1, entries.count()),
                _ => Vec::new(),
            };
            self.actions.send.push(Outgoing { envelope, records });
        }
        self.issue_write();
        self.ask_for_segment();
        self.confirmed_round = self.confirmed_round.max(ready.confirmed_round);
        self.apply(ready.commit);
        self.compare();
        self.keep_up(ready.snapshots);
        let pin = || self.log.state_at(&self.applier);
        self.waiting.release_reads(self.confirmed_round, self.applier.applied(), pin, &mut self.actions.replies);
        self.actions.more = self.applier.applied() < ready.commit || self.has_reads_to_gather();
        std::mem::take(&mut self.actions)
    }

    // ---- clients ----

    fn on_client(&mut self, mut batch: ClientBatch<C>) {
        if !self.node.is_leader() {
            let outcome = Outcome::NotLeader { leader: self.node.leader() };
            return Waiting::refuse(&batch, &outcome, true, &mut self.actions.replies);
        }
        let deadline = self.now + u64::from(batch.deadline_ms);
        let writes = batch.write_count();
        if writes > 0 {
            if let Err(reason) = self.admit(&batch.records) {
                Waiting::refuse(&batch, &Outcome::Busy(reason), false, &mut self.actions.replies);
            } else if let Some(first) = self.node.propose(writes) {
                let records = std::mem::take(&mut batch.records);
                self.stage_proposals(records, first, writes);
                self.waiting.add_writes(&mut batch, first, deadline);
            } else {
                let busy = Outcome::Busy("leadership is being handed over; try again".into());
                Waiting::refuse(&batch, &busy, false, &mut self.actions.replies);
            }
        }
        if let Some(slot) = batch.barrier
            && let Some(ticket) = self.node.read()
        {
            self.waiting.add_read(batch.client, slot, ticket.round, ticket.index, deadline);
        }
    }

    /// Whether these records of clients may be staged now.
    fn admit(&mut self, records: &[u8]) -> std::result::Result<(), Text> {
        // Whether a key is new would have to be asked of a state that is still to come, so every write that could add one counts.
        if self.applier.index_bytes() >= self.limits.index_bytes && record::may_add_keys(records) {
            return Err("the index takes as much memory as --max-index-bytes allows: delete keys, or allow more".into());
        }
        let (bytes, staged) = (records.len(), self.log.staged_bytes());
        if staged > 0 && staged + bytes as u64 > self.limits.stage_clients_bytes {
            return Err("the disk is behind: too much waits to be written; try again".into());
        }
        // The disk is often quicker than the network, and the next leader would inherit what this one takes in ahead of it.
        let (commit, last) = (self.node.commit(), self.node.last().index);
        if last > commit && self.log.bytes(commit + 1, last - commit) + bytes as u64 > self.limits.uncommitted_bytes {
            return Err("too much waits for a quorum: the links or disks of the other nodes are behind; try again".into());
        }
        if self.node.is_obstructed() {
            return Err("too few nodes have room and a working disk, see no_room in the STATUS of each; try again later".into());
        }
        let room = self.log.room(bytes);
        if let Room::Oversized(min_bytes) = room {
            self.preparing.want(min_bytes);
        }
        // The last bytes are for those who lead next, else nobody could, and there would be no reads either.
        let spares_the_last = || !self.preparing.is_short() || self.log.room(bytes + ROOM_FOR_LEADERS) == Room::Yes;
        if room == Room::Yes && spares_the_last() { Ok(()) } else { Err(self.preparing.refuse(room)) }
    }

    fn stage_proposals(&mut self, mut records: Vec<u8>, first: EntryId, count: u64) {
        let mut at = 0;
        for index in first.index..first.index + count {
            let length = record::length_unchecked(&records[at..]);
            record::seal(&mut records[at..at + length], EntryId { term: first.term, index });
            at += length;
        }
        assert!(at == records.len(), "a batch of {count} writes holds {} bytes behind its records", records.len() - at);
        self.stage(records);
    }

    /// Stages sealed records that continue the log.
    fn stage(&mut self, records: Vec<u8>) {
        self.applier.stage(&records);
        let locations = self.log.append(records);
        self.applier.place(&locations);
    }

    // ---- peers ----

    fn on_peer(&mut self, incoming: Incoming) {
        let Incoming { envelope, mut records } = incoming;
        let first_sent = match &envelope.message {
            Message::Append { prev, .. } => prev.index + 1,
            _ => 0,
        };
        let room = records.is_empty() || !self.upkeep.is_installing() && self.has_room_for_leader(first_sent, records.len());
        let Some(take) = self.node.step(envelope, room) else { return };
        if let Some(from) = take.truncate_from {
            self.log.truncate(from);
            self.applier.truncate(from);
        }
        let mut skip = 0;
        for _ in first_sent..take.first {
            skip += record::length_unchecked(&records[skip..]);
        }
        records.drain(..skip);
        self.stage(records);
    }

    /// Whether a leader's records may be staged. Records that begin below the log's end may turn out to be a conflict, which moves on
    /// to the next segment. Those that continue the log need none: refusing them while the next segment is being made would stop
    /// the cluster at every rotation.
    fn has_room_for_leader(&mut self, first: u64, bytes: usize) -> bool {
        let staged = self.log.staged_bytes();
        let continues = first > self.node.last().index;
        let room = if continues { self.log.room(bytes) } else { self.log.room_after_truncation(bytes) };
        if let Room::Oversized(min_bytes) = room {
            self.preparing.want(min_bytes);
        }
        matches!(room, Room::Yes) && (staged == 0 || staged + bytes as u64 <= self.limits.stage_bytes)
    }

    /// What must follow every call into the core: staging a fresh leader's no-op, and answering everyone when leadership was lost.
    fn after_core(&mut self) {
        if let Some(id) = self.node.take_noop() {
            let mut noop = Vec::new();
            record::encode(&mut noop, Kind::NoOp, &[]);
            record::seal(&mut noop, id);
            self.stage(noop);
        }
        let leads = self.node.is_leader().then(|| self.node.term());
        if self.leading != leads {
            self.waiting.lose_leadership(self.node.leader(), &mut self.actions.replies);
            self.leading = leads;
        }
    }

    // ---- disk ----

    fn issue_write(&mut self) {
        if self.disk.write_since.is_some() || !self.node.may_write() {
            return;
        }
        if let Some((job, last)) = self.log.next_job(self.node.commit()) {
            self.disk.sequence = (last > 0).then(|| self.node.issue_write(last));
            self.disk.write_since = Some(self.now);
            self.actions.jobs.push(job);
        }
    }

    fn on_disk(&mut self, completion: Completion) {
        self.log.completed(&completion);
        match completion {
            Completion::HardState { ticket } => {
                self.disk.hard_state_since = None;
                self.node.hard_state_stored(ticket);
            }
            Completion::Listed(segment) => {
                self.log.add_prepared(segment);
                self.preparing.made();
            }
            Completion::NoRoom(reason) => self.on_not_prepared(reason),
            Completion::Batch { .. } | Completion::Sealed { .. } => {
                self.disk.write_since = None;
                self.disk.last_done = self.now;
                if let Some(sequence) = self.disk.sequence.take() {
                    self.node.synced(sequence);
                }
            }
            completion => self.kept_up(completion),
        }
    }

    fn ask_for_segment(&mut self) {
        self.actions.prepare = self.preparing.ask(self.now, self.log.prepared());
    }

    fn on_not_prepared(&mut self, reason: String) {
        self.preparing.failed(reason, self.now, self.limits.prepare_retry_ms);
    }

    fn watch_disk(&mut self) {
        let since = [self.disk.hard_state_since, self.disk.write_since].into_iter().flatten().min();
        let waited = since.map_or(0, |since| self.now - since);
        let room = matches!(self.log.room(ROOM_TO_LEAD), Room::Yes);
        let full = !room && self.preparing.is_short();
        let able = room && !self.upkeep.is_installing() && waited < self.limits.disk_slow_ms;
        self.node.set_disk(able, full || waited >= self.limits.disk_stall_ms);
        self.node.set_short(self.preparing.has_refused());
    }

    // ---- applying ----

    /// Applies up to `commit`, at most a turn of it, and answers the writes and lookups on the way.
    fn apply(&mut self, commit: u64) {
        let until = if planted(114) { commit } else { commit.min(self.applier.applied() + self.limits.apply_turn) };
        while self.applier.applied() < until {
            self.apply_slice(until.min(self.applier.applied() + self.limits.apply_slice));
        }
    }

    fn apply_slice(&mut self, until: u64) {
        let mut slice = self.applier.slice();
        while slice.applied() < until {
            let waiter = self.waiting.take_write(slice.applied() + 1);
            let lookups = waiter.as_ref().filter(|_| !planted(96));
            if let Some(waiter) = lookups {
                waiter.answer_lookups(|key| slice.lookup(key), &mut self.actions.replies);
            }
            let applied = slice.apply_next();
            if let Some(waiter) = waiter.as_ref().filter(|_| planted(96)) {
                waiter.answer_lookups(|key| slice.lookup(key), &mut self.actions.replies);
            }
            if let Some(waiter) = waiter {
                waiter.answer(applied.id, applied.effect, &mut self.actions.replies);
            }
        }
    }
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
