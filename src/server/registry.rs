//! Which inbound links are open. One lock decides whether a link is still the current one of its peer and hands over what it carries, so
//! that nothing of a replaced link reaches the inbox behind its successor's first word. The inbox is unbounded: handing over never waits.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use crate::server::mailbox::Sender;
use parking_lot::Mutex;

use super::event::{Event, Incoming, LinkChange, MendQuestion};
use crate::protocol::handshake::{Hello, LinkClass};
use crate::protocol::peer::Note;
use crate::raft::NodeId;
use crate::storage::snapshot::Received;

/// The Raft thread's inbox, as far as peers fill it. Nothing is said when the Raft thread is gone: the process is ending.
pub trait Inbox: Send + Sync {
    /// A message arrived.
    fn message(&self, incoming: Incoming);
    /// A peer said something about states.
    fn note(&self, peer: NodeId, note: Note);
    /// A link changed.
    fn link(&self, peer: NodeId, change: LinkChange);
    /// A snapshot of the leader of `term` arrived whole.
    fn received(&self, received: Received, term: u64);
    /// Sending a snapshot to a follower came to an end, good or bad.
    fn snapshot_ended(&self, peer: NodeId);
    /// A peer mends its log, and asks. An inbox that drops the question says nothing.
    fn mend(&self, question: MendQuestion) {
        drop(question);
    }
}

impl<C: Send + 'static> Inbox for Sender<Event<C>> {
    fn message(&self, incoming: Incoming) {
        let _ = self.send(Event::Peer(incoming));
    }

    fn note(&self, peer: NodeId, note: Note) {
        let _ = self.send(Event::Note(peer, note));
    }

    fn link(&self, peer: NodeId, change: LinkChange) {
        let _ = self.send(Event::Link(peer, change));
    }

    fn received(&self, received: Received, term: u64) {
        let _ = self.send(Event::Received { received: Box::new(received), term });
    }

    fn snapshot_ended(&self, peer: NodeId) {
        let _ = self.send(Event::SnapshotEnded(peer));
    }

    fn mend(&self, question: MendQuestion) {
        let _ = self.send(Event::Mend(question));
    }
}

/// A link's transport, as far as the registry needs it.
pub trait Severable: Send + Sync {
    /// Ends the link at once, for both sides.
    fn sever(&self);
}

impl Severable for TcpStream {
    fn sever(&self) {
        // A socket that is gone already needs nothing.
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// The age of a link: of two links of a peer, the greater one is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    boot: u64,
    attempt: u64,
}

impl Age {
    /// The age of the link that this hello opens.
    pub fn of(hello: &Hello) -> Age {
        Age { boot: hello.boot, attempt: hello.attempt }
    }
}

/// The open inbound links.
pub struct Registry {
    inbox: Box<dyn Inbox>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    links: BTreeMap<(NodeId, LinkClass), (Age, Arc<dyn Severable>)>,
    announced: BTreeMap<NodeId, (u64, u64)>,
}

impl Registry {
    /// No link is open.
    pub fn new(inbox: Box<dyn Inbox>) -> Registry {
        Registry { inbox, open: Mutex::new(Open::default()) }
    }

    /// The inbox, for what no inbound link carries.
    pub fn inbox(&self) -> &dyn Inbox {
        &*self.inbox
    }

    /// Makes a link the current one of its peer and class; a control link is announced. The older link of the class is cut, and
    /// so are all links of an older process of the peer. False, and nothing happens, if a newer link is open already.
    pub fn open(&self, peer: NodeId, hello: &Hello, stream: Arc<dyn Severable>) -> bool {
        let age = Age::of(hello);
        let mut open = self.open.lock();
        let of_peer: Vec<(LinkClass, Age)> =
            open.links.iter().filter(|((node, _), _)| *node == peer).map(|((_, class), (other, _))| (*class, *other)).collect();
        if of_peer.iter().any(|(class, other)| other.boot > age.boot || *class == hello.link && *other >= age) {
            return false;
        }
        for (class, _) in of_peer.into_iter().filter(|(class, other)| *class == hello.link || other.boot < age.boot) {
            if let Some((_, older)) = open.links.remove(&(peer, class)) {
                older.sever();
            }
            if class == LinkClass::Control && hello.link != LinkClass::Control {
                self.inbox.link(peer, LinkChange::Down);
            }
        }
        open.links.insert((peer, hello.link), (age, stream));
        if hello.link == LinkClass::Control {
            let process = (hello.boot, hello.nonce);
            let fresh = open.announced.insert(peer, process) != Some(process);
            self.inbox.link(peer, LinkChange::Up { fresh });
        }
        true
    }

    /// Hands a message over if its link is still the current one; false if it is not.
    pub fn deliver(&self, peer: NodeId, class: LinkClass, age: Age, incoming: Incoming) -> bool {
        let open = self.open.lock();
        let current = open.links.get(&(peer, class)).is_some_and(|(other, _)| *other == age);
        if current {
            self.inbox.message(incoming);
        }
        current
    }

    /// Hands a note over if its link is still the current one; false if it is not.
    pub fn deliver_note(&self, peer: NodeId, class: LinkClass, age: Age, note: Note) -> bool {
        let open = self.open.lock();
        let current = open.links.get(&(peer, class)).is_some_and(|(other, _)| *other == age);
        if current {
            self.inbox.note(peer, note);
        }
        current
    }

    /// Says that bytes of a message are arriving on a link, unless that is no longer the current one.
    pub fn arriving(&self, peer: NodeId, class: LinkClass, age: Age) {
        let open = self.open.lock();
        if open.links.get(&(peer, class)).is_some_and(|(other, _)| *other == age) {
            self.inbox.link(peer, LinkChange::Arriving);
        }
    }

    /// Forgets a link that ended; the end of a control link is announced unless a newer one took its place. True if it was current.
    pub fn close(&self, peer: NodeId, class: LinkClass, age: Age) -> bool {
        let mut open = self.open.lock();
        let current = open.links.get(&(peer, class)).is_some_and(|(other, _)| *other == age);
        if current {
            open.links.remove(&(peer, class));
            if class == LinkClass::Control {
                self.inbox.link(peer, LinkChange::Down);
            }
        }
        current
    }

    /// Whether a control link of this peer is open.
    pub fn alive(&self, peer: NodeId) -> bool {
        self.open.lock().links.contains_key(&(peer, LinkClass::Control))
    }
}
