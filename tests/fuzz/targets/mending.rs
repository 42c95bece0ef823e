//! A damaged directory of a node that is not alone: whatever its segments hold, what is left of the log can be asked for, and what is
//! missing can be given to it. Nothing panics, nothing is given that is no record of the entry asked for, and a log that is complete
//! opens or is refused.

use std::sync::Arc;

use apexkv::storage::Options;
use apexkv::storage::directory::{Attempt, Directory};
use apexkv::storage::mend::{Damaged, Found, Wanted};
use apexkv::storage::record;
use apexkv::storage::simulated::SimulatedDisk;

use super::directory::{self, ID, LAST, SEGMENT_BYTES};

/// Terms that the sound directory has, and some around them.
const TERMS: u64 = 6;

fn attempt(disk: &SimulatedDisk) -> Option<Attempt> {
    let directory = Directory::open(disk.boot(), ID).ok()?;
    directory.try_open_log(&Options { segment_bytes: SEGMENT_BYTES as u64, reserve_bytes: 0 }).ok()
}

/// Looks at a copy of a directory, and mends it from a sound one as far as that goes.
pub(crate) fn mend(disk: &Arc<SimulatedDisk>) {
    let patient = SimulatedDisk::new(0);
    patient.restore(disk.snapshot());
    let Some(Attempt::Damaged(mut damaged)) = attempt(&patient) else { return };
    ask_for_everything(&damaged);
    let records = sound_records();
    for wanted in damaged.wanted() {
        assert!(wanted.first <= wanted.last && !wanted.terms.is_empty(), "{wanted:?}");
        let held = records.iter().filter(|(index, _)| (wanted.first..=wanted.last).contains(index));
        let bytes: Vec<u8> = held.flat_map(|(_, bytes)| bytes.clone()).collect();
        // Refused, where the directory claims to hold something else.
        let _ = damaged.take(&wanted, &bytes);
    }
    ask_for_everything(&damaged);
    if damaged.is_complete()
        && let Ok(Attempt::Opened(opened)) = damaged.mend()
    {
        let last = opened.log.last();
        assert!(opened.commit <= last.index && last.term <= opened.hard_state.term, "{} of {last}", opened.commit);
    }
}

fn ask_for_everything(damaged: &Damaged) {
    let end = LAST.index + 3;
    for (first, term) in (1..=end).flat_map(|first| (1..TERMS).map(move |term| (first, term))) {
        let commit = if term % 2 == 0 { end } else { 0 };
        match damaged.look(&Wanted { first, last: end, terms: vec![term], commit }).expect("the disk answers") {
            Found::Records(records) => {
                let (record, _) = record::parse(&records).expect("only whole records are given");
                assert_eq!(record.id.index, first, "where term {term} proves it");
            }
            Found::Missing { through, .. } => assert!((first..=end).contains(&through), "{through} for {first}..={end}"),
        }
    }
}

/// The records of the sound directory, by index.
fn sound_records() -> Vec<(u64, Vec<u8>)> {
    let Some(Attempt::Opened(opened)) = attempt(&directory::disk()) else { panic!("it is sound") };
    let mut bytes = Vec::new();
    for piece in opened.log.pieces(opened.log.first(), LAST.index + 1 - opened.log.first()) {
        piece.write_to(&mut bytes).expect("it is sound");
    }
    let (mut rest, mut records) = (&bytes[..], Vec::new());
    while let Ok((record, length)) = record::parse(rest) {
        records.push((record.id.index, rest[..length].to_vec()));
        rest = &rest[length..];
    }
    records
}
