//! How the result is told: as text for people, as one JSON object, or as a line of CSV below its heads.

use super::load::Operation;
use super::tally::{Latencies, Tally};
use super::{BenchOptions, Distribution, Workload};
use crate::cli::exit::Trouble;
use crate::cli::json;
use crate::cli::output::Output;
use serde_json::{Map, Value, json};

const CSV_HEAD: &str = "workload,reads,connections,depth,keys,key_size,value_size,distribution,theta,rate,seconds,endpoint,\
operations,operations_per_second,p50_us,p90_us,p99_us,p999_us,max_us,errors";

pub(crate) fn print(output: &mut Output, options: &BenchOptions, leader: &str, tally: &Tally) -> Result<(), Trouble> {
    if output.is_json() {
        return output.object(object(options, leader, tally));
    }
    if options.csv {
        output.line(CSV_HEAD)?;
        return output.line(&csv(options, leader, tally));
    }
    text(options, leader, tally).iter().try_for_each(|line| output.line(line))
}

fn per_second(options: &BenchOptions, operations: u64) -> f64 {
    operations as f64 / options.duration.as_secs_f64()
}

/// The kinds of operations of a mixed load, with their names.
fn kinds(options: &BenchOptions) -> &'static [(&'static str, Operation)] {
    if options.workload == Workload::Mixed { &[("set", Operation::Set), ("get", Operation::Get)] } else { &[] }
}

fn text(options: &BenchOptions, leader: &str, tally: &Tally) -> Vec<String> {
    let BenchOptions { workload, connections, depth, key_size, value_size, .. } = options;
    let load = format!("{connections} connections, depth {depth}, {key_size} B keys, {value_size} B values");
    let picks = match options.distribution {
        Distribution::Uniform => String::new(),
        Distribution::Zipfian => format!(", zipfian {}", options.theta),
    };
    let rate = options.rate.map_or_else(String::new, |rate| format!(", at {rate} requests/s, latencies from when each was due"));
    let operations = tally.operations();
    let mut lines = vec![
        format!("{}: {load}{picks}{rate}, {} s, to {leader}", workload.name(), options.duration.as_secs_f64()),
        format!("  {:.0} ops/s ({operations} operations)", per_second(options, operations)),
        format!("  {}", percentiles(&tally.latencies())),
    ];
    for (name, operation) in kinds(options) {
        let latencies = tally.latencies_of(*operation);
        lines.push(format!("  {name}: {:.0} ops/s   {}", per_second(options, latencies.count), percentiles(&latencies)));
    }
    let errors: Vec<String> = tally.errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    lines.push(format!("  errors: {}", if errors.is_empty() { "none".to_owned() } else { errors.join(", ") }));
    if let (Some(rate), Some(unsent)) = (options.rate, tally.errors.get("unsent")) {
        lines.push(format!(
            "  {rate} requests/s were too many: {unsent} that were due have not been sent, and are missing in the latencies"
        ));
    }
    lines
}

fn percentiles(latencies: &Latencies) -> String {
    let Latencies { p50, p90, p99, p999, max, .. } = latencies;
    format!("p50 {p50:.0} us   p90 {p90:.0} us   p99 {p99:.0} us   p99.9 {p999:.0} us   max {max:.0} us")
}

fn object(options: &BenchOptions, leader: &str, tally: &Tally) -> json::Object {
    let ok = tally.operations() > 0;
    let mut object = json::object(ok, if ok { "OK" } else { "UNAVAILABLE" });
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("workload", json!(options.workload.name()));
    put("connections", json!(options.connections));
    put("depth", json!(options.depth));
    put("keys", json!(options.keys));
    put("key_size", json!(options.key_size));
    put("value_size", json!(options.value_size));
    put("distribution", json!(options.distribution.name()));
    put("theta", json!((options.distribution == Distribution::Zipfian).then_some(options.theta)));
    put("rate", json!(options.rate));
    put("seconds", json!(options.duration.as_secs_f64()));
    put("endpoint", json!(leader));
    put("operations", json!(tally.operations()));
    put("operations_per_second", json!(per_second(options, tally.operations()).round()));
    tally.latencies().named().into_iter().for_each(|(name, value)| drop(put(name, json!(value))));
    for (name, operation) in kinds(options) {
        put(name, kind_object(options, &tally.latencies_of(*operation)));
    }
    put("errors", json!(tally.errors));
    object
}

