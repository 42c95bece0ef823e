//! The state at one entry, pinned and read, and directories made of it: whatever goes on meanwhile, it is that state or nothing.

use super::merges::{Pair, SMALL};
use super::*;
use crate::storage::inspect::{Caller, inspect};
use crate::storage::restore::Restorer;
use crate::storage::simulated::CrashPolicy;
use crate::storage::state_at::StateAt;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// All records of a state, and the state that they make.
fn read(engine: &Engine, state: StateAt, budget: usize) -> (Vec<u8>, Contents) {
    let (bytes, mut reader) = (state.bytes(), engine.snapshots.read_state(state));
    let (mut records, mut contents) = (Vec::new(), BTreeMap::<Vec<u8>, (u64, Option<Vec<u8>>)>::new());
    loop {
        let before = records.len();
        let count = reader.read(budget, &mut records).expect("the files are whole");
        let part = split(&records[before..]);
        assert_eq!(part.len(), count as usize);
        if count == 0 {
            break;
        }
        for bytes in part {
            let (record, _) = record::parse(&bytes).expect("just split");
            let (key, value) = crate::storage::data_file::only_operation(&record).expect("one operation that takes effect");
            if contents.get(key).is_none_or(|(version, _)| record.id.index >= *version) {
                contents.insert(key.to_vec(), (record.id.index, value.map(<[u8]>::to_vec)));
            }
        }
    }
    assert!(records.len() as u64 <= bytes, "{} bytes were announced, {} came", bytes, records.len());
    let standing = contents.into_iter().filter_map(|(key, (version, value))| Some((key, (version, value?))));
    (records, standing.collect())
}

#[test]
fn a_pinned_state_is_what_was_applied_whatever_happens_before_and_after() {
    for round in 0..30 {
        let seed: u64 = rand::random();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let device = SimulatedDisk::new(seed);
        let mut pair = Pair::open(&device, Contents::new());
        for _ in 0..random.random_range(1..300) {
            pair.write_random(&mut random, 25).expect("written");
            match random.random_range(0..40) {
                0 => drop(pair.settle(SMALL).expect("merged")),
                1 => drop(pair.engine.hint().expect("hinted")),
                _ => {}
            }
        }
        // Some entries behind the applied ones do not belong to it.
        if round % 2 == 0 {
            pair.engine.set(b"later", b"x").expect("staged");
            pair.engine.log.freeze();
        }
        let (state, then) = (pair.engine.log.state_at(&pair.engine.applier), pair.model.clone());
        assert_eq!(state.last.index, pair.engine.applier.applied(), "seed {seed}");
        if round % 2 == 0 {
            pair.engine.flush().expect("written");
            pair.engine.apply();
            (pair.model, pair.hash) = (pair.engine.contents(), pair.engine.applier.hash());
        }
        for _ in 0..150 {
            pair.write_random(&mut random, 25).expect("written");
        }
        pair.settle(0).expect("merged");
        let budget = [300, 5000, 1 << 20][round % 3];
        assert!(read(&pair.engine, state, budget).1 == then, "seed {seed}");
        while !pair.engine.log.leaving.is_empty() {
            pair.engine.discard().expect("removed: nobody reads any more");
        }
        pair.check(&format!("seed {seed}"));
    }
}

#[test]
fn damage_under_a_pinned_state_is_named_and_never_handed_out() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let device = SimulatedDisk::new(3);
    let mut pair = Pair::open(&device, Contents::new());
    (0..100).for_each(|_| pair.write_random(&mut random, 40).expect("written"));
    while pair.engine.hint().expect("hinted") {}
    pair.engine.set(b"needle", &[0x5A; 900]).expect("staged");
    pair.engine.flush().expect("written");
    pair.engine.apply();
    for in_log in [false, true] {
        let state = pair.engine.log.state_at(&pair.engine.applier);
        let located = match in_log {
            true => pair.engine.store.lookup(b"needle").expect("just set"),
            false => {
                let hinted = pair.engine.log.hinted();
                let contents = pair.engine.contents();
                let (key, _) = contents.iter().find(|(_, (version, _))| *version <= hinted).expect("something is hinted");
                pair.engine.store.lookup(key).expect("it is there")
            }
        };
        let (file, offset) = located.place();
        let at = offset + 33;
        device.rot(&file, at, 1).expect("the file is there");
        let mut reader = pair.engine.snapshots.read_state(state);
        let mut out = Vec::new();
        let error = loop {
            let before = out.len();
            match reader.read(1000, &mut out) {
                Ok(count) => assert!(count > 0, "the end came without the damage"),
                Err(error) => break (error, before),
            }
        };
        assert_eq!(damage_at(&error.0, &file), offset);
        device.rot(&file, at, 1).expect("the file is there");
    }
}

