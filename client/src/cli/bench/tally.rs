//! What one connection counts, and all of them together: latencies of what succeeded, and the number of each way to fail. Recording takes
//! no lock and no memory.

use super::load::Operation;
use apexkv_client::protocol::Status;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest latency that is told apart: ten minutes, in nanoseconds.
const LATENCY_MAX: u64 = 600_000_000_000;

/// Counts of one connection, or of all of them.
#[derive(Debug)]
pub(crate) struct Tally {
    set: Histogram<u64>,
    get: Histogram<u64>,
    /// By the name of the status, or `timeout`, `connection`, `connect`, `unsent`.
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, LATENCY_MAX, 3).expect("the bounds are in order and 3 digits are possible")
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally { set: histogram(), get: histogram(), errors: BTreeMap::new() }
    }

    /// An answer; only the latency of a success is kept.
    pub(crate) fn record(&mut self, operation: Operation, status: Status, latency: Duration) {
        if status != Status::Ok {
            return self.fail(status.name(), 1);
        }
        let latencies = match operation {
            Operation::Set => &mut self.set,
            Operation::Get => &mut self.get,
        };
        latencies.saturating_record(latency.as_nanos().min(u128::from(LATENCY_MAX)) as u64);
    }

    pub(crate) fn fail(&mut self, kind: &'static str, count: u64) {
        if count > 0 {
            *self.errors.entry(kind).or_default() += count;
        }
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        for (sum, part) in [(&mut self.set, &other.set), (&mut self.get, &other.get)] {
            sum.add(part).expect("all tallies have the same bounds");
        }
        other.errors.iter().for_each(|(kind, count)| self.fail(kind, *count));
    }

    /// How many requests succeeded.
    pub(crate) fn operations(&self) -> u64 {
        self.set.len() + self.get.len()
    }

    /// How many did not.
    pub(crate) fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Of everything that succeeded.
    pub(crate) fn latencies(&self) -> Latencies {
        let mut both = self.set.clone();
        both.add(&self.get).expect("both have the same bounds");
        Latencies::of(&both)
    }

    /// Of one kind of operation.
    pub(crate) fn latencies_of(&self, operation: Operation) -> Latencies {
        Latencies::of(match operation {
            Operation::Set => &self.set,
            Operation::Get => &self.get,
        })
    }
}

/// Percentiles in microseconds; 0 where nothing succeeded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Latencies {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latencies {
    fn of(histogram: &Histogram<u64>) -> Latencies {
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1_000.0;
        let at = |quantile: f64| microseconds(histogram.value_at_quantile(quantile));
        let max = microseconds(histogram.max());
        Latencies { count: histogram.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max }
    }

    /// Each with its name in JSON and CSV.
    pub(crate) fn named(&self) -> [(&'static str, f64); 5] {
        [("p50_us", self.p50), ("p90_us", self.p90), ("p99_us", self.p99), ("p999_us", self.p999), ("max_us", self.max)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_succeeded() {
        let (mut all, mut tally) = (Tally::new(), Tally::new());
        for microseconds in 1..=1_000 {
            let operation = if microseconds <= 500 { Operation::Set } else { Operation::Get };
            tally.record(operation, Status::Ok, Duration::from_micros(microseconds));
        }
        tally.record(Operation::Set, Status::Busy, Duration::from_secs(9));
        tally.record(Operation::Get, Status::NotLeader, Duration::from_secs(9));
        tally.fail("timeout", 3);
        tally.fail("unsent", 0);
        all.add(&tally);
        assert_eq!((all.operations(), all.failures()), (1_000, 5));
        assert_eq!(all.errors.into_iter().collect::<Vec<_>>(), [("BUSY", 1), ("NOT_LEADER", 1), ("timeout", 3)]);
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
        let latencies = tally.latencies();
        for ((name, value), expected) in latencies.named().into_iter().zip([500.0, 900.0, 990.0, 999.0, 1_000.0]) {
            assert!(near(value, expected), "{name} is {value} and not {expected}");
        }
        assert!(near(tally.latencies_of(Operation::Get).p50, 750.0), "{tally:?}");
        assert_eq!(tally.latencies_of(Operation::Set).count, 500);
    }
}
