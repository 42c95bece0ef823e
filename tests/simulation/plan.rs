//! What a seed draws before anything runs: the cluster, its surroundings, and the schedule of faults. Swarm style: each seed has some
//! kinds of faults often, some rarely and some never, so that rare coincidences get a share of the seeds. A schedule is a plain list,
//! so that it can be cut down.

use apexkv::raft::Settings;
use apexkv::server::replica::Limits;

use super::operations::KEYS_MAX;
use super::random::Random;

/// Microseconds.
pub(crate) type Time = u64;
pub(crate) const MILLISECOND: Time = 1_000;
pub(crate) const SECOND: Time = 1_000_000;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// The process only: what it wrote stays in the cache.
    Kill,
    /// The machine: everything that was not synced is lost.
    LoseAll,
    /// The machine: each sector that was not synced survives or not.
    Tear,
    /// The machine: everything written survives.
    KeepAll,
}

/// In place of a node: whoever leads at that moment.
pub(crate) const LEADER: usize = 99;

/// One thing that goes wrong. Nodes are positions from 0, or [`LEADER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process dies and is started again.
    Die { node: usize, death: Death, down: Time },
    /// A process is killed, started for a moment, and then the power fails: what it found in the cache is gone.
    KillThenCut { node: usize, down: Time, alive: Time, death: Death },
    /// All die at once.
    Blackout { death: Death, down: Time },
    /// All threads stand still.
    Pause { node: usize, time: Time },
    /// A clock runs at another speed from now on; 1000 is right.
    Clock { node: usize, per_mille: u64 },
    /// Nothing gets from `from` to `to`, in this direction only.
    Cut { from: usize, to: usize, time: Time },
    /// The nodes of the mask are cut off from the others in both directions.
    Partition { mask: u64, time: Time },
    /// As above, and existing connections break at once.
    Reject { mask: u64, time: Time },
    /// A node is heard by nobody, hears nobody, or both.
    Isolate { node: usize, deaf: bool, mute: bool, time: Time },
    /// What is sent takes longer.
    Slow { from: usize, to: usize, time: Time, extra: Time },
    /// The connections of a pair, from one to the other, break.
    Break { from: usize, to: usize },
    /// Every sync takes longer.
    SlowDisk { node: usize, time: Time, extra: Time },
    /// No disk job comes back.
    HungDisk { node: usize, time: Time },
    /// The n-th operation of the disk from now fails, and the process dies of it.
    IoError { node: usize, nth: u64, down: Time },
    /// The file system has no room for another segment.
    FullDisk { node: usize, time: Time },
    /// A process is asked to stop: it hands leadership over and ends.
    Shutdown { node: usize, down: Time },
    /// The next starts of a node are interrupted by a power cut.
    CutWhileStarting { node: usize, after: u64, death: Death, down: Time },
    /// A bit of one file of a node that counts as good changes.
    Rot { node: usize, pick: u64 },
    /// A bit changes in a file of the log or the state.
    Decay { node: usize, pick: u64 },
    /// A sector is written where another one stands.
    Astray { node: usize, pick: u64 },
    /// A copy of a disk is made, for later.
    Copy { node: usize },
    /// The disk is put back to its copy.
    Restore { node: usize, down: Time },
    /// A sector goes back to what it was when the copy was made.
    LoseWrite { node: usize, pick: u64 },
    /// The disk is replaced by an empty one.
    Wipe { node: usize, down: Time },
}

impl Fault {
    /// Whom it hits, if it is one node.
    pub(crate) fn node_mut(&mut self) -> Option<&mut usize> {
        match self {
            Fault::Die { node, .. } | Fault::KillThenCut { node, .. } | Fault::Pause { node, .. } | Fault::Clock { node, .. } => Some(node),
            Fault::Isolate { node, .. } | Fault::SlowDisk { node, .. } | Fault::HungDisk { node, .. } => Some(node),
            Fault::IoError { node, .. } | Fault::FullDisk { node, .. } | Fault::Shutdown { node, .. } => Some(node),
            Fault::CutWhileStarting { node, .. } => Some(node),
            Fault::Rot { node, .. } | Fault::Decay { node, .. } | Fault::Astray { node, .. } | Fault::Copy { node } => Some(node),
            Fault::Restore { node, .. } | Fault::LoseWrite { node, .. } | Fault::Wipe { node, .. } => Some(node),
            Fault::Blackout { .. } | Fault::Cut { .. } | Fault::Partition { .. } | Fault::Reject { .. } => None,
            Fault::Slow { .. } | Fault::Break { .. } => None,
        }
    }

