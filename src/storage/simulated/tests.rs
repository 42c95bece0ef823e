//! What users of the simulated disk rely on.

use super::*;
use crate::storage::disk::DiskFile;

fn machine() -> (Arc<SimulatedDisk>, Arc<dyn Disk>) {
    let device = SimulatedDisk::new(7);
    let disk = device.boot();
    (device, disk)
}

/// A durable file, so that a test is about its content alone.
fn durable_file(disk: &Arc<dyn Disk>, name: &str, content: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create(name).expect("created");
    file.write_at(&[content], 0).expect("written");
    file.sync().expect("synced");
    disk.sync_directory().expect("synced");
    file
}

fn content<D: Disk + ?Sized>(disk: &Arc<D>, name: &str) -> Vec<u8> {
    let file = disk.open(name).expect("opened");
    let mut bytes = vec![0; file.length().expect("length") as usize];
    file.read_at(&mut bytes, 0).expect("read");
    bytes
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_only_that() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", b"one");
    file.write_at(&[b"t", b"wo"], 0).expect("written");
    assert_eq!(content(&disk, "a"), b"two");
    device.crash(&CrashPolicy::LoseAll);
    assert_eq!(content(&device, "a"), b"one");
}

#[test]
fn a_file_whose_entry_was_not_synced_is_gone_although_its_content_was() {
    let (device, disk) = machine();
    disk.create("a").and_then(|file| file.write_at(&[b"x"], 0).and_then(|()| file.sync())).expect("synced");
    device.crash(&CrashPolicy::LoseAll);
    assert!(device.list().expect("listed").is_empty());
}

#[test]
fn an_unsynced_rename_is_lost_or_kept_but_never_half() {
    for kept in [false, true] {
        let (device, disk) = machine();
        durable_file(&disk, "new", b"new");
        durable_file(&disk, "old", b"old");
        disk.rename("new", "old").expect("renamed");
        assert_eq!(device.unsynced(), [Unsynced::Directory("rename new to old".into())]);
        device.crash(&CrashPolicy::Mask(vec![kept]));
        assert_eq!(device.list().expect("listed"), if kept { vec!["old"] } else { vec!["new", "old"] });
        assert_eq!(content(&device, "old"), if kept { b"new" } else { b"old" });
    }
}

#[test]
fn directory_changes_survive_independently_and_a_file_has_one_name() {
    let (device, disk) = machine();
    durable_file(&disk, "a", b"x");
    disk.rename("a", "b").expect("renamed");
    disk.rename("b", "c").expect("renamed");
    device.crash(&CrashPolicy::Mask(vec![false, true]));
    assert_eq!(device.list().expect("listed"), ["c"]);
}

#[test]
fn an_unsynced_removal_may_be_undone_and_open_files_outlive_it() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", b"kept");
    let map = file.map().expect("mapped");
    disk.remove("a").expect("removed");
    assert_eq!(disk.open("a").expect_err("gone").kind(), io::ErrorKind::NotFound);
    let before = device.snapshot();
    disk.sync_directory().expect("synced");
    let mut seen = Vec::new();
    map.with(0, 4, &mut |bytes| seen = bytes.to_vec());
    assert_eq!(seen, b"kept");
    device.crash(&CrashPolicy::LoseAll);
    assert!(device.list().expect("listed").is_empty());
    device.restore(before);
    device.crash(&CrashPolicy::LoseAll);
    assert_eq!(content(&device, "a"), b"kept");
}

#[test]
fn sectors_of_one_write_survive_independently() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", &[0; 1536]);
    file.write_at(&[&[1; 1536]], 0).expect("written");
    assert_eq!(device.unsynced().len(), 3);
    device.crash(&CrashPolicy::Mask(vec![true, false, true]));
    assert_eq!(content(&device, "a"), [[1; 512], [0; 512], [1; 512]].concat());
}

#[test]
fn a_tear_cuts_one_file_at_any_byte() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", &[0; 1024]);
    let other = durable_file(&disk, "b", &[0]);
    file.write_at(&[&[1; 1000]], 10).expect("written");
    other.write_at(&[&[1]], 0).expect("written");
    device.crash(&CrashPolicy::TearAt { name: "a".into(), offset: 600 });
    assert_eq!(content(&device, "a"), [vec![0; 10], vec![1; 590], vec![0; 424]].concat());
    assert_eq!(content(&device, "b"), [1]);
}

#[test]
fn the_length_is_synced_with_the_content_and_lost_without() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", b"");
    file.allocate(2000).expect("allocated");
    assert_eq!(device.unsynced(), [Unsynced::Length { name: "a".into() }]);
    let unsynced = device.snapshot();
    file.sync().expect("synced");
    device.crash(&CrashPolicy::LoseAll);
    assert_eq!(content(&device, "a"), [0; 2000]);
    device.restore(unsynced);
    device.crash(&CrashPolicy::LoseAll);
    assert_eq!(content(&device, "a"), [0u8; 0]);
}

