//! Looking at a directory: it finds damage exactly where a start refuses, names all of it, and changes nothing.

use super::damage::{SMALL, Sample, is_worth_flipping, sample};
use super::*;
use crate::storage::inspect::{Caller, Finding, Inspected, Report, inspect};
use crate::storage::manifest;
use crate::storage::segment::HEADER_BLOCK;
use crate::storage::simulated::CrashPolicy;
use crate::storage::slots::SlotFile;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn look(device: &SimulatedDisk) -> Result<Inspected> {
    let before = device.operations();
    let inspected = inspect(device.boot(), &Caller { marks: &|_| Ok(()), progress: &|done, all| assert!(done <= all, "{done} of {all}") });
    assert_eq!(device.operations(), before, "looking changes nothing and syncs nothing");
    inspected
}

/// What is found on a copy of a sample after `damage`, once it was held against what a start says.
fn found(sample: &Sample, what: &str, damage: impl FnOnce(&SimulatedDisk)) -> Report {
    let device = SimulatedDisk::new(1);
    device.restore(sample.image.clone());
    damage(&device);
    found_on(&device, what)
}

fn found_on(device: &SimulatedDisk, what: &str) -> Report {
    let report = look(device).unwrap_or_else(|error| panic!("{what}: {error}")).report;
    match Engine::open_with(device.boot(), SMALL) {
        Ok(mut engine) => {
            assert_eq!(report.damage, [], "{what}: a start works");
            let log = report.log.as_ref().unwrap_or_else(|| panic!("{what}: a log is there"));
            let (last, commit) = (engine.last(), report.founding.as_ref().map(|founding| founding.members.len()));
            let commit = if commit == Some(1) { last.index } else { engine.commit };
            assert_eq!((log.last, log.commit), (last, commit), "{what}");
            let records = engine.records();
            let keys = model(&records[..commit as usize]).len() as u64;
            assert_eq!((log.entries, log.keys), (records.len() as u64, Some(keys)), "{what}");
            assert_eq!(log.open.is_some(), engine.log.active, "{what}: whether writing goes on in the tail");
        }
        Err(Error::Corrupt { file, offset, .. }) => {
            let name = file.rsplit('/').next().expect("a name");
            let named = |finding: &Finding| finding.file == name && finding.offset == Some(offset);
            assert!(report.damage.iter().any(named), "{what}: a start finds damage in {name} at {offset}, found {:?}", report.damage);
        }
        Err(error) => assert!(!report.damage.is_empty(), "{what}: a start says: {error}"),
    }
    report
}

fn names(findings: &[Finding]) -> Vec<(&str, Option<u64>)> {
    findings.iter().map(|finding| (finding.file.as_str(), finding.offset)).collect()
}

#[test]
fn a_sound_directory_is_told_and_shown_as_it_was_written() {
    for (closed, alone) in [(false, false), (true, false), (false, true)] {
        let mut sample = sample(closed);
        if !alone {
            let device = SimulatedDisk::new(1);
            device.restore(sample.image.clone());
            join_another(&device);
            sample.image = device.snapshot();
        }
        let report = found(&sample, "sound", |_| ());
        assert_eq!((report.damage, report.notes), (Vec::new(), Vec::new()));
        let log = report.log.expect("a log");
        assert_eq!((log.segments as usize, log.terms), (sample.ends.len(), 2));
        assert_eq!(log.commit == log.last.index, alone, "the last entry is known to be committed: {log:?}");
        assert_eq!(log.open, sample.ends.last().map(|(name, end)| (name.clone(), end.next_multiple_of(16))));
        assert_eq!(report.hard_state.map(|state| state.term), Some(2));
        assert_eq!(report.node.expect("an identity").1, ID);

        let device = SimulatedDisk::new(1);
        device.restore(sample.image.clone());
        let inspected = look(&device).expect("sound");
        let mut shown = Vec::new();
        let show = |entry: &crate::storage::inspect::Entry<'_>| {
            shown.push(sealed(entry.id, entry.kind, entry.payload));
            let mut bytes = vec![0; entry.bytes as usize];
            device.boot().open(entry.file).and_then(|file| file.read_at(&mut bytes, entry.offset)).expect("it stands there");
            assert!(shown.last() == Some(&bytes), "{entry:?} does not stand where it is said to");
            assert_eq!(entry.committed, entry.id.index <= log.commit);
            Ok(())
        };
        inspected.entries::<Error>(show).expect("the log is whole");
        assert!(shown == sample.records);
        let mut contents = Contents::new();
        let show = |key: &[u8], version, value: &[u8]| {
            contents.insert(key.to_vec(), (version, value.to_vec()));
            Ok(())
        };
        inspected.keys::<Error>(show).expect("the state is known");
        assert!(contents == model(&sample.records[..log.commit as usize]));
    }
}