    /// Whose files it changes or copies behind their owner's back.
    pub(crate) fn hits_content(&self) -> Option<usize> {
        match *self {
            Fault::Rot { node, .. } | Fault::Decay { node, .. } | Fault::Astray { node, .. } | Fault::Copy { node } => Some(node),
            Fault::Restore { node, .. } | Fault::LoseWrite { node, .. } | Fault::Wipe { node, .. } => Some(node),
            _ => None,
        }
    }

    /// For counting.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Fault::Die { death: Death::Kill, .. } => "kill",
            Fault::Die { .. } => "power cut",
            Fault::KillThenCut { .. } => "kill, then power cut",
            Fault::Blackout { .. } => "blackout",
            Fault::Pause { .. } => "pause",
            Fault::Clock { .. } => "clock speed",
            Fault::Cut { .. } => "one-way cut",
            Fault::Partition { .. } => "partition",
            Fault::Reject { .. } => "partition with resets",
            Fault::Isolate { .. } => "isolation",
            Fault::Slow { .. } => "slow link",
            Fault::Break { .. } => "broken connection",
            Fault::SlowDisk { .. } => "slow disk",
            Fault::HungDisk { .. } => "hung disk",
            Fault::IoError { .. } => "EIO",
            Fault::FullDisk { .. } => "ENOSPC",
            Fault::Shutdown { .. } => "shutdown",
            Fault::CutWhileStarting { .. } => "power cut while starting",
            Fault::Rot { .. } => "bit rot",
            Fault::Decay { .. } => "bit rot in the log",
            Fault::Astray { .. } => "misdirected write",
            Fault::Copy { .. } => "copy of a disk",
            Fault::Restore { .. } => "restored old copy",
            Fault::LoseWrite { .. } => "lost write",
            Fault::Wipe { .. } => "wiped disk",
        }
    }
}

/// What clients do, in shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) set: u64,
    pub(crate) delete: u64,
    pub(crate) compare_and_set: u64,
    pub(crate) get: u64,
    pub(crate) scan: u64,
}

