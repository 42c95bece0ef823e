//! The scrubber's thread: reads old files again and again, slowly, so that damage is found while the other nodes still have the data.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::error::Error;
use crate::storage::scrub::{ScrubJob, Scrubber};

use super::event::Event;
use super::metrics::Metrics;
use super::pace::{Pace, Rates};
use super::shared::OnDamage;

/// Bytes read in a second: a file system of 100 GB is read in half a day.
const RATES: Rates = Rates { busy: 2 << 20, idle: 8 << 20 };

/// Reads on request until the channel closes.
pub(super) fn run_scrubber<C>(
    scrubber: &Scrubber,
    requests: &Receiver<ScrubJob>,
    inbox: &Sender<Event<C>>,
    metrics: &Arc<Metrics>,
    on_damage: &OnDamage,
) {
    for job in requests {
        let mut pace = Pace::new(metrics, RATES);
        let scrubbed = scrubber.scrub(&job, &mut |bytes| {
            metrics.scrubbed_bytes.add(bytes);
            pace.moved(bytes);
        });
        match scrubbed {
            Ok(()) => {}
            Err(error @ Error::Corrupt { .. }) => on_damage(&error),
            Err(error) => log::warn!("{error}; {} is read again in the next round", job.file().0),
        }
        if inbox.send(Event::Scrubbed).is_err() {
            return;
        }
    }
}
