//! One connection's loop: keep `depth` requests in flight, note when each was answered. Everything that costs time per request is
//! shared by the requests that one read of the socket has answered: the clock, the write, the read.

use super::load::{Chance, Load};
use super::report::Tally;
use super::{BenchOptions, Window};
use crate::cli::args::Arguments;
use apexkv_client::protocol::Status;
use apexkv_client::{Client, Connection, Error, Pipeline};
use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

/// Pause of a connection that has lost its leader, before it looks for the next one.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// Asks the cluster for any key: whoever answers leads.
pub(crate) fn find_leader(arguments: &Arguments) -> Result<String, Error> {
    let mut client = Client::builder().endpoints(arguments.endpoints.clone()).timeout(arguments.timeout).build()?;
    client.get(b"bench:")?;
    Ok(client.endpoint().unwrap_or(&arguments.endpoints[0]).to_owned())
}

/// One connection's share of the load.
#[derive(Debug)]
pub(crate) struct Worker<'a> {
    arguments: &'a Arguments,
    options: &'a BenchOptions,
    load: Load,
    window: Window,
    chance: Chance,
    tally: Tally,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(arguments: &'a Arguments, options: &'a BenchOptions, load: Load, window: Window, number: u32) -> Worker<'a> {
        let chance = Chance::new((u64::from(number) << 32) | 1);
        Worker { arguments, options, load, window, chance, tally: Tally::new() }
    }

    /// Runs from now to the end of the window, over as many connections as it takes.
    pub(crate) fn run(&mut self, mut leader: String) -> Tally {
        let timeout = self.arguments.timeout;
        while Instant::now() < self.window.end {
            let ended = match Connection::open(&leader, timeout, Instant::now() + timeout) {
                Ok(connection) => self.drive(Pipeline::new(connection)),
                Err(_) => Err("connect"),
            };
            let Err(kind) = ended else {
                break;
            };
            self.tally.fail(kind);
            thread::sleep(RECONNECT_PAUSE);
            if let Ok(found) = find_leader(self.arguments) {
                leader = found;
            }
        }
        std::mem::replace(&mut self.tally, Tally::new())
    }

    /// The loop on one connection; ends with the window, or early with the kind of error that makes the connection useless.
    fn drive(&mut self, mut pipeline: Pipeline) -> Result<(), &'static str> {
        let depth = self.options.depth as usize;
        let mut sent = VecDeque::with_capacity(depth);
        let mut now = Instant::now();
        loop {
            while now < self.window.end && pipeline.outstanding() < depth {
                let key = self.chance.next() % self.options.keys;
                pipeline.push_frame(self.load.frame(key, &mut self.chance));
                sent.push_back(now);
            }
            if pipeline.outstanding() == 0 {
                return Ok(());
            }
            now = self.collect(&mut pipeline, &mut sent, now + self.arguments.timeout)?;
        }
    }

    /// Sends what was pushed, waits for the next answer, takes all others that came with it, and returns when that was.
    fn collect(&mut self, pipeline: &mut Pipeline, sent: &mut VecDeque<Instant>, deadline: Instant) -> Result<Instant, &'static str> {
        pipeline.flush(deadline).map_err(|_| "connection")?;
        let mut status = pipeline.receive(deadline).map_err(|_| "connection")?.status;
        let arrived = Instant::now();
        loop {
            let latency = sent.pop_front().map_or(Duration::ZERO, |sent| arrived - sent);
            if arrived >= self.window.begin && arrived < self.window.end {
                self.tally.record(status, latency);
            }
            if status == Status::NotLeader {
                return Err("moved");
            }
            if pipeline.outstanding() == 0 || !pipeline.has_response() {
                return Ok(arrived);
            }
            status = pipeline.receive(deadline).map_err(|_| "connection")?.status;
        }
    }
}
