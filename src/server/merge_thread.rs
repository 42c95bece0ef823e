//! The merger's thread: rewrites what is still needed of old files, in the background and no faster than the disk can spare. Whoever asks is
//! the Raft thread; what comes of it goes through the log writer, as every change of the manifest does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::error::Error;
use crate::storage::merge::{MergeJob, Merger};
use crate::storage::preparer::PrepareError;
use crate::storage::retire::Discarded;
use crate::storage::snapshot::OldState;
use crate::storage::writer::Job;

use super::disk_threads::fatal;
use super::event::Event;
use super::metrics::Metrics;

/// Bytes that a merge reads and writes in a second while clients write, too: about a quarter of what an ordinary disk does.
const BUSY_RATE: u64 = 48 << 20;
/// The same while nobody writes.
const IDLE_RATE: u64 = 256 << 20;
/// How often the rate is looked at.
const STEP: u64 = 1 << 20;
/// Somebody writes if the log got so many batches during a step.
const BUSY_BATCHES: u64 = 2;

/// What the merger's thread is asked for.
#[derive(Debug)]
pub(super) enum MergerWork {
    /// To merge files.
    Merge(MergeJob),
    /// To remove files that the manifest no longer names.
    Discard(Discarded),
    /// To give memory back, which takes a while if it is much.
    Drop(OldState),
}

/// Slows a merge down.
struct Pace<'a> {
    metrics: &'a Metrics,
    /// Bytes since the last pause.
    bytes: u64,
    begun: Instant,
    batches: u64,
}

impl<'a> Pace<'a> {
    fn new(metrics: &'a Metrics) -> Pace<'a> {
        Pace { metrics, bytes: 0, begun: Instant::now(), batches: metrics.log_batches.get() }
    }

    fn moved(&mut self, bytes: u64) {
        self.metrics.merged_bytes.add(bytes);
        self.bytes += bytes;
        if self.bytes < STEP {
            return;
        }
        let batches = self.metrics.log_batches.get();
        let rate = if batches - self.batches > BUSY_BATCHES { BUSY_RATE } else { IDLE_RATE };
        let due = Duration::from_micros(self.bytes * 1_000_000 / rate);
        std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
        (self.bytes, self.begun, self.batches) = (0, Instant::now(), batches);
    }
}

/// Merges and removes on request until the channel closes.
pub(super) fn run_merger<C>(
    merger: &Merger,
    requests: &Receiver<MergerWork>,
    writer: &Sender<Job>,
    inbox: &Sender<Event<C>>,
    metrics: &Arc<Metrics>,
) {
    for work in requests {
        let job = match work {
            MergerWork::Merge(job) => match merge(merger, &job, metrics) {
                Ok(job) => job,
                Err(retry) if inbox.send(Event::NotMerged { retry }).is_err() => return,
                Err(_) => continue,
            },
            MergerWork::Drop(old) => {
                drop(old);
                continue;
            }
            MergerWork::Discard(files) => match merger.discard(files) {
                Ok(ids) => Job::Forget(ids),
                Err(error) => fatal(&error),
            },
        };
        if writer.send(job).is_err() {
            return;
        }
    }
}

/// The error says whether it may work later.
fn merge(merger: &Merger, job: &MergeJob, metrics: &Metrics) -> Result<Job, bool> {
    let (files, bytes) = job.size();
    let mut pace = Pace::new(metrics);
    match merger.merge(job, &mut |bytes| pace.moved(bytes)) {
        Ok(merged) => {
            log::debug!("merged {files} files of {bytes} bytes into {}", merged.bytes());
            metrics.merges.increment();
            Ok(Job::Merge(merged))
        }
        Err(PrepareError::Full(reason)) => {
            log::warn!("no merge: {reason}; it will be tried again");
            Err(true)
        }
        Err(PrepareError::Fatal(error @ Error::Corrupt { .. })) => {
            log::error!("{error}; no further files are merged");
            Err(false)
        }
        Err(PrepareError::Fatal(error)) => fatal(&error),
    }
}
