//! What the transport must know of the Raft thread's state to introduce this node: a few numbers behind a lock that is never held over
//! I/O, so that the Raft thread may update them at any time.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::raft::{EntryId, NodeId};

/// The node's position and its peers' acknowledgements, written by the Raft thread, read at handshakes.
#[derive(Debug)]
pub struct PeerView {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    term: u64,
    last: EntryId,
    commit: u64,
    acknowledged: BTreeMap<NodeId, EntryId>,
}

impl PeerView {
    /// Starts from what recovery found: the durable term, and the last entry with damaged ones counted as present.
    pub fn new(term: u64, last: EntryId) -> PeerView {
        PeerView { state: Mutex::new(State { term, last, commit: 0, acknowledged: BTreeMap::new() }) }
    }

    /// The durable term and the last entry of the log. To be called before any message that relies on them is handed to the peers: a
    /// node that introduces itself with less than it has acknowledged is taken for one that was rolled back.
    pub fn set_position(&self, term: u64, last: EntryId) {
        let mut state = self.state.lock();
        state.term = term;
        state.last = last;
    }

    /// The highest index known here to be committed.
    pub fn set_commit(&self, commit: u64) {
        self.state.lock().commit = commit;
    }

    /// What [`PeerView::set_commit`] said last; 0 at first.
    pub fn commit(&self) -> u64 {
        self.state.lock().commit
    }

    /// The newest entry that `peer` has acknowledged as durable: term and index of the entry itself, not the leader's term.
    pub fn set_acknowledged(&self, peer: NodeId, entry: EntryId) {
        let mut state = self.state.lock();
        let newest = state.acknowledged.entry(peer).or_default();
        *newest = entry.max(*newest);
    }

    /// The durable term and the last entry.
    pub fn position(&self) -> (u64, EntryId) {
        let state = self.state.lock();
        (state.term, state.last)
    }

    /// The newest acknowledgement of `peer` since this process started; zero if there was none.
    pub fn acknowledged(&self, peer: NodeId) -> EntryId {
        self.state.lock().acknowledged.get(&peer).copied().unwrap_or_default()
    }
}