fn founding() -> Founding {
    let member = |id: &str, uuid| FoundingMember { id: id.into(), uuid };
    Founding { cluster: 0xB0, members: vec![member(ID, 0xA1), member("localhost:8002", 0xA2)] }
}

const LAST: EntryId = EntryId { term: 7, index: 5000 };

fn values() -> Contents {
    let key = |number: u64| format!("key {number:03}").into_bytes();
    (1..60).map(|number| (key(number), (number * 80, vec![number as u8; number as usize * 9]))).collect()
}

fn restore(disk: Arc<dyn Disk>) -> Result<()> {
    let mut restorer = Restorer::begin(disk, ID, founding(), LAST)?.with_file_bytes(6000);
    for (key, (version, value)) in values() {
        restorer.append(EntryId { term: 1 + version / 1000, index: version }, &key, &value)?;
    }
    restorer.finish()
}

#[test]
fn a_restored_directory_starts_with_the_values_and_goes_on_behind_them() {
    let device = SimulatedDisk::new(1);
    restore(device.boot()).expect("restored");
    device.crash(&CrashPolicy::LoseAll);
    let caller = Caller { marks: &|_| Ok(()), progress: &|_, _| {} };
    let report = inspect(device.boot(), &caller).expect("nobody runs on it").report;
    assert!(report.damage.is_empty() && report.notes.is_empty(), "{:?} {:?}", report.damage, report.notes);
    let directory = Directory::open(device.boot(), ID).expect("a member");
    assert_eq!((directory.identity().uuid, directory.identity().boot), (0xA1, 1));
    assert_eq!(directory.founding(), Some(&founding()));
    drop(directory);
    let mut model = values();
    for _ in 0..3 {
        let mut pair = Pair::open(&device, model);
        pair.check("restored");
        assert!(pair.engine.last().index >= LAST.index && pair.engine.last().term >= LAST.term);
        let version = pair.engine.store.lookup(b"key 059").expect("restored").version;
        pair.write(&[Operation::CompareAndSet { key: b"key 059", expected: version, value: b"new" }]).expect("written");
        assert!(pair.model[&b"key 059"[..]].0 > LAST.index.max(version));
        let mut random = ChaCha8Rng::seed_from_u64(1);
        (0..100).for_each(|_| pair.write_random(&mut random, 50).expect("written"));
        pair.settle(0).expect("merged");
        model = pair.model;
        drop(pair.engine);
        device.crash(&CrashPolicy::LoseAll);
    }
}

#[test]
fn a_directory_that_holds_anything_is_not_restored_into() {
    let device = SimulatedDisk::new(1);
    device.boot().create("something").expect("created");
    let error = restore(device.boot()).expect_err("not empty");
    assert!(matches!(&error, Error::Directory(text) if text.contains("something") && text.contains("empty")), "{error}");
    let device = SimulatedDisk::new(2);
    restore(device.boot()).expect("restored");
    assert!(matches!(restore(device.boot()), Err(Error::Directory(_))), "once is enough");
}

#[test]
fn a_power_cut_at_any_operation_leaves_nothing_or_what_a_start_refuses_or_all() {
    let mut outcomes = BTreeMap::<&str, u32>::new();
    for nth in 1.. {
        let device = SimulatedDisk::new(nth);
        device.power_off_at(nth);
        let done = restore(device.boot()).is_ok();
        device.clear_faults();
        let off = device.snapshot();
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random] {
            device.restore(off.clone());
            device.crash(&policy);
            let what = format!("operation {nth}, {policy:?}");
            let names = device.boot().list().expect("listed");
            let outcome = match Directory::open(device.boot(), ID) {
                Err(Error::Corrupt { file, reason, .. }) => {
                    assert!(file == "cluster" && reason.contains("restore"), "{what}: {file}: {reason}");
                    "refused"
                }
                Err(error) => panic!("{what}: {error}"),
                Ok(directory) if directory.founding().is_none() => {
                    assert!(names.iter().all(|name| name == "lock" || name == "hardstate.tmp"), "{what}: {names:?}");
                    "nothing"
                }
                Ok(directory) => {
                    drop(directory);
                    Pair::open(&device, values()).check(&what);
                    "all"
                }
            };
            *outcomes.entry(outcome).or_default() += 1;
            assert!(!done || outcome == "all", "{what}: done, and then {outcome}");
        }
        if done {
            break;
        }
    }
    assert!(outcomes.len() == 3, "all three happen: {outcomes:?}");
}
