//! Backup files, whole and otherwise.

use super::*;
use crate::storage::inspect::{Caller, inspect};
use crate::storage::simulated::SimulatedDisk;
use std::collections::BTreeMap;

const MEMBERS: [&str; 3] = ["localhost:8001", "localhost:8002", "localhost:8003"];

fn members() -> Vec<String> {
    MEMBERS.iter().map(|id| (*id).to_owned()).collect()
}

fn record(out: &mut Vec<u8>, index: u64, operation: &Operation<'_>) {
    let start = out.len();
    record::encode_operation(out, operation);
    record::seal(&mut out[start..], EntryId { term: 3, index });
}

/// A file in which keys come twice, in both orders, and one is gone.
fn file_of(index: u64) -> Vec<u8> {
    let header = Header { cluster: 5, term: 3, index }.encode();
    let mut records = Vec::new();
    let set = |key: &'static [u8], value: &'static [u8]| Operation::Set { key, value };
    record(&mut records, 20, &set(b"a", b"newer"));
    record(&mut records, 10, &set(b"a", b"older"));
    record(&mut records, 11, &set(b"b", b"older"));
    record(&mut records, 21, &set(b"b", b"newer"));
    record(&mut records, 30, &Operation::Delete { key: b"gone" });
    record(&mut records, 12, &set(b"gone", b"x"));
    record(&mut records, 31, &set(b"twice", b"first"));
    record(&mut records, 31, &set(b"twice", b"second"));
    record(&mut records, 40, &set(b"empty", b""));
    let mut trailer = Trailer::behind(&header);
    trailer.add(9, &records);
    [&header[..], &records, &trailer.encode()].concat()
}

fn open(bytes: &[u8]) -> Result<Backup> {
    let dir = tempfile::tempdir().expect("a place for files");
    let path = dir.path().join("backup");
    std::fs::write(&path, bytes).expect("it can be written");
    Backup::open(&path, &|_, _| {})
}

#[test]
fn the_newest_of_each_key_stands_and_the_members_form_one_cluster() {
    let backup = open(&file_of(40)).expect("whole");
    assert_eq!((backup.keys(), backup.last()), (4, EntryId { term: 3, index: 40 }));
    let mut foundings = Vec::new();
    for id in MEMBERS {
        let device = SimulatedDisk::new(1);
        foundings.push(backup.restore(device.boot(), id, &members(), &|_, _| {}).expect("restored"));
        let inspected = inspect(device.boot(), &Caller { marks: &|_| Ok(()), progress: &|_, _| {} }).expect("readable");
        assert!(inspected.report.damage.is_empty(), "{:?}", inspected.report.damage);
        assert_eq!(inspected.report.founding.as_ref(), foundings.first(), "the same record on every node");
        drop(inspected);
        let found: BTreeMap<Vec<u8>, (u64, Vec<u8>)> = contents(&device, id);
        let expected: [(&[u8], u64, &[u8]); 4] =
            [(b"a", 20, b"newer"), (b"b", 21, b"newer"), (b"empty", 40, b""), (b"twice", 31, b"second")];
        assert_eq!(found, expected.iter().map(|(key, version, value)| (key.to_vec(), (*version, value.to_vec()))).collect());
    }
    let uuids: std::collections::BTreeSet<u128> = foundings[0].members.iter().map(|member| member.uuid).collect();
    assert_eq!(uuids.len(), 3, "each member has its own");
    let others = [
        open(&file_of(41)).expect("whole").founding(&members()),
        backup.founding(&members()[..2]),
        backup.founding(&["localhost:8001,localhost:8002".to_owned()]),
    ];
    for other in others {
        assert_ne!(other.cluster, foundings[0].cluster);
        assert!(!uuids.contains(&other.members[0].uuid));
    }
}

fn contents(device: &Arc<SimulatedDisk>, id: &str) -> BTreeMap<Vec<u8>, (u64, Vec<u8>)> {
    let directory = crate::storage::directory::Directory::open(device.boot(), id).expect("a member");
    let opened = directory.open_log(&crate::storage::Options { segment_bytes: 1 << 20, reserve_bytes: 0 }).expect("whole");
    assert_eq!((opened.commit, opened.hard_state.term), (40, 3));
    let page = opened.store.scan(b"", b"", 100, 1 << 20, false);
    let value = |key: &[u8], located| {
        let mut value = Vec::new();
        opened.store.read(key, located, &mut value).expect("whole");
        value
    };
    page.entries.iter().map(|(key, located)| (key.to_vec(), (located.version, value(key, located)))).collect()
}

#[test]
fn a_file_with_any_changed_byte_or_of_another_length_is_refused_with_its_place() {
    let good = file_of(40);
    for at in 0..good.len() {
        for mask in [0x01, 0x80] {
            let mut changed = good.clone();
            changed[at] ^= mask;
            match open(&changed) {
                Err(Error::Corrupt { file, offset, reason }) => {
                    assert!(file.ends_with("backup") && offset <= at as u64 && reason.contains("nothing was restored"), "byte {at}");
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
    for length in 0..good.len() {
        assert!(matches!(open(&good[..length]), Err(Error::Corrupt { .. })), "cut to {length}");
    }
    assert!(matches!(open(&[&good[..], &[0]].concat()), Err(Error::Corrupt { .. })), "a byte too many");
    assert!(matches!(open(&file_of(39)), Err(Error::Corrupt { .. })), "a version above its last entry");
    assert!(matches!(open(&file_of(0)), Err(Error::Corrupt { .. })), "no entry at all");
}
