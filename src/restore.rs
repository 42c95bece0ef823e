//! Restoring: from a backup file to the data directory of a member of a new cluster. First the whole file is checked, then the directory is
//! made; nothing is made of a file that is not whole. Of the file only the places of the values that stand are kept in memory, no values.
//!
//! # One cluster without a word between its nodes
//!
//! The new cluster's id and its members' uuids are mixed from the file (its CRC, length and header) and the sorted list of members. So the
//! same command with the same file and members makes directories of one and the same cluster wherever it runs, and another file or list
//! makes another cluster. The mix is no secret, and it is no proof against somebody who looks for two files of the same identity. To
//! restore the same file for the same members again makes the same identity again: then all of them begin anew. One alone that was restored
//! for the second time is refused by the others as an old copy, as any other directory that went back in time.

use crate::error::{Error, Result};
use crate::raft::EntryId;
use crate::storage::directory::{Founding, FoundingMember};
use crate::storage::disk::Disk;
use crate::storage::record::{self, Kind, Operation};
use crate::storage::restore::Restorer;
use apexkv_client::backup::{HEADER_BYTES, Header, TRAILER_BYTES, Trailer};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Read at once.
const PART_BYTES: usize = 4 << 20;
/// No term or index of a cluster comes near this.
const NUMBER_MAX: u64 = 1 << 62;

/// Told how much is done, and of how much.
pub type Progress<'a> = &'a dyn Fn(u64, u64);

/// The newest record of a key.
#[derive(Clone, Copy, Debug)]
struct Place {
    version: u64,
    offset: u64,
    bytes: u32,
    deletes: bool,
}

/// A backup file that is whole.
#[derive(Debug)]
pub struct Backup {
    file: BackupFile,
    header: Header,
    crc: u32,
    /// Where the records that stand are, in the order of the file.
    places: Vec<Place>,
}

#[derive(Debug)]
struct BackupFile {
    file: File,
    name: String,
    length: u64,
}

impl BackupFile {
    fn corrupt(&self, offset: u64, reason: impl Into<String>) -> Error {
        let reason = format!("{}; nothing was restored", reason.into());
        Error::Corrupt { file: self.name.clone(), offset, reason }
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(Error::io(format!("read {} at {offset}", self.name)))
    }

    /// Where the trailer begins.
    fn end(&self) -> u64 {
        self.length - TRAILER_BYTES as u64
    }
}

/// The records of a file, one after the other, each checked.
struct Records<'a> {
    file: &'a BackupFile,
    /// Bytes from `start` on.
    bytes: Vec<u8>,
    start: u64,
    at: u64,
}

impl<'a> Records<'a> {
    fn new(file: &'a BackupFile, at: u64) -> Records<'a> {
        Records { file, bytes: Vec::new(), start: at, at }
    }

    /// Sees to it that `length` bytes from the present place on are in memory, if the file has them.
    fn fill(&mut self, length: usize) -> Result<&[u8]> {
        let held = (self.start + self.bytes.len() as u64).saturating_sub(self.at);
        if held < length as u64 {
            let left = self.file.end() - self.at;
            self.bytes.resize(left.min(length.max(PART_BYTES) as u64) as usize, 0);
            self.start = self.at;
            self.file.read(&mut self.bytes, self.at)?;
        }
        Ok(&self.bytes[(self.at - self.start) as usize..])
    }

    /// The next record with its offset and bytes; `None` where the trailer begins.
    fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        let (file, at) = (self.file, self.at);
        if at == file.end() {
            return Ok(None);
        }
        let bad = |reason: String| file.corrupt(at, reason);
        let (length, _) =
            record::parse_header(self.fill(record::HEADER_BYTES)?).map_err(|error| bad(format!("no record stands here: {error:?}")))?;
        if length as u64 > file.end() - at {
            return Err(bad(format!("a record of {length} bytes does not fit the file")));
        }
        let bytes = &self.fill(length)?[..length];
        record::parse(bytes).map_err(|error| bad(format!("the record is not what was written: {error:?}")))?;
        self.at += length as u64;
        // Borrowed anew, because the borrow above ends with the cursor's move.
        Ok(Some((at, &self.bytes[(at - self.start) as usize..][..length])))
    }
}

/// Key and value (`None`: deleted) of a backup's record.
fn only_operation<'a>(record: &record::Record<'a>) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let mut operations = record::operations(record.payload);
    match (record.kind, operations.next().flatten()?, operations.next()) {
        (Kind::Command, Operation::Set { key, value }, None) => Some((key, Some(value))),
        (Kind::Command, Operation::Delete { key }, None) => Some((key, None)),
        _ => None,
    }
}

