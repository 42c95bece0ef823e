//! The life of a server process: open the directory, listen, join the cluster, start the threads, serve until told to stop. Order
//! matters: nothing is listened on before the directory is ours, no peer is heard before the log has been recovered from the disk.

use std::collections::BTreeSet;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::server::mailbox::{Receiver, Sender, two_lanes};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::raft::{Node, Settings};
use crate::storage::applier::Applier;
use crate::storage::directory::{Attempt, Directory, Opened};
use crate::storage::disk::Disk;
use crate::storage::real::RealDisk;
use crate::storage::{self, mapping};

use super::background::DiskThreads;
use super::clients::{ClientLimits, ClientPort, ClientPortConfig};
use super::connection::Connection;
use super::event::Event;
use super::gate::ReadGate;
use super::metrics::Metrics;
use super::peers::{Peers, PeersConfig};
use super::raft_thread::{self, Outlets};
use super::recovered::recovered;
use super::replica::{Limits, Replica};
use super::responders::Responders;
use super::status::{Member, StatusView};
use super::values::Values;
use super::view::PeerView;
use super::{accept, admin, founding, identity, join, log_sink, marks, mending, sockets};

/// Open files that are kept for peers, and for segments that are still to come.
const FILES_RESERVED: usize = 512;

/// Names the entry whose effect this node is to lose, for tests of what the others do about it. Builds for users do not look at it.
const LOSE_VARIABLE: &str = "APEXKV_TEST_LOSE_ENTRY";

type Inbox = Sender<Event<Arc<Connection>>>;

/// What is set up before the cluster is known.
struct Early {
    metrics: Arc<Metrics>,
    status: Arc<StatusView>,
    client_port: ClientPort,
    peer_listeners: Vec<TcpListener>,
    /// The senders of the server's own threads and of clients, and what the Raft thread receives. Peers and disks go first: their
    /// messages decide whether a leader is heard, and clients' requests may be many and large.
    inbox: (Inbox, Inbox, Receiver<Event<Arc<Connection>>>),
}

