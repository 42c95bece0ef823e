//! Tests of the slot file: what stands after every crash, every failure and every damaged byte.

use super::*;
use crate::storage::{
    real::RealDisk,
    simulated::{CrashPolicy, Errno, OperationKind, SimulatedDisk},
};
use std::collections::BTreeSet;

const NAME: &str = "hardstate";
/// One capacity whose slots fit a sector, and one whose slots do not.
const CAPACITIES: [usize; 2] = [100, 3000];

/// A payload that tells which write it comes from in each of its sectors.
fn payload(number: u8, capacity: usize) -> Vec<u8> {
    vec![number; capacity - usize::from(number)]
}

/// A device with a slot file, after writes 1 to `writes`.
fn machine(seed: u64, capacity: usize, writes: u8) -> (Arc<SimulatedDisk>, SlotFile) {
    let device = SimulatedDisk::new(seed);
    let mut slots = SlotFile::create(&device.boot(), NAME, capacity, &payload(0, capacity)).expect("created");
    for number in 1..=writes {
        slots.write(&payload(number, capacity)).expect("written");
    }
    (device, slots)
}

fn reopen(device: &SimulatedDisk) -> Result<Vec<u8>> {
    SlotFile::open(&device.boot(), NAME).map(|(_, payload)| payload)
}

/// All ways in which a power cut can leave `unsynced` things, if they are few; otherwise those in which one is lost or kept, prefixes and
/// some by chance.
fn power_cuts(unsynced: usize) -> Vec<CrashPolicy> {
    let mask = |keep: &dyn Fn(usize) -> bool| CrashPolicy::Mask((0..unsynced).map(keep).collect());
    if unsynced <= 8 {
        return (0..1_usize << unsynced).map(|bits| mask(&|unit| bits >> unit & 1 == 1)).collect();
    }
    let mut cuts: Vec<CrashPolicy> = (0..unsynced).flat_map(|one| [mask(&|unit| unit == one), mask(&|unit| unit != one)]).collect();
    cuts.extend((0..=unsynced).map(|kept| mask(&|unit| unit < kept)));
    cuts.extend((0..16).map(|_| CrashPolicy::Random));
    cuts
}

#[test]
fn the_last_payload_written_is_read_back_from_a_real_disk() {
    let directory = tempfile::tempdir().expect("a scratch directory can be made");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).expect("opened"));
    for (name, capacity) in [("small", 100), ("sector", 472), ("more", 473), ("large", 20_000)] {
        let mut slots = SlotFile::create(&disk, name, capacity, b"first").expect("created");
        assert_eq!(slots.capacity(), capacity);
        for number in 0..5 {
            slots.write(&payload(number, capacity)).expect("written");
            let (again, read) = SlotFile::open(&disk, name).expect("opened");
            assert_eq!(read, payload(number, capacity));
            slots = again;
        }
        let error = slots.write(&vec![0; capacity + 1]).expect_err("too long").to_string();
        assert!(error.contains(&format!("{} bytes exceed its capacity of {capacity}", capacity + 1)), "{error}");
        slots.write(b"").expect("a refused payload changes nothing");
    }
}

#[test]
fn a_slot_that_fits_a_sector_costs_one_sync_and_a_longer_one_two() {
    for (capacity, syncs) in [(472, 1), (473, 2)] {
        let (device, mut slots) = machine(1, capacity, 1);
        device.record();
        slots.write(b"short").expect("written");
        let recorded = device.recorded();
        assert_eq!(recorded.iter().filter(|operation| operation.kind == OperationKind::Sync).count(), syncs);
        assert!(recorded.iter().all(|operation| matches!(operation.kind, OperationKind::Sync | OperationKind::Write)));
    }
}

/// After a power cut at every operation of a write, and with every survival of what was not synced, the old payload or the new one
/// stands. The same again with a second cut while the damage of the first is repaired, and the file can be written on.
#[test]
fn every_power_cut_leaves_the_old_or_the_new_payload() {
    for capacity in CAPACITIES {
        let mut outcomes = BTreeSet::new();
        for operation in 1..=5 {
            let (device, mut slots) = machine(operation, capacity, 4);
            device.power_off_at(operation);
            let done = slots.write(&payload(5, capacity)).is_ok();
            let at_power_off = device.snapshot();
            device.clear_faults();
            for cut in power_cuts(device.unsynced().len()) {
                device.restore(at_power_off.clone());
                device.crash(&cut);
                let found = crash_while_opening(&device, capacity, done);
                outcomes.insert((done, found == payload(5, capacity)));
            }
        }
        assert_eq!(Vec::from_iter(outcomes), [(false, false), (false, true), (true, true)], "capacity {capacity}");
    }
}

