//! The record: one log entry, the bytes on the wire between nodes, and the stored value, all the same bytes. Built by connection
//! threads (payload and its CRC), completed by the Raft thread (index, term, header CRC), checked wherever it is read again.
//! Knows nothing of files. All integers are little-endian.
//!
//! ```text
//! offset size field
//!      0    4 length        extension and payload together, at most MAX_BODY
//!      4    1 kind          see Kind
//!      5    1 flags         0; an unknown flag stops the node
//!      6    2 extension     length of the extension, 0 today; room for session, sequence, leader time, expiry
//!      8    8 index         log index
//!     16    8 term
//!     24    4 payload CRC   CRC-32 (IEEE) of extension and payload
//!     28    4 header CRC    CRC-32 (IEEE) of the 28 bytes before
//!     32    … extension, then payload
//! ```
//!
//! The payload of a [`Kind::Command`] is one or more operations, decided together: if the condition of one fails, none takes effect.
//!
//! ```text
//! offset size field
//!      0    1 operation     1 set, 2 delete, 3 compare-and-set
//!      1    4 key length    1 ..= MAX_KEY
//!      5    4 value length  0 ..= MAX_VALUE; 0 for a delete
//!      9    8 expected      only compare-and-set: the version the key must have, 0 for absent
//!      …    … key, then value
//! ```
//!
//! The payload of a [`Kind::Config`] is a membership.
//!
//! ```text
//! offset size field
//!      0    4 voters        how many, 1 ..= MAX_MEMBERS
//!      4    4 learners      how many, 0 ..= MAX_MEMBERS
//!      8    … four bytes for each voter, rising, then four for each learner, rising; no node stands twice
//! ```

use crate::bugbank::planted;
use crate::raft::{Config, EntryId, NodeId};

/// Size of a record's header.
pub const HEADER_BYTES: usize = 32;
/// Longest key the format allows; flags bound what clients may propose further.
pub const MAX_KEY: usize = 1 << 20;
/// Longest value the format allows.
pub const MAX_VALUE: usize = 64 << 20;
/// Longest extension and payload of a record.
pub const MAX_BODY: usize = MAX_VALUE + MAX_KEY + 4096;

/// Most voters, and most learners, that a membership may name.
pub const MAX_MEMBERS: usize = 64;

/// What a record means to the state machine. An unknown kind stops the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A new leader's first entry; no payload.
    NoOp = 0,
    /// A membership, see [`encode_config`].
    Config = 1,
    /// Operations on user keys.
    Command = 2,
}

/// A parsed record; slices point into the bytes it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its meaning.
    pub kind: Kind,
    /// Its place in the log.
    pub id: EntryId,
    /// What follows the extension.
    pub payload: &'a [u8],
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRecord {
    /// The bytes end before the record does.
    Short,
    /// The header's CRC does not match.
    HeaderCrc,
    /// The payload's CRC does not match; the header is good.
    PayloadCrc,
    /// The header is valid and names a length above the format's limit.
    TooLong,
    /// The header is valid and names a kind, flag or extension of a newer version.
    Unknown,
}

/// One operation of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Store the value.
    Set {
        /// Which key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Remove the key; fails as "not found" if it is absent.
    Delete {
        /// Which key.
        key: &'a [u8],
    },
    /// Store the value only if the key's version is `expected` (0: only if it is absent).
    CompareAndSet {
        /// Which key.
        key: &'a [u8],
        /// The version it must have.
        expected: u64,
        /// Its new value.
        value: &'a [u8],
    },
}

impl<'a> Operation<'a> {
    /// The key it touches.
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Operation::Set { key, .. } | Operation::Delete { key } | Operation::CompareAndSet { key, .. } => key,
        }
    }
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(get_u32(bytes, at)) | u64::from(get_u32(bytes, at + 4)) << 32
}

/// Appends an unsealed record to `out`: everything but index, term and header CRC, which [`seal`] fills in.
pub fn encode(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    let start = begin(out, kind, payload.len());
    out.extend_from_slice(payload);
    finish(out, start);
}

