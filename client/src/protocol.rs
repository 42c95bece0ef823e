//! The client wire protocol, version 1, as bytes: what a server and any client must agree on. Shared by the server, which
//! parses requests, and by the client library, which parses responses. Pure: no sockets, no allocation on a stranger's word.
//!
//! ```text
//! request            [Command 1B][KeyLen 4B][ValLen 4B][Key][Value]
//! response           [Status 1B][PayloadLen 4B][Payload]
//! extended request   [0x80|Command 1B][KeyLen 4B][ValLen 4B][RequestId 8B][Session 8B][Sequence 8B][DeadlineMs 4B][CRC 4B][Key][Value]
//! extended response  [0x80|Status 1B][PayloadLen 4B][RequestId 8B][CRC 4B][Payload]
//! ```
//!
//! All integers are little-endian and unsigned. The CRC of an extended frame is CRC-32 (IEEE) over every byte of the frame but the
//! CRC field itself.

/// Version of the protocol, as STATUS reports it.
pub const PROTOCOL_VERSION: u64 = 1;
/// Header of a plain request.
pub const REQUEST_HEADER: usize = 9;
/// Header of an extended request.
pub const EXTENDED_REQUEST_HEADER: usize = 41;
/// Header of a plain response.
pub const RESPONSE_HEADER: usize = 5;
/// Header of an extended response.
pub const EXTENDED_RESPONSE_HEADER: usize = 17;
/// Bit of the first byte that announces an extended frame.
pub const EXTENDED: u8 = 0x80;
/// Default limit of a key's length.
pub const DEFAULT_MAX_KEY: u32 = 64 << 10;
/// Default limit of a value's length.
pub const DEFAULT_MAX_VALUE: u32 = 16 << 20;
/// Longest key that any node takes, whatever its flags.
pub const LARGEST_KEY: usize = 1 << 20;
/// Longest value that any node takes, whatever its flags.
pub const LARGEST_VALUE: usize = 64 << 20;
/// Longest payload of a PING.
pub const MAX_PING: u32 = 1024;
/// Pairs of a SCAN page when the request says 0.
pub const SCAN_DEFAULT_LIMIT: u32 = 1_000;
/// Most pairs of a SCAN page.
pub const SCAN_MAX_LIMIT: u32 = 10_000;
/// A SCAN page ends after the pair with which it reaches this size.
pub const SCAN_PAGE_BYTES: usize = 4 << 20;
/// Flag of a SCAN: keys without values.
pub const SCAN_KEYS_ONLY: u8 = 1;
/// First byte of a BACKUP's value: pin the present state.
pub const BACKUP_OPEN: u8 = 0;
/// First byte of a BACKUP's value: send the next part of it.
pub const BACKUP_NEXT: u8 = 1;
/// A part of a backup holds records of about this size in all, or a single larger one.
pub const BACKUP_PART_BYTES: usize = 1 << 20;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Command {
    /// Store a value.
    Set = 0x01,
    /// Read a value.
    Get = 0x02,
    /// Remove a key.
    Del = 0x03,
    /// Store a value if the key's version is as expected.
    Cas = 0x04,
    /// Read version and value.
    Getv = 0x05,
    /// Read a page of keys.
    Scan = 0x06,
    /// Echo.
    Ping = 0x07,
    /// The node's view of itself, as JSON.
    Status = 0x08,
    /// The whole state at one index, part by part. No key. On the leader only, like a read: it holds every write that was acknowledged
    /// before it was opened.
    ///
    /// Value 0 (1 byte) opens one and is answered with: id u64, cluster id u128, term u64 and index u64 of the last entry that the state
    /// includes, and about how many bytes follow (u64, never too few). It belongs to the connection, where it takes the place of the one
    /// before. It goes when the connection ends, when it was read to the end, or when it was not read for 60 s. BUSY when too many are
    /// open.
    ///
    /// Value 1, id u64, position u64 (17 bytes) is answered with the next part: more u8 (1 if there are further parts), the next
    /// position u64, how many records u32, then these records. Positions count the parts from 0, and each part is sent once.
    /// BAD_REQUEST for another id or position, ERROR if a stored record is damaged. Records are described in [`crate::backup`].
    Backup = 0x09,
}

