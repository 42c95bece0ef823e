//! The client port: everything between a client's socket and the Raft thread's inbox. This file holds what is configured and shared
//! and the port's start and stop; the rooms behind it are
//!
//! | file | what |
//! |---|---|
//! | `accept` | listeners, accept threads, the cap on connections |
//! | `turnaway` | BUSY for connections over the cap |
//! | `serve`, `input` | a connection's thread and its receive buffer |
//! | `request`, `batch` | frames to checked requests to one batch for the Raft thread |
//! | `connection`, `output` | outcomes to responses, in order, sent by whoever completes the head |
//! | `gate` | reads that were looked up and wait for their confirmation |
//! | `values`, `reads`, `stream`, `response` | values from the store into responses |
//! | `responders` | many answers of the Raft thread at a time |
//! | `backups` | the whole state, part by part |
//! | `flusher` | finishes what clients did not take at once, cuts those that take nothing |
//!
//! Nothing here decides about the log: what is not answered on the spot is answered by the Raft thread's outcomes.

use super::accept;
use super::backups::{Backups, Source};
use super::connection::Connection;
use super::event::Event;
use super::flusher::Flusher;
use super::gate::ReadGate;
use super::metrics::Metrics;
use super::shared::OnDamage;
use super::turnaway;
use super::values::Values;
use super::wake::Wake;
use crate::error::{Error, Result};
use crate::raft::NodeId;
use crate::server::mailbox::Sender;
use crate::storage::snapshot::SnapshotMaker;
use apexkv_client::protocol::{DEFAULT_MAX_KEY, DEFAULT_MAX_VALUE};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::fmt;
use std::net::{Shutdown, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What responses say about the cluster. Called by connection threads and by the Raft thread: nothing here may block.
pub trait NodeView: Send + Sync {
    /// The address at which clients reach a member, if it is known.
    fn client_address(&self, node: NodeId) -> Option<String>;
    /// The STATUS object.
    fn status_json(&self) -> String;
}

/// Limits that a client can run into.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// Longest key in bytes (`--max-key-bytes`).
    pub key_bytes_max: u32,
    /// Longest value in bytes (`--max-value-bytes`).
    pub value_bytes_max: u32,
    /// Connections served at a time (`--max-connections`).
    pub connections_max: usize,
    /// Time limit of a request that names none (`--request-timeout`).
    pub request_timeout: Duration,
    /// How long a frame may take from its first byte to its last.
    pub frame_time: Duration,
    /// How long a refusal waits for its request id when the lengths before it are already known to be too large.
    pub doomed_time: Duration,
    /// How long a client may take no byte of its responses before it is cut.
    pub stall_time: Duration,
    /// How long input is discarded before a connection is closed for a fault.
    pub drain_time: Duration,
    /// How many bytes are discarded then.
    pub drain_bytes: usize,
    /// Response bytes of one connection that may wait for the client before nothing more is read or served. What is built goes beyond
    /// it by one piece at most: large responses are built piece by piece.
    pub unsent_bytes: usize,
    /// Response bytes of all connections that may wait for their clients; over it reads are answered BUSY.
    pub unsent_bytes_total: usize,
    /// Requests of one connection that may be open before nothing more is read.
    pub unanswered_requests: usize,
    /// Bytes of one connection's requests that may wait for the Raft thread before nothing more is read.
    pub unanswered_bytes: usize,
    /// Bytes of all requests that may wait for the Raft thread, a fixed overhead for each included; over it is BUSY. One request of
    /// any size fits when nothing waits.
    pub in_flight_bytes: usize,
    /// How long open requests may still be answered when the port stops.
    pub stop_time: Duration,
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            key_bytes_max: DEFAULT_MAX_KEY,
            value_bytes_max: DEFAULT_MAX_VALUE,
            connections_max: 10_000,
            request_timeout: Duration::from_secs(5),
            frame_time: Duration::from_secs(10),
            doomed_time: Duration::from_millis(250),
            stall_time: Duration::from_secs(10),
            drain_time: Duration::from_secs(1),
            drain_bytes: 1 << 20,
            unsent_bytes: 64 << 10,
            unsent_bytes_total: 512 << 20,
            unanswered_requests: 16 << 10,
            unanswered_bytes: 32 << 20,
            in_flight_bytes: 256 << 20,
            stop_time: Duration::from_secs(1),
        }
    }
}

/// What the port is started with.
#[derive(Debug)]
pub struct ClientPortConfig {
    /// Where clients arrive; see [`accept::listen`].
    pub listeners: Vec<TcpListener>,
    /// What clients may do.
    pub limits: ClientLimits,
    /// Where to count.
    pub metrics: Arc<Metrics>,
}

/// What the port's threads share.
pub(super) struct Port {
    pub(super) limits: ClientLimits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) view: Arc<dyn NodeView>,
    /// The Raft thread and the store, once there are any.
    pub(super) attached: OnceLock<Attached>,
    pub(super) in_flight: InFlight,
    pub(super) backups: Arc<Backups>,
    /// Response bytes of all connections that their clients have not taken.
    pub(super) unsent: AtomicUsize,
    pub(super) flusher: Flusher,
    pub(super) stopping: AtomicBool,
    /// Rung once, when the port stops, and never cleared.
    pub(super) stop_bell: Wake,
    pub(super) numbers: AtomicU64,
    pub(super) connections: Mutex<HashMap<u64, Arc<Connection>>>,
    /// Notified when a connection has ended.
    pub(super) all_ended: Condvar,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Where requests go.
