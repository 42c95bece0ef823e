//! What must hold in every state (paper, figure 3, and the rules for the disk), and what must be remembered of the past for it. What is
//! remembered is part of a state: two states that differ in it are searched both.

use apexkv::raft::{Envelope, HardState, Message, NodeId, ReadTicket};

use super::host::Host;
use std::sync::Arc;

/// A read that was admitted and not confirmed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Read {
    at: NodeId,
    term: u64,
    ticket: ReadTicket,
    /// What was committed anywhere when it was asked for.
    committed: u64,
}

/// The memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Memory {
    /// Who led term n + 1.
    leaders: Vec<Option<NodeId>>,
    /// Votes that were told, as (term, voter, for whom), sorted.
    votes: Vec<(u64, NodeId, NodeId)>,
    /// Terms of the committed entries, each with the term in which it was first known to be committed.
    committed: Vec<(u64, u64)>,
    reads: Vec<Read>,
}

type Result = std::result::Result<(), String>;

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result {
    if holds { Ok(()) } else { Err(broken()) }
}

impl Memory {
    /// A message leaves: what it says must be durable at its sender.
    pub(crate) fn check_leaving(&mut self, host: &Host, envelope: &Envelope) -> Result {
        let (id, term, stored) = (envelope.from, envelope.term, host.stored);
        ensure(term <= stored.term, || format!("{id} tells term {term}, its disk has {stored:?}"))?;
        match &envelope.message {
            Message::Vote { .. } => self.note_vote(id, term, id, stored),
            Message::VoteReply { granted: true } => self.note_vote(id, term, envelope.to, stored),
            Message::Appended { matched, .. } => {
                let durable = host.log.len() as u64;
                ensure(*matched <= durable, || format!("{id} acknowledges {matched}, its disk has {durable} entries"))
            }
            _ => Ok(()),
        }
    }

    fn note_vote(&mut self, id: NodeId, term: u64, vote: NodeId, stored: HardState) -> Result {
        ensure(stored == HardState { term, vote: Some(vote) }, || {
            format!("{id} tells its vote for {vote} in {term}, its disk has {stored:?}")
        })?;
        let told = (term, id, vote);
        if let Some((_, _, first)) = self.votes.iter().find(|(at, voter, _)| (*at, *voter) == (term, id)) {
            return ensure(*first == vote, || format!("{id} voted for {first} and for {vote} in term {term}"));
        }
        self.votes.push(told);
        self.votes.sort_unstable();
        Ok(())
    }

    pub(crate) fn read_admitted(&mut self, host: &Host, ticket: ReadTicket) {
        let committed = self.committed.len() as u64;
        self.reads.push(Read { at: host.node.id(), term: host.node.term(), ticket, committed });
    }

    /// A member reports a read round as confirmed, or leads no more.
    pub(crate) fn check_reads(&mut self, host: &Host, confirmed: u64) -> Result {
        let leads = host.node.is_leader().then(|| host.node.term());
        let mut broken = None;
        self.reads.retain(|read| {
            if read.at != host.node.id() {
                return true;
            }
            let done = leads == Some(read.term) && read.ticket.round <= confirmed;
            if done && read.ticket.index < read.committed {
                broken = Some(*read);
            }
            leads == Some(read.term) && !done
        });
        ensure(broken.is_none(), || format!("a stale read is confirmed: {broken:?}"))
    }

    /// After every move.
    pub(crate) fn check(&mut self, hosts: &[Arc<Host>; 3], changed: usize) -> Result {
        let host = &hosts[changed];
        self.check_commit(hosts, host)?;
        if host.node.is_leader() {
            self.check_leader(host)?;
        }
        check_durable(host)?;
        for other in hosts.iter().filter(|other| other.node.id() != host.node.id()) {
            check_logs_match(host, other)?;
            check_votes_can_be_had(host, other)?;
            check_votes_can_be_had(other, host)?;
        }
        self.check_quorums(hosts)
    }

    /// State machine safety.
    fn check_commit(&mut self, hosts: &[Arc<Host>; 3], host: &Host) -> Result {
        let id = host.node.id();
        for index in 1..=host.node.commit() {
            let term = host.term_at(index).unwrap_or(0);
            match self.committed.get(index as usize - 1) {
                Some((known, _)) => ensure(*known == term, || format!("{id} commits {term}:{index}, elsewhere {known}:{index} was"))?,
                None => self.committed.push((term, host.node.term())),
            }
        }
        let newest = hosts.iter().map(|host| host.node.commit()).max().unwrap_or(0);
        ensure(newest <= self.committed.len() as u64, || format!("{newest} entries are committed, {:?} known", self.committed))
    }

    /// What is committed stays on a majority of the disks for ever.
    fn check_quorums(&self, hosts: &[Arc<Host>; 3]) -> Result {
        for (at, (term, _)) in self.committed.iter().enumerate() {
            let copies = hosts.iter().filter(|host| host.log.get(at) == Some(term)).count();
            ensure(copies >= 2, || format!("entry {term}:{} is committed, and {copies} disks have it", at + 1))?;
        }
        Ok(())
    }

    /// Election safety, and leader completeness.
    fn check_leader(&mut self, host: &Host) -> Result {
        let (id, term) = (host.node.id(), host.node.term());
        if self.leaders.len() < term as usize {
            self.leaders.resize(term as usize, None);
        }
        let known = &mut self.leaders[term as usize - 1];
        ensure(known.is_none_or(|known| known == id), || format!("{known:?} and {id} lead term {term}"))?;
        if known.is_some() {
            return Ok(());
        }
        *known = Some(id);
        let votes = self.votes.iter().filter(|(at, _, vote)| (*at, *vote) == (term, id)).count();
        ensure(votes >= 2, || format!("{id} leads term {term} with {votes} votes"))?;
        for (index, (entry, committed_in)) in (1..).zip(&self.committed) {
            let held = *committed_in >= term || host.term_at(index) == Some(*entry);
            ensure(held, || format!("{id} leads term {term} without {entry}:{index}, committed in term {committed_in}"))?;
        }
        Ok(())
    }
}

/// What the core takes for durable is on the disk.
fn check_durable(host: &Host) -> Result {
    for index in 1..=host.node.durable() {
        let (memory, disk) = (host.term_at(index), host.log.get(index as usize - 1));
        ensure(memory.as_ref() == disk, || format!("{} takes {index} for durable: {memory:?}, its disk has {disk:?}", host.node.id()))?;
    }
    Ok(())
}

/// Log matching: below an equal entry everything is equal.
fn check_logs_match(one: &Host, other: &Host) -> Result {
    let last = one.node.last().index.min(other.node.last().index);
    let mut equal = false;
    for index in (1..=last).rev() {
        let same = one.term_at(index) == other.term_at(index);
        ensure(same || !equal, || format!("{} and {} differ at {index} and agree above", one.node.id(), other.node.id()))?;
        equal |= same;
    }
    Ok(())
}

/// Of two logs one is more up to date, so that of two members one can have the other's vote.
fn check_votes_can_be_had(newer: &Host, older: &Host) -> Result {
    let (last, other) = (newer.node.last(), older.node.last());
    // Only where the longer log is the older one can the order be mistaken; elsewhere asking would only cost time.
    if last.term <= other.term || last.index >= other.index || older.node.is_leader() {
        return Ok(());
    }
    let granted = older.would_vote(newer.node.id(), last);
    ensure(granted, || format!("{} at {other} would refuse {} at {last} its vote", older.node.id(), newer.node.id()))
}
