//! Disks, quotas and file handles that run out: nothing is lost, nothing half-made stays, and it goes on when there is room. And the
//! reserve, which no segment may use.

use super::*;
use crate::storage::inspect::{Caller, inspect};
use crate::storage::reserve::NAME;
use crate::storage::simulated::{CrashPolicy, Effect, Errno, Fault};

const SHORTAGES: [Errno; 4] = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE];
const RESERVE: u64 = 8 << 10;

fn names(device: &SimulatedDisk) -> Vec<String> {
    device.boot().list().expect("listed")
}

fn has_reserve(device: &SimulatedDisk) -> bool {
    names(device).iter().any(|name| name == NAME)
}

fn reserving(device: &SimulatedDisk) -> Result<Engine> {
    Engine::open_reserving(device.boot(), SEGMENT, RESERVE)
}

/// Lets the n-th operation from now fail, once.
fn fail(device: &SimulatedDisk, nth: u64, errno: Errno) {
    device.inject(Fault { kind: None, name: String::new(), nth, lasting: false, effect: Effect::Fail(errno) });
}

fn full<T: std::fmt::Debug>(outcome: std::result::Result<T, PrepareError>) -> String {
    match outcome {
        Err(PrepareError::Full(reason)) => reason,
        other => panic!("expected a lack of room, found {other:?}"),
    }
}

/// A life with a prepared segment, whose first segment is sealed and applied and has no hint yet.
fn with_a_hint_due(device: &SimulatedDisk, reserve: u64) -> Engine {
    let mut engine = Engine::open_reserving(device.boot(), SEGMENT, reserve).expect("opened");
    engine.set_term(1).expect("stored");
    while engine.log.next_hint(engine.applier.applied()).is_none() {
        engine.set(format!("key {}", engine.last().index).as_bytes(), &[1; 3000]).expect("staged");
        engine.flush().expect("flushed");
        engine.apply();
    }
    engine.preparer.keep_reserve().expect("there is room");
    engine
}

fn make_hint(engine: &Engine) -> std::result::Result<(), PrepareError> {
    let job = engine.log.next_hint(engine.applier.applied()).expect("one is due");
    let (first, last) = job.range();
    engine.hinter.make(&job.with_effects(engine.applier.effects(first, last), engine.applier.hash_behind(last))).map(|_| ())
}

/// Whatever became of a life, the next start has all it acknowledged and no half-made file.
fn assert_starts(device: &SimulatedDisk, contents: &Contents, last: u64, what: &str) {
    let mut engine = reserving(device).unwrap_or_else(|error| panic!("{what}: {error}"));
    engine.apply_to(last);
    assert!(engine.contents() == *contents, "{what}");
    let left: Vec<String> = names(device).into_iter().filter(|name| name.ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{what}: {left:?}");
    engine.make_room(|log| log.room_after_truncation(100)).unwrap_or_else(|error| panic!("{what}: {error}"));
}

/// Runs `work` on a disk where its n-th operation fails, for every n and every kind of shortage; `work` returns whether it noticed. Then
/// cuts the power at that moment, and starts.
fn at_every_call(least: u64, prepare: impl Fn(&SimulatedDisk) -> Engine, work: impl Fn(&SimulatedDisk, &mut Engine, Errno, &str) -> bool) {
    for errno in SHORTAGES {
        let mut nth = 1;
        loop {
            let device = SimulatedDisk::new(nth);
            let mut engine = prepare(&device);
            let (contents, last) = (engine.contents(), engine.last().index);
            fail(&device, nth, errno);
            let what = format!("operation {nth} fails with {errno}");
            let noticed = work(&device, &mut engine, errno, &what);
            device.clear_faults();
            drop(engine);
            let image = device.snapshot();
            for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random] {
                device.restore(image.clone());
                device.crash(&policy);
                assert_starts(&device, &contents, last, &format!("{what}, {policy:?}"));
            }
            if !noticed {
                break;
            }
            nth += 1;
        }
        assert!(nth > least, "only {nth} operations were tried");
    }
}