/// Makes the node's cluster one of two.
fn join_another(device: &SimulatedDisk) {
    let disk = device.boot();
    let (_, payload) = SlotFile::open(&disk, "cluster").expect("founded");
    let mut founding = Founding::decode(&payload).expect("founded");
    founding.members.push(FoundingMember { id: "localhost:8002".into(), uuid: 7 });
    device.delete("cluster").expect("deleted");
    SlotFile::create(&disk, "cluster", 4_000, &founding.encode()).expect("created");
}

#[test]
fn what_it_finds_after_any_flipped_bit_is_what_a_start_refuses() {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for closed in [false, true] {
        let sample = sample(closed);
        for (name, end) in &sample.ends {
            let below = (0..*end).filter(|offset| is_worth_flipping(*offset, *end));
            for offset in below.chain((*end..SMALL).step_by(31)) {
                if random.random_range(0..4) > 0 {
                    continue;
                }
                let mask = 1 << random.random_range(0..8);
                let what = format!("seed {seed}, closed {closed}, {name} at {offset} with mask {mask}");
                let report = found(&sample, &what, |device| device.rot(name, offset, mask).expect("rotted"));
                let in_it = report.damage.iter().all(|finding| finding.file == *name);
                assert!(in_it && report.damage.len() <= 3, "{what}: {:?}", report.damage);
            }
        }
    }
}

#[test]
fn a_slot_file_is_judged_as_a_start_judges_it() {
    let sample = sample(true);
    for name in ["identity", "cluster", "hardstate", "marks", "manifest"] {
        let areas = [0, 1, 2, 3].map(|area| area * area_of(&sample, name));
        for offset in (0..40).chain([41, 60, 300]) {
            let one = format!("{name} at {offset}");
            for area in areas {
                let report = found(&sample, &one, |device| device.rot(name, area + offset, 1).expect("rotted"));
                assert_eq!(names(&report.notes), [(name, Some(area))], "{one}: a copy has a twin");
            }
            let both = |device: &SimulatedDisk| [0, 2].iter().for_each(|area| device.rot(name, areas[*area] + offset, 1).expect("rotted"));
            let report = found(&sample, &one, both);
            assert_eq!(names(&report.damage), [(name, Some(0))], "{one}: in both copies");
        }
        let report = found(&sample, name, |device| device.truncate(name, 4096).expect("cut"));
        assert!(names(&report.damage).iter().any(|(file, _)| *file == name), "{name} cut short: {:?}", report.damage);
        let report = found(&sample, name, |device| device.make_unreadable(name, 0).expect("marked"));
        assert!(!report.notes.is_empty(), "{name}: an unreadable copy is told");
    }
}

fn area_of(sample: &Sample, name: &str) -> u64 {
    let device = SimulatedDisk::new(1);
    device.restore(sample.image.clone());
    device.boot().open(name).and_then(|file| file.length()).expect("it is there") / 4
}

#[test]
fn missing_and_shortened_files_are_named() {
    let sample = sample(true);
    let segments = sample.ends.iter().map(|(name, _)| name.as_str());
    for name in ["identity", "cluster", "hardstate", "marks", "manifest"].into_iter().chain(segments.clone()) {
        let report = found(&sample, name, |device| device.delete(name).expect("deleted"));
        assert!(names(&report.damage).iter().any(|(file, _)| *file == name), "{name} is missing: {:?}", report.damage);
    }
    for name in segments {
        for length in [0, 100, 4096, 5000, SMALL - 1] {
            let report = found(&sample, name, |device| device.truncate(name, length).expect("cut"));
            assert_eq!(
                names(&report.damage),
                [(name, Some(length.min(if length < HEADER_BLOCK { 0 } else { length })))],
                "{name} cut to {length}"
            );
            assert_eq!(report.log.expect("the rest is told").keys, None);
        }
    }
}

