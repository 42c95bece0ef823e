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

/// Runs from now to the end of the window, over as many connections as it takes.
pub(crate) fn run(arguments: &Arguments, options: &BenchOptions, load: &Load, leader: &str, window: Window, number: u64) -> Tally {
    let mut load = load.clone();
    let mut tally = Tally::new();
    let mut chance = Chance::new(number << 32 | 1);
    let mut leader = leader.to_owned();
    while Instant::now() < window.end {
        let opened = Connection::open(&leader, arguments.timeout, Instant::now() + arguments.timeout);
        let ended = match opened {
            Ok(connection) => drive(Pipeline::new(connection), arguments, options, &mut load, window, &mut chance, &mut tally),
            Err(_) => Err("connect"),
        };
        let Err(kind) = ended else {
            break;
        };
        tally.fail(kind);
        thread::sleep(RECONNECT_PAUSE);
        if let Ok(found) = find_leader(arguments) {
            leader = found;
        }
    }
    tally
}

/// The loop on one connection; ends with the window, or early with the kind of error that makes the connection useless.
fn drive(
    mut pipeline: Pipeline,
    arguments: &Arguments,
    options: &BenchOptions,
    load: &mut Load,
    window: Window,
    chance: &mut Chance,
    tally: &mut Tally,
) -> Result<(), &'static str> {
    let mut sent = VecDeque::with_capacity(options.depth as usize);
    let mut now = Instant::now();
    loop {
        while now < window.end && pipeline.outstanding() < options.depth as usize {
            let key = chance.next() % options.keys;
            pipeline.push_frame(load.frame(key, chance));
            sent.push_back(now);
        }
        if pipeline.outstanding() == 0 {
            return Ok(());
        }
        let deadline = now + arguments.timeout;
        pipeline.flush(deadline).map_err(|_| "connection")?;
        let mut arrived = None;
        loop {
            let status = pipeline.receive(deadline).map_err(|_| "connection")?.status;
            let at = *arrived.get_or_insert_with(Instant::now);
            let since = sent.pop_front().map_or(Duration::ZERO, |sent| at - sent);
            if at >= window.begin && at < window.end {
                tally.record(status, since);
            }
            if status == Status::NotLeader {
                return Err("moved");
            }
            if pipeline.outstanding() == 0 || !pipeline.has_response() {
                break;
            }
        }
        now = arrived.unwrap_or_else(Instant::now);
    }
}
