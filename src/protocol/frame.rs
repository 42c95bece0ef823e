//! Where a frame begins and ends. The head is small and has its own CRC, so both lengths are known to be good before a record's byte is
//! awaited; records carry their own CRCs. A buffer grows as bytes arrive, never because a length was announced.
//!
//! ```text
//! offset size field
//!      0    4 head length      kind and its fields, 1 ..= HEAD_MAX
//!      4    4 records length   0 unless the kind carries records, at most RECORDS_MAX
//!      8    4 CRC              CRC-32 (IEEE) of the eight bytes before and of the head
//!     12    1 kind             the head: see the rooms of handshake and messages
//!     13    … fields of the kind
//!      …    … records
//! ```

use crate::bugbank::planted;
use std::io::Read;

use crate::error::{Error, Result};
use crate::storage::record;

/// Bytes before the head.
pub const PREFIX_BYTES: usize = 12;
/// Longest head.
pub const HEAD_MAX: usize = 64 << 10;
/// Most bytes of records in one frame: the longest record the format allows, and room for a batch around it.
pub const RECORDS_MAX: usize = record::MAX_BODY + record::HEADER_BYTES + (8 << 20);

/// A frame as read: the head (kind first) and the records, whose contents are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Kind and fields; its CRC was right.
    pub head: Vec<u8>,
    /// What follows the head.
    pub records: Vec<u8>,
}

/// Appends a frame to `out`: `head` writes kind and fields, `records` what follows. On an error `out` is as before.
pub fn write(out: &mut Vec<u8>, head: impl FnOnce(&mut Vec<u8>), records: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let start = out.len();
    out.resize(start + PREFIX_BYTES, 0);
    head(out);
    let head_length = out.len() - start - PREFIX_BYTES;
    let records_start = out.len();
    let outcome = records(out).and_then(|()| check_lengths(head_length, out.len() - records_start, RECORDS_MAX));
    if let Err(error) = outcome {
        out.truncate(start);
        return Err(error);
    }
    let records_length = out.len() - records_start;
    out[start..start + 4].copy_from_slice(&(head_length as u32).to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&(records_length as u32).to_le_bytes());
    let crc = frame_crc(&out[start..start + 8], &out[start + PREFIX_BYTES..records_start]);
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// A frame without records.
pub fn head_only(head: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    write(&mut out, head, |_| Ok(()))?;
    Ok(out)
}

/// Reads one frame. `None` when the stream ends exactly between two frames.
pub fn read(stream: &mut impl Read) -> Result<Option<Frame>> {
    read_with(stream, RECORDS_MAX)
}

/// Reads one frame of somebody who has not been admitted yet: one with records is refused before they are read.
pub fn read_head(stream: &mut impl Read) -> Result<Option<Frame>> {
    read_with(stream, 0)
}

fn read_with(stream: &mut impl Read, records_max: usize) -> Result<Option<Frame>> {
    let mut prefix = [0; PREFIX_BYTES];
    match read_start(stream, &mut prefix)? {
        0 => return Ok(None),
        PREFIX_BYTES => {}
        some => return Err(Error::Protocol(format!("the stream ended after {some} bytes of a frame"))),
    }
    let word = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
    let (head_length, records_length) = (word(0) as usize, word(4) as usize);
    if !planted(77) {
        check_lengths(head_length, records_length, records_max)?;
    }
    let mut head = vec![0; head_length];
    fill(stream, &mut head)?;
    let (expected, found) = (frame_crc(&prefix[..8], &head), word(8));
    if expected != found {
        return Err(Error::Protocol(format!("the CRC of a frame's head is {found:#010x} and should be {expected:#010x}")));
    }
    Ok(Some(Frame { head, records: read_records(stream, records_length)? }))
}

fn check_lengths(head: usize, records: usize, records_max: usize) -> Result<()> {
    if head == 0 || head > HEAD_MAX {
        return Err(Error::Protocol(format!("a frame's head of {head} bytes, which may have 1 to {HEAD_MAX}")));
    }
    if records > records_max {
        return Err(Error::Protocol(format!("a frame with {records} bytes of records, which may have {records_max}")));
    }
    Ok(())
}

fn frame_crc(lengths: &[u8], head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(lengths);
    hasher.update(head);
    hasher.finalize()
}

/// Fills `buffer` as far as the stream goes and returns how far that is.
fn read_start(stream: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read from a peer")(error)),
        }
    }
    Ok(filled)
}

fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    let wanted = buffer.len();
    match read_start(stream, buffer)? {
        filled if filled == wanted => Ok(()),
        filled => Err(Error::Protocol(format!("the stream ended {filled} bytes into a head of {wanted}"))),
    }
}

fn read_records(stream: &mut impl Read, length: usize) -> Result<Vec<u8>> {
    // Small ones are read into a buffer of their size; a big one doubles its buffer as bytes arrive.
    let mut records = Vec::with_capacity(length.min(HEAD_MAX));
    stream.take(length as u64).read_to_end(&mut records).map_err(Error::io("read records from a peer"))?;
    if records.len() < length {
        return Err(Error::Protocol(format!("the stream ended {} bytes into {length} bytes of records", records.len())));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_beyond_the_limits_are_refused_before_anything_behind_them_is_read() {
        for (head, records) in [(0, 0), (HEAD_MAX + 1, 0), (u32::MAX as usize, 0), (1, RECORDS_MAX + 1), (1, u32::MAX as usize)] {
            let mut bytes = [(head as u32).to_le_bytes(), (records as u32).to_le_bytes(), [0; 4]].concat();
            bytes.extend_from_slice(&[0; 100]);
            let mut stream = &bytes[..];
            let error = read(&mut stream).expect_err("the lengths are beyond the limits");
            assert!(matches!(&error, Error::Protocol(text) if text.contains("may have")), "{head} and {records}: {error}");
            assert_eq!(stream.len(), 100, "{head} and {records}");
        }
    }
}
