//! The life of a process: start, the rounds of its Raft thread, the jobs of its disk threads, death. The order in which work is done, and
//! how much of it was done when the process died, are drawn from the seed.

use apexkv::error::Error;
use apexkv::raft::{EntryId, HardState};
use apexkv::server::event::Event;
use apexkv::server::replica::Actions;
use apexkv::storage::simulated::CrashPolicy;
use apexkv::storage::writer::{Completion, Job};

use super::node::{Chore, Running, start};
use super::oracle::Oracle;
use super::plan::{Death, MILLISECOND, SECOND, Time};
use super::world::{What, World};

/// Most events taken in before what they caused is handed out.
const BURST: usize = 4096;
/// How long a leader that is asked to stop waits for a successor.
const HANDOVER_PATIENCE: Time = SECOND;
/// How often changed marks are made durable.
const MARKS_EVERY: Time = SECOND;

impl World {
    // ---- start and death ----

    /// Starts a node's process, if it is down. One that refuses its damaged files stays down.
    pub(crate) fn start(&mut self, node: usize) {
        let member = &mut self.members[node];
        if member.process.is_some() || member.gone {
            return;
        }
        member.powered = true;
        member.lives += 1;
        if member.wiped {
            return self.join(node);
        }
        let seed = self.random.number();
        match start(&self.plan, &self.members[node], node, &self.founding, seed) {
            Ok((process, found)) => {
                self.counts.starts += 1;
                let forgot = self.has_forgotten(node, &found);
                if !forgot {
                    let guessed = self.oracle.never_reached(node, found.floor);
                    let put_aside = self.oracle.started(node, &found);
                    self.note_repair(node, &found, put_aside, guessed);
                }
                let now = self.now;
                let member = &mut self.members[node];
                member.process = Some(process);
                if self.interrupted.remove(&node).is_some() {
                    member.disk.clear_faults();
                }
                member.clock = (0, now, member.clock.2);
                if forgot {
                    self.look_for_witnesses(node);
                }
                self.trace.note(&[1, node as u64, found.hard_state.term, found.terms.len() as u64]);
                let peers: Vec<_> = self.links_of(node);
                for (peer, class) in peers {
                    let pause = self.random.below(3 * MILLISECOND);
                    self.dial_later(node, peer, class, pause);
                }
                let life = self.members[node].lives;
                self.schedule(self.now + MARKS_EVERY, What::Marks { node, life });
                self.rouse(node);
            }
            Err(error) => self.not_started(node, &error),
        }
    }

    pub(crate) fn not_started(&mut self, node: usize, error: &Error) {
        let member = &mut self.members[node];
        self.trace.note(&[2, node as u64]);
        if member.disk.is_off() {
            let (death, down) = self.interrupted.remove(&node).unwrap_or((Death::Tear, 100 * MILLISECOND));
            self.members[node].disk.clear_faults();
            self.end_disk(node, death);
            self.schedule(self.now + down, What::Start(node));
        } else if self.failing.remove(&node).is_some() {
            member.disk.clear_faults();
            member.disk.kill();
            self.schedule(self.now + 100 * MILLISECOND, What::Start(node));
        } else if member.full_until > self.now && is_shortage(error) {
            // What is known of the damaged log must be written down before anything else.
            assert!(member.is_damaged(), "{node} needs room to start: {error}");
            member.disk.kill();
            self.schedule(self.now + 100 * MILLISECOND, What::Start(node));
        } else {
            assert!(member.is_damaged(), "{node} refuses to start: {error}");
            assert!(matches!(error, Error::Corrupt { .. } | Error::Io { .. }), "{node} refuses to start: {error}");
            let repairable = !member.harm.is_irreplaceable();
            assert!(!repairable, "{node} refuses to start, though others have all that was damaged, {:?}: {error}", member.harm);
            member.disk.kill();
            member.gone = true;
            self.counts.gone += 1;
        }
    }

    /// A node's process ends. It starts again after a while, unless it is to stay down.
    pub(crate) fn die(&mut self, node: usize, death: Death, down: Option<Time>) {
        if self.members[node].process.is_none() {
            return;
        }
        self.interrupt_disk_work(node);
        self.failing.remove(&node);
        self.members[node].disk.clear_faults();
        // What a process holds is not put in order when it dies: by then its disk no longer hears it.
        self.end_disk(node, death);
        self.members[node].process = None;
        self.oracle.ended(node);
        self.hang_up_all(node);
        self.end_transfers_of(node);
        self.links_of_the_dead(node, death);
        self.members[node].powered = death == Death::Kill;
        self.members[node].paused_until = 0;
        self.trace.note(&[5, node as u64]);
        if let Some(down) = down {
            self.schedule(self.now + down, What::Start(node));
        }
    }