impl Command {
    /// The command of a byte without the extended bit; `None` for one this version does not know.
    pub fn from_byte(byte: u8) -> Option<Command> {
        use Command::{Backup, Cas, Del, Get, Getv, Ping, Scan, Set, Status};
        [Set, Get, Del, Cas, Getv, Scan, Ping, Status, Backup].into_iter().find(|command| *command as u8 == byte)
    }

    /// Whether the command changes state, so that a lost answer leaves its outcome open.
    pub fn is_write(self) -> bool {
        matches!(self, Command::Set | Command::Del | Command::Cas)
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Done; for a write: committed and durable on a quorum.
    Ok = 0x00,
    /// Refused for a reason that a person should read; no effect.
    Error = 0x01,
    /// The key is absent; no effect.
    NotFound = 0x02,
    /// Ask the address in the payload; no effect.
    NotLeader = 0x03,
    /// The write may have taken effect, or may yet.
    Unknown = 0x04,
    /// The version was not as expected; the payload is the current one; no effect.
    Conflict = 0x05,
    /// Overloaded; try again later; no effect.
    Busy = 0x06,
    /// Malformed, too large or unknown; no effect.
    BadRequest = 0x07,
}

impl Status {
    /// The status of a byte without the extended bit. One this version does not know counts as [`Status::Unknown`].
    pub fn from_byte(byte: u8) -> Status {
        use Status::{BadRequest, Busy, Conflict, Error, NotFound, NotLeader, Ok, Unknown};
        let known = [Ok, Error, NotFound, NotLeader, Unknown, Conflict, Busy, BadRequest];
        known.into_iter().find(|status| *status as u8 == byte).unwrap_or(Unknown)
    }

    /// The name that documents and JSON output use.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::Error => "ERROR",
            Status::NotFound => "NOT_FOUND",
            Status::NotLeader => "NOT_LEADER",
            Status::Unknown => "UNKNOWN",
            Status::Conflict => "CONFLICT",
            Status::Busy => "BUSY",
            Status::BadRequest => "BAD_REQUEST",
        }
    }
}

/// The additional fields of an extended request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extension {
    /// Echoed in the response.
    pub request_id: u64,
    /// 0: none. Sessions are not served yet.
    pub session: u64,
    /// Number of the request within the session.
    pub sequence: u64,
    /// Time limit; 0 is the server's default.
    pub deadline_ms: u32,
    /// CRC over the frame without this field.
    pub crc: u32,
}

/// A request's header, unchecked: lengths are whatever the sender wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The command byte without the extended bit.
    pub command: u8,
    /// Length of the key.
    pub key_length: u32,
    /// Length of the value.
    pub value_length: u32,
    /// Present for an extended frame.
    pub extension: Option<Extension>,
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(get_u32(bytes, at)) | u64::from(get_u32(bytes, at + 4)) << 32
}

impl RequestHeader {
    /// Parses the header at the start of `bytes`; `None` while it is incomplete. Needs 9 bytes to learn the lengths even of an
    /// extended frame: see [`RequestHeader::lengths`] for checking them before the rest has arrived.
    pub fn parse(bytes: &[u8]) -> Option<RequestHeader> {
        let (key_length, value_length) = Self::lengths(bytes)?;
        let extended = bytes[0] & EXTENDED != 0;
        if extended && bytes.len() < EXTENDED_REQUEST_HEADER {
            return None;
        }
        let extension = extended.then(|| Extension {
            request_id: get_u64(bytes, 9),
            session: get_u64(bytes, 17),
            sequence: get_u64(bytes, 25),
            deadline_ms: get_u32(bytes, 33),
            crc: get_u32(bytes, 37),
        });
        Some(RequestHeader { command: bytes[0] & !EXTENDED, key_length, value_length, extension })
    }

