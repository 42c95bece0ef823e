//! The members, the messages under way, and what may happen next.

use apexkv::raft::{Envelope, Message, NodeId};

use super::bounds::Bounds;
use super::check::Memory;
use super::host::{Host, LONG};
use std::fmt;
use std::sync::Arc;

/// One state of the search. Members that a move does not touch are shared with the state before it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) hosts: [Arc<Host>; 3],
    /// Messages under way, by link, the oldest first; they may be delivered in any order.
    links: [Vec<Arc<Envelope>>; 9],
    memory: Memory,
    proposals: u8,
    crashes: u8,
    duplicates: u8,
    beats: u8,
    reads: u8,
}

/// Something that may happen.
#[derive(Clone, Debug)]
pub(crate) enum Move {
    /// A message arrives; `keep`: and will once more.
    Deliver {
        link: usize,
        place: usize,
        keep: bool,
    },
    /// An election timeout; the other member answers the pre-vote.
    TimeOut {
        node: usize,
        asks: usize,
    },
    /// A leader's heartbeat is due.
    Beat {
        node: usize,
    },
    Propose {
        node: usize,
    },
    Read {
        node: usize,
    },
    FinishHardState {
        node: usize,
    },
    FinishWrite {
        node: usize,
    },
    /// A crash and a restart; what was under way to the disk has arrived or not.
    Restart {
        node: usize,
        write: bool,
        state: bool,
    },
}

fn link(from: NodeId, to: NodeId) -> usize {
    (from.0 as usize - 1) * 3 + to.0 as usize - 1
}

impl World {
    /// Three members that were never started before.
    pub(crate) fn new(bounds: &Bounds) -> World {
        let hosts = [1, 2, 3].map(|id| {
            let mut host = Host::new(NodeId(id));
            host.flush(bounds);
            Arc::new(host)
        });
        World { hosts, links: Default::default(), memory: Memory::default(), proposals: 0, crashes: 0, duplicates: 0, beats: 0, reads: 0 }
    }

    /// What may happen in this state.
    pub(crate) fn moves(&self, bounds: &Bounds) -> Vec<Move> {
        let mut moves = Vec::new();
        for (link, messages) in self.links.iter().enumerate() {
            for place in 0..messages.len() {
                moves.push(Move::Deliver { link, place, keep: false });
                if self.duplicates < bounds.duplicates {
                    moves.push(Move::Deliver { link, place, keep: true });
                }
            }
        }
        for node in 0..3 {
            self.moves_of(node, bounds, &mut moves);
        }
        moves
    }

    fn moves_of(&self, node: usize, bounds: &Bounds, moves: &mut Vec<Move>) {
        let host = &self.hosts[node];
        let (write, state) = host.under_way();
        if write {
            moves.push(Move::FinishWrite { node });
        }
        if state {
            moves.push(Move::FinishHardState { node });
        }
        if host.node.is_leader() {
            let due = [
                (self.proposals < bounds.proposals, Move::Propose { node }),
                (self.reads < bounds.reads, Move::Read { node }),
                (self.beats < bounds.beats, Move::Beat { node }),
            ];
            moves.extend(due.into_iter().filter(|(due, _)| *due).map(|(_, due)| due));
        } else if node < bounds.candidates && host.node.term() < bounds.terms && !state {
            // Whoever stands first is called the first: until then all are alike.
            let first = self.hosts.iter().all(|host| host.node.term() == 0);
            if !first || node == 0 {
                let others = (0..3).filter(|asks| *asks != node && (bounds.cut || !(first && *asks == 2)));
                let others = others.filter(|asks| !(bounds.cut && node + asks == 1));
                moves.extend(others.map(|asks| Move::TimeOut { node, asks }));
            }
        }
        if self.crashes < bounds.crashes {
            for (landed_write, landed_state) in [(false, false), (true, false), (false, true), (true, true)] {
                if (write || !landed_write) && (state || !landed_state) {
                    moves.push(Move::Restart { node, write: landed_write, state: landed_state });
                }
            }
        }
    }

