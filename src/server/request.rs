//! From bytes to a checked request: every rule of the wire protocol about lengths, shapes and their order, as pure functions.
//! Nothing is reserved here, and a request borrows from the bytes it was parsed from.

use super::clients::ClientLimits;
use super::response::Form;
use crate::bugbank::planted;
use crate::storage::record::Operation;
use apexkv_client::protocol::{
    BACKUP_NEXT, BACKUP_OPEN, Command, EXTENDED, EXTENDED_REQUEST_HEADER, MAX_PING, REQUEST_HEADER, RequestHeader, SCAN_DEFAULT_LIMIT,
    SCAN_KEYS_ONLY, SCAN_MAX_LIMIT, request_crc,
};

/// Bytes of an extended header up to and including the request id, without which a refusal cannot be addressed.
const HEADER_WITH_ID: usize = 17;

/// What stands at the start of the received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// The frame is not all there.
    Incomplete {
        /// Size of the frame, header included, as far as it can be told: never above what the limits allow.
        frame_bytes: usize,
        /// The lengths are already known to be too large; only the request id is still waited for, and only for a moment.
        doomed: bool,
    },
    /// The stream cannot be trusted any further: answer and close.
    Fault {
        /// How to answer.
        form: Form,
        /// For a person.
        reason: String,
    },
    /// A complete frame.
    Frame(Frame<'a>),
}

/// A complete frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// How to answer.
    pub(super) form: Form,
    /// Its size on the wire.
    pub(super) bytes: usize,
    /// Time limit in milliseconds; 0 is the server's default.
    pub(super) deadline_ms: u32,
    /// What it asks for, or why it is refused with the connection going on.
    pub(super) ask: Result<Ask<'a>, String>,
}

/// A request whose shape is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask<'a> {
    /// SET, DEL or CAS.
    Write(Operation<'a>),
    /// GET, GETV, SCAN or BACKUP.
    Read(Query<'a>),
    /// PING.
    Ping(&'a [u8]),
    /// STATUS.
    Status,
}

/// What a read wants from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query<'a> {
    /// One value.
    Get {
        /// Which.
        key: &'a [u8],
        /// GETV: the version comes before the value.
        versioned: bool,
    },
    /// A page of keys.
    Scan {
        /// What all keys start with.
        prefix: &'a [u8],
        /// The key after which to go on; empty at first.
        cursor: &'a [u8],
        /// Most pairs, within the server's cap and never 0.
        limit: usize,
        /// Leave the values out.
        keys_only: bool,
    },
    /// The whole state.
    Backup(BackupQuery),
}

/// What a backup wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackupQuery {
    /// To begin.
    Open,
    /// The next part.
    Next {
        /// Which backup.
        id: u64,
        /// Number of the part.
        position: u64,
    },
}

impl Ask<'_> {
    /// The command's name on the wire.
    pub(super) fn command(&self) -> Command {
        match self {
            Ask::Write(Operation::Set { .. }) => Command::Set,
            Ask::Write(Operation::Delete { .. }) => Command::Del,
            Ask::Write(Operation::CompareAndSet { .. }) => Command::Cas,
            Ask::Read(Query::Get { versioned: false, .. }) => Command::Get,
            Ask::Read(Query::Get { versioned: true, .. }) => Command::Getv,
            Ask::Read(Query::Scan { .. }) => Command::Scan,
            Ask::Read(Query::Backup(_)) => Command::Backup,
            Ask::Ping(_) => Command::Ping,
            Ask::Status => Command::Status,
        }
    }
}

/// Parses what stands at the start of `bytes`. The checks follow the protocol's order: lengths, CRC, command and shape.
pub(super) fn parse<'a>(bytes: &'a [u8], limits: &ClientLimits) -> Parsed<'a> {
    let Some((key_length, value_length)) = RequestHeader::lengths(bytes) else {
        return Parsed::Incomplete { frame_bytes: REQUEST_HEADER, doomed: false };
    };
    if let Some(reason) = too_long(key_length, value_length, limits) {
        return match bytes[0] & EXTENDED != 0 {
            true if bytes.len() < HEADER_WITH_ID => Parsed::Incomplete { frame_bytes: HEADER_WITH_ID, doomed: true },
            _ => Parsed::Fault { form: form_so_far(bytes), reason },
        };
    }
    let Some(header) = RequestHeader::parse(bytes) else {
        return Parsed::Incomplete { frame_bytes: EXTENDED_REQUEST_HEADER, doomed: false };
    };
    let total = header.frame_bytes();
    let Some(frame) = bytes.get(..total) else {
        return Parsed::Incomplete { frame_bytes: total, doomed: false };
    };
    let form = header.extension.map(|extension| extension.request_id);
    if header.extension.is_some_and(|extension| extension.crc != request_crc(frame)) {
        return Parsed::Fault { form, reason: "the frame's CRC does not match its bytes; the connection is closed".to_owned() };
    }
    let (key, value) = frame[header.header_bytes()..].split_at(header.key_length as usize);
    let deadline_ms = header.extension.map_or(0, |extension| extension.deadline_ms);
    Parsed::Frame(Frame { form, bytes: total, deadline_ms, ask: check_shape(&header, key, value, limits) })
}

