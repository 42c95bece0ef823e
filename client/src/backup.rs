//! Backups: one consistent state of a cluster as a stream of records from its leader, and as a file. Knows the bytes of the stream and of
//! the file; opens no file itself. Records travel as the servers store them and are not looked into here.
//!
//! # The file
//!
//! Integers are little-endian; a CRC is CRC-32 (IEEE).
//!
//! ```text
//! offset size field
//!      0    8 magic          "ApexKVbk"
//!      8    4 version        1
//!     12   16 cluster id     of the cluster that was backed up
//!     28    8 term           of the last entry that the state includes
//!     36    8 index          of that entry; no version in the file is above it
//!     44    4 header CRC     of the 44 bytes before
//!     48    … records        back to back
//!      -28  8 magic          "ApexKVbe"
//!      -20  8 records        how many
//!      -12  8 record bytes   of all of them: the file has as many bytes and 76 more
//!       -4  4 CRC            of everything before
//! ```
//!
//! A record is what the server's log consists of: a header of 32 bytes (length of what follows u32, kind u8 = 2, flags u8 = 0, extension
//! u16 = 0, version u64, term u64, CRC of what follows u32, CRC of the 28 bytes before u32), then one operation: 1 (set) or 2 (delete) as
//! u8, key length u32, value length u32, key, value. A key may come several times: the highest version counts, of equal ones the last. If
//! that one deletes the key, it is absent.

use crate::attempt::decode_u64;
use crate::connection::Connection;
use crate::error::{Error, FailedAttempt, Failure};
use crate::protocol::{BACKUP_NEXT, Command, Status, encode_request};
use std::time::{Duration, Instant};

/// Size of the file's header.
pub const HEADER_BYTES: usize = 48;
/// Size of the file's trailer.
pub const TRAILER_BYTES: usize = 28;

const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"ApexKVbk";
const END_MAGIC: &[u8; 8] = b"ApexKVbe";

/// Which state a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster that was backed up.
    pub cluster: u128,
    /// Term of the last entry that the state includes.
    pub term: u64,
    /// Index of that entry.
    pub index: u64,
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(get_u32(bytes, at)) | u64::from(get_u32(bytes, at + 4)) << 32
}

fn get_u128(bytes: &[u8], at: usize) -> u128 {
    u128::from(get_u64(bytes, at)) | u128::from(get_u64(bytes, at + 8)) << 64
}

impl Header {
    /// The file's first bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.term.to_le_bytes());
        bytes[36..44].copy_from_slice(&self.index.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads them back; otherwise says what they are not.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, String> {
        if &bytes[..8] != MAGIC {
            return Err("it does not begin like a backup".to_owned());
        }
        if crc32fast::hash(&bytes[..44]) != get_u32(bytes, 44) {
            return Err("its header does not match its CRC".to_owned());
        }
        match get_u32(bytes, 8) {
            VERSION => Ok(Header { cluster: get_u128(bytes, 12), term: get_u64(bytes, 28), index: get_u64(bytes, 36) }),
            version => Err(format!("it has format version {version}, this program reads {VERSION}: use the program that wrote it")),
        }
    }
}

/// What a backup file says at its end, with the CRC that makes it whole.
#[derive(Clone, Debug)]
pub struct Trailer {
    /// How many records the file holds.
    pub records: u64,
    /// Their bytes.
    pub record_bytes: u64,
    crc: crc32fast::Hasher,
}

impl Trailer {
    /// Begins behind a header and counts what follows.
    pub fn behind(header: &[u8; HEADER_BYTES]) -> Trailer {
        let mut crc = crc32fast::Hasher::new();
        crc.update(header);
        Trailer { records: 0, record_bytes: 0, crc }
    }

    /// Counts records that follow.
    pub fn add(&mut self, records: u64, bytes: &[u8]) {
        self.records += records;
        self.record_bytes += bytes.len() as u64;
        self.crc.update(bytes);
    }

    /// The file's last bytes.
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        bytes[..8].copy_from_slice(END_MAGIC);
        bytes[8..16].copy_from_slice(&self.records.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.record_bytes.to_le_bytes());
        let mut crc = self.crc.clone();
        crc.update(&bytes[..24]);
        bytes[24..].copy_from_slice(&crc.finalize().to_le_bytes());
        bytes
    }
}

