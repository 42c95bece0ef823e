//! Starts that believe hints, and starts that find them missing or changed: the state is the same.

use super::*;
use crate::storage::inspect::{Caller, Report, inspect};
use crate::storage::simulated::CrashPolicy;
use crate::storage::state_hash::StateHash;

/// A life whose first segments are full of values that were replaced, deleted, refused and kept.
fn with_hints(device: &SimulatedDisk) -> (Contents, Vec<Vec<u8>>, usize) {
    let (contents, records, hints, _) = with_hints_and_hash(device);
    (contents, records, hints)
}

fn with_hints_and_hash(device: &SimulatedDisk) -> (Contents, Vec<Vec<u8>>, usize, StateHash) {
    let mut engine = Engine::open(device.boot()).expect("opened");
    engine.set_term(1).expect("stored");
    for number in 0..200_u64 {
        let (key, value) = (format!("key {:02}", number % 40), vec![number as u8; 300]);
        let key = key.as_bytes();
        let operation = match number % 7 {
            3 => Operation::Delete { key },
            5 => Operation::CompareAndSet { key, expected: number.saturating_sub(40) + 1, value: &value },
            6 => Operation::CompareAndSet { key, expected: 1_000_000, value: &value },
            _ => Operation::Set { key, value: &value },
        };
        engine.propose(&operation).expect("staged");
        engine.flush().expect("flushed");
        engine.apply();
    }
    let mut hints = 0;
    while engine.hint().expect("made") {
        hints += 1;
    }
    (engine.contents(), engine.records(), hints, engine.applier.hash())
}

/// A life whose first segment is sealed and applied, and has no hint yet.
fn with_a_hint_due(device: &SimulatedDisk) -> Engine {
    let mut engine = Engine::open(device.boot()).expect("opened");
    engine.set_term(1).expect("stored");
    while engine.log.next_hint(engine.applier.applied()).is_none() {
        engine.set(b"key", &[1; 3000]).expect("staged");
        engine.flush().expect("flushed");
        engine.apply();
    }
    engine
}

fn names(device: &SimulatedDisk, end: &str) -> Vec<String> {
    device.boot().list().expect("listed").into_iter().filter(|name| name.ends_with(end)).collect()
}

#[test]
fn a_start_from_hints_is_a_start_from_the_log() {
    let device = SimulatedDisk::new(1);
    let (contents, records, hints, hash) = with_hints_and_hash(&device);
    assert!(hints >= 3, "{hints} hints");
    assert_eq!(contents, model(&records));
    device.crash(&CrashPolicy::LoseAll);
    let mut engine = Engine::open(device.boot()).expect("reopened");
    assert_eq!(engine.log.hinted(), engine.log.next_hint(u64::MAX).map_or(engine.log.hinted(), |job| job.range().0 - 1));
    engine.apply_to(records.len() as u64);
    assert!(engine.contents() == contents);
    assert!(engine.records() == records);
    assert_eq!(engine.applier.hash(), hash);
    // The conditions of what follows see the versions that the hints name.
    let (key, (version, _)) = contents.iter().next().expect("some keys are left");
    engine.propose(&Operation::CompareAndSet { key, expected: *version, value: b"new" }).expect("staged");
    engine.flush().expect("flushed");
    assert_eq!(engine.apply()[0].effect, Effect::Written);
}

#[test]
fn a_hint_that_is_missing_or_changed_is_made_again() {
    let device = SimulatedDisk::new(1);
    let (contents, records, hints, hash) = with_hints_and_hash(&device);
    let image = device.snapshot();
    for (number, name) in names(&device, ".hint").iter().enumerate() {
        for rot in [true, false] {
            let device = SimulatedDisk::new(number as u64);
            device.restore(image.clone());
            if rot {
                device.rot(name, 200 + number as u64 * 50, 4).expect("rotted");
            } else {
                let disk = device.boot();
                disk.remove(name).expect("removed");
                disk.sync_directory().expect("synced");
                drop(disk);
                device.crash(&CrashPolicy::LoseAll);
            }
            let mut engine = Engine::open(device.boot()).unwrap_or_else(|error| panic!("{name}: {error}"));
            engine.apply_to(records.len() as u64);
            assert!(engine.contents() == contents, "{name}");
            assert_eq!(engine.applier.hash(), hash, "{name}");
            let mut made = 0;
            while engine.hint().expect("made") {
                made += 1;
            }
            assert_eq!(made, hints - number, "{name}: it and those behind it are made again");
        }
    }
}

