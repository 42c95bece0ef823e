//! One member as the tests host it: a `raft::Node`, the log it outlines, and a disk that finishes nothing by itself. Does what the
//! core's contract asks of a host and no more; never decides anything.

use std::collections::{BTreeMap, VecDeque};

use apexkv::raft::{Config, Entries, EntryId, Envelope, HardState, Message, Node, NodeId, Outline, Recovered, Settings, Sizes};

/// Small numbers, so that a story can be followed by hand.
pub(crate) fn small_settings() -> Settings {
    Settings {
        election_ticks: 10,
        heartbeat_ticks: 3,
        suspicion_ticks: 3,
        election_ticks_max: 80,
        resend_ticks: 8,
        stall_ticks: 40,
        ban_ticks: 60,
        append_bytes: 100,
        window_bytes: 1000,
    }
}

/// One entry: who wrote it, what it says, and whether it changes the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    /// Stands for the payload; two different commands never share one. Empty for a no-op.
    pub(crate) label: String,
    pub(crate) config: Option<Config>,
}

/// A message with the records that travel beside it: the entries of an append, or the whole state that a snapshot stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) envelope: Envelope,
    /// Which life of the sender it is from, as its connection's handshake said.
    pub(crate) boot: u64,
    pub(crate) records: Vec<Entry>,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    /// Entries from index 1 on. Those up to `base` stand for the state; the log proper begins behind it.
    pub(crate) log: Vec<Entry>,
    pub(crate) base: u64,
    /// Known to be committed.
    pub(crate) commit: u64,
}

/// Records on their way to the disk: the log from index `from` on becomes `entries`.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) sequence: u64,
    from: u64,
    entries: Vec<Entry>,
}

/// Files that were received and are being installed.
#[derive(Clone, Debug)]
struct Install {
    term: u64,
    last: EntryId,
    config: Config,
    entries: Vec<Entry>,
}

/// A member, running or crashed.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) settings: Settings,
    /// The members before the first entry.
    founders: Config,
    pub(crate) node: Option<Node>,
    /// The log in memory, from index 1 on.
    pub(crate) log: Vec<Entry>,
    /// First index whose record has not been handed to the disk.
    unissued: u64,
    pub(crate) disk: Disk,
    pub(crate) writes: VecDeque<Write>,
    pub(crate) storing: Option<(u64, HardState)>,
    install: Option<Install>,
    /// Whether appends find room.
    pub(crate) room: bool,
    /// How often it was started.
    pub(crate) boots: u64,
    /// The newest life of each other member that it met in its own present one.
    peers: BTreeMap<NodeId, u64>,
}

/// Every entry is one byte long, so that the budgets of [`Settings`] count entries.
pub(crate) struct OneByte;

impl Sizes for OneByte {
    fn fit(&self, from: u64, last: u64, budget: u64) -> (u64, u64) {
        let count = (last + 1 - from).min(budget.max(1));
        (count, count)
    }
}

impl Host {
    /// A member that is not running yet and has an empty disk.
    pub(crate) fn new(id: NodeId, settings: Settings, founders: Config) -> Host {
        Host {
            id,
            settings,
            founders,
            node: None,
            log: Vec::new(),
            unissued: 1,
            disk: Disk::default(),
            writes: VecDeque::new(),
            storing: None,
            install: None,
            room: true,
            boots: 0,
            peers: BTreeMap::new(),
        }
    }

    /// Starts from what is on the disk.
    pub(crate) fn start(&mut self, seed: u64) {
        assert!(self.node.is_none(), "{} is running", self.id);
        self.boots += 1;
        self.peers.clear();
        self.log = self.disk.log.clone();
        self.unissued = self.log.len() as u64 + 1;
        let mut outline = Outline::new(self.id_at(self.disk.base), self.config_at(self.disk.base));
        for entry in &self.log[self.disk.base as usize..] {
            let place = outline.push(entry.term);
            if let Some(config) = &entry.config {
                outline.push_config(place.index, config.clone());
            }
        }
        let recovered = Recovered { hard_state: self.disk.hard_state, outline, commit: self.disk.commit };
        self.node = Some(Node::new(self.id, self.settings.clone(), seed, recovered));
    }

