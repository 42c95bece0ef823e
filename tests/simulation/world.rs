//! The world: members, links and clients, and the one queue of what happens next. One thread, no clock, no chance but the seed's: the
//! same seed gives the same course of events.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use apexkv::protocol::handshake::{Hello, LinkClass};
use apexkv::server::gate::EarlyRead;
use apexkv::storage::directory::Founding;
use apexkv::storage::simulated::{DiskImage, SimulatedDisk};
use apexkv::storage::store::Located;

use super::clients::Client;
use super::counts::Counts;
use super::network::{Handshake, Network};
use super::node::{Member, found_cluster};
use super::oracle::Oracle;
use super::plan::{Death, Fault, Plan, Time};
use super::random::Random;
use super::transfers::{Leg, Transfer};

/// What can happen.
pub(crate) enum What {
    Wake {
        node: usize,
        life: u64,
    },
    JobDone {
        node: usize,
        life: u64,
    },
    Prepared {
        node: usize,
        life: u64,
    },
    Hinted {
        node: usize,
        life: u64,
    },
    /// The merger.
    Chore {
        node: usize,
        life: u64,
    },
    /// A read that was looked up enters the gate.
    Enter {
        node: usize,
        life: u64,
        read: Box<EarlyRead<u64>>,
    },
    /// A file has been read again.
    Scrubbed {
        node: usize,
        life: u64,
    },
    /// A process ends over damage.
    Ended {
        node: usize,
        life: u64,
    },
    Marks {
        node: usize,
        life: u64,
    },
    Start(usize),
    Dial {
        from: usize,
        to: usize,
        class: LinkClass,
        life: u64,
        dialing: u64,
    },
    Hello(Box<Handshake>),
    Welcome(Box<Handshake>),
    Opened(usize, Box<Hello>),
    Deliver(usize),
    Stray {
        from: usize,
        to: usize,
        /// Of the sender, when it said it.
        life: u64,
        bytes: Vec<u8>,
    },
    /// A snapshot's way, by the number of the transfer and of the connection.
    Transfer {
        number: usize,
        connection: u64,
        leg: Leg,
    },
    SenderEnds(usize),
    ReceiverEnds(usize),
    Pulse(usize),
    Client(usize),
    Read {
        client: usize,
        epoch: u64,
    },
    Value {
        node: usize,
        life: u64,
        read: usize,
        located: Box<Located>,
    },
    Fault(Fault),
    /// The second half of a killing that is followed by a power cut.
    CutPower {
        node: usize,
        death: Death,
        down: Time,
    },
    FreeSpace(usize),
}

/// What is to happen, in the order of its time and then of its planning. The order is kept among small keys; what they stand for stays
/// where it is.
#[derive(Default)]
struct Queue {
    order: BinaryHeap<Reverse<(Time, u64, u32)>>,
    planned: Vec<Option<What>>,
    free: Vec<u32>,
    sequence: u64,
}

impl Queue {
    fn push(&mut self, at: Time, what: What) {
        let place = self.free.pop().unwrap_or(self.planned.len() as u32);
        if place as usize == self.planned.len() {
            self.planned.push(None);
        }
        self.planned[place as usize] = Some(what);
        self.sequence += 1;
        self.order.push(Reverse((at, self.sequence, place)));
    }

    /// The next one that is due before `until`.
    fn pop_before(&mut self, until: Time) -> Option<(Time, What)> {
        self.order.peek().filter(|Reverse((at, ..))| *at < until)?;
        let Reverse((at, _, place)) = self.order.pop()?;
        self.free.push(place);
        self.planned[place as usize].take().map(|what| (at, what))
    }
}

/// A running hash over everything that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace(pub(crate) u64);

impl Trace {
    pub(crate) fn note(&mut self, facts: &[u64]) {
        for fact in facts {
            self.0 = (self.0 ^ fact).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        }
    }
}

/// See the module's doc.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Time,
    queue: Queue,
    pub(crate) random: Random,
    pub(crate) founding: Arc<Founding>,
    pub(crate) members: Vec<Member>,
    pub(crate) network: Network,
    /// All snapshots that were ever sent.
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) clients: Vec<Client>,
    pub(crate) oracle: Oracle,
    /// The newest version that any client has learned, for each key.
    pub(crate) known: Vec<u64>,
    /// Nodes whose starts are to be cut, and how they go on.
    pub(crate) interrupted: HashMap<usize, (Death, Time)>,
    /// Nodes whose disk was ordered to fail.
    pub(crate) failing: HashMap<usize, ()>,
    /// Clients send nothing more.
    pub(crate) quiet: bool,
    pub(crate) counts: Counts,
    pub(crate) trace: Trace,
}

/// Clusters as founding leaves them, by the number of nodes.
type Founded = HashMap<usize, (Arc<Founding>, Vec<DiskImage>)>;

thread_local! {
    static FOUNDED: std::cell::RefCell<Founded> = std::cell::RefCell::default();
}

/// Founding takes longer than many a run; its result is the same each time.
fn founded(nodes: usize) -> (Arc<Founding>, Vec<DiskImage>) {
    FOUNDED.with_borrow_mut(|founded| {
        let entry = founded.entry(nodes).or_insert_with(|| {
            let (founding, images) = found_cluster(nodes).unwrap_or_else(|error| panic!("founding fails: {error}"));
            (Arc::new(founding), images)
        });
        entry.clone()
    })
}

