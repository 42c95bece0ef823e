//! What becomes of damage that is found while the node runs, whoever finds it: it is said, counted, shown in STATUS, and remembered on
//! disk, so that the next start puts it right from the other nodes. Until then the node goes on, and refuses what it cannot read. Nothing
//! here waits, but for whoever ends the process.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::server::mailbox::Sender;
use parking_lot::{Condvar, Mutex};

use crate::storage::writer::Job;

use super::event::Event;
use super::metrics::Metrics;
use super::shared::OnDamage;

/// Whether the manifest says that damage was found.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    is_remembered: Mutex<bool>,
    changed: Condvar,
}

impl Remembered {
    /// It says so now.
    pub(super) fn set(&self) {
        *self.is_remembered.lock() = true;
        self.changed.notify_all();
    }

    /// Waits until it does, for no longer than this.
    pub(super) fn wait(&self, patience: Duration) {
        let mut is_remembered = self.is_remembered.lock();
        self.changed.wait_while_for(&mut is_remembered, |is_remembered| !*is_remembered, patience);
    }
}

/// Most places that are said: a disk that loses everything has made itself heard by then.
const SAID_MAX: usize = 1000;

/// Makes what damage is told to. `alone` is a node that is a cluster of its own.
pub(super) fn reporter<C: Send + 'static>(writer: Sender<Job>, inbox: Sender<Event<C>>, metrics: Arc<Metrics>, alone: bool) -> OnDamage {
    let said = Mutex::new(HashSet::new());
    Arc::new(move |error| {
        let text = error.to_string();
        let mut said = said.lock();
        if said.len() >= SAID_MAX || !said.insert(text.clone()) {
            return;
        }
        drop(said);
        let remedy = if alone {
            "no other node has the data: look with apexkv check while this node is stopped, and restore a backup"
        } else {
            "restart this node to have what is lost fetched from the others; if several say this, restart one at a time, and wait until \
             its STATUS has neither damage nor lost_to_damage any more"
        };
        metrics.damage_found.increment();
        log::error!("{text}; {remedy}");
        // Closed channels mean that the process is ending.
        let _ = writer.send(Job::Distrust);
        let found = humantime::format_rfc3339_seconds(SystemTime::now());
        let _ = inbox.send(Event::Damaged(format!("found at {found}: {text}; {remedy}")));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::server::mailbox::unbounded;

    #[test]
    fn damage_is_remembered_and_shown_once_however_often_it_is_met() {
        let (writer, jobs) = unbounded();
        let (inbox, events) = unbounded::<Event<()>>();
        let metrics = Arc::new(Metrics::default());
        let report = reporter(writer, inbox, Arc::clone(&metrics), false);
        let error = |offset| Error::Corrupt { file: "00000007.log".to_owned(), offset, reason: "rotten".to_owned() };
        (0..100).for_each(|_| [5, 6].into_iter().for_each(|offset| report(&error(offset))));
        assert_eq!((jobs.len(), metrics.damage_found.get()), (2, 2));
        for offset in ["5", "6"] {
            let Ok(Event::Damaged(text)) = events.try_recv() else { panic!("an alarm for offset {offset}") };
            let parts = ["found at 20", "00000007.log is damaged at offset ", offset, "one at a time", "lost_to_damage"];
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        assert!(events.is_empty());
    }
}
