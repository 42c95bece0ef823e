//! The data directory: files that may hold anything are opened as at a start. What is accepted must be usable, and must be found again.

use std::sync::Arc;

use apexkv::error::{Error, Result};
use apexkv::raft::EntryId;
use apexkv::server::marks::{self, Marks};
use apexkv::storage::Options;
use apexkv::storage::directory::{Directory, Opened, Workers};
use apexkv::storage::inspect::{Caller, Finding, inspect};
use apexkv::storage::log::Room;
use apexkv::storage::record::{self, Kind};
use apexkv::storage::simulated::SimulatedDisk;
use apexkv::storage::slots::SlotFile;

use super::directory::{self, ID, SEGMENT_BYTES, SLOT_BYTES, STATE_FILES};
use super::memory::bounded;
use super::mending;
use super::seal;

/// First byte: lowest bit, whether checksums are set right; next bit, whether the rest are the second segment's batches as they stand
/// behind its header block, or changes to all three segments: 3 to 11 bytes each, see [`change`].
pub(crate) fn segments(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let mut segments = [1, 2, 3].map(|number| directory::segment(number).0);
    if mode & 2 == 2 {
        let room = &mut segments[1][seal::SEGMENT_BLOCK..];
        let length = bytes.len().min(room.len());
        room[..length].copy_from_slice(&bytes[..length]);
    } else {
        let mut rest = bytes;
        while let Some(more) = change(&mut segments, rest) {
            rest = more;
        }
    }
    let disk = directory::disk();
    for (number, segment) in (1..).zip(&mut segments) {
        if mode & 1 == 1 {
            seal::segment(segment);
        }
        disk.put(&directory::name(number), segment);
    }
    bounded((24 << 20) + 64 * bytes.len(), || mending::mend(&disk));
    bounded((12 << 20) + 64 * bytes.len(), || open(&disk));
}

/// One change: which segment and what to do (1 byte), where (2 bytes), and 1, 4 or 8 bytes to put there, or how many units of 16 bytes go
/// back to the fill. Returns the rest.
fn change<'a>(segments: &mut [Vec<u8>; 3], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (&[kind, a, b], rest) = bytes.split_first_chunk()?;
    let segment = &mut segments[usize::from(kind % 3)];
    let at = usize::from(u16::from_le_bytes([a, b])) % SEGMENT_BYTES;
    let length = [1, 4, 8, 1][usize::from(kind / 3 % 4)];
    let (value, rest) = rest.split_at_checked(length)?;
    if kind / 3 % 4 == 3 {
        let seed = 0x5EED + u64::from(kind % 3) + 1;
        let from = (at / 16 * 16).max(seal::SEGMENT_BLOCK);
        let end = (from + 16 * usize::from(value[0])).min(SEGMENT_BYTES);
        seal::fill(seed, from, &mut segment[from..end]);
    } else {
        let end = (at + length).min(SEGMENT_BYTES);
        segment[at..end].copy_from_slice(&value[..end - at]);
    }
    Some(rest)
}

/// First byte: which file; highest bit: whether the checksum of a founding record or hint is set right; next bit: the rest is a hint
/// file. Else the rest is the file's payload.
pub(crate) fn state_files(data: &[u8]) {
    let Some((mode, payload)) = data.split_first() else { return };
    if mode & 0x40 != 0 {
        return hint(payload, mode & 0x80 != 0);
    }
    let name = STATE_FILES[usize::from(mode & 0x7F) % STATE_FILES.len()];
    let mut payload = payload[..payload.len().min(SLOT_BYTES)].to_vec();
    if mode & 0x80 != 0 && name == "cluster" {
        seal::founding(&mut payload);
    }
    let disk = directory::disk();
    disk.delete(name).expect("the file is there");
    SlotFile::create(&disk.boot(), name, SLOT_BYTES, &payload).expect("a disk without faults");
    bounded((12 << 20) + 64 * payload.len(), || open(&disk));
}

/// A hint that holds anything costs nothing but time: the segment is read instead. One that has the right checksum and lies is none that
/// this program made; reads of what it names are refused, and nothing worse.
fn hint(content: &[u8], sealed: bool) {
    let mut content = content.to_vec();
    if sealed {
        seal::hint(&mut content);
    }
    let disk = directory::hinted_disk();
    disk.put(directory::HINT, &content);
    if sealed {
        return bounded((12 << 20) + 64 * content.len(), || drop(open_once(&disk, None, false)));
    }
    bounded((12 << 20) + 64 * content.len(), || {
        let (last, _) = open_once(&disk, None, true).unwrap_or_else(|error| panic!("a bad hint is no reason to refuse: {error}"));
        assert_eq!(last, directory::LAST);
    });
}

/// Looks at everything, then opens it: both must come to the same judgement, a start by refusing the damage or by putting all of the log
/// aside. If it opens, uses it, writes one more entry, and opens it
/// again.
fn open(disk: &Arc<SimulatedDisk>) {
    let damage = look(disk);
    let (last, aside) = match open_once(disk, None, true) {
        Ok(found) => found,
        Err(Error::Corrupt { file, offset, reason }) => {
            return assert!(!damage.is_empty(), "a start refuses {file} at {offset}, and looking finds nothing: {reason}");
        }
        // It may be another node's directory; who only looks does not mind.
        Err(_) => return,
    };
    assert!(aside || damage.is_empty(), "it can be opened as it is, and {damage:?}");
    let (again, _) =
        open_once(disk, Some(last), true).unwrap_or_else(|error| panic!("it was opened and written, and cannot be opened again: {error}"));
    assert_eq!(again.index, last.index + 1, "{again} where one entry was written behind {last}");
}