/// Everything that a seed draws.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    /// How long faults happen.
    pub(crate) time: Time,
    pub(crate) latency: (Time, Time),
    /// How many messages in a thousand take ten times as long.
    pub(crate) late: u64,
    pub(crate) sync: (Time, Time),
    pub(crate) prepare: (Time, Time),
    /// How long a thread takes to wake up.
    pub(crate) wake: (Time, Time),
    /// Messages in a thousand that vanish without anybody noticing, which real links never do.
    pub(crate) silent_loss: u64,
    /// Messages in a thousand that arrive a second time, much later.
    pub(crate) duplication: u64,
    pub(crate) segment_bytes: u64,
    /// About how much of a snapshot travels at once.
    pub(crate) chunk_bytes: u64,
    /// How long a sender of a snapshot waits between two parts of it, as if its link had more to carry.
    pub(crate) chunk_pause: (Time, Time),
    /// Parts of snapshots in a thousand on whose way the connection breaks.
    pub(crate) chunk_breaks: u64,
    pub(crate) limits: Limits,
    pub(crate) settings: Settings,
    pub(crate) clients: usize,
    pub(crate) keys: u64,
    pub(crate) value_bytes: (u64, u64),
    pub(crate) batch: u64,
    /// How many unanswered writes a connection has before it stops sending.
    pub(crate) depth: usize,
    pub(crate) think: (Time, Time),
    pub(crate) deadline_ms: (u64, u64),
    pub(crate) mix: Mix,
    /// Only a majority is healed at the end.
    pub(crate) heal_all: bool,
    pub(crate) faults: Vec<(Time, Fault)>,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed, 1);
        let nodes = *random.pick(&[1, 3, 3, 3, 3, 5, 5]);
        let time = random.between((1, 5)) * SECOND;
        let harsh = random.per_mille(250);
        let tight = random.per_mille(300);
        let mut plan = Plan {
            seed,
            nodes,
            time,
            latency: (random.between((20, 200)), random.spread((200, 20_000))),
            late: random.below(2) * random.below(30),
            sync: (50, random.spread((100, 60_000))),
            prepare: (500, random.spread((1_000, 200_000))),
            wake: (1, random.spread((5, 3_000))),
            silent_loss: u64::from(harsh) * random.below(100),
            duplication: u64::from(harsh) * random.below(100),
            segment_bytes: random.between((3, 10)) * 4096,
            chunk_bytes: 0,
            chunk_pause: (0, 0),
            chunk_breaks: 0,
            limits: limits(&mut random, tight),
            settings: settings(&mut random),
            clients: random.between((1, 6)) as usize,
            keys: random.between((1, 6)),
            value_bytes: (8, random.spread((8, 4_000))),
            batch: random.spread((1, 16)),
            depth: random.spread((1, 40)) as usize,
            think: (100, random.spread((2_000, 300_000))),
            deadline_ms: (random.between((20, 300)), random.between((300, 5_000))),
            mix: Mix {
                set: random.between((1, 10)),
                delete: random.below(5),
                compare_and_set: random.below(6),
                get: random.below(12),
                scan: random.below(4),
            },
            heal_all: random.per_mille(500),
            faults: Vec::new(),
        };
        if tight {
            plan.limits.uncommitted_bytes = Random::new(seed, 5).spread((500, 20_000));
        }
        if random.per_mille(30) {
            plan.value_bytes.1 = plan.segment_bytes * 2;
            // A follower that has no room for a record of a segment of its own gets it again after this time only.
            plan.settings.resend_ticks = 100;
        }
        plan.draw_upkeep(&mut Random::new(seed, 6));
        if random.per_mille(250) {
            plan.draw_hunt(&mut Random::new(seed, 2));
        } else {
            plan.draw_faults(&mut Random::new(seed, 2));
        }
        if plan.nodes >= 3 && random.per_mille(300) {
            plan.draw_damage(&mut Random::new(seed, 4));
        }
        plan.draw_decay(&mut Random::new(seed, 7));
        plan
    }

    /// How long logs get before segments leave them, and how often files are merged.
    fn draw_upkeep(&mut self, random: &mut Random) {
        if random.per_mille(700) {
            self.segment_bytes = random.between((3, 4)) * 4096;
        }
        let some = random.below(4) * self.segment_bytes;
        self.limits.retain_log_bytes = *random.pick(&[u64::MAX, some, some, some]);
        // Against logs and segments so small, every transfer creeps.
        self.limits.pinned_log_factor = u64::MAX;
        self.limits.merge_look_ms = random.spread((1, 500));
        self.chunk_bytes = random.spread((1, 64 << 10));
        self.chunk_pause = (1, random.spread((1, 300 * MILLISECOND)));
        self.chunk_breaks = random.below(2) * random.below(200);
        if random.per_mille(300) {
            self.keys = KEYS_MAX;
        }
    }

    /// One leader after the other is hit, on a network so slow and with appends so small that entries reach a part of the members.
    fn draw_hunt(&mut self, random: &mut Random) {
        if random.per_mille(500) {
            self.settings.append_bytes = 100;
            self.settings.window_bytes = 200;
            self.latency.1 = random.between((5 * MILLISECOND, 40 * MILLISECOND));
        }
        for node in 0..self.nodes {
            self.faults.push((0, Fault::Clock { node, per_mille: random.between((1000, 2000)) }));
        }
        let mut at = random.between((100 * MILLISECOND, SECOND));
        while at < self.time {
            // A deposed leader whose clock is slow believes in itself for longer.
            let per_mille = *random.pick(&[500, 700, 1000]);
            self.faults.push((at, Fault::Clock { node: LEADER, per_mille }));
            let time = random.between((50 * MILLISECOND, 900 * MILLISECOND));
            let death = *random.pick(&[Death::Kill, Death::Tear, Death::LoseAll]);
            let fault = match random.below(6) {
                0 | 1 => Fault::Die { node: LEADER, death, down: time },
                2 => Fault::Pause { node: LEADER, time },
                3 => Fault::Isolate { node: LEADER, deaf: true, mute: false, time },
                _ => Fault::Isolate { node: LEADER, deaf: true, mute: true, time },
            };
            self.faults.push((at, fault));
            at += random.between((50 * MILLISECOND, 900 * MILLISECOND));
        }
    }

    fn draw_faults(&mut self, random: &mut Random) {
        let mut kinds: Vec<u64> = (0..19).filter(|_| random.per_mille(400)).collect();
        if kinds.is_empty() {
            kinds.push(random.below(19));
        }
        let count = random.spread((1, 40));
        // Some schedules are storms: a few moments at which much goes wrong within a second.
        let storms: Vec<Time> = (0..random.below(4)).map(|_| random.below(self.time)).collect();
        let mut rotted = false;
        for _ in 0..count {
            let at = match storms.is_empty() {
                true => random.below(self.time),
                false => random.pick(&storms) + random.spread((MILLISECOND, SECOND)),
            };
            let fault = self.draw_fault(*random.pick(&kinds), random);
            // One good copy of everything must stay: only one node of three or more ever rots.
            if let Fault::Rot { .. } = fault {
                if rotted || self.nodes < 3 {
                    continue;
                }
                rotted = true;
                // Once the others have been healed, it could be one too many.
                self.faults.push((at.min(self.time - 1), fault));
                continue;
            }
            self.faults.push((at, fault));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// The disks of a minority are damaged, wiped, or put back to what they were.
    fn draw_damage(&mut self, random: &mut Random) {
        let rotten = self.faults.iter().find_map(|(_, fault)| if let Fault::Rot { node, .. } = fault { Some(*node) } else { None });
        let first = rotten.unwrap_or_else(|| random.below(self.nodes as u64) as usize);
        let second = (first + 1 + random.below(self.nodes as u64 - 1) as usize) % self.nodes;
        let victims = if self.nodes >= 5 && random.per_mille(500) { vec![first, second] } else { vec![first] };
        for _ in 0..random.between((1, 3)) {
            let node = *random.pick(&victims);
            let (at, pick) = (random.below(self.time), random.number());
            // A disk that is lost once the others have been healed could be one too many.
            let later = (at + random.spread((MILLISECOND, self.time))).min(self.time - 1);
            let down = random.spread((10 * MILLISECOND, 2 * SECOND));
            match random.below(6) {
                0 => self.faults.push((at, Fault::Wipe { node, down })),
                1 => self.faults.push((at, Fault::Astray { node, pick })),
                2 => self.faults.extend([(at, Fault::Copy { node }), (later, Fault::LoseWrite { node, pick })]),
                _ => self.faults.extend([(at, Fault::Copy { node }), (later, Fault::Restore { node, down })]),
            }
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Bits change in the logs of some nodes or of all, one after the other. Much of it is found by a start that follows.
    fn draw_decay(&mut self, random: &mut Random) {
        self.limits.scrub_round_ms = random.spread((50, 20_000));
        if self.nodes < 3 || random.per_mille(650) {
            return;
        }
        let some = random.below(self.nodes as u64) as usize;
        let rolling = random.per_mille(600);
        for _ in 0..random.spread((1, 8)) {
            let (at, pick) = (random.below(self.time), random.number());
            let node = if random.per_mille(200) { LEADER } else { random.below(self.nodes as u64) as usize };
            let node = if rolling { node } else { some };
            // Some nodes are hit again soon, while their logs are being fetched again perhaps.
            let (times, mut at) = (if random.per_mille(300) { random.between((2, 4)) } else { 1 }, at);
            for time in 0..times {
                // Once the others have been healed, it could be one too many: what this log lost may be with a member that stays cut off.
                if at >= self.time {
                    break;
                }
                self.faults.push((at, Fault::Decay { node, pick: pick.rotate_left(time as u32) }));
                if random.per_mille(if times > 1 { 1000 } else { 600 }) {
                    let death = *random.pick(&[Death::Kill, Death::Tear, Death::LoseAll]);
                    let down = random.spread((10 * MILLISECOND, if times > 1 { 30 * MILLISECOND } else { SECOND }));
                    at += random.spread((1, if times > 1 { 30 * MILLISECOND } else { 500 * MILLISECOND }));
                    self.faults.push((at, Fault::Die { node, death, down }));
                    at += down + random.spread((MILLISECOND, 300 * MILLISECOND));
                }
            }
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    fn draw_fault(&self, kind: u64, random: &mut Random) -> Fault {
        let some = random.below(self.nodes as u64) as usize;
        let node = if random.per_mille(400) { LEADER } else { some };
        let to = (some + 1 + random.below(self.nodes.max(2) as u64 - 1) as usize) % self.nodes;
        let death = *random.pick(&[Death::Kill, Death::LoseAll, Death::Tear, Death::Tear, Death::KeepAll]);
        let down = random.spread((10 * MILLISECOND, 3 * SECOND));
        let time = random.spread((5 * MILLISECOND, 4 * SECOND));
        let mask = random.below(1 << self.nodes);
        match kind {
            0 | 1 => Fault::Die { node, death, down },
            2 => Fault::KillThenCut { node, down, alive: random.spread((100, SECOND)), death },
            3 => Fault::Blackout { death, down },
            4 => {
                let (deaf, mute) = *random.pick(&[(true, true), (true, false), (false, true)]);
                Fault::Isolate { node, deaf, mute, time }
            }
            5 => Fault::Pause { node, time },
            6 => Fault::Clock { node, per_mille: random.between((500, 2_000)) },
            7 => Fault::Cut { from: some, to, time },
            8 => Fault::Partition { mask, time },
            9 => Fault::Reject { mask, time },
            10 => Fault::Slow { from: some, to, time, extra: random.spread((MILLISECOND, 400 * MILLISECOND)) },
            11 => Fault::Break { from: some, to },
            12 => Fault::SlowDisk { node, time, extra: random.spread((MILLISECOND, SECOND)) },
            13 => Fault::HungDisk { node, time: time * 2 },
            14 => Fault::IoError { node, nth: random.spread((1, 30)), down },
            15 => Fault::FullDisk { node, time },
            16 => Fault::Shutdown { node, down },
            17 => Fault::CutWhileStarting { node, after: random.spread((1, 40)), death, down },
            _ => Fault::Rot { node: some, pick: random.number() },
        }
    }

    /// The members that make a majority.
    pub(crate) fn majority(&self) -> usize {
        self.nodes / 2 + 1
    }
}

fn limits(random: &mut Random, tight: bool) -> Limits {
    let usual = Limits::default();
    Limits {
        stage_clients_bytes: if tight { random.spread((500, 20_000)) } else { usual.stage_clients_bytes },
        stage_bytes: if tight { random.spread((2_000, 40_000)) } else { usual.stage_bytes },
        apply_slice: random.spread((1, 64)),
        apply_turn: random.spread((1, 512)),
        ..usual
    }
}

/// A tick is a millisecond, as in the server.
fn settings(random: &mut Random) -> Settings {
    Settings {
        election_ticks: 150,
        heartbeat_ticks: 50,
        suspicion_ticks: 8,
        election_ticks_max: 5_000,
        resend_ticks: 600,
        stall_ticks: 3_000,
        ban_ticks: 10_000,
        append_bytes: if random.per_mille(300) { 100 } else { random.spread((100, 1 << 20)) },
        window_bytes: random.spread((200, 16 << 20)),
    }
}
