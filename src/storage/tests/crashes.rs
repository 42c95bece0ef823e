//! The power goes at every operation, and again during what follows. What was acknowledged is there, and nothing that never was.

use super::*;
use crate::storage::simulated::{CrashPolicy, DiskImage, Errno, OperationKind, Unsynced};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Small enough for several rotations in a short life.
const SMALL: u64 = 10 << 10;

/// What an outside observer of a life knows.
#[derive(Clone, Default)]
pub(super) struct Witness {
    /// The log as the node last had it in memory.
    log: Vec<Vec<u8>>,
    /// What it was before conflicts whose truncation may not be durable yet.
    before: Vec<Vec<Vec<u8>>>,
    /// How many entries of it are acknowledged.
    acknowledged: usize,
    /// The highest term that is acknowledged.
    term: u64,
}

impl Witness {
    fn set_term(&mut self, engine: &mut Engine, term: u64) -> Result<()> {
        engine.set_term(term)?;
        self.term = term;
        Ok(())
    }

    fn set(&mut self, engine: &mut Engine, bytes: usize) -> Result<()> {
        let id = EntryId { term: engine.hard_state.term, index: engine.last().index + 1 };
        let value = vec![id.index as u8; bytes];
        let operation = Operation::Set { key: &[id.index as u8 % 5], value: &value };
        self.log.push(sealed_operation(id, &operation));
        engine.propose(&operation).inspect_err(|_| {
            self.log.pop();
        })?;
        Ok(())
    }

    fn flush(&mut self, engine: &mut Engine) -> Result<()> {
        engine.flush()?;
        self.before.clear();
        self.acknowledged = self.log.len();
        engine.apply();
        Ok(())
    }

    fn truncate(&mut self, engine: &mut Engine, from: u64) {
        engine.truncate(from);
        self.before.push(self.log.clone());
        self.log.truncate(from as usize - 1);
        self.acknowledged = self.acknowledged.min(self.log.len());
    }

    /// Whether a recovered node keeps what this witness was told.
    fn check(&self, engine: &mut Engine, what: &str) {
        let records = engine.records();
        let known = self.before.iter().chain([&self.log]).any(|log| log.starts_with(&records));
        assert!(known, "{what}: {} entries are no prefix of the {} that were written", records.len(), self.log.len());
        assert!(records.len() >= self.acknowledged, "{what}: {} of {} acknowledged entries", records.len(), self.acknowledged);
        assert!(engine.hard_state.term >= self.term, "{what}: term {} of {}", engine.hard_state.term, self.term);
        assert!(engine.contents() == model(&records[..engine.commit as usize]), "{what}: commit {}", engine.commit);
    }
}

/// A founded directory before its log was ever opened.
pub(super) fn founded() -> DiskImage {
    let device = SimulatedDisk::new(0);
    open_directory(device.boot()).expect("founded");
    device.snapshot()
}

/// A short life with everything in it: batches, closing batches, rotations, terms and conflicts.
pub(super) fn life(device: &SimulatedDisk, witness: &mut Witness) -> Result<()> {
    let mut engine = Engine::open_with(device.boot(), SMALL)?;
    let term = engine.hard_state.term + 1;
    witness.set_term(&mut engine, term)?;
    for round in 0..4 {
        for number in 0..3 {
            witness.set(&mut engine, [20, 700, 1500][(round + number) % 3])?;
        }
        witness.flush(&mut engine)?;
        if round % 2 == 1 {
            engine.log.close_when_idle();
            witness.flush(&mut engine)?;
            engine.hint()?;
        }
    }
    for _ in 0..6 {
        witness.set(&mut engine, 900)?;
    }
    engine.commit = engine.last().index - 6;
    engine.run_job()?;
    let from = engine.last().index - 4;
    witness.truncate(&mut engine, from);
    witness.set_term(&mut engine, term + 1)?;
    witness.set(&mut engine, 5)?;
    witness.flush(&mut engine)?;
    witness.set(&mut engine, 7_000)?;
    witness.flush(&mut engine)?;
    while engine.hint()? {}
    Ok(())
}

/// Opens after a crash, checks, goes on, crashes again and checks again.
fn survive(device: &SimulatedDisk, mut witness: Witness, what: &str) {
    let mut engine = Engine::open_with(device.boot(), SMALL).unwrap_or_else(|error| panic!("{what}: {error}"));
    witness.check(&mut engine, what);
    witness.log = engine.records();
    let term = engine.hard_state.term + 1;
    witness.set_term(&mut engine, term).expect("stored");
    witness.set(&mut engine, 100).expect("staged");
    witness.flush(&mut engine).expect("flushed");
    while engine.hint().expect("written") {}
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
    let mut engine = Engine::open_with(device.boot(), SMALL).unwrap_or_else(|error| panic!("{what}, second start: {error}"));
    witness.check(&mut engine, what);
}

