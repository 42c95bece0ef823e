//! What a replica promises the threads around it, on a cluster of one with a simulated disk.

use super::*;
use crate::raft::{Config, Outline, Recovered, Settings};
use crate::server::event::{Request, Slot};
use crate::server::gate::{EarlyRead, ReadGate};
use crate::storage::Options;
use crate::storage::directory::{Directory, Founding, FoundingMember};
use crate::storage::preparer::{PrepareError, Preparer};
use crate::storage::record::{Operation, encode_operation};
use crate::storage::simulated::SimulatedDisk;
use crate::storage::writer::LogWriter;

struct Alone {
    disk: Arc<SimulatedDisk>,
    replica: Replica<()>,
    writer: LogWriter,
    preparer: Preparer,
}

impl Alone {
    fn new(limits: Limits) -> Alone {
        let disk = SimulatedDisk::new(1);
        let mut directory = Directory::open(disk.boot(), "a:1").expect("the disk is sound");
        let members = vec![FoundingMember { id: "a:1".to_owned(), uuid: directory.identity().uuid }];
        directory.found(&Founding { cluster: 1, members }).expect("the disk is sound");
        let opened = directory.open_log(&Options { segment_bytes: 1 << 20, reserve_bytes: 1 << 20 }).expect("the disk is sound");
        let config = Config { voters: vec![opened.node], learners: Vec::new() };
        let outline = Outline::new(EntryId::default(), config);
        let recovered = Recovered { hard_state: opened.hard_state, outline, commit: 0 };
        let node = Node::new(opened.node, Settings::usual(), 1, recovered);
        let replica = Replica::new(node, opened.log, opened.applier, limits);
        Alone { disk, replica, writer: opened.workers.writer, preparer: opened.workers.preparer }
    }

    /// Flushes once and does what the disk's threads would do.
    fn turn(&mut self) -> Actions<()> {
        let mut actions = self.replica.flush();
        for job in actions.jobs.drain(..) {
            let completion = self.writer.run(job).expect("the disk is sound");
            self.replica.handle(Event::Disk(completion));
        }
        if let Some(min_bytes) = actions.prepare {
            let event = match self.preparer.prepare(min_bytes) {
                Ok(segment) => Event::Disk(self.writer.run(Job::List(segment)).expect("the disk is sound")),
                Err(PrepareError::Full(reason)) => Event::NotPrepared(reason),
                Err(PrepareError::Fatal(error)) => panic!("the disk is sound: {error}"),
            };
            self.preparer.keep_reserve().expect("nobody takes its space");
            self.replica.handle(event);
        }
        actions
    }

    fn lead(&mut self) {
        self.pass(1_000);
        assert!(self.replica.is_leader(), "{:?}", self.replica.position());
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.replica.tick(1);
            self.turn();
        }
    }

    /// One write, as far as its answer.
    fn ask(&mut self, operation: &Operation<'_>) -> Outcome {
        let mut records = Vec::new();
        encode_operation(&mut records, operation);
        self.answer_to(vec![Request::Write { slot: 0 }], records, None)
    }

    /// Whether a read may be looked up.
    fn reads(&mut self) -> bool {
        matches!(self.answer_to(Vec::new(), Vec::new(), Some(0)), Outcome::Proceed)
    }

    fn answer_to(&mut self, requests: Vec<Request>, records: Vec<u8>, barrier: Option<Slot>) -> Outcome {
        self.replica.handle(Event::Client(ClientBatch { client: (), requests, records, barrier, deadline_ms: 1_000 }));
        for _ in 0..10 {
            if let Some(reply) = self.turn().replies.pop() {
                return reply.outcome;
            }
        }
        panic!("no answer in {:?}", self.replica.position());
    }
}

#[test]
fn however_much_is_committed_other_events_get_their_turn() {
    let mut alone = Alone::new(Limits { apply_slice: 2, apply_turn: 5, ..Limits::default() });
    alone.lead();
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
    alone.lead();
    let mut ask = |operation: &Operation<'_>| alone.ask(operation);
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
    // The last key may have made a table grow, which takes more than it gives back.
    let taken_again = (0..16).any(|number| {
        assert!(matches!(ask(&Operation::Delete { key: &key(number) }), Outcome::Written { .. }));
        matches!(ask(&Operation::Set { key: &key(last), value: b"v" }), Outcome::Written { .. })
    });
    assert!(taken_again, "the memory of 16 keys is not given back");
}

#[test]
fn a_full_disk_refuses_writes_with_what_is_missing_reads_go_on_and_it_resumes_by_itself() {
    let mut alone = Alone::new(Limits::default());
    alone.lead();
    let value = vec![7; 20_000];
    let set = |alone: &mut Alone| alone.ask(&Operation::Set { key: b"key", value: &value });
    assert!(matches!(set(&mut alone), Outcome::Written { .. }));
    alone.disk.set_free_bytes(Some(1000));
    let mut written = 0;
    let refusal = loop {
        match set(&mut alone) {
            Outcome::Written { .. } => written += 1,
            Outcome::Busy(text) if text.contains("needs") => break text,
            Outcome::Busy(_) => {}
            other => panic!("a write on a full disk ended with {other:?}"),
        }
        assert!(written < 200, "more is written than there is room for");
    };
    // What was prepared before is used up.
    assert!(written > 50, "only {written} writes fit a segment and the rest of another");
    assert!(refusal.starts_with("no room for the next log segment: simulated/"), "{}", &*refusal);
    assert!(refusal.contains(".log needs 1048576 bytes, the file system has 1000 left"), "{}", &*refusal);
    let reason = alone.replica.position().no_room.expect("it is known");
    assert!(refusal.contains(&*reason));

    alone.pass(5_000);
    assert!(alone.replica.is_leader() && alone.reads(), "{:?}", alone.replica.position());
    assert!(matches!(set(&mut alone), Outcome::Busy(_)));
    // What fifteen leaders need is left, a block for each.
    assert!(matches!(alone.replica.log.room(15 * 4096), Room::Yes));

    // Somebody takes what little was left; the text follows.
    alone.disk.set_free_bytes(Some(10));
    alone.pass(1_500);
    assert!(matches!(set(&mut alone), Outcome::Busy(text) if text.contains("has 10 left")));
    alone.disk.set_free_bytes(None);
    alone.pass(1_500);
    assert_eq!(alone.replica.position().no_room, None);
    assert!(matches!(set(&mut alone), Outcome::Written { .. }));
}