/// Opens the file, with a power cut at every operation of opening. What an open has returned may have been told to others: it must stand
/// from then on.
fn crash_while_opening(device: &SimulatedDisk, capacity: usize, done: bool) -> Vec<u8> {
    let crashed = device.snapshot();
    for operation in 1..=6 {
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random] {
            device.restore(crashed.clone());
            device.power_off_at(operation);
            let first = reopen(device).ok();
            device.clear_faults();
            device.crash(&policy);
            let (mut slots, second) = SlotFile::open(&device.boot(), NAME).expect("a crash is no damage");
            assert!(first.is_none_or(|first| first == second), "operation {operation}, {policy:?}");
            assert!(second == payload(5, capacity) || !done && second == payload(4, capacity));
            slots.write(&payload(6, capacity)).expect("written");
            assert_eq!(reopen(device).expect("whole"), payload(6, capacity));
        }
    }
    device.restore(crashed);
    reopen(device).expect("a crash is no damage")
}

#[test]
fn every_power_cut_while_creating_leaves_no_file_or_a_whole_one() {
    for capacity in CAPACITIES {
        let mut outcomes = BTreeSet::new();
        for operation in 1..=9 {
            let device = SimulatedDisk::new(operation);
            device.power_off_at(operation);
            let created = SlotFile::create(&device.boot(), NAME, capacity, b"first").is_ok();
            let at_power_off = device.snapshot();
            device.clear_faults();
            for cut in power_cuts(device.unsynced().len()) {
                device.restore(at_power_off.clone());
                device.crash(&cut);
                let exists = device.list().expect("listed").iter().any(|name| name == NAME);
                assert!(exists || !created, "operation {operation}, {cut:?}");
                if exists {
                    assert_eq!(reopen(&device).expect("whole"), b"first");
                } else {
                    SlotFile::create(&device.boot(), NAME, capacity, b"again").expect("what is half made does not hinder");
                }
                outcomes.insert(exists);
            }
        }
        assert_eq!(outcomes.len(), 2, "capacity {capacity}");
    }
}

/// A killed process leaves a write in the cache; the next one must not vouch for it before it is durable.
#[test]
fn what_an_open_returns_survives_a_power_cut_right_after() {
    for capacity in CAPACITIES {
        for operation in 1..=4 {
            let (device, mut slots) = machine(1, capacity, 4);
            device.power_off_at(operation);
            assert!(slots.write(&payload(5, capacity)).is_err() || operation > 3);
            device.clear_faults();
            device.kill();
            let found = reopen(&device).expect("whole");
            device.crash(&CrashPolicy::LoseAll);
            assert_eq!(reopen(&device).expect("whole"), found, "operation {operation}");
        }
    }
}

#[test]
fn after_a_failed_sync_the_file_takes_no_write_and_the_cache_is_not_believed() {
    for capacity in CAPACITIES {
        let (device, mut slots) = machine(1, capacity, 4);
        device.fail_at(OperationKind::Sync, 1, Errno::IO);
        assert!(matches!(slots.write(&payload(5, capacity)), Err(Error::Io { source, .. }) if source.raw_os_error() == Some(5)));
        let error = slots.write(&payload(5, capacity)).expect_err("an earlier write failed").to_string();
        assert!(error.contains("an earlier write failed"), "{error}");
        device.kill();
        assert_eq!(reopen(&device).expect("whole"), payload(4, capacity));
        device.crash(&CrashPolicy::LoseAll);
        assert_eq!(reopen(&device).expect("whole"), payload(4, capacity));
    }
}

#[test]
fn every_single_damaged_byte_is_survived_and_repaired() {
    for capacity in CAPACITIES {
        let (device, _) = machine(1, capacity, 4);
        let whole = device.snapshot();
        let content = device.durable(NAME).expect("there");
        for offset in 0..content.len() as u64 {
            device.restore(whole.clone());
            device.rot(NAME, offset, 1 << (offset % 8)).expect("there");
            assert_eq!(reopen(&device).expect("one copy is whole"), payload(4, capacity), "offset {offset}");
            let in_slot = offset % area_bytes(capacity) < slot_bytes(capacity - 4) as u64;
            assert_eq!(device.durable(NAME).expect("there") == content, in_slot, "offset {offset}");
        }
    }
}

#[test]
fn two_damaged_copies_of_either_pair_are_refused_with_file_and_offset() {
    for capacity in CAPACITIES {
        for (pair, (first, second)) in [(0, (0, 39)), (1, (9, 40)), (0, (36, 20)), (1, (28, 31))] {
            let (device, _) = machine(1, capacity, 4);
            let area = area_bytes(capacity);
            device.rot(NAME, pair * area + first, 0x80).expect("there");
            device.rot(NAME, (pair + 2) * area + second, 0x01).expect("there");
            let before = device.durable(NAME).expect("there");
            match reopen(&device).expect_err("the newest may be among them") {
                Error::Corrupt { file, offset, .. } => assert_eq!((file.as_str(), offset), ("simulated/hardstate", pair * area)),
                other => panic!("{other}"),
            }
            assert_eq!(device.durable(NAME).expect("there"), before, "damage is left as it is found");
        }
    }
}

