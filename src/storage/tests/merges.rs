//! Entries that leave the log, and merges of what has left it: the state stays what applying every entry in order makes of it, whenever
//! the power goes.

use super::*;
use crate::storage::inspect::{Caller, inspect};
use crate::storage::simulated::{CrashPolicy, DiskImage};
use crate::storage::state_hash::{Hashed, Met, StateHash};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Small enough for many files in a short life.
pub(super) const SMALL: u64 = 8 << 10;

/// A node, and what its state must be by the plainest means.
pub(super) struct Pair {
    pub(super) engine: Engine,
    pub(super) model: Contents,
    /// What the state hash must be by the plainest means.
    pub(super) hash: StateHash,
}

impl Pair {
    pub(super) fn open(device: &SimulatedDisk, model: Contents) -> Pair {
        let mut engine = Engine::open_with(device.boot(), SMALL).unwrap_or_else(|error| panic!("{error}"));
        let term = engine.hard_state.term + 1;
        engine.apply_to(engine.last().index);
        engine.commit = engine.last().index;
        engine.set_term(term).expect("stored");
        let hash = engine.applier.hash();
        Pair { engine, model, hash }
    }

    pub(super) fn write(&mut self, operations: &[Operation<'_>]) -> Result<()> {
        let id = EntryId { term: self.engine.hard_state.term, index: self.engine.last().index + 1 };
        let mut payload = Vec::new();
        for operation in operations {
            let mut one = Vec::new();
            record::encode_operation(&mut one, operation);
            payload.extend_from_slice(&one[record::HEADER_BYTES..]);
        }
        let bytes = sealed(id, Kind::Command, &payload);
        self.engine.stage(&bytes)?;
        self.engine.flush()?;
        let effect = self.engine.apply()[0].effect;
        let (record, _) = record::parse(&bytes).expect("just sealed");
        let (mut met, mut before) = (Met::default(), self.model.clone());
        assert_eq!(apply_to_model(&mut self.model, &record), effect, "{id}");
        match effect {
            Effect::Conflict { current } => met.version(current),
            Effect::Written => operations.iter().for_each(|operation| {
                met.version(before.get(operation.key()).map_or(0, |(version, _)| *version));
                match operation {
                    Operation::Delete { key } => drop(before.remove(*key)),
                    _ => drop(before.insert(operation.key().to_vec(), (id.index, Vec::new()))),
                }
            }),
            Effect::None | Effect::NotFound => {}
        }
        let (crc, took) = (record::header_crc(&bytes), effect == Effect::Written);
        self.hash = self.hash.after(&Hashed { index: id.index, term: id.term, crc, took, met });
        assert_eq!(self.engine.applier.hash(), self.hash, "{id} with effect {effect:?}");
        Ok(())
    }

    /// A random command on a few keys.
    pub(super) fn write_random(&mut self, random: &mut ChaCha8Rng, keys: u32) -> Result<()> {
        let count = if random.random_bool(0.1) { 2 } else { 1 };
        let chosen: Vec<Vec<u8>> = (0..count).map(|_| format!("key {:03}", random.random_range(0..keys)).into_bytes()).collect();
        let value = vec![random.next_u32() as u8; random.random_range(0..400)];
        let kinds: Vec<u32> = (0..count).map(|_| random.random_range(0..10)).collect();
        let operations: Vec<Operation<'_>> = chosen
            .iter()
            .zip(kinds)
            .map(|(key, kind)| {
                let current = self.model.get(key).map_or(0, |(version, _)| *version);
                match kind {
                    0..3 => Operation::Delete { key },
                    3..5 => Operation::CompareAndSet { key, expected: current, value: &value },
                    5 => Operation::CompareAndSet { key, expected: current + 1, value: &value },
                    _ => Operation::Set { key, value: &value },
                }
            })
            .collect();
        self.write(&operations)
    }

    pub(super) fn check(&self, what: &str) {
        let contents = self.engine.contents();
        assert!(contents == self.model, "{what}: {} keys, {} expected", contents.len(), self.model.len());
    }

    /// Hints, retires and merges until there is nothing to do.
    pub(super) fn settle(&mut self, retain: u64) -> Result<u64> {
        while self.engine.hint()? {}
        while self.engine.retire(retain)? {}
        let mut merges = 0;
        while self.engine.merge()? {
            merges += 1;
            assert!(merges < 100, "merges come to an end");
        }
        Ok(merges)
    }
}

fn run(seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let device = SimulatedDisk::new(seed);
    let mut pair = Pair::open(&device, Contents::new());
    let keys = random.random_range(3..60);
    for step in 0..random.random_range(100..700) {
        let what = format!("seed {seed}, step {step}");
        pair.write_random(&mut random, keys).unwrap_or_else(|error| panic!("{what}: {error}"));
        match random.random_range(0..40) {
            0 => drop(pair.settle(SMALL * random.random_range(0..6)).expect("merged")),
            1 => drop(pair.engine.hint().expect("hinted")),
            2 => drop(pair.engine.retire(0).expect("retired")),
            3 => drop(pair.engine.merge().expect("merged")),
            4 => {
                let Pair { engine, model, hash } = pair;
                drop(engine);
                device.crash([&CrashPolicy::LoseAll, &CrashPolicy::Random][random.random_range(0..2)]);
                pair = Pair::open(&device, model);
                assert_eq!(pair.hash, hash, "{what}: hints, retirements and merges leave the hash as it is");
                pair.check(&what);
            }
            _ => {}
        }
    }
    pair.check(&format!("seed {seed}, the end"));
    let Pair { engine, model, hash } = pair;
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
    let caller = Caller { marks: &|_| Ok(()), progress: &|_, _| {} };
    let report = inspect(device.boot(), &caller).expect("nobody runs on it").report;
    assert!(report.damage.is_empty(), "seed {seed}: {:?}", report.damage);
    assert_eq!(report.log.and_then(|log| log.keys), Some(model.len() as u64), "seed {seed}");
    let pair = Pair::open(&device, model);
    pair.check(&format!("seed {seed}, reopened"));
    assert_eq!(pair.hash, hash, "seed {seed}, reopened");
}

#[test]
fn random_lives_with_merges_keep_the_state() {
    let first: u64 = std::env::var("APEXKV_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("APEXKV_SEED is a number"));
    let count = if std::env::var("APEXKV_SEED").is_ok() { 1 } else { 40 };
    (0..count).for_each(|number| run(first.wrapping_add(number)));
}

/// A life whose files wait to be retired and merged.
fn with_garbage() -> (DiskImage, Contents) {
    let device = SimulatedDisk::new(1);
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut pair = Pair::open(&device, Contents::new());
    (0..120).for_each(|_| pair.write_random(&mut random, 12).expect("written"));
    pair.settle(2 * SMALL).expect("merged");
    (0..120).for_each(|_| pair.write_random(&mut random, 12).expect("written"));
    drop(pair.engine);
    device.crash(&CrashPolicy::LoseAll);
    (device.snapshot(), pair.model)
}

#[test]
fn a_power_cut_at_any_operation_of_a_merge_changes_nothing() {
    let (image, model) = with_garbage();
    for nth in 1.. {
        let device = SimulatedDisk::new(nth);
        device.restore(image.clone());
        let mut pair = Pair::open(&device, model.clone());
        device.power_off_at(nth);
        let done = pair.settle(0).is_ok();
        device.clear_faults();
        drop(pair);
        let off = device.snapshot();
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random] {
            device.restore(off.clone());
            device.crash(&policy);
            let what = format!("operation {nth}, {policy:?}");
            let mut pair = Pair::open(&device, model.clone());
            pair.check(&what);
            pair.settle(0).expect("merged");
            pair.check(&what);
            drop(pair);
            device.crash(&CrashPolicy::LoseAll);
            Pair::open(&device, model.clone()).check(&format!("{what}, again"));
        }
        if done {
            assert!(nth > 30, "maintenance has more than {nth} operations");
            break;
        }
    }
}

#[test]
fn without_room_a_merge_leaves_nothing_behind_and_works_later() {
    let (image, model) = with_garbage();
    for nth in 1..200 {
        let device = SimulatedDisk::new(nth);
        device.restore(image.clone());
        let mut pair = Pair::open(&device, model.clone());
        while pair.engine.hint().expect("hinted") {}
        while pair.engine.retire(0).expect("retired") {}
        device.fail_at(crate::storage::simulated::OperationKind::Write, nth, crate::storage::simulated::Errno::NOSPC);
        let Some(job) = pair.engine.log.next_merge() else { panic!("there is garbage") };
        let failed = pair.engine.merger.merge(&job, &mut |_| {});
        device.clear_faults();
        match failed {
            Ok(_) => return assert!(nth > 2, "a merge writes more than {nth} times"),
            Err(PrepareError::Full(reason)) => assert!(reason.contains("cannot write"), "{reason}"),
            Err(PrepareError::Fatal(error)) => panic!("write {nth}: {error}"),
        }
        let listed: Vec<String> = pair.engine.writer.disk.list().expect("listed");
        let known = |name: &&String| !name.ends_with(".tmp");
        assert_eq!(listed.iter().filter(known).count(), listed.len(), "{listed:?}");
        pair.settle(0).expect("merged");
        pair.check(&format!("write {nth}"));
    }
    panic!("a merge has fewer than 200 writes");
}

#[test]
fn what_was_deleted_stays_deleted_and_its_records_go() {
    let device = SimulatedDisk::new(1);
    let mut pair = Pair::open(&device, Contents::new());
    let keys: Vec<Vec<u8>> = (0..40_u8).map(|key| vec![key; 20]).collect();
    for _ in 0..3 {
        keys.iter().for_each(|key| pair.write(&[Operation::Set { key, value: &[1; 300] }]).expect("written"));
        pair.settle(0).expect("merged");
        keys.iter().for_each(|key| pair.write(&[Operation::Delete { key }]).expect("written"));
        pair.settle(0).expect("merged");
    }
    // Entries about another key push everything else out of the log.
    for _ in 0..60 {
        pair.write(&[Operation::Set { key: b"other", value: &[2; 900] }]).expect("written");
        pair.settle(0).expect("merged");
    }
    let files: Vec<_> =
        pair.engine.log.files.values().map(|file| (file.segment.name().to_owned(), file.end, file.deletions, file.hinted)).collect();
    assert!(pair.engine.log.file_bytes().0 < 4 * SMALL, "{files:?}, hinted {}", pair.engine.log.hinted());
    let Pair { engine, model, .. } = pair;
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
    let pair = Pair::open(&device, model);
    pair.check("reopened");
    assert_eq!(pair.model.len(), 1);
}

#[test]
fn a_pinned_value_is_read_after_its_file_was_merged() {
    let device = SimulatedDisk::new(1);
    let mut pair = Pair::open(&device, Contents::new());
    pair.write(&[Operation::Set { key: b"pinned", value: b"old" }]).expect("written");
    let located = pair.engine.store.lookup(b"pinned").expect("there");
    for _ in 0..40 {
        pair.write(&[Operation::Set { key: b"pinned", value: &[2; 900] }]).expect("written");
    }
    assert!(pair.settle(0).expect("merged") > 0);
    let listed = || device.boot().list().expect("listed").contains(&"00000001.log".to_owned());
    assert!(listed(), "it is removed when nobody reads it any more");
    let mut value = Vec::new();
    pair.engine.store.read(b"pinned", &located, &mut value).expect("the handle is kept");
    assert_eq!(value, b"old");
    drop(located);
    pair.engine.discard().expect("removed");
    assert!(!listed());
}

#[test]
fn damage_in_a_file_stops_its_merge_and_is_named() {
    let (image, model) = with_garbage();
    let device = SimulatedDisk::new(1);
    device.restore(image);
    let mut pair = Pair::open(&device, model);
    while pair.engine.hint().expect("hinted") {}
    while pair.engine.retire(0).expect("retired") {}
    let job = pair.engine.log.next_merge().expect("there is garbage");
    let kept = job.inputs.iter().find(|input| pair.engine.store.live_of([input.segment.id()].into_iter())[0] > 0).expect("values stand");
    let name = kept.segment.name().to_owned();
    for offset in (4096 + 40..kept.end).step_by(50) {
        device.rot(&name, offset, 1).expect("rotted");
    }
    match pair.engine.merger.merge(&job, &mut |_| {}) {
        Err(PrepareError::Fatal(error)) => assert!(damage_at(&error, &name) >= 4096),
        other => panic!("{other:?}"),
    }
}

#[test]
fn hints_made_while_a_merge_runs_are_needed_behind_it() {
    let device = SimulatedDisk::new(1);
    let mut pair = Pair::open(&device, Contents::new());
    pair.write(&[Operation::Set { key: b"k", value: b"v" }]).expect("written");
    let fill = |pair: &mut Pair, segments: usize| {
        while pair.engine.log.segments.len() < segments {
            pair.write(&[Operation::Set { key: b"g", value: &[1; 300] }]).expect("written");
        }
    };
    fill(&mut pair, 4);
    while pair.engine.hint().expect("hinted") {}
    while pair.engine.retire(0).expect("retired") {}
    let job = pair.engine.log.next_merge().expect("much garbage");
    // Decided against the value of k, which is then deleted. Both get a hint before the merge looks at k.
    let condition = Operation::CompareAndSet { key: b"k", expected: 1, value: b"x" };
    pair.write(&[condition, Operation::Set { key: b"j", value: b"acknowledged" }]).expect("written");
    pair.write(&[Operation::Delete { key: b"k" }]).expect("written");
    let segments = pair.engine.log.segments.len() + 2;
    fill(&mut pair, segments);
    while pair.engine.hint().expect("hinted") {}
    let merged = pair.engine.merger.merge(&job, &mut |_| {}).expect("merged");
    let completion = pair.engine.writer.run(Job::Merge(merged)).expect("named");
    pair.engine.log.completed(&completion);
    drop((job, completion));
    pair.engine.discard().expect("removed");
    pair.check("merged");
    let Pair { engine, model, .. } = pair;
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
    let image = device.snapshot();
    let hints: Vec<String> = device.boot().list().expect("listed").into_iter().filter(|name| name.ends_with(".hint")).collect();
    let mut refused = 0;
    for name in hints {
        device.restore(image.clone());
        device.rot(&name, 120, 1).expect("rotted");
        match Engine::open_with(device.boot(), SMALL) {
            Err(error) => {
                damage_at(&error, &name);
                refused += 1;
            }
            Ok(mut engine) => {
                engine.apply_to(engine.last().index);
                assert!(engine.contents() == model, "without {name} something else was decided");
            }
        }
        device.crash(&CrashPolicy::LoseAll);
    }
    assert!(refused > 0, "some hint is needed");
}
