//! Clients that do everything at once on few keys: SET, GET, DEL and CAS, each client one operation at a time. What they called, when,
//! and what was answered is recorded; whether that can be is judged at the end, when all of it is known.
//!
//! Half of them look for the leader, as clients do; the others ask nodes at random, leaders or not. Of those again half only read, so that
//! no write that hangs keeps them from seeing what a deposed leader says.
//!
//! Now and then the keys are left for fresh ones, so that no key's history grows beyond what is judged quickly.

use super::direct::Direct;
use super::session::{Session, Settings};
use crate::error::Error as ProgramError;
use apexkv_chaos::linearizability::{Answer, Call, History, Operation, Returned};
use apexkv_client::{Client, Error};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Keys in use at a time.
const KEYS: u64 = 4;
/// Operations after which the keys are left, of all clients together.
const OPERATIONS_PER_KEYS: u64 = 8_000;
/// Operations recorded at most, of all clients together; then the clients rest. Keeps a long run within some 200 MiB.
const OPERATIONS_MAX: u64 = 1_000_000;
/// Longest pause of a client between two operations.
const PAUSE_MAX: Duration = Duration::from_millis(3);
/// The same for a client that only reads: what a node says between two states is seen only by who asks all the time.
const READER_PAUSE_MAX: Duration = Duration::from_micros(300);
/// Pause after an operation that no node took.
const REFUSAL_PAUSE: Duration = Duration::from_millis(20);

/// Calls until the session ends; returns what was recorded.
pub(crate) fn mix(session: &Arc<Session>, number: usize) -> History {
    let settings = &session.settings;
    let client = session.client(|_| ()).expect("the command line has checked endpoints and time limits");
    let seed = settings.seed.wrapping_add(0x6d69_7865_6400 + number as u64);
    let chance = ChaCha8Rng::seed_from_u64(seed);
    let direct = (number % 2 == 1).then(|| Direct::new(&settings.endpoints));
    let mut mixer = Mixer { session, client, direct, number, chance, seen: [0; KEYS as usize], keys: 0, history: History::default() };
    while session.is_writing() {
        let operation = session.next_mixed();
        if operation >= OPERATIONS_MAX {
            std::thread::sleep(REFUSAL_PAUSE);
        } else {
            mixer.call_once(operation);
        }
    }
    mixer.history
}

struct Mixer<'a> {
    session: &'a Session,
    client: Client,
    /// Of a client that asks nodes at random.
    direct: Option<Direct>,
    number: usize,
    chance: ChaCha8Rng,
    /// The newest version that this client has seen of each key in use; makes compare-and-sets that may succeed.
    seen: [u64; KEYS as usize],
    /// Which keys are in use.
    keys: u64,
    history: History,
}

impl Mixer<'_> {
    fn call_once(&mut self, operation: u64) {
        let keys = operation / OPERATIONS_PER_KEYS;
        if keys != self.keys {
            (self.keys, self.seen) = (keys, [0; KEYS as usize]);
        }
        let place = self.chance.random_range(0..KEYS);
        let key = name(&self.session.settings, keys * KEYS + place);
        let value = || format!("mixed_{operation}").into_bytes();
        let node = self.chance.random_range(0..self.session.settings.endpoints.len() as u64) as usize;
        let is_reader = self.number % 4 == 1;
        let only_reads = is_reader || self.direct.as_ref().is_some_and(|direct| !direct.expects_answer(node));
        let call = match self.chance.random_range(0..10u32) {
            _ if only_reads => Call::Get,
            0..3 => Call::Put { value: value() },
            3..6 => Call::CompareAndSet { expected: self.seen[place as usize], value: value() },
            6 => Call::Delete,
            _ => Call::Get,
        };
        let invoked = self.session.microseconds();
        let answer = self.perform(node, &key, &call);
        let at = self.session.microseconds();
        match &answer {
            Some(Answer::Written { version } | Answer::Found { version: Some(version), .. } | Answer::Conflict { current: version }) => {
                self.seen[place as usize] = *version;
            }
            Some(Answer::Absent | Answer::Deleted { .. }) => self.seen[place as usize] = 0,
            _ => {}
        }
        let refused = answer == Some(Answer::Refused);
        if answer.is_some() && !refused {
            self.session.count_answer();
        }
        let returned = answer.map(|answer| Returned { at, answer });
        self.history.push(Operation { process: self.number as u32, key, invoked, call, returned });
        let longest = if is_reader { READER_PAUSE_MAX } else { PAUSE_MAX };
        let pause = Duration::from_micros(self.chance.random_range(0..longest.as_micros() as u64));
        // A random node that does not lead is no reason to wait: another one may.
        std::thread::sleep(if refused && self.direct.is_none() { REFUSAL_PAUSE } else { pause });
    }

    /// Carries one operation to an end; at this node, if this client asks nodes at random. `None`: its outcome was not learned.
    fn perform(&mut self, node: usize, key: &[u8], call: &Call) -> Option<Answer> {
        if let Some(direct) = &mut self.direct {
            return direct.perform(node, key, call);
        }
        let result = match call {
            Call::Put { value } => self.client.set(key, value).map(|version| Answer::Written { version }),
            Call::Get => self.client.get_versioned(key).map(found),
            Call::Delete => self.client.delete(key).map(|version| version.map_or(Answer::Absent, |version| Answer::Deleted { version })),
            Call::CompareAndSet { expected, value } => {
                self.client.compare_and_set(key, *expected, value).map(|version| Answer::Written { version })
            }
        };
        match result {
            Ok(answer) => Some(answer),
            Err(Error::Conflict { current }) => Some(Answer::Conflict { current }),
            Err(Error::Unknown { .. }) => None,
            Err(_) => Some(Answer::Refused),
        }
    }
}

