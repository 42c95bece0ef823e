//! A sound data directory, made byte by byte from the format document, without chance, so that an input means the same at every run:
//! three segments of 8 KiB, one sealed, one open with batches, one prepared.

use std::sync::{Arc, OnceLock};

use apexkv::raft::{Config, EntryId, NodeId};
use apexkv::storage::record::{self, Kind, Operation};
use apexkv::storage::simulated::{DiskImage, SimulatedDisk};
use apexkv::storage::slots::SlotFile;

use super::seal;

/// The node's id.
pub(crate) const ID: &str = "localhost:8001";
/// Length of each segment.
pub(crate) const SEGMENT_BYTES: usize = 8192;
/// Most payload bytes of the slot files here.
pub(crate) const SLOT_BYTES: usize = 4000;
/// The last entry of the log.
pub(crate) const LAST: EntryId = EntryId { term: 3, index: 10 };
/// The slot files.
pub(crate) const STATE_FILES: [&str; 5] = ["identity", "cluster", "hardstate", "manifest", "marks"];

/// The first segment's hint file.
pub(crate) const HINT: &str = "00000001.hint";

const CLUSTER: u128 = 0xC1;
const UUID: u128 = 0xA0;

/// The directory on a disk of its own.
pub(crate) fn disk() -> Arc<SimulatedDisk> {
    static IMAGE: OnceLock<DiskImage> = OnceLock::new();
    let disk = SimulatedDisk::new(1);
    disk.restore(IMAGE.get_or_init(make).clone());
    disk
}

/// The directory with a hint for its first segment.
pub(crate) fn hinted_disk() -> Arc<SimulatedDisk> {
    let disk = disk();
    disk.delete("manifest").expect("the file is there");
    let mut manifest = manifest();
    manifest[..4].copy_from_slice(&2u32.to_le_bytes());
    // The state of the first segment.
    manifest[40..44].copy_from_slice(&3u32.to_le_bytes());
    SlotFile::create(&disk.boot(), "manifest", SLOT_BYTES, &manifest).expect("a disk without faults");
    disk.put(HINT, &hint());
    disk
}

/// The sound hint of the first segment: what each of its keys ended as, and where its entries stand.
pub(crate) fn hint() -> Vec<u8> {
    let (segment, end) = segment(1);
    let (mut at, mut offsets, mut lengths) = (seal::SEGMENT_BLOCK, Vec::new(), Vec::new());
    while segment[at..].starts_with(b"AKVB") {
        let body = at + seal::BATCH_HEADER;
        let stop = body + seal::u32_at(&segment, at + 48) as usize;
        at = body;
        while at < stop {
            offsets.push(at as u32);
            lengths.push(seal::RECORD_HEADER as u32 + seal::u32_at(&segment, at));
            at += *lengths.last().expect("just pushed") as usize;
        }
        at = stop.next_multiple_of(16);
    }
    let config = Config { voters: vec![NodeId(1), NodeId(2), NodeId(3)], learners: Vec::new() };
    let config = record::encode_config(&config);
    let mut out = [&b"ApexKVhi"[..], &2u32.to_le_bytes(), &[0; 4], &CLUSTER.to_le_bytes(), &UUID.to_le_bytes()].concat();
    // The segment's number, runs of terms, memberships, nothing.
    [1u32, 2, 1, 0].iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    // First, last, end, last batch, keys, some state hash; then two runs of a term, and where the membership stands.
    [1, 5, end, 3, 2, 0x5157, 1, 1, 4, 2, 2].iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out.extend_from_slice(&(config.len() as u32).to_le_bytes());
    out.extend_from_slice(&config);
    offsets.iter().for_each(|offset| out.extend_from_slice(&offset.to_le_bytes()));
    for (key, version) in [(b"key0", 3u64), (b"key2", 5)] {
        let place = version as usize - 1;
        out.extend_from_slice(&version.to_le_bytes());
        let numbers = [offsets[place], lengths[place], 10 * version as u32, key.len() as u32];
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out.extend_from_slice(key);
    }
    seal::hint(&mut out);
    out
}