impl Backup {
    /// Opens a backup and checks every byte of it.
    ///
    /// Errors: [`Error::Corrupt`] with file and offset when it is not whole, [`Error::Io`] when it cannot be read.
    pub fn open(path: &Path, progress: Progress<'_>) -> Result<Backup> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(Error::io(format!("open {name}")))?;
        let length = file.metadata().map_err(Error::io(format!("look at {name}")))?.len();
        let file = BackupFile { file, name, length };
        if length < (HEADER_BYTES + TRAILER_BYTES) as u64 {
            return Err(file.corrupt(length, "the file ends here, and is too short for a backup"));
        }
        let mut front = [0; HEADER_BYTES];
        file.read(&mut front, 0)?;
        let header = Header::decode(&front).map_err(|reason| file.corrupt(0, reason))?;
        if !(1..=NUMBER_MAX).contains(&header.index) || !(1..=NUMBER_MAX).contains(&header.term) {
            return Err(file.corrupt(28, format!("no state ends with term {}, index {}", header.term, header.index)));
        }
        let mut expected = Trailer::behind(&front);
        let places = check_records(&file, &header, &mut expected, progress)?;
        let mut trailer = [0; TRAILER_BYTES];
        file.read(&mut trailer, file.end())?;
        if trailer != expected.encode() {
            return Err(file.corrupt(file.end(), "the end does not match what stands before it, or the file was cut"));
        }
        let crc = trailer.last_chunk().copied().map_or(0, u32::from_le_bytes);
        Ok(Backup { file, header, crc, places })
    }

    /// The last entry of the state.
    pub fn last(&self) -> EntryId {
        EntryId { term: self.header.term, index: self.header.index }
    }

    /// How many keys the state has.
    pub fn keys(&self) -> u64 {
        self.places.len() as u64
    }

    /// The cluster that these members get; see the module's doc. `members` are sorted.
    pub fn founding(&self, members: &[String]) -> Founding {
        assert!(members.is_sorted_by(|a, b| a < b), "members are sorted and distinct: {members:?}");
        let mut mix = Mix::default();
        for number in [u64::from(self.crc), self.file.length, self.header.term, self.header.index] {
            mix.number(number);
        }
        mix.bytes(&self.header.cluster.to_le_bytes());
        members.iter().for_each(|member| mix.bytes(member.as_bytes()));
        let member = |id: &String| {
            let mut own = mix.clone();
            own.bytes(id.as_bytes());
            FoundingMember { id: id.clone(), uuid: own.finish() }
        };
        Founding { cluster: mix.finish(), members: members.iter().map(member).collect() }
    }

    /// Makes the directory of the member `id`. See [`crate::storage::restore`] for what a crash leaves.
    pub fn restore(&self, disk: Arc<dyn Disk>, id: &str, members: &[String], progress: Progress<'_>) -> Result<Founding> {
        let founding = self.founding(members);
        let mut restorer = Restorer::begin(disk, id, founding.clone(), self.last())?;
        self.fill(&mut restorer, progress)?;
        restorer.finish()?;
        Ok(founding)
    }

    /// Hands over all values, in the order of the file.
    fn fill(&self, restorer: &mut Restorer, progress: Progress<'_>) -> Result<()> {
        let mut records = Records::new(&self.file, HEADER_BYTES as u64);
        for place in &self.places {
            records.at = place.offset;
            let changed = || self.file.corrupt(place.offset, "the file was changed while it was read");
            let (_, bytes) = records.next()?.filter(|(_, bytes)| bytes.len() == place.bytes as usize).ok_or_else(changed)?;
            let (record, _) = record::view(bytes);
            let Some((key, Some(value))) = only_operation(&record).filter(|_| record.id.index == place.version) else {
                return Err(changed());
            };
            restorer.append(record.id, key, value)?;
            progress(place.offset, self.file.length);
        }
        Ok(())
    }
}

/// Checks each record and returns the places of those that stand.
fn check_records(file: &BackupFile, header: &Header, trailer: &mut Trailer, progress: Progress<'_>) -> Result<Vec<Place>> {
    let mut newest: HashMap<Box<[u8]>, Place> = HashMap::new();
    let mut records = Records::new(file, HEADER_BYTES as u64);
    while let Some((offset, bytes)) = records.next()? {
        trailer.add(1, bytes);
        let (record, _) = record::view(bytes);
        let id = record.id;
        let known = (1..=header.index).contains(&id.index) && (1..=header.term).contains(&id.term);
        let (key, value) =
            only_operation(&record).filter(|_| known).ok_or_else(|| file.corrupt(offset, format!("record {id} is none of a backup")))?;
        let place = Place { version: id.index, offset, bytes: bytes.len() as u32, deletes: value.is_none() };
        match newest.get_mut(key) {
            Some(other) if place.version >= other.version => *other = place,
            Some(_) => {}
            None => drop(newest.insert(key.into(), place)),
        }
        progress(offset, file.length);
    }
    let mut places: Vec<Place> = newest.into_values().filter(|place| !place.deletes).collect();
    places.sort_unstable_by_key(|place| place.offset);
    Ok(places)
}

/// Mixes bytes into 128 bits that depend on each of them and on their order.
#[derive(Clone, Debug, Default)]
struct Mix {
    high: u64,
    low: u64,
}

impl Mix {
    fn number(&mut self, number: u64) {
        self.low = scramble(self.low ^ number);
        self.high = scramble(self.high.rotate_left(23) ^ self.low ^ number.rotate_left(32));
    }

    /// The length goes first, so that bytes cannot move from one call to the next.
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            self.number(chunk.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)));
        }
    }

    /// Never 0, which means that there is no cluster.
    fn finish(&self) -> u128 {
        let (low, high) = (scramble(self.low), scramble(self.high ^ self.low.rotate_left(17)));
        (u128::from(high) << 64 | u128::from(low)).max(1)
    }
}

/// One step of splitmix64.
fn scramble(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