#[test]
fn it_goes_on_behind_every_damage() {
    let sample = sample(true);
    let (whole, last) = (sample.records.len() as u64, sample.ends.len() - 1);
    let report = found(&sample, "one batch in each segment, and term and vote", |device| {
        for (name, _) in &sample.ends {
            // Inside the first record's payload, in the first batch.
            device.rot(name, HEADER_BLOCK + 96 + 40, 1).expect("rotted");
        }
        for area in [1, 3] {
            device.rot("hardstate", area * 4096 + 41, 1).expect("rotted");
        }
        device.delete("marks").expect("deleted");
    });
    let damaged = names(&report.damage);
    for (name, _) in &sample.ends {
        assert!(damaged.contains(&(name, Some(HEADER_BLOCK))), "the batch in {name}: {damaged:?}");
        assert!(damaged.contains(&(name, Some(HEADER_BLOCK + 96))), "the record in {name}: {damaged:?}");
    }
    assert!(damaged.contains(&("hardstate", Some(4096))) && damaged.contains(&("marks", None)), "{damaged:?}");
    assert_eq!(damaged.len(), 2 * sample.ends.len() + 2, "and nothing else: {damaged:?}");
    let log = report.log.expect("the rest is told");
    assert!(log.entries < whole && log.entries + 3 * (last as u64 + 1) >= whole, "{} of {whole} entries are whole", log.entries);
    assert_eq!(log.last.index, whole);
}

#[test]
fn neighbours_are_told_apart() {
    let sample = sample(true);
    let (name, _) = &sample.ends[0];
    let batches = batches_of(&sample, name);
    assert!(batches.len() >= 3, "{batches:?}");
    // The records of the first batch and the header of the second.
    let report = found(&sample, "two in a row", |device| {
        device.rot(name, batches[0] + 96, 1).expect("rotted");
        device.rot(name, batches[1] + 9, 1).expect("rotted");
    });
    let damaged = names(&report.damage);
    assert!(damaged.contains(&(name, Some(batches[0]))) && damaged.contains(&(name, Some(batches[1]))), "{damaged:?}, {batches:?}");
    // All headers: the end of what nobody can tell is the next segment.
    let report = found(&sample, "all of a segment", |device| {
        batches.iter().for_each(|batch| device.rot(name, *batch, 1).expect("rotted"));
    });
    assert_eq!(names(&report.damage), [(name.as_str(), Some(batches[0]))]);
    assert_eq!(report.log.expect("the rest is told").last.index, sample.records.len() as u64);
}

/// Where the batches of a segment begin.
fn batches_of(sample: &Sample, name: &str) -> Vec<u64> {
    let device = SimulatedDisk::new(1);
    device.restore(sample.image.clone());
    let bytes = device.durable(name).expect("there");
    (HEADER_BLOCK..SMALL).step_by(16).filter(|at| bytes[*at as usize..].starts_with(b"AKVB")).collect()
}

#[test]
fn an_unreadable_sector_is_damage_at_its_offset_and_does_not_hide_the_rest() {
    let sample = sample(true);
    for (name, end) in &sample.ends {
        let sector = (end - 600) / 512 * 512;
        let report = found(&sample, name, |device| {
            device.make_unreadable(name, sector).expect("marked");
            device.rot(&sample.ends[0].0, HEADER_BLOCK + 96, 1).expect("rotted");
        });
        let damaged = names(&report.damage);
        assert!(damaged.contains(&(name, Some(sector))) && damaged.contains(&(&sample.ends[0].0, Some(HEADER_BLOCK))), "{damaged:?}");
    }
}

#[test]
fn a_damaged_log_is_shown_up_to_the_damage_and_its_state_not_at_all() {
    let sample = sample(true);
    let device = SimulatedDisk::new(1);
    device.restore(sample.image.clone());
    let name = &sample.ends[1].0;
    device.rot(name, HEADER_BLOCK + 96, 1).expect("rotted");
    let inspected = look(&device).expect("it is told");
    let mut shown = Vec::new();
    let failed = inspected.entries::<Error>(|entry| {
        shown.push(sealed(entry.id, entry.kind, entry.payload));
        Ok(())
    });
    damage_at(&failed.expect_err("damaged"), name);
    assert!(!shown.is_empty() && sample.records.starts_with(&shown) && shown.len() < sample.records.len());
    let failed = inspected.keys::<Error>(|_, _, _| panic!("nobody knows the state"));
    damage_at(&failed.expect_err("damaged"), name);
}

