//! What is under way between the members: for each ordered pair two queues, control and bulk, whose packets are handed out one by
//! one, in whatever order a test asks for. Never delivers by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use apexkv::raft::NodeId;

use super::host::Packet;

/// One direction of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Link {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    /// Whether it carries entries; the other carries all the rest.
    pub(crate) bulk: bool,
}

/// The packets under way, and which directions swallow what is sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    queues: BTreeMap<Link, VecDeque<Packet>>,
    cut: BTreeSet<Link>,
}

impl Network {
    /// Puts a packet under way, or loses it if its link is cut. Says whether it is under way.
    pub(crate) fn send(&mut self, packet: Packet) -> bool {
        let (from, to) = (packet.envelope.from, packet.envelope.to);
        let link = Link { from, to, bulk: packet.envelope.message.is_bulk() };
        let open = !self.cut.contains(&link);
        if open {
            self.queues.entry(link).or_default().push_back(packet);
        }
        open
    }

    /// The links that have something under way.
    pub(crate) fn busy(&self) -> Vec<Link> {
        self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(link, _)| *link).collect()
    }

    /// What is under way on a link, oldest first.
    pub(crate) fn queue(&self, link: Link) -> impl Iterator<Item = &Packet> {
        self.queues.get(&link).into_iter().flatten()
    }

    /// Takes the packet at `position` of a link.
    pub(crate) fn take(&mut self, link: Link, position: usize) -> Option<Packet> {
        self.queues.get_mut(&link)?.remove(position)
    }

    /// Loses everything under way on a link.
    pub(crate) fn clear(&mut self, link: Link) {
        self.queues.remove(&link);
    }

    /// Loses what is under way on a link, and all that will be sent, until it is joined again.
    pub(crate) fn cut(&mut self, link: Link) {
        self.cut.insert(link);
        self.clear(link);
    }

    /// The link carries packets again.
    pub(crate) fn join(&mut self, link: Link) {
        self.cut.remove(&link);
    }

    /// Whether the link swallows what is sent.
    pub(crate) fn is_cut(&self, link: Link) -> bool {
        self.cut.contains(&link)
    }

    /// Every link carries packets again.
    pub(crate) fn join_all(&mut self) {
        self.cut.clear();
    }
}

/// The four links between two members.
pub(crate) fn links_between(a: NodeId, b: NodeId) -> [Link; 4] {
    [(a, b, false), (a, b, true), (b, a, false), (b, a, true)].map(|(from, to, bulk)| Link { from, to, bulk })
}
