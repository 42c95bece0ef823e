//! What all threads of the transport share: who this node is, who its peers are, what is remembered of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::identity::{Standing, ids_of};
use super::intake::Intake;
use super::marks::Marks;
use super::metrics::Metrics;
use super::notices::{Notices, Throttle};
use super::registry::Registry;
use super::sockets::Timing;
use super::view::PeerView;
use crate::error::Error;
use crate::protocol::handshake::{Hello, LinkClass, PEER_PROTOCOL};
use crate::raft::{EntryId, NodeId};
use crate::storage::directory::{Founding, Identity};
use crate::storage::snapshot::SnapshotMaker;

/// Called when the process must not go on: the marks could not be made durable, or a record of the own log cannot be read.
pub type Fatal = Arc<dyn Fn(Error) + Send + Sync>;

/// Is told of damage that was found in files of this node, from any thread, and returns at once. It may be told of the same again and
/// again.
pub type OnDamage = Arc<dyn Fn(&Error) + Send + Sync>;

/// State of the transport. No lock in here is held over I/O, except the one around the marks' file.
pub struct Shared {
    /// This node.
    pub own: NodeId,
    /// The text of its `--id`.
    pub id: String,
    /// Its identity.
    pub identity: Identity,
    /// The founding record.
    pub founding: Founding,
    /// The others.
    pub peers: BTreeMap<NodeId, String>,
    /// The address at which clients reach this node.
    pub client_address: String,
    /// What is remembered of the peers.
    pub marks: Marks,
    /// The Raft thread's position.
    pub view: Arc<PeerView>,
    /// Inbound links.
    pub registry: Registry,
    /// The snapshot being received.
    pub intake: Intake,
    /// Reads and writes snapshots.
    pub snapshots: SnapshotMaker,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Time limits.
    pub timing: Timing,
    /// What was said about peers.
    pub notices: Notices,
    /// What was said about strangers.
    pub strangers: Throttle,
    /// Where clients reach the peers, learned at handshakes.
    pub addresses: Mutex<BTreeMap<NodeId, String>>,
    /// Wakes those who pause before they dial a peer again.
    pub kicks: BTreeMap<NodeId, Vec<Sender<()>>>,
    /// Numbers the connection attempts.
    pub attempts: AtomicU64,
    /// Set once, when the transport is to end.
    pub stopping: AtomicBool,
    /// See [`Fatal`].
    pub fatal: Fatal,
    /// See [`OnDamage`].
    pub on_damage: OnDamage,
    /// How many snapshots in a row each peer could not be sent, for reasons that another one meets, too.
    pub vain_snapshots: Mutex<BTreeMap<NodeId, u32>>,
}

impl Shared {
    /// What a peer's words are held against.
    pub fn standing(&self) -> Standing<'_> {
        Standing { id: &self.id, founding: &self.founding }
    }

    /// The member of this id, unless it is this node.
    pub fn peer_of(&self, id: &str) -> Option<NodeId> {
        self.peers.iter().find(|(_, peer)| *peer == id).map(|(node, _)| *node)
    }

    /// This node's introduction on a new link.
    pub fn hello(&self, link: LinkClass) -> Hello {
        let (term, last) = self.view.position();
        Hello {
            cluster: self.founding.cluster,
            term,
            last,
            founding: Some(self.founding.clone()),
            attempt: self.attempts.fetch_add(1, Ordering::Relaxed) + 1,
            ..bare_hello(&self.id, &self.client_address, self.identity, ids_of(&self.founding), link)
        }
    }

    /// Takes down where clients reach a peer.
    pub fn learn_address(&self, peer: NodeId, hello: &Hello) {
        if !hello.client_address.is_empty() {
            self.addresses.lock().insert(peer, hello.client_address.clone());
        }
    }

    /// Ends the pauses of those who wait before they dial this peer again.
    pub fn kick(&self, peer: NodeId) {
        for kick in self.kicks.get(&peer).into_iter().flatten() {
            // A full channel holds a kick already.
            let _ = kick.try_send(());
        }
    }

    /// Whether the transport is to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// The introduction of a node that belongs to no cluster yet.
pub fn bare_hello(id: &str, client_address: &str, identity: Identity, members: Vec<String>, link: LinkClass) -> Hello {
    Hello {
        versions: (PEER_PROTOCOL, PEER_PROTOCOL),
        features: 0,
        cluster: 0,
        id: id.to_owned(),
        client_address: client_address.to_owned(),
        uuid: identity.uuid,
        boot: identity.boot,
        nonce: identity.nonce,
        attempt: 0,
        term: 0,
        last: EntryId::default(),
        link,
        members,
        founding: None,
        credential: Vec::new(),
    }
}
