//! Records that came from other nodes, in a file of their own until they stand where they belong. The file is half-made for ever: nothing
//! in it counts, and the next start removes it.

use crate::error::{Error, Result};
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::record;
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

    /// Appends the record of the entry at `index`, if it was fetched. Says how many bytes that were.
    pub(super) fn read(&self, index: u64, out: &mut Vec<u8>) -> Option<usize> {
        let (offset, length) = self.places.get(&index)?;
        let before = out.len();
        out.resize(before + *length as usize, 0);
        let read = self.file.as_ref()?.read_at(&mut out[before..], *offset);
        let whole = read.is_ok() && record::parse(&out[before..]).is_ok_and(|(record, _)| record.id.index == index);
        out.truncate(before + if whole { *length as usize } else { 0 });
        whole.then_some(*length as usize)
    }

    /// Removes the file.
    pub(super) fn discard(self, disk: &dyn Disk) {
        if self.file.is_some() {
            // What is left of it, the next start removes.
            let _ = disk.remove(NAME);
        }
    }
}
