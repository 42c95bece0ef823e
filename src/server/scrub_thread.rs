//! The scrubber's thread: reads old files again and again, slowly. Damage is said at once and remembered on disk, so that the next start
//! puts it right from the other nodes; until then the node goes on, and refuses what it cannot read.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::error::Error;
use crate::storage::scrub::{ScrubJob, Scrubber};
use crate::storage::writer::Job;

use super::event::Event;
use super::metrics::Metrics;
use super::pace::{Pace, Rates};

/// Bytes read in a second: a file system of 100 GB is read in half a day.
const RATES: Rates = Rates { busy: 2 << 20, idle: 8 << 20 };

/// Reads on request until the channel closes.
pub(super) fn run_scrubber<C>(
    scrubber: &Scrubber,
    requests: &Receiver<ScrubJob>,
    writer: &Sender<Job>,
    inbox: &Sender<Event<C>>,
    metrics: &Arc<Metrics>,
) {
    for job in requests {
        let mut pace = Pace::new(metrics, RATES);
        let damage = match scrubber.scrub(&job, &mut |bytes| {
            metrics.scrubbed_bytes.add(bytes);
            pace.moved(bytes);
        }) {
            Ok(()) => None,
            Err(error @ Error::Corrupt { .. }) => {
                metrics.damage_found.increment();
                log::error!("{error}; restart this node to have its log fetched again from the others");
                if writer.send(Job::Distrust).is_err() {
                    return;
                }
                Some(error.to_string())
            }
            Err(error) => {
                log::warn!("{error}; {} is read again in the next round", job.file().0);
                None
            }
        };
        if inbox.send(Event::Scrubbed(damage)).is_err() {
            return;
        }
    }
}
