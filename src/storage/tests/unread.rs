//! Reads that fail: what the disk has lost is damage, which others can repair; what only this process cannot read now is none, and nothing
//! is put aside for it.

use super::merges::{Pair, SMALL};
use super::snapshots::{chunks, sender};
use super::*;
use crate::storage::aside::NAME as ASIDE;
use crate::storage::hint;
use crate::storage::simulated::{CrashPolicy, Errno};
use crate::storage::snapshot::SnapshotError;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A member of a cluster of two, with files of all kinds.
fn member(device: &SimulatedDisk) -> Pair {
    let mut directory = Directory::open(device.boot(), ID).expect("empty");
    let uuid = directory.identity().uuid;
    let members = [(ID, uuid), ("localhost:8002", 9)].map(|(id, uuid)| FoundingMember { id: id.into(), uuid });
    directory.found(&Founding { cluster: 0xC1, members: members.to_vec() }).expect("founded");
    drop(directory);
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut pair = Pair::open(device, Contents::new());
    (0..200).for_each(|_| pair.write_random(&mut random, 20).expect("written"));
    pair.settle(2 * SMALL).expect("merged");
    pair
}

fn open(device: &SimulatedDisk) -> Result<Opened> {
    open_directory(device.boot())?.open_log(&Options { segment_bytes: SMALL, reserve_bytes: 0 })
}

fn start(device: &SimulatedDisk) -> Opened {
    open(device).unwrap_or_else(|error| panic!("{error}"))
}

/// The names of the hints of segments, the oldest first.
fn hints(device: &SimulatedDisk) -> Vec<String> {
    let names = device.boot().list().expect("listed");
    names.iter().filter(|name| names.contains(&name.replace(".hint", ".log")) && name.ends_with(".hint")).cloned().collect()
}

#[test]
fn a_file_that_cannot_be_opened_now_is_not_taken_for_damage() {
    let device = SimulatedDisk::new(1);
    let pair = member(&device);
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS] {
        device.refuse_to_open(Some((".hint", errno)));
        let job = pair.engine.log.next_scrub(0).expect("there are files").1;
        let error = pair.engine.scrubber.scrub(&job, &mut |_| {}).expect_err("its hint cannot be read");
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
    drop(pair.engine);
    device.crash(&CrashPolicy::LoseAll);
    for (name, errno) in [(".hint", Errno::MFILE), (".log", Errno::NFILE), (".data", Errno::MFILE)] {
        device.refuse_to_open(Some((name, errno)));
        let error = open(&device).err().unwrap_or_else(|| panic!("{name}: it started"));
        assert!(matches!(&error, Error::Io { .. }) && error.to_string().contains(name), "{error}");
        device.crash(&CrashPolicy::LoseAll);
    }
    device.refuse_to_open(None);
    assert_eq!(start(&device).floor, EntryId::default(), "nothing was put aside");
    device.crash(&CrashPolicy::LoseAll);
    Pair::open(&device, pair.model).check("with descriptors again");
}

#[test]
fn merges_wait_for_descriptors() {
    let device = SimulatedDisk::new(1);
    let mut pair = member(&device);
    let mut random = ChaCha8Rng::seed_from_u64(8);
    (0..100).for_each(|_| pair.write_random(&mut random, 20).expect("written"));
    while pair.engine.hint().expect("hinted") {}
    while pair.engine.retire(0).expect("retired") {}
    let job = pair.engine.log.next_merge().expect("there is garbage");
    device.refuse_to_open(Some((".hint", Errno::MFILE)));
    let outcome = pair.engine.merger.merge(&job, &mut |_| {});
    assert!(matches!(&outcome, Err(PrepareError::Full(reason)) if reason.contains(".hint")), "{outcome:?}");
    device.refuse_to_open(None);
    drop(job);
    assert!(pair.engine.merge().expect("merged"));
    pair.check("merged");
}

