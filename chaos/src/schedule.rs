//! Which fault strikes whom and when. Pure, and a function of the seed alone: the same seed, length, size and kinds of faults give the
//! same schedule on every machine.
//!
//! Faults follow one another and never overlap, so a majority is up outside of them (and inside, unless the fault strikes every node):
//! what is tested is that nothing is lost and that the cluster comes back, not how many failures it takes to stop it.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::time::Duration;

/// Time before the first fault, so that there is something to lose.
const LEAD_IN: Duration = Duration::from_millis(1_500);
/// Milliseconds for which a killed node stays down, or a paused one asleep.
const LENGTH_MS: std::ops::Range<u64> = 300..2_000;
/// Milliseconds from the end of a fault to the next one: time to catch up.
const GAP_MS: std::ops::Range<u64> = 1_000..2_500;

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `SIGKILL`, and a restart on the same data later.
    Kill,
    /// `SIGSTOP`, and `SIGCONT` later.
    Pause,
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
    pub(crate) kind: Kind,
    /// To whom.
    pub(crate) victim: Victim,
}

/// The faults of a run of `duration` on `nodes` nodes; the last one is over before the run is. `kinds` is not empty.
pub(crate) fn schedule(seed: u64, nodes: usize, duration: Duration, kinds: &[Kind]) -> Vec<Fault> {
    assert!(nodes > 0 && !kinds.is_empty(), "a schedule for {nodes} nodes and {} kinds of faults", kinds.len());
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut faults = Vec::new();
    let mut at = LEAD_IN;
    loop {
        let kind = kinds[chance.random_range(0..kinds.len() as u64) as usize];
        let victim = match chance.random_range(0..10u32) {
            0..6 => Victim::Leader,
            6..9 => Victim::Node(chance.random_range(0..nodes as u64) as usize),
            _ => Victim::Everyone,
        };
        let length = Duration::from_millis(chance.random_range(LENGTH_MS));
        if at + length > duration {
            return faults;
        }
        faults.push(Fault { at, length, kind, victim });
        at += length + Duration::from_millis(chance.random_range(GAP_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_seed_alone_decides() {
        let kinds = [Kind::Kill, Kind::Pause];
        assert_eq!(schedule(7, 3, MINUTE, &kinds), schedule(7, 3, MINUTE, &kinds));
        assert_ne!(schedule(7, 3, MINUTE, &kinds), schedule(8, 3, MINUTE, &kinds));
    }

    #[test]
    fn a_longer_run_begins_as_the_shorter_one() {
        let short = schedule(7, 3, MINUTE, &[Kind::Kill]);
        let long = schedule(7, 3, 2 * MINUTE, &[Kind::Kill]);
        assert!(long.len() > short.len());
        assert_eq!(short, long[..short.len()]);
    }

    #[test]
    fn faults_do_not_overlap_and_end_within_the_run() {
        for seed in 0..200 {
            let faults = schedule(seed, 5, MINUTE, &[Kind::Kill, Kind::Pause]);
            assert!(faults.len() >= 10, "seed {seed}: only {} faults", faults.len());
            for pair in faults.windows(2) {
                assert!(pair[0].at + pair[0].length + Duration::from_millis(GAP_MS.start) <= pair[1].at, "seed {seed}: {pair:?}");
            }
            assert!(faults.iter().all(|fault| fault.at + fault.length <= MINUTE), "seed {seed}");
            assert!(faults.iter().all(|fault| !matches!(fault.victim, Victim::Node(node) if node >= 5)), "seed {seed}");
        }
    }

    #[test]
    fn leaders_single_nodes_and_everyone_are_struck_but_only_as_asked() {
        let faults: Vec<Fault> = (0..20).flat_map(|seed| schedule(seed, 3, MINUTE, &[Kind::Kill])).collect();
        assert!(faults.iter().all(|fault| fault.kind == Kind::Kill));
        assert!(faults.iter().any(|fault| fault.victim == Victim::Leader));
        assert!(faults.iter().any(|fault| matches!(fault.victim, Victim::Node(_))));
        assert!(faults.iter().any(|fault| fault.victim == Victim::Everyone));
    }

    #[test]
    fn a_run_too_short_for_a_fault_has_none() {
        assert_eq!(schedule(1, 3, Duration::from_secs(1), &[Kind::Kill]), []);
    }

    /// Kept seeds stay meaningful only as long as this holds.
    #[test]
    fn a_known_seed_gives_a_known_schedule() {
        let first = schedule(42, 3, MINUTE, &[Kind::Kill, Kind::Pause])[0];
        assert_eq!((first.at, first.kind, first.victim, first.length.as_millis()), (LEAD_IN, Kind::Pause, Victim::Leader, 1_612));
    }
}
