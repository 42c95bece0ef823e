//! What travels between the threads: events into the Raft thread's inbox, and what it hands back. Plain data; the only behaviour
//! here is naming. Nothing in an event holds a lock or needs one to be read.

use std::ops::Deref;
use std::sync::Arc;

use crate::server::mailbox::Sender;

use super::gate::ReadGate;
use crate::protocol::mend::Standing;
use crate::protocol::peer::Note;
use crate::raft::{Envelope, NodeId};
use crate::storage::log::Piece;
use crate::storage::mend::{Missing, Wanted};
use crate::storage::snapshot::{Received, Snapshot};
use crate::storage::state_at::StateAt;
use crate::storage::store::Located;
use crate::storage::writer::Completion;

/// One thing that happened, for the Raft thread. `C` names a client connection (an `Arc` of it in the server, a number in a
/// simulator).
#[derive(Debug)]
pub enum Event<C> {
    /// Requests read from one connection in one go.
    Client(ClientBatch<C>),
    /// Reads have begun to gather that wait for nothing but a confirmation. The replica takes them out of the gate when a round may begin.
    Reads(Arc<ReadGate<C>>),
    /// A connection wants the state pinned as a read would see it.
    Backup(BackupRequest<C>),
    /// A message from a peer, its records checked.
    Peer(Incoming),
    /// A peer said something about its state, or ours.
    Note(NodeId, Note),
    /// A link to or from a peer changed.
    Link(NodeId, LinkChange),
    /// The log writer finished a job.
    Disk(Completion),
    /// The preparer could not make a segment; text for a person. It is asked again later.
    NotPrepared(String),
    /// A hint could not be made.
    NotHinted {
        /// Whether it may work later.
        retry: bool,
    },
    /// Files could not be merged.
    NotMerged {
        /// Whether it may work later.
        retry: bool,
    },
    /// A snapshot of the leader of a term has arrived whole, and is durable.
    Received {
        /// The snapshot.
        received: Box<Received>,
        /// The term of the leader that sent it.
        term: u64,
    },
    /// A file was read again.
    Scrubbed,
    /// Somebody found damage; text for a person.
    Damaged(String),
    /// Sending a snapshot to a follower has come to an end, good or bad.
    SnapshotEnded(NodeId),
    /// A peer mends its log, and asks.
    Mend(MendQuestion),
    /// Hand leadership over if possible, then stop: SIGINT or SIGTERM.
    Shutdown,
}

/// What happened to the links with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// Its control link to us is open; `fresh` when its boot counter or process is not the one seen before.
    Up {
        /// The peer has been restarted since: progress starts afresh.
        fresh: bool,
    },
    /// Its control link to us broke (reset, end of stream, silence).
    Down,
    /// Our bulk link to it broke or its queue was full: messages were dropped.
    Dropped,
    /// Bytes of a message are arriving on its bulk link to us, slowly: said now and then until the message is complete.
    Arriving,
}

/// Requests that one connection read in one go, in the order in which they stand on the wire. A batch ends behind a SCAN, and a
/// connection sends no further batch before every lookup and the `barrier` of the last one have been answered.
#[derive(Debug)]
pub struct ClientBatch<C> {
    /// Whom to answer.
    pub client: C,
    /// The writes, and the reads that stand before a write.
    pub requests: Vec<Request>,
    /// The unsealed records of all writes, one after another, in order.
    pub records: Vec<u8>,
    /// Set when reads follow the last write: the connection wants [`Outcome::Proceed`] for this slot, meaning that a lookup made from
    /// now on is linearizable. The connection itself waits until all its writes have been answered before it looks up.
    pub barrier: Option<Slot>,
    /// Time limit in milliseconds for all of it; the server's default is filled in by the connection.
    pub deadline_ms: u32,
}

