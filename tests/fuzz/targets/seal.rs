//! Checksums set right, so that an input's other bytes reach the code behind them. Written from the format documents alone.

/// Size of a record's header.
pub(super) const RECORD_HEADER: usize = 32;
/// Size of a batch's header.
pub(super) const BATCH_HEADER: usize = 96;
/// Where a segment's first batch stands.
pub(super) const SEGMENT_BLOCK: usize = 4096;

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn put_crc(bytes: &mut [u8], at: usize, crc: u32) {
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Frames of peers out of a list: length of the head (2 bytes), of the records (2 bytes), head, records; the last one as far as it goes.
pub(super) fn frames(list: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = list;
    while let Some((&[a, b, c, d], more)) = rest.split_first_chunk() {
        let lengths = [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])];
        let (head, more) = more.split_at(usize::from(lengths[0]).min(more.len()));
        let (body, more) = more.split_at(usize::from(lengths[1]).min(more.len()));
        let start = out.len();
        out.extend_from_slice(&(head.len() as u32).to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        let crc = crc(&[&out[start..], head]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(head);
        let body_start = out.len();
        out.extend_from_slice(body);
        records(&mut out[body_start..]);
        rest = more;
    }
    out
}

/// Records one after another, as far as their lengths lead.
pub(super) fn records(bytes: &mut [u8]) {
    let mut at = 0;
    while at + RECORD_HEADER <= bytes.len() {
        let end = at + RECORD_HEADER + u32_at(bytes, at) as usize;
        if let Some(payload) = bytes.get(at + RECORD_HEADER..end) {
            let payload = crc(&[payload]);
            put_crc(bytes, at + 24, payload);
        }
        let header = crc(&[&bytes[at..at + 28]]);
        put_crc(bytes, at + 28, header);
        at = end;
    }
}

/// A segment's header block and its batches, one after another as far as their lengths lead, with the padding between them.
pub(super) fn segment(bytes: &mut [u8]) {
    let block = crc(&[&bytes[..12], &bytes[16..SEGMENT_BLOCK]]);
    put_crc(bytes, 12, block);
    let seed = u64_at(bytes, 60);
    let (mut at, mut previous) = (SEGMENT_BLOCK, block);
    while at + BATCH_HEADER <= bytes.len() && bytes[at..].starts_with(b"AKVB") {
        let end = at + BATCH_HEADER + u32_at(bytes, at + 48) as usize;
        if let Some(body) = bytes.get_mut(at + BATCH_HEADER..end) {
            records(body);
            let body = crc(&[body]);
            put_crc(bytes, at + 44, body);
        }
        put_crc(bytes, at + 40, previous);
        previous = crc(&[&seed.to_le_bytes(), &bytes[at..at + 4], &bytes[at + 8..at + BATCH_HEADER]]);
        put_crc(bytes, at + 4, previous);
        let next = end.next_multiple_of(16);
        if let Some(padding) = bytes.get_mut(end..next) {
            fill(seed, end, padding);
            padding.iter_mut().for_each(|byte| *byte = !*byte);
        }
        at = next;
    }
}

/// What a segment with this seed holds from `offset` on before anything is written: splitmix64.
pub(super) fn fill(seed: u64, offset: usize, out: &mut [u8]) {
    for (at, byte) in (offset..).zip(out) {
        let mut mixed = seed.wrapping_add((at as u64 / 8 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        *byte = (mixed >> (at % 8 * 8)) as u8;
    }
}

/// A hint file.
pub(super) fn hint(bytes: &mut [u8]) {
    if bytes.len() >= 16 {
        let crc = crc(&[&bytes[..12], &bytes[16..]]);
        put_crc(bytes, 12, crc);
    }
}

/// The four slots of a slot file, wherever their lengths let the checksum be computed.
pub(super) fn slots(bytes: &mut [u8]) {
    let area = bytes.len() / 4;
    for slot in bytes.chunks_mut(area.max(1)).filter(|slot| slot.len() >= 512) {
        let sectors = (40 + u32_at(slot, 28) as usize).next_multiple_of(512);
        if let Some(slot) = slot.get_mut(..sectors) {
            let crc = crc(&[&slot[..36], &slot[40..]]);
            put_crc(slot, 36, crc);
        }
    }
}

/// A founding record, which ends with its checksum.
pub(super) fn founding(payload: &mut [u8]) {
    if let Some(end) = payload.len().checked_sub(4) {
        let crc = crc(&[&payload[..end]]);
        put_crc(payload, end, crc);
    }
}
