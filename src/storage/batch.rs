//! The batch frame: what one write and one sync put into a segment. A header of fixed size with its own CRC, records back to back,
//! and padding up to the next multiple of 16. Pure encoding; touches no file.

use super::fill;

/// Size of a batch's header; a multiple of the alignment, so that records start right behind it.
pub(super) const HEADER_BYTES: u64 = 96;
/// Batches start at multiples of this, so that they consist of whole units of the fill.
pub(super) const ALIGNMENT: u64 = fill::UNIT as u64;
/// A batch takes no further record once its body has this size; a single record may be larger.
pub(super) const BODY_MAX: u64 = 4 << 20;

/// Larger than any record's length field, so that no record starts with these bytes.
const MAGIC: [u8; 4] = *b"AKVB";

/// What stands in front of a batch's records. The layout is in the format document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    /// The cluster it was written for.
    pub(super) cluster: u128,
    /// The segment it belongs into.
    pub(super) segment: u32,
    /// Where in the segment it starts.
    pub(super) offset: u32,
    /// Counts the batches of a node; consecutive within a segment.
    pub(super) sequence: u64,
    /// The header CRC of the batch before, or of the segment's header block.
    pub(super) previous: u32,
    /// CRC of all records.
    pub(super) body_crc: u32,
    /// Length of all records; 0 in a closing batch.
    pub(super) body: u32,
    /// Index of the first record; one past `last_index` in a closing batch.
    pub(super) first_index: u64,
    /// Index of the last record.
    pub(super) last_index: u64,
    /// Term of the entry at `last_index`.
    pub(super) last_term: u64,
    /// What the node knew to be committed, at most `last_index`.
    pub(super) commit: u64,
    /// The boot counter of the process that wrote it; tells a person who wrote what.
    pub(super) boot: u64,
}

impl BatchHeader {
    /// The header's bytes and its CRC, which the next batch repeats. `seed` is the segment's: clients cannot know it, so no value can
    /// be made to look like a batch.
    pub(super) fn encode(&self, seed: u64) -> ([u8; HEADER_BYTES as usize], u32) {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[8..24].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.segment.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.offset.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.previous.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.body.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.first_index.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.last_index.to_le_bytes());
        bytes[72..80].copy_from_slice(&self.last_term.to_le_bytes());
        bytes[80..88].copy_from_slice(&self.commit.to_le_bytes());
        bytes[88..96].copy_from_slice(&self.boot.to_le_bytes());
        let crc = header_crc(seed, &bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// The header at the start of `bytes`, and its CRC, if these bytes are one. What it says about its own place is the caller's to
    /// compare.
    pub(super) fn decode(bytes: &[u8], seed: u64) -> Option<(BatchHeader, u32)> {
        let bytes: &[u8; HEADER_BYTES as usize] = bytes.first_chunk()?;
        let crc = u32_at(bytes, 4);
        if bytes[0..4] != MAGIC || header_crc(seed, bytes) != crc {
            return None;
        }
        let header = BatchHeader {
            cluster: u128::from(u64_at(bytes, 8)) | u128::from(u64_at(bytes, 16)) << 64,
            segment: u32_at(bytes, 24),
            offset: u32_at(bytes, 28),
            sequence: u64_at(bytes, 32),
            previous: u32_at(bytes, 40),
            body_crc: u32_at(bytes, 44),
            body: u32_at(bytes, 48),
            first_index: u64_at(bytes, 56),
            last_index: u64_at(bytes, 64),
            last_term: u64_at(bytes, 72),
            commit: u64_at(bytes, 80),
            boot: u64_at(bytes, 88),
        };
        Some((header, crc))
    }
}

fn header_crc(seed: u64, bytes: &[u8; HEADER_BYTES as usize]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&bytes[0..4]);
    hasher.update(&bytes[8..]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Where the batch after one that ends its records at `end` starts.
pub(super) fn align(end: u64) -> u64 {
    end.next_multiple_of(ALIGNMENT)
}

/// The padding behind records that end at `end`, as an array and how much of it counts.
pub(super) fn padding(seed: u64, end: u64) -> ([u8; ALIGNMENT as usize], usize) {
    let length = (align(end) - end) as usize;
    let mut bytes = [0; ALIGNMENT as usize];
    fill::padding(seed, end, &mut bytes[..length]);
    (bytes, length)
}

/// The most that `bytes` of records can take in a segment beyond their own size: headers and padding of every batch they may be
/// spread over, and of the batch that closes them. Two batches in a row hold more than [`BODY_MAX`] between them.
pub(super) fn overhead(bytes: u64) -> u64 {
    (2 * (bytes / BODY_MAX) + 3) * (HEADER_BYTES + ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            cluster: 0x1122_3344_5566_7788_99AA_BBCC_DDEE_FF00,
            segment: 3,
            offset: 4096,
            sequence: 17,
            previous: 18,
            body_crc: 19,
            body: 20,
            first_index: 21,
            last_index: 22,
            last_term: 23,
            commit: 24,
            boot: 25,
        }
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_noticed() {
        let (mut bytes, crc) = header().encode(5);
        assert_eq!(BatchHeader::decode(&bytes, 5), Some((header(), crc)));
        assert_eq!(BatchHeader::decode(&bytes, 6), None, "another segment's seed");
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&bytes, 5), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