/// A wish for the present state. It is answered like the barrier of a batch; with [`Outcome::Proceed`] the state is in the channel. A
/// connection sends it when all its writes have been answered, and nothing after it before its answer.
#[derive(Debug)]
pub struct BackupRequest<C> {
    /// Whom to answer.
    pub client: C,
    /// Which request.
    pub slot: Slot,
    /// Time limit in milliseconds.
    pub deadline_ms: u32,
    /// Takes the state; there is room for it.
    pub state: Sender<StateAt>,
}

/// Names a request within its connection: strictly growing.
pub type Slot = u64;

/// One request of a batch.
#[derive(Debug)]
pub enum Request {
    /// The next record of `records`.
    Write {
        /// To be answered with a write's outcome.
        slot: Slot,
    },
    /// A GET or GETV with a write behind it in the batch: its location is taken exactly at this place of the order.
    Lookup {
        /// To be answered with [`Outcome::Found`] or [`Outcome::NotFound`].
        slot: Slot,
        /// Which key.
        key: Box<[u8]>,
    },
}

/// The answer to one slot of a connection.
#[derive(Debug)]
pub struct Reply<C> {
    /// The connection.
    pub client: C,
    /// Which request.
    pub slot: Slot,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request, a lookup or a barrier ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The write took effect with this version.
    Written {
        /// The log index of the write.
        version: u64,
    },
    /// A delete or a lookup of an absent key.
    NotFound,
    /// A compare-and-set met another version; 0 is absent.
    Conflict {
        /// The version that stands.
        current: u64,
    },
    /// A lookup's value is there; the connection's thread reads it.
    Found(Located),
    /// The reads behind the barrier may be looked up now; or, of a read that was looked up already, its response may leave.
    Proceed,
    /// This node does not lead; no effect.
    NotLeader {
        /// The leader it knows of.
        leader: Option<NodeId>,
    },
    /// The write may have taken effect or may yet; text for a person.
    Unknown(&'static str),
    /// No effect, try again later; text for a person.
    Busy(Text),
}

/// A text for a person. Copies share it, so that thousands of refusals cost no memory of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Always the same.
    Fixed(&'static str),
    /// Put together when it became true.
    Shared(Arc<str>),
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Fixed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Text {
        Text::Fixed(text)
    }
}

/// A question of a peer that mends its log, handed on by the thread that has its connection.
#[derive(Debug)]
pub struct MendQuestion {
    /// The entries that it lacks; without any it only wants to know how this node stands.
    pub wanted: Option<Wanted>,
    /// Takes the answer; there is room for it.
    pub answer: Sender<MendAnswer>,
}

/// The answer to such a question.
#[derive(Debug)]
pub struct MendAnswer {
    /// How this node stands.
    pub standing: Standing,
    /// What it has of the first of the wanted entries.
    pub holding: Option<Holding>,
}

/// What a running log has of some entries.
#[derive(Debug)]
pub enum Holding {
    /// Their records, to be read by whoever may wait for the disk.
    Pieces(Vec<Piece>),
    /// No record up to `through`.
    Missing {
        /// Index of the last entry for which that is so.
        through: u64,
        /// Why.
        why: Missing,
    },
}

/// A message that arrived from a peer.
#[derive(Debug)]
pub struct Incoming {
    /// The message; `from` is the peer of the link, `to` is this node.
    pub envelope: Envelope,
    /// The records of an append, sealed, contiguous, each checked (header and payload CRC, consecutive indexes that follow `prev`);
    /// empty otherwise.
    pub records: Vec<u8>,
}

/// A snapshot for a follower.
#[derive(Debug)]
pub struct OutgoingSnapshot {
    /// Who needs it.
    pub to: NodeId,
    /// The term in which this node leads.
    pub term: u64,
    /// The pinned files.
    pub snapshot: Snapshot,
}

/// A message for a peer. Which link it takes follows from [`crate::raft::Message::is_bulk`].
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The message.
    pub envelope: Envelope,
    /// The records of an append, pinned when the message was made.
    pub records: Vec<Piece>,
}
