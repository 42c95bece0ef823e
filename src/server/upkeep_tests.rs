//! What a leader of three keeps in its log for a follower that needs snapshots, with a simulated disk and everything its threads do.

use crate::raft::{Config, EntryId, Envelope, Message, Node, NodeId, Outline, Recovered, Settings};
use crate::server::event::{ClientBatch, Event, Incoming, Outgoing, Request};
use crate::server::replica::{Limits, Replica};
use crate::storage::Options;
use crate::storage::directory::{Directory, Founding, FoundingMember, Workers};
use crate::storage::preparer::PrepareError;
use crate::storage::record::{Operation, encode_operation};
use crate::storage::simulated::SimulatedDisk;
use crate::storage::writer::Job;
use std::sync::Arc;

const RETAINED: u64 = 1 << 20;
const SECOND: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);

/// The leader. The second node does at once whatever it is told; the third only speaks when the test says so.
struct Leading {
    disk: Arc<SimulatedDisk>,
    replica: Replica<()>,
    workers: Workers,
    /// The last entries of the snapshots for the third node.
    offered: Vec<u64>,
    /// To whom it has handed leadership.
    successors: Vec<NodeId>,
}

impl Leading {
    fn new() -> Leading {
        let disk = SimulatedDisk::new(1);
        let mut directory = Directory::open(disk.boot(), "a:1").expect("sound");
        let uuid = directory.identity().uuid;
        let members = [("a:1", uuid), ("b:1", 7), ("c:1", 8)].map(|(id, uuid)| FoundingMember { id: id.to_owned(), uuid });
        directory.found(&Founding { cluster: 1, members: members.to_vec() }).expect("sound");
        let opened = directory.open_log(&Options { segment_bytes: 1 << 20, reserve_bytes: 1 << 20 }).expect("sound");
        let outline = Outline::new(EntryId::default(), Config { voters: vec![NodeId(1), SECOND, THIRD], learners: Vec::new() });
        let node = Node::new(opened.node, Settings::usual(), 1, Recovered { hard_state: opened.hard_state, outline, commit: 0 });
        let limits = Limits { retain_log_bytes: RETAINED, ..Limits::default() };
        let replica = Replica::new(node, opened.log, opened.applier, limits);
        let mut leading = Leading { disk, replica, workers: opened.workers, offered: Vec::new(), successors: Vec::new() };
        leading.pass(1_000);
        assert!(leading.replica.is_leader(), "{:?}", leading.replica.position());
        leading
    }

    fn say(&mut self, from: NodeId, message: Message) {
        let envelope = Envelope { from, to: NodeId(1), term: self.replica.node().durable_term(), message };
        self.replica.handle(Event::Peer(Incoming { envelope, records: Vec::new() }));
    }

    fn write_job(&mut self, job: Job) {
        let completion = self.workers.writer.run(job).expect("sound");
        self.replica.handle(Event::Disk(completion));
    }

    fn done(&mut self, outcome: Result<Job, PrepareError>, not_done: impl Fn(String) -> Event<()>) {
        match outcome {
            Ok(job) => self.write_job(job),
            Err(PrepareError::Full(reason)) => self.replica.handle(not_done(reason)),
            Err(PrepareError::Fatal(error)) => panic!("the disk is sound: {error}"),
        }
    }

    fn turn(&mut self) {
        let actions = self.replica.flush();
        actions.jobs.into_iter().for_each(|job| self.write_job(job));
        if let Some(min_bytes) = actions.prepare {
            let prepared = self.workers.preparer.prepare(min_bytes).map(Job::List);
            self.done(prepared, Event::NotPrepared);
        }
        if let Some(job) = actions.hint {
            let hinted = self.workers.hinter.make(&job).map(Job::Hint);
            self.done(hinted, |_| Event::NotHinted { retry: true });
        }
        if let Some(job) = actions.merge {
            let merged = self.workers.merger.merge(&job, &mut |_| {}).map(Job::Merge);
            self.done(merged, |_| Event::NotMerged { retry: true });
        }
        for snapshot in actions.snapshots {
            assert_eq!(snapshot.to, THIRD);
            self.offered.push(snapshot.snapshot.last.index);
        }
        actions.send.into_iter().for_each(|outgoing| self.answer(outgoing));
    }