#[test]
fn a_hint_without_a_state_hash_is_made_again() {
    let device = SimulatedDisk::new(1);
    let (contents, records, hints, hash) = with_hints_and_hash(&device);
    let name = &names(&device, ".hint")[1];
    let (disk, mut bytes) = (device.boot(), Vec::new());
    let file = disk.open(name).expect("it is there");
    bytes.resize(file.length().expect("known") as usize, 0);
    file.read_at(&mut bytes, 0).expect("read");
    crate::storage::hint::into_first_version(&mut bytes);
    disk.remove(name).expect("removed");
    let file = disk.create(name).expect("created");
    file.write_at(&[&bytes], 0).expect("written");
    file.sync().expect("synced");
    disk.sync_directory().expect("synced");
    drop((file, disk));
    device.crash(&CrashPolicy::LoseAll);

    for made in [hints - 1, 0] {
        let mut engine = Engine::open(device.boot()).expect("an older format is read");
        engine.apply_to(records.len() as u64);
        assert!(engine.contents() == contents);
        assert_eq!(engine.applier.hash(), hash);
        assert_eq!((0..).take_while(|_| engine.hint().expect("made")).count(), made);
        drop(engine);
        device.crash(&CrashPolicy::LoseAll);
    }
}

#[test]
fn a_hint_that_the_manifest_does_not_name_is_swept() {
    let device = SimulatedDisk::new(1);
    let engine = with_a_hint_due(&device);
    let job = engine.log.next_hint(engine.applier.applied()).expect("just there");
    let (first, last) = job.range();
    engine.hinter.make(&job.with_effects(engine.applier.effects(first, last), engine.applier.hash_behind(last))).expect("made");
    assert_eq!(names(&device, ".hint").len(), 1);
    let contents = engine.contents();
    drop(engine);
    device.crash(&CrashPolicy::KeepAll);
    let mut engine = Engine::open(device.boot()).expect("reopened");
    assert_eq!(names(&device, ".hint").len(), 0);
    engine.apply_to(engine.last().index);
    assert!(engine.contents() == contents);
}

#[test]
fn a_damaged_record_gets_no_hint() {
    let device = SimulatedDisk::new(1);
    let mut engine = with_a_hint_due(&device);
    device.rot("00000001.log", 4096 + 96 + 700, 1).expect("rotted");
    let error = engine.hint().expect_err("the CRC differs");
    assert_eq!(damage_at(&error, "00000001.log"), 4096 + 96);
}

/// Fills segments until the oldest one may get a hint.
fn until_sealed(engine: &mut Engine) {
    while engine.log.next_hint(engine.applier.applied()).is_none() {
        engine.set(b"key", &[1; 3000]).expect("staged");
        engine.flush().expect("flushed");
        engine.apply();
    }
}

#[test]
fn entries_without_keys_and_memberships_are_told_by_hints_too() {
    let device = SimulatedDisk::new(1);
    let mut engine = Engine::open(device.boot()).expect("opened");
    engine.set_term(1).expect("stored");
    let config = crate::raft::Config { voters: vec![crate::raft::NodeId(1)], learners: vec![crate::raft::NodeId(2)] };
    for index in 1..=500 {
        let id = EntryId { term: 1 + index / 100, index };
        let record = if index % 90 == 0 { sealed(id, Kind::Config, &record::encode_config(&config)) } else { sealed(id, Kind::NoOp, &[]) };
        engine.stage(&record).expect("staged");
        if index % 10 == 0 {
            engine.flush().expect("flushed");
            engine.apply();
        }
    }
    engine.set_term(9).expect("stored");
    until_sealed(&mut engine);
    while engine.hint().expect("made") {}
    let (outline, records) = (engine.log.outline(), engine.records());
    assert!(engine.log.hinted() > 200, "{}", engine.log.hinted());
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
    let mut engine = Engine::open(device.boot()).expect("reopened");
    assert!(engine.log.outline() == outline && engine.records() == records);
    assert!(engine.commit >= engine.log.hinted());
}

