//! Bytes that were durable and changed: the node refuses to start and names them. It never starts with a shorter log.

use super::*;
use crate::storage::fill;
use crate::storage::segment::{HEADER_BLOCK, SegmentHeader};
use crate::storage::simulated::DiskImage;
use crate::storage::slots::SlotFile;
use crate::storage::writer::encode_hard_state;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(super) const SMALL: u64 = 12 << 10;

/// A log of a sealed segment, one that a conflict cut short, and a tail; and where each ends.
pub(super) struct Sample {
    pub(super) image: DiskImage,
    pub(super) records: Vec<Vec<u8>>,
    pub(super) ends: Vec<(String, u64)>,
}

pub(super) fn sample(closed: bool) -> Sample {
    let device = SimulatedDisk::new(1);
    let mut engine = Engine::open_with(device.boot(), SMALL).expect("opened");
    engine.set_term(1).expect("stored");
    let step = |engine: &mut Engine, value: &[u8]| {
        engine.set(b"key", value).expect("staged");
        engine.flush().expect("flushed");
    };
    for bytes in [0, 100, 2_000, 4_500, 3_000] {
        step(&mut engine, &vec![0; bytes]);
    }
    for bytes in [0, 700, 1_000] {
        engine.set(b"conflict", &vec![1; bytes]).expect("staged");
    }
    engine.flush().expect("flushed");
    engine.truncate(engine.last().index - 1);
    engine.set_term(2).expect("stored");
    step(&mut engine, &[0; 4_096]);
    engine.apply();
    step(&mut engine, &[2; 1_300]);
    if closed {
        engine.log.close_when_idle();
        engine.flush().expect("closed");
    }
    let ends = engine.log.segments.iter().map(|held| (held.segment.name().to_owned(), held.end)).collect();
    let records = engine.records();
    drop(engine);
    device.kill();
    Sample { image: device.snapshot(), records, ends }
}

impl Sample {
    /// What opening gives after `damage`.
    fn open_after(&self, damage: impl FnOnce(&SimulatedDisk)) -> Result<Engine> {
        let device = SimulatedDisk::new(1);
        device.restore(self.image.clone());
        damage(&device);
        Engine::open_with(device.boot(), SMALL)
    }

    fn whole(&self, engine: Result<Engine>, what: &str) {
        let mut engine = engine.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(engine.records() == self.records, "{what}: {} of {} entries", engine.log.last().index, self.records.len());
    }
}

#[test]
fn the_sample_has_every_kind_of_segment() {
    let sample = sample(false);
    assert!(sample.ends.len() >= 3, "{:?}", sample.ends);
    sample.whole(sample.open_after(|_| ()), "undamaged");
}

#[test]
fn any_flipped_bit_below_the_end_is_refused_with_file_and_offset() {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for closed in [false, true] {
        let sample = sample(closed);
        let tail = sample.ends.len() - 1;
        for (number, (name, end)) in sample.ends.iter().enumerate() {
            for offset in (0..*end).filter(|offset| is_worth_flipping(*offset, *end)) {
                if closed && (number != tail || end - offset > 200) {
                    continue;
                }
                let mask = 1 << random.random_range(0..8);
                let what = format!("closed {closed}, {name} at {offset} with mask {mask}");
                let error = sample.open_after(|device| device.rot(name, offset, mask).expect("rotted"));
                let error = error.err().unwrap_or_else(|| panic!("{what}: not noticed"));
                let named = damage_at(&error, name);
                assert!(named <= offset, "{what}: {error}");
            }
        }
    }
}

/// All bytes with a meaning of their own, and a sample of those that are all alike: zeros of the header block and of large values.
pub(super) fn is_worth_flipping(offset: u64, end: u64) -> bool {
    if offset < HEADER_BLOCK {
        offset < 80 || offset % 256 == 1
    } else {
        offset < HEADER_BLOCK + 400 || end - offset < 300 || offset % 24 == 3
    }
}

#[test]
fn flips_behind_the_end_lose_nothing() {
    let sample = sample(false);
    for (name, end) in &sample.ends {
        for offset in (*end..SMALL).step_by(397).chain(*end..*end + 100) {
            let what = format!("{name} at {offset}");
            sample.whole(sample.open_after(|device| device.rot(name, offset.min(SMALL - 1), 4).expect("rotted")), &what);
        }
    }
}

