//! The client port: requests as a server walks them, responses and pages as a client reads them.

use apexkv::raft::{EntryId, NodeId};
use apexkv::server::clients::{ClientLimits, NodeView};
use apexkv::server::fuzzing::walk_requests;
use apexkv::storage::{applier, record};
use apexkv_client::decode_page;
use apexkv_client::protocol::{EXTENDED, EXTENDED_REQUEST_HEADER, RequestHeader, ResponseHeader, Status, encode_response, request_crc};

use super::memory::bounded;

/// So small that inputs reach both sides of them.
const KEY_MAX: u32 = 64;
const VALUE_MAX: u32 = 300;

struct View;

impl NodeView for View {
    fn client_address(&self, _node: NodeId) -> Option<String> {
        None
    }

    fn status_json(&self) -> String {
        "{}".repeat(200)
    }
}

/// First byte: lowest bit, whether CRCs of requests are set right; the rest arrives on a socket.
pub(crate) fn client_frames(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if mode & 1 == 1 {
        seal_requests(&mut bytes);
    }
    bounded((640 << 10) + 64 * bytes.len(), || {
        requests(&bytes);
        response(&bytes);
        page(&bytes);
    });
}

fn seal_requests(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = bytes.get(at..).and_then(RequestHeader::parse) {
        let Some(frame) = bytes.get_mut(at..at + header.frame_bytes()) else { return };
        if header.extension.is_some() {
            let crc = request_crc(frame);
            frame[37..EXTENDED_REQUEST_HEADER].copy_from_slice(&crc.to_le_bytes());
        }
        at += header.frame_bytes();
    }
}

/// What a server accepts, every follower and every recovery must accept too.
fn requests(bytes: &[u8]) {
    let limits = ClientLimits { key_bytes_max: KEY_MAX, value_bytes_max: VALUE_MAX, ..ClientLimits::default() };
    let mut index = 0;
    let walked = walk_requests(bytes, &limits, &View, &mut |records| {
        let mut records = records.to_vec();
        let mut rest = &mut records[..];
        while !rest.is_empty() {
            let length = record::length_unchecked(rest);
            index += 1;
            record::seal(&mut rest[..length], EntryId { term: 1, index });
            let (record, parsed) = record::parse(&rest[..length]).expect("a record of ours was just sealed");
            assert!(parsed == length && applier::is_well_formed(&record), "followers would refuse {record:?}");
            rest = &mut rest[length..];
        }
    });
    assert!(walked.consumed <= bytes.len(), "{walked:?} of {} bytes", bytes.len());
    let largest = EXTENDED_REQUEST_HEADER + (KEY_MAX + VALUE_MAX + 8) as usize;
    assert!(walked.fault || walked.frame_bytes > bytes.len() - walked.consumed, "a complete frame is left: {walked:?}");
    assert!(walked.frame_bytes <= largest, "{walked:?} waits for more than the limits allow");
}

/// A response that is whole encodes to the bytes it was read from.
fn response(bytes: &[u8]) {
    let Some(header) = ResponseHeader::parse(bytes) else { return };
    let start = header.header_bytes();
    let Some(payload) = bytes.get(start..start.saturating_add(header.payload_length as usize)) else { return };
    let mut again = Vec::new();
    encode_response(&mut again, header.status, &[payload], header.extended.map(|(id, _)| id));
    let known = header.status as u8 == bytes[0] & !EXTENDED || header.status == Status::Unknown;
    assert!(known && again.len() == start + payload.len() && again[1..5] == bytes[1..5], "{header:?} became {again:?}");
    assert_eq!(again[start..], *payload, "the payload of {header:?}");
}

/// A page that is accepted says what its bytes say, and its keys lead a caller on.
fn page(bytes: &[u8]) {
    let split = bytes.first().map_or(0, |length| usize::from(*length % 4));
    let (prefix, payload) = bytes.split_at(split.min(bytes.len()));
    let Ok(page) = decode_page(payload, prefix, b"") else { return };
    let mut again = vec![u8::from(page.more)];
    for pair in &page.pairs {
        again.extend_from_slice(&(pair.key.len() as u32).to_le_bytes());
        again.extend_from_slice(&(pair.value.len() as u32).to_le_bytes());
        again.extend_from_slice(&pair.version.to_le_bytes());
        again.extend_from_slice(&pair.key);
        again.extend_from_slice(&pair.value);
    }
    assert_eq!(again, payload);
    assert!(page.pairs.is_sorted_by(|a, b| a.key < b.key) && !(page.more && page.pairs.is_empty()));
}
