//! The hint file of a sealed segment: which of its records took effect, so that a start needs to read neither records nor conditions.
//! Names the newest effective record of each key of the segment, in byte order of the keys, and where each entry of the log stands in
//! it. Bytes only: who makes hints is next door, who believes them is recovery.
//!
//! ```text
//! offset size field
//!      0    8 magic          "ApexKVhi"
//!      8    4 version        2
//!     12    4 CRC            of all other bytes of the file
//!     16   16 cluster id
//!     32   16 node uuid      of the segment
//!     48    4 number         of the segment
//!     52    4 runs           how many terms
//!     56    4 memberships    how many
//!     60    4 zero
//!     64    8 first index
//!     72    8 last index
//!     80    8 end            where the segment is sealed
//!     88    8 last batch     no batch of the segment has a higher number
//!     96    8 keys           how many
//!    104    8 state hash     behind the last entry, 0 if it is not known; version 1 has no such field
//!    112    … runs           first index u64, term u64 each
//!      …    … memberships    index u64, length u32, payload of the record each
//!      …    … offsets        u32 for each entry: where its record starts
//!      …    … keys           version u64, offset u32, record bytes u32, value bytes u32 (2^32 - 1: deleted), key length u32, key each
//! ```
//!
//! The hint of a data file begins with "ApexKVhd" and has neither terms nor memberships nor offsets: *first index* and *last index* are the
//! lowest and the highest of its versions. A state hash belongs to no data file.

use super::bytes::Fields;
use super::record;
use super::segment::{HEADER_BLOCK, SegmentHeader, number_in};
use super::state_hash::StateHash;
use crate::bugbank::planted;
use crate::error::{Error, Result};
use crate::raft::Config;
use std::io;

const MAGIC: [u8; 8] = *b"ApexKVhi";
const DATA_MAGIC: [u8; 8] = *b"ApexKVhd";
const VERSION: u32 = 2;
const FRONT_BYTES: usize = 112;
/// The front that all versions have.
const FRONT_BYTES_MIN: usize = 104;
const DELETED: u32 = u32::MAX;

/// What is known of one key at the end of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HintKey<'a> {
    /// Which key.
    pub(super) key: &'a [u8],
    /// Log index of the record.
    pub(super) version: u64,
    /// Where in the segment the record starts.
    pub(super) offset: u32,
    /// Length of the whole record.
    pub(super) record_bytes: u32,
    /// Length of the value; `None` if the record deletes the key.
    pub(super) value_bytes: Option<u32>,
}

/// The log's side of a hint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HintLog {
    /// Index of the first entry.
    pub(super) first: u64,
    /// Index of the last entry.
    pub(super) last: u64,
    /// Where the segment is sealed.
    pub(super) end: u64,
    /// No batch of the segment has a higher number.
    pub(super) last_batch: u64,
    /// First index and term of each run of entries of one term.
    pub(super) runs: Vec<(u64, u64)>,
    /// Memberships among the entries.
    pub(super) configs: Vec<(u64, Config)>,
    /// Where each entry's record starts.
    pub(super) offsets: Vec<u32>,
    /// The hash of the state behind the last entry.
    pub(super) hash: StateHash,
}

/// The name of a segment's hint file.
pub(super) fn hint_name(id: u32) -> String {
    format!("{id:08x}.hint")
}

/// The number in a hint file's name; `None` for any other file.
pub(super) fn id_of(name: &str) -> Option<u32> {
    number_in(name, ".hint", hint_name)
}

/// The bytes of a hint file. `keys` rise strictly.
pub(super) fn encode(header: &SegmentHeader, log: &HintLog, keys: &[HintKey<'_>]) -> Vec<u8> {
    let bytes = FRONT_BYTES + log.offsets.len() * 4 + keys.iter().map(|key| 24 + key.key.len()).sum::<usize>();
    let mut out = Vec::with_capacity(bytes + log.runs.len() * 16);
    out.extend_from_slice(magic(header));
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&header.cluster.to_le_bytes());
    out.extend_from_slice(&header.node.to_le_bytes());
    for number in [header.id, log.runs.len() as u32, log.configs.len() as u32, 0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for number in [log.first, log.last, log.end, log.last_batch, keys.len() as u64, log.hash.number()] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for (first, term) in &log.runs {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&term.to_le_bytes());
    }
    for (index, config) in &log.configs {
        let payload = record::encode_config(config);
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&payload);
    }
    for offset in &log.offsets {
        out.extend_from_slice(&offset.to_le_bytes());
    }
    for key in keys {
        out.extend_from_slice(&key.version.to_le_bytes());
        for number in [key.offset, key.record_bytes, key.value_bytes.unwrap_or(DELETED), key.key.len() as u32] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(key.key);
    }
    let crc = file_crc(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

fn magic(header: &SegmentHeader) -> &'static [u8; 8] {
    if header.data { &DATA_MAGIC } else { &MAGIC }
}