/// The policies worth trying with so many changes in the air.
fn policies(unsynced: &[Unsynced]) -> Vec<CrashPolicy> {
    let mut policies = vec![CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random, CrashPolicy::Random];
    let step = unsynced.len().div_ceil(4).max(1);
    for single in (0..unsynced.len()).step_by(step) {
        let one = |kept| CrashPolicy::Mask((0..unsynced.len()).map(|number| (number == single) == kept).collect());
        policies.extend([one(true), one(false)]);
    }
    policies
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_prefix_with_everything_acknowledged() {
    let image = founded();
    for nth in 1.. {
        let device = SimulatedDisk::new(nth);
        device.restore(image.clone());
        device.power_off_at(nth);
        let mut witness = Witness::default();
        let done = life(&device, &mut witness).is_ok();
        device.clear_faults();
        let off = device.snapshot();
        for policy in policies(&device.unsynced()) {
            device.restore(off.clone());
            device.crash(&policy);
            survive(&device, witness.clone(), &format!("operation {nth}, {policy:?}"));
        }
        if done {
            assert!(nth > 60, "a life has more than {nth} operations");
            break;
        }
    }
}

#[test]
fn a_killed_process_leaves_nothing_that_its_successor_believes_and_a_power_cut_takes_away() {
    let image = founded();
    for nth in 1.. {
        let device = SimulatedDisk::new(nth);
        device.restore(image.clone());
        device.power_off_at(nth);
        let mut witness = Witness::default();
        let done = life(&device, &mut witness).is_ok();
        device.clear_faults();
        device.kill();
        believe_then_crash(&device, &mut witness, nth);
        if done {
            break;
        }
    }
}

#[test]
fn a_failed_sync_ends_the_process_and_its_cached_bytes_are_not_believed() {
    let image = founded();
    for nth in 1.. {
        let device = SimulatedDisk::new(nth);
        device.restore(image.clone());
        device.fail_at(OperationKind::Sync, nth, Errno::IO);
        let mut witness = Witness::default();
        let done = life(&device, &mut witness).is_ok();
        device.clear_faults();
        device.kill();
        believe_then_crash(&device, &mut witness, nth);
        if done {
            break;
        }
    }
}

/// What a start shows is a promise: it must survive a power cut right after it.
fn believe_then_crash(device: &SimulatedDisk, witness: &mut Witness, nth: u64) {
    let mut engine = Engine::open_with(device.boot(), SMALL).unwrap_or_else(|error| panic!("operation {nth}: {error}"));
    witness.check(&mut engine, &format!("operation {nth}"));
    let shown = engine.records();
    (witness.acknowledged, witness.term, witness.log) = (shown.len(), engine.hard_state.term, shown);
    witness.before.clear();
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
    survive(device, witness.clone(), &format!("operation {nth}, then the power"));
}

#[test]
fn crashes_in_a_row_add_up_to_nothing() {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let image = founded();
    for round in 0..25 {
        let device = SimulatedDisk::new(seed.wrapping_add(round));
        device.restore(image.clone());
        let mut witness = Witness::default();
        for crash in 0..4 {
            device.power_off_at(random.random_range(1..80));
            let _ = life(&device, &mut witness);
            device.clear_faults();
            device.crash(&CrashPolicy::Random);
            let what = format!("seed {seed}, round {round}, crash {crash}");
            let mut engine = Engine::open_with(device.boot(), SMALL).unwrap_or_else(|error| panic!("{what}: {error}"));
            witness.check(&mut engine, &what);
            let shown = engine.records();
            (witness.acknowledged, witness.log) = (shown.len(), shown);
            witness.before.clear();
        }
    }
}

#[test]
fn a_write_that_stopped_at_any_unit_is_sealed_off() {
    for closing in [false, true] {
        let device = SimulatedDisk::new(1);
        let mut witness = Witness::default();
        let mut engine = Engine::open_with(device.boot(), SMALL).expect("opened");
        witness.set_term(&mut engine, 1).expect("stored");
        witness.set(&mut engine, 1000).expect("staged");
        witness.flush(&mut engine).expect("flushed");
        if !closing {
            [100, 1300, 0, 77].iter().for_each(|bytes| witness.set(&mut engine, *bytes).expect("staged"));
        }
        engine.log.close_when_idle();
        engine.log.freeze();
        let name = "00000001.log";
        let start = 4096 + 96 + 1000 + 32 + 9 + 1;
        device.inject(crate::storage::simulated::Fault {
            kind: Some(OperationKind::Sync),
            name: name.into(),
            nth: 1,
            lasting: false,
            effect: crate::storage::simulated::Effect::PowerOff,
        });
        engine.run_job().expect_err("the power is off");
        drop(engine);
        let off = device.snapshot();
        let begin = 4096u64 + (start - 4096u64).next_multiple_of(16);
        for offset in (begin..begin + 2_200).filter(|offset| offset % 16 % 5 == 0) {
            device.restore(off.clone());
            device.crash(&CrashPolicy::TearAt { name: name.into(), offset });
            let what = format!("torn at {offset}, closing {closing}");
            match Engine::open_with(device.boot(), SMALL) {
                Ok(mut engine) => witness.check(&mut engine, &what),
                // Disks write whole sectors. A tear inside the last sixteen bytes of a header or batch may pass for damage.
                Err(error) => assert!(offset % 16 != 0 && damage_at(&error, name) >= begin, "{what}: {error}"),
            }
        }
    }
}
