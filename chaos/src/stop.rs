//! Ctrl-C. The first one (or a SIGTERM) asks for an orderly end; the second ends the process at once with exit code 130, after the one
//! thing that must not be left undone: the nodes that this process started.

use crate::error::{EXIT_INTERRUPTED, Error};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::{Duration, Instant};

type LastAct = Box<dyn FnOnce() + Send>;

/// Whether the user wants this to end. Shared by all threads.
#[derive(Default)]
pub(crate) struct Stop {
    requested: Mutex<bool>,
    changed: Condvar,
    last_act: Mutex<Option<LastAct>>,
}

impl Stop {
    /// Takes over the signals of this process; call it once.
    pub(crate) fn install() -> Result<Arc<Stop>, Error> {
        let stop = Arc::new(Stop::default());
        let handler = Arc::clone(&stop);
        let installed = ctrlc::set_handler(move || {
            if handler.is_requested() {
                handler.abort();
            }
            handler.request();
        });
        installed.map_err(|error| Error::local("take over Ctrl-C", std::io::Error::other(error)))?;
        Ok(stop)
    }

    /// Asks for an orderly end.
    pub(crate) fn request(&self) {
        *self.requested.lock() = true;
        self.changed.notify_all();
    }

    /// Whether an end was asked for.
    pub(crate) fn is_requested(&self) -> bool {
        *self.requested.lock()
    }

    /// Waits for `time`, less if an end is asked for; returns whether it is.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        self.wait_until(Instant::now() + time)
    }

    /// Waits until `deadline`, less if an end is asked for; returns whether it is.
    pub(crate) fn wait_until(&self, deadline: Instant) -> bool {
        let mut requested = self.requested.lock();
        while !*requested && !self.changed.wait_until(&mut requested, deadline).timed_out() {}
        *requested
    }

    /// What a second Ctrl-C does before it ends the process; replaces the one before.
    pub(crate) fn at_abort(&self, last_act: impl FnOnce() + Send + 'static) {
        *self.last_act.lock() = Some(Box::new(last_act));
    }

    fn abort(&self) -> ! {
        if let Some(last_act) = self.last_act.lock().take() {
            last_act();
        }
        std::process::exit(i32::from(EXIT_INTERRUPTED));
    }
}