#[test]
fn a_value_that_needs_a_segment_of_its_own_is_refused_with_its_size() {
    let mut alone = Alone::new(Limits::default());
    alone.lead();
    alone.disk.set_free_bytes(Some(2 << 20));
    let value = vec![7; 3 << 20];
    let set = |alone: &mut Alone, length: usize| alone.ask(&Operation::Set { key: b"key", value: &value[..length] });
    assert!(matches!(set(&mut alone, 3 << 20), Outcome::Busy(text) if text.contains("is being prepared")));
    alone.turn();
    let missing = |text: &str| text.contains("needs 31") && text.contains("has 2097152 left");
    assert!(matches!(set(&mut alone, 3 << 20), Outcome::Busy(text) if missing(&text)), "{:?}", alone.replica.position());
    // Small ones have room still.
    assert!(matches!(set(&mut alone, 1000), Outcome::Written { .. }));
    alone.disk.set_free_bytes(None);
    alone.pass(1_500);
    assert!(matches!(set(&mut alone, 3 << 20), Outcome::Written { .. }));
}

/// Writes until some hash of the state has been kept, which is returned.
fn until_checkpoint(alone: &mut Alone) -> Checkpoint {
    loop {
        alone.ask(&Operation::Set { key: b"key", value: b"value" });
        if let Some(newest) = alone.replica.position().state_hash {
            return newest;
        }
    }
}

#[test]
fn a_leader_tells_whoever_differs_from_a_majority_and_nobody_else() {
    let mut alone = Alone::new(Limits::default());
    alone.lead();
    let own = until_checkpoint(&mut alone);
    let other = Checkpoint { hash: StateHash::START, ..own };
    for (peer, told, expected) in [
        (2, own, vec![]),
        (2, other, vec![(NodeId(2), Note::Diverged { index: own.index, expected: own.hash, found: other.hash })]),
        // What the second has told was answered.
        (3, own, vec![]),
        // Nothing is known of that entry here.
        (2, Checkpoint { index: 4 * own.index, ..other }, vec![]),
    ] {
        alone.replica.handle(Event::Note(NodeId(peer), Note::StateHash(told)));
        let actions = alone.turn();
        assert_eq!(actions.notes, expected, "{told:?}");
        assert!(actions.fatal.is_none() && alone.replica.position().state_hash_alarm.is_none());
    }
}

#[test]
fn a_node_ends_over_what_it_has_told_of_its_present_state_and_nothing_else() {
    let mut alone = Alone::new(Limits::default());
    alone.lead();
    let Checkpoint { index, hash } = until_checkpoint(&mut alone);
    let other = StateHash::START;
    for (note, ends) in [
        (Note::Diverged { index, expected: hash, found: other }, false),
        (Note::Diverged { index, expected: hash, found: hash }, false),
        (Note::Diverged { index: 2 * index, expected: other, found: hash }, false),
        (Note::Diverged { index, expected: other, found: hash }, true),
    ] {
        alone.replica.handle(Event::Note(NodeId(2), note));
        let fatal = alone.turn().fatal.map(|error| (error.exit_code(), error.to_string()));
        assert_eq!(fatal.is_some(), ends, "{note:?}: {fatal:?}");
        assert!(fatal.is_none_or(|(code, text)| code == 7 && text.contains(&hash.to_string()) && text.contains(&other.to_string())));
    }
}

#[test]
fn a_read_that_was_looked_up_counts_only_in_the_term_that_was_being_served_then() {
    let mut alone = Alone::new(Limits::default());
    let mut led_without_serving = false;
    while alone.replica.serving() == 0 {
        alone.replica.tick(1);
        led_without_serving |= alone.replica.is_leader() && alone.replica.serving() == 0;
        assert!(alone.replica.serving() == 0 || alone.replica.position().applied > 0, "nothing of this term is applied");
        alone.turn();
        assert!(alone.replica.position().applied > 0 || alone.replica.serving() == 0, "nothing of this term is applied");
    }
    assert!(led_without_serving, "a leader whose first entry is not applied may know less than was acknowledged before it");
    let term = alone.replica.serving();
    assert_eq!(term, alone.replica.node().term());
    let gate = Arc::new(ReadGate::new());
    for (slot, term) in [(1, term - 1), (2, term), (3, term + 1)] {
        gate.enter(EarlyRead { client: (), slot, term, deadline_ms: 1_000 });
    }
    alone.replica.handle(Event::Reads(gate));
    let mut replies = Vec::new();
    for _ in 0..10 {
        replies.extend(alone.turn().replies);
    }
    replies.sort_by_key(|reply| reply.slot);
    let outcomes: Vec<&Outcome> = replies.iter().map(|reply| &reply.outcome).collect();
    assert!(matches!(outcomes[..], [Outcome::Busy(_), Outcome::Proceed, Outcome::Busy(_)]), "{outcomes:?}");
}
