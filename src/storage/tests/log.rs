//! Appending, sealing, truncating, sending and reopening without faults.

use super::*;
use crate::raft::{Config, NodeId, TermRun};
use crate::storage::manifest::State;
use crate::storage::simulated::CrashPolicy;

fn engine() -> (Arc<SimulatedDisk>, Engine) {
    let device = SimulatedDisk::new(1);
    let mut engine = Engine::open(device.boot()).expect("opened");
    engine.set_term(1).expect("stored");
    (device, engine)
}

fn reopen(device: &SimulatedDisk, engine: Engine) -> Engine {
    drop(engine);
    device.kill();
    Engine::open(device.boot()).expect("reopened")
}

#[test]
fn what_was_appended_is_there_after_a_restart_over_many_segments() {
    let (device, mut engine) = engine();
    for number in 0..300u32 {
        engine.set(format!("key{number}").as_bytes(), &vec![number as u8; number as usize]).expect("staged");
        if number % 7 == 0 {
            engine.flush().expect("flushed");
        }
    }
    engine.flush().expect("flushed");
    engine.apply();
    let (records, contents) = (engine.records(), engine.contents());
    assert_eq!((records.len(), contents.len()), (300, 300));
    let outline = engine.log.outline();
    assert_eq!(outline.1, [TermRun { term: 1, count: 300 }]);
    for _ in 0..3 {
        engine = reopen(&device, engine);
        assert!(engine.records() == records);
        assert_eq!(engine.log.outline(), outline);
        engine.apply();
        assert!(engine.contents() == contents);
    }
    assert_eq!(engine.hard_state, HardState { term: 1, vote: None });
}

#[test]
fn records_are_readable_and_sendable_before_during_and_after_their_write() {
    let (_device, mut engine) = engine();
    let id = engine.set(b"k", b"staged").expect("staged");
    engine.log.freeze();
    // Committed by the others, while the own disk hangs.
    engine.apply_to(id.index);
    assert_eq!(engine.get(b"k"), Some((1, b"staged".to_vec())));
    let records = engine.records();
    let pinned = engine.log.pieces(1, 1);
    let located = engine.store.lookup(b"k").expect("applied");
    let (job, durable) = engine.log.next_job(1).expect("a batch is staged");
    assert_eq!(durable, 1);
    assert!(engine.log.next_job(1).is_none(), "one job is in flight at a time");
    let completion = engine.writer.run(job).expect("written");
    assert_eq!(engine.log.staged_bytes(), 0, "written bytes do not count");
    assert_eq!(engine.get(b"k"), Some((1, b"staged".to_vec())));
    engine.log.completed(&completion);
    assert!(engine.records() == records);
    let mut value = Vec::new();
    engine.store.read(b"k", &located, &mut value).expect("read");
    assert_eq!(value, b"staged");
    let mut sent = Vec::new();
    pinned[0].write_to(&mut sent).expect("pinned");
    assert!(split(&sent) == records);
}

#[test]
fn a_batch_is_what_arrived_while_the_one_before_was_written() {
    let (device, mut engine) = engine();
    engine.set(b"a", b"1").expect("staged");
    let (first, _) = engine.log.next_job(0).expect("staged");
    for number in 0..50u8 {
        engine.set(&[b'k', number], b"v").expect("staged");
    }
    let completion = engine.writer.run(first).expect("written");
    engine.log.completed(&completion);
    device.record();
    assert!(engine.run_job().expect("written"));
    let operations: Vec<_> = device.recorded().iter().map(|operation| operation.kind).collect();
    assert_eq!(operations.len(), 2, "one write and one sync for fifty records: {operations:?}");
    assert_eq!(engine.durable, 51);
}

#[test]
fn any_record_fits_a_segment_of_its_own() {
    let (device, mut engine) = engine();
    let sizes = [10, 200_000, 10, 5 << 20, 70_000, 0];
    for (number, size) in sizes.into_iter().enumerate() {
        engine.set(&[b'k', number as u8], &vec![number as u8; size]).expect("staged");
    }
    engine.flush().expect("flushed");
    engine.apply();
    let contents = engine.contents();
    assert_eq!(contents.values().map(|(_, value)| value.len()).collect::<Vec<_>>(), sizes);
    let mut engine = reopen(&device, engine);
    engine.apply();
    assert!(engine.contents() == contents);
}

