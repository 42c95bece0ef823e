//! Which fault strikes whom and when. Pure, and a function of the seed alone: the same seed, length, size and kinds of faults give the
//! same schedule on every machine.
//!
//! There are two lines of faults, one of processes and one of links. Within a line faults follow one another and never overlap; the two
//! lines know nothing of each other, so that a node may be killed while another is cut off. In the gaps of both lines everything is
//! whole: what is tested is that nothing is lost and that the cluster comes back, not how many failures it takes to stop it.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::fmt;
use std::time::Duration;

/// Time before the first fault, so that there is something to lose.
const LEAD_IN: Duration = Duration::from_millis(1_500);
/// Milliseconds that a fault lasts.
const LENGTH_MS: std::ops::Range<u64> = 300..2_000;
/// Milliseconds from the end of a fault to the next one of its line: time to catch up.
const GAP_MS: std::ops::Range<u64> = 1_000..2_500;
/// Milliseconds for which a slow link holds what it carries, piece by piece: from a bad line to one slower than an election.
const DELAY_MS: std::ops::Range<u64> = 5..250;
/// Milliseconds that a connection lives while connections break.
const LIFE_MS: std::ops::Range<u64> = 20..300;
/// The stream of random numbers of the line of links; that of processes has the first one.
const LINKS_STREAM: u64 = 1;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `SIGKILL`, and a restart on the same data later.
    Kill,
    /// `SIGSTOP`, and `SIGCONT` later.
    Pause,
    /// Some nodes and the others do not reach each other.
    Partition,
    /// A node is not heard, or does not hear.
    OneWay,
    /// Two groups reach each other only through one node between them.
    Bridge,
    /// Links are slow.
    Slow,
    /// Connections break again and again, in the middle of what they carry.
    Break,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Kind; 7] = [Kind::Kill, Kind::Pause, Kind::Partition, Kind::OneWay, Kind::Bridge, Kind::Slow, Kind::Break];

    /// As the command line names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Pause => "pause",
            Kind::Partition => "partition",
            Kind::OneWay => "one-way",
            Kind::Bridge => "bridge",
            Kind::Slow => "slow",
            Kind::Break => "break",
        }
    }

    /// Whether it strikes the links between nodes, and not their processes.
    pub(crate) fn strikes_links(self) -> bool {
        !matches!(self, Kind::Kill | Kind::Pause)
    }

    /// The smallest cluster that it can strike.
    pub(crate) fn nodes_min(self) -> usize {
        match self {
            Kind::Kill | Kind::Pause => 1,
            Kind::Partition | Kind::OneWay | Kind::Slow | Kind::Break => 2,
            Kind::Bridge => 3,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is done, in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// See [`Kind::Kill`].
    Kill,
    /// See [`Kind::Pause`].
    Pause,
    /// This many nodes, the victim and those after it, are cut off from the others. Either their connections break, so that all know at
    /// once (`abrupt`), or nothing passes any more.
    Partition { size: usize, abrupt: bool },
    /// The victim does not hear the others (`deaf`), or is not heard by them.
    OneWay { deaf: bool },
    /// The node after the victim is the bridge; the victim is in the first half of the others.
    Bridge,
    /// The victim's links hold each piece for so long.
    Slow { delay: Duration },
    /// The victim's connections break when they are this old.
    Break { life: Duration },
}

impl Action {
    /// What it is.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Action::Kill => Kind::Kill,
            Action::Pause => Kind::Pause,
            Action::Partition { .. } => Kind::Partition,
            Action::OneWay { .. } => Kind::OneWay,
            Action::Bridge => Kind::Bridge,
            Action::Slow { .. } => Kind::Slow,
            Action::Break { .. } => Kind::Break,
        }
    }
}