fn file_crc(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..12]);
    crc.update(&bytes[16..]);
    crc.finalize()
}

/// A hint file that was checked, in memory.
#[derive(Debug)]
pub(super) struct Hint {
    pub(super) log: HintLog,
    bytes: Vec<u8>,
    keys_at: usize,
    /// Whether it is a data file's.
    data: bool,
}

impl Hint {
    /// Checks a hint file's bytes against the segment whose header is `header`. The error says why they are not its hint.
    pub(super) fn decode(bytes: Vec<u8>, header: &SegmentHeader) -> std::result::Result<Hint, String> {
        if bytes.len() < FRONT_BYTES_MIN || bytes[..8] != *magic(header) {
            return Err(format!("its {} bytes do not start like a hint file of {}", bytes.len(), header.name()));
        }
        let mut fields = Fields::new(&bytes[8..]);
        let truncated = || "it ends too early".to_owned();
        let (version, crc) = (fields.u32().ok_or_else(truncated)?, fields.u32().ok_or_else(truncated)?);
        if file_crc(&bytes) != crc && !planted(60) {
            return Err("its bytes do not match its CRC".to_owned());
        }
        if !(1..=VERSION).contains(&version) {
            return Err(format!("it has format version {version}, this program knows those up to {VERSION}"));
        }
        let owner = (fields.u128(), fields.u128(), fields.u32());
        if owner != (Some(header.cluster), Some(header.node), Some(header.id)) {
            return Err(format!("it belongs to another segment than {}", header.name()));
        }
        let (log, keys_at) =
            decode_log(&bytes, &mut fields, version, header.data).ok_or("its list of entries does not follow the format")?;
        if log.end > header.length {
            return Err(format!("it ends at {}, its segment at {}", log.end, header.length));
        }
        let hint = Hint { log, bytes, keys_at, data: header.data };
        hint.check_keys()?;
        Ok(hint)
    }

    /// Whether a key's record can be the one that the list of entries has at its version.
    fn is_placed(&self, key: &HintKey<'_>) -> bool {
        let fits = key.value_bytes.is_none_or(|bytes| bytes <= key.record_bytes);
        if self.data {
            let end = u64::from(key.offset) + u64::from(key.record_bytes);
            return fits
                && u64::from(key.offset) >= HEADER_BLOCK
                && end <= self.log.end
                && (self.log.first..=self.log.last).contains(&key.version);
        }
        let Some(position) = key.version.checked_sub(self.log.first).and_then(|position| usize::try_from(position).ok()) else {
            return false;
        };
        let next = self.log.offsets.get(position + 1).map_or(self.log.end, |next| u64::from(*next));
        let inside = u64::from(key.offset) + u64::from(key.record_bytes) <= next;
        self.log.offsets.get(position) == Some(&key.offset) && inside && fits
    }

    fn check_keys(&self) -> std::result::Result<(), String> {
        let (mut count, mut before): (u64, Option<&[u8]>) = (0, None);
        let mut at = self.keys_at;
        while at < self.bytes.len() {
            let (key, next) = key_at(&self.bytes, at).ok_or("its list of keys is cut off")?;
            if !self.is_placed(&key) || before.is_some_and(|before| before >= key.key) {
                return Err(format!("key {count} of its list is out of order or out of place"));
            }
            (count, before, at) = (count + 1, Some(key.key), next);
        }
        let told = u64::from_le_bytes(self.bytes[96..104].try_into().map_err(|_| "it ends too early")?);
        if count == told { Ok(()) } else { Err(format!("it names {count} keys and says {told}")) }
    }

    /// Bytes of the records that it names and that delete a key.
    pub(super) fn deletion_bytes(&self) -> u64 {
        self.keys().filter(|key| key.value_bytes.is_none()).map(|key| u64::from(key.record_bytes)).sum()
    }

    /// The bytes of the file.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.bytes
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The keys, in byte order.
    pub(super) fn keys(&self) -> Keys<'_> {
        Keys { bytes: &self.bytes, at: self.keys_at }
    }
}