    pub(crate) fn end_disk(&mut self, node: usize, death: Death) {
        let disk = &self.members[node].disk;
        match death {
            Death::Kill => disk.kill(),
            Death::LoseAll => disk.crash(&CrashPolicy::LoseAll),
            Death::Tear => disk.crash(&CrashPolicy::Random),
            Death::KeepAll => disk.crash(&CrashPolicy::KeepAll),
        }
    }

    /// A process that cannot go on ends by itself.
    pub(crate) fn fatal(&mut self, node: usize, error: &Error) {
        let known = self.failing.remove(&node).is_some() || self.members[node].is_damaged();
        assert!(known, "{node} ends without a fault of its disk: {error}");
        self.counts.fatal += 1;
        self.die(node, Death::Kill, Some(200 * MILLISECOND));
    }

    /// What was under way at the disk has happened, has not, or has in part.
    fn interrupt_disk_work(&mut self, node: usize) {
        let partly = self.random.per_mille(700);
        let operations = 1 + self.random.below(4);
        let prepared = 1 + self.random.below(7);
        let hinted = 1 + self.random.below(5);
        let merged = 1 + self.random.below(25);
        let received = 1 + self.random.below(8);
        let member = &mut self.members[node];
        let Some(process) = &mut member.process else { return };
        if partly && let Some(Running::Before(job)) = process.running.take() {
            self.counts.jobs_cut += 1;
            member.disk.clear_faults();
            member.disk.power_off_at(operations);
            let effect = DiskEffect::of(&job);
            if process.writer.run(job).is_ok() && member.rolled_back.is_none() {
                effect.tell(node, &mut self.oracle);
            }
        }
        let member = &mut self.members[node];
        let Some(process) = &mut member.process else { return };
        if partly
            && !member.disk.is_off()
            && let Some(bytes) = process.preparing.take()
        {
            member.disk.clear_faults();
            member.disk.power_off_at(prepared);
            let _ = process.preparer.prepare(bytes);
        }
        if partly
            && !member.disk.is_off()
            && let Some(job) = process.hinting.take()
        {
            member.disk.clear_faults();
            member.disk.power_off_at(hinted);
            let _ = process.hinter.make(&job);
        }
        if partly
            && !member.disk.is_off()
            && let (Some(merger), Some(chore)) = (&process.merger, process.chores.pop_front())
        {
            member.disk.clear_faults();
            member.disk.power_off_at(merged);
            match chore {
                Chore::Merge(job) => drop(merger.merge(&job, &mut |_| {})),
                Chore::Discard(files) => drop(merger.discard(files)),
            }
        }
        if partly
            && !member.disk.is_off()
            && let Some(arriving) = process.arriving.take()
        {
            member.disk.clear_faults();
            member.disk.power_off_at(received);
            drop(arriving.writer.finish());
        }
    }

    // ---- the Raft thread ----

    /// Something lies in a node's inbox: its Raft thread wakes up soon.
    pub(crate) fn rouse(&mut self, node: usize) {
        let delay = self.random.between(self.plan.wake);
        self.wake_by(node, self.now + delay);
    }

    fn wake_by(&mut self, node: usize, at: Time) {
        let Some(process) = &mut self.members[node].process else { return };
        if process.wake_at.is_none_or(|due| due > at) {
            process.wake_at = Some(at);
            let life = process.life;
            self.schedule(at, What::Wake { node, life });
        }
    }

    /// One round of a Raft thread.
    pub(crate) fn wake(&mut self, node: usize, life: u64) {
        let now = self.now;
        let Some(process) = self.members[node].process.as_mut().filter(|process| process.life == life) else { return };
        if process.wake_at != Some(now) {
            return;
        }
        process.wake_at = None;
        self.round(node);
    }

    /// What a Raft thread does between two waits.
    pub(crate) fn round(&mut self, node: usize) {
        for _ in 0..BURST {
            let Some(event) = self.members[node].process.as_ref().and_then(|process| process.inbox.take()) else { break };
            self.feed(node, event);
        }
        self.pass_time(node);
        let Some(process) = &mut self.members[node].process else { return };
        let actions = process.replica.flush();
        self.counts.events += 1;
        self.publish(node);
        let Some(process) = &self.members[node].process else { return };
        if self.members[node].rolled_back.is_none() {
            self.oracle.observe(node, process.replica.node(), &process.store, self.members[node].is_damaged());
            self.oracle.observe_hash(node, process.store.applied(), process.replica.state_hash());
        }
        let position = process.replica.node();
        let facts = [0, node as u64, position.term(), position.commit(), position.durable(), position.last().index];
        self.trace.note(&facts);
        let (more, deadline) = (actions.more, process.replica.ms_to_deadline());
        self.carry_out(node, actions);
        self.stop_if_asked(node);
        if more {
            self.rouse(node);
        } else {
            let at = self.members[node].after(self.now, deadline * 1000);
            self.wake_by(node, at);
        }
        if self.members[node].process.as_ref().is_some_and(|process| !process.inbox.is_empty()) {
            self.rouse(node);
        }
    }

