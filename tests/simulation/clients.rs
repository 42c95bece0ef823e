//! The clients, played at the server's end of their connections: batches go into a node's inbox as the connection's thread would put
//! them there, answers are judged in the moment they come about. The tightest intervals make the sharpest checks.

use std::collections::BTreeMap;

use apexkv::server::event::{ClientBatch, Event, Outcome, Reply, Request, Slot};
use apexkv::server::gate::EarlyRead;
use apexkv::storage::store::Located;

use super::node::{number_of, position_of};
use super::operations::{Action, key_bytes};
use super::plan::{MILLISECOND, SECOND, Time};
use super::world::{What, World};

/// A request that waits.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Write(usize),
    /// A read in front of that write.
    Lookup {
        read: usize,
        write: usize,
    },
}

/// A read behind the last write of its batch.
#[derive(Clone, Debug)]
enum Query {
    Get(usize),
    /// One read of every key, and how many are wanted.
    Scan {
        reads: Vec<usize>,
        limit: usize,
        keys_only: bool,
    },
}

#[derive(Clone, Debug)]
struct Barrier {
    slot: Slot,
    queries: Vec<Query>,
    proceed: bool,
    /// They were looked up already, and wait for nothing but the confirmation.
    early: Option<Early>,
}

/// What was looked up before it was confirmed.
#[derive(Clone, Debug)]
struct Early {
    position: u64,
    found: Vec<Option<Located>>,
}

/// A client and its present connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    /// Node and life that it is connected to.
    server: Option<(usize, u64)>,
    /// Counts its connections.
    epoch: u64,
    next_slot: Slot,
    pending: BTreeMap<Slot, Pending>,
    barrier: Option<Barrier>,
    /// When the oldest pending request was sent, about.
    since: Time,
    /// The highest version answered on this connection.
    floor: u64,
    hint: Option<usize>,
}

impl Client {
    fn lookups(&self) -> bool {
        self.pending.values().any(|pending| matches!(pending, Pending::Lookup { .. }))
    }

    fn idle(&self) -> bool {
        self.pending.is_empty() && self.barrier.is_none()
    }

    /// The node it is connected to.
    pub(crate) fn server_node(&self) -> Option<usize> {
        self.server.map(|(node, _)| node)
    }

    fn hang_up(&mut self) {
        *self = Client { epoch: self.epoch + 1, hint: self.hint, ..Client::default() };
    }
}

/// Some clients stay with their leader while it answers; others look at every member, and meet a new leader first.
fn roams(number: usize) -> bool {
    number % 2 == 1
}

impl World {
    /// A client's turn: connects, gives up on what takes too long, sends the next batch.
    pub(crate) fn client_turn(&mut self, number: usize) {
        let pause = self.random.between(self.plan.think);
        self.schedule(self.now + pause, What::Client(number));
        if self.clients[number].server.is_none() && !self.connect(number) {
            return;
        }
        let client = &mut self.clients[number];
        if !client.idle() && self.now > client.since + 6 * SECOND {
            client.hang_up();
            return;
        }
        let writes = client.pending.len();
        if roams(number) && client.idle() && self.random.per_mille(100) {
            client.hang_up();
            return;
        }
        if client.barrier.is_none() && !client.lookups() && writes < self.plan.depth && !self.quiet {
            if client.pending.is_empty() {
                client.since = self.now;
            }
            self.send_batch(number);
        }
    }

    fn connect(&mut self, number: usize) -> bool {
        let hint = self.clients[number].hint.take();
        let node = match hint {
            Some(node) if !self.random.per_mille(if roams(number) { 600 } else { 100 }) => node,
            _ => self.random.below(self.plan.nodes as u64) as usize,
        };
        let Some(process) = &self.members[node].process else { return false };
        let client = &mut self.clients[number];
        client.epoch += 1;
        client.server = Some((node, process.life));
        client.next_slot = 1;
        client.floor = 0;
        true
    }

    fn draw_action(&mut self, key: u64) -> Option<Action> {
        let mix = self.plan.mix;
        let total = mix.set + mix.delete + mix.compare_and_set + mix.get + mix.scan;
        let mut choice = self.random.below(total);
        let mut takes = |share: u64| {
            let taken = choice < share;
            choice = choice.wrapping_sub(share);
            taken
        };
        if takes(mix.set) {
            Some(Action::Set)
        } else if takes(mix.delete) {
            Some(Action::Delete)
        } else if takes(mix.compare_and_set) {
            let known = self.known[key as usize];
            let expected = *self.random.pick(&[known, known, known, 0, 1]);
            Some(Action::CompareAndSet { expected })
        } else if takes(mix.get) {
            Some(Action::Get)
        } else {
            None
        }
    }