/// Serves until SIGINT or SIGTERM. Errors are those of the start; a storage failure while serving ends the process at once.
pub fn run(config: &Config) -> Result<()> {
    mapping::install_sigbus_handler().map_err(Error::io("install the handler for unreadable pages"))?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&config.data_dir)?);
    let mut directory = Directory::open(Arc::clone(&disk), &config.id)?;
    let names = disk.list().map_err(Error::io(format!("list {}", disk.path())))?;
    let connections_max = raise_descriptor_limit(config.max_connections, FILES_RESERVED + names.len());
    let early = prepare(config, connections_max)?;
    let stop = Arc::new(AtomicBool::new(false));
    handle_signals(&stop, &early.inbox.0)?;
    if let Some(founding) = directory.founding() {
        founding::check_members(founding, &config.members)?;
    } else {
        let joined = join::found_or_join(
            &join::JoinConfig {
                id: &config.id,
                members: &config.members,
                identity: directory.identity(),
                dial: &config.dial,
                listeners: &early.peer_listeners,
                client_address: &config.advertise_client,
                timing: sockets::Timing::default(),
            },
            &stop,
        );
        match joined {
            Ok(record) => directory.found(&record)?,
            Err(Error::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    serve(config, directory, early, &stop)
}

/// Raises the limit on open files to what the system allows, and returns how many client connections may be open so that so many are left
/// for the log and the peers: clients must never be able to stop an election, a new segment, or the recovery of those that stand.
fn raise_descriptor_limit(wanted: usize, reserved: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Refused, the present limit counts.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let allowed = wanted.min(files - reserved.min(files / 2));
    if allowed < wanted {
        log::warn!("--max-connections {wanted} is lowered to {allowed}: the system allows {files} open files (ulimit -n)");
    }
    allowed
}

fn prepare(config: &Config, connections_max: usize) -> Result<Early> {
    let peer_listeners = listen(&config.listen_peer, "peers", "--listen-peer")?;
    let client_listeners = listen(&config.listen_client, "clients", "--listen-client")?;
    let admin_listeners = listen(&config.listen_admin, "admin HTTP", "--listen-admin")?;
    let metrics = Arc::new(Metrics::default());
    let status = Arc::new(StatusView::new(&config.id, Arc::clone(&metrics)));
    for listener in admin_listeners {
        let status = Arc::clone(&status);
        // Ends with the process.
        spawn("admin", move || admin::run(&listener, &status))?;
    }
    let limits = ClientLimits {
        key_bytes_max: config.max_key_bytes,
        value_bytes_max: config.max_value_bytes,
        connections_max,
        request_timeout: config.request_timeout,
        ..ClientLimits::default()
    };
    let port_config = ClientPortConfig { listeners: client_listeners, limits, metrics: Arc::clone(&metrics) };
    let client_port = ClientPort::start(port_config, Arc::clone(&status) as Arc<dyn super::clients::NodeView>)?;
    Ok(Early { metrics, status, client_port, peer_listeners, inbox: two_lanes() })
}

/// Listens on every address that the name resolves to. One that this machine does not have (IPv6 switched off) is passed over as long
/// as another works.
fn listen(name: &str, whom: &str, flag: &str) -> Result<Vec<TcpListener>> {
    let refused = |reason: String| Error::Config(format!("cannot listen for {whom} on {name}: {reason}"));
    let resolved = name.to_socket_addrs().map_err(|error| refused(format!("{error}; name a local address with {flag}")))?;
    let mut listeners = Vec::new();
    let mut failure = "the name resolves to no address".to_string();
    for address in resolved.collect::<BTreeSet<_>>() {
        match accept::listen(address) {
            Ok(listener) => listeners.push(listener),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AddrNotAvailable => {
                failure = format!("{address} is not an address of this machine; name a local one with {flag}");
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
                return Err(refused(format!("{address} is in use; is another node running there? Stop it or choose another port")));
            }
            Err(error) => return Err(refused(error.to_string())),
        }
    }
    if listeners.is_empty() { Err(refused(failure)) } else { Ok(listeners) }
}

/// SIGINT, SIGTERM and SIGHUP: hand leadership over and stop; the second one stops at once.
fn handle_signals(stop: &Arc<AtomicBool>, inbox: &Inbox) -> Result<()> {
    let (stop, inbox) = (Arc::clone(stop), inbox.clone());
    ctrlc::set_handler(move || {
        if stop.swap(true, Ordering::SeqCst) {
            std::process::exit(0);
        }
        log_sink::say("stopping");
        let _ = inbox.send(Event::Shutdown);
    })
    .map_err(|error| Error::Config(format!("cannot handle signals: {error}")))
}

fn limits(config: &Config) -> Limits {
    Limits {
        disk_stall_ms: config.disk_stall_handover.as_millis() as u64,
        index_bytes: config.max_index_bytes.unwrap_or(u64::MAX),
        retain_log_bytes: config.retain_log_bytes,
        ..Limits::default()
    }
}

fn serve(config: &Config, mut directory: Directory, early: Early, stop: &Arc<AtomicBool>) -> Result<()> {
    let Early { metrics, status, mut client_port, peer_listeners, inbox: (inbox, clients_inbox, events) } = early;
    let identity = directory.identity();
    let marks = directory.take_marks();
    let options = storage::Options { segment_bytes: config.segment_bytes, reserve_bytes: config.reserve_bytes };
    let opened = match open(config, directory, &options, &peer_listeners, &marks.1, &status, stop) {
        Err(Error::Closed) => return Ok(()),
        opened => opened?,
    };
    let Opened { lock, founding, node: own, hard_state, log, mut applier, store, commit, floor, snapshots, workers, .. } = *opened;
    let recovered = recovered(&founding, hard_state, &log, commit);
    log::info!("recovered the log to {} in term {}, {} keys", recovered.outline.last(), hard_state.term, store.keys());

    let disk = DiskThreads::start(workers, &inbox, &metrics, founding.members.len() == 1)?;
    lose_as_told(&mut applier);
    let view = Arc::new(PeerView::new(hard_state.term, recovered.outline.last().max(floor)));
    let peers = Arc::new(Peers::start(
        PeersConfig {
            id: config.id.clone(),
            identity,
            founding: founding.clone(),
            dial: config.dial.clone(),
            listeners: peer_listeners,
            client_address: config.advertise_client.clone(),
            marks,
            snapshots: snapshots.clone(),
            on_damage: disk.on_damage(),
            metrics: Arc::clone(&metrics),
            timing: sockets::Timing::default(),
        },
        inbox.clone(),
        Arc::clone(&view),
        disk.fatal(),
    )?);
    let mut node = Node::new(own, settings(config), rand::random(), recovered);
    node.set_floor(floor);
    let replica = Replica::new(node, log, applier, limits(config));

    let members = identity::numbered(&founding);
    let member = Member { peers: Arc::clone(&peers), store: Arc::clone(&store), cluster: founding.cluster, members };
    let first = status.member.set(member).is_ok();
    assert!(first, "a server joins its cluster once");
    let gate = Arc::new(ReadGate::new());
    let outlets = Outlets {
        peers: Arc::clone(&peers),
        view,
        gate: Arc::clone(&gate),
        responders: Responders::start()?,
        disk: disk.work.clone(),
        metrics,
        position: Arc::clone(&status.position),
        ready: ready_line(config),
    };
    client_port.serve_backups(snapshots, disk.on_damage());
    client_port.attach(clients_inbox, inbox.clone(), gate, Values { store, on_damage: disk.on_damage() });
    if stop.load(Ordering::SeqCst) {
        // The signal may have come before anyone read the inbox; asking twice does no harm.
        let _ = inbox.send(Event::Shutdown);
    }
    let raft = spawn("raft", move || {
        raft_thread::run(replica, events, &outlets);
        outlets.responders.stop();
    })?;
    join_thread(raft);
    client_port.stop();
    peers.stop();
    disk.stop();
    drop(lock);
    Ok(())
}

/// Opens the log, with the help of the other nodes if it is damaged.
fn open(
    config: &Config,
    directory: Directory,
    options: &storage::Options,
    listeners: &[TcpListener],
    marks: &[u8],
    status: &StatusView,
    stop: &AtomicBool,
) -> Result<Box<Opened>> {
    let identity = directory.identity();
    let founding = directory.founding().expect("a server opens its log after founding").clone();
    let damaged = match directory.try_open_log(options)? {
        Attempt::Opened(opened) => return Ok(opened),
        Attempt::Damaged(damaged) => damaged,
    };
    // Until the Raft thread says how this node stands.
    status.position.lock().damage = Some(damaged.cause().into());
    let mend_config = mending::MendConfig {
        id: &config.id,
        identity,
        founding: &founding,
        dial: &config.dial,
        listeners,
        client_address: &config.advertise_client,
        marks: &marks::remembered(marks, &founding, &config.id)?,
        timing: sockets::Timing::default(),
    };
    mending::mend(&mend_config, damaged, stop)
}

fn lose_as_told(applier: &mut Applier) {
    if !cfg!(debug_assertions) {
        return;
    }
    if let Some(index) = std::env::var(LOSE_VARIABLE).ok().and_then(|text| text.parse().ok()) {
        log::warn!("{LOSE_VARIABLE} is set: this node loses the effect of entry {index}");
        applier.lose(index);
    }
}

/// With the default heartbeat, a follower that had no room for an append gets it again after this time at the latest, long before the
/// leader takes itself for unable to commit.
const RESEND_TICKS_MAX: u32 = 600;

/// A tick is a millisecond.
fn settings(config: &Config) -> Settings {
    let ticks = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    Settings {
        election_ticks: ticks(config.election_timeout),
        heartbeat_ticks: ticks(config.heartbeat_interval),
        suspicion_ticks: 8,
        election_ticks_max: ticks(config.election_timeout).max(5_000),
        resend_ticks: ticks(config.election_timeout).saturating_mul(4).min(RESEND_TICKS_MAX.max(ticks(config.heartbeat_interval) * 12)),
        stall_ticks: ticks(config.disk_stall_handover),
        ban_ticks: 10_000,
        append_bytes: 1 << 20,
        window_bytes: 16 << 20,
    }
}

fn ready_line(config: &Config) -> String {
    format!("ready id={} client={} admin={}", config.id, config.listen_client, config.listen_admin)
}

pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(Error::io(format!("start the thread {name}")))
}

pub(super) fn join_thread(thread: JoinHandle<()>) {
    // A thread that panicked has ended the process already.
    let _ = thread.join();
}
