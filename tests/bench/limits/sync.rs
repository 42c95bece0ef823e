//! One record and one fdatasync after the other: the shortest time in which a single write can be made durable.

use super::log::Log;
use super::process::Part;
use super::{REQUEST, SyncArguments, load, print};
use serde_json::json;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) fn run(arguments: &SyncArguments) -> io::Result<()> {
    let part = |number: u8| {
        let file = arguments.dir.join(format!("sync-{number}"));
        Part::start(&[OsString::from("sync"), file.into(), arguments.seconds.to_string().into()])
    };
    let mut parts: Vec<Part> = (0..arguments.processes).map(part).collect::<io::Result<_>>()?;
    // All files are there before the first record is written.
    parts.iter_mut().try_for_each(|part| part.numbers::<u8>().map(drop))?;
    parts.iter_mut().try_for_each(Part::go)?;
    let results: Vec<Vec<f64>> = parts.iter_mut().map(Part::numbers).collect::<io::Result<_>>()?;
    let mean = |field: usize| results.iter().filter_map(|numbers| numbers.get(field)).sum::<f64>() / results.len() as f64;
    print(&json!({
        "limit": "sync", "processes": arguments.processes, "operations_per_second": (mean(0) * results.len() as f64).round(),
        "p50_us": mean(1), "p99_us": mean(2),
    }))
}

/// One of the processes.
pub(crate) fn part(file: &Path, time: Duration) -> io::Result<()> {
    let mut log = Log::create(file)?;
    print(&0)?;
    io::stdin().read_line(&mut String::new())?;
    let record = [0x5a; REQUEST];
    let mut latencies = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let at = Instant::now();
        log.append(&record)?;
        latencies.push(at.elapsed().as_nanos() as u64);
    }
    let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    print(&format!("{rate} {} {}", load::quantile(&latencies, 0.5), load::quantile(&latencies, 0.99)))
}