fn kind_object(options: &BenchOptions, latencies: &Latencies) -> Value {
    let mut part = Map::new();
    part.insert("operations".to_owned(), json!(latencies.count));
    part.insert("operations_per_second".to_owned(), json!(per_second(options, latencies.count).round()));
    part.extend(latencies.named().map(|(name, value)| (name.to_owned(), json!(value))));
    Value::Object(part)
}

fn csv(options: &BenchOptions, leader: &str, tally: &Tally) -> String {
    let zipfian = options.distribution == Distribution::Zipfian;
    let mut fields = vec![
        options.workload.name().to_owned(),
        if options.workload == Workload::Mixed { options.reads().to_string() } else { String::new() },
        options.connections.to_string(),
        options.depth.to_string(),
        options.keys.to_string(),
        options.key_size.to_string(),
        options.value_size.to_string(),
        options.distribution.name().to_owned(),
        if zipfian { options.theta.to_string() } else { String::new() },
        options.rate.map_or_else(String::new, |rate| rate.to_string()),
        options.duration.as_secs_f64().to_string(),
        leader.to_owned(),
        tally.operations().to_string(),
        format!("{:.0}", per_second(options, tally.operations())),
    ];
    fields.extend(tally.latencies().named().map(|(_, value)| value.to_string()));
    fields.push(tally.failures().to_string());
    fields.join(",")
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::*;
    use apexkv_client::protocol::Status;
    use std::time::Duration;

    fn tally() -> Tally {
        let mut tally = Tally::new();
        for operation in [Operation::Set, Operation::Get, Operation::Get] {
            tally.record(operation, Status::Ok, Duration::from_micros(100));
        }
        tally.record(Operation::Set, Status::Busy, Duration::ZERO);
        tally.fail("unsent", 7);
        tally
    }

    #[test]
    fn a_line_of_csv_has_a_field_for_each_head() {
        for flags in [&["--workload", "mixed", "--reads", "90", "--rate", "2.5k"][..], &["--distribution", "zipfian"], &[]] {
            let line = csv(&options(flags), "localhost:9001", &tally());
            assert_eq!(line.split(',').count(), CSV_HEAD.split(',').count(), "{line}");
            assert!(line.ends_with(",8") && line.contains("localhost:9001,3,1,"), "{line}");
        }
        assert!(csv(&options(&["--rate", "2.5k"]), "h:1", &tally()).starts_with("set,,64,1,10000,16,256,uniform,,2500,5,h:1,3,1,"));
        assert!(!CSV_HEAD.contains(' '));
    }

    #[test]
    fn a_rate_that_was_not_reached_is_said_in_words() {
        let lines = text(&options(&["--rate", "100k"]), "localhost:9001", &tally()).join("\n");
        assert!(lines.contains("at 100000 requests/s") && lines.contains("7 that were due have not been sent"), "{lines}");
        assert!(lines.contains("errors: BUSY 1, unsent 7"), "{lines}");
    }

    #[test]
    fn a_mixed_load_is_also_told_by_operation() {
        let mixed = Value::Object(object(&options(&["--workload", "mixed"]), "h:1", &tally()));
        assert_eq!((&mixed["operations"], &mixed["get"]["operations"], &mixed["set"]["operations"]), (&json!(3), &json!(2), &json!(1)));
        assert_eq!(mixed["errors"], json!({"BUSY": 1, "unsent": 7}));
        let set = Value::Object(object(&options(&[]), "h:1", &tally()));
        assert!(set["get"].is_null() && set["rate"].is_null() && set["theta"].is_null());
    }
}
