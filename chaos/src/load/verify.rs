//! After the load: reads every touched key back and judges it, and removes the keys. Runs when the writers have stopped, so each
//! key's history is complete.

use super::mixed;
use super::session::{Evidence, Settings, client};
use apexkv_client::protocol::{Command, Status};
use apexkv_client::{Client, Connection, Pipeline};
use std::time::{Duration, Instant};

/// One attempt to read a key; the patience decides how often it is repeated.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a read that no node answered.
const PAUSE: Duration = Duration::from_millis(50);
/// Deletions sent before the first answer is awaited.
const DELETIONS_IN_FLIGHT: usize = 256;

/// What reading back has shown; the violations went into the evidence.
pub(crate) struct ReadBack {
    /// Keys that were read.
    pub(crate) read: u64,
    /// Keys that could not be read: nothing is proved about them.
    pub(crate) unread: u64,
    /// How long it took.
    pub(crate) took: Duration,
    /// The last failure in the words of the client, if keys are unread.
    pub(crate) last_failure: Option<String>,
}

/// Reads every touched key with GETV and checks it against its history. Gives up when no read has succeeded for `patience`.
pub(crate) fn read_back(evidence: &mut Evidence, settings: &Settings, patience: Duration) -> ReadBack {
    let started = Instant::now();
    let mut client = build(settings, READ_TIMEOUT);
    let mut result = ReadBack { read: 0, unread: 0, took: Duration::ZERO, last_failure: None };
    let mut patience = Patience { last_success: started, time: patience };
    for (key, history) in evidence.findings.histories.iter_mut().filter(|(_, history)| history.is_touched()) {
        let name = settings.key(*key);
        let Some(found) = patience.read(&mut result, || client.get_versioned(name.as_bytes())) else { continue };
        if let Err(violation) = history.read(found.as_ref().map(|(version, value)| (*version, value.as_slice()))) {
            evidence.findings.violations.push((*key, violation));
        }
    }
    for key in mixed::keys(&evidence.history) {
        patience.read(&mut result, || mixed::read_at_the_end(&mut evidence.history, &mut client, &key, evidence.started));
    }
    result.took = started.elapsed();
    result
}

/// How long reading back may go on without any success.
struct Patience {
    last_success: Instant,
    time: Duration,
}

impl Patience {
    /// Carries one read to an end, and counts it; `None` if no node answered it in time. After the first such end none is tried.
    fn read<T>(&mut self, result: &mut ReadBack, mut read: impl FnMut() -> Result<T, apexkv_client::Error>) -> Option<T> {
        while result.unread == 0 {
            match read() {
                Ok(found) => {
                    self.last_success = Instant::now();
                    result.read += 1;
                    return Some(found);
                }
                Err(error) => result.last_failure = Some(error.to_string()),
            }
            if self.last_success.elapsed() >= self.time {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        result.unread += 1;
        None
    }
}

fn build(settings: &Settings, timeout: Duration) -> Client {
    client(&settings.endpoints, timeout).build().expect("the writers worked with the same endpoints")
}

/// Removes the touched keys within `time`. Returns how many may be left.
pub(crate) fn remove_keys(evidence: &Evidence, settings: &Settings, time: Duration) -> usize {
    let deadline = Instant::now() + time;
    let touched = evidence.findings.histories.iter().filter(|(_, history)| history.is_touched());
    let mut left: Vec<Vec<u8>> = touched.map(|(key, _)| settings.key(*key).into_bytes()).collect();
    left.extend(mixed::keys(&evidence.history));
    let mut client = build(settings, READ_TIMEOUT.min(time));
    while !left.is_empty() && Instant::now() < deadline {
        // One deletion the careful way finds the leader; the rest goes there in one stream.
        if left.last().is_some_and(|key| client.delete(key).is_ok()) {
            left.pop();
            if let Some(leader) = client.endpoint() {
                remove_in_stream(leader, &mut left, deadline);
            }
        } else {
            std::thread::sleep(PAUSE);
        }
    }
    left.len()
}

/// Deletes keys from the end of `left`, many at a time; stops at the first answer that is not a deletion's.
fn remove_in_stream(leader: &str, left: &mut Vec<Vec<u8>>, deadline: Instant) {
    let Ok(connection) = Connection::open(leader, READ_TIMEOUT, deadline) else { return };
    let mut pipeline = Pipeline::new(connection);
    while !left.is_empty() {
        let chunk = &left[left.len().saturating_sub(DELETIONS_IN_FLIGHT)..];
        chunk.iter().rev().for_each(|key| pipeline.push(Command::Del, key, &[]));
        if pipeline.flush(deadline).is_err() {
            return;
        }
        while pipeline.outstanding() > 0 {
            match pipeline.receive(deadline) {
                Ok(response) if matches!(response.status, Status::Ok | Status::NotFound) => left.pop(),
                Ok(_) | Err(_) => return,
            };
        }
    }
}
