//! Damaged logs that are mended from what others have: the same log comes out, whatever was damaged, wherever the power goes; and what
//! cannot be proved is not filled.

use super::damage::is_worth_flipping;
use super::*;
use crate::storage::directory::Attempt;
use crate::storage::mend::{Damaged, Found, Missing, Wanted};
use crate::storage::segment::HEADER_BLOCK;
use crate::storage::simulated::{CrashPolicy, DiskImage, Effect, Fault, OperationKind};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SMALL: u64 = 12 << 10;

/// A node of three with sealed segments, one that a conflict cut short, and a tail.
struct Patient {
    image: DiskImage,
    records: Vec<Vec<u8>>,
    contents: Contents,
    /// Each segment and where it ends.
    ends: Vec<(String, u64)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Hints {
    None,
    Made,
    /// A merge has run: they cannot be made again.
    Needed,
}

type Damage<'a> = &'a dyn Fn(&SimulatedDisk);

fn options() -> Options {
    Options { segment_bytes: SMALL, reserve_bytes: 0 }
}

fn founded_as_one_of_three(device: &SimulatedDisk) {
    let mut directory = Directory::open(device.boot(), ID).expect("opened");
    let member = |id: &str, uuid| FoundingMember { id: id.into(), uuid };
    let members = vec![member(ID, directory.identity().uuid), member("localhost:8002", 2), member("localhost:8003", 3)];
    directory.found(&Founding { cluster: 0xC1, members }).expect("founded");
    drop(directory);
    device.kill();
}

fn patient(closed: bool, hints: Hints) -> Patient {
    let device = SimulatedDisk::new(1);
    founded_as_one_of_three(&device);
    let mut engine = Engine::open_with(device.boot(), SMALL).expect("opened");
    engine.set_term(1).expect("stored");
    if hints == Hints::Needed {
        // What leaves the log and is merged.
        for number in 0..14_u8 {
            engine.set(&[b'a' + number % 3], &[number; 2_000]).expect("staged");
            engine.flush().expect("flushed");
        }
        engine.apply();
        while engine.hint().expect("made") {}
        engine.retire(0).expect("retired");
        while engine.merge().expect("merged") {}
    }
    for (number, bytes) in [0, 100, 2_000, 4_500, 3_000].into_iter().enumerate() {
        engine.set(&[number as u8], &vec![0; bytes]).expect("staged");
        engine.set(b"twice", &[number as u8; 30]).expect("staged");
        engine.flush().expect("flushed");
    }
    let version = engine.last().index;
    engine.propose(&Operation::CompareAndSet { key: b"cas", expected: version, value: b"refused" }).expect("staged");
    for bytes in [0, 700, 1_000] {
        engine.set(b"conflict", &vec![1; bytes]).expect("staged");
    }
    engine.flush().expect("flushed");
    engine.truncate(engine.last().index - 1);
    engine.set_term(2).expect("stored");
    for value in [[3; 4_096].as_slice(), &[2; 1_300], &[5; 4_000], &[6; 900]] {
        engine.set(b"key", value).expect("staged");
        engine.flush().expect("flushed");
    }
    engine.apply();
    if hints != Hints::None {
        while engine.hint().expect("made") {}
    }
    if hints == Hints::Needed {
        engine.set_term(3).expect("stored");
        while engine.merge().expect("merged") {}
    }
    if closed {
        engine.log.close_when_idle();
        engine.flush().expect("closed");
    }
    if hints == Hints::Made {
        // Else a start would believe the hints, and damage would show only when somebody reads it.
        engine.writer.run(Job::Distrust).expect("remembered");
    }
    let ends = engine.log.segments.iter().map(|held| (held.segment.name().to_owned(), held.end)).collect();
    let (records, contents) = (engine.records(), engine.contents());
    drop(engine);
    device.kill();
    Patient { image: device.snapshot(), records, contents, ends }
}

impl Patient {
    fn device(&self) -> Arc<SimulatedDisk> {
        let device = SimulatedDisk::new(1);
        device.restore(self.image.clone());
        device
    }

