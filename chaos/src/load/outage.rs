//! Tells outages and changes of the leader from what the writers meet. Pure: the time comes with each call.
//!
//! An outage begins with the attempt that failed at the node which acknowledged last, and ends when a write is acknowledged whose attempt
//! began after that. Attempts that fail elsewhere are a search, not an outage; an answer that was on its way when the leader died does
//! not end one.

use std::time::{Duration, Instant};

/// A time without acknowledged writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    /// When the first attempt that failed had begun, but not before the last acknowledgement.
    pub(crate) since: Instant,
    /// When the next write was acknowledged.
    pub(crate) until: Instant,
    /// The node that had acknowledged before.
    pub(crate) old_leader: String,
    /// The node that acknowledged next.
    pub(crate) new_leader: String,
}

impl Outage {
    /// How long it lasted.
    pub(crate) fn length(&self) -> Duration {
        self.until.saturating_duration_since(self.since)
    }
}

/// What is worth a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The first acknowledgement of all.
    Found { leader: String },
    /// An outage has begun.
    Down { leader: String },
    /// It is over.
    Back(Outage),
    /// Another node acknowledges, and no attempt had failed in between.
    Moved { old_leader: String, new_leader: String },
}

#[derive(Debug)]
struct Leader {
    endpoint: String,
    /// When it was found; answers to attempts from before say nothing of now.
    found: Instant,
    last_acknowledged: Instant,
}

#[derive(Debug)]
struct Down {
    since: Instant,
    noticed: Instant,
}

/// Follows the cluster through the eyes of all writers.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    leader: Option<Leader>,
    down: Option<Down>,
    outages: Vec<Outage>,
    leaders: Vec<(Instant, String)>,
    failovers: u64,
}

impl Tracker {
    /// Finished outages, oldest first.
    pub(crate) fn outages(&self) -> &[Outage] {
        &self.outages
    }

    /// Who acknowledged from when on, oldest first.
    pub(crate) fn leaders(&self) -> &[(Instant, String)] {
        &self.leaders
    }

    /// How often another node than before acknowledged.
    pub(crate) fn failovers(&self) -> u64 {
        self.failovers
    }

    /// The node that acknowledged last.
    pub(crate) fn leader(&self) -> Option<&str> {
        self.leader.as_ref().map(|leader| leader.endpoint.as_str())
    }

    /// When the present outage began.
    pub(crate) fn down_since(&self) -> Option<Instant> {
        self.down.as_ref().map(|down| down.since)
    }

    /// A write was acknowledged by `endpoint`, on an attempt that began at `began`.
    pub(crate) fn acknowledged(&mut self, endpoint: &str, began: Instant, now: Instant) -> Option<Change> {
        let found = |now| Leader { endpoint: endpoint.to_owned(), found: now, last_acknowledged: now };
        let Some(leader) = &mut self.leader else {
            self.leader = Some(found(now));
            self.leaders.push((now, endpoint.to_owned()));
            return Some(Change::Found { leader: endpoint.to_owned() });
        };
        if began < leader.found || self.down.as_ref().is_some_and(|down| began < down.noticed) {
            return None;
        }
        let old_leader = leader.endpoint.clone();
        let moved = old_leader != endpoint;
        if moved {
            self.failovers += 1;
            self.leaders.push((now, endpoint.to_owned()));
            *leader = found(now);
        } else {
            leader.last_acknowledged = now;
        }
        if let Some(down) = self.down.take() {
            leader.found = now;
            let outage = Outage { since: down.since, until: now, old_leader, new_leader: endpoint.to_owned() };
            self.outages.push(outage.clone());
            return Some(Change::Back(outage));
        }
        moved.then(|| Change::Moved { old_leader, new_leader: endpoint.to_owned() })
    }

