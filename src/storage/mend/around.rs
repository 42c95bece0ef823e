//! A file as far as it can be read: what the device cannot give back, and what lies behind an end that came too early, reads as zeros. No
//! record and no header of a batch consists of zeros, so nothing of it is ever taken for what was written. For looking only.

use crate::storage::disk::{DiskFile, Mapping};
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// What a device loses at once, and the least that is read at once around it.
const PIECE: u64 = 512;

/// See the file's doc.
#[derive(Debug)]
pub(super) struct Around(pub(super) Arc<dyn DiskFile>);

fn refused<T>() -> io::Result<T> {
    Err(io::Error::new(ErrorKind::ReadOnlyFilesystem, "the file is only looked at"))
}

impl DiskFile for Around {
    fn write_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        refused()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.0.read_at(buffer, offset).is_ok() {
            return Ok(());
        }
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let length = (PIECE - at % PIECE).min(rest.len() as u64);
            let (piece, later) = rest.split_at_mut(length as usize);
            if self.0.read_at(piece, at).is_err() {
                piece.fill(0);
            }
            (at, rest) = (at + length, later);
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        refused()
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }

    fn drop_cache(&self, offset: u64) -> io::Result<()> {
        self.0.drop_cache(offset)
    }

    fn map(&self) -> io::Result<Arc<dyn Mapping>> {
        self.0.map()
    }
}