#[test]
fn one_buffer_is_spread_over_batches_and_segments() {
    let (device, mut engine) = engine();
    let mut records = Vec::new();
    for index in 1..=600 {
        let value = vec![index as u8; 10_000];
        records.extend(sealed_operation(EntryId { term: 1, index }, &Operation::Set { key: &[index as u8], value: &value }));
    }
    let Room::Oversized(minimum) = engine.log.room(records.len()) else { panic!("six megabytes do not fit a small segment") };
    assert!(minimum > records.len() as u64);
    engine.set(b"first", b"").map(|_| ()).expect("staged");
    let records = split(&records).into_iter().enumerate().fold(Vec::new(), |mut all, (number, mut record)| {
        record::seal(&mut record, EntryId { term: 1, index: number as u64 + 2 });
        all.extend(record);
        all
    });
    engine.stage(&records).expect("staged");
    engine.flush().expect("flushed");
    assert!(engine.records()[1..] == split(&records));
    let mut engine = reopen(&device, engine);
    assert!(engine.records()[1..] == split(&records));
    let fit = engine.log.fit(1, 601, 100_000);
    assert!((8..=10).contains(&fit), "{fit} entries of ten thousand bytes in a hundred thousand");
    assert_eq!(engine.log.fit(5, 601, 1), 1, "at least one");
    assert_eq!(engine.log.fit(1, 601, u64::MAX), 601);
    assert_eq!(engine.log.fit(3, 4, u64::MAX), 2);
    let exact: usize = split(&records)[..8].iter().map(Vec::len).sum();
    let about = engine.log.bytes(2, 8) as usize;
    assert!((exact..exact + 4 * 128).contains(&about), "{about} for {exact} bytes");
    assert!(engine.log.bytes(1, 601) as usize >= records.len());
}

#[test]
fn a_truncated_suffix_never_returns_and_its_places_are_not_given_again() {
    for written in [false, true] {
        for from in [2, 30, 59, 60, 61, 119, 120] {
            let (device, mut engine) = engine();
            let mut places = Vec::new();
            for index in 1..=120 {
                let record = sealed_operation(EntryId { term: 1, index }, &Operation::Set { key: &[index as u8], value: &[1; 300] });
                places.extend(engine.stage(&record).expect("staged"));
                if written && index % 9 == 0 {
                    engine.flush().expect("flushed");
                }
            }
            let before = engine.records();
            engine.truncate(from);
            assert_eq!(engine.last().index, from - 1);
            engine.set_term(2).expect("stored");
            for _ in 0..40 {
                let id = EntryId { term: 2, index: engine.last().index + 1 };
                let record = sealed_operation(id, &Operation::Set { key: b"new", value: &[2; 200] });
                let given = engine.stage(&record).expect("staged");
                assert!(given.iter().all(|new| places.iter().all(|old| old.segment != new.segment)), "from {from}: {given:?}");
            }
            let expected = engine.records();
            assert!(expected[..from as usize - 1] == before[..from as usize - 1], "from {from}");
            engine.flush().expect("flushed");
            assert!(engine.records() == expected, "from {from}");
            let mut engine = reopen(&device, engine);
            assert!(engine.records() == expected, "from {from}");
            let mut engine = reopen(&device, engine);
            engine.apply();
            assert!(engine.contents() == model(&expected), "from {from}");
        }
    }
}

#[test]
fn a_batch_of_superseded_entries_makes_only_the_others_durable() {
    let (_device, mut engine) = engine();
    engine.set(b"a", b"").expect("staged");
    let (job, _) = engine.log.next_job(0).expect("staged");
    for _ in 0..4 {
        engine.set(b"b", b"").expect("staged");
    }
    engine.truncate(4);
    let completion = engine.writer.run(job).expect("written");
    engine.log.completed(&completion);
    let mut durable = Vec::new();
    while let Some((job, index)) = engine.log.next_job(0) {
        durable.push((matches!(job, Job::Seal(_)), index));
        let completion = engine.writer.run(job).expect("written");
        engine.log.completed(&completion);
    }
    assert_eq!(durable, [(false, 3), (true, 0)]);
}