    /// The two lengths, as soon as 9 bytes are there.
    pub fn lengths(bytes: &[u8]) -> Option<(u32, u32)> {
        (bytes.len() >= REQUEST_HEADER).then(|| (get_u32(bytes, 1), get_u32(bytes, 5)))
    }

    /// Size of the header as sent.
    pub fn header_bytes(&self) -> usize {
        if self.extension.is_some() { EXTENDED_REQUEST_HEADER } else { REQUEST_HEADER }
    }

    /// Size of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        self.header_bytes() + self.key_length as usize + self.value_length as usize
    }
}

/// CRC of an extended request, over the whole frame but its CRC field.
pub fn request_crc(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..37]);
    hasher.update(&frame[EXTENDED_REQUEST_HEADER..]);
    hasher.finalize()
}

/// Appends a plain request to `out`.
pub fn encode_request(out: &mut Vec<u8>, command: Command, key: &[u8], value: &[&[u8]]) {
    let value_length: usize = value.iter().map(|part| part.len()).sum();
    out.push(command as u8);
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(value_length as u32).to_le_bytes());
    out.extend_from_slice(key);
    value.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends an extended request to `out`; the CRC of `extension` is computed here and its value ignored.
pub fn encode_extended_request(out: &mut Vec<u8>, command: Command, key: &[u8], value: &[&[u8]], extension: Extension) {
    let start = out.len();
    let value_length: usize = value.iter().map(|part| part.len()).sum();
    out.push(command as u8 | EXTENDED);
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(value_length as u32).to_le_bytes());
    out.extend_from_slice(&extension.request_id.to_le_bytes());
    out.extend_from_slice(&extension.session.to_le_bytes());
    out.extend_from_slice(&extension.sequence.to_le_bytes());
    out.extend_from_slice(&extension.deadline_ms.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(key);
    value.iter().for_each(|part| out.extend_from_slice(part));
    let crc = request_crc(&out[start..]);
    out[start + 37..start + 41].copy_from_slice(&crc.to_le_bytes());
}

/// Appends a response to `out`: plain, or extended when a request id is given.
pub fn encode_response(out: &mut Vec<u8>, status: Status, payload: &[&[u8]], request_id: Option<u64>) {
    let start = out.len();
    let length: usize = payload.iter().map(|part| part.len()).sum();
    out.push(status as u8 | if request_id.is_some() { EXTENDED } else { 0 });
    out.extend_from_slice(&(length as u32).to_le_bytes());
    if let Some(id) = request_id {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }
    payload.iter().for_each(|part| out.extend_from_slice(part));
    if request_id.is_some() {
        let crc = response_crc(&out[start..]);
        out[start + 13..start + 17].copy_from_slice(&crc.to_le_bytes());
    }
}

/// CRC of an extended response, over the whole frame but its CRC field.
pub fn response_crc(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..13]);
    hasher.update(&frame[EXTENDED_RESPONSE_HEADER..]);
    hasher.finalize()
}

/// A response's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// How the request ended.
    pub status: Status,
    /// Length of the payload.
    pub payload_length: u32,
    /// Request id and CRC of an extended response.
    pub extended: Option<(u64, u32)>,
}

impl ResponseHeader {
    /// Parses the header at the start of `bytes`; `None` while it is incomplete.
    pub fn parse(bytes: &[u8]) -> Option<ResponseHeader> {
        if bytes.len() < RESPONSE_HEADER {
            return None;
        }
        let extended = bytes[0] & EXTENDED != 0;
        if extended && bytes.len() < EXTENDED_RESPONSE_HEADER {
            return None;
        }
        Some(ResponseHeader {
            status: Status::from_byte(bytes[0] & !EXTENDED),
            payload_length: get_u32(bytes, 1),
            extended: extended.then(|| (get_u64(bytes, 5), get_u32(bytes, 13))),
        })
    }

    /// Size of the header as sent.
    pub fn header_bytes(&self) -> usize {
        if self.extended.is_some() { EXTENDED_RESPONSE_HEADER } else { RESPONSE_HEADER }
    }
}