    /// An attempt at `endpoint` that began at `began` failed in a way that a working leader does not show.
    pub(crate) fn failed(&mut self, endpoint: &str, began: Instant, now: Instant) -> Option<Change> {
        let leader = self.leader.as_ref()?;
        if self.down.is_some() || leader.endpoint != endpoint || began < leader.found {
            return None;
        }
        self.down = Some(Down { since: began.max(leader.last_acknowledged), noticed: now });
        Some(Change::Down { leader: endpoint.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock in milliseconds.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, milliseconds: u64) -> Instant {
            self.0 + Duration::from_millis(milliseconds)
        }
    }

    /// A tracker that knows the leader a:1 since 10 ms.
    fn with_leader() -> (Tracker, Clock) {
        let clock = Clock(Instant::now());
        let mut tracker = Tracker::default();
        assert_eq!(tracker.acknowledged("a:1", clock.at(0), clock.at(10)), Some(Change::Found { leader: "a:1".to_owned() }));
        (tracker, clock)
    }

    #[test]
    fn an_outage_lasts_from_the_failed_attempt_to_the_next_acknowledgement() {
        let (mut tracker, clock) = with_leader();
        assert_eq!(tracker.failed("a:1", clock.at(100), clock.at(101)), Some(Change::Down { leader: "a:1".to_owned() }));
        assert_eq!(tracker.failed("b:1", clock.at(101), clock.at(102)), None, "said once");
        assert_eq!(tracker.failed("a:1", clock.at(102), clock.at(103)), None, "said once");
        let Some(Change::Back(outage)) = tracker.acknowledged("b:1", clock.at(290), clock.at(300)) else {
            panic!("the outage is over");
        };
        assert_eq!(outage.length(), Duration::from_millis(200));
        assert_eq!((outage.old_leader.as_str(), outage.new_leader.as_str()), ("a:1", "b:1"));
        assert_eq!((tracker.failovers(), tracker.outages().len()), (1, 1));
        assert_eq!(tracker.leaders(), [(clock.at(10), "a:1".to_owned()), (clock.at(300), "b:1".to_owned())]);
        assert_eq!(tracker.down_since(), None);
    }

    #[test]
    fn an_answer_that_was_on_its_way_does_not_end_the_outage() {
        let (mut tracker, clock) = with_leader();
        tracker.failed("a:1", clock.at(100), clock.at(110));
        assert_eq!(tracker.acknowledged("a:1", clock.at(105), clock.at(111)), None);
        assert_eq!(tracker.down_since(), Some(clock.at(100)));
    }

    #[test]
    fn a_straggler_at_the_old_leader_is_no_new_outage() {
        let (mut tracker, clock) = with_leader();
        tracker.failed("a:1", clock.at(100), clock.at(110));
        tracker.acknowledged("b:1", clock.at(200), clock.at(210));
        assert_eq!(tracker.failed("a:1", clock.at(90), clock.at(1_000)), None, "it was sent before the failover");
        assert_eq!(tracker.failed("a:1", clock.at(300), clock.at(310)), None, "this writer had not heard of the new leader yet");
        assert_eq!(tracker.acknowledged("a:1", clock.at(90), clock.at(1_000)), None, "a late answer does not move the leader back");
        assert_eq!((tracker.leader(), tracker.failovers()), (Some("b:1"), 1));
    }

    #[test]
    fn a_leader_that_comes_back_is_an_outage_without_a_failover() {
        let (mut tracker, clock) = with_leader();
        tracker.failed("a:1", clock.at(100), clock.at(110));
        assert!(matches!(tracker.acknowledged("a:1", clock.at(150), clock.at(160)), Some(Change::Back(_))));
        assert_eq!(tracker.failovers(), 0);
    }

    #[test]
    fn a_handed_over_leadership_is_a_failover_without_an_outage() {
        let (mut tracker, clock) = with_leader();
        let moved = tracker.acknowledged("b:1", clock.at(20), clock.at(25));
        assert_eq!(moved, Some(Change::Moved { old_leader: "a:1".to_owned(), new_leader: "b:1".to_owned() }));
        assert_eq!((tracker.failovers(), tracker.outages().len()), (1, 0));
    }

    #[test]
    fn the_search_before_the_first_acknowledgement_is_no_outage() {
        let mut tracker = Tracker::default();
        let now = Instant::now();
        assert_eq!(tracker.failed("a:1", now, now), None);
        assert_eq!(tracker.down_since(), None);
    }

    #[test]
    fn an_outage_does_not_reach_back_before_the_last_acknowledgement() {
        let (mut tracker, clock) = with_leader();
        tracker.acknowledged("a:1", clock.at(50), clock.at(400));
        tracker.failed("a:1", clock.at(60), clock.at(500));
        assert_eq!(tracker.down_since(), Some(clock.at(400)));
    }
}
