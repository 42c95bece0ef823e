//! Faults strike, and at the end everything is healed.

use apexkv::server::event::Event;
use apexkv::storage::simulated::{Effect, Errno, Fault as DiskFault, OperationKind};

use super::node::position_of;
use super::plan::{Death, Fault, LEADER, MILLISECOND, Time};
use super::world::{What, World};

/// A healed message takes no longer than this: thirty of them fit the shortest election timeout.
const HEALED_LATENCY_MAX: Time = 5 * MILLISECOND;

impl World {
    pub(crate) fn strike(&mut self, mut fault: Fault) {
        if let Some(node) = fault.node_mut()
            && *node == LEADER
        {
            *node = self.leader().unwrap_or(0);
        }
        *self.counts.faults.entry(fault.kind()).or_default() += 1;
        match fault {
            Fault::Die { node, death, down } => self.die(node, death, Some(down)),
            Fault::KillThenCut { node, down, alive, death } => {
                self.die(node, Death::Kill, Some(down));
                self.schedule(self.now + down + alive, What::CutPower { node, death, down });
            }
            Fault::Blackout { death, down } => {
                for node in 0..self.plan.nodes {
                    let later = self.random.below(100 * MILLISECOND);
                    self.die(node, death, Some(down + later));
                }
            }
            Fault::Pause { node, time } => self.members[node].paused_until = self.now + time,
            Fault::Clock { node, per_mille } => self.members[node].set_clock(self.now, per_mille),
            Fault::Shutdown { node, down } => self.ask_to_stop(node, down),
            _ => {
                self.strike_network(fault);
                self.strike_disk(fault);
                self.strike_content(fault);
            }
        }
    }

    /// The node that leads the highest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let cores = self.members.iter().filter_map(|member| member.process.as_ref()).map(|process| process.replica.node());
        let leader = cores.filter(|core| core.is_leader()).max_by_key(|core| core.term());
        leader.map(|core| position_of(core.id()))
    }

    fn strike_network(&mut self, fault: Fault) {
        let nodes = self.plan.nodes;
        let apart = |mask: u64, from: usize, to: usize| from != to && (mask >> from & 1) != (mask >> to & 1);
        match fault {
            Fault::Cut { from, to, time } => self.network.block(from, to, self.now + time),
            Fault::Isolate { node, deaf, mute, time } => {
                for other in (0..nodes).filter(|other| *other != node) {
                    if deaf {
                        self.network.block(other, node, self.now + time);
                    }
                    if mute {
                        self.network.block(node, other, self.now + time);
                    }
                }
            }
            Fault::Slow { from, to, time, extra } => self.network.slow_down(from, to, self.now + time, extra),
            Fault::Partition { mask, time } | Fault::Reject { mask, time } => {
                for from in 0..nodes {
                    (0..nodes).filter(|to| apart(mask, from, *to)).for_each(|to| self.network.block(from, to, self.now + time));
                }
                if matches!(fault, Fault::Reject { .. }) {
                    self.reset_where(|from, to| apart(mask, from, to));
                }
            }
            Fault::Break { from, to } => self.reset_where(|a, b| (a, b) == (from, to)),
            _ => {}
        }
    }

    fn reset_where(&mut self, hit: impl Fn(usize, usize) -> bool) {
        for number in 0..self.network.connections.len() {
            let (from, to) = (self.network.connections[number].from, self.network.connections[number].to);
            if hit(from, to) {
                self.reset(number);
            }
        }
        self.break_transfers(hit);
    }

    fn strike_disk(&mut self, fault: Fault) {
        match fault {
            Fault::SlowDisk { node, time, extra } => {
                self.members[node].slow_until = self.now + time;
                self.members[node].slow_extra = extra;
            }
            Fault::HungDisk { node, time } => self.members[node].hung_until = self.now + time,
            Fault::IoError { node, nth, .. } => {
                self.failing.insert(node, ());
                let fails = [OperationKind::Write, OperationKind::Sync];
                let kind = Some(*self.random.pick(&fails));
                let fault = DiskFault { kind, name: String::new(), nth, lasting: false, effect: Effect::Fail(Errno::IO) };
                self.members[node].disk.inject(fault);
            }
            Fault::FullDisk { node, time } => {
                let free = self.random.below(self.plan.segment_bytes);
                self.members[node].disk.set_free_bytes(Some(free));
                self.members[node].full_until = self.now + time;
                self.schedule(self.now + time, What::FreeSpace(node));
            }
            Fault::CutWhileStarting { node, after, death, down } => {
                self.die(node, death, None);
                if self.members[node].process.is_none() && !self.members[node].gone {
                    self.interrupted.insert(node, (death, down));
                    self.members[node].disk.power_off_at(after);
                    self.schedule(self.now + 10 * MILLISECOND, What::Start(node));
                }
            }
            _ => {}
        }
    }

    /// Somebody asks a process to stop.
    fn ask_to_stop(&mut self, node: usize, down: Time) {
        let now = self.now;
        if let Some(process) = &mut self.members[node].process {
            process.stopping.get_or_insert((now, down));
            process.inbox.push(Event::Shutdown);
            self.rouse(node);
        }
    }

    pub(crate) fn cut_power(&mut self, node: usize, death: Death, down: Time) {
        self.die(node, death, Some(down));
    }

    pub(crate) fn free_space(&mut self, node: usize) {
        if self.now >= self.members[node].full_until {
            self.members[node].disk.set_free_bytes(None);
        }
    }

    /// Ends all faults, but that the nodes for which `keep` is true stay cut off.
    pub(crate) fn heal(&mut self, keep: impl Fn(usize) -> bool) {
        self.end_the_forgetful();
        self.network.heal(&keep);
        self.calm_down();
        for node in 0..self.plan.nodes {
            let member = &mut self.members[node];
            member.paused_until = 0;
            member.hung_until = 0;
            member.slow_until = 0;
            member.full_until = 0;
            member.set_clock(self.now, 1000);
            member.disk.set_free_bytes(None);
            member.disk.clear_faults();
            self.failing.remove(&node);
            self.interrupted.remove(&node);
            if let Some(process) = &mut self.members[node].process {
                process.stopping = None;
            }
            self.start(node);
            self.rouse(node);
        }
    }

    /// A healed cluster has a network that is quicker than its election timeouts. Its clients ask for as much as before, which may be more
    /// than its appends can carry.
    fn calm_down(&mut self) {
        let plan = &mut self.plan;
        plan.silent_loss = 0;
        plan.duplication = 0;
        plan.late = 0;
        plan.chunk_breaks = 0;
        plan.latency.1 = plan.latency.1.min(HEALED_LATENCY_MAX);
    }
}
