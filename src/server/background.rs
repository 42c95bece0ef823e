//! Starts the threads that wait for the disk, and holds the queues that lead to them. Decides nothing.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};

use crate::error::{Error, Result};
use crate::storage::directory::Workers;
use crate::storage::hinter::HintJob;
use crate::storage::scrub::ScrubJob;
use crate::storage::writer::Job;

use super::damage::{Remembered, reporter};
use super::disk_threads::{fatal, run_hinter, run_preparer, run_writer};
use super::event::Event;
use super::merge_thread::{MergerWork, run_merger};
use super::metrics::Metrics;
use super::run::{join_thread, spawn};
use super::scrub_thread::run_scrubber;
use super::shared::{Fatal, OnDamage};

/// How long a process that ends over damage waits until the damage is remembered.
const REMEMBER_PATIENCE: Duration = Duration::from_secs(2);

/// The queues. A closed one means that the process is ending.
#[derive(Clone)]
pub(super) struct DiskWork {
    pub(super) writer: Sender<Job>,
    pub(super) preparer: Sender<u64>,
    pub(super) hinter: Sender<HintJob>,
    pub(super) merger: Sender<MergerWork>,
    pub(super) scrubber: Sender<ScrubJob>,
}

/// The running threads.
pub(super) struct DiskThreads {
    pub(super) work: DiskWork,
    joined: Vec<JoinHandle<()>>,
    on_damage: OnDamage,
    remembered: Arc<Remembered>,
}

impl DiskThreads {
    /// Starts all of them. `alone` is a node that is a cluster of its own.
    pub(super) fn start<C: Send + 'static>(
        workers: Workers,
        inbox: &Sender<Event<C>>,
        metrics: &Arc<Metrics>,
        alone: bool,
    ) -> Result<DiskThreads> {
        let Workers { writer, preparer, hinter, merger, scrubber } = workers;
        let (jobs, jobs_received) = unbounded();
        let (requests, requests_received) = unbounded();
        let (hints, hints_received) = unbounded();
        let (merges, merges_received) = unbounded();
        let (scrubs, scrubs_received) = unbounded();
        let shared = || (jobs.clone(), inbox.clone(), Arc::clone(metrics));
        let on_damage = reporter(jobs.clone(), inbox.clone(), Arc::clone(metrics), alone);
        let remembered = Arc::new(Remembered::default());
        let mut joined = Vec::new();
        let ((_, to, counters), memory) = (shared(), Arc::clone(&remembered));
        joined.push(spawn("log-writer", move || run_writer(writer, &jobs_received, &to, &counters, &memory))?);
        let (done, to, counters) = shared();
        joined.push(spawn("preparer", move || run_preparer(preparer, &requests_received, &done, &to, &counters))?);
        let ((done, to, _), damaged) = (shared(), Arc::clone(&on_damage));
        joined.push(spawn("hinter", move || run_hinter(&hinter, &hints_received, &done, &to, &damaged))?);
        // These two end with the process: whatever they are at counts for nothing before the log writer has said so.
        let ((done, to, counters), damaged) = (shared(), Arc::clone(&on_damage));
        spawn("merger", move || run_merger(&merger, &merges_received, &done, &to, &counters, &damaged))?;
        let ((_, to, counters), damaged) = (shared(), Arc::clone(&on_damage));
        spawn("scrubber", move || run_scrubber(&scrubber, &scrubs_received, &to, &counters, &damaged))?;
        let work = DiskWork { writer: jobs, preparer: requests, hinter: hints, merger: merges, scrubber: scrubs };
        Ok(DiskThreads { work, joined, on_damage, remembered })
    }

    /// Is to be told of damage that others find.
    pub(super) fn on_damage(&self) -> OnDamage {
        Arc::clone(&self.on_damage)
    }

    /// Ends the process over an error. Damage is remembered first, so that the next start looks for it and does not run into it again.
    pub(super) fn fatal(&self) -> Fatal {
        let (on_damage, remembered) = (self.on_damage(), Arc::clone(&self.remembered));
        Arc::new(move |error| {
            if let Error::Corrupt { .. } = error {
                on_damage(&error);
                remembered.wait(REMEMBER_PATIENCE);
            }
            fatal(&error)
        })
    }

    /// Waits until what was asked for before is done.
    pub(super) fn stop(self) {
        let DiskThreads { work, joined, .. } = self;
        let _ = work.writer.send(Job::Stop);
        drop(work);
        joined.into_iter().for_each(join_thread);
    }
}
