//! What a node of three keeps, promises and can get back when damage makes it put everything aside.

use super::damage::SMALL;
use super::*;
use crate::storage::aside;
use crate::storage::segment::file_name;
use crate::storage::simulated::{CrashPolicy, Errno, OperationKind};
use crate::storage::slots::SlotFile;

const RESERVE: u64 = 64 << 10;

/// A node of a cluster of three, and its floor.
fn open_one_of_three(disk: Arc<dyn Disk>) -> Result<(Engine, EntryId)> {
    let mut directory = Directory::open(disk, ID)?;
    if directory.founding().is_none() {
        let member = |id: &str, uuid| FoundingMember { id: id.into(), uuid };
        let members = vec![member(ID, directory.identity().uuid), member("localhost:8002", 7), member("localhost:8003", 8)];
        directory.found(&Founding { cluster: 0xC1, members })?;
    }
    let opened = directory.open_log(&Options { segment_bytes: SMALL, reserve_bytes: RESERVE })?;
    let Opened { log, applier, workers, snapshots, store, commit, lock, hard_state, floor, .. } = opened;
    let Workers { writer, preparer, hinter, merger, scrubber } = workers;
    let durable = log.last().index;
    Ok((
        Engine { log, applier, writer, preparer, hinter, merger, scrubber, snapshots, store, commit, durable, hard_state, _lock: lock },
        floor,
    ))
}

/// A device whose node has written this often in these terms, and was stopped.
fn written(terms: &[u64], each: usize) -> Arc<SimulatedDisk> {
    let device = SimulatedDisk::new(1);
    let (mut engine, _) = open_one_of_three(device.boot()).expect("opened");
    write(&mut engine, terms, each);
    stop(engine, &device);
    device
}

fn write(engine: &mut Engine, terms: &[u64], each: usize) {
    for term in terms {
        engine.set_term(*term).expect("stored");
        for number in 0..each {
            engine.set(b"a", format!("{term} {number}").as_bytes()).expect("staged");
        }
        engine.flush().expect("flushed");
    }
}

fn stop(engine: Engine, device: &SimulatedDisk) {
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
}

/// Flips bits of the first record of the first segment, once to damage it and once to mend it.
fn rot_first_record(device: &SimulatedDisk) {
    device.rot("00000001.log", 4096 + 96 + 9, 1).expect("rotted");
}

fn rename(device: &SimulatedDisk, from: &str, to: &str) {
    let bytes = device.durable(from).expect("there");
    device.delete(from).expect("there");
    device.put(to, &bytes);
}

fn has(device: &SimulatedDisk, name: &str) -> bool {
    device.boot().list().expect("listed").iter().any(|other| other == name)
}

fn has_now(engine: &Engine, name: &str) -> bool {
    engine.writer.disk.list().expect("listed").iter().any(|other| other == name)
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, index }
}

#[test]
fn the_floor_is_not_below_a_sealed_end_whose_batch_header_is_lost() {
    let device = written(&[1], 3);
    let (mut engine, _) = open_one_of_three(device.boot()).expect("opened");
    write(&mut engine, &[3], 3);
    let tail = engine.log.segments.back().expect("it holds entries");
    let (name, end, base) = (tail.segment.name().to_owned(), tail.end, u64::from(*tail.bases.last().expect("a batch")));
    stop(engine, &device);
    // A write that the power cut interrupted, so that the next start seals the segment.
    device.overwrite(&name, end, &[0x5A; 40]).expect("written");
    let (engine, floor) = open_one_of_three(device.boot()).expect("torn, not damaged");
    assert_eq!((engine.last(), floor), (id(3, 6), EntryId::default()));
    stop(engine, &device);
    device.rot(&name, base + 9, 1).expect("rotted");
    let (engine, floor) = open_one_of_three(device.boot()).expect("put aside");
    assert_eq!((engine.last(), floor), (EntryId::default(), id(3, 6)));
}

#[test]
fn the_floor_of_a_log_whose_open_segment_is_lost_is_bounded_by_what_fits_it() {
    let device = written(&[1], 3);
    device.delete("00000001.log").expect("there");
    // The manifest lists it, and nothing else says what was in it.
    device.put("00000001.log", &[]);
    let (engine, floor) = open_one_of_three(device.boot()).expect("put aside");
    assert_eq!((engine.last(), floor.term), (EntryId::default(), 1));
    assert!((3..=2 * SMALL / 32).contains(&floor.index), "{floor}");
}

