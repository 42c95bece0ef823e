//! What the log of a directory that was looked at holds, and the state that it leads to. Reads files, never the map, and checks each
//! record once more.

use super::{Finding, Inspected};
use crate::error::{Error, Result};
use crate::raft::EntryId;
use crate::storage::record::{self, HEADER_BYTES, Kind};
use crate::storage::scan::{Scan, Window};

/// Keys that are held at once.
const PAGE_KEYS: usize = 10_000;
/// Bytes of their values at most.
const PAGE_BYTES: usize = 4 << 20;

/// One entry of the log, and where its record stands.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Term and index.
    pub id: EntryId,
    /// What it means.
    pub kind: Kind,
    /// Its record's payload: see [`record::operations`] and [`record::decode_config`].
    pub payload: &'a [u8],
    /// The segment's file.
    pub file: &'a str,
    /// Where in it the record starts.
    pub offset: u64,
    /// Length of the record.
    pub bytes: u64,
    /// Whether it is known to be committed, see [`super::LogReport::commit`]. Others may be committed as well; only the cluster can tell.
    pub committed: bool,
}

impl Inspected {
    /// Shows every entry in log order; if the log is damaged, those in front of the damage, and then fails with it. Fails also if there
    /// is no log.
    pub fn entries<E: From<Error>>(&self, mut show: impl FnMut(&Entry<'_>) -> std::result::Result<(), E>) -> std::result::Result<(), E> {
        if let Some(log) = &self.log {
            show_entries(log, &mut show)?;
        }
        self.log()?;
        Ok(())
    }

    /// Shows key, version and value of everything that is there after what is known to be committed, in byte order. Fails before the first
    /// one if anything is damaged: then nobody knows the state.
    pub fn keys<E: From<Error>>(
        &self,
        mut show: impl FnMut(&[u8], u64, &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let log = self.log()?;
        let (mut cursor, mut value) = (Vec::new(), Vec::new());
        loop {
            let page = log.store().scan(b"", &cursor, PAGE_KEYS, PAGE_BYTES, false);
            for (key, located) in &page.entries {
                value.clear();
                log.store().read_from_file(key, located, &mut value)?;
                show(key, located.version, &value)?;
            }
            let Some((last, _)) = page.entries.last().filter(|_| page.more) else { return Ok(()) };
            cursor = last.to_vec();
        }
    }

    /// The log, if it is there and whole.
    fn log(&self) -> Result<&Scan> {
        if let Some(Finding { file, offset, text }) = self.report.damage.first() {
            let reason = format!("{text}; apexkv check names all damage");
            return Err(match offset {
                Some(offset) => Error::Corrupt { file: file.clone(), offset: *offset, reason },
                None => Error::Directory(format!("{file}: {reason}")),
            });
        }
        let none = || Error::Directory("the directory holds no log: no node that belongs to a cluster has lived there".to_owned());
        self.log.as_ref().ok_or_else(none)
    }
}

fn show_entries<E: From<Error>>(log: &Scan, show: &mut impl FnMut(&Entry<'_>) -> std::result::Result<(), E>) -> std::result::Result<(), E> {
    for held in &log.segments {
        let mut window = Window::new(&held.segment);
        for offset in &held.offsets {
            let offset = u64::from(*offset);
            let corrupt = |bad| crate::storage::corrupt(held.segment.name(), offset, format!("no valid record stands here: {bad:?}"));
            let (bytes, _) = record::parse_header(window.get(offset, HEADER_BYTES as u64)?).map_err(corrupt)?;
            if offset + bytes as u64 > held.segment.length() {
                return Err(corrupt(record::BadRecord::Short).into());
            }
            let (record, _) = record::parse(window.get(offset, bytes as u64)?).map_err(corrupt)?;
            show(&Entry {
                id: record.id,
                kind: record.kind,
                payload: record.payload,
                file: held.segment.name(),
                offset,
                bytes: bytes as u64,
                committed: record.id.index <= log.commit,
            })?;
        }
    }
    Ok(())
}
