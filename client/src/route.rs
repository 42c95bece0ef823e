//! Where the next attempt of an operation goes, and how long to pause before it. Pure: no sockets, no clock; the caller sleeps.
//!
//! An operation visits nodes in rounds. Within a round no node is asked twice and nothing is waited for: the leader known so far, the
//! leader that a node names, the other endpoints in turn. When a round has found nothing, a pause follows that doubles from round to
//! round: an election takes a moment, and nodes that name each other must not make a client spin.

use std::time::Duration;

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// A node that answers BUSY is asked again after a pause; after this many in a row another one is asked: it may know a newer leader.
const BUSY_IN_A_ROW_MAX: u32 = 3;

#[derive(Debug)]
pub(crate) struct Route {
    endpoints: Vec<String>,
    /// The endpoint whose turn it is when no leader is known.
    turn: usize,
    leader: Option<String>,
    /// Nodes asked in this round.
    asked: Vec<String>,
    pause: Duration,
    busy_in_a_row: u32,
}

impl Route {
    /// `endpoints` holds at least one.
    pub(crate) fn new(endpoints: Vec<String>) -> Route {
        assert!(!endpoints.is_empty(), "the builder refuses an empty list of endpoints");
        Route { endpoints, turn: 0, leader: None, asked: Vec::new(), pause: PAUSE_MIN, busy_in_a_row: 0 }
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// A new operation starts with a new round; the leader known so far stays.
    pub(crate) fn begin(&mut self) {
        self.asked.clear();
        self.pause = PAUSE_MIN;
        self.busy_in_a_row = 0;
    }

    /// The node to ask now.
    pub(crate) fn target(&self) -> &str {
        self.leader.as_deref().unwrap_or(&self.endpoints[self.turn])
    }

    /// The target acted as a leader does.
    pub(crate) fn answered(&mut self) {
        self.leader = Some(self.target().to_owned());
    }

    /// The target is not the leader and names one, or none. Returns the pause before the next attempt.
    pub(crate) fn redirected(&mut self, leader: Option<&str>) -> Duration {
        let fresh = leader.filter(|leader| *leader != self.target() && !self.asked.iter().any(|asked| asked == leader)).map(str::to_owned);
        match fresh {
            Some(leader) => {
                self.asked.push(self.target().to_owned());
                self.leader = Some(leader);
                self.busy_in_a_row = 0;
                Duration::ZERO
            }
            None => self.failed(),
        }
    }

    /// The target cannot be reached or used. Returns the pause before the next attempt.
    pub(crate) fn failed(&mut self) -> Duration {
        self.busy_in_a_row = 0;
        self.asked.push(self.target().to_owned());
        self.leader = None;
        let count = self.endpoints.len();
        let next = (1..=count).map(|step| (self.turn + step) % count).find(|turn| !self.asked.contains(&self.endpoints[*turn]));
        match next {
            Some(turn) => {
                self.turn = turn;
                Duration::ZERO
            }
            None => {
                self.turn = (self.turn + 1) % count;
                self.end_round()
            }
        }
    }

    /// The target is overloaded, or cannot confirm that it leads. Returns the pause before the next attempt.
    pub(crate) fn busy(&mut self) -> Duration {
        self.busy_in_a_row += 1;
        if self.busy_in_a_row < BUSY_IN_A_ROW_MAX {
            return self.end_round();
        }
        self.asked.clear();
        self.failed().max(self.pause)
    }

    fn end_round(&mut self) -> Duration {
        self.asked.clear();
        let pause = self.pause;
        self.pause = (2 * pause).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(endpoints: &[&str]) -> Route {
        Route::new(endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect())
    }

    #[test]
    fn a_named_leader_is_asked_at_once_and_kept() {
        let mut route = route(&["a:1", "b:1", "c:1"]);
        assert_eq!(route.redirected(Some("c:1")), Duration::ZERO);
        assert_eq!(route.target(), "c:1");
        route.answered();
        route.begin();
        assert_eq!(route.target(), "c:1");
    }

    #[test]
    fn nodes_that_name_each_other_do_not_make_it_spin() {
        let mut route = route(&["a:1", "b:1"]);
        assert_eq!(route.redirected(Some("b:1")), Duration::ZERO);
        assert_eq!(route.redirected(Some("a:1")), PAUSE_MIN);
        let itself = route.target().to_owned();
        assert_eq!(route.redirected(Some(&itself)), Duration::ZERO, "whoever names oneself names nobody, and the other's turn comes");
    }

    #[test]
    fn every_endpoint_is_asked_once_a_round_and_pauses_double_up_to_a_bound() {
        let mut route = route(&["a:1", "b:1", "c:1"]);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let mut round = Vec::new();
            loop {
                round.push(route.target().to_owned());
                let pause = route.redirected(None);
                if !pause.is_zero() {
                    pauses.push(pause.as_millis());
                    break;
                }
            }
            round.sort();
            assert_eq!(round, ["a:1", "b:1", "c:1"]);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 50, 50]);
    }

    #[test]
    fn a_dead_leader_outside_the_endpoints_is_forgotten() {
        let mut route = route(&["a:1", "b:1"]);
        route.redirected(Some("elsewhere:1"));
        route.answered();
        route.begin();
        assert_eq!(route.target(), "elsewhere:1");
        assert_eq!(route.failed(), Duration::ZERO);
        assert_eq!(route.target(), "b:1");
        assert_eq!(route.redirected(Some("elsewhere:1")), Duration::ZERO, "named again, but it has failed in this round");
        assert_eq!(route.target(), "a:1");
    }

    #[test]
    fn a_busy_node_is_asked_again_before_another_one() {
        let mut route = route(&["a:1", "b:1"]);
        let targets: Vec<String> = (0..4)
            .map(|_| {
                let target = route.target().to_owned();
                assert!(route.busy() >= PAUSE_MIN);
                target
            })
            .collect();
        assert_eq!(targets, ["a:1", "a:1", "a:1", "b:1"]);
    }
}