    /// Stops at once. Of what the disk had not finished, the first `writes` writes and, if `state`, the hard state are found again.
    pub(crate) fn crash(&mut self, writes: usize, state: bool) {
        for _ in 0..writes.min(self.writes.len()) {
            self.land();
        }
        if let Some((_, hard_state)) = self.storing.filter(|_| state) {
            self.disk.hard_state = hard_state;
        }
        self.node = None;
        self.writes.clear();
        self.storing = None;
        self.install = None;
        self.log.clear();
    }

    /// A connection from life `boot` of `peer` opened: a fresh process is told to the core. False if a newer life is known already.
    pub(crate) fn meet(&mut self, peer: NodeId, boot: u64) -> bool {
        let known = self.peers.get(&peer).copied().unwrap_or(0);
        if let (true, Some(node)) = (boot > known, &mut self.node) {
            self.peers.insert(peer, boot);
            node.link_up(peer, true);
        }
        boot >= known
    }

    /// The entry at `index` of the log in memory.
    pub(crate) fn id_at(&self, index: u64) -> EntryId {
        match index {
            0 => EntryId::default(),
            _ => EntryId { term: self.log[index as usize - 1].term, index },
        }
    }

    fn config_at(&self, index: u64) -> Config {
        self.log[..index as usize].iter().rev().find_map(|entry| entry.config.clone()).unwrap_or_else(|| self.founders.clone())
    }

    /// Puts a record into the log; it goes to the disk with the next write.
    pub(crate) fn stage(&mut self, entry: Entry) {
        self.log.push(entry);
    }

    /// Hands a message to the core and does at once what it asks for. Returns the first index staged, if any.
    pub(crate) fn step(&mut self, packet: Packet) -> Option<u64> {
        let node = self.node.as_mut()?;
        let Packet { envelope, records, .. } = packet;
        let (term, message) = (envelope.term, envelope.message.clone());
        let take = node.step(envelope, self.room);
        if let (Message::Snapshot { last, config }, true) = (&message, node.term() == term)
            && last.index > node.commit()
            && !node.outline().contains(*last)
        {
            self.install = Some(Install { term, last: *last, config: config.clone(), entries: records });
            return None;
        }
        let (take, Message::Append { prev, .. }) = (take?, message) else { panic!("only appends are taken") };
        if let Some(first) = take.truncate_from {
            assert!(first > self.disk.base, "{}: entry {first} went into files and is dropped", self.id);
            self.log.truncate(first as usize - 1);
            self.unissued = self.unissued.min(first);
        }
        assert_eq!(take.first, self.log.len() as u64 + 1, "{}: records are appended at the log's end", self.id);
        self.log.extend_from_slice(&records[(take.first - 1 - prev.index) as usize..]);
        Some(take.first)
    }

    /// Stages the no-op of a fresh leader. Due after every input.
    pub(crate) fn stage_noop(&mut self) -> Option<EntryId> {
        let noop = self.node.as_mut()?.take_noop()?;
        self.stage(Entry { term: noop.term, label: String::new(), config: None });
        Some(noop)
    }

    /// Hands everything staged to the disk, if the core allows it and there is anything.
    pub(crate) fn issue_write(&mut self) {
        let Some(node) = &mut self.node else { return };
        let last = self.log.len() as u64;
        if node.may_write() && self.unissued <= last {
            let sequence = node.issue_write(last);
            self.writes.push_back(Write { sequence, from: self.unissued, entries: self.log[self.unissued as usize - 1..].to_vec() });
            self.unissued = last + 1;
        }
    }

