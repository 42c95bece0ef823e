//! Clients in a closed loop, a thread each, and what they have seen.

use super::{ANSWER, LoadArguments, REQUEST};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Latencies of all rounds, in nanoseconds, and the time that they took together.
pub(crate) struct Measured {
    latencies: Vec<u64>,
    time: Duration,
}

impl Measured {
    /// Lets `connections` threads run rounds until the time is over. `prepare` makes a thread's round.
    pub(crate) fn run<R>(connections: u16, time: Duration, prepare: impl Fn() -> io::Result<R> + Sync) -> io::Result<Measured>
    where
        R: FnMut() -> io::Result<()> + Send,
    {
        let rounds: Vec<R> = (0..connections).map(|_| prepare()).collect::<io::Result<_>>()?;
        let over = AtomicBool::new(false);
        let began = Instant::now();
        thread::scope(|scope| {
            let threads: Vec<_> = rounds.into_iter().map(|round| scope.spawn(|| repeat(round, &over))).collect();
            thread::sleep(time);
            over.store(true, Ordering::Relaxed);
            let mut latencies = Vec::new();
            for thread in threads {
                latencies.extend(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
            }
            latencies.sort_unstable();
            Ok(Measured { latencies, time: began.elapsed() })
        })
    }

    pub(crate) fn rounds(&self) -> usize {
        self.latencies.len()
    }

    /// What is printed; each round was `each` operations.
    pub(crate) fn object(&self, each: u16) -> Value {
        let operations = self.rounds() as u64 * u64::from(each);
        json!({
            "operations": operations, "operations_per_second": (operations as f64 / self.time.as_secs_f64()).round(),
            "p50_us": quantile(&self.latencies, 0.5), "p99_us": quantile(&self.latencies, 0.99),
        })
    }
}

fn repeat(mut round: impl FnMut() -> io::Result<()>, over: &AtomicBool) -> io::Result<Vec<u64>> {
    let mut latencies = Vec::with_capacity(1 << 16);
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        round()?;
        latencies.push(began.elapsed().as_nanos() as u64);
    }
    Ok(latencies)
}

/// Of sorted nanoseconds, in microseconds; 0 for none.
pub(crate) fn quantile(sorted: &[u64], share: f64) -> f64 {
    let position = (sorted.len() as f64 * share) as usize;
    sorted.get(position.min(sorted.len().saturating_sub(1))).map_or(0.0, |nanoseconds| *nanoseconds as f64 / 1_000.0)
}

/// Clients of a server of this program: each writes `--depth` requests and reads as many answers.
pub(crate) fn over_tcp(arguments: &LoadArguments, port: u16) -> io::Result<Measured> {
    Measured::run(arguments.connections, arguments.time(), || {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        let requests = vec![1; REQUEST * usize::from(arguments.depth)];
        let mut answers = vec![0; ANSWER * usize::from(arguments.depth)];
        Ok(move || socket.write_all(&requests).and_then(|()| socket.read_exact(&mut answers)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_is_there() {
        assert_eq!(quantile(&[], 0.99).to_bits(), 0.0f64.to_bits());
        let hundred: Vec<u64> = (1..=100).map(|number| number * 1_000).collect();
        assert_eq!((quantile(&hundred, 0.5), quantile(&hundred, 0.99), quantile(&hundred, 1.0)), (51.0, 100.0, 100.0));
    }
}
