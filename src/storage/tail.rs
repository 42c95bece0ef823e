//! What follows the last valid batch of a segment that was not sealed: untouched fill, a write that a power cut interrupted, or damage.
//! Only looks; recovery acts on the answer.

use super::batch::{self, ALIGNMENT, BatchHeader, HEADER_BYTES};
use super::fill;
use super::segment::Segment;
use crate::bugbank::planted;
use crate::error::Result;

/// Read at once while looking for a batch further on; headers that straddle two parts are seen because parts overlap.
const PART: u64 = 1 << 20;

/// What stands behind the last valid batch. Damage is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing but fill: appending may go on here.
    Untouched,
    /// A write that never became durable as a whole: the segment ends before it.
    Torn,
}

/// Judges what stands at `at`, where the next batch would be. `header` is the one found there, if it is valid; its body then is not.
pub(super) fn judge(segment: &Segment, at: u64, header: Option<&BatchHeader>) -> Result<Tail> {
    if header.is_none() && segment.is_fill_from(at)? {
        return Ok(Tail::Untouched);
    }
    let claimed = header.map_or(at + HEADER_BYTES, |header| batch::align(at + HEADER_BYTES + u64::from(header.body)));
    let end = claimed.min(segment.length());
    if planted(46) {
        return Ok(Tail::Torn);
    }
    let search_from = if header.is_some() { end } else { at + ALIGNMENT };
    let what = if header.is_some() { "the records of this batch do not match their CRC" } else { "this is no batch header" };
    if let Some(next) = find_batch(segment, search_from)? {
        let reason = format!("{what}, and a valid batch follows at {next}, so it was durable once");
        return Err(super::corrupt(segment.name(), at, reason));
    }
    let mut written = vec![0; (end - at) as usize];
    segment.read_file(&mut written, at)?;
    if fill::holds_unwritten_unit(segment.seed(), at, &written) {
        return Ok(Tail::Torn);
    }
    Err(super::corrupt(segment.name(), at, format!("{what}, though all of it was written")))
}

/// The offset of the first valid batch header at or behind `from`.
pub(super) fn find_batch(segment: &Segment, from: u64) -> Result<Option<u64>> {
    let mut part = Vec::new();
    let mut start = batch::align(from);
    while start + HEADER_BYTES <= segment.length() {
        part.resize((PART + HEADER_BYTES).min(segment.length() - start) as usize, 0);
        segment.read_file(&mut part, start)?;
        for at in (0..part.len() as u64 - HEADER_BYTES + 1).step_by(ALIGNMENT as usize) {
            let header = BatchHeader::decode(&part[at as usize..], segment.seed());
            if header.is_some_and(|(header, _)| u64::from(header.offset) == start + at && header.segment == segment.id()) {
                return Ok(Some(start + at));
            }
        }
        start += PART;
    }
    Ok(None)
}
