//! Scrub finds damage wherever a record or a hint is that somebody may need, and a node that others can fill again does not go on with it.

use super::merges::{Pair, SMALL};
use super::*;
use crate::storage::simulated::CrashPolicy;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A node with files of all kinds.
fn with_files(device: &SimulatedDisk) -> Pair {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut pair = Pair::open(device, Contents::new());
    (0..200).for_each(|_| pair.write_random(&mut random, 20).expect("written"));
    pair.settle(2 * SMALL).expect("merged");
    pair
}

/// Scrubs everything once; the names of the files, and the first damage.
fn scrub(engine: &Engine) -> (Vec<String>, Result<()>) {
    let (mut names, mut after) = (Vec::new(), 0);
    while let Some((id, job)) = engine.log.next_scrub(after) {
        assert!(id > after, "file {id} comes after {after}");
        after = id;
        names.push(job.file().0.to_owned());
        if let Err(error) = engine.scrubber.scrub(&job, &mut |_| {}) {
            return (names, Err(error));
        }
    }
    (names, Ok(()))
}

#[test]
fn every_file_is_read_and_damage_to_any_record_is_found() {
    let device = SimulatedDisk::new(1);
    let mut pair = with_files(&device);
    let (names, found) = scrub(&pair.engine);
    found.expect("all is whole");
    assert!(names.iter().any(|name| name.ends_with(".data")) && names.iter().any(|name| name.ends_with(".log")), "{names:?}");
    for name in &names {
        // The middle of the first record of the file: behind the header block, and in a segment the header of the first batch.
        let at = 4096 + 40 + if name.ends_with(".log") { 96 } else { 0 };
        device.rot(name, at, 1).expect("rotted");
        let (_, found) = scrub(&pair.engine);
        assert!(damage_at(&found.expect_err("a record differs"), name) >= 4096, "{name}");
        device.rot(name, at, 1).expect("mended");
    }
    for name in names.iter().filter(|name| name.ends_with(".log")) {
        let hint = name.replace(".log", ".hint");
        device.rot(&hint, 110, 1).expect("rotted");
        let (_, found) = scrub(&pair.engine);
        damage_at(&found.expect_err("the hint differs"), &hint);
        device.rot(&hint, 110, 1).expect("mended");
    }
    pair.settle(0).expect("merged");
}

#[test]
fn a_node_of_its_own_goes_on_with_what_it_has() {
    let device = SimulatedDisk::new(1);
    let Pair { mut engine, model, .. } = with_files(&device);
    engine.writer.run(Job::Distrust).expect("remembered");
    drop(engine);
    device.crash(&CrashPolicy::LoseAll);
    Pair::open(&device, model).check("nobody else has the data");
}
