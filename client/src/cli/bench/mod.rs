//! The load generator: one thread for each connection, all of them to the leader. A closed loop sends a request when an earlier one of its
//! connection was answered, so it measures what the cluster can do. An open loop (`--rate`) sends each when it is due, and counts its
//! latency from that moment, sent late or not: it measures what users see at that rate.

mod keys;
mod load;
mod open_loop;
mod prefill;
mod progress;
mod report;
mod schedule;
mod tally;
mod worker;
mod zipf;

use super::args::{Arguments, duration, duration_or_zero, rate, size};
use super::exit::{Exit, Trouble};
use super::output::Output;
use apexkv_client::Error;
use clap::{Args, ValueEnum};
use load::Load;
use progress::Progress;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tally::Tally;
use worker::Worker;

/// GETs in a hundred requests of a mixed load, unless it is told otherwise.
const READS: u8 = 50;

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchOptions {
    /// What the requests do
    #[arg(long, env = "APEXKV_WORKLOAD", value_enum, default_value = "set")]
    pub(crate) workload: Workload,
    /// GETs in a hundred requests of a mixed load [default: 50]
    #[arg(long, env = "APEXKV_READS", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) reads: Option<u8>,
    /// Connections, each with a thread of its own
    #[arg(long, env = "APEXKV_CONNECTIONS", value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Requests in flight on each connection, at most
    #[arg(long, env = "APEXKV_DEPTH", value_name = "D", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Requests a second, of all connections together, as in 500 or 10k: each is sent when it is due, as far as --depth lets it, and its
    /// latency counts from then [default: as fast as the answers come]
    #[arg(long, env = "APEXKV_RATE", value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Distinct keys, picked at random; they stay in the cluster under the prefix bench:
    #[arg(long, env = "APEXKV_KEYS", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// How keys are picked
    #[arg(long, env = "APEXKV_DISTRIBUTION", value_enum, default_value = "uniform")]
    pub(crate) distribution: Distribution,
    /// Exponent of the zipfian distribution: the larger, the more often few keys are picked
    #[arg(long, env = "APEXKV_THETA", value_name = "THETA", default_value = "0.99", value_parser = theta)]
    pub(crate) theta: f64,
    /// Whether every key is written once before the measurement
    #[arg(long, env = "APEXKV_PREFILL", value_enum, default_value = "auto")]
    pub(crate) prefill: Prefill,
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
    /// Print the result as CSV: a line of heads and one of values
    #[arg(long, env = "APEXKV_CSV", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) csv: bool,
}

/// What the requests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Only SET
    Set,
    /// Only GET
    Get,
    /// SET and GET by chance, with the share of --reads
    Mixed,
}

/// How keys are picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Distribution {
    /// Each as often as any other
    Uniform,
    /// Few of them most of the time, by Zipf's law with --theta
    Zipfian,
}

/// Whether every key is written once before the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Prefill {
    /// For workloads that read
    Auto,
    /// Always
    Yes,
    /// Never: a GET of a key that is not there counts as NOT_FOUND
    No,
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

impl Distribution {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Distribution::Uniform => "uniform",
            Distribution::Zipfian => "zipfian",
        }
    }
}

impl BenchOptions {
    /// GETs in a hundred requests of a mixed load.
    pub(crate) fn reads(&self) -> u64 {
        u64::from(self.reads.unwrap_or(READS))
    }

    fn wants_prefill(&self) -> bool {
        match self.prefill {
            Prefill::Auto => self.workload != Workload::Set,
            Prefill::Yes => true,
            Prefill::No => false,
        }
    }

    fn check(&self, output: &Output) -> Result<(), Error> {
        if self.reads.is_some() && self.workload != Workload::Mixed {
            return Err(Error::Usage("--reads is for --workload mixed; leave one of them out or add the other".to_owned()));
        }
        if self.csv && output.is_json() {
            return Err(Error::Usage("the result is either CSV or JSON; leave out --csv or --output json".to_owned()));
        }
        Ok(())
    }
}

fn theta(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(theta) if (0.01..=10.0).contains(&theta) => Ok(theta),
        _ => Err("give a number from 0.01 to 10, for example 0.99".to_owned()),
    }
}

/// When requests are sent and when their answers count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output, options: &BenchOptions) -> Result<Exit, Trouble> {
    options.check(output)?;
    let load = Load::new(options)?;
    let mut leader = worker::find_leader(arguments, arguments.timeout)?;
    let progress = Progress::new(options);
    if options.wants_prefill() {
        leader = prefill::fill(arguments, &load, options.keys, options.value_size, leader, &progress)?;
    }
    let total = measure(arguments, options, &load, &leader, &progress)?;
    report::print(output, options, &leader, &total)?;
    Ok(if total.operations() > 0 { Exit::Success } else { Exit::Unavailable })
}

/// Starts a thread for each connection; the clock starts when all have connected or failed to.
fn measure(arguments: &Arguments, options: &BenchOptions, load: &Load, leader: &str, progress: &Progress) -> Result<Tally, Trouble> {
    thread::scope(|scope| {
        let (ready, all_ready) = channel::<()>();
        let mut workers = Vec::new();
        for number in 0..options.connections {
            // Without a window, because the next thread could not be started, a worker ends at once.
            let (start, window): (Sender<Window>, Receiver<Window>) = channel();
            let worker = Worker::new(arguments, options, load.clone(), number, progress.answers(number));
            let (ready, leader) = (ready.clone(), leader.to_owned());
            let work = move || worker.run(leader, ready, &window);
            let builder = thread::Builder::new().name(format!("bench-{number}"));
            let thread = builder.spawn_scoped(scope, work).map_err(|error| Trouble::Local("start a thread for each connection", error))?;
            workers.push((start, thread));
        }
        drop(ready);
        // Nothing is ever sent: it ends when the last worker has let go of its end.
        let _ = all_ready.recv();
        let begin = Instant::now() + options.warmup;
        let window = Window { begin, end: begin + options.duration };
        for (start, _) in &workers {
            // A worker that is gone has panicked, which its end below tells.
            let _ = start.send(window);
        }
        progress.watch(&window);
        let mut total = Tally::new();
        for (_, thread) in workers {
            total.add(&thread.join().map_err(|_| Trouble::Wrong("a thread of the benchmark panicked".to_owned()))?);
        }
        Ok(total)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        options: BenchOptions,
    }

    /// The options that these flags make.
    pub(super) fn options(flags: &[&str]) -> BenchOptions {
        Alone::try_parse_from(["bench"].iter().chain(flags)).map(|alone| alone.options).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn keys_are_written_before_when_they_are_read_or_when_asked_for() {
        for (flags, expected) in [
            (&[][..], false),
            (&["--workload", "get"], true),
            (&["--workload", "mixed"], true),
            (&["--workload", "get", "--prefill", "no"], false),
            (&["--prefill", "yes"], true),
        ] {
            assert_eq!(options(flags).wants_prefill(), expected, "{flags:?}");
        }
    }
}