#[test]
fn terms_and_memberships_of_the_log_are_told_at_the_start() {
    let (device, mut engine) = engine();
    let config = |voters: &[u32]| Config { voters: voters.iter().map(|id| NodeId(*id)).collect(), learners: Vec::new() };
    engine.stage(&sealed(EntryId { term: 1, index: 1 }, Kind::NoOp, &[])).expect("staged");
    engine.stage(&sealed(EntryId { term: 1, index: 2 }, Kind::Config, &record::encode_config(&config(&[1, 2])))).expect("staged");
    engine.set_term(3).expect("stored");
    engine.stage(&sealed(EntryId { term: 3, index: 3 }, Kind::NoOp, &[])).expect("staged");
    engine.stage(&sealed(EntryId { term: 3, index: 4 }, Kind::Config, &record::encode_config(&config(&[1])))).expect("staged");
    engine.flush().expect("flushed");
    let outline = engine.log.outline();
    let runs = vec![TermRun { term: 1, count: 2 }, TermRun { term: 3, count: 2 }];
    assert_eq!(outline, (EntryId::default(), runs, vec![(2, config(&[1, 2])), (4, config(&[1]))]));
    let mut engine = reopen(&device, engine);
    assert_eq!(engine.log.outline(), outline);
    engine.truncate(4);
    assert_eq!(engine.log.outline().2, [(2, config(&[1, 2]))]);
    assert_eq!(engine.last(), EntryId { term: 3, index: 3 });
}

#[test]
fn an_idle_log_is_closed_once_and_goes_on_behind_it() {
    let (device, mut engine) = engine();
    engine.log.close_when_idle();
    assert!(engine.log.append(Vec::new()).is_empty());
    engine.log.close_when_idle();
    assert!(engine.log.next_job(0).is_none(), "nothing was appended, so nothing is to be proved");
    for round in 0..200u64 {
        engine.set(b"k", &[7; 100]).expect("staged");
        engine.flush().expect("flushed");
        engine.log.close_when_idle();
        engine.flush().expect("closed");
        engine.log.close_when_idle();
        assert!(!engine.run_job().expect("nothing to do"), "round {round}: the batch is proved already");
    }
    let records = engine.records();
    let mut engine = reopen(&device, engine);
    assert!(engine.records() == records);
    engine.log.close_when_idle();
    assert!(engine.log.next_job(0).is_none(), "the proof is remembered");
}

#[test]
fn what_was_committed_is_known_and_applied_after_a_restart() {
    let (device, mut engine) = engine();
    for number in 0..10u8 {
        engine.set(&[number], b"v").expect("staged");
        engine.flush().expect("flushed");
        engine.apply();
    }
    let engine = reopen(&device, engine);
    assert_eq!((engine.commit, engine.store.applied(), engine.store.keys()), (9, 9, 9));
}

#[test]
fn what_others_have_committed_is_not_remembered_before_it_is_durable_here() {
    let (device, mut engine) = engine();
    for number in 0..40u8 {
        engine.set(&[number], &[number; 1000]).expect("staged");
    }
    engine.commit = engine.last().index;
    while !matches!(engine.writer.manifest.segments[0].state, State::Sealed { .. }) {
        assert!(engine.run_job().expect("written"), "forty records do not fit one segment");
    }
    let durable = engine.durable;
    assert!(durable < engine.commit);
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
    let engine = Engine::open(device.boot()).expect("the manifest names nothing that the log lacks");
    assert_eq!(engine.last().index, durable);
}

#[test]
fn without_space_nothing_is_lost_and_it_goes_on_when_there_is_some() {
    let (device, mut engine) = engine();
    engine.set(b"k", b"v").expect("staged");
    engine.flush().expect("flushed");
    for free in [0, 100, 5_000, SEGMENT - 1] {
        device.set_free_bytes(Some(free));
        let error = engine.preparer.prepare(0).expect_err("there is no room");
        assert!(matches!(error, PrepareError::Full(_)), "{error:?}");
        let names = device.list().expect("listed");
        assert!(!names.iter().any(|name| name.ends_with(".tmp")), "{names:?}");
    }
    engine.set(b"k", b"in the room that is left").expect("staged");
    engine.flush().expect("flushed");
    let mut engine = reopen(&device, engine);
    assert_eq!(engine.last().index, 2, "a restart needs no new space");
    device.set_free_bytes(None);
    engine.set(b"k", &[0; 20_000]).expect("staged");
    engine.flush().expect("flushed");
}