fn decode_log(bytes: &[u8], fields: &mut Fields<'_>, version: u32, data: bool) -> Option<(HintLog, usize)> {
    let (runs, configs, _zero) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let (first, last, end, last_batch, _keys) = (fields.number()?, fields.number()?, fields.u64()?, fields.number()?, fields.u64()?);
    let hash = StateHash::from_number(if version >= 2 { fields.u64()? } else { 0 });
    let mut log = HintLog { first, last, end, last_batch, hash, ..HintLog::default() };
    if data {
        return (runs == 0 && configs == 0 && first <= last).then(|| (log, bytes.len() - fields.left()));
    }
    for _ in 0..runs {
        log.runs.push((fields.number()?, fields.number()?));
    }
    for _ in 0..configs {
        let (index, length) = (fields.u64()?, fields.u32()?);
        log.configs.push((index, record::decode_config(fields.slice(length as usize)?)?));
    }
    let entries = last.checked_sub(first)?.checked_add(1)?;
    let offsets = fields.slice(usize::try_from(entries.checked_mul(4)?).ok()?)?;
    log.offsets = offsets.chunks_exact(4).map(|offset| u32::from_le_bytes([offset[0], offset[1], offset[2], offset[3]])).collect();
    let in_order = log.offsets.is_sorted_by(|a, b| a < b) && log.offsets.last().is_some_and(|offset| u64::from(*offset) < end);
    let covered =
        log.runs.first().is_some_and(|(at, term)| *at == first && *term > 0) && log.runs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
    let inside =
        log.runs.iter().all(|(at, _)| (first..=last).contains(at)) && log.configs.iter().all(|(at, _)| (first..=last).contains(at));
    (in_order && covered && inside).then(|| (log, bytes.len() - fields.left()))
}

/// The key at `at`, and where the next one starts.
fn key_at(bytes: &[u8], at: usize) -> Option<(HintKey<'_>, usize)> {
    let mut fields = Fields::new(bytes.get(at..)?);
    let (version, offset, record_bytes) = (fields.u64()?, fields.u32()?, fields.u32()?);
    let (value_bytes, length) = (fields.u32()?, fields.u32()? as usize);
    let key = fields.slice(length)?;
    let value_bytes = (value_bytes != DELETED).then_some(value_bytes);
    Some((HintKey { key, version, offset, record_bytes, value_bytes }, at + 24 + length))
}

/// Walks the keys of a hint.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Keys<'a> {
    type Item = HintKey<'a>;

    fn next(&mut self) -> Option<HintKey<'a>> {
        let (key, next) = key_at(self.bytes, self.at)?;
        self.at = next;
        Some(key)
    }
}

/// The newest of several hints' keys, in byte order: what the files that they describe leave behind together.
pub(super) fn newest<'a>(hints: &'a [(u32, Hint)]) -> impl Iterator<Item = (u32, HintKey<'a>)> {
    let mut lists: Vec<_> = hints.iter().map(|(segment, hint)| (*segment, hint.keys().peekable())).collect();
    // The list whose next key is the lowest comes first.
    let mut heap: std::collections::BinaryHeap<_> =
        lists.iter_mut().enumerate().filter_map(|(list, (_, keys))| keys.peek().map(|key| (std::cmp::Reverse(key.key), list))).collect();
    std::iter::from_fn(move || {
        let (std::cmp::Reverse(lowest), list) = heap.pop()?;
        let mut advance = |list: usize, heap: &mut std::collections::BinaryHeap<_>| {
            let (segment, keys) = &mut lists[list];
            let key = keys.next();
            if let Some(next) = keys.peek() {
                heap.push((std::cmp::Reverse(next.key), list));
            }
            key.map(|key| (*segment, key))
        };
        let mut newest = advance(list, &mut heap);
        while heap.peek().is_some_and(|(key, _)| key.0 == lowest) {
            let (_, other) = heap.pop().unwrap_or((std::cmp::Reverse(lowest), list));
            newest = std::cmp::max_by_key(newest, advance(other, &mut heap), |found| found.map(|(_, key)| key.version));
        }
        newest
    })
}

/// Makes the hint file of the segment with this number. Its name is durable after the next sync of the directory.
pub(super) fn write(disk: &dyn super::disk::Disk, id: u32, bytes: &[u8]) -> io::Result<()> {
    let name = hint_name(id);
    let temporary = format!("{name}.tmp");
    let file = disk.create(&temporary)?;
    file.write_at(&[bytes], 0)?;
    file.sync()?;
    disk.rename(&temporary, &name)
}

/// Reads a hint file. `Ok(Err(reason))` if there is none that can be believed: then the segment itself is read. An error is none of the
/// hint's: it could not be looked at, or a newer program has made it.
pub(super) fn read(disk: &dyn super::disk::Disk, header: &SegmentHeader) -> Result<std::result::Result<Hint, String>> {
    let name = hint_name(header.id);
    let bytes = match read_bytes(disk, &name, header) {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(reason)) => return Ok(Err(reason)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || super::is_lost(&error) => {
            return Ok(Err(format!("{name} cannot be read: {error}")));
        }
        Err(source) => return Err(Error::Io { doing: format!("read {}/{name}", disk.path()), source }),
    };
    if let Some(version) = newer_version(&bytes, header) {
        return Err(super::newer(&name, version, VERSION));
    }
    Ok(Hint::decode(bytes, header).map_err(|reason| format!("{name} cannot be used: {reason}")))
}