    fn send_batch(&mut self, number: usize) {
        let count = self.random.between((1, self.plan.batch));
        let mut actions = Vec::new();
        let mut scan = false;
        while (actions.len() as u64) < count && !scan {
            let key = self.random.below(self.plan.keys);
            match self.draw_action(key) {
                Some(action) => actions.push((key, action)),
                None => scan = true,
            }
        }
        let settled = actions.iter().rposition(|(_, action)| *action != Action::Get).map_or(0, |last| last + 1);
        let mut batch = ClientBatch {
            client: (number as u64) << 32 | self.clients[number].epoch,
            requests: Vec::new(),
            records: Vec::new(),
            barrier: None,
            deadline_ms: self.random.between(self.plan.deadline_ms) as u32,
        };
        let mut reads = Vec::new();
        for (key, action) in &actions[..settled] {
            let operation = self.invoke(*key, *action);
            let slot = self.next_slot(number, operation);
            if *action == Action::Get {
                reads.push((slot, operation));
                batch.requests.push(Request::Lookup { slot, key: Box::from(&key_bytes(*key)[..]) });
                continue;
            }
            self.oracle.operations[operation].encode(operation, &mut batch.records);
            batch.requests.push(Request::Write { slot });
            let client = &mut self.clients[number];
            client.pending.insert(slot, Pending::Write(operation));
            client.pending.extend(reads.drain(..).map(|(slot, read)| (slot, Pending::Lookup { read, write: operation })));
        }
        self.add_barrier(number, &mut batch, &actions[settled..], scan);
        if !(batch.requests.is_empty() && self.look_up_early(number, &batch)) {
            self.deliver_batch(number, batch);
        }
    }

    /// A new slot of a connection; its upper half says which operation it is.
    fn next_slot(&mut self, number: usize, operation: usize) -> Slot {
        let client = &mut self.clients[number];
        client.next_slot += 1;
        (operation as u64) << 32 | client.next_slot
    }

    fn invoke(&mut self, key: u64, action: Action) -> usize {
        let bytes = self.random.between(self.plan.value_bytes);
        self.oracle.invoke(key, action, bytes)
    }

    fn add_barrier(&mut self, number: usize, batch: &mut ClientBatch<u64>, gets: &[(u64, Action)], scan: bool) {
        let mut queries = Vec::new();
        let slot = self.next_slot(number, self.oracle.operations.len());
        for (key, action) in gets {
            queries.push(Query::Get(self.invoke(*key, *action)));
        }
        if scan {
            let reads = (0..self.plan.keys).map(|key| self.invoke(key, Action::Get)).collect();
            let limit = self.random.between((1, self.plan.keys + 1)) as usize;
            queries.push(Query::Scan { reads, limit, keys_only: self.random.per_mille(500) });
        }
        if !queries.is_empty() {
            batch.barrier = Some(slot);
            self.clients[number].barrier = Some(Barrier { slot, queries, proceed: false, early: None });
        }
    }

    /// Looks reads up before they are confirmed, if the connection's thread may; they enter the gate a little later.
    fn look_up_early(&mut self, number: usize, batch: &ClientBatch<u64>) -> bool {
        let client = &mut self.clients[number];
        let (Some((node, life)), Some(barrier), true) = (client.server, &mut client.barrier, client.pending.is_empty()) else {
            return false;
        };
        let Some(process) = self.members[node].process.as_ref().filter(|process| process.life == life) else { return false };
        let term = process.gate.serving();
        if term == 0 || self.random.per_mille(300) {
            return false;
        }
        let mut found = Vec::new();
        for query in &barrier.queries {
            let Query::Get(read) = query else { return false };
            found.push(process.store.lookup(&key_bytes(self.oracle.operations[*read].key)));
        }
        barrier.early = Some(Early { position: process.store.applied(), found });
        let read = EarlyRead { client: batch.client, slot: barrier.slot, term, deadline_ms: batch.deadline_ms };
        let delay = self.random.spread((1, 5 * MILLISECOND));
        self.schedule(self.now + delay, What::Enter { node, life, read: Box::new(read) });
        self.counts.batches += 1;
        true
    }

