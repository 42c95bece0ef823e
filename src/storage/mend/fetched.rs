//! Records that came from other nodes, in a file of their own until they stand where they belong. The file is half-made for ever: nothing
//! in it counts, and the next start removes it.

use crate::error::{Error, Result};
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::record;
use crate::storage::{is_lost, unread};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAME: &str = "fetched.tmp";

/// See the file's doc.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    file: Option<Arc<dyn DiskFile>>,
    end: u64,
    /// Where each entry's record stands, and its length.
    places: BTreeMap<u64, (u64, u32)>,
}

impl Fetched {
    /// Keeps checked records: the entries from `first` on, of these lengths.
    pub(super) fn keep(&mut self, disk: &dyn Disk, first: u64, lengths: &[usize], records: &[u8]) -> Result<()> {
        let doing = || format!("write {}/{NAME}", disk.path());
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                // One of an earlier attempt.
                let _ = disk.remove(NAME);
                disk.create(NAME).map_err(Error::io(doing()))?
            }
        };
        file.write_at(&[records], self.end).map_err(Error::io(doing()))?;
        for (index, length) in (first..).zip(lengths) {
            self.places.insert(index, (self.end, *length as u32));
            self.end += *length as u64;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Appends the record of the entry at `index`, if it was fetched and is still whole. Says how many bytes that were.
    ///
    /// Errors: it cannot be read now, which says nothing about whether it is whole.
    pub(super) fn read(&self, index: u64, out: &mut Vec<u8>) -> Result<Option<usize>> {
        let (Some((offset, length)), Some(file)) = (self.places.get(&index), &self.file) else { return Ok(None) };
        let before = out.len();
        out.resize(before + *length as usize, 0);
        match file.read_at(&mut out[before..], *offset) {
            Ok(()) if record::parse(&out[before..]).is_ok_and(|(record, _)| record.id.index == index) => return Ok(Some(*length as usize)),
            Err(source) if !is_lost(&source) => {
                out.truncate(before);
                return Err(unread(NAME, *offset, source));
            }
            _ => out.truncate(before),
        }
        Ok(None)
    }

    /// Removes the file.
    pub(super) fn discard(self, disk: &dyn Disk) {
        if self.file.is_some() {
            // What is left of it, the next start removes.
            let _ = disk.remove(NAME);
        }
    }
}
