//! Scrub: reads what a start does not read, file by file and slowly, so that damage is found while the other nodes still have the data, and
//! not when it is needed. It reads files, never the map, and changes nothing. It asks the system to forget what it has of a file in memory
//! before; pages that readers have mapped stay there nevertheless, and of these it sees what readers see.

use super::disk::Disk;
use super::hint::hint_name;
use super::log::Log;
use super::merge::File;
use super::record;
use super::scan::Window;
use crate::error::{Error, Result};
use std::sync::Arc;

/// One file to be read.
#[derive(Debug)]
pub struct ScrubJob {
    file: File,
    /// For a segment of the log: the first index, and where each entry's record starts.
    entries: Option<(u64, Vec<u32>)>,
}

impl ScrubJob {
    /// Its name and its length in bytes.
    pub fn file(&self) -> (&str, u64) {
        (self.file.segment.name(), self.file.end)
    }
}

/// Reads files.
#[derive(Debug)]
pub struct Scrubber {
    pub(super) disk: Arc<dyn Disk>,
}

impl Scrubber {
    /// Reads a file and checks every record that somebody may ask for, and the hint. `pace` is told how many bytes were read since the last
    /// call, and may wait. Damage names file and offset; damage in a file that was given up meanwhile is none.
    pub fn scrub(&self, job: &ScrubJob, pace: &mut dyn FnMut(u64)) -> Result<()> {
        match self.check(job, pace) {
            // It was merged away meanwhile, or a snapshot has taken its place.
            Err(Error::Corrupt { .. }) if job.file.segment.is_given_up() => Ok(()),
            checked => checked,
        }
    }

    fn check(&self, job: &ScrubJob, pace: &mut dyn FnMut(u64)) -> Result<()> {
        let hint = self.disk.open(&hint_name(job.file.segment.id()));
        // A system that cannot do that gives what it has.
        let _ = job.file.segment.file().drop_cache(0);
        let _ = hint.and_then(|hint| hint.drop_cache(0));
        let Some((first, offsets)) = &job.entries else {
            pace(job.file.end);
            return job.file.check(&*self.disk);
        };
        let segment = &job.file.segment;
        let mut window = Window::new(segment);
        for (position, offset) in offsets.iter().enumerate() {
            let (start, index) = (u64::from(*offset), first + position as u64);
            let end = offsets.get(position + 1).map_or(job.file.end, |next| u64::from(*next));
            let corrupt = |found: String| super::corrupt(segment.name(), start, format!("entry {index} should stand here, found {found}"));
            let (found, _) = record::parse(window.get(start, end - start)?).map_err(|bad| corrupt(format!("{bad:?}")))?;
            if found.id.index != index {
                return Err(corrupt(found.id.to_string()));
            }
            pace(end - start);
        }
        job.file.hint(&*self.disk).map(drop)
    }
}

impl Log {
    /// The next file to scrub after the one with the number `after`, in the order of the numbers; `None` behind the last one.
    pub fn next_scrub(&self, after: u32) -> Option<(u32, ScrubJob)> {
        let hinted = self.segments.iter().filter(|holder| holder.hinted && holder.segment.id() > after);
        let of_log = hinted.min_by_key(|holder| holder.segment.id());
        let of_files = self.files.range(after.checked_add(1)?..).next();
        let log_first = of_log.is_some_and(|holder| of_files.is_none_or(|(id, _)| holder.segment.id() < *id));
        if let Some(holder) = of_log.filter(|_| log_first) {
            let (segment, first, last, end) = (Arc::clone(&holder.segment), holder.first, holder.next() - 1, holder.end);
            let file = File { segment, first, last, end, deletions: 0, hinted: 0 };
            return Some((holder.segment.id(), ScrubJob { file, entries: Some((holder.first, holder.offsets.clone())) }));
        }
        of_files.map(|(id, file)| (*id, ScrubJob { file: file.clone(), entries: None }))
    }
}
