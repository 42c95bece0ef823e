//! Conditions, scans, and the whole engine against a plain map.

use super::*;
use crate::storage::simulated::CrashPolicy;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn engine() -> Engine {
    let mut engine = Engine::open(SimulatedDisk::new(1).boot()).expect("opened");
    engine.set_term(1).expect("stored");
    engine
}

fn command(operations: &[Operation<'_>]) -> Vec<u8> {
    let mut payload = Vec::new();
    for operation in operations {
        let mut record = Vec::new();
        record::encode_operation(&mut record, operation);
        payload.extend_from_slice(&record[record::HEADER_BYTES..]);
    }
    payload
}

#[test]
fn conditions_are_decided_in_log_order() {
    let mut engine = engine();
    let (key, value) = (b"k".as_slice(), b"v".as_slice());
    let operations = [
        Operation::Delete { key },
        Operation::CompareAndSet { key, expected: 0, value },
        Operation::CompareAndSet { key, expected: 0, value },
        Operation::CompareAndSet { key, expected: 2, value: b"w" },
        Operation::Delete { key },
        Operation::CompareAndSet { key, expected: 4, value },
        Operation::Set { key, value: b"" },
    ];
    operations.iter().for_each(|operation| {
        engine.propose(operation).expect("staged");
    });
    engine.flush().expect("flushed");
    let effects: Vec<Effect> = engine.apply().iter().map(|applied| applied.effect).collect();
    let conflict = |current| Effect::Conflict { current };
    let expected = [Effect::NotFound, Effect::Written, conflict(2), Effect::Written, Effect::Written, conflict(0), Effect::Written];
    assert_eq!(effects, expected);
    assert_eq!(engine.get(key), Some((7, Vec::new())));
}

#[test]
fn operations_of_one_entry_take_effect_together_or_not_at_all() {
    let mut engine = engine();
    let set = |key, value| Operation::Set { key, value };
    let id = |index| EntryId { term: 1, index };
    let pair = command(&[set(b"a", b"1"), set(b"b", b"2")]);
    let refused = command(&[set(b"a", b"3"), Operation::CompareAndSet { key: b"b", expected: 9, value: b"4" }]);
    let swap = command(&[Operation::Delete { key: b"a" }, set(b"a", b"old"), set(b"a", b"new")]);
    for (index, payload) in (1..).zip([pair, refused, swap]) {
        engine.stage(&sealed(id(index), Kind::Command, &payload)).expect("staged");
    }
    engine.flush().expect("flushed");
    let effects: Vec<Effect> = engine.apply().iter().map(|applied| applied.effect).collect();
    assert_eq!(effects, [Effect::Written, Effect::Conflict { current: 1 }, Effect::Written]);
    assert_eq!(engine.get(b"a"), Some((3, b"new".to_vec())));
    assert_eq!(engine.get(b"b"), Some((1, b"2".to_vec())));
}

#[test]
fn a_page_ends_at_its_limits_and_says_whether_there_is_more() {
    let mut engine = engine();
    for number in 0..100 {
        engine.set(format!("p{number:03}").as_bytes(), &[0; 100]).expect("staged");
    }
    engine.set(b"q", b"").expect("staged");
    engine.flush().expect("flushed");
    engine.apply();
    let page = |prefix: &[u8], cursor: &[u8], limit, bytes, keys_only| {
        let page = engine.store.scan(prefix, cursor, limit, bytes, keys_only);
        let keys: Vec<String> = page.entries.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
        (keys.len(), keys.last().cloned().unwrap_or_default(), page.more)
    };
    assert_eq!(page(b"p", b"", 10, 1 << 20, false), (10, "p009".into(), true));
    assert_eq!(page(b"p", b"p009", 90, 1 << 20, false), (90, "p099".into(), false));
    assert_eq!(page(b"p", b"p099", 10, 1 << 20, false), (0, String::new(), false));
    assert_eq!(page(b"", b"p098", 10, 1 << 20, false), (2, "q".into(), false));
    assert_eq!(page(b"p", b"", 1000, 1200, false), (10, "p009".into(), true));
    assert_eq!(page(b"p", b"", 1000, 1200, true), (60, "p059".into(), true));
    assert_eq!(page(b"p", b"", 1000, 1, false), (1, "p000".into(), true), "at least one pair");
    assert_eq!(page(b"x", b"", 1000, 1, false), (0, String::new(), false));
}

#[test]
fn a_value_that_changed_on_disk_is_refused() {
    let device = SimulatedDisk::new(1);
    let mut engine = Engine::open(device.boot()).expect("opened");
    engine.set_term(1).expect("stored");
    engine.set(b"k", &[9; 1000]).expect("staged");
    engine.flush().expect("flushed");
    engine.apply();
    let located = engine.store.lookup(b"k").expect("there");
    device.rot("00000001.log", 4096 + 96 + 500, 1).expect("rotted");
    let mut value = b"before".to_vec();
    let error = engine.store.read(b"k", &located, &mut value).expect_err("the CRC differs");
    assert_eq!(damage_at(&error, "00000001.log"), 4096 + 96);
    assert_eq!(value, b"before");
    let error = engine.log.pieces(1, 1)[0].write_to(&mut value).expect_err("the CRC differs");
    assert_eq!(damage_at(&error, "00000001.log"), 4096 + 96);
    assert_eq!(value, b"before");
}

/// One random command.
fn random_operation<'a>(random: &mut ChaCha8Rng, key: &'a [u8], value: &'a [u8], contents: &Contents) -> Operation<'a> {
    let current = contents.get(key).map_or(0, |(version, _)| *version);
    match random.random_range(0..6) {
        0 => Operation::Delete { key },
        1 => Operation::CompareAndSet { key, expected: current, value },
        2 => Operation::CompareAndSet { key, expected: u64::from(random.next_u32() % 50), value },
        _ => Operation::Set { key, value },
    }
}

#[test]
fn it_behaves_like_a_map_through_crashes_and_conflicts() {
    for _ in 0..8 {
        let seed: u64 = rand::random();
        // Shown by the test harness when the test fails.
        eprintln!("seed {seed}");
        random_life(seed);
    }
}

fn random_life(seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let device = SimulatedDisk::new(seed);
    let mut engine = Engine::open(device.boot()).expect("opened");
    engine.set_term(1).expect("stored");
    let (mut log, mut superseded) = (Vec::<Vec<u8>>::new(), Vec::new());
    let (mut committed, mut contents) = (0, Contents::new());
    for _ in 0..600 {
        match random.random_range(0..20) {
            0 => {
                let (durable, policy) = (engine.durable as usize, [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random]);
                drop(engine);
                device.crash(&policy[random.random_range(0..3)]);
                engine = Engine::open(device.boot()).expect("reopened");
                let records = engine.records();
                // A conflict that was not durable yet may be undone: nothing behind it was.
                superseded.push(log);
                let known = superseded.iter().any(|log| log.starts_with(&records));
                assert!(records.len() >= durable && known, "{} of {durable}", records.len());
                superseded.clear();
                log = records;
                assert!(engine.commit <= committed, "{} of {committed}", engine.commit);
                assert!(engine.contents() == model(&log[..engine.commit as usize]));
                engine.apply_to(committed);
            }
            1 if engine.last().index > committed => {
                let from = random.random_range(committed + 1..=engine.last().index);
                eprintln!("truncate {from} of {} commited {committed}", engine.last());
                engine.truncate(from);
                superseded.push(log.clone());
                log.truncate(from as usize - 1);
                engine.set_term(engine.hard_state.term + 1).expect("stored");
            }
            2 => engine.log.close_when_idle(),
            3 => {
                engine.hint().expect("written");
            }
            4..8 => {
                if !engine.run_job().expect("written") {
                    superseded.clear();
                }
            }
            8..10 => {
                let until = random.random_range(committed..=engine.durable);
                for applied in engine.apply_to(until) {
                    let (record, _) = record::parse(&log[applied.id.index as usize - 1]).expect("valid");
                    assert_eq!(applied.effect, apply_to_model(&mut contents, &record));
                }
                (committed, engine.commit) = (until, until);
            }
            _ => {
                let key = format!("{:x}", random.next_u32() % 40);
                let length = [0, 10, 300, 3_000][random.random_range(0..4)];
                let value = vec![random.next_u32() as u8; length];
                let operation = random_operation(&mut random, key.as_bytes(), &value, &contents);
                let id = engine.propose(&operation).expect("staged");
                log.push(sealed_operation(id, &operation));
            }
        }
        assert_eq!(engine.last().index, log.len() as u64);
    }
    assert!(engine.contents() == contents);
    assert!(engine.records() == log);
}

#[test]
fn a_lost_effect_shows_in_the_hash_as_soon_as_its_key_is_touched() {
    let operations = [
        Operation::Set { key: b"a", value: b"1" },
        Operation::Set { key: b"b", value: b"2" },
        Operation::Set { key: b"a", value: b"3" },
        Operation::Delete { key: b"b" },
    ];
    // Which entry loses its effect, and behind how many the hashes are still the same.
    for (lost, same) in [(0, 4), (1, 2), (2, 3), (4, 4)] {
        let engines = [0, lost].map(|lost| {
            let mut engine = Engine::open(SimulatedDisk::new(1).boot()).expect("opened");
            engine.applier.lose(lost);
            engine.set_term(1).expect("stored");
            engine
        });
        let hashes = engines.map(|mut engine| {
            let hash = |operation: &Operation<'_>| {
                engine.propose(operation).expect("staged");
                engine.flush().expect("flushed");
                engine.apply();
                engine.applier.hash()
            };
            operations.iter().map(hash).collect::<Vec<_>>()
        });
        let equal = hashes[0].iter().zip(&hashes[1]).take_while(|(one, other)| one == other).count();
        assert_eq!(equal, same, "entry {lost} is lost");
        assert!(hashes[0][same..].iter().zip(&hashes[1][same..]).all(|(one, other)| one != other), "and never the same again");
    }
}
