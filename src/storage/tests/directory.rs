//! Who may open a data directory, and what founding leaves behind when it is interrupted.

use super::*;
use crate::storage::simulated::CrashPolicy;

fn directory_error(error: Error) -> String {
    match error {
        Error::Directory(reason) => reason,
        other => panic!("expected a refusal of the directory, found {other}"),
    }
}

#[test]
fn every_start_is_a_new_boot_of_the_same_node() {
    let device = SimulatedDisk::new(1);
    let first = open_directory(device.boot()).expect("opened").identity();
    device.kill();
    let second = open_directory(device.boot()).expect("opened").identity();
    assert_eq!((second.uuid, first.boot, second.boot), (first.uuid, 1, 2));
    assert_ne!(first.nonce, second.nonce);
}

#[test]
fn a_directory_in_use_or_of_another_node_is_refused_by_name() {
    let device = SimulatedDisk::new(1);
    let directory = open_directory(device.boot()).expect("opened");
    let reason = directory_error(Directory::open(device.boot(), ID).expect_err("locked"));
    assert!(reason.contains("in use by another process"), "{reason}");
    drop(directory);
    let reason = directory_error(Directory::open(device.boot(), "localhost:8009").expect_err("foreign"));
    assert!(reason.contains(ID) && reason.contains("localhost:8009"), "{reason}");
}

#[test]
fn a_founding_that_does_not_name_this_directory_is_refused() {
    let device = SimulatedDisk::new(1);
    let mut directory = Directory::open(device.boot(), ID).expect("opened");
    let founding = Founding { cluster: 1, members: vec![FoundingMember { id: ID.into(), uuid: 1 }] };
    directory_error(directory.found(&founding).expect_err("another uuid"));
    assert!(directory.founding().is_none());
}

#[test]
fn marks_are_kept() {
    let device = SimulatedDisk::new(1);
    let (mut file, payload) = open_directory(device.boot()).expect("opened").take_marks();
    assert!(payload.is_empty());
    file.write(b"seen").expect("written");
    device.crash(&CrashPolicy::LoseAll);
    let (_, payload) = open_directory(device.boot()).expect("opened").take_marks();
    assert_eq!(payload, b"seen");
}

#[test]
fn a_crash_anywhere_in_founding_leaves_an_empty_node_or_a_member() {
    let mut nth = 1;
    loop {
        let device = SimulatedDisk::new(nth);
        device.power_off_at(nth);
        let done = open_directory(device.boot()).is_ok();
        device.clear_faults();
        let image = device.snapshot();
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random, CrashPolicy::Random] {
            device.restore(image.clone());
            device.crash(&policy);
            let mut engine = Engine::open(device.boot()).unwrap_or_else(|error| panic!("operation {nth}, {policy:?}: {error}"));
            engine.set_term(1).expect("stored");
            engine.set(b"k", b"v").expect("staged");
            engine.flush().expect("flushed");
            drop(engine);
            device.crash(&CrashPolicy::LoseAll);
            assert_eq!(Engine::open(device.boot()).expect("reopened").last().index, 1, "operation {nth}, {policy:?}");
        }
        if done {
            break;
        }
        nth += 1;
    }
    assert!(nth > 20, "founding has more operations than {nth}");
}

#[test]
fn a_node_that_has_lived_is_not_taken_for_an_empty_one() {
    let lived = |lost: &[&str]| {
        let device = SimulatedDisk::new(1);
        let mut engine = Engine::open(device.boot()).expect("opened");
        engine.set_term(5).expect("stored");
        engine.set(b"k", b"v").expect("staged");
        engine.flush().expect("flushed");
        drop(engine);
        device.kill();
        lost.iter().for_each(|name| device.delete(name).expect("deleted"));
        Directory::open(device.boot(), ID).expect_err("damage")
    };
    damage_at(&lived(&["cluster"]), "cluster");
    damage_at(&lived(&["cluster", "00000001.log"]), "cluster");
    damage_at(&lived(&["identity"]), "identity");
}

#[test]
fn a_missing_file_of_a_member_is_refused() {
    for name in ["hardstate", "manifest", "marks", "00000001.log"] {
        let device = SimulatedDisk::new(1);
        let mut engine = Engine::open(device.boot()).expect("opened");
        engine.make_room(|log| log.room(10)).expect("prepared");
        drop(engine);
        device.kill();
        device.delete(name).expect("deleted");
        let error = Engine::open(device.boot()).err().unwrap_or_else(|| panic!("{name} is missing"));
        assert!(error.to_string().contains(name), "{error}");
    }
}
