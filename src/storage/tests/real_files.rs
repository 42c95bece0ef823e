//! A sample of the same on real files.

use super::*;
use crate::storage::real::RealDisk;
use std::fs;
use std::path::Path;

fn open(path: &Path) -> Result<Engine> {
    Engine::open_with(Arc::new(RealDisk::open(path)?), 64 << 10)
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(path).expect("opened");
    file.write_all_at(bytes, offset).expect("overwritten");
}

fn filled(path: &Path) -> (Vec<Vec<u8>>, Contents) {
    let mut engine = open(path).expect("opened");
    engine.set_term(1).expect("stored");
    for number in 0..200u32 {
        engine.set(format!("key{}", number % 50).as_bytes(), &vec![number as u8; number as usize * 5]).expect("staged");
        if number % 10 == 0 {
            engine.flush().expect("flushed");
        }
    }
    engine.truncate(180);
    engine.set_term(2).expect("stored");
    engine.set(b"after the conflict", b"v").expect("staged");
    engine.flush().expect("flushed");
    engine.apply();
    (engine.records(), engine.contents())
}

#[test]
fn a_restart_finds_everything_and_a_second_process_is_kept_out() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("data");
    let (records, contents) = filled(&path);
    let mut engine = open(&path).expect("reopened");
    assert!(engine.records() == records);
    engine.apply();
    assert!(engine.contents() == contents);
    let refused = open(&path).err().expect("the directory is locked");
    assert!(refused.to_string().contains("in use"), "{refused}");
}

#[test]
fn a_write_without_its_end_is_sealed_off_and_a_changed_byte_is_refused() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("data");
    let (records, _) = filled(&path);
    let (name, end) = {
        let engine = open(&path).expect("reopened");
        let tail = engine.log.segments.back().expect("there is a tail");
        (tail.segment.name().to_owned(), tail.end)
    };
    // A batch of which only some bytes in the middle arrived.
    overwrite(&path.join(&name), end + 600, &[7; 512]);
    for _ in 0..2 {
        let mut engine = open(&path).expect("a torn write is no damage");
        assert!(engine.records() == records);
    }
    overwrite(&path.join(&name), end - 20, &[7]);
    assert!(damage_at(&open(&path).err().expect("refused"), &name) < end);
}

#[test]
fn a_file_that_was_cut_or_taken_away_is_refused() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("data");
    filled(&path);
    let first = path.join("00000001.log");
    let whole = fs::read(&first).expect("read");
    fs::write(&first, &whole[..whole.len() - 1]).expect("cut");
    assert_eq!(damage_at(&open(&path).err().expect("refused"), "00000001.log"), whole.len() as u64 - 1);
    fs::remove_file(&first).expect("removed");
    damage_at(&open(&path).err().expect("refused"), "00000001.log");
    fs::write(&first, &whole).expect("put back");
    open(&path).expect("whole again");
}
