//! Slows work in the background down, so that the disk and the network stay free for those who wait for an answer. Decides nothing but how
//! long to sleep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::metrics::Metrics;

/// How often the rate is looked at.
const STEP: u64 = 1 << 20;
/// Somebody writes if the log got more batches than this during a step.
const BUSY_BATCHES: u64 = 2;

/// Bytes a second that the work may move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// While clients write, too.
    pub(super) busy: u64,
    /// While nobody writes.
    pub(super) idle: u64,
}

/// Keeps one piece of work at its rate.
pub(super) struct Pace {
    metrics: Arc<Metrics>,
    rates: Rates,
    /// Bytes since the last pause.
    bytes: u64,
    begun: Instant,
    batches: u64,
}

impl Pace {
    /// Nothing has been moved yet.
    pub(super) fn new(metrics: &Arc<Metrics>, rates: Rates) -> Pace {
        Pace { metrics: Arc::clone(metrics), rates, bytes: 0, begun: Instant::now(), batches: metrics.log_batches.get() }
    }

    /// Notes that so many bytes were moved, and sleeps if they were more than were due.
    pub(super) fn moved(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes < STEP {
            return;
        }
        let batches = self.metrics.log_batches.get();
        let rate = if batches - self.batches > BUSY_BATCHES { self.rates.busy } else { self.rates.idle };
        let due = Duration::from_micros(self.bytes * 1_000_000 / rate);
        std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
        (self.bytes, self.begun, self.batches) = (0, Instant::now(), batches);
    }
}