/// The sound payload of a slot file.
pub(crate) fn payload(name: &str) -> Vec<u8> {
    match name {
        "identity" => [&1u32.to_le_bytes()[..], &UUID.to_le_bytes(), &7u64.to_le_bytes(), &8u64.to_le_bytes(), &text(ID)].concat(),
        "cluster" => founding(),
        "hardstate" => [&1u32.to_le_bytes()[..], &1u32.to_le_bytes(), &LAST.term.to_le_bytes()].concat(),
        "manifest" => manifest(),
        _ => {
            let peer = |node: u32| {
                let numbers: Vec<u8> = [2, 3, 1, 1, 1].iter().flat_map(|number: &u64| number.to_le_bytes()).collect();
                [&node.to_le_bytes()[..], &u128::from(UUID as u64 + u64::from(node) - 1).to_le_bytes(), &numbers].concat()
            };
            [vec![1, 0, 2, 0], peer(2), peer(3)].concat()
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
}

fn founding() -> Vec<u8> {
    let mut out = [&1u32.to_le_bytes()[..], &CLUSTER.to_le_bytes(), &3u32.to_le_bytes()].concat();
    for (id, uuid) in [ID, "localhost:8002", "localhost:8003"].into_iter().zip(UUID..) {
        out.extend_from_slice(&uuid.to_le_bytes());
        out.extend_from_slice(&text(id));
    }
    out.extend_from_slice(&[0; 4]);
    seal::founding(&mut out);
    out
}

fn manifest() -> Vec<u8> {
    let mut out = [&1u32.to_le_bytes()[..], &3u32.to_le_bytes()].concat();
    // Base term, base index, applied.
    [0u64, 0, 2].iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out.extend_from_slice(&3u32.to_le_bytes());
    let sealed_at = segment(1).1;
    for (number, state, ends) in [(1u32, 1u32, [1u64, 5, sealed_at]), (2, 0, [0; 3]), (3, 0, [0; 3])] {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&state.to_le_bytes());
        out.extend_from_slice(&UUID.to_le_bytes());
        out.extend_from_slice(&(SEGMENT_BYTES as u64).to_le_bytes());
        ends.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    }
    out
}

fn make() -> DiskImage {
    let disk = SimulatedDisk::new(1);
    let booted = disk.boot();
    for name in STATE_FILES {
        SlotFile::create(&booted, name, SLOT_BYTES, &payload(name)).expect("a disk without faults");
    }
    for number in 1..=3 {
        disk.put(&name(number), &segment(number).0);
    }
    disk.snapshot()
}

/// A segment's file.
pub(crate) fn name(number: u32) -> String {
    format!("{number:08x}.log")
}

/// A segment's content, and where its last batch ends.
pub(crate) fn segment(number: u32) -> (Vec<u8>, u64) {
    let seed = 0x5EED + u64::from(number);
    let mut bytes = vec![0; SEGMENT_BYTES];
    bytes[..8].copy_from_slice(b"ApexKVsg");
    bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
    bytes[16..32].copy_from_slice(&CLUSTER.to_le_bytes());
    bytes[32..48].copy_from_slice(&UUID.to_le_bytes());
    bytes[48..52].copy_from_slice(&number.to_le_bytes());
    bytes[52..60].copy_from_slice(&(SEGMENT_BYTES as u64).to_le_bytes());
    bytes[60..68].copy_from_slice(&seed.to_le_bytes());
    seal::fill(seed, seal::SEGMENT_BLOCK, &mut bytes[seal::SEGMENT_BLOCK..]);
    let batches: &[(u64, &[u64], u64)] = match number {
        // Sequence, terms, commit.
        1 => &[(1, &[1], 0), (2, &[1, 1, 2], 1), (3, &[2], 4)],
        2 => &[(4, &[2, 3], 5), (5, &[3, 3, 3], 6), (6, &[], 9)],
        _ => &[],
    };
    let (mut at, mut index, mut last_term) = (seal::SEGMENT_BLOCK, u64::from(number - 1) * 5, u64::from(number));
    for (sequence, terms, commit) in batches {
        let body: Vec<u8> = (index + 1..).zip(*terms).flat_map(|(index, term)| entry(EntryId { term: *term, index })).collect();
        last_term = terms.last().copied().unwrap_or(last_term);
        let last = index + terms.len() as u64;
        batch(&mut bytes[at..at + seal::BATCH_HEADER], number, at, body.len());
        let numbers = [(32, *sequence), (56, index + 1), (64, last), (72, last_term), (80, *commit), (88, 7)];
        numbers.iter().for_each(|(field, number)| bytes[at + field..at + field + 8].copy_from_slice(&number.to_le_bytes()));
        at += seal::BATCH_HEADER;
        bytes[at..at + body.len()].copy_from_slice(&body);
        at = (at + body.len()).next_multiple_of(16);
        index = last;
    }
    seal::segment(&mut bytes);
    (bytes, at as u64)
}

fn batch(header: &mut [u8], segment: u32, offset: usize, body: usize) {
    header.fill(0);
    header[..4].copy_from_slice(b"AKVB");
    header[8..24].copy_from_slice(&CLUSTER.to_le_bytes());
    header[24..28].copy_from_slice(&segment.to_le_bytes());
    header[28..32].copy_from_slice(&(offset as u32).to_le_bytes());
    header[48..52].copy_from_slice(&(body as u32).to_le_bytes());
}

/// The record at this place of the log: all kinds, and all operations, stand somewhere.
fn entry(id: EntryId) -> Vec<u8> {
    let mut out = Vec::new();
    let (key, value) = (format!("key{}", id.index % 3).into_bytes(), vec![id.index as u8; 10 * id.index as usize]);
    match id.index {
        1 | 4 | 7 => record::encode(&mut out, Kind::NoOp, &[]),
        2 => {
            let config = Config { voters: vec![NodeId(1), NodeId(2), NodeId(3)], learners: Vec::new() };
            record::encode(&mut out, Kind::Config, &record::encode_config(&config));
        }
        8 => record::encode_operation(&mut out, &Operation::Delete { key: &key }),
        9 => record::encode_operation(&mut out, &Operation::CompareAndSet { key: &key, expected: 6, value: &value }),
        _ => record::encode_operation(&mut out, &Operation::Set { key: &key, value: &value }),
    }
    record::seal(&mut out, id);
    out
}