    fn answer(&mut self, Outgoing { envelope, .. }: Outgoing) {
        if let Message::TimeoutNow = envelope.message {
            self.successors.push(envelope.to);
        }
        let reply = match envelope.message {
            Message::Append { prev, .. } if envelope.to == THIRD && self.replica.node().matched(THIRD) == Some(0) => {
                Message::AppendRejected { prev_index: prev.index, hint: EntryId::default(), round: 0 }
            }
            _ if envelope.to != SECOND => return,
            Message::PreVote { proposed_term, .. } => Message::PreVoteReply { proposed_term, granted: true },
            Message::Vote { .. } => Message::VoteReply { granted: true },
            Message::Append { prev, entries, .. } => Message::Appended { matched: prev.index + entries.count(), round: 0 },
            Message::Heartbeat { round, .. } => Message::HeartbeatReply { round, verified: 0, able: true },
            _ => return,
        };
        self.say(envelope.to, reply);
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.replica.tick(1);
            self.turn();
        }
    }

    /// Sets a few keys again and again, about this many bytes of log in all.
    fn write(&mut self, bytes: usize) {
        for number in 0..bytes / 20_000 {
            let mut records = Vec::new();
            encode_operation(&mut records, &Operation::Set { key: &[number as u8 % 50], value: &[7; 20_000] });
            let requests = vec![Request::Write { slot: 0 }];
            self.replica.handle(Event::Client(ClientBatch { client: (), requests, records, barrier: None, deadline_ms: 1_000 }));
            self.pass(10);
        }
        self.pass(100);
    }

    /// Writes until the third node needs a snapshot and one is on its way; its last entry.
    fn until_offered(&mut self) -> u64 {
        self.write(10 << 20);
        self.pass(2_000);
        let last = *self.offered.last().unwrap_or_else(|| panic!("no snapshot: {:?}", self.replica.position()));
        assert_eq!(self.offered.len(), 1, "one at a time");
        last
    }

    /// The third node has everything up to this entry.
    fn third_has(&mut self, matched: u64) {
        self.say(THIRD, Message::SnapshotReply { matched });
        self.say(THIRD, Message::Appended { matched, round: 0 });
    }

    fn first(&self) -> u64 {
        self.replica.position().first
    }
}

#[test]
fn what_was_written_during_a_transfer_stays_until_the_follower_has_it() {
    let mut leading = Leading::new();
    let last = leading.until_offered();
    // While the files travel, clients write twice as much as a living follower could lack.
    leading.write(8 << 20);
    assert!(leading.first() <= last + 1, "pinned while it is under way");
    leading.third_has(last);
    leading.replica.handle(Event::SnapshotEnded(THIRD));
    // It fetches what it lacks, slowly, while the clients go on.
    let mut matched = last;
    while matched < leading.replica.position().last.index {
        leading.pass(2_000);
        assert!(leading.first() <= matched + 1, "entries behind {matched} have left the log: it begins with {}", leading.first());
        leading.write(1 << 20);
        matched = (matched + 150).min(leading.replica.position().last.index);
        leading.third_has(matched);
    }
    leading.pass(2_000);
    assert_eq!(leading.offered, [last], "it needs no other one");
    // From now on it is a follower like any other.
    leading.write(8 << 20);
    leading.pass(2_000);
    assert!(leading.first() > matched + 1, "the log begins with {} still", leading.first());
}

#[test]
fn a_follower_that_takes_nothing_more_is_kept_log_for_no_longer_than_a_minute() {
    let mut leading = Leading::new();
    let last = leading.until_offered();
    leading.write(8 << 20);
    leading.third_has(last);
    leading.replica.handle(Event::SnapshotEnded(THIRD));
    leading.pass(50_000);
    assert!(leading.first() <= last + 1);
    leading.pass(12_000);
    assert!(leading.first() > last + 1, "the log begins with {} still", leading.first());
}

#[test]
fn a_transfer_that_creeps_keeps_no_more_log_than_there_is_room_for() {
    let mut leading = Leading::new();
    let last = leading.until_offered();
    leading.write(5 << 20);
    assert!(leading.first() <= last + 1);
    leading.write(24 << 20);
    assert!(leading.first() > last + 1, "far more than it should be is kept");

    let mut leading = Leading::new();
    let last = leading.until_offered();
    leading.write(8 << 20);
    leading.disk.set_free_bytes(Some(100_000));
    leading.write(4 << 20);
    leading.pass(3_000);
    assert!(leading.first() > last + 1, "on a full disk nothing is kept for it");
}

#[test]
fn a_leader_with_damage_hands_leadership_over() {
    let mut leading = Leading::new();
    leading.pass(1_000);
    assert_eq!(leading.successors, []);
    leading.replica.handle(Event::Damaged("00000001.log is damaged".to_owned()));
    leading.pass(500);
    assert!(leading.successors.contains(&SECOND), "{:?}", leading.replica.position());
    assert!(!leading.successors.contains(&THIRD), "it says nothing");
}
