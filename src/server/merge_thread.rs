//! The merger's thread: rewrites what is still needed of old files, in the background and no faster than the disk can spare. Whoever asks
//! is the Raft thread; what comes of it goes through the log writer, as every change of the manifest does.

use std::sync::Arc;

use crate::server::mailbox::{Receiver, Sender};

use crate::error::Error;
use crate::storage::merge::{MergeJob, Merger};
use crate::storage::preparer::PrepareError;
use crate::storage::retire::Discarded;
use crate::storage::snapshot::OldState;
use crate::storage::writer::Job;

use super::disk_threads::fatal;
use super::event::Event;
use super::metrics::Metrics;
use super::pace::{Pace, Rates};
use super::shared::OnDamage;

/// Bytes that a merge reads and writes in a second: with writing clients about a quarter of what an ordinary disk does.
const RATES: Rates = Rates { busy: 48 << 20, idle: 256 << 20 };

/// What the merger's thread is asked for.
#[derive(Debug)]
pub(super) enum MergerWork {
    /// To merge files.
    Merge(MergeJob),
    /// To remove files that the manifest has dropped.
    Discard(Discarded),
    /// To give memory back, which takes a while if it is much.
    Drop(OldState),
}

/// Merges and removes on request until the channel closes.
pub(super) fn run_merger<C>(
    merger: &Merger,
    requests: &Receiver<MergerWork>,
    writer: &Sender<Job>,
    inbox: &Sender<Event<C>>,
    metrics: &Arc<Metrics>,
    on_damage: &OnDamage,
) {
    for work in requests.iter() {
        let job = match work {
            MergerWork::Merge(job) => match merge(merger, &job, metrics, on_damage) {
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
fn merge(merger: &Merger, job: &MergeJob, metrics: &Arc<Metrics>, on_damage: &OnDamage) -> Result<Job, bool> {
    let (files, bytes) = job.size();
    let mut pace = Pace::new(metrics, RATES);
    let mut moved = |bytes| {
        metrics.merged_bytes.add(bytes);
        pace.moved(bytes);
    };
    match merger.merge(job, &mut moved) {
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
            log::warn!("no further files are merged until this node is started again");
            on_damage(&error);
            Err(false)
        }
        Err(PrepareError::Fatal(error)) => fatal(&error),
    }
}
