//! A small value that is replaced again and again without new disk space, and without ever losing the last one acknowledged: hard
//! state, identity, peers' marks, manifest. Called by their owners with payloads whose meaning is not known here. It must never
//! believe an older value when a newer one may have been acknowledged: then it refuses, naming file and offset.
//!
//! # File
//!
//! Four areas of equal size, each a multiple of 4 KiB, each beginning with one slot. Areas 0 and 2 are the two copies of pair 0, areas
//! 1 and 3 those of pair 1, so that copies are never neighbours. Generation `g` is written to both copies of pair `g mod 2`; the other
//! pair keeps `g - 1`. All integers are little-endian.
//!
//! ```text
//! offset size field
//!      0    8 magic        "APEXSLOT"
//!      8    4 version      1; this field, the payload length and the CRC stay where they are in every version
//!     12    4 area         0 ..= 3: a slot that was written to the wrong place is no slot
//!     16    8 generation   from 1; its lowest bit is the pair
//!     24    4 capacity     the longest payload that the file was made for
//!     28    4 length       of the payload
//!     32    4 file         CRC-32 (IEEE) of the file's name, against slots of another file
//!     36    4 CRC          CRC-32 (IEEE) of everything else up to the end of the payload's last sector
//!     40    … payload, then zeros up to the end of the sector
//! ```
//!
//! # Torn or damaged
//!
//! Assumed of the disk: a crash leaves each 512-byte sector of a write that was not synced either old or new; a sector that
//! was synced changes only by damage, and damage hits one copy of a pair, not both in the same way.
//!
//! * A slot that fits a sector is old or new after a crash, never bad. Both copies are written with one sync.
//! * A longer slot can be torn. So its copies are written one after the other with a sync between, and after a crash at most one is bad.
//!
//! Either way a crash never leaves a pair with two bad copies, and a bad copy is repaired before the file is written again. So two bad
//! copies are damage, and they may have held a generation above the other pair's that was acknowledged: [`SlotFile::open`] refuses.
//! With one bad copy, the other decides: if the acknowledged generation had been the newer one, both copies would hold it, because
//! nothing is acknowledged before both are durable. It may also be a generation that never was acknowledged; then it takes effect
//! late, which is allowed as long as it is made durable before anybody hears of it, and so it is repaired first.
//! The newest generations of the pairs are always neighbours. If they are not, writes were lost, and the file is refused too.

use super::disk::{Disk, DiskFile};
use crate::bugbank::planted;
use crate::error::{Error, Result};
use std::{io, sync::Arc};

/// Size of a slot's header.
const HEADER: usize = 40;
const MAGIC: &[u8; 8] = b"APEXSLOT";
const VERSION: u32 = 1;
/// What a disk writes wholly or not at all.
const SECTOR: usize = 512;
/// Areas begin at multiples of this.
const BLOCK: usize = 4096;
/// Longest payload that the format allows, so that a file's length, a stranger's word, reserves no memory out of proportion.
const CAPACITY_MAX: usize = 64 << 20;

/// An open slot file: knows the newest generation, and where the next one goes.
#[derive(Debug)]
pub struct SlotFile {
    file: Arc<dyn DiskFile>,
    place: Place,
    capacity: usize,
    generation: u64,
    /// A write failed: what is on disk is unknown, and nothing may be written over it.
    failed: bool,
}

/// Newest generation that is believed; no file comes near it, and the next one must be a number too.
const GENERATION_MAX: u64 = 1 << 62;

/// What a slot says about the file it belongs to.
#[derive(Clone, Debug)]
struct Place {
    /// Directory and name, for messages.
    path: String,
    /// CRC of the name alone.
    name_crc: u32,
}

/// A slot whose CRC matches.
#[derive(Clone, Debug)]
struct Slot {
    generation: u64,
    capacity: usize,
    payload: Vec<u8>,
}

/// One of the four areas: a valid slot, or why it holds none.
type Area = std::result::Result<Slot, String>;