#[test]
fn a_segment_that_cannot_be_made_leaves_nothing_and_is_made_later() {
    let prepare = |device: &SimulatedDisk| with_a_hint_due(device, 0);
    at_every_call(6, prepare, |device, engine, _, what| {
        let before = names(device);
        let segment = match engine.preparer.prepare(0) {
            Ok(_) => return false,
            outcome => full(outcome),
        };
        assert!(segment.contains("simulated/0000") && segment.contains(".log needs 16384 bytes, the file system has "), "{segment}");
        assert_eq!(names(device), before, "{what}");
        engine.make_room(|log| log.room_after_truncation(100)).unwrap_or_else(|error| panic!("{what}: {error}"));
        engine.set(b"key 1", &[1; 3000]).expect("staged");
        true
    });
}

#[test]
fn a_hint_that_cannot_be_made_leaves_nothing_and_is_made_later() {
    let prepare = |device: &SimulatedDisk| with_a_hint_due(device, 0);
    at_every_call(5, prepare, |device, engine, _, what| {
        let before = names(device);
        match make_hint(engine) {
            Ok(()) => return false,
            outcome => assert!(full(outcome).contains(".hint"), "{what}"),
        }
        assert_eq!(names(device), before, "{what}");
        make_hint(engine).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        true
    });
}

#[test]
fn a_hint_without_room_is_made_in_the_space_of_the_reserve() {
    let prepare = |device: &SimulatedDisk| with_a_hint_due(device, RESERVE);
    at_every_call(5, prepare, |device, engine, errno, what| {
        let lacks_space = [Errno::NOSPC, Errno::DQUOT].contains(&errno);
        assert!(has_reserve(device), "{what}");
        let noticed = match make_hint(engine) {
            Ok(()) => !has_reserve(device),
            outcome => !full(outcome).is_empty(),
        };
        // More handles do not come of it.
        assert_eq!(has_reserve(device), !(noticed && lacks_space), "{what}");
        assert!(!noticed || lacks_space == names(device).iter().any(|name| name.ends_with(".hint")), "{what}: {:?}", names(device));
        engine.preparer.keep_reserve().expect("there is room");
        assert!(has_reserve(device), "{what}");
        noticed
    });
}

#[test]
fn a_reserve_that_cannot_be_made_leaves_nothing_and_is_made_later() {
    let prepare = |device: &SimulatedDisk| {
        let engine = with_a_hint_due(device, RESERVE);
        let loan = engine.preparer.reserve.lend().expect("removed");
        assert!(loan.is_some() && !has_reserve(device));
        engine
    };
    at_every_call(4, prepare, |device, engine, _, what| {
        let before = names(device);
        match engine.preparer.keep_reserve() {
            Ok(()) => return false,
            outcome => assert!(full(outcome).contains("simulated/reserve needs 8192 bytes"), "{what}"),
        }
        assert_eq!((names(device), engine.preparer.reserve_held()), (before, 0), "{what}");
        engine.preparer.keep_reserve().unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(engine.preparer.reserve_held(), RESERVE);
        true
    });
}

#[test]
fn no_segment_is_made_of_the_reserve_or_of_room_that_it_needs() {
    let device = SimulatedDisk::new(1);
    let mut engine = reserving(&device).expect("opened");
    engine.preparer.keep_reserve().expect("there is room");
    device.set_free_bytes(Some(SEGMENT - 1));
    let reason = full(engine.preparer.prepare(0));
    assert!(reason.ends_with("00000001.log needs 16384 bytes, the file system has 16383 left"), "{reason}");

    // Given away, and not made again while somebody works there.
    let loan = engine.preparer.reserve.lend().expect("removed");
    assert!(loan.is_some() && engine.preparer.reserve.lend().expect("nothing to do").is_none());
    engine.preparer.keep_reserve().expect("nothing to do");
    assert_eq!(engine.preparer.reserve_held(), 0);
    let reason = full(engine.preparer.prepare(0));
    assert!(reason.ends_with("00000001.log needs 16384 bytes and the reserve 8192, the file system has 24575 left"), "{reason}");

    // Somebody else took the room meanwhile.
    drop(loan);
    device.set_free_bytes(Some(RESERVE - 1));
    assert!(full(engine.preparer.keep_reserve()).contains("has 8191 left"));
    device.set_free_bytes(Some(SEGMENT + RESERVE - 1));
    full(engine.preparer.prepare(0));
    engine.preparer.keep_reserve().expect("there is room for it");
    full(engine.preparer.prepare(0));
    device.set_free_bytes(Some(SEGMENT));
    engine.preparer.prepare(0).expect("there is room");
    assert_eq!(device.boot().free_bytes().expect("known"), 0);
}

