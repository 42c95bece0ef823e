//! What a replica promises the threads around it, on a cluster of one with a simulated disk.

use super::*;
use crate::raft::{Config, Outline, Recovered, Settings};
use crate::server::event::Request;
use crate::storage::Options;
use crate::storage::directory::{Directory, Founding, FoundingMember};
use crate::storage::preparer::Preparer;
use crate::storage::record::{Operation, encode_operation};
use crate::storage::simulated::SimulatedDisk;
use crate::storage::writer::LogWriter;

struct Alone {
    replica: Replica<()>,
    writer: LogWriter,
    preparer: Preparer,
}

impl Alone {
    fn new(limits: Limits) -> Alone {
        let mut directory = Directory::open(SimulatedDisk::new(1).boot(), "a:1").expect("the disk is sound");
        let members = vec![FoundingMember { id: "a:1".to_owned(), uuid: directory.identity().uuid }];
        directory.found(&Founding { cluster: 1, members }).expect("the disk is sound");
        let opened = directory.open_log(&Options { segment_bytes: 1 << 20 }).expect("the disk is sound");
        let config = Config { voters: vec![opened.node], learners: Vec::new() };
        let outline = Outline::new(EntryId::default(), config);
        let settings = Settings {
            election_ticks: 150,
            heartbeat_ticks: 50,
            suspicion_ticks: 5,
            election_ticks_max: 5_000,
            resend_ticks: 600,
            stall_ticks: 3_000,
            ban_ticks: 10_000,
            append_bytes: 1 << 20,
            window_bytes: 1 << 20,
        };
        let recovered = Recovered { hard_state: opened.hard_state, outline, commit: 0 };
        let node = Node::new(opened.node, settings, 1, recovered);
        let replica = Replica::new(node, opened.log, opened.applier, limits);
        Alone { replica, writer: opened.writer, preparer: opened.preparer }
    }

    /// Flushes once and does what the disk's threads would do.
    fn turn(&mut self) -> Actions<()> {
        let mut actions = self.replica.flush();
        for job in actions.jobs.drain(..) {
            let completion = self.writer.run(job).expect("the disk is sound");
            self.replica.handle(Event::Disk(completion));
        }
        if let Some(min_bytes) = actions.prepare {
            let segment = self.preparer.prepare(min_bytes).expect("the disk has room");
            let listed = self.writer.run(Job::List(segment)).expect("the disk is sound");
            self.replica.handle(Event::Disk(listed));
        }
        actions
    }
}

#[test]
fn however_much_is_committed_other_events_get_their_turn() {
    let mut alone = Alone::new(Limits { apply_slice: 2, apply_turn: 5, ..Limits::default() });
    for _ in 0..1_000 {
        alone.replica.tick(1);
        alone.turn();
    }
    assert!(alone.replica.is_leader(), "{:?}", alone.replica.position());
    let mut records = Vec::new();
    (0..20_u8).for_each(|key| encode_operation(&mut records, &Operation::Set { key: &[key], value: b"v" }));
    let requests = (0..20).map(|slot| Request::Write { slot }).collect();
    alone.replica.handle(Event::Client(ClientBatch { client: (), requests, records, barrier: None, deadline_ms: 1_000 }));
    let mut answered = Vec::new();
    let mut unfinished = 0;
    while answered.iter().sum::<usize>() < 20 {
        let before = alone.replica.position().applied;
        let Actions { replies, more, .. } = alone.turn();
        assert!(alone.replica.position().applied <= before + 5, "more than a turn was applied in one go");
        unfinished += usize::from(more);
        answered.push(replies.len());
        assert!(answered.len() < 20, "{answered:?}");
    }
    assert!(unfinished >= 3, "the rest was not asked for: {answered:?}");
}

#[test]
fn what_waits_for_a_quorum_is_bounded_and_a_single_record_of_any_size_fits() {
    let mut alone = Alone::new(Limits { uncommitted_bytes: 10_000, ..Limits::default() });
    for _ in 0..1_000 {
        alone.replica.tick(1);
        alone.turn();
    }
    assert!(alone.replica.is_leader(), "{:?}", alone.replica.position());
    let propose = |alone: &mut Alone, bytes: usize| {
        let mut records = Vec::new();
        encode_operation(&mut records, &Operation::Set { key: b"k", value: &vec![7; bytes] });
        let requests = vec![Request::Write { slot: 0 }];
        alone.replica.handle(Event::Client(ClientBatch { client: (), requests, records, barrier: None, deadline_ms: 1_000 }));
    };
    let waits = |outcome: &Outcome| matches!(outcome, Outcome::Busy(reason) if reason.contains("waits for a quorum"));
    propose(&mut alone, 50_000);
    // The disk is not asked for anything, so nothing is committed.
    propose(&mut alone, 1);
    let refused = alone.replica.flush();
    assert!(matches!(&refused.replies[..], [Reply { outcome, .. }] if waits(outcome)), "{:?}", refused.replies);
    for job in refused.jobs {
        let completion = alone.writer.run(job).expect("the disk is sound");
        alone.replica.handle(Event::Disk(completion));
    }
    let mut written = 0;
    for bytes in [4_000, 4_000, 4_000] {
        propose(&mut alone, bytes);
    }
    for _ in 0..10 {
        for reply in alone.turn().replies {
            written += usize::from(matches!(reply.outcome, Outcome::Written { .. }));
        }
    }
    assert_eq!(written, 3, "the large one and two of 4,000 bytes; the third goes beyond the limit");
}

#[test]
fn a_full_index_takes_no_further_keys_and_goes_on_when_some_are_deleted() {
    let mut alone = Alone::new(Limits { index_bytes: 1 << 20, ..Limits::default() });
    for _ in 0..1_000 {
        alone.replica.tick(1);
        alone.turn();
    }
    assert!(alone.replica.is_leader(), "{:?}", alone.replica.position());
    let mut ask = |operation: &Operation<'_>| {
        let mut records = Vec::new();
        encode_operation(&mut records, operation);
        let requests = vec![Request::Write { slot: 0 }];
        alone.replica.handle(Event::Client(ClientBatch { client: (), requests, records, barrier: None, deadline_ms: 1_000 }));
        for _ in 0..10 {
            if let Some(reply) = alone.turn().replies.pop() {
                return reply.outcome;
            }
        }
        panic!("no answer to {operation:?}");
    };
    // Keys too long to be packed give their memory back at once.
    let key = |number: u32| [&number.to_le_bytes()[..], &[7; 1020]].concat();
    let mut last = 0;
    while let Outcome::Written { .. } = ask(&Operation::Set { key: &key(last), value: b"v" }) {
        last += 1;
        assert!(last < 2_000, "the index takes more than it may");
    }
    assert!(last > 100, "only {last} keys fit");
    let refused = |outcome: Outcome| matches!(outcome, Outcome::Busy(reason) if reason.contains("--max-index-bytes"));
    assert!(refused(ask(&Operation::CompareAndSet { key: &key(0), expected: 0, value: b"v" })));
    assert!(refused(ask(&Operation::Set { key: &key(0), value: b"another" })));
    assert!(matches!(ask(&Operation::Delete { key: &key(0) }), Outcome::Written { .. }));
    assert!(matches!(ask(&Operation::Set { key: &key(last), value: b"v" }), Outcome::Written { .. }));
}
