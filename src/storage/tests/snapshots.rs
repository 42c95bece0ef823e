//! Snapshots from one directory to another: what is read is the state at one entry, and what is installed is that state or nothing.

use super::merges::{Pair, SMALL};
use super::*;
use crate::storage::simulated::{CrashPolicy, DiskImage};
use crate::storage::snapshot::{Position, Snapshot, SnapshotError};
use crate::storage::state_hash::StateHash;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A node with a snapshot, and what its state was at the end of it.
pub(super) struct Sender {
    pair: Pair,
    pub(super) snapshot: Snapshot,
    then: Contents,
    hash: StateHash,
}

pub(super) fn sender(random: &mut ChaCha8Rng) -> Sender {
    let device = SimulatedDisk::new(1);
    let mut pair = Pair::open(&device, Contents::new());
    (0..150).for_each(|_| pair.write_random(random, 30).expect("written"));
    pair.settle(2 * SMALL).expect("merged");
    let mut states = Vec::new();
    for _ in 0..60 {
        pair.write_random(random, 30).expect("written");
        states.push((pair.engine.last(), pair.model.clone(), pair.hash));
        while pair.engine.hint().expect("hinted") {}
    }
    let snapshot = pair.engine.log.snapshot().expect("there are hints");
    let (_, then, hash) = states.into_iter().find(|(id, ..)| *id == snapshot.last).expect("it ends with a late entry");
    Sender { pair, snapshot, then, hash }
}

/// All chunks of a snapshot, each with its place.
pub(super) fn chunks(sender: &Sender, budget: usize) -> Vec<(Position, Vec<u8>)> {
    let mut reader = sender.pair.engine.snapshots.read(sender.snapshot.clone(), Position::default());
    let mut chunks = Vec::new();
    loop {
        let mut bytes = Vec::new();
        let Some((from, count)) = reader.read(budget, &mut bytes).expect("the files are whole") else { return chunks };
        assert_eq!(split(&bytes).len(), count as usize);
        chunks.push((from, bytes));
    }
}

fn receive(
    engine: &Engine,
    (last, hash): (EntryId, StateHash),
    chunks: &[(Position, Vec<u8>)],
) -> std::result::Result<Received, SnapshotError> {
    let mut writer = engine.snapshots.begin(last, hash);
    chunks.iter().try_for_each(|(from, bytes)| writer.take(*from, bytes))?;
    writer.finish()
}

/// A follower that fell behind, with a log of its own and a state of its own.
fn follower() -> (DiskImage, Contents) {
    let device = SimulatedDisk::new(2);
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let mut pair = Pair::open(&device, Contents::new());
    (0..40).for_each(|_| pair.write_random(&mut random, 10).expect("written"));
    pair.settle(0).expect("merged");
    drop(pair.engine);
    device.crash(&CrashPolicy::LoseAll);
    (device.snapshot(), pair.model)
}

#[test]
fn a_snapshot_is_the_state_at_its_last_entry_whatever_happens_while_it_is_read() {
    let seed: u64 = rand::random();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut sender = sender(&mut random);
    let whole = chunks(&sender, 1000);
    let bytes: usize = whole.iter().map(|(_, bytes)| bytes.len()).sum();
    let (least, most) = (sender.snapshot.least_bytes(), sender.snapshot.bytes());
    assert!(least > 0 && least <= bytes as u64 && bytes as u64 <= most, "{least} {bytes} {most}, seed {seed}");
    // The sender goes on, retires and merges; the pinned files stay what they were.
    (0..200).for_each(|_| sender.pair.write_random(&mut random, 30).expect("written"));
    sender.pair.settle(0).expect("merged");
    assert!(chunks(&sender, 1000) == whole, "seed {seed}");

    let device = SimulatedDisk::new(2);
    let (image, model) = follower();
    device.restore(image);
    let mut pair = Pair::open(&device, model);
    let received = receive(&pair.engine, (sender.snapshot.last, sender.snapshot.hash), &whole).expect("received");
    pair.engine.install(received).expect("installed");
    pair.model = sender.then.clone();
    assert_eq!(pair.engine.applier.hash(), sender.hash, "seed {seed}, installed");
    pair.hash = sender.hash;
    pair.check(&format!("seed {seed}, installed"));
    assert_eq!(pair.engine.last(), sender.snapshot.last);
    for again in 0..2 {
        let Pair { engine, model, hash } = pair;
        drop(engine);
        device.crash(&CrashPolicy::LoseAll);
        pair = Pair::open(&device, model);
        assert_eq!(pair.hash, hash, "seed {seed}, start {again}");
        pair.check(&format!("seed {seed}, start {again}"));
        assert!(pair.engine.last().index >= sender.snapshot.last.index);
        (0..30).for_each(|_| pair.write_random(&mut random, 30).expect("written"));
        pair.settle(SMALL).expect("merged");
    }
}

