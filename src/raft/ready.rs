//! What the core asks of its host after it has been stepped: the contract between deciding and acting.

use super::message::{Envelope, HardState};

/// Work for the host. Everything in it may be done at once and in any order; what must wait for the disk stays inside the core
/// until the host reports the disk's completion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ready {
    /// To be made durable; report with [`super::Node::hard_state_stored`] and this ticket. At most one is outstanding.
    pub hard_state: Option<(u64, HardState)>,
    /// To be sent now, in this order per receiver and link.
    pub send: Vec<Envelope>,
    /// Files are to be sent to this follower: what it needs has left the log.
    pub snapshots: Vec<super::NodeId>,
    /// Entries up to here are committed and may be applied, in log order.
    pub commit: u64,
    /// Read rounds up to this number are confirmed.
    pub confirmed_round: u64,
}

/// What the host must do with the records of an append that was just stepped, before it steps anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Take {
    /// Drop the log from here on first; `None` when nothing conflicts.
    pub truncate_from: Option<u64>,
    /// Append the message's records from this index on; those before stand in the log already.
    pub first: u64,
}

/// A read that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadTicket {
    /// The read is confirmed once [`Ready::confirmed_round`] has reached this.
    pub round: u64,
    /// It may be served once this index is applied.
    pub index: u64,
}

/// How large entries are, as the host knows; the core cuts appends by it.
pub trait Sizes {
    /// How many entries from `from` on, at least 1 and none above `last`, fit in about `budget` bytes, and how many bytes they are.
    fn fit(&self, from: u64, last: u64, budget: u64) -> (u64, u64);
}