    /// The oldest write reaches the disk.
    fn land(&mut self) -> Option<u64> {
        let write = self.writes.pop_front()?;
        // What stands in files is not touched by a write that was issued before they came.
        let from = write.from.max(self.disk.base + 1);
        let skipped = (from - write.from) as usize;
        if skipped < write.entries.len() {
            self.disk.log.truncate(from as usize - 1);
            self.disk.log.extend_from_slice(&write.entries[skipped..]);
        }
        Some(write.sequence)
    }

    /// The disk reports `count` writes, with one completion for all of them.
    pub(crate) fn finish_writes(&mut self, count: usize) {
        let newest = (0..count.min(self.writes.len())).filter_map(|_| self.land()).last();
        if let (Some(sequence), Some(node)) = (newest, &mut self.node) {
            node.synced(sequence);
        }
    }

    /// The disk reports the hard state.
    pub(crate) fn finish_hard_state(&mut self) {
        if let (Some((ticket, hard_state)), Some(node)) = (self.storing.take(), &mut self.node) {
            self.disk.hard_state = hard_state;
            node.hard_state_stored(ticket);
        }
    }

    /// The files received are switched in, unless they are of an older term or no longer needed. Waits for the hard state, as every
    /// record of a term does.
    pub(crate) fn finish_install(&mut self) {
        if self.node.as_ref().is_none_or(|node| !node.may_write()) {
            return;
        }
        let (Some(Install { term, last, config, entries }), Some(node)) = (self.install.take(), &mut self.node) else { return };
        if node.term() != term || last.index <= node.commit() {
            return;
        }
        let kept = node.outline().contains(last);
        node.snapshot_installed(last, config);
        let keep_disk = self.disk.log.get(last.index as usize - 1).is_some_and(|entry| entry.term == last.term);
        if !keep_disk {
            self.disk.log = entries.clone();
        }
        self.disk.base = last.index;
        self.disk.commit = self.disk.commit.max(last.index);
        if kept {
            self.unissued = self.unissued.max(last.index + 1);
        } else {
            self.log = entries;
            self.unissued = last.index + 1;
            self.writes.iter_mut().for_each(|write| write.entries.clear());
        }
    }

    /// Gives up the log's records up to `index`, which are committed and durable.
    pub(crate) fn compact(&mut self, index: u64) {
        let Some(node) = &mut self.node else { return };
        let index = index.min(node.commit()).min(node.durable());
        if index > self.disk.base {
            node.compacted(index);
            self.disk.base = index;
            self.disk.commit = self.disk.commit.max(index);
        }
    }

    /// Notes on the disk how far is committed, as far as the log there goes.
    pub(crate) fn store_commit(&mut self) {
        if let Some(node) = &self.node {
            self.disk.commit = self.disk.commit.max(node.commit().min(node.durable()));
        }
    }

    /// The message as it leaves, its records pinned.
    pub(crate) fn pack(&self, envelope: Envelope) -> Packet {
        let records = match &envelope.message {
            Message::Append { prev, entries, .. } => {
                let records = self.log[prev.index as usize..(prev.index + entries.count()) as usize].to_vec();
                assert_eq!(&outline_of(prev.index, &records), entries, "{}: the append's outline is not that of the log", self.id);
                records
            }
            _ => Vec::new(),
        };
        Packet { envelope, boot: self.boots, records }
    }

    /// The offer of everything that the log no longer holds.
    pub(crate) fn pack_snapshot(&self, to: NodeId) -> Option<Packet> {
        let last = self.id_at(self.disk.base);
        let message = Message::Snapshot { last, config: self.config_at(self.disk.base) };
        let envelope = Envelope { from: self.id, to, term: self.node.as_ref()?.term(), message };
        Some(Packet { envelope, boot: self.boots, records: self.log[..self.disk.base as usize].to_vec() })
    }
}

/// The outline of `records`, which stand behind `prev_index`.
pub(crate) fn outline_of(prev_index: u64, records: &[Entry]) -> Entries {
    let mut entries = Entries::default();
    for (index, record) in (prev_index + 1..).zip(records) {
        entries.push(record.term);
        if let Some(config) = &record.config {
            entries.configs.push((index, config.clone()));
        }
    }
    entries
}