pub(super) struct Attached {
    pub(super) inbox: Sender<Event<Arc<Connection>>>,
    /// For word that reads wait.
    pub(super) reads: Sender<Event<Arc<Connection>>>,
    pub(super) gate: Arc<ReadGate<Arc<Connection>>>,
    pub(super) values: Values,
}

/// The cost of everything that waits for the Raft thread, over all connections.
#[derive(Debug, Default)]
pub(super) struct InFlight(AtomicUsize);

impl InFlight {
    /// Adds a batch, also one that is refused in the next moment, and returns the cost of all.
    pub(super) fn enter(&self, cost: usize) -> usize {
        self.0.fetch_add(cost, SeqCst) + cost
    }

    /// Takes off what has been answered.
    pub(super) fn release(&self, cost: usize) {
        let before = self.0.fetch_sub(cost, SeqCst);
        assert!(before >= cost, "{cost} bytes answered while {before} were in flight");
    }
}

/// The running client port. Dropping it stops it.
pub struct ClientPort {
    port: Arc<Port>,
    accepting: Vec<JoinHandle<()>>,
    helping: Vec<JoinHandle<()>>,
}

impl ClientPort {
    /// Starts serving. Until [`ClientPort::attach`] there is no Raft thread: PING and STATUS answer, everything else is NOT_LEADER
    /// without an address.
    ///
    /// # Errors
    /// When the system refuses threads, pipes or the listeners' settings.
    pub fn start(config: ClientPortConfig, view: Arc<dyn NodeView>) -> Result<ClientPort> {
        let port = Arc::new(Port {
            limits: config.limits,
            metrics: config.metrics,
            view,
            attached: OnceLock::new(),
            in_flight: InFlight::default(),
            backups: Arc::default(),
            unsent: AtomicUsize::new(0),
            flusher: Flusher::new()?,
            stopping: AtomicBool::new(false),
            stop_bell: Wake::new()?,
            numbers: AtomicU64::new(1),
            connections: Mutex::new(HashMap::new()),
            all_ended: Condvar::new(),
        });
        let mut started = ClientPort { port: Arc::clone(&port), accepting: Vec::new(), helping: Vec::new() };
        let flushing = Arc::clone(&port);
        started.helping.push(spawn("client-flusher", move || flushing.flusher.run(flushing.limits.stall_time))?);
        let (overflow, arrivals) = crossbeam_channel::bounded(turnaway::GUESTS_MAX);
        let limits = port.limits.clone();
        started.helping.push(spawn("client-turnaway", move || turnaway::run(&arrivals, &limits))?);
        for listener in config.listeners {
            // Several threads or a vanished client may empty the queue between poll and accept.
            listener.set_nonblocking(true).map_err(Error::io("prepare the client listener"))?;
            let (port, overflow) = (Arc::clone(&port), overflow.clone());
            started.accepting.push(spawn("client-accept", move || accept::run(&listener, &port, &overflow))?);
        }
        Ok(started)
    }

    /// Connects the port with the Raft thread and the store; from now on requests reach them. Word that reads wait goes to `reads`, which
    /// may overtake `inbox`: each such read comes from a connection of which no write waits.
    ///
    /// # Panics
    /// When called twice.
    pub fn attach(
        &self,
        inbox: Sender<Event<Arc<Connection>>>,
        reads: Sender<Event<Arc<Connection>>>,
        gate: Arc<ReadGate<Arc<Connection>>>,
        values: Values,
    ) {
        let first = self.port.attached.set(Attached { inbox, reads, gate, values }).is_ok();
        assert!(first, "the client port is attached to a Raft thread already");
    }

    /// Serves backups from now on; before, and without it, they are BUSY.
    ///
    /// # Panics
    /// When called twice.
    pub fn serve_backups(&self, snapshots: SnapshotMaker, on_damage: OnDamage) {
        let first = self.port.backups.source.set(Source { maker: snapshots, on_damage }).is_ok();
        assert!(first, "the client port serves backups already");
    }

    /// Closes the listeners, lets open requests be answered for a short while (see [`ClientLimits::stop_time`]), closes all
    /// connections and waits for their threads. Calling it again does nothing.
    pub fn stop(&mut self) {
        self.port.stopping.store(true, SeqCst);
        self.port.stop_bell.ring();
        join(&mut self.accepting);
        let all = || self.port.connections.lock().values().cloned().collect::<Vec<_>>();
        // Ends every receive; what has been asked is still answered. A socket that is gone already needs nothing.
        all().iter().for_each(|connection| drop(connection.socket().shutdown(Shutdown::Read)));
        if !self.wait_until_ended() {
            all().iter().for_each(Connection::cut);
            if !self.wait_until_ended() {
                log::warn!("{} client connections did not end in time", self.port.connections.lock().len());
            }
        }
        self.port.flusher.stop();
        join(&mut self.helping);
    }

    /// What connections are made with.
    #[cfg(test)]
    pub(super) fn shared(&self) -> Arc<Port> {
        Arc::clone(&self.port)
    }

    /// Waits for the stop time at most; says whether all connections have ended.
    fn wait_until_ended(&self) -> bool {
        let deadline = Instant::now() + self.port.limits.stop_time;
        let mut connections = self.port.connections.lock();
        while !connections.is_empty() {
            if self.port.all_ended.wait_until(&mut connections, deadline).timed_out() {
                return connections.is_empty();
            }
        }
        true
    }
}

impl Drop for ClientPort {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for ClientPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.port.fmt(f)
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(Error::io(format!("start the thread {name}")))
}

fn join(threads: &mut Vec<JoinHandle<()>>) {
    for thread in threads.drain(..) {
        // A thread that panicked has ended the process with its message already; in tests the message is enough.
        let _ = thread.join();
    }
}