/// How to answer a frame whose header may not be all there: bytes of the request id that did not arrive count as zero.
pub(super) fn form_so_far(bytes: &[u8]) -> Form {
    if bytes.first().is_none_or(|first| first & EXTENDED == 0) {
        return None;
    }
    let mut id = [0; 8];
    let there = bytes.get(9..bytes.len().min(HEADER_WITH_ID)).unwrap_or_default();
    id[..there.len()].copy_from_slice(there);
    Some(u64::from_le_bytes(id))
}

/// Why lengths are beyond the limits, whatever the command.
fn too_long(key_length: u32, value_length: u32, limits: &ClientLimits) -> Option<String> {
    if key_length > limits.key_bytes_max {
        let limit = limits.key_bytes_max;
        return Some(format!(
            "a key of {key_length} bytes is over this server's limit of {limit} (--max-key-bytes); the connection is closed"
        ));
    }
    if u64::from(value_length) > u64::from(limits.value_bytes_max) + 8 {
        let limit = limits.value_bytes_max;
        return Some(format!(
            "a value of {value_length} bytes is over this server's limit of {limit} (--max-value-bytes); the connection is closed"
        ));
    }
    None
}

fn check_shape<'a>(header: &RequestHeader, key: &'a [u8], value: &'a [u8], limits: &ClientLimits) -> Result<Ask<'a>, String> {
    let Some(command) = Command::from_byte(header.command) else {
        return Err(format!("command {:#04x} is not known to this server (protocol version 1)", header.command));
    };
    if header.extension.is_some_and(|extension| extension.session != 0) {
        return Err("sessions are not served; send session 0".to_owned());
    }
    if matches!(command, Command::Ping | Command::Status | Command::Backup) {
        if !key.is_empty() {
            return Err(format!("{command:?} takes no key, {} bytes were sent", key.len()));
        }
    } else if key.is_empty() && command != Command::Scan {
        return Err(format!("{command:?} needs a key of at least 1 byte"));
    }
    if matches!(command, Command::Get | Command::Getv | Command::Del | Command::Status) && !value.is_empty() {
        return Err(format!("{command:?} takes no value, {} bytes were sent", value.len()));
    }
    match command {
        Command::Set => bounded(value, limits).map(|value| Ask::Write(Operation::Set { key, value })),
        Command::Del => Ok(Ask::Write(Operation::Delete { key })),
        Command::Cas => compare_and_set(key, value, limits),
        Command::Get => Ok(Ask::Read(Query::Get { key, versioned: false })),
        Command::Getv => Ok(Ask::Read(Query::Get { key, versioned: true })),
        Command::Scan => scan(key, value),
        Command::Ping if value.len() > MAX_PING as usize => Err(format!("PING takes at most {MAX_PING} bytes, {} were sent", value.len())),
        Command::Ping => Ok(Ask::Ping(value)),
        Command::Status => Ok(Ask::Status),
        Command::Backup => backup(value),
    }
}

/// A stored value may not reach the 8 bytes further that the frame check leaves for the version of a CAS.
fn bounded<'a>(value: &'a [u8], limits: &ClientLimits) -> Result<&'a [u8], String> {
    let limit = limits.value_bytes_max;
    if value.len() > limit as usize {
        return Err(format!("a value of {} bytes is over this server's limit of {limit} (--max-value-bytes)", value.len()));
    }
    Ok(value)
}

fn compare_and_set<'a>(key: &'a [u8], value: &'a [u8], limits: &ClientLimits) -> Result<Ask<'a>, String> {
    let Some((expected, value)) = value.split_first_chunk::<8>() else {
        return Err(format!("CAS needs the expected version as 8 bytes before the value, {} bytes were sent", value.len()));
    };
    let value = bounded(value, limits)?;
    Ok(Ask::Write(Operation::CompareAndSet { key, expected: u64::from_le_bytes(*expected), value }))
}