#[test]
fn one_seed_gives_one_outcome_and_another_seed_another() {
    let outcome = |seed| {
        let device = SimulatedDisk::new(seed);
        let disk = device.boot();
        let file = durable_file(&disk, "a", &[0; 64 * 512]);
        file.write_at(&[&[1; 64 * 512]], 0).expect("written");
        device.crash(&CrashPolicy::Random);
        content(&device, "a")
    };
    assert_eq!(outcome(1), outcome(1));
    assert_ne!(outcome(1), outcome(2));
}

#[test]
fn a_killed_process_leaves_its_writes_in_the_cache_only() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", b"old");
    file.write_at(&[b"new"], 0).expect("written");
    device.kill();
    let next = device.boot();
    let file = next.open("a").expect("opened");
    file.drop_cache(0).expect("dropped");
    assert_eq!(content(&next, "a"), b"new", "dirty pages are not dropped");
    device.crash(&CrashPolicy::LoseAll);
    assert_eq!(content(&device, "a"), b"old");
}

#[test]
fn nothing_of_an_earlier_life_answers() {
    type End = fn(&SimulatedDisk);
    let ends: [End; 3] = [|device| device.crash(&CrashPolicy::KeepAll), SimulatedDisk::kill, |device| device.restore(device.snapshot())];
    for end in ends {
        let (device, disk) = machine();
        let file = durable_file(&disk, "a", b"x");
        end(&device);
        let answers =
            [disk.create("b").err(), disk.list().err(), disk.sync_directory().err(), disk.remove("a").err(), disk.lock("l").err()];
        let more = [file.write_at(&[b"y"], 0).err(), file.read_at(&mut [0], 0).err(), file.sync().err(), file.map().err()];
        for error in answers.into_iter().chain(more) {
            assert_eq!(error.expect("dead").to_string(), "disk was powered off");
        }
        assert_eq!(content(&device.boot(), "a"), b"x");
    }
}

#[test]
fn after_a_failed_sync_the_cache_shows_what_the_disk_does_not_have() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", b"old");
    file.write_at(&[b"new"], 0).expect("written");
    device.fail_at(OperationKind::Sync, 1, Errno::IO);
    assert_eq!(errno(file.sync()), Some(Errno::IO.raw_os_error()));
    file.sync().expect("there is nothing dirty left");
    assert_eq!(content(&disk, "a"), b"new");
    assert_eq!(device.durable("a").expect("there"), b"old");
    file.drop_cache(0).expect("dropped");
    assert_eq!(content(&disk, "a"), b"old");
}

#[test]
fn the_power_goes_off_right_before_the_chosen_operation() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", b"0");
    let before = device.operations();
    device.record();
    device.power_off_at(3);
    for round in [b"1", b"2"] {
        file.write_at(&[round], 0).expect("written");
    }
    assert!(file.write_at(&[b"3"], 0).is_err() && file.sync().is_err() && disk.list().is_err() && device.is_off());
    assert_eq!(device.operations(), before + 3);
    let write = |bytes: &[u8]| Operation { kind: OperationKind::Write, name: "a".into(), offset: 0, bytes: bytes.to_vec() };
    assert_eq!(device.recorded(), [write(b"1"), write(b"2"), write(b"3")]);
    device.crash(&CrashPolicy::KeepAll);
    assert_eq!(content(&device, "a"), b"2");
}

#[test]
fn faults_choose_by_kind_name_and_number_and_may_last() {
    let (device, disk) = machine();
    let (a, b) = (durable_file(&disk, "a", b""), durable_file(&disk, "b", b""));
    let kind = Some(OperationKind::Sync);
    device.inject(Fault { kind, name: "b".into(), nth: 2, lasting: true, effect: Effect::Fail(Errno::IO) });
    assert!(a.sync().is_ok() && b.sync().is_ok() && a.sync().is_ok());
    assert!(b.sync().is_err() && a.sync().is_ok() && b.sync().is_err());
    device.clear_faults();
    b.sync().expect("taken back");
    for kind in [OperationKind::Create, OperationKind::Rename, OperationKind::Remove] {
        device.fail_at(kind, 1, Errno::MFILE);
    }
    assert_eq!(errno(disk.create("c")), Some(Errno::MFILE.raw_os_error()));
    assert_eq!(errno(disk.rename("a", "c")), Some(Errno::MFILE.raw_os_error()));
    assert_eq!(errno(disk.remove("a")), Some(Errno::MFILE.raw_os_error()));
    assert_eq!(disk.list().expect("listed"), ["a", "b"]);
}

#[test]
fn a_full_disk_takes_what_fits_and_nothing_more_until_something_is_removed() {
    let (device, disk) = machine();
    durable_file(&disk, "old", &[0; 100]);
    let file = durable_file(&disk, "new", b"");
    device.set_free_bytes(Some(50));
    assert_eq!(file.write_at(&[&[1; 60]], 0).expect_err("full").kind(), io::ErrorKind::StorageFull);
    assert_eq!(content(&disk, "new"), [1; 50]);
    assert_eq!(disk.free_bytes().expect("known"), 0);
    file.write_at(&[&[2; 50]], 0).expect("overwriting needs no room");
    assert!(file.allocate(51).is_err());
    disk.remove("old").expect("removed");
    file.allocate(150).expect("there is room again");
}