/// What is damaged, found without changing anything.
fn look(disk: &Arc<SimulatedDisk>) -> Vec<Finding> {
    let before = disk.operations();
    let inspected = inspect(disk.boot(), &Caller { marks: &marks::check, progress: &|_, _| () }).expect("nobody runs on it");
    let whole = inspected.report.damage.is_empty();
    let entries = inspected.entries::<Error>(|_| Ok(()));
    let keys = inspected.keys::<Error>(|_, _, _| Ok(()));
    assert!(!whole || entries.is_ok() && keys.is_ok(), "nothing is damaged, and {entries:?}, {keys:?}");
    assert_eq!(disk.operations(), before, "looking changes nothing");
    inspected.report.damage
}

/// Returns the last entry as it was when opened, and whether what was there before has been put aside. Behind that entry one more was
/// written; the second time, `before` is what it was then. Every value must be readable if `sound`.
fn open_once(disk: &Arc<SimulatedDisk>, before: Option<EntryId>, sound: bool) -> Result<(EntryId, bool)> {
    let mut directory = Directory::open(disk.boot(), ID)?;
    let (file, payload) = match directory.founding() {
        Some(_) => directory.take_marks(),
        None => panic!("the cluster's file is there, and the node is empty"),
    };
    let founding = directory.founding().expect("just looked at").clone();
    Marks::open(file, &payload, &founding, ID)?;
    let opened = directory.open_log(&Options { segment_bytes: SEGMENT_BYTES as u64, reserve_bytes: 0 })?;
    let (last, aside) = (opened.log.last(), opened.floor.term > 0);
    assert!(opened.commit <= last.index && last.term <= opened.hard_state.term, "{} of {last}, {:?}", opened.commit, opened.hard_state);
    read_all(&opened, sound);
    if before.is_none() {
        append(opened)?;
    }
    Ok((last, aside))
}

/// Every value that the index points at is there, and every entry can be sent.
fn read_all(opened: &Opened, sound: bool) {
    let page = opened.store.scan(b"", b"", usize::MAX, usize::MAX, false);
    for (key, located) in &page.entries {
        let mut value = Vec::new();
        match opened.store.read(key, located, &mut value) {
            Ok(()) => assert!(!sound || value.len() == located.value_bytes as usize, "{key:?}"),
            Err(error) => assert!(!sound, "recovery has checked every byte: {error}"),
        }
    }
    let (base, last) = (opened.log.outline().0, opened.log.last());
    for piece in opened.log.pieces(base.index + 1, last.index - base.index) {
        let sent = piece.write_to(&mut Vec::new());
        assert!(sent.is_ok() || !sound, "recovery has checked every byte: {sent:?}");
    }
}

fn append(opened: Opened) -> Result<()> {
    let Opened { mut log, workers, hard_state, commit, .. } = opened;
    let Workers { mut writer, mut preparer, .. } = workers;
    let mut noop = Vec::new();
    record::encode(&mut noop, Kind::NoOp, &[]);
    record::seal(&mut noop, EntryId { term: hard_state.term, index: log.last().index + 1 });
    while log.room(noop.len()) != Room::Yes {
        let segment = preparer.prepare(0).unwrap_or_else(|error| panic!("no segment can be made: {error:?}"));
        let job = apexkv::storage::writer::Job::List(segment);
        match writer.run(job)? {
            apexkv::storage::writer::Completion::Listed(segment) => log.add_prepared(segment),
            other => panic!("listing came to {other:?}"),
        }
    }
    log.append(noop);
    while let Some((job, _)) = log.next_job(commit) {
        let completion = writer.run(job)?;
        log.completed(&completion);
    }
    Ok(())
}

/// First byte: lowest bit, whether checksums are set right; next bit, whether the rest are changes to a sound file (area, two bytes of
/// offset, value) or the file itself.
pub(crate) fn slots(data: &[u8]) {
    const NAME: &str = "hardstate";
    let Some((mode, bytes)) = data.split_first() else { return };
    let disk = SimulatedDisk::new(1);
    let booted = disk.boot();
    let mut file = bytes.to_vec();
    if mode & 2 == 2 {
        SlotFile::create(&booted, NAME, 64, b"term and vote").expect("a disk without faults");
        file = disk.durable(NAME).expect("just made");
        for change in bytes.chunks_exact(4) {
            let at = usize::from(change[0] % 4) * 4096 + usize::from(u16::from_le_bytes([change[1], change[2]])) % 512;
            file[at] = change[3];
        }
    }
    if mode & 1 == 1 {
        seal::slots(&mut file);
    }
    disk.put(NAME, &file);
    bounded((256 << 10) + 16 * file.len(), || {
        let Ok((mut slots, payload)) = SlotFile::open(&booted, NAME) else { return };
        assert!(payload.len() <= slots.capacity(), "{} bytes in a file for {}", payload.len(), slots.capacity());
        let next: &[u8] = if payload.is_empty() { b"" } else { b"n" };
        let written = slots.write(next).is_ok();
        let (_, again) = SlotFile::open(&booted, NAME).unwrap_or_else(|error| panic!("it was opened, and cannot be again: {error}"));
        assert_eq!(again, if written { next.to_vec() } else { payload });
    });
}
