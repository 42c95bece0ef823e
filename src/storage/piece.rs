//! A piece: the bytes of some consecutive entries, pinned when it was made. Made by the Raft thread, and
//! turned into bytes by whoever sends it: a peer's worker, or the Raft thread itself if it is small and in memory. It holds what it names,
//! so nothing that happens to the log changes what is sent.

use super::log::LogSegment;
use super::record;
use super::segment::{Chunk, Segment};
use crate::error::Result;
use std::sync::Arc;

/// Consecutive entries, either still in memory or in a segment's file.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Contiguous records of a staged chunk.
    Staged {
        /// Holds the bytes.
        chunk: Arc<Chunk>,
        /// Where in the chunk the first record starts.
        start: usize,
        /// Where in the chunk the last record ends.
        end: usize,
    },
    /// Records in a file, possibly with batch frames between them.
    Stored {
        /// Holds the file.
        segment: Arc<Segment>,
        /// Index of the first entry.
        first: u64,
        /// Where each record starts.
        offsets: Arc<[u32]>,
        /// Where the last record ends, or some frames later.
        end: u64,
    },
}

impl Piece {
    /// As much of the entries `from .. end` as `chunk` holds, and the first index behind the piece.
    pub(super) fn staged(holder: &LogSegment, chunk: Arc<Chunk>, from: u64, end: u64) -> (Piece, u64) {
        let offsets = &holder.offsets[(from - holder.first) as usize..];
        let held = offsets.partition_point(|offset| u64::from(*offset) < chunk.end()) as u64;
        let after = (from + held).min(end);
        let place = |offset: u64| (offset - chunk.offset()) as usize;
        // Records of a chunk are contiguous, so one ends where the next begins. Behind the last one the chunk may hold some that were
        // superseded.
        let next = offsets.get((after - from) as usize).map_or(holder.end, |offset| u64::from(*offset));
        (Piece::Staged { start: place(u64::from(offsets[0])), end: place(next.min(chunk.end())), chunk }, after)
    }

    /// As much of the entries `from .. end` as stands in the file alone, and the first index behind the piece.
    pub(super) fn stored(holder: &LogSegment, from: u64, end: u64) -> (Piece, u64) {
        let offsets = &holder.offsets[(from - holder.first) as usize..];
        let staged = holder.segment.first_staged();
        let written = offsets.partition_point(|offset| u64::from(*offset) < staged) as u64;
        let after = (from + written).min(end).min(holder.next());
        assert!(after > from, "entry {from} is neither staged nor written in {:?}", holder.segment);
        let count = (after - from) as usize;
        let stop = offsets.get(count).map_or(holder.end, |offset| u64::from(*offset)).min(holder.segment.written());
        let piece = Piece::Stored { segment: Arc::clone(&holder.segment), first: from, offsets: Arc::from(&offsets[..count]), end: stop };
        (piece, after)
    }

    /// Whether the bytes are in memory, so that writing them waits for no disk and cannot fail.
    pub fn is_staged(&self) -> bool {
        matches!(self, Piece::Staged { .. })
    }

    /// About how many bytes [`Piece::write_to`] appends; never fewer.
    pub fn bytes(&self) -> u64 {
        match self {
            Piece::Staged { start, end, .. } => (end - start) as u64,
            Piece::Stored { offsets, end, .. } => end - u64::from(offsets[0]),
        }
    }

    /// Appends the records, back to back, to `out`. What comes from a file is checked, and an error leaves `out` as it was:
    /// [`crate::error::Error::Corrupt`] names file and offset.
    pub fn write_to(&self, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Piece::Staged { chunk, start, end } => {
                out.extend_from_slice(&chunk.bytes()[*start..*end]);
                Ok(())
            }
            Piece::Stored { segment, first, offsets, end } => {
                let before = out.len();
                let copied = copy_records(segment, *first, offsets, *end, out);
                if copied.is_err() {
                    out.truncate(before);
                }
                copied
            }
        }
    }
}

/// Reads the range with one call and moves the records together.
fn copy_records(segment: &Segment, first: u64, offsets: &[u32], end: u64, out: &mut Vec<u8>) -> Result<()> {
    let start = u64::from(offsets[0]);
    let base = out.len();
    out.resize(base + (end - start) as usize, 0);
    segment.read_file(&mut out[base..], start)?;
    let mut filled = base;
    for (index, offset) in (first..).zip(offsets) {
        let at = base + (u64::from(*offset) - start) as usize;
        let corrupt = |found: &dyn std::fmt::Debug| {
            super::corrupt(segment.name(), u64::from(*offset), format!("entry {index} should stand here, found {found:?}"))
        };
        let (record, bytes) = record::parse(&out[at..]).map_err(|bad| corrupt(&bad))?;
        if record.id.index != index {
            return Err(corrupt(&record.id));
        }
        out.copy_within(at..at + bytes, filled);
        filled += bytes;
    }
    out.truncate(filled);
    Ok(())
}