    fn feed(&mut self, node: usize, event: Event<u64>) {
        self.counts.events += 1;
        let writes = if let Event::Client(batch) = &event { World::writes_of(batch) } else { Vec::new() };
        let Some(process) = &mut self.members[node].process else { return };
        let (before, floor) = (process.replica.node().last(), process.replica.node().floor());
        process.replica.handle(event);
        let core = process.replica.node();
        self.counts.floors_lowered += u64::from(core.floor() < floor && core.floor().term > 0);
        if !writes.is_empty() && core.last() != before {
            let (term, first) = (core.term(), before.index + 1);
            assert!(core.last() == EntryId { term, index: before.index + writes.len() as u64 }, "{node} takes a batch in part");
            for (index, operation) in (first..).zip(writes) {
                self.oracle.proposed(EntryId { term, index }, operation);
            }
        }
        self.note_leadership(node);
    }

    fn pass_time(&mut self, node: usize) {
        let local = self.members[node].local(self.now) / 1000;
        let Some(process) = &mut self.members[node].process else { return };
        let elapsed = local - process.ticked;
        if elapsed > 0 {
            process.ticked = local;
            process.replica.tick(elapsed);
            self.counts.events += 1;
            self.note_leadership(node);
        }
    }

    fn note_leadership(&mut self, node: usize) {
        let member = &mut self.members[node];
        let Some(process) = &mut member.process else { return };
        let leads = process.replica.is_leader().then(|| process.replica.node().term());
        if leads != process.leads {
            process.leads = leads;
            if leads.is_some() {
                assert!(member.rolled_back.is_none(), "{node} leads, which forgot what it had promised");
                let floor = process.replica.node().floor();
                assert!(floor.term == 0, "{node} leads, which lacks entries up to {floor}");
                self.counts.elections += 1;
                self.oracle.leads(node, process.replica.node());
            } else {
                self.oracle.follows(node);
            }
        }
    }

    /// Shows the handshakes where the replica stands, as the Raft thread does.
    fn publish(&mut self, node: usize) {
        let Some(process) = &mut self.members[node].process else { return };
        let core = process.replica.node();
        process.gate.set_serving(process.replica.serving());
        process.view.set_position(core.durable_term(), core.last().max(core.floor()));
        for peer in &core.config().voters {
            if let Some(index) = core.matched(*peer)
                && let Some(term) = core.outline().term_of(index)
            {
                process.view.set_acknowledged(*peer, EntryId { term, index });
            }
        }
    }

    fn carry_out(&mut self, node: usize, actions: Actions<u64>) {
        let Actions { send, jobs, prepare, hint, merge, scrub, snapshots, old_state, discard, replies, .. } = actions;
        drop(old_state);
        let intact = self.members[node].rolled_back.is_none();
        let Some(process) = &mut self.members[node].process else { return };
        let life = process.life;
        for installation in jobs.iter().filter_map(|job| if let Job::Install(installation) = job { Some(installation) } else { None }) {
            assert!(intact, "{node} installs a snapshot, though nobody may count it");
            self.oracle.installs(node, installation.last);
        }
        process.jobs.extend(jobs);
        process.requests.extend(prepare);
        if let Some(job) = hint {
            assert!(process.hinting.is_none(), "{node} asks for a hint of {:?} while it makes one", job.range());
            process.hinting = Some(job);
            let time = self.disk_time(node, self.plan.prepare);
            self.schedule(self.now + time, What::Hinted { node, life });
        }
        if let Some(job) = merge {
            self.ask_merger(node, Chore::Merge(job));
        }
        if let Some(job) = scrub {
            self.begin_scrub(node, job);
        }
        for outgoing in send {
            self.send(node, outgoing);
        }
        for snapshot in snapshots {
            self.send_snapshot(node, snapshot);
        }
        if !discard.is_empty() {
            self.ask_merger(node, Chore::Discard(discard));
        }
        if !self.alive(node, life) {
            return;
        }
        self.begin_job(node);
        self.begin_preparing(node);
        for reply in replies {
            self.answer(node, reply);
        }
    }

    pub(crate) fn alive(&self, node: usize, life: u64) -> bool {
        self.members[node].process.as_ref().is_some_and(|process| process.life == life)
    }

