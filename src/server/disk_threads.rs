//! The threads that wait for the disk, so that the Raft thread never does: the log writer, which does one job at a time, and the
//! preparer, which makes the next segment ahead of need. A failed write or sync ends the process here: memory and disk no longer agree,
//! and the other nodes have the data.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::error::Error;
use crate::storage::hinter::{HintJob, Hinter};
use crate::storage::preparer::{PrepareError, Preparer};
use crate::storage::writer::{Completion, Job, LogWriter};

use super::damage::Remembered;
use super::event::Event;
use super::metrics::Metrics;
use super::shared::OnDamage;

/// Runs jobs until it is told to stop.
pub(super) fn run_writer<C>(
    mut writer: LogWriter,
    jobs: &Receiver<Job>,
    inbox: &Sender<Event<C>>,
    metrics: &Arc<Metrics>,
    remembered: &Remembered,
) {
    for job in jobs {
        if let Job::Stop = job {
            return;
        }
        match writer.run(job) {
            Ok(completion) => {
                match &completion {
                    Completion::Batch { .. } => {
                        metrics.log_batches.increment();
                        metrics.log_syncs.increment();
                    }
                    Completion::Distrusted => remembered.set(),
                    Completion::HardState { .. } => metrics.hard_state_syncs.increment(),
                    _ => {}
                }
                if inbox.send(Event::Disk(completion)).is_err() {
                    return;
                }
            }
            Err(error) => fatal(&error),
        }
    }
}

/// How often a shortage that lasts is said again: what is logged may go to the very disk that is full.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// When a shortage was said last, as long as it lasts.
#[derive(Default)]
struct Reminder(Option<Instant>);

impl Reminder {
    /// Whether to say it now.
    fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|said| said.elapsed() >= REMIND_EVERY);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }

    /// It is over; whether it was said.
    fn end(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// Makes segments on request until the channel closes, and keeps the reserve standing. Each segment is listed by the log writer, whose
/// completion carries it on.
pub(super) fn run_preparer<C>(
    mut preparer: Preparer,
    requests: &Receiver<u64>,
    writer: &Sender<Job>,
    inbox: &Sender<Event<C>>,
    metrics: &Metrics,
) {
    let mut shortage = Reminder::default();
    if requests.is_empty() {
        keep_reserve(&preparer, metrics);
    }
    for min_record_bytes in requests {
        match preparer.prepare(min_record_bytes) {
            Ok(segment) => {
                if shortage.end() {
                    log::info!("there is room for new log segments again");
                }
                if writer.send(Job::List(segment)).is_err() {
                    return;
                }
            }
            Err(PrepareError::Full(reason)) => {
                metrics.segments_short.increment();
                if shortage.is_due() {
                    log::warn!("no new log segment: {reason}; writes are refused until there is room, reads go on");
                }
                if inbox.send(Event::NotPrepared(reason)).is_err() {
                    return;
                }
            }
            Err(PrepareError::Fatal(error)) => fatal(&error),
        }
        keep_reserve(&preparer, metrics);
    }
}

/// A node without a reserve works; the preparer says what is missing when it comes to that.
fn keep_reserve(preparer: &Preparer, metrics: &Metrics) {
    match preparer.keep_reserve() {
        Ok(()) => {}
        Err(PrepareError::Full(reason)) => log::debug!("no reserve of disk space: {reason}"),
        Err(PrepareError::Fatal(error)) => fatal(&error),
    }
    metrics.reserve_bytes.set(preparer.reserve_held());
}

/// Makes hints on request until the channel closes. Each is named in the manifest by the log writer, whose completion carries it on.
pub(super) fn run_hinter<C>(
    hinter: &Hinter,
    requests: &Receiver<HintJob>,
    writer: &Sender<Job>,
    inbox: &Sender<Event<C>>,
    on_damage: &OnDamage,
) {
    let mut shortage = Reminder::default();
    for job in requests {
        let retry = match hinter.make(&job) {
            Ok(hinted) => {
                shortage.end();
                if writer.send(Job::Hint(hinted)).is_err() {
                    return;
                }
                continue;
            }
            Err(PrepareError::Full(reason)) => {
                if shortage.is_due() {
                    log::warn!("no new hint: {reason}; it will be tried again");
                }
                true
            }
            Err(PrepareError::Fatal(error @ Error::Corrupt { .. })) => {
                log::warn!("no further hints are made: the log grows until this node is started again");
                on_damage(&error);
                false
            }
            Err(PrepareError::Fatal(error)) => fatal(&error),
        };
        if inbox.send(Event::NotHinted { retry }).is_err() {
            return;
        }
    }
}

/// Ends the process over its storage, with one line on standard error.
pub(super) fn fatal(error: &Error) -> ! {
    super::log_sink::say_now(&format!("fatal: {error}"));
    std::process::exit(error.exit_code());
}
