//! One writer: loops over keys that are its own, one write at a time, and keeps their histories. Now and then it reads a key back at
//! once, so that a stale read is found when it happens and not only when it lasts.

use super::history::{History, WriteNumber, value_of};
use super::session::{Findings, Session};
use apexkv_client::{Client, Error, FailedAttempt};
use parking_lot::Mutex;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One write in this many is followed by a read of its key.
const READ_EVERY: u64 = 16;
/// Pause after a refusal that another attempt would not change.
const REFUSAL_PAUSE: Duration = Duration::from_millis(100);
/// A writer that waits for its turn looks this often whether it is to stop.
const PACE_SLICE: Duration = Duration::from_millis(50);

/// Writes until the session ends.
pub(crate) fn write(session: &Arc<Session>, number: usize) -> Findings {
    let settings = &session.settings;
    let began = Arc::new(Mutex::new(Instant::now()));
    let observer = {
        let (session, began) = (Arc::clone(session), Arc::clone(&began));
        move |failed: &FailedAttempt| {
            let attempt_began = std::mem::replace(&mut *began.lock(), Instant::now());
            session.attempt_failed(failed, attempt_began);
        }
    };
    let client = session.client(observer).expect("the command line has checked endpoints and time limits");
    let own = (number as u64..settings.keys).step_by(settings.writers);
    let mut findings = Findings::new();
    findings.histories = own.map(|key| (key, History::default())).collect();
    let chance = ChaCha8Rng::seed_from_u64(settings.seed.wrapping_add(number as u64));
    let mut writer = Writer { session, client, began, findings };
    writer.run(chance);
    writer.findings
}

struct Writer<'a> {
    session: &'a Session,
    client: Client,
    /// When the present attempt began; the observer moves it on.
    began: Arc<Mutex<Instant>>,
    findings: Findings,
}

impl Writer<'_> {
    fn run(&mut self, mut chance: ChaCha8Rng) {
        let settings = &self.session.settings;
        let interval = settings.rate.map(|rate| Duration::from_secs_f64(settings.writers as f64 / rate));
        let mut next = Instant::now();
        while self.session.is_writing() {
            if let Some(interval) = interval {
                // What an outage held up is not caught up on in a burst.
                next = next.max(Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(next));
                self.wait_until(next);
                next += interval;
            }
            let position = chance.random_range(0..self.findings.histories.len() as u64) as usize;
            let number = self.session.next_number();
            self.write_once(position, number);
            if number.is_multiple_of(READ_EVERY) {
                self.read_back(position);
            }
        }
    }

    fn wait_until(&self, instant: Instant) {
        while self.session.is_writing() {
            let left = instant.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(PACE_SLICE));
        }
    }

    /// Carries one write to an end: acknowledged, unknown, or given up because the session ends.
    fn write_once(&mut self, position: usize, number: WriteNumber) {
        let key = self.findings.histories[position].0;
        let (name, value) = (self.session.settings.key(key), value_of(number));
        let started = Instant::now();
        while self.session.is_writing() {
            *self.began.lock() = Instant::now();
            let result = self.client.set(name.as_bytes(), value.as_bytes());
            let began = *self.began.lock();
            match result {
                Ok(version) => return self.acknowledged(position, number, version, started, began),
                Err(Error::Unknown { endpoint, .. }) => {
                    self.findings.histories[position].1.unknown(number);
                    self.findings.unknown += 1;
                    return self.session.failed_at(&endpoint, began);
                }
                Err(error @ Error::Unavailable { .. }) => {
                    self.findings.refused += 1;
                    self.findings.last_refusal = Some(error.to_string());
                    self.session.failed_everywhere(began);
                }
                // Certainly without effect, and the node has said why; the text is shown at the end.
                Err(error) => {
                    self.findings.refused += 1;
                    self.findings.last_refusal = Some(error.to_string());
                    std::thread::sleep(REFUSAL_PAUSE);
                }
            }
        }
    }

    fn acknowledged(&mut self, position: usize, number: WriteNumber, version: u64, started: Instant, began: Instant) {
        let (key, history) = &mut self.findings.histories[position];
        let key = *key;
        if let Err(violation) = history.acknowledged(number, version) {
            self.session.announce_violation(key, &violation);
            self.findings.violations.push((key, violation));
        }
        self.findings.record_latency(started.elapsed());
        self.session.write_acknowledged(key, number, self.client.endpoint().unwrap_or_default(), began);
    }

    /// Reads a key; a read that fails proves nothing and is not repeated.
    fn read_back(&mut self, position: usize) {
        *self.began.lock() = Instant::now();
        let key = self.findings.histories[position].0;
        let Ok(found) = self.client.get_versioned(self.session.settings.key(key).as_bytes()) else { return };
        let found = found.as_ref().map(|(version, value)| (*version, value.as_slice()));
        if let Err(violation) = self.findings.histories[position].1.read(found) {
            self.session.announce_violation(key, &violation);
            self.findings.violations.push((key, violation));
        }
    }
}