    fn first(&self) -> u64 {
        record::parse(&self.records[0]).expect("sound").0.id.index
    }

    /// What a whole node with the same log answers.
    fn give(&self, wanted: &Wanted) -> Found {
        let id = |record: &Vec<u8>| record::parse(record).expect("sound").0.id;
        let is_proved = |id: &EntryId| wanted.terms.contains(&id.term) || id.index <= wanted.commit;
        let proved = self.records.iter().map(id).filter(is_proved).map(|id| id.index).max().unwrap_or(0);
        if wanted.first < self.first() {
            return Found::Missing { through: wanted.last.min(self.first() - 1), why: Missing::Compacted };
        }
        if wanted.first > proved {
            return Found::Missing { through: wanted.last, why: Missing::Other };
        }
        let range = (wanted.first - self.first()) as usize..=(wanted.last.min(proved) - self.first()) as usize;
        Found::Records(self.records[range].concat())
    }

    fn fill(&self, damaged: &mut Damaged) {
        for wanted in damaged.wanted() {
            let Found::Records(records) = self.give(&wanted) else { panic!("{wanted:?} is there") };
            assert_eq!(damaged.take(&wanted, &records).expect("the right records"), wanted.last + 1);
        }
    }

    /// Whether the log came out as it was.
    fn check(&self, device: &SimulatedDisk, what: &str) {
        device.kill();
        let mut engine = Engine::open_with(device.boot(), SMALL).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(engine.log.last(), record::parse(self.records.last().expect("some")).expect("sound").0.id, "{what}");
        assert!(engine.records() == self.records, "{what}: other records");
        engine.commit = engine.last().index;
        engine.apply_to(engine.commit);
        assert!(engine.contents() == self.contents, "{what}: another state");
        // And it goes on.
        engine.set_term(9).expect("stored");
        engine.set(b"more", &[1; 3_000]).expect("staged");
        engine.flush().expect("flushed");
        engine.apply();
        while engine.hint().expect("made") {}
    }
}

fn attempt(device: &SimulatedDisk) -> Result<Attempt> {
    Directory::open(device.boot(), ID)?.try_open_log(&options())
}

/// Mends what can be mended. False if there was an obstacle.
fn treat(patient: &Patient, device: &SimulatedDisk, what: &str) -> bool {
    let mut damaged = match attempt(device).unwrap_or_else(|error| panic!("{what}: {error}")) {
        Attempt::Opened(_) => return true,
        Attempt::Damaged(damaged) => damaged,
    };
    if damaged.obstacle().is_some() {
        return false;
    }
    patient.fill(&mut damaged);
    match damaged.mend().unwrap_or_else(|error| panic!("{what}: {error}")) {
        Attempt::Opened(_) => true,
        Attempt::Damaged(damaged) => panic!("{what}: mended, and damaged again: {}, {:?}", damaged.cause(), damaged.wanted()),
    }
}

#[test]
fn any_flipped_bit_is_mended_wherever_something_proves_what_it_was() {
    for (closed, hints) in [(true, Hints::None), (false, Hints::None), (true, Hints::Made)] {
        let patient = patient(closed, hints);
        assert!(patient.ends.len() >= 4, "{:?}", patient.ends);
        let mut obstacles = 0;
        for (number, (name, end)) in patient.ends.iter().enumerate() {
            // Bytes that look alike are flipped on one occasion or another.
            let sampled = |offset: &u64| *offset < 80 || *end - *offset < 200 || offset % 3 == closed as u64 + hints as u64;
            for offset in (0..*end).filter(|offset| is_worth_flipping(*offset, *end) && sampled(offset)) {
                let what = format!("closed {closed}, {name} at {offset} of {end}");
                let device = patient.device();
                device.rot(name, offset, 1 << (offset % 8)).expect("rotted");
                if treat(&patient, &device, &what) {
                    patient.check(&device, &what);
                } else {
                    obstacles += 1;
                    // The last header of a log that nothing follows, or a header block without which nothing of the tail can be read.
                    assert!(number + 1 == patient.ends.len(), "{what}: an obstacle");
                }
            }
        }
        assert!(obstacles < 130, "closed {closed}: {obstacles} obstacles");
    }
}

#[test]
fn missing_cut_and_unreadable_files_are_mended_as_long_as_something_follows() {
    let patient = patient(true, Hints::None);
    let last = patient.ends.len() - 1;
    for (number, (name, end)) in patient.ends.iter().enumerate() {
        let damages: [(&str, Damage<'_>); 4] = [
            ("missing", &|device| device.delete(name).expect("deleted")),
            ("empty", &|device| device.truncate(name, 0).expect("cut")),
            ("cut", &|device| device.truncate(name, HEADER_BLOCK + 700).expect("cut")),
            ("overwritten", &|device| device.overwrite(name, HEADER_BLOCK, &vec![7; (*end - HEADER_BLOCK) as usize]).expect("overwritten")),
        ];
        for (how, damage) in damages {
            let device = patient.device();
            damage(&device);
            let what = format!("{name} is {how}");
            let mended = treat(&patient, &device, &what);
            assert_eq!(mended, number < last, "{what}");
            if mended {
                patient.check(&device, &what);
            }
        }
    }
}

#[test]
fn hints_that_cannot_be_made_again_are_kept_with_the_mended_segment() {
    let patient = patient(true, Hints::Needed);
    for distrusted in [false, true] {
        for (number, (name, end)) in patient.ends.iter().enumerate() {
            let device = patient.device();
            if distrusted {
                let mut engine = Engine::open_with(device.boot(), SMALL).expect("whole");
                engine.writer.run(Job::Distrust).expect("remembered");
                drop(engine);
                device.kill();
                device.overwrite(name, *end - 1_000, &[9; 700]).expect("overwritten");
            } else if number + 1 < patient.ends.len() {
                device.delete(name).expect("deleted");
            }
            let what = format!("{name}, distrusted {distrusted}");
            assert!(treat(&patient, &device, &what), "{what}");
            patient.check(&device, &what);
        }
    }
    // Without its hint such a segment is of no use.
    let device = patient.device();
    let (name, _) = &patient.ends[0];
    device.delete(&name.replace(".log", ".hint")).expect("there was one");
    device.delete(name).expect("deleted");
    assert!(!treat(&patient, &device, "no hint"));
}

#[test]
fn several_damages_at_once_are_mended_together_and_an_alarm_without_damage_is_forgotten() {
    let patient = patient(true, Hints::Made);
    let device = patient.device();
    for (name, _) in &patient.ends {
        device.overwrite(name, HEADER_BLOCK + 40, &[0; 600]).expect("overwritten");
    }
    assert!(treat(&patient, &device, "everywhere"));
    patient.check(&device, "everywhere");
    let device = patient.device();
    let Attempt::Damaged(damaged) = attempt(&device).expect("looked at") else { panic!("it is distrusted") };
    assert!(damaged.is_complete() && damaged.wanted().is_empty());
    assert!(matches!(damaged.mend().expect("nothing to do"), Attempt::Opened(_)));
    patient.check(&device, "a false alarm");
}

#[test]
fn a_power_cut_at_any_operation_of_mending_leaves_a_log_that_can_be_mended_or_is() {
    let patient = patient(true, Hints::Made);
    let mut nth = 0;
    loop {
        nth += 1;
        let device = patient.device();
        for (name, end) in [&patient.ends[0], &patient.ends[2]] {
            device.overwrite(name, *end - 500, &[9; 300]).expect("overwritten");
        }
        device.delete(&patient.ends[1].0).expect("deleted");
        let Attempt::Damaged(mut damaged) = attempt(&device).expect("looked at") else { panic!("it is damaged") };
        device.power_off_at(nth);
        let filled = damaged.wanted().into_iter().try_for_each(|wanted| match patient.give(&wanted) {
            Found::Records(records) => damaged.take(&wanted, &records).map(drop),
            other => panic!("{other:?}"),
        });
        let done = filled.and_then(|()| damaged.mend().map(drop)).is_ok();
        device.clear_faults();
        let off = device.snapshot();
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random, CrashPolicy::Random] {
            device.restore(off.clone());
            device.crash(&policy);
            let what = format!("operation {nth}, {policy:?}");
            assert!(treat(&patient, &device, &what), "{what}");
            patient.check(&device, &what);
        }
        if done {
            break;
        }
    }
    assert!(nth > 20, "mending takes more than {nth} operations");
}

#[test]
fn a_write_that_was_interrupted_stays_torn_beside_damage_that_is_mended() {
    let patient = patient(true, Hints::None);
    let device = patient.device();
    let mut engine = Engine::open_with(device.boot(), SMALL).expect("whole");
    engine.set(b"torn", &[7; 600]).expect("staged");
    let place = |held: &crate::storage::log::LogSegment| (held.segment.name().to_owned(), u64::from(held.offsets[held.offsets.len() - 1]));
    let (name, start) = engine.log.segments.back().map(place).expect("a tail");
    device.power_off_at(2);
    engine.log.freeze();
    engine.run_job().expect_err("the power is off");
    drop(engine);
    device.clear_faults();
    device.crash(&CrashPolicy::TearAt { name, offset: start.next_multiple_of(512) });
    device.overwrite(&patient.ends[1].0, HEADER_BLOCK + 200, &[1; 50]).expect("overwritten");
    assert!(treat(&patient, &device, "torn and damaged"));
    patient.check(&device, "torn and damaged");
}

#[test]
fn what_a_damaged_log_still_holds_it_gives_and_what_it_cannot_prove_it_does_not() {
    let patient = patient(true, Hints::None);
    let device = patient.device();
    let (name, end) = &patient.ends[1];
    device.overwrite(name, HEADER_BLOCK + 100, &vec![9; (end - HEADER_BLOCK - 100) as usize]).expect("overwritten");
    let Attempt::Damaged(damaged) = attempt(&device).expect("looked at") else { panic!("it is damaged") };
    let lost = damaged.wanted();
    let last = patient.first() + patient.records.len() as u64 - 1;
    let newest = damaged.last().expect("its end is known");
    assert_eq!(newest.index, last);
    for index in patient.first()..=last {
        let is_lost = lost.iter().any(|wanted| (wanted.first..=wanted.last).contains(&index));
        let found = damaged.look(&Wanted { first: index, last: index, terms: vec![newest.term], commit: 0 }).expect("read");
        match found {
            Found::Records(records) => assert!(!is_lost && records == patient.records[(index - patient.first()) as usize], "{index}"),
            other => assert!(is_lost && other == Found::Missing { through: index, why: Missing::Damaged }, "{index}: {other:?}"),
        }
    }
    let other = |first, last, term| damaged.look(&Wanted { first, last, terms: vec![term], commit: 0 }).expect("read");
    assert_eq!(other(last, last + 5, newest.term + 1), Found::Missing { through: last + 5, why: Missing::Other }, "a newer term");
    assert_eq!(other(last + 1, last + 2, newest.term), Found::Missing { through: last + 2, why: Missing::Other }, "behind the end");
    assert_eq!(other(last, last, 1), Found::Missing { through: last, why: Missing::Other }, "another term stands there");
}

#[test]
fn records_that_cannot_be_the_lost_ones_are_refused() {
    let patient = patient(true, Hints::None);
    let device = patient.device();
    device.overwrite(&patient.ends[0].0, HEADER_BLOCK + 100, &[9; 900]).expect("overwritten");
    let Attempt::Damaged(mut damaged) = attempt(&device).expect("looked at") else { panic!("it is damaged") };
    let wanted = damaged.wanted()[0].clone();
    let right = patient.records[(wanted.first - patient.first()) as usize].clone();
    let with = |id: EntryId| sealed_operation(id, &Operation::Set { key: b"k", value: b"v" });
    let mut rotten = right.clone();
    *rotten.last_mut().expect("not empty") ^= 1;
    let wrong = [
        rotten,
        right[..right.len() - 1].to_vec(),
        with(EntryId { term: 1, index: wanted.first + 1 }),
        with(EntryId { term: 2, index: wanted.first }),
        sealed(EntryId { term: 1, index: wanted.first }, Kind::Command, b"no operation"),
    ];
    for records in wrong {
        assert!(matches!(damaged.take(&wanted, &records), Err(Error::Protocol(_))));
    }
    assert_eq!(damaged.wanted()[0], wanted);
    // A record that could be the lost one but is not betrays itself by the batch that it stood in.
    let forged: Vec<u8> = (wanted.first..=wanted.last).flat_map(|index| with(EntryId { term: 1, index })).collect();
    damaged.take(&wanted, &forged).expect("each is well formed");
    let others: Vec<Wanted> = damaged.wanted();
    for wanted in others {
        let Found::Records(records) = patient.give(&wanted) else { panic!("{wanted:?} is there") };
        damaged.take(&wanted, &records).expect("right");
    }
    let error = damaged.mend().expect_err("other bytes than were written").to_string();
    assert!(error.contains("00000001.log") && error.contains("not what was written"), "{error}");
}

#[test]
fn a_sector_that_cannot_be_read_is_mended_wherever_it_is_also_where_nothing_was_written() {
    let patient = patient(true, Hints::None);
    let device = patient.device();
    let mut engine = Engine::open_with(device.boot(), SMALL).expect("whole");
    let prepared = engine.preparer.prepare(0).expect("made");
    engine.writer.run(Job::List(prepared)).expect("listed");
    drop(engine);
    device.kill();
    let image = device.snapshot();
    let tail = patient.ends.last().expect("some");
    let files: Vec<String> = device.boot().list().expect("listed").into_iter().filter(|name| name.ends_with(".log")).collect();
    assert!(files.len() > patient.ends.len(), "a prepared one, too: {files:?}");
    for (name, offset) in files.iter().flat_map(|name| (0..SMALL).step_by(512).map(move |offset| (name, offset))) {
        device.restore(image.clone());
        device.make_unreadable(name, offset).expect("there");
        let what = format!("{name} at {offset}");
        if treat(&patient, &device, &what) {
            patient.check(&device, &what);
            continue;
        }
        // The header block without which nothing of the tail can be read, or the last header of the log.
        let last_header = tail.1 - 96..tail.1;
        assert!(*name == tail.0 && (offset == 0 || offset < last_header.end && offset + 512 > last_header.start), "{what}: an obstacle");
    }
}

#[test]
fn a_lack_of_descriptors_is_no_damage() {
    let patient = patient(true, Hints::Made);
    for (name, _) in &patient.ends {
        let device = patient.device();
        device.overwrite(&patient.ends[0].0, HEADER_BLOCK + 40, &[0; 600]).expect("overwritten");
        device.refuse_to_open(Some((name, rustix::io::Errno::MFILE)));
        assert!(matches!(attempt(&device), Err(Error::Io { .. })), "{name}");
        device.refuse_to_open(None);
        device.kill();
        assert!(treat(&patient, &device, name), "{name}");
        patient.check(&device, name);
    }
}

#[test]
fn damage_elsewhere_after_mending_was_cut_short_and_cut_short_again_is_mended_as_well() {
    let seed: u64 = std::env::var("APEXKV_SEED").map_or_else(|_| rand::random(), |text| text.parse().expect("a number"));
    eprintln!("APEXKV_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let patient = patient(true, Hints::Made);
    for round in 0..150 {
        let device = patient.device();
        let what = format!("APEXKV_SEED={seed}, round {round}");
        for part in [0, 1, 2].map(|_| random.random_range(0..patient.ends.len())) {
            // Gone if it was mended before.
            let _ = device.overwrite(&patient.ends[part].0, HEADER_BLOCK + 40, &[round as u8; 600]);
            let Some(mut damaged) = distrusted(&device) else { continue };
            assert!(damaged.obstacle().is_none(), "{what}: {:?}", damaged.obstacle());
            device.power_off_at(random.random_range(1..40));
            let filled = damaged.wanted().into_iter().try_for_each(|wanted| match patient.give(&wanted) {
                Found::Records(records) => damaged.take(&wanted, &records).map(drop),
                other => panic!("{what}: {other:?}"),
            });
            let _ = filled.and_then(|()| damaged.mend().map(drop));
            device.clear_faults();
            device.crash(&CrashPolicy::Random);
        }
        drop(distrusted(&device));
        device.kill();
        assert!(treat(&patient, &device, &what), "{what}");
        patient.check(&device, &what);
    }
}

/// The log if its damage shows. A start that believed hints is told that there is some.
fn distrusted(device: &SimulatedDisk) -> Option<Box<Damaged>> {
    match attempt(device).expect("the directory is sound") {
        Attempt::Damaged(damaged) => Some(damaged),
        Attempt::Opened(mut opened) => {
            opened.workers.writer.run(Job::Distrust).expect("remembered");
            drop(opened);
            device.kill();
            None
        }
    }
}

#[test]
fn a_full_disk_is_mended_in_the_space_of_the_reserve() {
    let patient = patient(true, Hints::Made);
    for (kind, nth) in
        [OperationKind::Allocate, OperationKind::Write, OperationKind::Sync].into_iter().flat_map(|kind| [(kind, 1), (kind, 4)])
    {
        for reserve in [true, false] {
            let device = patient.device();
            if reserve {
                device.put("reserve", &[0; 4_096]);
            }
            for (name, _) in &patient.ends {
                device.overwrite(name, HEADER_BLOCK + 40, &[0; 600]).expect("overwritten");
            }
            let Attempt::Damaged(mut damaged) = attempt(&device).expect("looked at") else { panic!("it is damaged") };
            // All that mending makes; slot files have had their room since the founding.
            let effect = Effect::Fail(rustix::io::Errno::NOSPC);
            device.inject(Fault { kind: Some(kind), name: ".tmp".to_owned(), nth, lasting: false, effect });
            let filled = damaged.wanted().into_iter().try_for_each(|wanted| match patient.give(&wanted) {
                Found::Records(records) => damaged.take(&wanted, &records).map(drop),
                other => panic!("{other:?}"),
            });
            let mended = filled.and_then(|()| damaged.mend());
            let what = format!("{kind:?} {nth}, reserve {reserve}");
            match mended {
                Ok(Attempt::Opened(_)) => {}
                Ok(Attempt::Damaged(_)) => panic!("{what}: mended, and damaged again"),
                Err(error) => assert!(!reserve && matches!(error, Error::Io { .. }), "{what}: {error}"),
            }
            device.clear_faults();
            device.kill();
            assert!(treat(&patient, &device, &what), "{what}");
            patient.check(&device, &what);
        }
    }
}

#[test]
fn a_segment_of_a_newer_program_is_no_damage() {
    let patient = patient(true, Hints::Made);
    for (name, _) in &patient.ends {
        let device = patient.device();
        let mut block = device.durable(name).expect("there");
        block.truncate(HEADER_BLOCK as usize);
        block[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let crc = crc32fast::hash(&[&block[..12], &block[16..]].concat());
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        device.overwrite(name, 0, &block).expect("overwritten");
        let error = attempt(&device).expect_err("nobody knows what is in it").to_string();
        assert!(error.contains(name) && error.contains("start a newer apexkv"), "{error}");
    }
}
