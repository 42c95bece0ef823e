//! The links between the members: streams that keep their order, break, stall and come again, with the shipping judgement of peers, the
//! shipping registry and the shipping frames at both ends. What a real link loses, the sender learns of; a harsher mode also loses and
//! repeats messages without anybody noticing.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use apexkv::protocol::handshake::{Hello, LinkClass};
use apexkv::protocol::{frame, peer};
use apexkv::raft::{Envelope, Message};
use apexkv::server::event::{Incoming, LinkChange, Outgoing};
use apexkv::server::identity::{Mark, Verdict, judge};
use apexkv::server::registry::{Age, Severable};

use super::node::{name_of, number_of, position_of, standing};
use super::plan::{Death, MILLISECOND, SECOND, Time};
use super::world::{What, World};

/// A link without a byte for this long is cut.
pub(crate) const SILENCE: Time = 5 * SECOND;
const PAUSE_MIN: Time = 10 * MILLISECOND;
const PAUSE_MAX: Time = 500 * MILLISECOND;
/// Messages that a link holds before the next one is dropped.
const QUEUE_MAX: usize = 256;

/// What travels on a connection.
pub(crate) enum Packet {
    Bytes(Vec<u8>),
    /// Encoded only when it arrives, as late as a worker thread could.
    Late(Outgoing),
    End,
}

/// One connection of one direction and class.
pub(crate) struct Connection {
    pub(crate) from: usize,
    pub(crate) to: usize,
    class: LinkClass,
    sender_life: u64,
    receiver_life: u64,
    age: Age,
    queue: VecDeque<Packet>,
    sending: bool,
    receiving: bool,
    last_arrival: Time,
    last_heard: Time,
    term_seen: u64,
}

/// A first exchange under way.
pub(crate) struct Handshake {
    pub(crate) from: usize,
    pub(crate) to: usize,
    sender_life: u64,
    receiver_life: u64,
    dialing: u64,
    /// What the dialer remembered of the acceptor before it asked.
    before: Option<Mark>,
    hello: Hello,
    welcome: Option<Hello>,
}

/// All connections there ever were, and what stands in their way.
#[derive(Default)]
pub(crate) struct Network {
    pub(crate) connections: Vec<Connection>,
    /// Until when nothing gets from one node to another.
    blocked: Vec<Vec<Time>>,
    slow: Vec<Vec<(Time, Time)>>,
    severed: Arc<Mutex<Vec<usize>>>,
}

struct Sever {
    connection: usize,
    list: Arc<Mutex<Vec<usize>>>,
}

impl Severable for Sever {
    fn sever(&self) {
        self.list.lock().push(self.connection);
    }
}

impl Network {
    pub(crate) fn new(nodes: usize) -> Network {
        Network { blocked: vec![vec![0; nodes]; nodes], slow: vec![vec![(0, 0); nodes]; nodes], ..Network::default() }
    }

    pub(crate) fn block(&mut self, from: usize, to: usize, until: Time) {
        self.blocked[from][to] = self.blocked[from][to].max(until);
    }

    pub(crate) fn slow_down(&mut self, from: usize, to: usize, until: Time, extra: Time) {
        self.slow[from][to] = (until, extra);
    }

    /// Everything gets through again, but for the nodes that `keep` names.
    pub(crate) fn heal(&mut self, keep: impl Fn(usize) -> bool) {
        for from in 0..self.blocked.len() {
            for to in 0..self.blocked.len() {
                self.slow[from][to] = (0, 0);
                self.blocked[from][to] = if from != to && (keep(from) || keep(to)) { Time::MAX / 2 } else { 0 };
            }
        }
    }
}

impl World {
    pub(crate) fn latency(&mut self, from: usize, to: usize) -> Time {
        let (until, extra) = self.network.slow[from][to];
        let mut latency = self.random.between(self.plan.latency);
        if self.random.per_mille(self.plan.late) {
            latency *= 10;
        }
        latency + if self.now < until { extra } else { 0 }
    }