/// What a leader says when it opens a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    id: u64,
    header: Header,
    bytes: u64,
}

pub(crate) fn decode_opened(status: Status, payload: &[u8]) -> Result<Opened, String> {
    if status != Status::Ok || payload.len() != 48 {
        return Err(format!("{} with {} bytes where a backup's 48 belong", status.name(), payload.len()));
    }
    let header = Header { cluster: get_u128(payload, 8), term: get_u64(payload, 24), index: get_u64(payload, 32) };
    Ok(Opened { id: get_u64(payload, 0), header, bytes: get_u64(payload, 40) })
}

/// A backup being read; see [`crate::Client::backup`]. The state stands still on the node that it began at, and goes with the connection.
#[derive(Debug)]
pub struct Backup {
    connection: Connection,
    opened: Opened,
    timeout: Duration,
    position: u64,
    ended: bool,
}

impl Backup {
    pub(crate) fn new(connection: Connection, opened: Opened, timeout: Duration) -> Backup {
        Backup { connection, opened, timeout, position: 0, ended: false }
    }

    /// Which state it is.
    pub fn header(&self) -> Header {
        self.opened.header
    }

    /// About how many bytes of records will come; never fewer.
    pub fn bytes(&self) -> u64 {
        self.opened.bytes
    }

    /// The next records, and how many they are; `None` at the end. Each call has the whole time limit of the client. After an error the
    /// backup is of no use; [`Error::Unavailable`] means that the node is gone or does not know the backup any more: begin another one.
    pub fn next_records(&mut self) -> Result<Option<(u64, &[u8])>, Error> {
        if self.ended {
            return Ok(None);
        }
        let started = Instant::now();
        let endpoint = self.connection.endpoint().to_owned();
        let gone = |failure: Failure| Error::Unavailable {
            waited: started.elapsed(),
            attempts: vec![FailedAttempt { endpoint: endpoint.clone(), failure }],
        };
        let mut frame = Vec::new();
        let value: [&[u8]; 3] = [&[BACKUP_NEXT], &self.opened.id.to_le_bytes(), &self.position.to_le_bytes()];
        encode_request(&mut frame, Command::Backup, &[], &value);
        let deadline = started + self.timeout;
        self.connection.send(&frame, deadline).map_err(|error| gone(Failure::NoAnswer(error.to_string())))?;
        let response = self.connection.receive(deadline).map_err(|error| gone(Failure::NoAnswer(error.to_string())))?;
        let text = || String::from_utf8_lossy(response.payload).into_owned();
        match response.status {
            Status::Ok => {}
            Status::BadRequest | Status::Busy => return Err(gone(Failure::Busy(text()))),
            status => return Err(Error::Refused { status, endpoint, message: text() }),
        }
        let malformed = || gone(Failure::Malformed(format!("a part of a backup of {} bytes", response.payload.len())));
        let (front, records) = response.payload.split_at_checked(13).ok_or_else(malformed)?;
        let next = decode_u64(&front[1..9]).ok_or_else(malformed)?;
        let count = u64::from(get_u32(front, 9));
        let sound = front[0] <= 1 && next == self.position + 1 && (count == 0) == records.is_empty() && (front[0] == 0 || count > 0);
        if !sound {
            return Err(malformed());
        }
        self.position = next;
        self.ended = front[0] == 0;
        Ok((count > 0).then_some((count, records)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_a_changed_one_is_refused() {
        let header = Header { cluster: 7 << 100, term: 8, index: 9 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_trailer_covers_all_that_stands_before_it() {
        let header = Header { cluster: 1, term: 2, index: 3 }.encode();
        let mut trailer = Trailer::behind(&header);
        trailer.add(2, b"records");
        let mut file = [&header[..], b"records", &trailer.encode()].concat();
        let crc = file.split_off(file.len() - 4);
        assert_eq!(crc, crc32fast::hash(&file).to_le_bytes());
        assert_eq!(get_u64(&file, file.len() - 16), 2);
        assert_eq!(get_u64(&file, file.len() - 8), 7);
    }
}