#[test]
fn a_start_keeps_the_reserve_or_brings_it_to_another_size() {
    let device = SimulatedDisk::new(1);
    let open = |bytes| Engine::open_reserving(device.boot(), SEGMENT, bytes).expect("opened");
    for (bytes, held_at_start) in [(RESERVE, 0), (RESERVE, RESERVE), (2 * RESERVE, 0), (2 * RESERVE, 2 * RESERVE), (0, 0), (RESERVE, 0)] {
        let engine = open(bytes);
        assert_eq!(engine.preparer.reserve_held(), held_at_start, "asked for {bytes}");
        assert_eq!(has_reserve(&device), held_at_start > 0, "asked for {bytes}");
        engine.preparer.keep_reserve().expect("there is room");
        assert_eq!(engine.preparer.reserve_held(), bytes);
        drop(engine);
        device.kill();
    }
    let caller = Caller { marks: &|_| Ok(()), progress: &|done, all| assert!(done <= all, "{done} of {all}") };
    let report = inspect(device.boot(), &caller).expect("nobody runs on it").report;
    assert_eq!((&report.damage[..], &report.notes[..]), (&[][..], &[][..]));
}

#[test]
fn a_node_starts_votes_and_serves_on_a_full_disk() {
    for reserve in [0, RESERVE] {
        let device = SimulatedDisk::new(1);
        let mut engine = with_a_hint_due(&device, reserve);
        engine.make_room(|log| log.room_after_truncation(100)).expect("there is room");
        for start in 0..3 {
            let (contents, last) = (engine.contents(), engine.last().index);
            drop(engine);
            // Not a byte, and what little is free must not be needed either.
            device.crash(if start == 1 { &CrashPolicy::KeepAll } else { &CrashPolicy::LoseAll });
            device.set_free_bytes(Some(0));
            engine = Engine::open_reserving(device.boot(), SEGMENT, RESERVE).expect("a start needs no room");
            engine.apply_to(last);
            assert!(engine.contents() == contents, "start {start}");
            engine.set_term(10 + start).expect("a vote needs no room");
            // As long as a prepared segment lasts, the log goes on.
            while engine.log.room(3000) == Room::Yes {
                engine.set(b"more", &[start as u8; 3000]).expect("staged");
                engine.flush().expect("flushed");
                engine.apply();
            }
            assert!(full(engine.preparer.prepare(0)).contains("needs 16384 bytes"));
        }
        device.set_free_bytes(None);
        engine.make_room(|log| log.room(3000)).expect("there is room again");
        engine.set(b"after", b"value").expect("staged");
        engine.flush().expect("flushed");
    }
}

#[test]
fn a_merge_that_finds_no_room_takes_less_until_the_reserve_is_enough() {
    const BYTES: u64 = 256 << 10;
    for free in [0, BYTES / 4, BYTES / 2, BYTES - 1] {
        let device = SimulatedDisk::new(1);
        let mut engine = Engine::open_reserving(device.boot(), BYTES, BYTES).expect("opened");
        engine.set_term(1).expect("stored");
        engine.preparer.keep_reserve().expect("there is room");
        for number in 0..640 {
            let key = if number % 2 == 0 { b"garbage".to_vec() } else { format!("live {number}").into_bytes() };
            engine.set(&key, &[1; 4000]).expect("staged");
            engine.flush().expect("flushed");
            engine.apply();
        }
        while engine.hint().expect("hinted") {}
        while engine.retire(0).expect("retired") {}
        device.set_free_bytes(Some(free));
        let before = engine.log.file_bytes().0;
        let mut attempts = 0;
        while engine.log.file_bytes().0 > before * 3 / 4 {
            attempts += 1;
            assert!(attempts < 30, "free {free}: no merge makes room");
            let job = engine.log.next_merge().expect("half is garbage");
            match engine.merger.merge(&job, &mut |_| {}) {
                Ok(merged) => {
                    let completion = engine.writer.run(Job::Merge(merged)).expect("named");
                    engine.log.completed(&completion);
                    drop((job, completion));
                    engine.discard().expect("removed");
                    // The host makes it again whenever it asks for a segment.
                    let _ = engine.preparer.keep_reserve();
                }
                Err(PrepareError::Full(_)) => engine.log.merge_had_no_room(),
                Err(PrepareError::Fatal(error)) => panic!("free {free}: {error}"),
            }
        }
    }
}