impl World {
    pub(crate) fn new(plan: Plan) -> World {
        let (founding, images) = founded(plan.nodes);
        let mut members = Vec::new();
        for (node, image) in images.into_iter().enumerate() {
            let disk = SimulatedDisk::new(plan.seed ^ node as u64);
            disk.restore(image);
            members.push(Member::new(disk));
        }
        let mut world = World {
            now: 0,
            queue: Queue::default(),
            random: Random::new(plan.seed, 3),
            founding,
            members,
            network: Network::new(plan.nodes),
            transfers: Vec::new(),
            clients: vec![Client::default(); plan.clients],
            oracle: Oracle::new(plan.nodes, plan.keys),
            known: vec![0; plan.keys as usize],
            interrupted: HashMap::new(),
            failing: HashMap::new(),
            quiet: false,
            counts: Counts::default(),
            trace: Trace(plan.seed),
            plan,
        };
        for node in 0..world.plan.nodes {
            let at = world.random.below(20_000);
            world.schedule(at, What::Start(node));
        }
        for client in 0..world.plan.clients {
            let at = world.random.below(300_000);
            world.schedule(at, What::Client(client));
        }
        for (at, fault) in world.plan.faults.clone() {
            world.schedule(at, What::Fault(fault));
        }
        world
    }

    pub(crate) fn schedule(&mut self, at: Time, what: What) {
        self.queue.push(at, what);
    }

    /// Lets everything happen that is due before `until`.
    pub(crate) fn run_until(&mut self, until: Time) {
        while let Some((at, what)) = self.queue.pop_before(until) {
            self.now = self.now.max(at);
            self.happen(what);
        }
        self.now = self.now.max(until);
    }

    /// Whose threads something needs, so that it waits while they stand still.
    fn actor(&self, what: &What) -> Option<usize> {
        match what {
            What::Wake { node, .. }
            | What::JobDone { node, .. }
            | What::Prepared { node, .. }
            | What::Hinted { node, .. }
            | What::Chore { node, .. }
            | What::Enter { node, .. }
            | What::Scrubbed { node, .. }
            | What::Marks { node, .. } => Some(*node),
            What::Value { node, .. } => Some(*node),
            What::Dial { from, .. } => Some(*from),
            What::Hello(handshake) => Some(handshake.to),
            What::Welcome(handshake) => Some(handshake.from),
            What::Opened(number, _) | What::Deliver(number) | What::ReceiverEnds(number) => Some(self.network.connections[*number].to),
            What::SenderEnds(number) => Some(self.network.connections[*number].from),
            What::Stray { to, .. } => Some(*to),
            What::Transfer { number, leg, .. } => Some(self.transfers[*number].actor(leg)),
            What::Read { client, .. } => self.clients[*client].server_node(),
            _ => None,
        }
    }

    fn happen(&mut self, what: What) {
        if let Some(node) = self.actor(&what) {
            let until = self.members[node].paused_until;
            if until > self.now {
                if let (What::Wake { life, .. }, Some(process)) = (&what, &mut self.members[node].process)
                    && process.life == *life
                    && process.wake_at == Some(self.now)
                {
                    process.wake_at = Some(until);
                }
                return self.schedule(until, what);
            }
        }
        match what {
            What::Wake { node, life } => self.wake(node, life),
            What::JobDone { node, life } => self.job_done(node, life),
            What::Prepared { node, life } => self.prepared(node, life),
            What::Hinted { node, life } => self.hinted(node, life),
            What::Chore { node, life } => self.chore_done(node, life),
            What::Enter { node, life, read } => self.enter_gate(node, life, *read),
            What::Scrubbed { node, life } => self.scrubbed(node, life),
            What::Ended { node, life } => self.ended_over_damage(node, life),
            What::Marks { node, life } => self.flush_marks(node, life),
            What::Start(node) => self.start(node),
            What::Dial { from, to, class, life, dialing } => self.dial(from, to, class, life, dialing),
            What::Hello(handshake) => self.hello_arrives(handshake),
            What::Welcome(handshake) => self.welcome_arrives(handshake),
            What::Opened(number, hello) => self.opened(number, &hello),
            What::Deliver(number) => self.deliver(number),
            What::Stray { from, to, life, bytes } => self.stray(from, to, life, &bytes),
            What::Transfer { number, connection, leg } => self.transfer(number, connection, leg),
            What::SenderEnds(number) => self.sender_ends(number),
            What::ReceiverEnds(number) => self.receiver_ends(number),
            What::Pulse(number) => self.pulse(number),
            What::Client(number) => self.client_turn(number),
            What::Read { client, epoch } => self.read_now(client, epoch),
            What::Value { node, life, read, located } => self.read_value(node, life, read, &located),
            What::Fault(fault) => self.strike(fault),
            What::CutPower { node, death, down } => self.cut_power(node, death, down),
            What::FreeSpace(node) => self.free_space(node),
        }
    }

    /// The outgoing links of a node.
    pub(crate) fn links_of(&self, node: usize) -> Vec<(usize, LinkClass)> {
        self.members[node].process.as_ref().map_or(Vec::new(), |process| process.links.keys().copied().collect())
    }
}
