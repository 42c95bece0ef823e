//! Requests that wait for an answer: writes for their entry to be applied, reads for confirmation and for an index. What waits is
//! bound to (index, term); losing leadership answers everyone at once, and nobody is answered twice or for another's entry.

use crate::bugbank::planted;
use std::collections::VecDeque;

use crate::raft::{EntryId, NodeId};
use crate::storage::applier::Effect;
use crate::storage::state_at::StateAt;
use crate::storage::store::Located;

use crate::server::mailbox::Sender;

use super::event::{BackupRequest, ClientBatch, Outcome, Reply, Request, Slot};

const TIME_LIMIT_WRITE: &str = "the time limit passed after the write entered the log; it may take effect yet";
const TIME_LIMIT_READ: &str = "the leader could not confirm the read within the time limit; try again";
const LEADERSHIP_LOST: &str = "leadership was lost after the write entered the log; it may have taken effect, or may yet";

/// A write in the log, and the reads that stand right before it on its connection.
#[derive(Debug)]
pub(super) struct WaitingWrite<C> {
    id: EntryId,
    client: C,
    slot: Slot,
    lookups: Vec<(Slot, Box<[u8]>)>,
    deadline: u64,
    /// The time limit has passed and the client knows.
    answered: bool,
}

#[derive(Debug)]
struct WaitingRead<C> {
    client: C,
    slot: Slot,
    round: u64,
    index: u64,
    deadline: u64,
    /// Wants the state as it is when the read may proceed.
    state: Option<Sender<StateAt>>,
}

/// All requests in flight on this node.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    /// In log order.
    writes: VecDeque<WaitingWrite<C>>,
    /// In the order of their rounds.
    reads: VecDeque<WaitingRead<C>>,
    /// No deadline lies before this; saves looking at all of them on every tick.
    next_deadline: u64,
}

impl<C> ClientBatch<C> {
    /// How many records the batch holds.
    pub(super) fn write_count(&self) -> u64 {
        self.requests.iter().filter(|request| matches!(request, Request::Write { .. })).count() as u64
    }
}

impl<C: Clone> WaitingWrite<C> {
    /// Answers the reads that stand before this write, whose entry is about to be applied: the state is exactly theirs. Commitment of
    /// the entry, appended after they were received, is what confirms them.
    pub(super) fn answer_lookups(&self, lookup: impl Fn(&[u8]) -> Option<Located>, replies: &mut Vec<Reply<C>>) {
        if self.answered {
            return;
        }
        for (slot, key) in &self.lookups {
            let outcome = lookup(key).map_or(Outcome::NotFound, Outcome::Found);
            replies.push(Reply { client: self.client.clone(), slot: *slot, outcome });
        }
    }

    /// Answers the write whose entry was just applied as `id`.
    pub(super) fn answer(self, id: EntryId, effect: Effect, replies: &mut Vec<Reply<C>>) {
        assert!(id == self.id || planted(98) && id.index == self.id.index, "the write at {} would be answered for entry {id}", self.id);
        if self.answered {
            return;
        }
        let outcome = match effect {
            Effect::Written => Outcome::Written { version: id.index },
            Effect::NotFound => Outcome::NotFound,
            Effect::Conflict { current } => Outcome::Conflict { current },
            Effect::None => unreachable!("entry {id} has no operations, yet a write waits for it"),
        };
        replies.push(Reply { client: self.client, slot: self.slot, outcome });
    }

    fn give_up(&mut self, write: &Outcome, lookups: &Outcome, replies: &mut Vec<Reply<C>>) {
        if self.answered {
            return;
        }
        self.answered = true;
        for (slot, _) in &self.lookups {
            replies.push(Reply { client: self.client.clone(), slot: *slot, outcome: lookups.clone() });
        }
        replies.push(Reply { client: self.client.clone(), slot: self.slot, outcome: write.clone() });
    }
}

impl<C: Clone> Waiting<C> {
    /// Nobody waits.
    pub(super) fn new() -> Waiting<C> {
        Waiting { writes: VecDeque::new(), reads: VecDeque::new(), next_deadline: u64::MAX }
    }

    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.writes.len() + self.reads.len()
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Answers a batch's writes and lookups, and its barrier too if `barrier` says so, without admitting them.
    pub(super) fn refuse(batch: &ClientBatch<C>, outcome: &Outcome, barrier: bool, replies: &mut Vec<Reply<C>>) {
        let slots = batch.requests.iter().map(|request| match request {
            Request::Write { slot } | Request::Lookup { slot, .. } => *slot,
        });
        for slot in slots.chain(batch.barrier.filter(|_| barrier)) {
            replies.push(Reply { client: batch.client.clone(), slot, outcome: outcome.clone() });
        }
    }