/// Appends an unsealed command of one operation to `out`, without building the payload elsewhere first.
pub fn encode_operation(out: &mut Vec<u8>, operation: &Operation<'_>) {
    let (code, value, expected): (u8, &[u8], Option<u64>) = match *operation {
        Operation::Set { value, .. } => (1, value, None),
        Operation::Delete { .. } => (2, &[], None),
        Operation::CompareAndSet { expected, value, .. } => (3, value, Some(expected)),
    };
    let key = operation.key();
    let length = 9 + expected.map_or(0, |_| 8) + key.len() + value.len();
    let start = begin(out, Kind::Command, length);
    out.push(code);
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    if let Some(expected) = expected {
        out.extend_from_slice(&expected.to_le_bytes());
    }
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    finish(out, start);
}

fn begin(out: &mut Vec<u8>, kind: Kind, body: usize) -> usize {
    assert!(body <= MAX_BODY, "a record of {body} bytes exceeds the format's limit of {MAX_BODY}");
    let start = out.len();
    out.reserve(HEADER_BYTES + body);
    out.extend_from_slice(&(body as u32).to_le_bytes());
    out.push(kind as u8);
    out.resize(start + HEADER_BYTES, 0);
    start
}

fn finish(out: &mut [u8], start: usize) {
    let crc = crc32fast::hash(&out[start + HEADER_BYTES..]);
    out[start + 24..start + 28].copy_from_slice(&crc.to_le_bytes());
}

/// Gives an unsealed record its place in the log: fills index and term and computes the header CRC.
pub fn seal(record: &mut [u8], id: EntryId) {
    record[8..16].copy_from_slice(&id.index.to_le_bytes());
    record[16..24].copy_from_slice(&id.term.to_le_bytes());
    let crc = crc32fast::hash(&record[..28]);
    record[28..32].copy_from_slice(&crc.to_le_bytes());
}

/// Total size of the record that starts `bytes`, read from its header without checking any CRC: only for bytes that were
/// encoded here or checked before.
pub fn length_unchecked(bytes: &[u8]) -> usize {
    HEADER_BYTES + get_u32(bytes, 0) as usize
}

/// Checks the header at the start of `bytes` and returns the record's total size and place, without looking at the payload.
pub fn parse_header(bytes: &[u8]) -> Result<(usize, EntryId), BadRecord> {
    if bytes.len() < HEADER_BYTES {
        return Err(BadRecord::Short);
    }
    if crc32fast::hash(&bytes[..28]) != get_u32(bytes, 28) && !planted(48) {
        return Err(BadRecord::HeaderCrc);
    }
    let body = get_u32(bytes, 0) as usize;
    if body > MAX_BODY {
        return Err(BadRecord::TooLong);
    }
    if bytes[4] > Kind::Command as u8 || bytes[5] != 0 || bytes[6] != 0 || bytes[7] != 0 {
        return Err(BadRecord::Unknown);
    }
    Ok((HEADER_BYTES + body, EntryId { index: get_u64(bytes, 8), term: get_u64(bytes, 16) }))
}

/// The CRC of the header of the record at the start of `bytes`, which covers everything about it but the payload, and that one's CRC too.
/// Only for records that were checked or sealed before.
pub(super) fn header_crc(bytes: &[u8]) -> u32 {
    get_u32(bytes, 28)
}

/// Parses and checks the record at the start of `bytes`; also returns its total size.
pub fn parse(bytes: &[u8]) -> Result<(Record<'_>, usize), BadRecord> {
    let (total, id) = parse_header(bytes)?;
    let body = bytes.get(HEADER_BYTES..total).ok_or(BadRecord::Short)?;
    if crc32fast::hash(body) != get_u32(bytes, 24) {
        return Err(BadRecord::PayloadCrc);
    }
    let kind = match bytes[4] {
        0 => Kind::NoOp,
        1 => Kind::Config,
        _ => Kind::Command,
    };
    Ok((Record { kind, id, payload: body }, total))
}

/// A membership as the payload of a [`Kind::Config`] record.
pub fn encode_config(config: &Config) -> Vec<u8> {
    for (role, members) in [("voters", &config.voters), ("learners", &config.learners)] {
        assert!(members.len() <= MAX_MEMBERS, "{} {role} exceed the format's limit of {MAX_MEMBERS}", members.len());
        assert!(members.is_sorted_by(|a, b| a < b), "{role} of a membership are sorted and distinct: {members:?}");
    }
    let mut payload = Vec::with_capacity(8 + 4 * (config.voters.len() + config.learners.len()));
    payload.extend_from_slice(&(config.voters.len() as u32).to_le_bytes());
    payload.extend_from_slice(&(config.learners.len() as u32).to_le_bytes());
    for member in config.voters.iter().chain(&config.learners) {
        payload.extend_from_slice(&member.0.to_le_bytes());
    }
    payload
}