impl SlotFile {
    /// Makes the file `name` for payloads of up to `capacity` bytes, with `payload` as the first one: under a temporary name, filled,
    /// synced, renamed, the directory synced. After an error the name does not exist, or the directory was not synced. The name must
    /// not exist yet; what an earlier attempt left under the temporary name is removed.
    pub fn create(disk: &Arc<dyn Disk>, name: &str, capacity: usize, payload: &[u8]) -> Result<SlotFile> {
        assert!(payload.len() <= capacity && capacity <= CAPACITY_MAX, "a payload of {} bytes in {name} of {capacity}", payload.len());
        let place = Place::new(disk, name);
        let names = disk.list().map_err(Error::io(format!("list {}", disk.path())))?;
        assert!(!names.iter().any(|other| other == name), "{} is created once", place.path);
        let temporary = format!("{name}.tmp");
        if names.contains(&temporary) {
            disk.remove(&temporary).map_err(Error::io(format!("remove {}.tmp", place.path)))?;
        }
        let file = disk.create(&temporary).map_err(Error::io(format!("create {}.tmp", place.path)))?;
        let fill = || {
            file.allocate(4 * area_bytes(capacity))?;
            for area in 0..4 {
                let generation = if pair_of(area) == 1 { 1 } else { 2 };
                let slot = encode(&place, area, generation, capacity, payload);
                file.write_at(&[&slot], area * area_bytes(capacity))?;
            }
            if planted(55) { Ok(()) } else { file.sync() }
        };
        fill().map_err(Error::io(format!("write {}.tmp", place.path)))?;
        disk.rename(&temporary, name).map_err(Error::io(format!("rename {0}.tmp to {0}", place.path)))?;
        disk.sync_directory().map_err(Error::io(format!("sync directory {}", disk.path())))?;
        Ok(SlotFile { file, place, capacity, generation: 2, failed: false })
    }

    /// Opens the file and returns the newest payload. Believes the disk and not the cache: syncs, drops the cache, then reads. Copies
    /// that a crash or damage left behind are repaired, durably, before it returns.
    ///
    /// Errors: [`Error::Corrupt`] when the newest payload cannot be told, [`Error::Directory`] when a newer version wrote the file,
    /// [`Error::Io`] from the disk.
    pub fn open(disk: &Arc<dyn Disk>, name: &str) -> Result<(SlotFile, Vec<u8>)> {
        let place = Place::new(disk, name);
        let file = disk.open(name).map_err(Error::io(format!("open {}", place.path)))?;
        file.sync().map_err(Error::io(format!("sync {}", place.path)))?;
        file.drop_cache(0).map_err(Error::io(format!("drop the cache of {}", place.path)))?;
        let length = file.length().map_err(Error::io(format!("look at {}", place.path)))?;
        let area_bytes = place.area_bytes_of(length)?;
        let mut areas = Vec::new();
        for area in 0..4 {
            areas.push(place.read(file.as_ref(), area, area_bytes)?);
        }
        let (zero, one) = (place.newest_of(0, &areas, area_bytes)?, place.newest_of(1, &areas, area_bytes)?);
        if zero.generation.abs_diff(one.generation) != 1 && !planted(88) {
            let (older, newer) = if zero.generation < one.generation { (zero, one) } else { (one, zero) };
            let reason = format!("it holds generation {} beside generation {}: writes were lost", older.generation, newer.generation);
            return Err(place.corrupt((older.generation % 2) * area_bytes, reason));
        }
        let newest = if zero.generation > one.generation { zero } else { one };
        let (generation, capacity, payload) = (newest.generation, newest.capacity, newest.payload.clone());
        for slot in [zero, one] {
            place.repair(file.as_ref(), slot, &areas, area_bytes)?;
        }
        Ok((SlotFile { file, place, capacity, generation, failed: false }, payload))
    }

