//! Integers, flags and texts within a frame, little-endian. Reading never runs past the end and never reserves memory for a length that
//! the bytes do not hold.

use crate::error::{Error, Result};
use crate::raft::EntryId;

/// The fields of a frame that have not been read yet.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Fields { rest: bytes }
    }

    /// The next `count` bytes as they stand.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((bytes, rest)) = self.rest.split_at_checked(count) else {
            return Err(Error::Protocol(format!("a field of {count} bytes, where only {} are left", self.rest.len())));
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Eight bytes that count something (terms, indexes, rounds): refused above 2^62, which no cluster reaches, so that whoever adds to
    /// a number from a peer cannot overflow.
    pub fn number(&mut self) -> Result<u64> {
        let number = self.u64()?;
        if number > 1 << 62 {
            return Err(Error::Protocol(format!("{number} where a term, an index or a round stands")));
        }
        Ok(number)
    }

    /// Sixteen bytes.
    pub fn u128(&mut self) -> Result<u128> {
        self.array().map(u128::from_le_bytes)
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::Protocol(format!("a flag of {other}, which must be 0 or 1"))),
        }
    }

    /// A position: term, then index; either both are 0 or neither is.
    pub fn entry_id(&mut self) -> Result<EntryId> {
        let id = EntryId { term: self.number()?, index: self.number()? };
        if (id.term == 0) != (id.index == 0) {
            return Err(Error::Protocol(format!("a position {id}, of which one half is zero")));
        }
        Ok(id)
    }

    /// Bytes behind their own length (two bytes), at most `max`.
    pub fn blob(&mut self, max: usize) -> Result<&'a [u8]> {
        let length = usize::from(self.u16()?);
        if length > max {
            return Err(Error::Protocol(format!("a field of {length} bytes, which may have {max}")));
        }
        self.bytes(length)
    }

    /// UTF-8 text behind its length, at most `max` bytes.
    pub fn text(&mut self, max: usize) -> Result<String> {
        let bytes = self.blob(max)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Error::Protocol("a text that is not UTF-8".to_owned())),
        }
    }

    /// What has not been read, without reading it.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Refuses bytes behind the last field.
    pub fn end(self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(Error::Protocol(format!("{more} bytes behind the last field"))),
        }
    }
}

/// Appends a position: term, then index.
pub fn put_entry_id(out: &mut Vec<u8>, id: EntryId) {
    out.extend_from_slice(&id.term.to_le_bytes());
    out.extend_from_slice(&id.index.to_le_bytes());
}

/// Appends bytes behind their length. Panics above 65,535 bytes: callers have checked their own, shorter limits.
pub fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("every variable field has a limit far below 64 KiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}
