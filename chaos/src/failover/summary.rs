//! What all rounds together say. Pure.

use crate::arguments::How;
use crate::screen::short_time;
use serde_json::{Value, json};
use std::time::Duration;

/// One struck leader.
#[derive(Clone, Debug)]
pub(super) struct Round {
    /// From the signal to the first acknowledged write that was sent after it.
    pub(super) outage: Duration,
    /// Terms that it took until all agreed on a leader again.
    pub(super) elections: u64,
    /// Who was struck.
    pub(super) old_leader: String,
    /// Who acknowledged.
    pub(super) acknowledged_by: String,
}

/// Outages in order, and the elections.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    outages: Vec<Duration>,
    in_order_of_rounds: Vec<Duration>,
    elections: u64,
}

impl Summary {
    /// `None` for no rounds.
    pub(super) fn of(rounds: &[Round]) -> Option<Summary> {
        let in_order_of_rounds: Vec<Duration> = rounds.iter().map(|round| round.outage).collect();
        let mut outages = in_order_of_rounds.clone();
        outages.sort();
        let elections = rounds.iter().map(|round| round.elections).sum();
        (!outages.is_empty()).then_some(Summary { outages, in_order_of_rounds, elections })
    }

    /// The smallest outage that at least this share of the rounds did not exceed.
    fn quantile(&self, share: f64) -> Duration {
        let rank = (self.outages.len() as f64 * share).ceil() as usize;
        self.outages[rank.clamp(1, self.outages.len()) - 1]
    }

    /// One line.
    pub(super) fn text(&self, how: How) -> String {
        let [best, median, p90, worst] = [0.0, 0.5, 0.9, 1.0].map(|share| short_time(self.quantile(share)));
        let (rounds, elections) = (self.outages.len(), self.elections);
        let outages = format!("median {median}, p90 {p90}, worst {worst}, best {best}");
        format!("{rounds} leaders {how}, to the next acknowledged write: {outages}; {elections} elections")
    }

    /// The same as an object, with every round.
    pub(super) fn json(&self, how: How, nodes: usize) -> Value {
        let milliseconds = |outage: Duration| (outage.as_secs_f64() * 1e6).round() / 1e3;
        let all: Vec<f64> = self.in_order_of_rounds.iter().copied().map(milliseconds).collect();
        json!({
            "how": how.name(), "nodes": nodes, "rounds": self.outages.len(), "median_ms": milliseconds(self.quantile(0.5)),
            "p90_ms": milliseconds(self.quantile(0.9)), "worst_ms": milliseconds(self.quantile(1.0)),
            "best_ms": milliseconds(self.quantile(0.0)), "elections": self.elections, "outages_ms": all,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_outages_that_were_measured() {
        assert!(Summary::of(&[]).is_none());
        let round = |milliseconds| Round {
            outage: Duration::from_millis(milliseconds),
            elections: 1 + u64::from(milliseconds == 70),
            old_leader: "a".to_owned(),
            acknowledged_by: "b".to_owned(),
        };
        let rounds: Vec<Round> = [70, 20, 40, 10, 30, 60, 50, 90, 100, 80].map(round).to_vec();
        let summary = Summary::of(&rounds).expect("there are rounds");
        let object = summary.json(How::Kill, 3);
        for (name, expected) in [("best_ms", 10.0), ("median_ms", 50.0), ("p90_ms", 90.0), ("worst_ms", 100.0)] {
            assert_eq!(object[name], json!(expected), "{object}");
        }
        assert_eq!((&object["elections"], &object["rounds"], &object["how"]), (&json!(11), &json!(10), &json!("kill")));
        assert_eq!(object["outages_ms"][0], json!(70.0));
        assert!(summary.text(How::Pause).starts_with("10 leaders silenced"), "{}", summary.text(How::Pause));
        let alone = Summary::of(&rounds[..1]).expect("there is a round");
        assert_eq!((alone.quantile(0.0), alone.quantile(0.5), alone.quantile(1.0)), (rounds[0].outage, rounds[0].outage, rounds[0].outage));
    }
}
