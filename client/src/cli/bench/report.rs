//! What was counted, and how it is told.

use super::BenchOptions;
use crate::cli::exit::Trouble;
use crate::cli::json;
use crate::cli::output::Output;
use apexkv_client::protocol::Status;
use hdrhistogram::Histogram;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest latency that is told apart: ten minutes, in nanoseconds.
const LATENCY_MAX: u64 = 600_000_000_000;

/// Counts of one connection, or of all of them.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Nanoseconds from sending to answer, of what succeeded.
    latencies: Histogram<u64>,
    errors: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        let latencies = Histogram::new_with_bounds(1_000, LATENCY_MAX, 3).expect("the bounds are in order and 3 digits are possible");
        Tally { latencies, errors: BTreeMap::new() }
    }

    pub(crate) fn record(&mut self, status: Status, latency: Duration) {
        match status {
            Status::Ok => self.latencies.saturating_record(latency.as_nanos().min(u128::from(LATENCY_MAX)) as u64),
            other => self.fail(other.name()),
        }
    }

    pub(crate) fn fail(&mut self, kind: &'static str) {
        *self.errors.entry(kind).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.latencies.add(&other.latencies).expect("all tallies have the same bounds");
        other.errors.iter().for_each(|(kind, count)| *self.errors.entry(kind).or_default() += count);
    }

    /// How many requests succeeded within the window.
    pub(crate) fn operations(&self) -> u64 {
        self.latencies.len()
    }
}

pub(crate) fn print(output: &mut Output, options: &BenchOptions, leader: &str, tally: &Tally) -> Result<(), Trouble> {
    let seconds = options.duration.as_secs_f64();
    let rate = tally.operations() as f64 / seconds;
    let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1_000.0;
    let quantile = |quantile: f64| microseconds(tally.latencies.value_at_quantile(quantile));
    let (p50, p99, max) = (quantile(0.5), quantile(0.99), microseconds(tally.latencies.max()));
    if output.is_json() {
        let ok = tally.operations() > 0;
        let mut object = json::object(ok, if ok { "OK" } else { "UNAVAILABLE" });
        let fields = json!({
            "workload": options.workload.name(), "connections": options.connections, "depth": options.depth, "keys": options.keys,
            "key_size": options.key_size, "value_size": options.value_size, "seconds": seconds, "endpoint": leader,
            "operations": tally.operations(), "operations_per_second": rate.round(),
            "p50_us": p50, "p99_us": p99, "max_us": max, "errors": tally.errors,
        });
        object.extend(fields.as_object().cloned().unwrap_or_default());
        return output.object(object);
    }
    let BenchOptions { workload, connections, depth, key_size, value_size, .. } = options;
    let load = format!("{connections} connections, depth {depth}, {key_size} B keys, {value_size} B values");
    output.line(&format!("{}: {load}, {seconds} s, to {leader}", workload.name()))?;
    output.line(&format!("  {rate:.0} ops/s ({} operations)", tally.operations()))?;
    output.line(&format!("  p50 {p50:.0} us   p99 {p99:.0} us   max {max:.0} us"))?;
    let errors: Vec<String> = tally.errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    output.line(&format!("  errors: {}", if errors.is_empty() { "none".to_owned() } else { errors.join(", ") }))
}