#[test]
fn a_segment_that_was_never_listed_and_cannot_be_opened_is_left_alone() {
    let device = written(&[1], 3);
    let (mut engine, _) = open_one_of_three(device.boot()).expect("opened");
    let prepared = engine.preparer.prepare(0).expect("there is room").name().to_owned();
    drop(engine);
    device.kill();
    device.rot(&prepared, 10, 1).expect("rotted");
    let other = device.durable("00000001.log").expect("there");
    device.put("00000009.log", &other);
    for _ in 0..2 {
        let (mut engine, floor) = open_one_of_three(device.boot()).expect("nothing that counts is damaged");
        assert_eq!((engine.last(), floor), (id(1, 3), EntryId::default()));
        assert!(has_now(&engine, &prepared) && has_now(&engine, "00000009.log"));
        assert!(engine.preparer.prepare(0).expect("there is room").name() > "00000009.log", "a number is used once");
        stop(engine, &device);
    }
    // Nor does it keep the node from putting everything aside.
    rot_first_record(&device);
    for _ in 0..2 {
        let (engine, floor) = open_one_of_three(device.boot()).expect("put aside");
        assert_eq!((engine.last(), floor), (EntryId::default(), id(1, 3)));
        stop(engine, &device);
    }
}

#[test]
fn a_segment_that_was_left_alone_is_left_alone_when_later_ones_have_been_listed() {
    let device = written(&[1], 3);
    let (mut engine, _) = open_one_of_three(device.boot()).expect("opened");
    let prepared = engine.preparer.prepare(0).expect("there is room").name().to_owned();
    drop(engine);
    device.kill();
    device.rot(&prepared, 10, 1).expect("rotted");
    let (mut engine, _) = open_one_of_three(device.boot()).expect("nothing that counts is damaged");
    write(&mut engine, &[2], 300);
    let listed = &engine.writer.manifest;
    assert!(file_name(listed.last_id) > prepared && listed.segments.iter().all(|listed| file_name(listed.id) != prepared), "{listed:?}");
    stop(engine, &device);
    let (engine, floor) = open_one_of_three(device.boot()).expect("nothing that counts is damaged");
    assert_eq!((engine.last(), floor), (id(2, 303), EntryId::default()));
    assert!(has_now(&engine, &prepared));
}

#[test]
fn a_manifest_that_lost_its_list_refuses_every_start() {
    let device = SimulatedDisk::new(1);
    let (mut engine, _) = open_one_of_three(device.boot()).expect("opened");
    let empty = engine.writer.manifest.clone();
    write(&mut engine, &[1], 3);
    let whole = engine.writer.manifest.clone();
    stop(engine, &device);
    let put_manifest = |manifest: &super::super::manifest::Manifest| {
        let (mut file, _) = SlotFile::open(&device.boot(), "manifest").expect("sound");
        file.write(&manifest.encode()).expect("written");
    };
    put_manifest(&empty);
    for _ in 0..2 {
        damage_at(&open_one_of_three(device.boot()).err().expect("3 entries were acknowledged"), "00000001.log");
        device.crash(&CrashPolicy::LoseAll);
    }
    put_manifest(&whole);
    let (engine, floor) = open_one_of_three(device.boot()).expect("mended");
    assert_eq!((engine.last(), floor), (id(1, 3), EntryId::default()));
}

#[test]
fn what_was_put_aside_comes_back_after_damage_found_while_running() {
    let device = written(&[1], 3);
    let (mut engine, _) = open_one_of_three(device.boot()).expect("opened");
    engine.writer.run(Job::Distrust).expect("remembered");
    stop(engine, &device);
    let (engine, floor) = open_one_of_three(device.boot()).expect("put aside");
    assert_eq!((engine.last(), floor), (EntryId::default(), id(1, 3)));
    stop(engine, &device);
    rename(&device, aside::NAME, aside::BACK);
    let (engine, floor) = open_one_of_three(device.boot()).expect("put back");
    assert_eq!((engine.last(), floor), (id(1, 3), EntryId::default()));
    stop(engine, &device);
    assert!(!has(&device, aside::NAME) && !has(&device, aside::BACK));
    let (engine, _) = open_one_of_three(device.boot()).expect("for good");
    assert_eq!(engine.last(), id(1, 3));
}

#[test]
fn what_was_put_aside_comes_back_after_some_was_fetched_and_what_that_promised_stands() {
    // What was fetched ends below the old log, or beyond it.
    for (fetched, entries) in [(1, 2), (4, 9)] {
        let device = written(&[1, 2], 3);
        rot_first_record(&device);
        let (mut engine, floor) = open_one_of_three(device.boot()).expect("put aside");
        assert_eq!((engine.last(), floor), (EntryId::default(), id(2, 6)));
        if fetched > 2 {
            engine.set_term(fetched).expect("stored");
        }
        engine.hard_state.term = fetched;
        for _ in 0..entries {
            engine.set(b"a", b"fetched").expect("staged");
        }
        engine.flush().expect("flushed");
        stop(engine, &device);
        rot_first_record(&device);
        rename(&device, aside::NAME, aside::BACK);
        let (mut engine, floor) = open_one_of_three(device.boot()).expect("put back");
        assert_eq!((engine.last(), floor), (id(2, 6), id(fetched, entries)));
        assert_eq!(split(&engine.records().concat()).len(), 6);
        let Completion::Healed(ids) = engine.writer.run(Job::Heal).expect("healed") else { panic!("another completion") };
        let removed = engine.merger.discard(crate::storage::retire::Discarded::put_aside(ids)).expect("removed");
        engine.writer.run(Job::Forget(removed)).expect("forgotten");
        stop(engine, &device);
        let (engine, floor) = open_one_of_three(device.boot()).expect("whole");
        assert_eq!((engine.last(), floor), (id(2, 6), EntryId::default()));
    }
}