#[test]
fn a_failed_write_leaves_a_part_at_most() {
    for nth in 1..20 {
        let (device, disk) = machine();
        let file = durable_file(&disk, "a", &[0; 100]);
        device.fail_at(OperationKind::Write, nth, Errno::IO);
        let failed = (1..20).find(|_| file.write_at(&[&[1; 100]], 0).is_err());
        assert_eq!(failed, Some(nth));
    }
}

#[test]
fn a_held_sync_blocks_and_covers_only_what_was_written_before() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "1.log", b"0");
    device.hold_sync(".log", Hold::Block);
    file.write_at(&[b"1"], 0).expect("written");
    let syncing = std::thread::spawn({
        let file = file.clone();
        move || file.sync()
    });
    assert!(device.wait_for_blocked_sync(Duration::from_secs(10)));
    file.write_at(&[b"2"], 0).expect("written");
    device.release_sync(".log");
    syncing.join().expect("no panic").expect("synced");
    assert_eq!(device.durable("1.log").expect("there"), b"1");
    file.sync().expect("synced");
    assert_eq!(device.durable("1.log").expect("there"), b"2");
}

#[test]
fn a_held_sync_ends_with_its_process() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", b"0");
    device.hold_sync("a", Hold::Block);
    let syncing = std::thread::spawn(move || file.sync());
    assert!(device.wait_for_blocked_sync(Duration::from_secs(10)));
    device.kill();
    assert!(syncing.join().expect("no panic").is_err());
}

#[test]
fn a_refused_sync_has_no_effect_and_may_be_tried_again() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", b"0");
    file.write_at(&[b"1"], 0).expect("written");
    device.hold_sync("a", Hold::Refuse(Errno::AGAIN));
    assert_eq!(file.sync().expect_err("held").kind(), io::ErrorKind::WouldBlock);
    device.release_sync("a");
    file.sync().expect("released");
    assert_eq!(device.durable("a").expect("there"), b"1");
}

#[test]
fn rot_overwriting_shortening_and_deleting_reach_the_device() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", b"abcd");
    device.rot("a", 1, 0x01).expect("there");
    device.overwrite("a", 2, b"zz").expect("there");
    assert_eq!(content(&disk, "a"), b"aczz");
    assert_eq!(device.rot("a", 4, 1).expect_err("behind the end").kind(), io::ErrorKind::UnexpectedEof);
    device.truncate("a", 3).expect("there");
    device.crash(&CrashPolicy::LoseAll);
    assert_eq!(content(&device, "a"), b"acz");
    device.delete("a").expect("there");
    assert!(device.list().expect("listed").is_empty() && file.sync().is_err());
    device.put("b", b"new");
    device.crash(&CrashPolicy::LoseAll);
    assert_eq!(content(&device, "b"), b"new");
}

#[test]
fn an_unreadable_sector_can_be_written_again() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", &[1; 1024]);
    device.make_unreadable("a", 600).expect("there");
    assert_eq!(errno(file.read_at(&mut [0; 1024], 0)), Some(Errno::IO.raw_os_error()));
    file.read_at(&mut [0; 512], 0).expect("the other sector is whole");
    file.write_at(&[&[2; 512]], 512).expect("written");
    file.read_at(&mut [0; 1024], 0).expect("readable again");
}

#[test]
fn an_old_copy_of_the_disk_can_be_put_back() {
    let (device, disk) = machine();
    let file = durable_file(&disk, "a", b"old");
    let copy = device.snapshot();
    file.write_at(&[b"new"], 0).and_then(|()| file.sync()).expect("synced");
    device.restore(copy);
    assert_eq!(content(&device, "a"), b"old");
}

#[test]
fn the_lock_is_exclusive_until_it_is_dropped_or_its_process_ends() {
    let (device, disk) = machine();
    let lock = disk.lock("lock").expect("free");
    assert_eq!(device.boot().lock("lock").err().expect("taken").kind(), io::ErrorKind::WouldBlock);
    drop(lock);
    let lost = disk.lock("lock").expect("free again");
    device.kill();
    let next = device.boot();
    let _lock = next.lock("lock").expect("its owner is dead");
    drop(lost);
    assert!(next.lock("lock").is_err(), "a dead owner's guard frees nothing");
}

#[test]
fn a_map_shows_what_is_written_later_and_nothing_behind_its_length() {
    let (_device, disk) = machine();
    let file = durable_file(&disk, "a", &[0; 10]);
    let map = file.map().expect("mapped");
    file.write_at(&[b"later"], 0).expect("written");
    let mut seen = Vec::new();
    map.with(0, 5, &mut |bytes| seen = bytes.to_vec());
    assert_eq!(seen, b"later");
    file.allocate(20).expect("allocated");
    let beyond = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| map.with(10, 1, &mut |_| {})));
    assert!(beyond.is_err());
}