/// The membership in the payload of a [`Kind::Config`] record; `None` if it does not follow the format.
pub fn decode_config(payload: &[u8]) -> Option<Config> {
    if payload.len() < 8 {
        return None;
    }
    let (voters, learners) = (get_u32(payload, 0) as usize, get_u32(payload, 4) as usize);
    if voters == 0 || voters > MAX_MEMBERS || learners > MAX_MEMBERS || payload.len() != 8 + 4 * (voters + learners) {
        return None;
    }
    let members: Vec<NodeId> = (0..voters + learners).map(|at| NodeId(get_u32(payload, 8 + 4 * at))).collect();
    let (voters, learners) = members.split_at(voters);
    let rising = |members: &[NodeId]| members.is_sorted_by(|a, b| a < b);
    if !rising(voters) || !rising(learners) || learners.iter().any(|learner| voters.contains(learner)) {
        return None;
    }
    Some(Config { voters: voters.to_vec(), learners: learners.to_vec() })
}

/// The record at the start of `bytes` and its total size, without looking at any CRC: only for bytes that were encoded here or checked
/// before.
pub fn view(bytes: &[u8]) -> (Record<'_>, usize) {
    let total = length_unchecked(bytes);
    let kind = match bytes[4] {
        0 => Kind::NoOp,
        1 => Kind::Config,
        _ => Kind::Command,
    };
    let id = EntryId { index: get_u64(bytes, 8), term: get_u64(bytes, 16) };
    (Record { kind, id, payload: &bytes[HEADER_BYTES..total] }, total)
}

/// Whether some operation among records that were encoded here can leave a key behind that was not there before.
pub fn may_add_keys(mut records: &[u8]) -> bool {
    while !records.is_empty() {
        let (record, bytes) = view(records);
        if operations(record.payload).flatten().any(|operation| !matches!(operation, Operation::Delete { .. })) {
            return true;
        }
        records = &records[bytes..];
    }
    false
}

/// The operations of a command's payload, in order; `None` in place of one that does not follow the format, after which it ends.
pub fn operations(payload: &[u8]) -> impl Iterator<Item = Option<Operation<'_>>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parsed = parse_operation(rest);
        rest = parsed.map_or(&[], |(_, rest)| rest);
        Some(parsed.map(|(operation, _)| operation))
    })
}

fn parse_operation(bytes: &[u8]) -> Option<(Operation<'_>, &[u8])> {
    if bytes.len() < 9 {
        return None;
    }
    let (key_length, value_length) = (get_u32(bytes, 1) as usize, get_u32(bytes, 5) as usize);
    let conditional = bytes[0] == 3;
    let start = if conditional { 17 } else { 9 };
    if key_length == 0 || key_length > MAX_KEY || value_length > MAX_VALUE || bytes.len() < start + key_length + value_length {
        return None;
    }
    let (key, rest) = bytes[start..].split_at(key_length);
    let (value, rest) = rest.split_at(value_length);
    let operation = match bytes[0] {
        1 => Operation::Set { key, value },
        2 if value.is_empty() => Operation::Delete { key },
        3 => Operation::CompareAndSet { key, expected: get_u64(bytes, 9), value },
        _ => return None,
    };
    Some((operation, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_survives_its_bytes() {
        let config = Config { voters: vec![NodeId(1), NodeId(2), NodeId(9)], learners: vec![NodeId(4)] };
        assert_eq!(decode_config(&encode_config(&config)), Some(config));
    }

    #[test]
    fn a_membership_with_odd_bytes_is_refused() {
        let good = encode_config(&Config { voters: vec![NodeId(1), NodeId(2)], learners: vec![NodeId(3)] });
        for end in 0..good.len() {
            assert_eq!(decode_config(&good[..end]), None, "cut at {end}");
        }
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            decode_config(&bytes)
        };
        assert_eq!(with(0, 0), None, "no voters");
        assert_eq!(with(3, 255), None, "more voters than bytes");
        assert_eq!(with(8, 2), None, "a voter twice");
        assert_eq!(with(16, 2), None, "voter and learner at once");
        assert_eq!(decode_config(&[good, vec![0]].concat()), None, "a byte too many");
    }
}