#[test]
fn a_hint_of_a_newer_program_is_refused_and_not_put_aside() {
    let device = SimulatedDisk::new(1);
    let pair = member(&device);
    drop(pair.engine);
    device.crash(&CrashPolicy::LoseAll);
    let name = hints(&device).remove(0);
    let known = device.durable(&name).expect("it stands");
    let mut newer = known.clone();
    hint::set_version(&mut newer, 3);
    device.delete(&name).expect("it stands");
    device.put(&name, &newer);
    let error = open(&device).expect_err("it started");
    assert!(matches!(&error, Error::Directory(text) if text.contains(&name) && text.contains("version 3")), "{error}");
    device.crash(&CrashPolicy::LoseAll);
    device.delete(&name).expect("it stands");
    device.put(&name, &known);
    Pair::open(&device, pair.model).check("by the newer program");
}

#[test]
fn a_sector_that_cannot_be_read_is_damage_and_is_put_aside() {
    let device = SimulatedDisk::new(1);
    let mut pair = member(&device);
    let job = pair.engine.log.next_scrub(0).expect("there are files").1;
    let name = job.file().0.to_owned();
    device.make_unreadable(&name, 4096).expect("it stands");
    damage_at(&pair.engine.scrubber.scrub(&job, &mut |_| {}).expect_err("a sector is lost"), &name);
    drop(job);
    // A start reads none of the values of hinted files, but the segments behind them.
    for _ in 0..6 {
        pair.engine.set(b"key", &[1; 3_000]).expect("staged");
        pair.engine.flush().expect("flushed");
    }
    let segment = pair.engine.log.segments.iter().rfind(|holder| holder.sealed.is_some()).expect("one is sealed");
    let (name, end) = (segment.segment.name().to_owned(), pair.engine.last());
    drop(pair.engine);
    device.crash(&CrashPolicy::LoseAll);
    device.make_unreadable(&name, 4096).expect("it stands");
    let opened = start(&device);
    assert_eq!((opened.floor, opened.log.last()), (end, EntryId::default()));
}

#[test]
fn damage_in_what_was_received_says_nothing_of_the_own_log() {
    let sender = sender(&mut ChaCha8Rng::seed_from_u64(5));
    let sent = chunks(&sender, 1 << 20);
    let finish = |harm: &dyn Fn(&SimulatedDisk)| {
        let device = SimulatedDisk::new(2);
        let pair = Pair::open(&device, Contents::new());
        let before = device.boot().list().expect("listed");
        let mut writer = pair.engine.snapshots.begin(sender.snapshot.last, sender.snapshot.hash);
        sent.iter().for_each(|(from, bytes)| writer.take(*from, bytes).expect("taken"));
        harm(&device);
        let outcome = writer.finish().map(drop);
        assert_eq!(device.boot().list().expect("listed"), before, "nothing of it stays");
        outcome
    };
    let full = finish(&|device| device.refuse_to_open(Some((".hint", Errno::MFILE))));
    assert!(matches!(full, Err(SnapshotError::Full(_))), "{full:?}");
    let spoil = |device: &SimulatedDisk| {
        let names = device.boot().list().expect("listed");
        for name in names.iter().filter(|name| name.ends_with(".data")) {
            device.rot(name, 4096 + 50, 1).expect("rotted");
            device.delete(&name.replace(".data", ".hint")).expect("it stands");
        }
        assert!(names.iter().any(|name| name.ends_with(".data")), "{names:?}");
    };
    let bad = finish(&spoil);
    assert!(matches!(bad, Err(SnapshotError::Bad(_))), "{bad:?}");
}

#[test]
fn a_list_of_what_was_put_aside_that_a_power_cut_brings_back_is_swept() {
    let device = SimulatedDisk::new(1);
    drop(member(&device));
    device.crash(&CrashPolicy::LoseAll);
    device.put(ASIDE, b"of long ago");
    drop(start(&device));
    assert!(!device.boot().list().expect("listed").iter().any(|name| name == ASIDE));
    // Nor is it kept in place of the present one.
    device.crash(&CrashPolicy::LoseAll);
    device.put(ASIDE, b"of long ago");
    device.delete(&hints(&device)[0]).expect("it stands");
    assert!(start(&device).floor.term > 0);
    assert_ne!(device.durable(ASIDE).expect("kept"), b"of long ago");
}
