//! Writes every key once before the measurement, so that each GET finds one. One pipelined connection to the leader. A key that was
//! not taken, or of which that is not known, is written again: writing it twice does no harm. When leadership moves or the connection
//! breaks, the rest goes to the next leader. What no node would take ends it.

use super::load::{Load, Operation};
use super::progress::Progress;
use super::worker::{RECONNECT_PAUSE, find_leader};
use crate::cli::args::Arguments;
use apexkv_client::protocol::Status;
use apexkv_client::{Connection, Error, Pipeline};
use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

/// Requests in flight.
const DEPTH: usize = 128;
/// Bytes in flight, so that large values do not make the cluster busy.
const BYTES_IN_FLIGHT: u64 = 4 << 20;
/// Pause after a BUSY.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Writes the keys from 0 to below `keys`, and returns who leads now. Gives up with the newest failure when the cluster has taken none
/// for as long as a request may take, and at once when a key is refused for good.
pub(crate) fn fill(
    arguments: &Arguments,
    load: &Load,
    keys: u64,
    value_size: u64,
    mut leader: String,
    progress: &Progress,
) -> Result<String, Error> {
    let timeout = arguments.timeout;
    let depth = (BYTES_IN_FLIGHT / value_size.max(1)).clamp(1, DEPTH as u64) as usize;
    let deadline = Instant::now() + timeout;
    let mut fill = Fill { load: load.clone(), keys, depth, fresh: 0, sent: VecDeque::new(), again: Vec::new(), timeout, deadline };
    while let Err(error) = fill.converse(&leader, progress) {
        fill.again.extend(fill.sent.drain(..));
        if matches!(&error, Error::Refused { status, .. } if *status != Status::NotLeader) || Instant::now() >= fill.deadline {
            return Err(error);
        }
        thread::sleep(RECONNECT_PAUSE);
        let left = fill.deadline.saturating_duration_since(Instant::now()).max(RECONNECT_PAUSE);
        leader = find_leader(arguments, left).unwrap_or(leader);
    }
    Ok(leader)
}

/// What is still to be written.
struct Fill {
    load: Load,
    keys: u64,
    depth: usize,
    /// The first key that was never sent.
    fresh: u64,
    /// In flight, in the order of sending.
    sent: VecDeque<u64>,
    /// To be sent again.
    again: Vec<u64>,
    timeout: Duration,
    /// When the cluster must have taken another one.
    deadline: Instant,
}

impl Fill {
    /// Writes over one connection until everything is written. After an error, what is in flight may or may not have been written.
    fn converse(&mut self, leader: &str, progress: &Progress) -> Result<(), Error> {
        let lost = |error: &dyn ToString| Error::Unknown { endpoint: leader.to_owned(), reason: error.to_string() };
        let connection = Connection::open(leader, self.timeout, self.deadline).map_err(|error| lost(&error))?;
        let mut pipeline = Pipeline::new(connection);
        loop {
            while self.sent.len() < self.depth
                && let Some(number) = self.next()
            {
                pipeline.push_frame(self.load.frame(Operation::Set, number));
                self.sent.push_back(number);
            }
            if self.sent.is_empty() {
                return Ok(());
            }
            if !pipeline.has_response() {
                pipeline.flush(self.deadline).map_err(|error| lost(&error))?;
            }
            let response = pipeline.receive(self.deadline).map_err(|error| lost(&error))?;
            let refused = |status| {
                let message = format!("writing the keys before the measurement: {}", String::from_utf8_lossy(response.payload));
                Err(Error::Refused { status, endpoint: leader.to_owned(), message })
            };
            match response.status {
                Status::Ok => {
                    self.sent.pop_front();
                    self.deadline = Instant::now() + self.timeout;
                }
                Status::Busy | Status::Unknown if Instant::now() < self.deadline => {
                    self.again.extend(self.sent.pop_front());
                    thread::sleep(BUSY_PAUSE);
                }
                status => return refused(status),
            }
            progress.filling(self.fresh, self.keys);
        }
    }

    fn next(&mut self) -> Option<u64> {
        self.again.pop().or_else(|| {
            let number = self.fresh;
            self.fresh += u64::from(number < self.keys);
            (number < self.keys).then_some(number)
        })
    }
}