    /// Replaces the payload; durable when it returns `Ok`. After an error the outcome is open and the file takes no further write: the
    /// process must end, and learns at its next start which payload stands. A payload above the capacity is refused before anything
    /// is written.
    pub fn write(&mut self, payload: &[u8]) -> Result<()> {
        let doing = || format!("write {}", self.place.path);
        if payload.len() > self.capacity {
            let reason = format!("{} bytes exceed its capacity of {}", payload.len(), self.capacity);
            return Err(Error::io(doing())(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
        }
        if self.failed {
            return Err(Error::io(doing())(io::Error::other("an earlier write failed; restart to learn which payload stands")));
        }
        let generation = self.generation + 1;
        self.failed = true;
        self.write_pair(generation, payload).map_err(Error::io(doing()))?;
        self.generation = generation;
        self.failed = false;
        Ok(())
    }

    /// The longest payload that [`SlotFile::write`] takes, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn write_pair(&self, generation: u64, payload: &[u8]) -> io::Result<()> {
        let first = generation % 2;
        for area in [first, first + 2] {
            let slot = encode(&self.place, area, generation, self.capacity, payload);
            self.file.write_at(&[&slot], area * area_bytes(self.capacity))?;
            // Also when this payload is short, so that what a crash can leave depends on the file alone.
            if area == first && HEADER + self.capacity > SECTOR {
                self.file.sync()?;
            }
        }
        self.file.sync()
    }
}

impl Place {
    fn new(disk: &Arc<dyn Disk>, name: &str) -> Place {
        Place { path: format!("{}/{name}", disk.path()), name_crc: crc32fast::hash(name.as_bytes()) }
    }

    fn corrupt(&self, offset: u64, reason: String) -> Error {
        Error::Corrupt { file: self.path.clone(), offset, reason }
    }

    /// The size of an area in a file of `length` bytes.
    fn area_bytes_of(&self, length: u64) -> Result<u64> {
        let largest = 4 * area_bytes(CAPACITY_MAX);
        if length == 0 || length > largest || !length.is_multiple_of(4 * BLOCK as u64) {
            let reason = format!("its length of {length} bytes is not four equal areas of 4 KiB blocks, at most {largest} bytes in all");
            return Err(self.corrupt(length.min(largest), reason));
        }
        Ok(length / 4)
    }

    /// Reads one area. An area that the disk cannot read is bad like any other: its twin may be whole, and repairing rewrites it.
    fn read(&self, file: &dyn DiskFile, area: u64, area_bytes: u64) -> Result<Area> {
        Ok(match read_slot(file, area * area_bytes, area_bytes) {
            Err(error) => Err(format!("it cannot be read: {error}")),
            Ok(bytes) => match self.decode(&bytes, area, area_bytes) {
                Err(Bad::Newer(version)) => {
                    let remedy = format!("this program reads up to version {VERSION}; use the program that wrote it, or a newer one");
                    return Err(Error::Directory(format!("{} has format version {version}: {remedy}", self.path)));
                }
                Err(Bad::Slot(reason)) => Err(reason),
                Ok(slot) => Ok(slot),
            },
        })
    }

    /// Parses the slot at the start of an area, whatever its bytes are.
    fn decode(&self, bytes: &[u8], area: u64, area_bytes: u64) -> std::result::Result<Slot, Bad> {
        let bad = |reason: String| Err(Bad::Slot(reason));
        if &bytes[..8] != MAGIC {
            return bad("there is no slot".into());
        }
        let length = get_u32(bytes, 28) as usize;
        let Some(sectors) = bytes.get(..slot_bytes(length)) else {
            return bad(format!("its payload of {length} bytes exceeds the area"));
        };
        if crc(sectors) != get_u32(bytes, 36) {
            return bad("its CRC does not match".into());
        }
        let version = get_u32(bytes, 8);
        if version > VERSION {
            return Err(Bad::Newer(version));
        }
        let generation = u64::from(get_u32(bytes, 16)) | u64::from(get_u32(bytes, 20)) << 32;
        let capacity = get_u32(bytes, 24) as usize;
        if u64::from(get_u32(bytes, 12)) != area || !(1..=GENERATION_MAX).contains(&generation) || generation % 2 != pair_of(area) {
            return bad(format!("generation {generation} of area {} stands in area {area}", get_u32(bytes, 12)));
        }
        if get_u32(bytes, 32) != self.name_crc {
            return bad("it belongs to a file of another name".into());
        }
        if version != VERSION || capacity > CAPACITY_MAX || length > capacity || self::area_bytes(capacity) != area_bytes {
            return bad(format!("version {version} and a capacity of {capacity} bytes do not fit the file"));
        }
        Ok(Slot { generation, capacity, payload: bytes[HEADER..HEADER + length].to_vec() })
    }

