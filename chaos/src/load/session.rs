//! What the writers share, and their life as threads: started together, stopped together, and their findings put into one.

use super::history::{History, Violation, WriteNumber};
use super::mixed;
use super::outage::{Change, Outage, Tracker};
use super::throughput::Throughput;
use super::writer;
use crate::error::Error;
use crate::screen::{Colour, Screen, grouped, short_endpoint, short_time};
use apexkv_chaos::linearizability;
use apexkv_client::{Client, FailedAttempt, Failure};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time to connect to one address of a node.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// Time over which the shown rate is taken.
const RATE_OVER: Duration = Duration::from_secs(1);

/// What the load looks like.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Client addresses of the nodes.
    pub(crate) endpoints: Vec<String>,
    /// What all keys of this run start with.
    pub(crate) prefix: String,
    /// Threads that write, each to keys of its own.
    pub(crate) writers: usize,
    /// Clients that mix all operations on few keys.
    pub(crate) mixed: usize,
    /// Keys of all writers together; at least one a writer.
    pub(crate) keys: u64,
    /// Most writes a second, of all writers together.
    pub(crate) rate: Option<f64>,
    /// After this time a write counts as unknown, and the writer goes on at another node.
    pub(crate) attempt_timeout: Duration,
    /// Seed of the order in which keys are written.
    pub(crate) seed: u64,
    /// Whether writes, outages and new leaders are shown as they come.
    pub(crate) show_events: bool,
}

impl Settings {
    /// The key as the user sees it.
    pub(crate) fn short_key(number: u64) -> String {
        format!("user_{number}")
    }

    /// The key as it is stored.
    pub(crate) fn key(&self, number: u64) -> String {
        format!("{}-{}", self.prefix, Settings::short_key(number))
    }
}

/// A prefix that no other run uses at the same time.
pub(crate) fn random_prefix() -> String {
    format!("chaos-{:06x}", rand::random::<u32>() & 0xff_ffff)
}

/// What the writers share.
pub(crate) struct Session {
    pub(crate) settings: Settings,
    pub(crate) screen: Arc<Screen>,
    pub(crate) started: Instant,
    tracker: Mutex<Tracker>,
    writing: AtomicBool,
    numbers: AtomicU64,
    acknowledged: AtomicU64,
    mixed: AtomicU64,
    throughput: Mutex<Throughput>,
}

