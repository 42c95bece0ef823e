//! Drawn inputs for the entry points. A failure prints the input, shrunk, and the seed; `APEXKV_SEED` repeats a run, without it each
//! is a new one.

use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use apexkv::storage::Options;
use apexkv::storage::directory::Directory;

use std::fmt;

use super::corpus::inputs;
use super::targets::{TARGETS, directory};

/// One at a time: memory is counted for the whole process.
pub(crate) fn alone<T>(work: impl FnOnce() -> T) -> T {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    work()
}

/// How an input differs from one of the corpus.
#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
    Number(usize, u64),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = || 0..4096_usize;
    let number = prop_oneof![Just(u64::MAX), Just(1 << 63), Just(1 << 62), Just(u64::from(u32::MAX)), Just(1 << 31), 0..20_u64];
    prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        3 => (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, 1 << bit)),
        1 => (at(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => (at(), 1..40_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        1 => (at(), 1..200_usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
        3 => (at(), number).prop_map(|(at, number)| Mutation::Number(at, number)),
    ]
}

fn mutate(input: &mut Vec<u8>, mutation: &Mutation) {
    let length = input.len().max(1);
    let stretch = |at: usize, count: usize| (at % length).min(input.len())..(at % length + count).min(input.len());
    match mutation {
        Mutation::Set(at, byte) => input.iter_mut().skip(at % length).take(1).for_each(|place| *place = *byte),
        Mutation::Flip(at, mask) => input.iter_mut().skip(at % length).take(1).for_each(|place| *place ^= mask),
        Mutation::Insert(at, bytes) => drop(input.splice(stretch(*at, 0), bytes.iter().copied())),
        Mutation::Remove(at, count) => drop(input.drain(stretch(*at, *count))),
        Mutation::Repeat(at, count) => input.extend_from_within(stretch(*at, *count)),
        Mutation::Number(at, number) => {
            input.iter_mut().skip(at % length).zip(number.to_le_bytes()).for_each(|(place, byte)| *place = byte);
        }
    }
}

/// Shown on one line, as a byte string that can be kept as a file.
#[derive(Clone)]
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Any bytes, and files of the corpus with some changes.
fn input(target: &'static str) -> impl Strategy<Value = Input> {
    let kept: Vec<Vec<u8>> = inputs(target).into_iter().map(|(_, bytes)| bytes).collect();
    let mutated = (prop::sample::select(kept), vec(mutation(), 0..6)).prop_map(|(mut bytes, mutations)| {
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        bytes
    });
    prop_oneof![1 => vec(any::<u8>(), 0..400), 4 => mutated].prop_map(Input)
}

/// Runs a target on `cases` inputs. The seed is another one each time, and is printed with the smallest input that fails.
fn check(target: &'static str, cases: u32) {
    let (_, run) = TARGETS.into_iter().find(|(name, _)| *name == target).expect("a target of this name");
    let seed = std::env::var("APEXKV_SEED").map_or_else(|_| rand::random(), |text| text.parse().expect("APEXKV_SEED is a number"));
    let config = ProptestConfig { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(seed), ..ProptestConfig::default() };
    let outcome = alone(|| {
        TestRunner::new(config).run(&input(target), |bytes| {
            run(&bytes.0);
            Ok(())
        })
    });
    if let Err(error) = outcome {
        panic!("{target} with APEXKV_SEED={seed}: {error}");
    }
}

#[test]
fn client_frames_are_judged_without_panic_or_large_demands() {
    check("client_frames", 3000);
}

#[test]
fn peer_frames_are_judged_without_panic_or_large_demands() {
    check("peer_frames", 3000);
}

#[test]
fn greetings_are_judged_without_panic_or_large_demands() {
    check("handshake", 3000);
}

#[test]
fn segments_are_recovered_or_refused() {
    check("segments", 1500);
}

#[test]
fn slot_files_are_opened_or_refused() {
    check("slots", 2000);
}

#[test]
fn manifest_hard_state_and_identities_are_read_or_refused() {
    check("state_files", 1000);
}

#[test]
fn the_core_takes_any_sequence_of_messages() {
    check("core_messages", 2000);
}

/// The fuzzers' data directory is made from the format document alone: recovery must agree with it entry for entry.
#[test]
fn a_directory_made_from_the_format_document_is_recovered() {
    alone(|| {
        let opened = Directory::open(directory::disk().boot(), directory::ID)
            .and_then(|directory| directory.open_log(&Options { segment_bytes: directory::SEGMENT_BYTES as u64, reserve_bytes: 0 }))
            .expect("a sound directory");
        assert_eq!((opened.log.last(), opened.commit, opened.log.prepared()), (directory::LAST, 9, 1));
        let hinted = Directory::open(directory::hinted_disk().boot(), directory::ID)
            .and_then(|directory| directory.open_log(&Options { segment_bytes: directory::SEGMENT_BYTES as u64, reserve_bytes: 0 }))
            .expect("a sound directory");
        assert_eq!((hinted.log.last(), hinted.commit, hinted.log.hinted()), (directory::LAST, 9, 5));
        assert_eq!(hinted.log.outline(), opened.log.outline());
        let versions = |store: &apexkv::storage::store::Store| {
            let page = store.scan(b"", b"", usize::MAX, usize::MAX, false);
            page.entries.iter().map(|(key, located)| (key.clone(), located.version)).collect::<Vec<_>>()
        };
        assert_eq!(versions(&hinted.store), versions(&opened.store));
    });
}
