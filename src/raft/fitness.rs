//! What the host says of its disk, and what follows for leading: three questions, asked at different places, with different answers.

use crate::bugbank::planted;

use super::message::{EntryId, Message, NodeId};
use super::node::Node;

/// What the host has said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fitness {
    /// There is room for a leader's next records, and the disk answers.
    pub(super) able: bool,
    /// The disk has not answered for the stall time, or has no room.
    pub(super) stalled: bool,
    /// There is room for some records, and others were refused for lack of it.
    pub(super) short: bool,
    /// Some of what it has cannot be read, and a leader is asked for all of it.
    pub(super) damaged: bool,
    /// The last entry of a log that was lost; zero when the present one has reached it.
    pub(super) floor: EntryId,
}

impl Fitness {
    /// Nothing was said yet.
    pub(super) const UNKNOWN: Fitness =
        Fitness { able: true, stalled: false, short: false, damaged: false, floor: EntryId { term: 0, index: 0 } };

    /// Whether to seek leadership when nobody leads. A node that is short or damaged does: where all are, somebody must lead, for the sake
    /// of reads.
    pub(super) fn may_campaign(self) -> bool {
        self.able && !self.stalled && self.floor.term == 0
    }

    /// Whether to be handed leadership by a node that cannot do its work.
    pub(super) fn may_succeed(self) -> bool {
        self.able && !self.short && !self.damaged && self.floor.term == 0
    }

    /// Whether another should lead.
    pub(super) fn should_yield(self) -> bool {
        self.stalled || self.short || self.damaged
    }
}

impl Node {
    /// Tells the core whether this node could do a leader's work now (`able`: its next records have a place and its disk answers), and
    /// whether it has been unable to for so long that it should not lead (`stalled`). Without `able` it does not campaign or win.
    pub fn set_disk(&mut self, able: bool, stalled: bool) {
        self.fitness = Fitness { able, stalled, ..self.fitness };
    }

    /// What [`Node::set_floor`] said last.
    pub fn floor(&self) -> EntryId {
        self.fitness.floor
    }

    /// Tells the core that this node's log once ended in `floor`, at the latest, and was lost. Until the present log has reached it, the
    /// node votes only for candidates whose logs have (unless it is one of two voters), and does not seek leadership: so it stands for the
    /// entries that it acknowledged as if it held them. Zero lifts that.
    pub fn set_floor(&mut self, floor: EntryId) {
        self.fitness.floor = floor;
    }

    /// Asks the leader where its log ends if the floor stands in the present term: it may be a guess that nothing in that term reaches.
    pub(super) fn ask_for_floor(&mut self, leader: NodeId) {
        let floor = self.fitness.floor;
        if floor.term != self.state.term || self.outline.last() >= floor {
            return;
        }
        if self.floor_token == 0 {
            self.floor_token = self.chance.token();
        }
        self.send(leader, Message::LastIndex { token: self.floor_token });
    }

    pub(super) fn on_last_index(&mut self, from: NodeId, token: u64) {
        if self.is_leader() || planted(119) {
            self.send(from, Message::LastIndexReply { token, index: self.outline.last().index });
        }
    }

    /// Only the leader of a term writes its entries, and while it leads its log never becomes shorter. So no entry of this term that the
    /// lost log held stands beyond the index that its leader names after that log was lost, and those of earlier terms come before all of
    /// this one.
    pub(super) fn on_last_index_reply(&mut self, from: NodeId, token: u64, index: u64) {
        let floor = &mut self.fitness.floor;
        let asked = token != 0 && token == self.floor_token && self.leader == Some(from);
        if asked && floor.term == self.state.term {
            floor.index = floor.index.min(index);
        }
    }

    /// Tells the core whether some of what this node has cannot be read. As leader it hands leadership to a node without damage, and keeps
    /// it if there is none.
    pub fn set_damaged(&mut self, damaged: bool) {
        self.fitness.damaged = damaged;
    }

    /// Tells the core whether clients' records are refused for lack of room while smaller ones still have some. As leader it hands
    /// leadership to a node that is not short, and keeps it if there is none.
    pub fn set_short(&mut self, short: bool) {
        self.fitness.short = short;
    }
}