#[test]
fn a_copy_that_cannot_be_read_is_rewritten_from_the_other() {
    let (device, _) = machine(1, 100, 4);
    device.make_unreadable(NAME, 0).expect("there");
    assert_eq!(reopen(&device).expect("the other copy is whole"), payload(4, 100));
    device.make_unreadable(NAME, 2 * 4096).expect("there");
    assert_eq!(reopen(&device).expect("the first copy was repaired"), payload(4, 100));
    device.make_unreadable(NAME, 4096).expect("there");
    device.make_unreadable(NAME, 3 * 4096).expect("there");
    let error = reopen(&device).expect_err("both copies").to_string();
    assert!(error.starts_with("simulated/hardstate is damaged at offset 4096: it cannot be read"), "{error}");
}

/// Both copies of the newest pair lost two writes although their sync succeeded: older slots, each of them valid.
#[test]
fn a_pair_that_lost_its_writes_is_refused() {
    let (device, mut slots) = machine(1, 100, 2);
    let old = device.durable(NAME).expect("there");
    for number in 3..=5 {
        slots.write(&payload(number, 100)).expect("written");
    }
    for area in [1_usize, 3] {
        device.overwrite(NAME, area as u64 * 4096, &old[area * 4096..(area + 1) * 4096]).expect("there");
    }
    assert!(matches!(reopen(&device), Err(Error::Corrupt { offset: 4096, .. })));
}

#[test]
fn copies_of_one_generation_that_differ_are_refused() {
    let (device, slots) = machine(1, 100, 4);
    let forged = encode(&slots.place, 2, slots.generation, 100, b"something else");
    device.overwrite(NAME, 2 * 4096, &forged).expect("there");
    assert!(matches!(reopen(&device), Err(Error::Corrupt { offset: 8192, .. })));
}

#[test]
fn slots_of_another_place_or_another_file_are_no_slots() {
    let (device, slots) = machine(1, 100, 4);
    let content = device.durable(NAME).expect("there");
    device.overwrite(NAME, 0, &content[2 * 4096..3 * 4096]).expect("there");
    assert_eq!(reopen(&device).expect("one copy is where it belongs"), payload(4, 100));
    let next = encode(&slots.place, 1, slots.generation + 1, 100, &payload(5, 100));
    device.overwrite(NAME, 0, &next).expect("there");
    assert_eq!(reopen(&device).expect("a copy of the other pair went to the wrong place"), payload(4, 100));
    device.put("identity", &content);
    let error = SlotFile::open(&device.boot(), "identity").expect_err("of another file").to_string();
    assert!(error.contains("it belongs to a file of another name"), "{error}");
}

#[test]
fn a_file_that_was_cut_or_extended_is_refused() {
    for capacity in CAPACITIES {
        let (device, _) = machine(1, capacity, 4);
        let content = device.durable(NAME).expect("there");
        for length in [0, 1, 4096, content.len() - 4 * 4096, content.len() - 1, content.len() + 1, content.len() + 4 * 4096] {
            let mut other = content.clone();
            other.resize(length, 0);
            device.put(NAME, &other);
            assert!(matches!(reopen(&device), Err(Error::Corrupt { .. })), "length {length}");
        }
    }
    let device = SimulatedDisk::new(1);
    assert!(matches!(reopen(&device), Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound));
}

#[test]
fn a_newer_format_is_refused_by_its_version_and_damage_is_not_taken_for_one() {
    let (device, slots) = machine(1, 100, 4);
    device.rot(NAME, 8, 0x02).expect("there");
    assert_eq!(reopen(&device).expect("a damaged version is damage"), payload(4, 100));
    let mut newer = encode(&slots.place, 0, 6, 100, b"from the future");
    newer[8] = 2;
    let crc = crc(&newer);
    newer[36..40].copy_from_slice(&crc.to_le_bytes());
    device.overwrite(NAME, 0, &newer).expect("there");
    match reopen(&device).expect_err("newer") {
        Error::Directory(reason) => assert!(reason.contains("simulated/hardstate has format version 2"), "{reason}"),
        other => panic!("{other}"),
    }
}

#[test]
fn without_room_a_file_is_not_created_and_an_existing_one_still_written() {
    let (device, mut slots) = machine(1, 3000, 1);
    device.set_free_bytes(Some(1000));
    slots.write(&payload(2, 3000)).expect("needs no new space");
    let error = SlotFile::create(&device.boot(), "identity", 100, b"").expect_err("no room");
    assert!(matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull));
    device.set_free_bytes(None);
    SlotFile::create(&device.boot(), "identity", 100, b"").expect("what is half made does not hinder");
}
