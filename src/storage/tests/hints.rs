//! Starts that believe hints, and starts that find them missing or changed: the state is the same.

use super::*;
use crate::storage::simulated::CrashPolicy;

/// A life whose first segments are full of values that were replaced, deleted, refused and kept.
fn with_hints(device: &SimulatedDisk) -> (Contents, Vec<Vec<u8>>, usize) {
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
    (engine.contents(), engine.records(), hints)
}

fn names(device: &SimulatedDisk, end: &str) -> Vec<String> {
    device.boot().list().expect("listed").into_iter().filter(|name| name.ends_with(end)).collect()
}

#[test]
fn a_start_from_hints_is_a_start_from_the_log() {
    let device = SimulatedDisk::new(1);
    let (contents, records, hints) = with_hints(&device);
    assert!(hints >= 3, "{hints} hints");
    assert_eq!(contents, model(&records));
    device.crash(&CrashPolicy::LoseAll);
    let mut engine = Engine::open(device.boot()).expect("reopened");
    assert_eq!(engine.log.hinted(), engine.log.next_hint(u64::MAX).map_or(engine.log.hinted(), |job| job.range().0 - 1));
    engine.apply_to(records.len() as u64);
    assert!(engine.contents() == contents);
    assert!(engine.records() == records);
    // The conditions of what follows see the versions that the hints name.
    let (key, (version, _)) = contents.iter().next().expect("some keys are left");
    engine.propose(&Operation::CompareAndSet { key, expected: *version, value: b"new" }).expect("staged");
    engine.flush().expect("flushed");
    assert_eq!(engine.apply()[0].effect, Effect::Written);
}

#[test]
fn a_hint_that_is_missing_or_changed_is_made_again() {
    let device = SimulatedDisk::new(1);
    let (contents, records, hints) = with_hints(&device);
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
            let mut made = 0;
            while engine.hint().expect("made") {
                made += 1;
            }
            assert_eq!(made, hints - number, "{name}: it and those behind it are made again");
        }
    }
}

#[test]
fn a_hint_that_the_manifest_does_not_name_is_swept() {
    let device = SimulatedDisk::new(1);
    let mut engine = Engine::open(device.boot()).expect("opened");
    engine.set_term(1).expect("stored");
    while engine.log.next_hint(engine.applier.applied()).is_none() {
        engine.set(b"key", &[1; 3000]).expect("staged");
        engine.flush().expect("flushed");
        engine.apply();
    }
    let job = engine.log.next_hint(engine.applier.applied()).expect("just there");
    let (first, last) = job.range();
    engine.hinter.make(&job.with_effects(engine.applier.effects(first, last))).expect("made");
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
    let mut engine = Engine::open(device.boot()).expect("opened");
    engine.set_term(1).expect("stored");
    while engine.log.next_hint(engine.applier.applied()).is_none() {
        engine.set(b"key", &[1; 3000]).expect("staged");
        engine.flush().expect("flushed");
        engine.apply();
    }
    device.rot("00000001.log", 4096 + 96 + 700, 1).expect("rotted");
    let error = engine.hint().expect_err("the CRC differs");
    assert_eq!(damage_at(&error, "00000001.log"), 4096 + 96);
}