    /// The newer of a pair's two copies.
    fn newest_of<'a>(&self, pair: u64, areas: &'a [Area], area_bytes: u64) -> Result<&'a Slot> {
        match (&areas[pair as usize], &areas[pair as usize + 2]) {
            (Err(_), Err(_)) if planted(88) && pair == 0 => self.newest_of(1, areas, area_bytes),
            (Err(_), Err(_)) if planted(88) && areas.iter().any(Area::is_ok) => self.newest_of(0, areas, area_bytes),
            (Err(first), Err(second)) => {
                let offset = (pair + 2) * area_bytes;
                let remedy = "the newest value may be among them, and an older one must not be believed";
                Err(self.corrupt(pair * area_bytes, format!("{first}; nor has its copy at offset {offset} survived ({second}); {remedy}")))
            }
            (Ok(slot), Err(_)) | (Err(_), Ok(slot)) => Ok(slot),
            (Ok(first), Ok(second)) if first.generation == second.generation && first.payload != second.payload => {
                let offset = (pair + 2) * area_bytes;
                Err(self.corrupt(offset, format!("it differs from the other copy of generation {}", first.generation)))
            }
            (Ok(first), Ok(second)) => Ok(if second.generation > first.generation { second } else { first }),
        }
    }

    /// Rewrites a copy of `slot` that is bad or older. At most one copy is, so one sync will do whatever the size.
    fn repair(&self, file: &dyn DiskFile, slot: &Slot, areas: &[Area], area_bytes: u64) -> Result<()> {
        let pair = slot.generation % 2;
        for area in [pair, pair + 2] {
            if areas[area as usize].as_ref().is_ok_and(|copy| copy.generation == slot.generation) {
                continue;
            }
            let bytes = encode(self, area, slot.generation, slot.capacity, &slot.payload);
            let doing = format!("repair {} at offset {}", self.path, area * area_bytes);
            file.write_at(&[&bytes], area * area_bytes).and_then(|()| file.sync()).map_err(Error::io(doing))?;
        }
        Ok(())
    }
}

/// Why an area holds no slot that can be used.
enum Bad {
    /// Damaged, torn, or of another place.
    Slot(String),
    /// Whole, and of this newer version.
    Newer(u32),
}

/// Reads as much of the area at `offset` as the slot in it says to need, and at least its header's sector.
fn read_slot(file: &dyn DiskFile, offset: u64, area_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; SECTOR];
    file.read_at(&mut bytes, offset)?;
    let wanted = slot_bytes(get_u32(&bytes, 28) as usize);
    if wanted > SECTOR && wanted as u64 <= area_bytes {
        bytes.resize(wanted, 0);
        file.read_at(&mut bytes[SECTOR..], offset + SECTOR as u64)?;
    }
    Ok(bytes)
}

/// Which pair an area belongs to.
fn pair_of(area: u64) -> u64 {
    area % 2
}

/// Size of a slot with a payload of `length` bytes: whole sectors.
fn slot_bytes(length: usize) -> usize {
    (HEADER + length).next_multiple_of(SECTOR)
}

/// Size of an area for payloads of up to `capacity` bytes.
fn area_bytes(capacity: usize) -> u64 {
    (HEADER + capacity).next_multiple_of(BLOCK) as u64
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// CRC of a whole slot but its CRC field.
fn crc(slot: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot[..36]);
    hasher.update(&slot[HEADER..]);
    hasher.finalize()
}

fn encode(place: &Place, area: u64, generation: u64, capacity: usize, payload: &[u8]) -> Vec<u8> {
    let mut slot = vec![0; slot_bytes(payload.len())];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..12].copy_from_slice(&VERSION.to_le_bytes());
    slot[12..16].copy_from_slice(&(area as u32).to_le_bytes());
    slot[16..24].copy_from_slice(&generation.to_le_bytes());
    slot[24..28].copy_from_slice(&(capacity as u32).to_le_bytes());
    slot[28..32].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    slot[32..36].copy_from_slice(&place.name_crc.to_le_bytes());
    slot[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    let crc = crc(&slot);
    slot[36..40].copy_from_slice(&crc.to_le_bytes());
    slot
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