/// To whom it is done. Who leads is known only when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// Whoever leads then.
    Leader,
    /// The node at this position.
    Node(usize),
    /// All of them at once.
    Everyone,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// When it strikes, from the start of the run.
    pub(crate) at: Duration,
    /// How long it lasts.
    pub(crate) length: Duration,
    /// What is done.
    pub(crate) action: Action,
    /// To whom.
    pub(crate) victim: Victim,
}

impl Fault {
    /// When it is over.
    pub(crate) fn end(&self) -> Duration {
        self.at + self.length
    }
}

/// The faults of a run of `duration` on `nodes` nodes, by the time they strike; all are over before the run is. `kinds` is not empty, and
/// the cluster is large enough for each of them.
pub(crate) fn schedule(seed: u64, nodes: usize, duration: Duration, kinds: &[Kind]) -> Vec<Fault> {
    let possible = kinds.iter().all(|kind| kind.nodes_min() <= nodes);
    assert!(possible && !kinds.is_empty(), "a schedule of {kinds:?} for {nodes} nodes");
    let (of_links, of_processes): (Vec<Kind>, Vec<Kind>) = kinds.iter().partition(|kind| kind.strikes_links());
    let mut faults = line(ChaCha8Rng::seed_from_u64(seed), nodes, duration, &of_processes);
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    chance.set_stream(LINKS_STREAM);
    faults.extend(line(chance, nodes, duration, &of_links));
    faults.sort_by_key(|fault| fault.at);
    faults
}

/// Faults that follow one another.
fn line(mut chance: ChaCha8Rng, nodes: usize, duration: Duration, kinds: &[Kind]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = LEAD_IN;
    while !kinds.is_empty() {
        let kind = kinds[chance.random_range(0..kinds.len() as u64) as usize];
        let victim = match chance.random_range(0..10u32) {
            0..6 => Victim::Leader,
            6..9 => Victim::Node(chance.random_range(0..nodes as u64) as usize),
            // There is no half of everyone.
            _ if matches!(kind, Kind::OneWay | Kind::Bridge) => Victim::Leader,
            _ => Victim::Everyone,
        };
        let length = milliseconds(&mut chance, LENGTH_MS);
        let action = match kind {
            Kind::Kill => Action::Kill,
            Kind::Pause => Action::Pause,
            Kind::Partition => {
                let size = chance.random_range(1..=(nodes as u64 / 2)) as usize;
                Action::Partition { size, abrupt: chance.random_bool(0.5) }
            }
            Kind::OneWay => Action::OneWay { deaf: chance.random_bool(0.5) },
            Kind::Bridge => Action::Bridge,
            Kind::Slow => Action::Slow { delay: milliseconds(&mut chance, DELAY_MS) },
            Kind::Break => Action::Break { life: milliseconds(&mut chance, LIFE_MS) },
        };
        if at + length > duration {
            break;
        }
        faults.push(Fault { at, length, action, victim });
        at += length + milliseconds(&mut chance, GAP_MS);
    }
    faults
}