fn found(found: Option<(u64, Vec<u8>)>) -> Answer {
    found.map_or(Answer::Absent, |(version, value)| Answer::Found { version: Some(version), value })
}

fn name(settings: &Settings, number: u64) -> Vec<u8> {
    format!("{}-mixed_{number}", settings.prefix).into_bytes()
}

/// The keys of a history, each once.
pub(crate) fn keys(history: &History) -> BTreeSet<Vec<u8>> {
    history.operations().iter().map(|operation| operation.key.clone()).collect()
}

/// Reads a key after the clients have stopped, and records it.
pub(crate) fn read_at_the_end(history: &mut History, client: &mut Client, key: &[u8], started: Instant) -> Result<(), Error> {
    let invoked = microseconds(started);
    let answer = found(client.get_versioned(key)?);
    let returned = Some(Returned { at: microseconds(started), answer });
    history.push(Operation { process: u32::MAX, key: key.to_vec(), invoked, call: Call::Get, returned });
    Ok(())
}

/// The clock of the history.
pub(crate) fn microseconds(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Writes a history as one JSON object a line: `process`, `key`, `invoked` and `returned` (microseconds; null if the outcome is not
/// known), `call` with its `value` or `expected`, `answer` with its `version` or `value`.
pub(crate) fn write_history(history: &History, path: &Path) -> Result<(), ProgramError> {
    let write = || {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        for operation in history.operations() {
            writeln!(file, "{}", json(operation))?;
        }
        file.flush()
    };
    write().map_err(|error| ProgramError::local(format!("write the history to {}", path.display()), error))
}

fn json(operation: &Operation) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut object = json!({ "process": operation.process, "key": text(&operation.key), "invoked": operation.invoked });
    object["returned"] = operation.returned.as_ref().map_or(Value::Null, |returned| returned.at.into());
    let (call, parameters) = match &operation.call {
        Call::Put { value } => ("SET", json!({ "value": text(value) })),
        Call::Get => ("GET", json!({})),
        Call::Delete => ("DEL", json!({})),
        Call::CompareAndSet { expected, value } => ("CAS", json!({ "expected": expected, "value": text(value) })),
    };
    object["call"] = call.into();
    object["parameters"] = parameters;
    object["answer"] = operation.returned.as_ref().map_or(Value::Null, |returned| match &returned.answer {
        Answer::Written { version } => json!({ "written": version }),
        Answer::Found { version, value } => json!({ "found": text(value), "version": version }),
        Answer::Absent => "absent".into(),
        Answer::Deleted { version } => json!({ "deleted": version }),
        Answer::Conflict { current } => json!({ "conflict": current }),
        Answer::Refused => "refused".into(),
    });
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_written_line_by_line() {
        let key = b"k".to_vec();
        let call = Call::CompareAndSet { expected: 3, value: b"v".to_vec() };
        let returned = Some(Returned { at: 9, answer: Answer::Conflict { current: 4 } });
        let done = Operation { process: 1, key: key.clone(), invoked: 7, call, returned };
        let open = Operation { process: 2, key, invoked: 8, call: Call::Delete, returned: None };
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("history");
        write_history(&[done, open].into_iter().collect(), &path).expect("it can be written");
        let text = std::fs::read_to_string(&path).expect("it was written");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines[0]["parameters"]["expected"], 3);
        assert_eq!(lines[0]["answer"]["conflict"], 4);
        assert_eq!((&lines[1]["returned"], &lines[1]["answer"]), (&Value::Null, &Value::Null));
    }
}
