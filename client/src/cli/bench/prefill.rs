//! Writes every key once before the measurement, so that each GET finds one. One pipelined connection; what the cluster is too busy for
//! is written again.

use super::load::{Load, Operation};
use super::progress::Progress;
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

/// Writes the keys from 0 to below `keys`. Gives up when the cluster has taken none for `timeout`.
pub(crate) fn fill(load: &Load, keys: u64, value_size: u64, leader: &str, timeout: Duration, progress: &Progress) -> Result<(), Error> {
    let lost = |error: &dyn ToString| Error::Unknown { endpoint: leader.to_owned(), reason: error.to_string() };
    let connection = Connection::open(leader, timeout, Instant::now() + timeout).map_err(|error| lost(&error))?;
    let (mut load, mut pipeline) = (load.clone(), Pipeline::new(connection));
    let depth = (BYTES_IN_FLIGHT / value_size.max(1)).clamp(1, DEPTH as u64) as usize;
    let (mut sent, mut again) = (VecDeque::with_capacity(depth), Vec::new());
    let (mut fresh, mut deadline) = (0..keys, Instant::now() + timeout);
    loop {
        while sent.len() < depth
            && let Some(number) = again.pop().or_else(|| fresh.next())
        {
            pipeline.push_frame(load.frame(Operation::Set, number));
            sent.push_back(number);
        }
        let Some(number) = sent.pop_front() else { return Ok(()) };
        if !pipeline.has_response() {
            pipeline.flush(deadline).map_err(|error| lost(&error))?;
        }
        let response = pipeline.receive(deadline).map_err(|error| lost(&error))?;
        match response.status {
            Status::Ok => deadline = Instant::now() + timeout,
            Status::Busy if Instant::now() < deadline => {
                again.push(number);
                thread::sleep(BUSY_PAUSE);
            }
            status => {
                let message = format!("writing the keys before the measurement: {}", String::from_utf8_lossy(response.payload));
                return Err(Error::Refused { status, endpoint: leader.to_owned(), message });
            }
        }
        progress.filling(fresh.start, keys);
    }
}