#[test]
fn files_that_were_not_mended_are_put_aside_again_and_no_promise_is_forgotten() {
    let device = written(&[1, 2], 3);
    rot_first_record(&device);
    let (mut engine, _) = open_one_of_three(device.boot()).expect("put aside");
    write(&mut engine, &[5], 1);
    stop(engine, &device);
    rename(&device, aside::NAME, aside::BACK);
    let (engine, floor) = open_one_of_three(device.boot()).expect("put aside again");
    assert_eq!((engine.last(), floor), (EntryId::default(), id(5, 1)));
    stop(engine, &device);
    rot_first_record(&device);
    rename(&device, aside::NAME, aside::BACK);
    let (engine, floor) = open_one_of_three(device.boot()).expect("put back at last");
    assert_eq!((engine.last(), floor), (id(2, 6), id(5, 1)));
}

#[test]
fn a_crash_while_all_is_put_aside_or_back_leaves_the_one_or_the_other() {
    let device = written(&[1, 2], 3);
    rot_first_record(&device);
    let damaged = device.snapshot();
    drop(open_one_of_three(device.boot()).expect("put aside"));
    device.crash(&CrashPolicy::LoseAll);
    rot_first_record(&device);
    rename(&device, aside::NAME, aside::BACK);
    let back = device.snapshot();
    for (image, expected) in [(damaged, (EntryId::default(), id(2, 6))), (back, (id(2, 6), EntryId::default()))] {
        let mut crashes = 0;
        for operation in 1.. {
            device.restore(image.clone());
            device.power_off_at(operation);
            let finished = open_one_of_three(device.boot()).is_ok();
            device.clear_faults();
            device.crash(&CrashPolicy::LoseAll);
            let (engine, floor) = open_one_of_three(device.boot()).unwrap_or_else(|error| panic!("operation {operation}: {error}"));
            assert_eq!((engine.last(), floor), expected, "operation {operation}");
            stop(engine, &device);
            if finished {
                break;
            }
            crashes += 1;
        }
        assert!(crashes > 10, "{crashes}");
    }
}

#[test]
fn a_full_disk_gives_its_reserve_for_the_list() {
    let device = written(&[1], 3);
    let (engine, _) = open_one_of_three(device.boot()).expect("opened");
    engine.preparer.keep_reserve().expect("there is room");
    drop(engine);
    device.kill();
    rot_first_record(&device);
    device.set_free_bytes(Some(0));
    let (engine, floor) = open_one_of_three(device.boot()).expect("put aside");
    assert_eq!((engine.last(), floor), (EntryId::default(), id(1, 3)));
    stop(engine, &device);
    assert!(has(&device, aside::NAME));
}

#[test]
fn a_list_that_cannot_be_kept_changes_nothing() {
    let device = written(&[1], 3);
    rot_first_record(&device);
    device.fail_at(OperationKind::Rename, 1, Errno::IO);
    let error = open_one_of_three(device.boot()).err().expect("the list could not be kept");
    assert!(matches!(error, Error::Io { .. }), "{error}");
    device.clear_faults();
    device.crash(&CrashPolicy::LoseAll);
    rot_first_record(&device);
    let (engine, floor) = open_one_of_three(device.boot()).expect("mended");
    assert_eq!((engine.last(), floor), (id(1, 3), EntryId::default()));
}

#[test]
fn a_list_of_files_that_are_gone_is_refused() {
    let device = written(&[1], 3);
    rot_first_record(&device);
    let (mut engine, _) = open_one_of_three(device.boot()).expect("put aside");
    let list = device.durable(aside::NAME).expect("kept");
    let Completion::Healed(ids) = engine.writer.run(Job::Heal).expect("healed") else { panic!("another completion") };
    assert_eq!(engine.merger.discard(crate::storage::retire::Discarded::put_aside(ids.clone())).expect("removed"), ids);
    stop(engine, &device);
    assert!(!has(&device, aside::NAME) && !has(&device, "00000001.log"));
    for bytes in [list.clone(), list[..list.len() - 1].to_vec(), Vec::new()] {
        device.put(aside::BACK, &bytes);
        let error = open_one_of_three(device.boot()).err().expect("refused").to_string();
        assert!(error.contains(aside::BACK), "{error}");
        device.crash(&CrashPolicy::LoseAll);
        device.delete(aside::BACK).expect("there");
    }
    open_one_of_three(device.boot()).expect("it goes on without it");
}