impl Session {
    pub(crate) fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Relaxed)
    }

    /// A number for the next write; no two writes of the run share one.
    pub(crate) fn next_number(&self) -> WriteNumber {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A number for the next operation of the mixed clients, from 0.
    pub(crate) fn next_mixed(&self) -> u64 {
        self.mixed.fetch_add(1, Ordering::Relaxed)
    }

    /// Time since the start of the session.
    pub(crate) fn microseconds(&self) -> u64 {
        mixed::microseconds(self.started)
    }

    /// Writes acknowledged so far.
    pub(crate) fn acknowledged_so_far(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// A client for one writer; `observer` hears of each failed attempt.
    pub(crate) fn client(&self, observer: impl Fn(&FailedAttempt) + Send + Sync + 'static) -> Result<Client, apexkv_client::Error> {
        client(&self.settings.endpoints, self.settings.attempt_timeout).observer(observer).build()
    }

    /// A write was acknowledged, or an operation of a mixed client was answered.
    pub(crate) fn count_answer(&self) {
        self.throughput.lock().count(self.started.elapsed());
    }

    /// `write` was acknowledged by `endpoint` on an attempt that began at `began`.
    pub(crate) fn write_acknowledged(&self, key: u64, number: WriteNumber, endpoint: &str, began: Instant) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.count_answer();
        let change = self.tracker.lock().acknowledged(endpoint, began, Instant::now());
        self.announce(change);
        if self.settings.show_events {
            let via = short_endpoint(endpoint);
            self.screen.sample(|| format!("Set {} = {} (via {via})", Settings::short_key(key), super::history::value_of(number)));
        }
    }

    /// An attempt that began at `began` has failed.
    pub(crate) fn attempt_failed(&self, attempt: &FailedAttempt, began: Instant) {
        // A redirection is an answer of a working cluster; being busy is one, too, as long as it passes.
        let down = match &attempt.failure {
            Failure::NotLeader { leader } => leader.is_none(),
            Failure::Busy(_) => false,
            Failure::NotConnected(_) | Failure::NoAnswer(_) | Failure::Malformed(_) => true,
        };
        if down {
            self.failed_at(&attempt.endpoint, began);
        }
    }

    /// A write that was sent to `endpoint` was not answered.
    pub(crate) fn failed_at(&self, endpoint: &str, began: Instant) {
        let change = self.tracker.lock().failed(endpoint, began, Instant::now());
        self.announce(change);
    }

    /// No node took a write in time.
    pub(crate) fn failed_everywhere(&self, began: Instant) {
        let mut tracker = self.tracker.lock();
        let leader = tracker.leader().map(str::to_owned);
        let change = leader.and_then(|leader| tracker.failed(&leader, began, Instant::now()));
        drop(tracker);
        self.announce(change);
    }

    fn announce(&self, change: Option<Change>) {
        let Some(change) = change.filter(|_| self.settings.show_events) else { return };
        let text = match change {
            Change::Found { leader } => format!("Connected; the leader is {}", short_endpoint(&leader)),
            Change::Down { .. } => self.screen.paint(Colour::Red, "Cluster Down! Retrying..."),
            Change::Back(outage) => {
                let found = format!("Leader found again via {} after {}", short_endpoint(&outage.new_leader), short_time(outage.length()));
                self.screen.paint(Colour::Green, found)
            }
            Change::Moved { old_leader, new_leader } => {
                format!("The leadership has moved from {} to {}", short_endpoint(&old_leader), short_endpoint(&new_leader))
            }
        };
        self.screen.line(text);
    }

    /// Something that must not be has been seen.
    pub(crate) fn announce_violation(&self, key: u64, violation: &Violation) {
        self.screen.line(self.screen.paint(Colour::Red, format!("VIOLATION {}: {violation}", Settings::short_key(key))));
    }

    /// The first finished outage that ended after `instant`.
    pub(crate) fn outage_ended_after(&self, instant: Instant) -> Option<Outage> {
        self.tracker.lock().outages().iter().find(|outage| outage.until > instant).cloned()
    }
}

/// Settings of every client of this program.
pub(crate) fn client(endpoints: &[String], timeout: Duration) -> apexkv_client::Builder {
    let attempt = timeout.min(Duration::from_millis(500));
    Client::builder().endpoints(endpoints).timeout(timeout).connect_timeout(CONNECT_TIMEOUT.min(timeout)).read_attempt_timeout(attempt)
}

/// What one writer found out, or all of them.
pub(crate) struct Findings {
    /// By key number.
    pub(crate) histories: Vec<(u64, History)>,
    /// Microseconds from the first attempt of a write to its acknowledgement.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) unknown: u64,
    /// Attempts that certainly had no effect; they were repeated.
    pub(crate) refused: u64,
    pub(crate) violations: Vec<(u64, Violation)>,
    /// The last refusal in the words of the client.
    pub(crate) last_refusal: Option<String>,
}

impl Findings {
    pub(crate) fn new() -> Findings {
        Findings {
            histories: Vec::new(),
            latencies: Histogram::new(3).expect("three significant digits are within what a histogram can have"),
            unknown: 0,
            refused: 0,
            violations: Vec::new(),
            last_refusal: None,
        }
    }

    /// A write was acknowledged so long after its first attempt.
    pub(crate) fn record_latency(&mut self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.latencies.record(microseconds).expect("a histogram that resizes itself takes every value");
    }

    fn add(&mut self, other: Findings) {
        self.histories.extend(other.histories);
        self.latencies.add(&other.latencies).expect("a histogram that resizes itself takes every value of another one");
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.violations.extend(other.violations);
        self.last_refusal = other.last_refusal.or(self.last_refusal.take());
    }
}