    /// The connection's thread leaves what it looked up in the gate.
    pub(crate) fn enter_gate(&mut self, node: usize, life: u64, read: EarlyRead<u64>) {
        let Some(process) = self.members[node].process.as_ref().filter(|process| process.life == life) else { return };
        if process.gate.enter(read) {
            process.inbox.push(Event::Reads(process.gate.clone()));
            self.rouse(node);
        }
    }

    fn deliver_batch(&mut self, number: usize, batch: ClientBatch<u64>) {
        let Some((node, life)) = self.clients[number].server else { return };
        let Some(process) = self.members[node].process.as_ref().filter(|process| process.life == life) else {
            return self.clients[number].hang_up();
        };
        process.inbox.push(Event::Client(batch));
        self.counts.batches += 1;
        self.rouse(node);
    }

    /// The operations of a batch's writes, in order.
    pub(crate) fn writes_of(batch: &ClientBatch<u64>) -> Vec<usize> {
        let writes = batch.requests.iter().map(|request| match request {
            Request::Write { slot } => Some((slot >> 32) as usize),
            _ => None,
        });
        writes.flatten().collect()
    }

    /// The process that a client was connected to is gone, or the client goes away: what was pending stays open.
    pub(crate) fn hang_up_all(&mut self, node: usize) {
        for client in &mut self.clients {
            if client.server.is_some_and(|(server, _)| server == node) {
                client.hang_up();
            }
        }
    }

    /// An answer came about.
    pub(crate) fn answer(&mut self, node: usize, reply: Reply<u64>) {
        let number = (reply.client >> 32) as usize;
        if self.clients[number].epoch != reply.client & 0xffff_ffff {
            return;
        }
        if self.clients[number].barrier.as_ref().is_some_and(|barrier| barrier.slot == reply.slot) {
            return self.answer_barrier(number, &reply.outcome);
        }
        let pending = self.clients[number].pending.remove(&reply.slot);
        let pending = pending.unwrap_or_else(|| panic!("slot {} of client {number} is answered twice: {:?}", reply.slot, reply.outcome));
        self.note_hint(number, &reply.outcome);
        match pending {
            Pending::Write(operation) => {
                let known = self.oracle.answered(operation, &reply.outcome);
                let key = self.oracle.operations[operation].key as usize;
                self.counts.answer(&reply.outcome);
                if let Some(version) = known {
                    self.known[key] = version;
                    self.clients[number].floor = self.clients[number].floor.max(version);
                }
            }
            Pending::Lookup { read, write } => self.answer_lookup(node, read, write, &reply.outcome),
        }
        self.read_if_ready(number);
    }

    fn note_hint(&mut self, number: usize, outcome: &Outcome) {
        if let Outcome::NotLeader { leader } = outcome {
            self.clients[number].hint = leader.map(position_of);
            let leave = self.random.per_mille(700) && self.clients[number].idle();
            let own = self.clients[number].server.map(|(node, _)| number_of(node));
            if leave || *leader != own && self.clients[number].idle() {
                self.clients[number].hang_up();
            }
        }
    }

    fn answer_lookup(&mut self, node: usize, read: usize, write: usize, outcome: &Outcome) {
        let version = match outcome {
            Outcome::Found(located) => located.version,
            Outcome::NotFound => 0,
            Outcome::NotLeader { .. } | Outcome::Busy(_) | Outcome::Unknown(_) => return,
            other => panic!("a lookup is answered with {other:?}"),
        };
        let entry = self.oracle.operations[write].entry.unwrap_or_else(|| panic!("a lookup is answered before its write has a place"));
        self.oracle.read(read, entry.index - 1, version);
        self.counts.reads += 1;
        if let Outcome::Found(located) = outcome {
            let life = self.members[node].process.as_ref().map_or(0, |process| process.life);
            let delay = self.random.spread((1, 20 * MILLISECOND));
            self.schedule(self.now + delay, What::Value { node, life, read, located: Box::new(located.clone()) });
        }
    }

    fn answer_barrier(&mut self, number: usize, outcome: &Outcome) {
        match outcome {
            Outcome::Proceed => {
                if let Some(barrier) = self.clients[number].barrier.take_if(|barrier| barrier.early.is_some()) {
                    return self.judge_early(number, barrier);
                }
                if let Some(barrier) = &mut self.clients[number].barrier {
                    barrier.proceed = true;
                }
                self.read_if_ready(number);
            }
            Outcome::NotLeader { .. } | Outcome::Busy(_) | Outcome::Unknown(_) => {
                self.clients[number].barrier = None;
                self.note_hint(number, outcome);
            }
            other => panic!("a barrier is answered with {other:?}"),
        }
    }