fn read_bytes(disk: &dyn super::disk::Disk, name: &str, header: &SegmentHeader) -> io::Result<std::result::Result<Vec<u8>, String>> {
    let file = disk.open(name)?;
    let length = file.length()?;
    // A hint names less than its segment holds, but for the places of its entries.
    if length > header.length * 2 + FRONT_BYTES as u64 {
        return Ok(Err(format!("{name} has {length} bytes, more than its segment could need")));
    }
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(Ok(bytes))
}

/// The version of a hint that is whole and that this program does not know.
fn newer_version(bytes: &[u8], header: &SegmentHeader) -> Option<u32> {
    let whole = bytes.len() >= FRONT_BYTES_MIN && bytes[..8] == *magic(header);
    let mut fields = Fields::new(bytes.get(8..)?);
    let (version, crc) = (fields.u32()?, fields.u32()?);
    (whole && version > VERSION && file_crc(bytes) == crc).then_some(version)
}

/// Makes of a hint's bytes what the first version of the format would have been.
#[cfg(test)]
pub(super) fn into_first_version(bytes: &mut Vec<u8>) {
    bytes.drain(FRONT_BYTES_MIN..FRONT_BYTES);
    set_version(bytes, 1);
}

/// Changes what a hint says of its version.
#[cfg(test)]
pub(super) fn set_version(bytes: &mut [u8], version: u8) {
    bytes[8] = version;
    let crc = file_crc(bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::NodeId;

    fn header(id: u32) -> SegmentHeader {
        SegmentHeader { cluster: 1, node: 2, id, length: 1 << 20, seed: 3, data: false }
    }

    fn key(key: &'static [u8], version: u64, value_bytes: Option<u32>) -> HintKey<'static> {
        HintKey { key, version, offset: [4192, 5000, 6000, 7000][version as usize - 10], record_bytes: 60, value_bytes }
    }

    fn log() -> HintLog {
        HintLog {
            first: 10,
            last: 13,
            end: 9000,
            last_batch: 77,
            runs: vec![(10, 2), (12, 5)],
            configs: vec![(11, Config { voters: vec![NodeId(1)], learners: vec![] })],
            offsets: vec![4192, 5000, 6000, 7000],
            hash: StateHash::START,
        }
    }

    #[test]
    fn a_hint_reads_back_and_no_changed_byte_passes() {
        let keys = [key(b"a", 10, Some(5)), key(b"ab", 13, None), key(b"b", 12, Some(0))];
        let bytes = encode(&header(4), &log(), &keys);
        let hint = Hint::decode(bytes.clone(), &header(4)).expect("just encoded");
        assert_eq!(hint.log, log());
        assert!(hint.keys().eq(keys));
        assert!(Hint::decode(bytes.clone(), &header(5)).is_err(), "another segment's");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Hint::decode(changed, &header(4)).is_err(), "byte {at}");
            assert!(Hint::decode(bytes[..at].to_vec(), &header(4)).is_err(), "cut to {at}");
        }
    }

    #[test]
    fn a_hint_of_the_first_version_is_read_and_knows_no_state_hash() {
        let bytes = encode(&header(4), &log(), &[key(b"a", 10, Some(5))]);
        let mut old = bytes;
        into_first_version(&mut old);
        let hint = Hint::decode(old, &header(4)).expect("an older format is read");
        assert_eq!(hint.log, HintLog { hash: StateHash::UNKNOWN, ..log() });
        assert_eq!(hint.keys().count(), 1);
    }

    #[test]
    fn of_several_hints_the_newest_counts() {
        let hint = |id, keys: &[HintKey<'_>]| (id, Hint::decode(encode(&header(id), &log(), keys), &header(id)).expect("just encoded"));
        let hints = [
            hint(1, &[key(b"a", 10, Some(1)), key(b"b", 11, Some(1)), key(b"d", 12, Some(1))]),
            hint(2, &[key(b"b", 12, None), key(b"c", 13, Some(2))]),
            hint(3, &[key(b"a", 13, Some(3))]),
        ];
        let found: Vec<_> = newest(&hints).map(|(segment, key)| (segment, key.key, key.value_bytes)).collect();
        assert_eq!(found, [(3, &b"a"[..], Some(3)), (2, b"b", None), (2, b"c", Some(2)), (1, b"d", Some(1))]);
        assert_eq!(newest(&[]).count(), 0);
    }
}