    /// The state after a move. An error names the promise that it breaks.
    pub(crate) fn after(&self, chosen: &Move, bounds: &Bounds) -> Result<World, String> {
        let mut world = self.clone();
        match *chosen {
            Move::Deliver { link, place, keep } => {
                let envelope = if keep { Arc::clone(&world.links[link][place]) } else { world.links[link].remove(place) };
                world.duplicates += u8::from(keep);
                world.input(link % 3, bounds, |host| host.step((*envelope).clone()))?;
            }
            Move::TimeOut { node, asks } => world.time_out(node, asks, bounds)?,
            Move::Beat { node } => {
                world.beats += 1;
                world.input(node, bounds, Host::beat)?;
            }
            Move::Propose { node } => {
                world.proposals += 1;
                world.input(node, bounds, |host| {
                    host.node.propose(1);
                })?;
            }
            Move::Read { node } => {
                world.reads += 1;
                let host = Arc::make_mut(&mut world.hosts[node]);
                if let Some(ticket) = host.node.read() {
                    world.memory.read_admitted(host, ticket);
                }
                world.input(node, bounds, |_| ())?;
            }
            Move::FinishHardState { node } => world.input(node, bounds, |host| {
                host.finish_hard_state();
            })?,
            Move::FinishWrite { node } => world.input(node, bounds, |host| {
                host.finish_write();
            })?,
            Move::Restart { node, write, state } => world.restart(node, write, state, bounds)?,
        }
        Ok(world)
    }

    /// A member takes an input; what it says goes on its way, and everything is checked.
    fn input(&mut self, node: usize, bounds: &Bounds, input: impl FnOnce(&mut Host)) -> Result<(), String> {
        let host = Arc::make_mut(&mut self.hosts[node]);
        input(host);
        let (sent, confirmed) = host.flush(bounds);
        for envelope in sent {
            self.memory.check_leaving(host, &envelope)?;
            let lost = match envelope.message {
                Message::Heartbeat { .. } | Message::HeartbeatReply { .. } => !bounds.heartbeats,
                // Asked and answered within one move.
                Message::PreVote { .. } | Message::PreVoteReply { .. } => true,
                _ => false,
            };
            let lost = lost || (bounds.cut && envelope.from.0 + envelope.to.0 == 3);
            let messages = &mut self.links[link(envelope.from, envelope.to)];
            if !lost && !messages.iter().any(|under_way| **under_way == envelope) {
                messages.push(Arc::new(envelope));
                messages.drain(..messages.len().saturating_sub(bounds.link));
            }
        }
        self.memory.check_reads(host, confirmed)?;
        self.memory.check(&self.hosts, node)
    }

    /// The member's election timeout runs out while `asks` hears no leader, either; `asks` answers its pre-vote.
    fn time_out(&mut self, node: usize, asks: usize, bounds: &Bounds) -> Result<(), String> {
        let asked = Arc::make_mut(&mut self.hosts[asks]);
        asked.fall_silent();
        let id = asked.node.id();
        let (proposed_term, last) = {
            let host = &self.hosts[node].node;
            (host.term() + 1, host.last())
        };
        let from = self.hosts[node].node.id();
        let request = Envelope { from, to: id, term: self.hosts[node].stored.term, message: Message::PreVote { proposed_term, last } };
        let mut answers = Vec::new();
        {
            let asked = Arc::make_mut(&mut self.hosts[asks]);
            asked.step(request);
            let (sent, _) = asked.flush(bounds);
            answers.extend(sent.into_iter().filter(|answer| matches!(answer.message, Message::PreVoteReply { .. })));
        }
        self.input(node, bounds, |host| {
            host.node.tick(LONG);
            answers.into_iter().for_each(|answer| host.step(answer));
        })
    }

    /// A crash takes along what was under way to the member; its new life is known to the others at once, and they listen to nothing
    /// that the old one said.
    fn restart(&mut self, node: usize, write: bool, state: bool, bounds: &Bounds) -> Result<(), String> {
        self.crashes += 1;
        for other in 0..3 {
            self.links[other * 3 + node].clear();
            self.links[node * 3 + other].clear();
        }
        self.input(node, bounds, |host| host.restart(write, state))?;
        let id = self.hosts[node].node.id();
        for other in (0..3).filter(|other| *other != node) {
            self.input(other, bounds, |host| host.node.link_up(id, true))?;
        }
        Ok(())
    }

    /// The move in words, as it would be made in this state.
    pub(crate) fn describe(&self, chosen: &Move) -> String {
        match chosen {
            Move::Deliver { link, place, keep } => {
                let Envelope { from, to, term, message } = &*self.links[*link][*place];
                format!("{from} to {to}, term {term}: {message:?}{}", if *keep { ", to come again" } else { "" })
            }
            other => format!("{other:?} (node 0 is n1)"),
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for host in &self.hosts {
            let node = &host.node;
            let log: Vec<u64> = (1..=node.last().index).filter_map(|index| host.term_at(index)).collect();
            let (id, role, term, stored) = (node.id(), node.role(), node.term(), host.stored);
            writeln!(f, "  {id} {role:?} term {term}, log {log:?}, commit {}; disk: {stored:?}, log {:?}", node.commit(), host.log)?;
        }
        Ok(())
    }
}
