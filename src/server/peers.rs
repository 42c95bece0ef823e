//! The links with the other nodes, from the Raft thread's side: hand a message over, learn what arrived through the inbox. Nothing in
//! here ever makes the Raft thread wait: a message that has no room, or no connection, is dropped.
//!
//! Each pair of nodes has up to four connections: in either direction one for control and one for bulk, so that a heartbeat is never
//! behind entries. A link is a one-way stream; a reply travels on the other node's own link. A snapshot has a connection of its own for as
//! long as it takes.
//!
//! | thread | number | room |
//! |---|---|---|
//! | accepts connections | 1 | [`super::acceptor`] |
//! | receives from a link | one per inbound link | [`super::inbound`] |
//! | finishes a received snapshot | at most one | `snapshot_receiver` |
//! | sends on a link what does not leave at once ([`super::lane`]) | two per peer | [`super::links`] |
//! | waits for a link's end | one per outbound connection | [`super::links`] |
//! | sends a snapshot | one per transfer | `snapshot_sender` |
//! | makes marks durable, gives half snapshots up | 1 | here |

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::server::mailbox::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::acceptor::{Acceptor, LINK_STACK};
use super::dialer::{Dialer, SocketInUse};
use super::event::{Event, LinkChange, Outgoing, OutgoingSnapshot};
use super::identity::numbered;
use super::inbound;
use super::intake::Intake;
use super::links::{LinkHandle, Work, Worker};
use super::marks::Marks;
use super::metrics::Metrics;
use super::notices::{Notices, Throttle};
use super::registry::{Registry, Severable};
use super::shared::{Fatal, OnDamage, Shared};
use super::snapshot_sender::SnapshotSender;
use super::sockets::Timing;
use super::view::PeerView;
use crate::error::{Error, Result};
use crate::protocol::handshake::LinkClass;
use crate::protocol::peer::Note;
use crate::raft::{self, NodeId};
use crate::storage::directory::{Founding, Identity};
use crate::storage::slots::SlotFile;
use crate::storage::snapshot::SnapshotMaker;

/// Messages that may wait for the control link: small ones, and only the newest matter.
const CONTROL_QUEUE: usize = 1024;
/// Messages that may wait for the bulk link. Each holds its records, whose bytes the core bounds. A queue that ran full while the link
/// still carries what is in it would have the core send the same again.
const BULK_QUEUE: usize = 256;
const _: () = assert!(BULK_QUEUE >= 2 * raft::APPENDS_UNDER_WAY_MAX, "the core fills the queue of a slow link by itself");
/// Half a snapshot with which nobody has gone on for this long is given up.
const HALF_KEPT: Duration = Duration::from_secs(60);

/// What the transport needs to start.
pub struct PeersConfig {
    /// The text of `--id`.
    pub id: String,
    /// This node's identity, durable.
    pub identity: Identity,
    /// The founding record, durable. The members' numbers are the ranks of their ids, from 1.
    pub founding: Founding,
    /// Other addresses under which members are dialed, by id.
    pub dial: BTreeMap<String, String>,
    /// Bound and listening on the peer port; those that the founding used.
    pub listeners: Vec<TcpListener>,
    /// Where clients reach this node.
    pub client_address: String,
    /// The slot file of the peers' marks, and its newest payload.
    pub marks: (SlotFile, Vec<u8>),
    /// Reads and writes snapshots.
    pub snapshots: SnapshotMaker,
    /// Is told of damage in what snapshots are read from.
    pub on_damage: OnDamage,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Time limits.
    pub timing: Timing,
}

/// The running transport. Dropping it stops it.
pub struct Peers {
    shared: Arc<Shared>,
    links: BTreeMap<(NodeId, LinkClass), LinkHandle>,
    dialers: BTreeMap<NodeId, Dialer>,
    transfers: Mutex<Vec<(JoinHandle<()>, SocketInUse)>>,
    acceptor: Mutex<Option<Acceptor>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: Mutex<Option<Sender<()>>>,
}

