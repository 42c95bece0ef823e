//! Damage where other nodes have the data: everything is put aside, and how far the log went is kept.

use super::*;
use crate::storage::quarantine::{ASIDE, END_UNKNOWN};
use crate::storage::reserve;
use crate::storage::segment::HEADER_BLOCK;

const RESERVE: u64 = 16 << 20;

fn open(device: &SimulatedDisk) -> Result<Engine> {
    Engine::of(
        open_member(device.boot(), &["localhost:8002", "localhost:8003"])?,
        &Options { segment_bytes: SEGMENT, reserve_bytes: RESERVE },
    )
}

/// A member that wrote until it had sealed a segment, stopped. Returns its last entry, and the names of its files with batches.
fn stopped() -> (Arc<SimulatedDisk>, EntryId, Vec<String>) {
    let device = SimulatedDisk::new(1);
    let mut engine = open(&device).expect("opened");
    engine.set_term(3).expect("stored");
    while engine.log.segments.len() < 2 {
        engine.set(b"key", &[1; 3000]).expect("staged");
        engine.flush().expect("flushed");
        engine.apply();
    }
    engine.log.close_when_idle();
    engine.flush().expect("closed");
    engine.preparer.keep_reserve().expect("there is room");
    let (last, names) = (engine.last(), engine.log.segments.iter().map(|held| held.segment.name().to_owned()).collect());
    drop(engine);
    device.kill();
    (device, last, names)
}

#[test]
fn a_log_that_is_put_aside_leaves_its_end_as_the_floor() {
    let (device, last, names) = stopped();
    device.rot(&names[0], HEADER_BLOCK + 200, 1).expect("it is long enough");
    let engine = open(&device).expect("others have the data");
    assert_eq!((engine.floor, engine.last()), (last, EntryId::default()));
    drop(engine);
    device.kill();
    assert_eq!(open(&device).expect("nothing else is damaged").floor, last);
}

#[test]
fn of_an_end_that_is_damaged_itself_only_the_term_is_known() {
    let (device, last, names) = stopped();
    device.rot(&names[1], 10, 1).expect("it is long enough");
    let engine = open(&device).expect("others have the data");
    assert_eq!(engine.floor, EntryId { term: last.term, index: END_UNKNOWN });
}

#[test]
fn on_a_full_disk_the_reserve_makes_room_for_what_is_put_aside() {
    let (device, last, names) = stopped();
    device.rot(&names[0], HEADER_BLOCK + 200, 1).expect("it is long enough");
    device.set_free_bytes(Some(0));
    assert_eq!(open(&device).expect("the reserve is enough").floor, last);
    let left = device.boot().list().expect("listed");
    assert!(left.iter().any(|name| name == ASIDE) && !left.iter().any(|name| name == reserve::NAME), "{left:?}");
}

#[test]
fn a_damaged_segment_that_was_never_listed_does_not_keep_a_node_down() {
    let (device, last, _) = stopped();
    let mut engine = open(&device).expect("nothing is damaged");
    let prepared = engine.preparer.prepare(0).expect("there is room");
    drop(engine);
    device.kill();
    device.rot(prepared.name(), 10, 1).expect("it is long enough");
    for _ in 0..2 {
        assert_eq!(open(&device).expect("others have the data").floor, last);
        device.kill();
    }
    let mut engine = open(&device).expect("as before");
    assert!(engine.preparer.prepare(0).expect("there is room").name() > prepared.name());
    engine.writer.run(Job::Heal).expect("written");
    assert!(device.boot().list().expect("listed").iter().all(|name| name != prepared.name()));
}
