//! Large responses, built piece by piece while the client takes them: a client that asks for much and takes nothing costs one piece of
//! memory, not the response. All values are checked before the first byte leaves, so that damage is answered with an error; what is
//! copied later is checked once more before the last byte leaves. Pure but for the reading of stored values.

use super::response::{Form, begin, finish};
use crate::error::Error;
use crate::storage::store::Checked;
use apexkv_client::protocol::{EXTENDED_RESPONSE_HEADER, Status};
use crc32fast::Hasher;
use std::collections::VecDeque;

/// Responses with a larger payload than this, in bytes, are built piece by piece.
pub(super) const LARGE_BYTES: usize = 64 << 10;

#[derive(Debug)]
enum Part {
    Bytes(Vec<u8>),
    Value(Checked),
}

/// A response of status OK that waits to be built.
#[derive(Debug)]
pub(super) struct Large {
    form: Form,
    parts: VecDeque<Part>,
    payload_bytes: usize,
    payload_crc: Hasher,
    started: bool,
    /// How far the value at the front has been copied, and the CRC of that.
    copied: (u32, Hasher),
}

/// What a call of [`Large::next_piece`] came to.
#[derive(Debug)]
pub(super) enum Piece {
    /// There are further pieces.
    More,
    /// This was the last one.
    Last,
    /// A stored value is not what it was when it was checked, as the error says; what was built must not leave.
    Changed(Error),
}

impl Large {
    pub(super) fn new(form: Form) -> Large {
        Large { form, parts: VecDeque::new(), payload_bytes: 0, payload_crc: Hasher::new(), started: false, copied: (0, Hasher::new()) }
    }

    /// Adds bytes to the payload.
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) {
        self.payload_bytes += bytes.len();
        self.payload_crc.update(bytes);
        match self.parts.back_mut() {
            Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.parts.push_back(Part::Bytes(bytes.to_vec())),
        }
    }

    /// Adds a value to the payload.
    pub(super) fn push_value(&mut self, value: Checked) {
        if value.bytes == 0 {
            return;
        }
        self.payload_bytes += value.bytes as usize;
        self.payload_crc.combine(&Hasher::new_with_initial_len(value.crc, u64::from(value.bytes)));
        self.parts.push_back(Part::Value(value));
    }

    /// About how much memory the plan holds, in bytes: keys of pages, above all.
    pub(super) fn memory_bytes(&self) -> usize {
        let bytes = |part: &Part| if let Part::Bytes(bytes) = part { bytes.capacity() } else { 0 };
        self.parts.iter().map(|part| bytes(part) + size_of::<Part>()).sum()
    }

    /// Appends about `limit` bytes of the response to `out`, header first.
    pub(super) fn next_piece(&mut self, out: &mut Vec<u8>, limit: usize) -> Piece {
        if !std::mem::replace(&mut self.started, true) {
            self.write_header(out);
        }
        while out.len() < limit {
            match self.parts.pop_front() {
                None => return Piece::Last,
                Some(Part::Bytes(mut bytes)) => {
                    let fits = bytes.len().min(limit - out.len());
                    let rest = bytes.split_off(fits);
                    out.extend_from_slice(&bytes);
                    if !rest.is_empty() {
                        self.parts.push_front(Part::Bytes(rest));
                    }
                }
                Some(Part::Value(value)) => {
                    let (from, start) = (self.copied.0, out.len());
                    value.copy(from, limit - start, out);
                    self.copied.0 += (out.len() - start) as u32;
                    self.copied.1.update(&out[start..]);
                    if self.copied.0 < value.bytes {
                        self.parts.push_front(Part::Value(value));
                    } else if std::mem::replace(&mut self.copied, (0, Hasher::new())).1.finalize() != value.crc {
                        return Piece::Changed(value.changed());
                    }
                }
            }
        }
        if self.parts.is_empty() { Piece::Last } else { Piece::More }
    }

    fn write_header(&self, out: &mut Vec<u8>) {
        let start = begin(out, self.form);
        finish(out, start, self.form, Status::Ok);
        assert!(self.payload_bytes <= u32::MAX as usize, "a response of {} bytes does not fit its length field", self.payload_bytes);
        out[start + 1..start + 5].copy_from_slice(&(self.payload_bytes as u32).to_le_bytes());
        if self.form.is_some() {
            let mut crc = Hasher::new();
            crc.update(&out[start..start + EXTENDED_RESPONSE_HEADER - 4]);
            crc.combine(&self.payload_crc);
            out[start + EXTENDED_RESPONSE_HEADER - 4..].copy_from_slice(&crc.finalize().to_le_bytes());
        }
    }
}