    /// Reads behind a barrier are looked up when all writes of the connection have been answered.
    fn read_if_ready(&mut self, number: usize) {
        let client = &self.clients[number];
        if client.pending.is_empty() && client.barrier.as_ref().is_some_and(|barrier| barrier.proceed) {
            let delay = self.random.spread((1, 5 * MILLISECOND));
            let epoch = client.epoch;
            self.schedule(self.now + delay, What::Read { client: number, epoch });
        }
    }

    /// The connection's thread looks up what stands behind the barrier.
    pub(crate) fn read_now(&mut self, number: usize, epoch: u64) {
        let client = &mut self.clients[number];
        let (Some((node, life)), true) = (client.server, client.epoch == epoch) else { return };
        let floor = client.floor;
        let Some(barrier) = client.barrier.take() else { return };
        let Some(process) = self.members[node].process.as_ref().filter(|process| process.life == life) else { return };
        let store = process.store.clone();
        let position = store.applied();
        assert!(position >= floor, "client {number} reads at {position} on a connection that was answered {floor}");
        for query in barrier.queries {
            match query {
                Query::Get(read) => {
                    let key = self.oracle.operations[read].key;
                    let located = store.lookup(&key_bytes(key));
                    self.oracle.read(read, position, located.as_ref().map_or(0, |located| located.version));
                    self.counts.reads += 1;
                    if let Some(located) = located {
                        self.read_value(node, life, read, &located);
                    }
                }
                Query::Scan { reads, limit, keys_only } => {
                    let page = store.scan(b"k", b"", limit, 1 << 20, keys_only);
                    self.check_page(position, &reads, limit, &page.entries, page.more);
                    self.read_page(node, life, &reads, &page.entries, keys_only);
                    self.counts.scans += 1;
                }
            }
        }
    }

    /// What was looked up early counts now.
    fn judge_early(&mut self, number: usize, barrier: Barrier) {
        let (Some((node, life)), Some(Early { position, found })) = (self.clients[number].server, barrier.early) else { return };
        for (query, located) in barrier.queries.iter().zip(found) {
            let Query::Get(read) = query else { panic!("{query:?} was looked up early") };
            self.oracle.read(*read, position, located.as_ref().map_or(0, |located| located.version));
            self.counts.reads += 1;
            self.counts.early_reads += 1;
            if let Some(located) = located {
                self.read_value(node, life, *read, &located);
            }
        }
    }

    fn check_page(&mut self, position: u64, reads: &[usize], limit: usize, entries: &[(Box<[u8]>, Located)], more: bool) {
        let mut found = entries.iter().peekable();
        let mut shown = 0;
        for read in reads {
            let key = key_bytes(self.oracle.operations[*read].key);
            let version = found.next_if(|(other, _)| **other == key[..]).map_or(0, |(_, located)| located.version);
            if shown == limit {
                let expected = self.oracle.model.version_at(self.oracle.operations[*read].key, position);
                assert!(expected == 0 || more, "a page of {limit} keys does not say that there are more");
                continue;
            }
            shown += usize::from(version > 0);
            self.oracle.read(*read, position, version);
        }
        assert!(found.next().is_none(), "a page shows keys that nobody wrote, or out of order: {entries:?}");
    }

    /// The values of a page are copied, if they are wanted.
    fn read_page(&mut self, node: usize, life: u64, reads: &[usize], entries: &[(Box<[u8]>, Located)], keys_only: bool) {
        for read in reads {
            let key = key_bytes(self.oracle.operations[*read].key);
            match entries.iter().find(|(other, _)| **other == key) {
                Some(_) if keys_only => self.oracle.read_version(*read),
                Some((_, located)) => self.read_value(node, life, *read, located),
                None => {}
            }
        }
    }

    /// A connection's thread copies a value whose place was taken earlier.
    pub(crate) fn read_value(&mut self, node: usize, life: u64, read: usize, located: &Located) {
        let member = &self.members[node];
        let Some(process) = member.process.as_ref().filter(|process| process.life == life) else { return };
        let (key, mut value) = (self.oracle.operations[read].key, Vec::new());
        match process.store.read(&key_bytes(key), located, &mut value) {
            Ok(()) => self.oracle.read_bytes(read, &value),
            Err(error) => assert!(member.is_damaged(), "{node} cannot read version {}: {error}", located.version),
        }
    }
}