#[test]
fn a_transfer_goes_on_where_it_broke_off() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let sender = sender(&mut random);
    let device = SimulatedDisk::new(2);
    let mut pair = Pair::open(&device, Contents::new());
    let mut writer = pair.engine.snapshots.begin(sender.snapshot.last, sender.snapshot.hash);
    // Each chunk comes over a connection of its own, and of other sizes.
    for round in 0.. {
        let mut reader = sender.pair.engine.snapshots.read(sender.snapshot.clone(), writer.position());
        let mut bytes = Vec::new();
        let Some((from, _)) = reader.read(300 + 100 * (round % 7), &mut bytes).expect("whole") else { break };
        writer.take(from, &bytes).expect("taken");
    }
    let received = writer.finish().expect("received");
    pair.engine.install(received).expect("installed");
    pair.model = sender.then.clone();
    pair.check("installed");
}

#[test]
fn a_power_cut_at_any_operation_leaves_the_old_state_or_the_new_one() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let sender = sender(&mut random);
    let whole = chunks(&sender, 2000);
    let (image, before) = follower();
    for nth in 1.. {
        let device = SimulatedDisk::new(nth);
        device.restore(image.clone());
        let mut pair = Pair::open(&device, before.clone());
        device.power_off_at(nth);
        let received = receive(&pair.engine, (sender.snapshot.last, sender.snapshot.hash), &whole).ok();
        let done = received.is_some_and(|received| pair.engine.install(received).is_ok());
        device.clear_faults();
        drop(pair);
        let off = device.snapshot();
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random] {
            device.restore(off.clone());
            device.crash(&policy);
            let what = format!("operation {nth}, {policy:?}");
            let mut pair = Pair::open(&device, before.clone());
            if pair.engine.log.last() == sender.snapshot.last {
                pair.model = sender.then.clone();
            }
            pair.check(&what);
            assert!(!done || pair.engine.log.last() == sender.snapshot.last, "{what}: installed and forgotten");
            let names: Vec<String> = pair.engine.writer.disk.list().expect("listed");
            let files = names.iter().filter(|name| name.ends_with(".data")).count();
            assert_eq!(
                files,
                pair.engine.log.files.values().filter(|file| file.segment.name().ends_with(".data")).count(),
                "{what}: {names:?}"
            );
            pair.write_random(&mut random, 10).expect("written");
            pair.check(&what);
        }
        if done {
            return assert!(nth > 20, "an installation has more than {nth} operations");
        }
    }
}

#[test]
fn what_is_no_part_of_a_snapshot_is_refused_and_leaves_nothing() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let sender = sender(&mut random);
    let whole = chunks(&sender, 2000);
    let device = SimulatedDisk::new(2);
    let pair = Pair::open(&device, Contents::new());
    let last = sender.snapshot.last;
    let names = || device.boot().list().expect("listed");
    let before = names();
    let refused = |what: &str, last: EntryId, chunks: &[(Position, Vec<u8>)]| {
        let error = receive(&pair.engine, (last, sender.snapshot.hash), chunks).map(|received| received.last);
        assert!(matches!(error, Err(SnapshotError::Bad(_))), "{what}: {error:?}");
        assert_eq!(names(), before, "{what}");
    };
    for at in [0, 10, 40, 60] {
        let mut changed = whole.clone();
        changed[1].1[at] ^= 1;
        refused(&format!("byte {at}"), last, &changed);
    }
    let mut swapped = whole.clone();
    swapped.swap(0, 1);
    refused("out of order", last, &swapped);
    refused("one left out", last, &[&whole[..1], &whole[2..]].concat());
    refused("newer than its last entry", EntryId { index: 20, ..last }, &whole);
    let twice: Vec<u8> = whole[0].1.repeat(2);
    refused("a key twice", last, &[(Position::default(), twice)]);
    let foreign = sealed(EntryId { term: 1, index: 1 }, Kind::NoOp, &[]);
    refused("an entry without a key", last, &[(Position::default(), foreign)]);
    device.fail_at(crate::storage::simulated::OperationKind::Write, 1, crate::storage::simulated::Errno::NOSPC);
    let full = receive(&pair.engine, (last, sender.snapshot.hash), &whole).map(|received| received.last);
    assert!(matches!(full, Err(SnapshotError::Full(_))), "{full:?}");
    device.clear_faults();
    assert_eq!(names(), before, "without room");
}