#[test]
fn a_shorter_or_missing_file_is_refused() {
    let sample = sample(true);
    for (name, _) in &sample.ends {
        for length in (0..SMALL).step_by(1023).chain([SMALL - 1, 4096, 4097]) {
            let opened = sample.open_after(|device| device.truncate(name, length).expect("cut"));
            let error = opened.err().unwrap_or_else(|| panic!("{name} cut to {length}"));
            assert!(damage_at(&error, name) <= length, "{error}");
        }
        let error = sample.open_after(|device| device.delete(name).expect("deleted")).err();
        damage_at(&error.unwrap_or_else(|| panic!("{name} is missing")), name);
    }
}

#[test]
fn a_lost_sector_of_the_last_batch_is_noticed_once_it_is_closed() {
    let closed = sample(true);
    let (name, end) = closed.ends.last().expect("there is a tail").clone();
    // A whole sector of the last record, in front of the closing batch.
    let offset = (end - 96 - 600) / 512 * 512;
    let opened = closed.open_after(|device| {
        let file = device.boot().open(&name).expect("opened");
        let (header, _) = SegmentHeader::read(&*file, &name, 0xC1).expect("whole");
        let mut bytes = vec![0; 512];
        fill::fill(header.seed, offset, &mut bytes);
        device.overwrite(&name, offset, &bytes).expect("overwritten");
    });
    let named = damage_at(&opened.err().expect("a batch that was durable is not torn"), &name);
    assert!(named < offset + 512 && named + 2_000 > offset, "{named} is in the batch of the sector at {offset}");
}

#[test]
fn a_misdirected_write_is_refused() {
    let sample = sample(false);
    let (name, end) = sample.ends.last().expect("there is a tail").clone();
    let opened = sample.open_after(|device| {
        let bytes = device.durable(&name).expect("there");
        let (from, to) = (HEADER_BLOCK as usize, (end - 512) / 16 * 16);
        device.overwrite(&name, to, &bytes[from..from + 96]).expect("overwritten");
    });
    damage_at(&opened.err().expect("a batch at the wrong place"), &name);
}

#[test]
fn an_unreadable_sector_is_damage_and_no_end() {
    let sample = sample(false);
    for (name, end) in &sample.ends {
        let opened = sample.open_after(|device| device.make_unreadable(name, end - 600).expect("marked"));
        let error = opened.err().unwrap_or_else(|| panic!("{name}: it started"));
        assert!(damage_at(&error, name) <= end - 600, "{error}");
    }
}

#[test]
fn files_that_contradict_each_other_are_refused() {
    let sample = sample(false);
    let older_term = sample.open_after(|device| {
        let (mut file, _) = SlotFile::open(&device.boot(), "hardstate").expect("opened");
        file.write(&encode_hard_state(&HardState { term: 1, vote: None })).expect("written");
    });
    damage_at(&older_term.err().expect("the log is of term 2"), "hardstate");
    let empty_manifest = sample.open_after(|device| {
        let (mut file, _) = SlotFile::open(&device.boot(), "manifest").expect("opened");
        file.write(&crate::storage::manifest::Manifest::default().encode()).expect("written");
    });
    damage_at(&empty_manifest.err().expect("segments with batches are not listed"), "00000001.log");
    let newer = sample.open_after(|device| {
        let (mut file, _) = SlotFile::open(&device.boot(), "manifest").expect("opened");
        file.write(&[9, 0, 0, 0]).expect("written");
    });
    let reason = newer.err().expect("a newer format").to_string();
    assert!(reason.contains("format version 9"), "{reason}");
}

#[test]
fn a_segment_nobody_listed_is_swept_and_a_prepared_one_is_used() {
    let device = SimulatedDisk::new(1);
    let mut engine = Engine::open_with(device.boot(), SMALL).expect("opened");
    let segment = engine.preparer.prepare(0).expect("prepared");
    assert_eq!(segment.name(), "00000001.log");
    drop(engine);
    device.kill();
    let mut engine = Engine::open_with(device.boot(), SMALL).expect("reopened");
    assert!(!device.list().expect("listed").iter().any(|name| name == "00000001.log"));
    engine.make_room(|log| log.room(1)).expect("prepared");
    drop(engine);
    device.kill();
    let engine = Engine::open_with(device.boot(), SMALL).expect("reopened");
    assert_eq!(engine.log.prepared(), 1);
}