#[test]
fn a_segment_shortened_by_a_conflict_gets_its_hint_after_its_last_seal() {
    let device = SimulatedDisk::new(1);
    let mut engine = Engine::open(device.boot()).expect("opened");
    engine.set_term(1).expect("stored");
    engine.set(b"kept", b"value").expect("staged");
    engine.flush().expect("flushed");
    engine.apply();
    // The first segment is sealed behind its last batch; then what is not applied is superseded, twice.
    while engine.log.prepared() > 0 || engine.last().index < 8 {
        engine.set(b"gone", &[7; 3000]).expect("staged");
        engine.flush().expect("flushed");
    }
    for from in [4, 2] {
        engine.make_room(|log| log.room_after_truncation(1000)).expect("prepared");
        engine.truncate(from);
        assert!(engine.log.next_hint(engine.applier.applied()).is_none(), "its seal is still to come");
    }
    engine.set_term(2).expect("stored");
    engine.set(b"new", b"value").expect("staged");
    while engine.run_job().expect("written") {
        if let Some(job) = engine.log.next_hint(engine.applier.applied()) {
            assert_eq!(job.range(), (1, 1));
        }
    }
    engine.apply();
    assert!(engine.hint().expect("made"));
    assert_eq!(engine.log.hinted(), 1);
    let contents = engine.contents();
    assert_eq!(contents.keys().map(|key| &key[..]).collect::<Vec<_>>(), [&b"kept"[..], b"new"]);
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
    let mut engine = Engine::open(device.boot()).expect("reopened");
    assert_eq!(engine.log.hinted(), 1);
    engine.apply_to(2);
    assert!(engine.contents() == contents);
}

#[test]
fn a_deletion_in_a_hint_outlives_the_older_value() {
    let device = SimulatedDisk::new(1);
    let mut engine = Engine::open(device.boot()).expect("opened");
    engine.set_term(1).expect("stored");
    engine.set(b"deleted", b"value").expect("staged");
    until_sealed(&mut engine);
    engine.propose(&Operation::Delete { key: b"deleted" }).expect("staged");
    engine.flush().expect("flushed");
    engine.apply();
    while engine.hint().expect("made") {}
    until_sealed(&mut engine);
    while engine.hint().expect("made") {}
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
    let mut engine = Engine::open(device.boot()).expect("reopened");
    assert_eq!(engine.get(b"deleted"), None);
    engine.apply_to(engine.last().index);
    engine.propose(&Operation::CompareAndSet { key: b"deleted", expected: 0, value: b"again" }).expect("staged");
    engine.flush().expect("flushed");
    assert_eq!(engine.apply()[0].effect, Effect::Written);
}

fn look(device: &SimulatedDisk) -> Report {
    let caller = Caller { marks: &|_| Ok(()), progress: &|done, all| assert!(done <= all, "{done} of {all}") };
    inspect(device.boot(), &caller).expect("nobody runs on it").report
}

#[test]
fn looking_reads_what_a_start_takes_from_hints() {
    let device = SimulatedDisk::new(1);
    let (_, records, hints) = with_hints(&device);
    let image = device.snapshot();
    let report = look(&device);
    assert_eq!((&report.damage[..], &report.notes[..]), (&[][..], &[][..]), "{hints} hints");
    assert_eq!(report.log.map(|log| log.entries), Some(records.len() as u64));

    device.rot("00000001.hint", 300, 4).expect("rotted");
    let report = look(&device);
    assert!(report.damage.is_empty() && report.notes.len() == 1 && report.notes[0].file == "00000001.hint", "{:?}", report.notes);

    // A start would not read this record, looking does.
    device.restore(image);
    device.rot("00000001.log", 4096 + 96 + 100, 1).expect("rotted");
    assert!(look(&device).damage.iter().any(|found| found.file == "00000001.log"));
    Engine::open(device.boot()).expect("the hint says all that a start needs");
}
