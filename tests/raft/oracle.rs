//! What must hold across all members at every moment (paper, figure 3), and what no message may say. Sees everything, remembers what
//! was ever committed, led or promised, and panics at the first contradiction. Never influences a run.

use std::collections::BTreeMap;

use apexkv::raft::{Message, NodeId, quorum};

use super::host::{Entry, Host, Packet};

/// The memory of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    /// Who led each term, and in which of its lives.
    leaders: BTreeMap<u64, (NodeId, u64)>,
    /// To whom each member gave its vote of a term, as far as anyone was told.
    votes: BTreeMap<(NodeId, u64), NodeId>,
    /// What each (term, index) holds, and the term of the entry before it.
    entries: BTreeMap<(u64, u64), (Entry, u64)>,
    /// Every committed entry, with the term in which it was first known to be.
    committed: Vec<(Entry, u64)>,
    /// The newest term that each member told others.
    told: BTreeMap<NodeId, u64>,
}

impl Oracle {
    /// How many entries are committed, wherever that is known.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.len() as u64
    }

    /// A packet leaves: what it says must be durable at its sender, in case that crashes right now.
    pub(crate) fn check_leaving(&mut self, host: &Host, packet: &Packet) {
        let (id, term, disk) = (host.id, packet.envelope.term, &host.disk);
        let message = &packet.envelope.message;
        assert!(term <= disk.hard_state.term, "{id} tells term {term} before it is durable: {message:?}, disk {:?}", disk.hard_state);
        let told = self.told.entry(id).or_default();
        *told = (*told).max(term);
        match message {
            Message::Vote { .. } => self.note_vote(host, term, id),
            Message::VoteReply { granted: true } => self.note_vote(host, term, packet.envelope.to),
            Message::Appended { matched, .. } | Message::SnapshotReply { matched } => {
                assert!(*matched <= disk.log.len() as u64, "{id} acknowledges {matched}, its disk has {}", disk.log.len());
            }
            _ => {}
        }
    }

    fn note_vote(&mut self, host: &Host, term: u64, vote: NodeId) {
        let (id, stored) = (host.id, host.disk.hard_state);
        assert!(stored.term == term && stored.vote == Some(vote), "{id} tells its vote for {vote} in term {term}, its disk has {stored:?}");
        let first = *self.votes.entry((id, term)).or_insert(vote);
        assert!(first == vote, "{id} voted for {first} and for {vote} in term {term}");
    }

    /// A member starts: what it told others must have come back.
    pub(crate) fn check_started(&self, host: &Host) {
        let told = self.told.get(&host.id).copied().unwrap_or(0);
        assert!(host.disk.hard_state.term >= told, "{} told term {told} and comes back with {:?}", host.id, host.disk.hard_state);
    }

    /// A member staged the entries from `first` on: an entry never differs from one of the same place, nor does what stands before it.
    pub(crate) fn check_staged(&mut self, host: &Host, first: u64) {
        for index in first..=host.log.len() as u64 {
            let entry = &host.log[index as usize - 1];
            let before = host.id_at(index - 1).term;
            let known = self.entries.entry((entry.term, index)).or_insert_with(|| (entry.clone(), before));
            assert!(
                known.0 == *entry && known.1 == before,
                "{}: log matching broken at {}:{index}: {entry:?} after term {before}, elsewhere {known:?}",
                host.id,
                entry.term
            );
        }
    }

    /// A member took an input.
    pub(crate) fn check(&mut self, hosts: &[Host], host: &Host) {
        let Some(node) = &host.node else { return };
        let id = host.id;
        assert_eq!(node.last(), host.id_at(host.log.len() as u64), "{id}: outline and log end differently");
        assert!(node.durable() <= host.disk.log.len() as u64, "{id}: durable {} is more than its disk has", node.durable());
        if node.is_leader() {
            self.check_leader(host, node.term());
        }
        for index in 1..=node.commit().min(self.committed()) {
            let (entry, _) = &self.committed[index as usize - 1];
            assert!(
                host.log[index as usize - 1] == *entry,
                "{id}: state machine safety broken at {index}: {:?}, elsewhere {entry:?}",
                host.log[index as usize - 1]
            );
        }
        for index in self.committed() + 1..=node.commit() {
            let entry = host.log[index as usize - 1].clone();
            let holds = |voter: NodeId| hosts[voter.0 as usize - 1].disk.log.get(index as usize - 1) == Some(&entry);
            let voters = &node.config().voters;
            assert!(quorum::reached(voters, holds), "{id} commits {}:{index}, which is not durable on a quorum of {voters:?}", entry.term);
            self.committed.push((entry, node.term()));
        }
    }

    /// Election safety, and leader completeness.
    fn check_leader(&mut self, host: &Host, term: u64) {
        let leads = (host.id, host.boots);
        let known = self.leaders.get(&term).copied();
        assert!(known.is_none_or(|known| known == leads), "term {term} is led by {known:?} and {leads:?}");
        if known.is_some() {
            return;
        }
        self.leaders.insert(term, leads);
        for (at, (entry, committed_in)) in self.committed.iter().enumerate() {
            assert!(
                *committed_in >= term || host.log.get(at) == Some(entry),
                "{} leads term {term} without entry {} of term {}, committed in term {committed_in}",
                host.id,
                at + 1,
                entry.term
            );
        }
    }
}
