//! Saying things once. A peer that is away is tried many times a second, and a stranger may knock as often; the log gets one line per
//! change, and one per second at most for strangers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What was last said about each subject.
#[derive(Debug, Default)]
pub struct Notices {
    said: Mutex<BTreeMap<String, String>>,
    doubted: Mutex<BTreeMap<String, Instant>>,
}

impl Notices {
    /// Whether `text` is news about `subject`; it is taken for said. Subjects are few: never a stranger's words.
    pub fn changed(&self, subject: &str, text: &str) -> bool {
        let mut said = self.said.lock();
        if said.get(subject).is_some_and(|last| last == text) {
            return false;
        }
        said.insert(subject.to_owned(), text.to_owned());
        true
    }

    /// For how long `subject` has been doubted without a break.
    pub fn doubt(&self, subject: &str) -> Duration {
        self.doubted.lock().entry(subject.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    /// `subject` is no longer doubted.
    pub fn trust(&self, subject: &str) {
        self.doubted.lock().remove(subject);
    }

    /// Whether there was anything to say about `subject`; from now on there is not.
    pub fn settled(&self, subject: &str) -> bool {
        self.said.lock().remove(subject).is_some()
    }
}

/// At most one line per interval.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    /// One line per `interval`.
    pub fn new(interval: Duration) -> Throttle {
        Throttle { interval, state: Mutex::new((None, 0)) }
    }

    /// `Some` with the number of lines left out since the last one if a line may be written now.
    pub fn allow(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.0.is_some_and(|last| now.duration_since(last) < self.interval) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}