    /// The batch's writes have entered the log from `first` on.
    pub(super) fn add_writes(&mut self, batch: &mut ClientBatch<C>, first: EntryId, deadline: u64) {
        let mut id = first;
        let mut lookups = Vec::new();
        for request in batch.requests.drain(..) {
            match request {
                Request::Lookup { slot, key } => lookups.push((slot, key)),
                Request::Write { slot } => {
                    let lookups = std::mem::take(&mut lookups);
                    self.writes.push_back(WaitingWrite { id, client: batch.client.clone(), slot, lookups, deadline, answered: false });
                    id.index += 1;
                }
            }
        }
        assert!(lookups.is_empty(), "{} lookups stand behind the last write of their batch", lookups.len());
        self.next_deadline = self.next_deadline.min(deadline);
    }

    /// A read waits for its round and for `index` to be applied.
    pub(super) fn add_read(&mut self, client: C, slot: Slot, round: u64, index: u64, deadline: u64) {
        self.reads.push_back(WaitingRead { client, slot, round, index, deadline, state: None });
        self.next_deadline = self.next_deadline.min(deadline);
    }

    /// As [`Waiting::add_read`], for the whole state.
    pub(super) fn add_backup(&mut self, request: BackupRequest<C>, round: u64, index: u64, deadline: u64) {
        let BackupRequest { client, slot, state, .. } = request;
        self.reads.push_back(WaitingRead { client, slot, round, index, deadline, state: Some(state) });
        self.next_deadline = self.next_deadline.min(deadline);
    }

    /// The write that waits for `index`, which is about to be applied.
    pub(super) fn take_write(&mut self, index: u64) -> Option<WaitingWrite<C>> {
        let front = self.writes.front()?;
        assert!(front.id.index >= index, "the write at {} was passed over", front.id);
        if front.id.index == index { self.writes.pop_front() } else { None }
    }

    /// Lets the reads go that are confirmed and whose index is applied. `pin` pins the applied state, for those that want it.
    pub(super) fn release_reads(&mut self, confirmed_round: u64, applied: u64, pin: impl Fn() -> StateAt, replies: &mut Vec<Reply<C>>) {
        let confirmed = self.reads.partition_point(|read| read.round <= confirmed_round);
        if confirmed == 0 {
            return;
        }
        let mut behind = VecDeque::new();
        for read in self.reads.drain(..confirmed) {
            if read.index <= applied {
                if let Some(state) = &read.state {
                    // Somebody who is gone needs no state.
                    let _ = state.try_send(pin());
                }
                replies.push(Reply { client: read.client, slot: read.slot, outcome: Outcome::Proceed });
            } else {
                behind.push_back(read);
            }
        }
        behind.append(&mut self.reads);
        self.reads = behind;
    }

    /// Answers everyone: this node no longer leads the term in which they were admitted.
    pub(super) fn lose_leadership(&mut self, leader: Option<NodeId>, replies: &mut Vec<Reply<C>>) {
        let not_leader = Outcome::NotLeader { leader };
        let unknown = if planted(36) { not_leader.clone() } else { Outcome::Unknown(LEADERSHIP_LOST) };
        let given_up = if planted(98) { 0 } else { self.writes.len() };
        for mut write in self.writes.drain(..given_up) {
            write.give_up(&unknown, &not_leader, replies);
        }
        for read in self.reads.drain(..) {
            replies.push(Reply { client: read.client, slot: read.slot, outcome: not_leader.clone() });
        }
        self.next_deadline = u64::MAX;
    }

    /// Answers those whose time limit has passed. A write stays in its place, since its entry will still be applied.
    pub(super) fn expire(&mut self, now: u64, replies: &mut Vec<Reply<C>>) {
        if now < self.next_deadline {
            return;
        }
        for write in self.writes.iter_mut().filter(|write| write.deadline <= now) {
            write.give_up(&Outcome::Unknown(TIME_LIMIT_WRITE), &Outcome::Busy(TIME_LIMIT_READ.into()), replies);
        }
        self.reads.retain(|read| {
            if read.deadline <= now {
                let outcome = Outcome::Busy(TIME_LIMIT_READ.into());
                replies.push(Reply { client: read.client.clone(), slot: read.slot, outcome });
            }
            read.deadline > now
        });
        let writes = self.writes.iter().filter(|write| !write.answered).map(|write| write.deadline);
        self.next_deadline = writes.chain(self.reads.iter().map(|read| read.deadline)).min().unwrap_or(u64::MAX);
    }
}

impl<C: Clone> Default for Waiting<C> {
    fn default() -> Self {
        Waiting::new()
    }
}