    fn stop_if_asked(&mut self, node: usize) {
        let Some(process) = &self.members[node].process else { return };
        if let Some((since, down)) = process.stopping
            && (!process.replica.is_leader() || self.plan.nodes < 2 || self.now > since + HANDOVER_PATIENCE)
        {
            self.die(node, Death::Kill, Some(down));
        }
    }

    // ---- the disk's threads ----

    pub(crate) fn disk_time(&mut self, node: usize, usual: (Time, Time)) -> Time {
        let time = self.random.spread(usual);
        let member = &self.members[node];
        time + if self.now < member.slow_until { member.slow_extra } else { 0 }
    }

    pub(crate) fn begin_job(&mut self, node: usize) {
        let early = self.random.per_mille(250);
        let time = self.disk_time(node, self.plan.sync);
        let Some(process) = &mut self.members[node].process else { return };
        if process.running.is_some() {
            return;
        }
        let Some(job) = process.jobs.pop_front() else { return };
        let life = process.life;
        process.running = Some(Running::Before(job));
        if early && self.members[node].hung_until <= self.now {
            self.run_job(node);
        }
        self.schedule(self.now + time, What::JobDone { node, life });
    }

    /// Lets the job under way reach the disk.
    fn run_job(&mut self, node: usize) {
        let Some(process) = &mut self.members[node].process else { return };
        match process.running.take() {
            Some(Running::Before(job)) => {
                let effect = DiskEffect::of(&job);
                match process.writer.run(job) {
                    Ok(completion) => {
                        process.running = Some(Running::Done(completion));
                        if self.members[node].rolled_back.is_none() {
                            effect.tell(node, &mut self.oracle);
                        }
                    }
                    Err(error) => self.fatal(node, &error),
                }
            }
            other => process.running = other,
        }
    }

    /// The log writer reports its job.
    pub(crate) fn job_done(&mut self, node: usize, life: u64) {
        if !self.alive(node, life) {
            return;
        }
        let hung = self.members[node].hung_until;
        if self.now < hung {
            return self.schedule(hung, What::JobDone { node, life });
        }
        self.run_job(node);
        let Some(process) = self.members[node].process.as_mut().filter(|process| process.life == life) else { return };
        if let Some(Running::Done(completion)) = process.running.take() {
            self.counts.syncs += 1;
            match completion {
                Completion::Retired(_) => self.counts.retirements += 1,
                Completion::Installed => {
                    self.counts.installations += 1;
                    process.filled_by_snapshot |= process.replica.node().floor().term > 0;
                }
                _ => {}
            }
            let (healed, distrusted) = (matches!(completion, Completion::Healed(_)), matches!(completion, Completion::Distrusted));
            process.inbox.push(Event::Disk(completion));
            if healed {
                self.healed(node);
            } else if distrusted {
                self.distrusted(node);
            }
            self.rouse(node);
            self.begin_job(node);
        }
    }

    /// Changed marks are made durable.
    pub(crate) fn flush_marks(&mut self, node: usize, life: u64) {
        let hung = self.members[node].hung_until;
        let at = (self.now + MARKS_EVERY).max(hung);
        if !self.alive(node, life) {
            return;
        }
        self.schedule(at, What::Marks { node, life });
        let Some(process) = self.members[node].process.as_ref().filter(|_| self.now >= hung) else { return };
        if let Err(error) = process.marks.flush(&process.view) {
            self.fatal(node, &error);
        }
    }
}

fn is_shortage(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
}

/// What a job changes on the disk, for the oracle.
enum DiskEffect {
    HardState(HardState),
    Entries(Vec<EntryId>),
    Replaced(EntryId),
    Nothing,
}

impl DiskEffect {
    fn of(job: &Job) -> DiskEffect {
        match job {
            Job::HardState { state, .. } => DiskEffect::HardState(*state),
            Job::Batch(batch) => DiskEffect::Entries(batch.entries()),
            Job::Install(installation) => DiskEffect::Replaced(installation.last),
            Job::Seal(_)
            | Job::List(_)
            | Job::Hint(_)
            | Job::Retire(_)
            | Job::Merge(_)
            | Job::Forget(_)
            | Job::Heal
            | Job::Stop
            | Job::Distrust => DiskEffect::Nothing,
        }
    }

    fn tell(&self, node: usize, oracle: &mut Oracle) {
        match self {
            DiskEffect::HardState(state) => oracle.stored(node, *state),
            DiskEffect::Entries(entries) => oracle.written(node, entries),
            DiskEffect::Replaced(last) => oracle.replaced(node, *last),
            DiskEffect::Nothing => {}
        }
    }
}