fn scan<'a>(prefix: &'a [u8], value: &'a [u8]) -> Result<Ask<'a>, String> {
    let Some((&[a, b, c, d, flags], cursor)) = value.split_first_chunk::<5>() else {
        return Err(format!("SCAN needs limit (4 bytes) and flags (1 byte) before the cursor, {} bytes were sent", value.len()));
    };
    if flags & !SCAN_KEYS_ONLY != 0 {
        return Err(format!("SCAN flags {flags:#04x} are not known to this server; only bit 0 (keys only) is"));
    }
    if !cursor.is_empty() && !cursor.starts_with(prefix) {
        return Err("the SCAN cursor does not start with the prefix; send the last key received".to_owned());
    }
    let limit = match u32::from_le_bytes([a, b, c, d]) {
        0 => SCAN_DEFAULT_LIMIT,
        limit if planted(101) => limit,
        limit => limit.min(SCAN_MAX_LIMIT),
    };
    Ok(Ask::Read(Query::Scan { prefix, cursor, limit: limit as usize, keys_only: flags & SCAN_KEYS_ONLY != 0 }))
}

fn backup<'a>(value: &[u8]) -> Result<Ask<'a>, String> {
    let query = match value.split_first() {
        Some((&BACKUP_OPEN, [])) => BackupQuery::Open,
        Some((&BACKUP_NEXT, rest)) if rest.len() == 16 => {
            let (id, position) = rest.split_at(8);
            let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
            BackupQuery::Next { id: number(id), position: number(position) }
        }
        _ => {
            let shapes = "a 0 to open one, or a 1, its id and the position (8 bytes each)";
            return Err(format!("BACKUP takes {shapes}, {} bytes of another shape were sent", value.len()));
        }
    };
    Ok(Ask::Read(Query::Backup(query)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use apexkv_client::protocol::{Extension, encode_extended_request, encode_request};
    use proptest::prelude::*;

    fn limits() -> ClientLimits {
        ClientLimits { key_bytes_max: 16, value_bytes_max: 64, ..ClientLimits::default() }
    }

    /// Frames that are mostly sound, so that all checks are reached.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let parts = (0u8..0x0b, prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..80), any::<bool>());
        parts.prop_map(|(command, key, value, extended)| {
            let mut frame = Vec::new();
            if extended {
                encode_extended_request(&mut frame, Command::Ping, &key, &[&value], Extension::default());
            } else {
                encode_request(&mut frame, Command::Ping, &key, &[&value]);
                frame[0] = command;
            }
            frame
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic_or_large_demands(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Parsed::Incomplete { frame_bytes, .. } = parse(&bytes, &limits()) {
                prop_assert!(frame_bytes > bytes.len() && frame_bytes <= EXTENDED_REQUEST_HEADER + 16 + 64 + 8);
            }
        }

        #[test]
        fn a_frame_is_judged_whole_whatever_follows(frame in frame(), rest in prop::collection::vec(any::<u8>(), 0..50)) {
            let judged = parse(&frame, &limits());
            prop_assert!(!matches!(judged, Parsed::Incomplete { .. }), "a whole frame was not enough");
            let longer = [frame.as_slice(), &rest].concat();
            prop_assert_eq!(&parse(&longer, &limits()), &judged);
            for cut in 0..frame.len() {
                match parse(&frame[..cut], &limits()) {
                    Parsed::Incomplete { frame_bytes, .. } => prop_assert!(frame_bytes > cut && frame_bytes <= frame.len()),
                    Parsed::Fault { .. } => prop_assert!(matches!(judged, Parsed::Fault { .. }), "a fault only after {cut} bytes"),
                    Parsed::Frame(_) => prop_assert!(false, "a frame of {} bytes was taken after {cut}", frame.len()),
                }
            }
        }
    }

    #[test]
    fn a_scan_limit_stays_within_the_cap() {
        for (sent, used) in [(0, 1_000), (1, 1), (10_000, 10_000), (10_001, 10_000), (u32::MAX, 10_000)] {
            let mut frame = Vec::new();
            encode_request(&mut frame, Command::Scan, b"p", &[&u32::to_le_bytes(sent), &[SCAN_KEYS_ONLY], b"p1"]);
            let expected = Query::Scan { prefix: b"p", cursor: b"p1", limit: used, keys_only: true };
            assert!(matches!(parse(&frame, &limits()), Parsed::Frame(Frame { ask: Ok(Ask::Read(query)), .. }) if query == expected));
        }
    }
}