#[test]
fn a_power_cut_at_any_operation_is_no_damage() {
    let image = super::crashes::founded();
    let mut torn = 0;
    for nth in 1.. {
        let device = SimulatedDisk::new(nth);
        device.restore(image.clone());
        device.power_off_at(nth);
        let done = super::crashes::life(&device, &mut Default::default()).is_ok();
        device.clear_faults();
        let off = device.snapshot();
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random, CrashPolicy::Random] {
            device.restore(off.clone());
            device.crash(&policy);
            let report = found_on(&device, &format!("operation {nth}, {policy:?}"));
            torn += usize::from(report.notes.iter().any(|note| note.text.contains("interrupted")));
        }
        if done {
            break;
        }
    }
    assert!(torn > 3, "{torn} writes were interrupted");
}

#[test]
fn a_newer_version_is_no_mystery() {
    let sample = sample(true);
    for name in ["hardstate", "manifest"] {
        let report = found(&sample, name, |device| {
            let (mut file, _) = SlotFile::open(&device.boot(), name).expect("opened");
            file.write(&[9, 0, 0, 0]).expect("written");
        });
        let text = report.damage.iter().map(Finding::to_string).collect::<String>();
        assert!(text.contains(name) && text.contains("format version 9") && text.contains("newer apexkv"), "{text}");
    }
}

#[test]
fn a_directory_in_use_is_refused_and_an_empty_one_told() {
    let device = SimulatedDisk::new(1);
    let report = look(&device).expect("it is empty").report;
    assert_eq!((report.files, report.damage.len(), report.notes.len()), (0, 0, 0));
    assert!(report.node.is_none() && report.log.is_none());

    let directory = Directory::open(device.boot(), ID).expect("opened");
    let reason = look(&device).expect_err("in use").to_string();
    assert!(reason.contains("running node"), "{reason}");
    drop(directory);
    device.kill();
    let inspected = look(&device).expect("nobody runs");
    Directory::open(device.boot(), ID).expect_err("somebody looks at it");
    let report = &inspected.report;
    assert!(report.damage.is_empty() && report.founding.is_none() && report.node.is_some(), "{report:?}");
    inspected.keys::<Error>(|_, _, _| Ok(())).expect_err("there is no log");
}

#[test]
fn strangers_and_leftovers_are_told_and_left_alone() {
    let sample = sample(true);
    let report = found(&sample, "leftovers", |device| {
        device.put("hardstate.tmp", b"half");
        device.put("00000001.hint", b"of no segment");
        device.put("notes.txt", b"mine");
    });
    assert_eq!(names(&report.notes), [("hardstate.tmp", None), ("notes.txt", None), ("00000001.hint", None)]);

    let device = SimulatedDisk::new(1);
    let mut engine = Engine::open_with(device.boot(), SMALL).expect("opened");
    engine.preparer.prepare(0).expect("prepared");
    drop(engine);
    device.kill();
    let report = found_on(&device, "a segment that nobody listed");
    assert_eq!(names(&report.notes), [("00000001.log", None)]);
}

#[test]
fn files_that_contradict_each_other_are_named() {
    let sample = sample(false);
    let report = found(&sample, "an older term", |device| {
        let (mut file, _) = SlotFile::open(&device.boot(), "hardstate").expect("opened");
        file.write(&crate::storage::writer::encode_hard_state(&HardState { term: 1, vote: None })).expect("written");
    });
    assert_eq!(names(&report.damage), [("hardstate", Some(0))]);
    let report = found(&sample, "an empty manifest", |device| {
        let (mut file, _) = SlotFile::open(&device.boot(), "manifest").expect("opened");
        file.write(&manifest::Manifest::default().encode()).expect("written");
    });
    assert_eq!(report.damage.len(), sample.ends.len(), "every segment holds batches that nobody lists");
}