    pub(crate) fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.now < self.network.blocked[from][to]
    }

    /// Until when two nodes cannot talk to each other.
    pub(crate) fn blocked_until(&self, one: usize, other: usize) -> Time {
        self.network.blocked[one][other].max(self.network.blocked[other][one])
    }

    pub(crate) fn lives(&self, node: usize, life: u64) -> bool {
        self.members[node].process.as_ref().is_some_and(|process| process.life == life)
    }

    // ---- opening ----

    /// Has a link dialed after a pause.
    pub(crate) fn dial_later(&mut self, from: usize, to: usize, class: LinkClass, pause: Time) {
        let at = self.now + pause;
        let Some(process) = &mut self.members[from].process else { return };
        let life = process.life;
        let Some(link) = process.links.get_mut(&(to, class)) else { return };
        link.dialing += 1;
        let dialing = link.dialing;
        self.schedule(at, What::Dial { from, to, class, life, dialing });
    }

    fn dial_again(&mut self, from: usize, to: usize, class: LinkClass, extra: Time) {
        let random = self.random.between((500, 1000));
        let Some(process) = &mut self.members[from].process else { return };
        let Some(link) = process.links.get_mut(&(to, class)) else { return };
        link.connection = None;
        let pause = link.pause.max(PAUSE_MIN);
        link.pause = (pause * 2).min(PAUSE_MAX);
        self.dial_later(from, to, class, extra + pause * random / 1000);
    }

    pub(crate) fn dial(&mut self, from: usize, to: usize, class: LinkClass, life: u64, dialing: u64) {
        let founding = self.founding.clone();
        let receiver_life = match &self.members[to].process {
            _ if self.is_blocked(from, to) || self.is_blocked(to, from) || self.lacks_evidence(from, to) => None,
            Some(process) => Some(process.life),
            None => None,
        };
        let Some(process) = self.members[from].process.as_mut().filter(|process| process.life == life) else { return };
        if process.links.get(&(to, class)).is_none_or(|link| link.dialing != dialing || link.connection.is_some()) {
            return;
        }
        let Some(receiver_life) = receiver_life else {
            let timeout = if self.members[to].powered && !self.is_blocked(from, to) { 0 } else { 500 * MILLISECOND };
            return self.dial_again(from, to, class, timeout);
        };
        let before = process.marks.of(Some(number_of(to)), &process.view);
        let hello = process.hello(from, &founding, class);
        let handshake = Handshake { from, to, sender_life: life, receiver_life, dialing, before, hello, welcome: None };
        let at = self.now + self.latency(from, to);
        self.schedule(at, What::Hello(Box::new(handshake)));
    }

    /// Whether both ends still live and hear each other; otherwise the dialer tries again.
    fn goes_on(&mut self, handshake: &Handshake) -> bool {
        let Handshake { from, to, .. } = *handshake;
        let alive = self.lives(from, handshake.sender_life) && self.lives(to, handshake.receiver_life);
        let open = alive && !self.is_blocked(from, to) && !self.is_blocked(to, from) && !self.lacks_evidence(from, to);
        if !open && self.lives(from, handshake.sender_life) {
            self.refused(handshake, 2 * SECOND);
        }
        open
    }

    fn refused(&mut self, handshake: &Handshake, extra: Time) {
        let class = handshake.hello.link;
        let link = self.members[handshake.from].process.as_ref().and_then(|process| process.links.get(&(handshake.to, class)));
        if link.is_some_and(|link| link.dialing == handshake.dialing) {
            self.dial_again(handshake.from, handshake.to, class, extra);
        }
    }

    pub(crate) fn hello_arrives(&mut self, mut handshake: Box<Handshake>) {
        if !self.goes_on(&handshake) {
            return;
        }
        let (founding, to) = (self.founding.clone(), handshake.to);
        let name = name_of(to);
        let Some(process) = &mut self.members[to].process else { return };
        let peer = Some(number_of(handshake.from));
        let verdict = process.marks.admit(standing(&name, &founding), peer, &handshake.hello, &process.view);
        match verdict {
            Ok(Verdict::Accept { .. }) => {
                self.check_belief(to, handshake.from);
                let Some(process) = &mut self.members[to].process else { return };
                handshake.welcome = Some(process.hello(to, &founding, handshake.hello.link));
                let at = self.now + self.latency(to, handshake.from) + self.random.below(2 * MILLISECOND);
                self.schedule(at, What::Welcome(handshake));
            }
            Ok(Verdict::Refuse(refusal)) => {
                self.note_refusal(handshake.from, &refusal);
                self.refused(&handshake, 0);
            }
            Err(error) => self.fatal_link(to, &error),
        }
    }

    pub(crate) fn welcome_arrives(&mut self, handshake: Box<Handshake>) {
        if !self.goes_on(&handshake) {
            return;
        }
        let (from, to) = (handshake.from, handshake.to);
        let founding = self.founding.clone();
        let name = name_of(from);
        let Some(welcome) = &handshake.welcome else { return };
        let Some(process) = &mut self.members[from].process else { return };
        let now = process.marks.of(Some(number_of(to)), &process.view);
        let known = |mark: Option<Mark>| mark.map(|mark| (mark.boot, mark.nonce));
        let mark = if known(handshake.before) == known(now) { handshake.before } else { now };
        if let Verdict::Refuse(refusal) = judge(standing(&name, &founding), mark.as_ref(), welcome) {
            self.note_refusal(to, &refusal);
            return self.refused(&handshake, 0);
        }
        self.check_belief(from, to);
        let Some(process) = &mut self.members[from].process else { return };
        let class = handshake.hello.link;
        let number = self.network.connections.len();
        let Some(link) = process.links.get_mut(&(to, class)) else { return };
        if link.dialing != handshake.dialing || link.connection.is_some() {
            return;
        }
        link.connection = Some(number);
        self.network.connections.push(Connection {
            from,
            to,
            class,
            sender_life: handshake.sender_life,
            receiver_life: handshake.receiver_life,
            age: Age::of(&handshake.hello),
            queue: VecDeque::new(),
            sending: true,
            receiving: false,
            last_arrival: 0,
            last_heard: self.now,
            term_seen: handshake.hello.term,
        });
        self.rouse(from);
        let at = self.now + self.latency(from, to);
        self.network.connections[number].last_arrival = at;
        self.schedule(at, What::Opened(number, Box::new(handshake.hello)));
        self.schedule(self.now + SILENCE / 2, What::Pulse(number));
    }

    /// The dialer's first keepalive has arrived.
    pub(crate) fn opened(&mut self, number: usize, hello: &Hello) {
        let Connection { from, to, receiver_life, sending, .. } = self.network.connections[number];
        if self.is_blocked(from, to) && sending {
            let at = self.network.blocked[from][to];
            return self.schedule(at, What::Opened(number, Box::new(hello.clone())));
        }
        if !self.lives(to, receiver_life) {
            return;
        }
        let stream = Arc::new(Sever { connection: number, list: self.network.severed.clone() });
        let Some(process) = &self.members[to].process else { return };
        if !process.registry.open(number_of(from), hello, stream) {
            return self.sender_ends(number);
        }
        self.network.connections[number].receiving = true;
        self.network.connections[number].last_heard = self.now;
        let severed = std::mem::take(&mut *self.network.severed.lock());
        for older in severed {
            self.network.connections[older].receiving = false;
            self.end_at_sender_later(older);
        }
        self.rouse(to);
        self.kick(to, from);
    }

    /// The peer lives: whoever pauses before dialing it need not wait longer.
    fn kick(&mut self, from: usize, to: usize) {
        for class in [LinkClass::Control, LinkClass::Bulk] {
            let Some(process) = &mut self.members[from].process else { return };
            let Some(link) = process.links.get_mut(&(to, class)) else { continue };
            if link.connection.is_none() {
                link.pause = PAUSE_MIN;
                let pause = self.random.below(MILLISECOND);
                self.dial_later(from, to, class, pause);
            }
        }
    }

    // ---- carrying ----

    /// A member hands a message to its transport.
    pub(crate) fn send(&mut self, from: usize, outgoing: Outgoing) {
        self.counts.messages += 1;
        if self.members[from].rolled_back.is_none() {
            self.oracle.sent(from, &outgoing.envelope);
        }
        self.count_vote(from, &outgoing.envelope.message);
        let to = position_of(outgoing.envelope.to);
        let class = if outgoing.envelope.message.is_bulk() { LinkClass::Bulk } else { LinkClass::Control };
        let Some(process) = &self.members[from].process else { return };
        let link = process.links.get(&(to, class)).and_then(|link| link.connection);
        let Some(number) = link.filter(|number| self.network.connections[*number].queue.len() < QUEUE_MAX) else {
            return self.dropped(from, to, class);
        };
        if self.random.per_mille(self.plan.silent_loss) {
            self.counts.lost += 1;
            return;
        }
        let late = self.random.per_mille(400);
        let packet = if late {
            Packet::Late(outgoing)
        } else {
            match self.encode(from, &outgoing) {
                Some(bytes) => Packet::Bytes(bytes),
                None => return,
            }
        };
        if let Packet::Bytes(bytes) = &packet
            && self.random.per_mille(self.plan.duplication)
        {
            let at = self.now + self.random.spread((MILLISECOND, 2 * SECOND));
            let life = self.members[from].lives;
            self.schedule(at, What::Stray { from, to, life, bytes: bytes.clone() });
        }
        self.enqueue(number, packet);
    }

    fn dropped(&mut self, from: usize, to: usize, class: LinkClass) {
        self.counts.dropped += 1;
        if class == LinkClass::Bulk
            && let Some(process) = &self.members[from].process
        {
            process.registry.inbox().link(number_of(to), LinkChange::Dropped);
            self.rouse(from);
        }
    }

    fn encode(&mut self, from: usize, outgoing: &Outgoing) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let records = |out: &mut Vec<u8>| outgoing.records.iter().try_for_each(|piece| piece.write_to(out));
        match peer::encode(&mut bytes, &outgoing.envelope, records) {
            Ok(()) => Some(bytes),
            Err(error) => {
                assert!(self.members[from].is_damaged(), "{from} cannot send {:?}: {error}", outgoing.envelope);
                self.fatal_link(from, &error);
                None
            }
        }
    }

    fn enqueue(&mut self, number: usize, packet: Packet) {
        let Connection { from, to, last_arrival, .. } = self.network.connections[number];
        let at = last_arrival.max(self.now + self.latency(from, to));
        let connection = &mut self.network.connections[number];
        connection.last_arrival = at;
        connection.queue.push_back(packet);
        self.schedule(at, What::Deliver(number));
    }

    /// The next packet of a connection arrives, unless something stands in its way.
    pub(crate) fn deliver(&mut self, number: usize) {
        let Connection { from, to, receiver_life, receiving, .. } = self.network.connections[number];
        if self.is_blocked(from, to) {
            let at = self.network.blocked[from][to];
            return self.schedule(at, What::Deliver(number));
        }
        let Some(packet) = self.network.connections[number].queue.pop_front() else { return };
        if !self.lives(to, receiver_life) || !receiving {
            if self.members[to].powered {
                self.end_at_sender_later(number);
            }
            return;
        }
        self.network.connections[number].last_heard = self.now;
        let sender_life = self.network.connections[number].sender_life;
        self.check_words(from, sender_life);
        let bytes = match packet {
            Packet::Bytes(bytes) => bytes,
            Packet::Late(outgoing) if self.lives(from, sender_life) => match self.encode(from, &outgoing) {
                Some(bytes) => bytes,
                None => return,
            },
            // It died before its worker came to it.
            Packet::Late(_) => return,
            Packet::End => return self.receiver_ends(number),
        };
        let Some((envelope, records)) = decode(&bytes) else { return };
        self.trace.note(&[3, number as u64, envelope.term, records.len() as u64]);
        self.count_refusal(to, &envelope.message);
        let connection = &mut self.network.connections[number];
        let Some(process) = &self.members[to].process else { return };
        let promises = !matches!(envelope.message, Message::PreVote { .. } | Message::PreVoteReply { .. });
        if envelope.term > connection.term_seen && promises {
            connection.term_seen = envelope.term;
            process.marks.note_term(number_of(from), envelope.term);
        }
        process.registry.deliver(number_of(from), connection.class, connection.age, Incoming { envelope, records });
        self.rouse(to);
    }

    /// A message arrives a second time, whatever has become of its connection.
    pub(crate) fn stray(&mut self, from: usize, to: usize, life: u64, bytes: &[u8]) {
        // A node that forgot has no links, and nothing else reaches it.
        let outdated = self.is_outdated(from, to, life) || self.members[to].rolled_back.is_some();
        if self.is_blocked(from, to) || self.members[to].process.is_none() || outdated {
            return;
        }
        let Some((envelope, records)) = decode(bytes) else { return };
        if let Some(process) = &self.members[to].process {
            self.counts.repeated += 1;
            process.registry.inbox().message(Incoming { envelope, records });
            self.rouse(to);
        }
    }

    // ---- ending ----

    /// What happens to a node's links when it dies.
    pub(crate) fn links_of_the_dead(&mut self, node: usize, death: Death) {
        for number in 0..self.network.connections.len() {
            let Connection { from, to, sending, receiving, .. } = self.network.connections[number];
            if from == node && sending {
                self.network.connections[number].sending = false;
                if death == Death::Kill {
                    // The kernel sends what was handed to it, and then the end.
                    self.enqueue(number, Packet::End);
                }
            }
            if to == node && (receiving || sending) {
                self.network.connections[number].receiving = false;
                if death == Death::Kill {
                    self.end_at_sender_later(number);
                }
            }
        }
    }

    /// Both directions of a connection break at once.
    pub(crate) fn reset(&mut self, number: usize) {
        let Connection { from, to, .. } = self.network.connections[number];
        self.network.connections[number].queue.clear();
        let at = self.now + self.random.below(2 * MILLISECOND);
        self.schedule(at, What::ReceiverEnds(number));
        let at = self.now + self.random.below(2 * MILLISECOND);
        self.schedule(at, What::SenderEnds(number));
        self.trace.note(&[4, from as u64, to as u64]);
    }

    fn end_at_sender_later(&mut self, number: usize) {
        if self.network.connections[number].sending {
            let Connection { from, to, .. } = self.network.connections[number];
            let at = self.now + self.latency(to, from);
            self.schedule(at, What::SenderEnds(number));
        }
    }

    pub(crate) fn sender_ends(&mut self, number: usize) {
        let Connection { from, to, class, sender_life, sending, .. } = self.network.connections[number];
        if !sending || self.is_blocked(to, from) && self.network.connections[number].receiving {
            return;
        }
        self.network.connections[number].sending = false;
        if !self.lives(from, sender_life) {
            return;
        }
        self.enqueue(number, Packet::End);
        self.dropped(from, to, class);
        self.dial_again(from, to, class, 0);
    }

    pub(crate) fn receiver_ends(&mut self, number: usize) {
        let Connection { from, to, class, receiver_life, receiving, age, .. } = self.network.connections[number];
        if !receiving {
            return;
        }
        self.network.connections[number].receiving = false;
        if !self.lives(to, receiver_life) {
            return;
        }
        let Some(process) = &self.members[to].process else { return };
        process.registry.close(number_of(from), class, age);
        let flushed = process.marks.flush(&process.view);
        self.rouse(to);
        if let Err(error) = flushed {
            self.fatal_link(to, &error);
        }
        self.end_at_sender_later(number);
    }

    /// Looks whether the two ends of a connection still hear each other.
    pub(crate) fn pulse(&mut self, number: usize) {
        let Connection { from, to, sending, receiving, sender_life, receiver_life, last_heard, .. } = self.network.connections[number];
        if !sending && !receiving {
            return;
        }
        self.schedule(self.now + SILENCE / 2, What::Pulse(number));
        let speaks = sending && self.lives(from, sender_life) && self.members[from].paused_until <= self.now;
        if speaks && !self.is_blocked(from, to) {
            self.network.connections[number].last_heard = self.now;
        } else if receiving && self.now >= last_heard + SILENCE && self.members[to].paused_until <= self.now {
            self.receiver_ends(number);
        }
        if sending && !self.lives(to, receiver_life) {
            self.sender_ends(number);
        }
    }
}

fn decode(bytes: &[u8]) -> Option<(Envelope, Vec<u8>)> {
    let frame = frame::read(&mut &*bytes).unwrap_or_else(|error| panic!("a frame of ours is refused: {error}"))?;
    match peer::decode(frame).unwrap_or_else(|error| panic!("a message of ours is refused: {error}")) {
        peer::Said::Message { envelope, records } => Some((envelope, records)),
        peer::Said::Keepalive | peer::Said::Note(_) => None,
    }
}