/// All that is known when the writers have stopped.
pub(crate) struct Evidence {
    pub(crate) findings: Findings,
    /// Of the mixed clients; its clock started at `started`.
    pub(crate) history: linearizability::History,
    pub(crate) outages: Vec<Outage>,
    pub(crate) failovers: u64,
    /// Who acknowledged from when on.
    pub(crate) leaders: Vec<(Instant, String)>,
    /// When what was answered.
    pub(crate) throughput: Throughput,
    /// How long the cluster has been down, if it still is.
    pub(crate) down_for: Option<Duration>,
    pub(crate) started: Instant,
    /// When the writers were told to stop.
    pub(crate) ended: Instant,
}

/// Writers at work.
pub(crate) struct Load {
    session: Arc<Session>,
    writers: Vec<JoinHandle<Findings>>,
    mixers: Vec<JoinHandle<linearizability::History>>,
    /// When the rate was computed last, the writes by then, and the rate.
    rate: (Instant, u64, f64),
}

impl Load {
    /// Starts the writers.
    pub(crate) fn start(settings: Settings, screen: &Arc<Screen>) -> Result<Load, Error> {
        let now = Instant::now();
        let session = Arc::new(Session {
            settings,
            screen: Arc::clone(screen),
            started: now,
            tracker: Mutex::default(),
            writing: AtomicBool::new(true),
            numbers: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            mixed: AtomicU64::new(0),
            throughput: Mutex::default(),
        });
        let mut load = Load { session, writers: Vec::new(), mixers: Vec::new(), rate: (now, 0, 0.0) };
        for number in 0..load.session.settings.writers {
            let session = Arc::clone(&load.session);
            let spawned = thread::Builder::new().name(format!("writer-{number}")).spawn(move || writer::write(&session, number));
            load.writers.push(spawned.map_err(|error| Error::local("start a writer thread", error))?);
        }
        for number in 0..load.session.settings.mixed {
            let session = Arc::clone(&load.session);
            let spawned = thread::Builder::new().name(format!("mixed-{number}")).spawn(move || mixed::mix(&session, number));
            load.mixers.push(spawned.map_err(|error| Error::local("start a client thread", error))?);
        }
        Ok(load)
    }

    /// What the writers share.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Renews the progress line; call it a few times a second.
    pub(crate) fn show_progress(&mut self) {
        let (then, before, mut rate) = self.rate;
        let (now, total) = (Instant::now(), self.session.acknowledged_so_far());
        if now - then >= RATE_OVER || rate == 0.0 {
            rate = (total - before) as f64 / (now - then).as_secs_f64().max(1e-3);
            self.rate = (now, total, rate);
        }
        self.session.screen.progress(|| {
            let tracker = self.session.tracker.lock();
            let state = match (tracker.down_since(), tracker.leader()) {
                (Some(since), _) => format!("down for {}", short_time(now - since)),
                (None, Some(leader)) => format!("via {}", short_endpoint(leader)),
                (None, None) => "no leader yet".to_owned(),
            };
            format!("{} writes, {}/s, {} failovers, {state}", grouped(total), grouped(rate as u64), tracker.failovers())
        });
    }

    /// Stops the writers and waits for their last attempts, each at most one attempt's time long.
    pub(crate) fn finish(self) -> Evidence {
        let ended = Instant::now();
        self.session.writing.store(false, Ordering::Relaxed);
        let mut findings = Findings::new();
        for writer in self.writers {
            findings.add(writer.join().expect("a panic ends the process, so every writer returns"));
        }
        let mut history = linearizability::History::default();
        for mixer in self.mixers {
            history.append(mixer.join().expect("a panic ends the process, so every client returns"));
        }
        self.session.screen.end_progress();
        findings.histories.sort_by_key(|(key, _)| *key);
        let tracker = self.session.tracker.lock();
        Evidence {
            findings,
            history,
            outages: tracker.outages().to_vec(),
            failovers: tracker.failovers(),
            leaders: tracker.leaders().to_vec(),
            throughput: std::mem::take(&mut *self.session.throughput.lock()),
            down_for: tracker.down_since().map(|since| since.elapsed()),
            started: self.session.started,
            ended,
        }
    }
}