fn milliseconds(chance: &mut ChaCha8Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(chance.random_range(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_seed_alone_decides() {
        assert_eq!(schedule(7, 3, MINUTE, &Kind::ALL), schedule(7, 3, MINUTE, &Kind::ALL));
        assert_ne!(schedule(7, 3, MINUTE, &Kind::ALL), schedule(8, 3, MINUTE, &Kind::ALL));
    }

    #[test]
    fn a_longer_run_begins_as_the_shorter_one() {
        let short = schedule(7, 3, MINUTE, &[Kind::Kill]);
        let long = schedule(7, 3, 2 * MINUTE, &[Kind::Kill]);
        assert!(long.len() > short.len());
        assert_eq!(short, long[..short.len()]);
    }

    #[test]
    fn faults_of_a_line_do_not_overlap_and_all_end_within_the_run() {
        for seed in 0..200 {
            let faults = schedule(seed, 5, MINUTE, &Kind::ALL);
            for of_links in [false, true] {
                let line: Vec<&Fault> = faults.iter().filter(|fault| fault.action.kind().strikes_links() == of_links).collect();
                assert!(line.len() >= 10, "seed {seed}: only {} faults", line.len());
                for pair in line.windows(2) {
                    assert!(pair[0].end() + Duration::from_millis(GAP_MS.start) <= pair[1].at, "seed {seed}: {pair:?}");
                }
            }
            assert!(faults.is_sorted_by_key(|fault| fault.at), "seed {seed}");
            assert!(faults.iter().all(|fault| fault.end() <= MINUTE), "seed {seed}");
            assert!(faults.iter().all(|fault| !matches!(fault.victim, Victim::Node(node) if node >= 5)), "seed {seed}");
        }
    }

    #[test]
    fn processes_and_links_are_broken_at_the_same_time() {
        let faults = schedule(1, 3, MINUTE, &Kind::ALL);
        let overlap = |a: &Fault, b: &Fault| a.at < b.end() && b.at < a.end();
        let pairs = faults.iter().enumerate().flat_map(|(at, a)| faults[at + 1..].iter().map(move |b| (a, b)));
        assert!(pairs.into_iter().any(|(a, b)| overlap(a, b)), "{faults:?}");
    }

    #[test]
    fn leaders_single_nodes_and_everyone_are_struck_but_only_as_asked() {
        for kind in Kind::ALL {
            let faults: Vec<Fault> = (0..20).flat_map(|seed| schedule(seed, 3, MINUTE, &[kind])).collect();
            assert!(faults.iter().all(|fault| fault.action.kind() == kind), "{kind}");
            assert!(faults.iter().any(|fault| fault.victim == Victim::Leader), "{kind}");
            assert!(faults.iter().any(|fault| matches!(fault.victim, Victim::Node(_))), "{kind}");
            let everyone = faults.iter().any(|fault| fault.victim == Victim::Everyone);
            assert_eq!(everyone, !matches!(kind, Kind::OneWay | Kind::Bridge), "{kind}");
        }
    }

    #[test]
    fn all_kinds_come_in_a_run_that_has_all() {
        let faults: Vec<Fault> = (0..3).flat_map(|seed| schedule(seed, 5, MINUTE, &Kind::ALL)).collect();
        for kind in Kind::ALL {
            assert!(faults.iter().any(|fault| fault.action.kind() == kind), "{kind}");
        }
        for abrupt in [false, true] {
            assert!(faults.iter().any(|fault| fault.action == Action::Partition { size: 2, abrupt }), "{abrupt}");
        }
        assert!(faults.iter().all(|fault| !matches!(fault.action, Action::Partition { size: 3.., .. })), "at most half of the nodes");
    }

    #[test]
    fn a_run_too_short_for_a_fault_has_none() {
        assert_eq!(schedule(1, 3, Duration::from_secs(1), &Kind::ALL), []);
    }

    /// Kept seeds stay meaningful only as long as this holds.
    #[test]
    fn a_known_seed_gives_a_known_schedule() {
        let first = schedule(42, 3, MINUTE, &[Kind::Kill, Kind::Pause])[0];
        assert_eq!((first.at, first.action, first.victim, first.length.as_millis()), (LEAD_IN, Action::Pause, Victim::Leader, 1_612));
        let of_links = schedule(42, 3, MINUTE, &[Kind::Partition, Kind::OneWay, Kind::Bridge, Kind::Slow, Kind::Break]);
        let fault = |at, length, action, victim| Fault { at: ms(at), length: ms(length), action, victim };
        let expected = [
            fault(1_500, 1_097, Action::Slow { delay: ms(26) }, Victim::Node(0)),
            fault(4_095, 390, Action::Slow { delay: ms(57) }, Victim::Leader),
            fault(6_307, 1_830, Action::Partition { size: 1, abrupt: false }, Victim::Leader),
        ];
        assert_eq!(of_links[..3], expected);
    }
}