impl Peers {
    /// Starts all threads. `view` holds the recovered position already. `fatal` is called, from any thread, with an error after which
    /// this process must not go on; it is expected not to return.
    pub fn start<C: Send + 'static>(config: PeersConfig, inbox: Sender<Event<C>>, view: Arc<PeerView>, fatal: Fatal) -> Result<Peers> {
        let numbers = numbered(&config.founding);
        let Some((own, _)) = numbers.iter().find(|(_, id)| *id == config.id) else {
            return Err(Error::Config(format!("{} is not in the founding record: start it with the --id that it joined with", config.id)));
        };
        let peers: BTreeMap<NodeId, String> = numbers.iter().filter(|(node, _)| node != own).cloned().collect();
        let marks = Marks::open(config.marks.0, &config.marks.1, &config.founding, &config.id)?;
        let (kicks, kicked) = kick_channels(&peers);
        let shared = Arc::new(Shared {
            own: *own,
            addresses: Mutex::new(BTreeMap::from([(*own, config.client_address.clone())])),
            id: config.id,
            identity: config.identity,
            founding: config.founding,
            peers,
            client_address: config.client_address,
            marks,
            view,
            registry: Registry::new(Box::new(inbox)),
            intake: Intake::default(),
            snapshots: config.snapshots,
            metrics: config.metrics,
            timing: config.timing,
            notices: Notices::default(),
            strangers: Throttle::new(Duration::from_secs(1)),
            kicks,
            attempts: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            fatal,
            on_damage: config.on_damage,
            vain_snapshots: Mutex::default(),
        });
        let receiving = shared.clone();
        let serve = Arc::new(move |stream: &Arc<_>, pending: &mut _| inbound::serve(&receiving, stream, pending));
        let acceptor = Mutex::new(Some(Acceptor::start(&config.listeners, serve)?));
        let (stop, stopped) = bounded(1);
        let dialers = dialers(&shared, &config.dial);
        let mut running = Peers {
            shared,
            links: BTreeMap::new(),
            dialers,
            transfers: Mutex::default(),
            acceptor,
            threads: Mutex::default(),
            stop: Mutex::new(Some(stop)),
        };
        running.start_keeper(stopped)?;
        running.start_workers(kicked)?;
        Ok(running)
    }

    fn start_keeper(&self, stopped: Receiver<()>) -> Result<()> {
        let shared = self.shared.clone();
        self.spawn("peer-marks".to_owned(), move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(shared.timing.marks) {
                if let Err(error) = shared.marks.flush(&shared.view) {
                    (shared.fatal)(error);
                    return;
                }
                shared.intake.drop_older_than(HALF_KEPT);
            }
        })
    }

    fn start_workers(&mut self, kicked: Kicked) -> Result<()> {
        for (peer, class, kick) in kicked {
            let (sender, queue) = bounded(if class == LinkClass::Bulk { BULK_QUEUE } else { CONTROL_QUEUE });
            let handle = LinkHandle { queue: sender, lane: Arc::default(), connected: Arc::default(), socket: Arc::default() };
            self.links.insert((peer, class), handle.clone());
            let worker = Worker { to: self.dialers[&peer].clone(), class, queue, kick, handle };
            self.spawn(format!("peer-{}-{peer}", inbound::name(class)), move || worker.run())?;
        }
        Ok(())
    }

    fn spawn(&self, name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(name).stack_size(LINK_STACK).spawn(work);
        self.threads.lock().push(thread.map_err(Error::io("start a thread of the peer links"))?);
        Ok(())
    }

    /// Sends a message on its link, or queues it, and returns at once. Without a connection or room it is dropped; for an append or a
    /// snapshot an event [`LinkChange::Dropped`] follows, each time.
    pub fn send(&self, outgoing: Outgoing) {
        let peer = outgoing.envelope.to;
        let bulk = outgoing.envelope.message.is_bulk();
        let class = if bulk { LinkClass::Bulk } else { LinkClass::Control };
        let Some(link) = self.links.get(&(peer, class)) else {
            log::debug!("a message to {peer}, which is no peer, is dropped");
            return;
        };
        if !link.send(outgoing) && bulk {
            self.shared.registry.inbox().link(peer, LinkChange::Dropped);
        }
    }

    /// Queues a note for the control link and returns at once. Without a connection or room it is dropped.
    pub fn send_note(&self, peer: NodeId, note: Note) {
        if let Some(link) = self.links.get(&(peer, LinkClass::Control))
            && link.connected.load(Ordering::SeqCst)
        {
            // It is said again later.
            link.leave(Work::Note(note));
        }
    }

    /// Sends a snapshot on a connection of its own, in the background; one at a time to each peer. An event [`Event::SnapshotEnded`]
    /// follows, at once if the peer is away.
    pub fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        let peer = snapshot.to;
        let mut transfers = self.transfers.lock();
        transfers.retain(|(thread, _)| !thread.is_finished());
        match self.dialers.get(&peer) {
            Some(to) if self.alive(peer) && !self.shared.is_stopping() => {
                let socket = SocketInUse::default();
                let sender = SnapshotSender::new(to.clone(), socket.clone(), snapshot);
                match thread::Builder::new().name(format!("snapshot-{peer}")).spawn(move || sender.run()) {
                    Ok(thread) => return transfers.push((thread, socket)),
                    Err(error) => log::warn!("no snapshot to {}: cannot start a thread: {error}", to.id),
                }
            }
            _ => {}
        }
        self.shared.registry.inbox().snapshot_ended(peer);
    }

    /// Where clients reach a node: this one, or a peer that was heard since the start.
    pub fn client_address(&self, node: NodeId) -> Option<String> {
        self.shared.addresses.lock().get(&node).cloned()
    }

    /// Whether the control link from a peer is open.
    pub fn alive(&self, peer: NodeId) -> bool {
        self.shared.registry.alive(peer)
    }

    /// The id of a member, for messages.
    pub fn id_of(&self, node: NodeId) -> String {
        if node == self.shared.own { self.shared.id.clone() } else { self.shared.peers.get(&node).map_or(node.to_string(), Clone::clone) }
    }

    /// This node's number.
    pub fn own(&self) -> NodeId {
        self.shared.own
    }

    /// The other members.
    pub fn others(&self) -> &BTreeMap<NodeId, String> {
        &self.shared.peers
    }

    /// Cuts all links and ends all threads. Marks that changed are made durable. May be called more than once.
    pub fn stop(&self) {
        if self.shared.stopping.swap(true, Ordering::SeqCst) {
            return;
        }
        drop(self.stop.lock().take());
        for link in self.links.values() {
            sever(&link.socket);
            let _ = link.queue.try_send(Work::Ended(0));
        }
        self.shared.peers.keys().for_each(|peer| self.shared.kick(*peer));
        drop(self.acceptor.lock().take());
        let transfers = std::mem::take(&mut *self.transfers.lock());
        transfers.iter().for_each(|(_, socket)| sever(socket));
        let transfers = transfers.into_iter().map(|(thread, _)| thread);
        for thread in self.threads.lock().drain(..).chain(transfers) {
            let _ = thread.join();
        }
        if let Err(error) = self.shared.marks.flush(&self.shared.view) {
            log::error!("{error}");
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn sever(socket: &SocketInUse) {
    if let Some(socket) = &*socket.lock() {
        socket.sever();
    }
}

fn dialers(shared: &Arc<Shared>, dial: &BTreeMap<String, String>) -> BTreeMap<NodeId, Dialer> {
    let dialer = |(peer, id): (&NodeId, &String)| {
        let address = dial.get(id).unwrap_or(id).clone();
        (*peer, Dialer { shared: shared.clone(), peer: *peer, id: id.clone(), address })
    };
    shared.peers.iter().map(dialer).collect()
}

type Kicked = Vec<(NodeId, LinkClass, Receiver<()>)>;

fn kick_channels(peers: &BTreeMap<NodeId, String>) -> (BTreeMap<NodeId, Vec<Sender<()>>>, Kicked) {
    let (mut kicks, mut kicked) = (BTreeMap::new(), Vec::new());
    for peer in peers.keys() {
        for class in [LinkClass::Control, LinkClass::Bulk] {
            let (sender, receiver) = bounded(1);
            kicks.entry(*peer).or_insert_with(Vec::new).push(sender);
            kicked.push((*peer, class, receiver));
        }
    }
    (kicks, kicked)
}

#[cfg(test)]
#[path = "peers_fixture.rs"]
mod fixture;
#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod snapshot_tests;
#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
