//! The load generator: a closed loop, one thread for each connection, all of them to the leader. A request leaves when an earlier one
//! of its connection was answered, so it measures what the cluster can do and not how long a queue can grow.

mod load;
mod report;
mod worker;

use super::args::{Arguments, duration, duration_or_zero, size};
use super::exit::{Exit, Trouble};
use super::output::Output;
use clap::{Args, ValueEnum};
use load::Load;
use report::Tally;
use std::thread;
use std::time::{Duration, Instant};
use worker::Worker;

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchOptions {
    /// What the requests do; mixed is half SET, half GET
    #[arg(long, env = "APEXKV_WORKLOAD", value_enum, default_value = "set")]
    pub(crate) workload: Workload,
    /// Connections, each with a thread of its own
    #[arg(long, env = "APEXKV_CONNECTIONS", value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Requests in flight on each connection
    #[arg(long, env = "APEXKV_DEPTH", value_name = "D", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Distinct keys, picked at random; they stay in the cluster under the prefix bench:
    #[arg(long, env = "APEXKV_KEYS", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// Bytes of a key
    #[arg(long, env = "APEXKV_KEY_SIZE", value_name = "SIZE", default_value = "16", value_parser = size)]
    pub(crate) key_size: u64,
    /// Bytes of a value
    #[arg(long, env = "APEXKV_VALUE_SIZE", value_name = "SIZE", default_value = "256", value_parser = size)]
    pub(crate) value_size: u64,
    /// How long is measured
    #[arg(long, env = "APEXKV_DURATION", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// How long runs before it, unmeasured
    #[arg(long, env = "APEXKV_WARMUP", value_name = "DURATION", default_value = "1s", value_parser = duration_or_zero)]
    pub(crate) warmup: Duration,
}

/// What the requests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Only SET
    Set,
    /// Only GET, of keys that were written before
    Get,
    /// SET and GET by the toss of a coin
    Mixed,
}

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::Set => "set",
            Workload::Get => "get",
            Workload::Mixed => "mixed",
        }
    }
}

/// When requests are sent and when their answers count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output, options: &BenchOptions) -> Result<Exit, Trouble> {
    let load = Load::new(options)?;
    let leader = worker::find_leader(arguments)?;
    if options.workload != Workload::Set {
        load::fill(&load, options.keys, &leader, arguments.timeout)?;
    }
    let begin = Instant::now() + options.warmup;
    let window = Window { begin, end: begin + options.duration };
    let mut total = Tally::new();
    thread::scope(|scope| -> Result<(), Trouble> {
        let mut workers = Vec::new();
        for number in 0..options.connections {
            let mut worker = Worker::new(arguments, options, load.clone(), window, number);
            let leader = leader.clone();
            let work = move || worker.run(leader);
            let builder = thread::Builder::new().name(format!("bench-{number}"));
            workers.push(builder.spawn_scoped(scope, work).map_err(|error| Trouble::Local("start a thread for each connection", error))?);
        }
        for worker in workers {
            total.add(&worker.join().map_err(|_| Trouble::Wrong("a thread of the benchmark panicked".to_owned()))?);
        }
        Ok(())
    })?;
    report::print(output, options, &leader, &total)?;
    Ok(if total.operations() > 0 { Exit::Success } else { Exit::Unavailable })
}
