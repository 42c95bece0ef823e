//! A cluster without Raft: nodes of this process that share one map, of which one leads. It can be told to break its promises, so that
//! the verdict has something to find, and to cut connections, so that the load has something to survive.

use apexkv_client::protocol::{Command, RequestHeader, Status, encode_response};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// What the nodes share.
#[derive(Default)]
struct State {
    map: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    version: u64,
    leader: Option<usize>,
    /// Every so many writes are acknowledged and forgotten.
    forget_every: Option<u64>,
    /// Reads show what was there before the last write of the key.
    stale_reads: bool,
    before: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    /// Every so many writes take effect, and the connection breaks instead of the answer.
    cut_every: Option<u64>,
    pid: u32,
    connections: Vec<(usize, TcpStream)>,
    writes: u64,
}

/// The cluster; its threads end with the test process.
#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    addresses: Vec<String>,
}

impl Fake {
    /// Nodes on free ports; the first one leads.
    pub(crate) fn start(nodes: usize) -> Fake {
        let listeners: Vec<TcpListener> = (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().expect("bound").to_string()).collect();
        let state = Arc::new(Mutex::new(State { leader: Some(0), ..State::default() }));
        let fake = Fake { state, addresses };
        for (node, listener) in listeners.into_iter().enumerate() {
            let fake = fake.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let fake = fake.clone();
                    thread::spawn(move || fake.serve(node, stream));
                }
            });
        }
        fake
    }

    /// The value of `--endpoints`.
    pub(crate) fn endpoints(&self) -> String {
        self.addresses.join(",")
    }

    /// A node's address.
    pub(crate) fn address(&self, node: usize) -> &str {
        &self.addresses[node]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the fake panics")
    }

    /// Acknowledge every so many writes without keeping them.
    pub(crate) fn forget_every(&self, count: u64) {
        self.state().forget_every = Some(count);
    }

    /// Let every so many writes take effect without an answer.
    pub(crate) fn cut_every(&self, count: u64) {
        self.state().cut_every = Some(count);
    }

    /// Answer reads with the value before the last write.
    pub(crate) fn make_reads_stale(&self) {
        self.state().stale_reads = true;
    }

    /// What STATUS tells as the process id.
    pub(crate) fn set_pid(&self, pid: u32) {
        self.state().pid = pid;
    }

    /// From now on this node leads, or none; the connections of the one before break.
    pub(crate) fn set_leader(&self, leader: Option<usize>) {
        let mut state = self.state();
        let old = std::mem::replace(&mut state.leader, leader);
        state.connections.retain(|(node, connection)| {
            if Some(*node) == old {
                // It may be gone already.
                let _ = connection.shutdown(Shutdown::Both);
            }
            Some(*node) != old
        });
    }

    /// Keys that are stored.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.state().map.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    /// Writes acknowledged or cut so far.
    pub(crate) fn writes(&self) -> u64 {
        self.state().writes
    }

    fn serve(&self, node: usize, mut stream: TcpStream) {
        if let Ok(copy) = stream.try_clone() {
            self.state().connections.push((node, copy));
        }
        // The end of the connection is the end of the conversation.
        while let Some((command, key, value)) = read_request(&mut stream) {
            let Some((status, payload)) = self.answer(node, command, key, &value) else {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            };
            let mut frame = Vec::new();
            encode_response(&mut frame, status, &[&payload], None);
            if stream.write_all(&frame).is_err() {
                return;
            }
        }
    }

    /// Status and payload; `None` breaks the connection.
    fn answer(&self, node: usize, command: Command, key: Vec<u8>, value: &[u8]) -> Option<(Status, Vec<u8>)> {
        let mut state = self.state();
        if command == Command::Status {
            return Some((Status::Ok, self.status(node, &state).into_bytes()));
        }
        if state.leader != Some(node) {
            let leader = state.leader.map_or_else(String::new, |leader| self.addresses[leader].clone());
            return Some((Status::NotLeader, leader.into_bytes()));
        }
        match command {
            Command::Set => state.set(key, value),
            Command::Del => Some(match state.map.remove(&key) {
                Some(_) => (Status::Ok, state.next_version().to_le_bytes().to_vec()),
                None => (Status::NotFound, Vec::new()),
            }),
            Command::Getv => {
                let source = if state.stale_reads { &state.before } else { &state.map };
                Some(
                    source.get(&key).map_or((Status::NotFound, Vec::new()), |(version, value)| {
                        (Status::Ok, [&version.to_le_bytes()[..], value].concat())
                    }),
                )
            }
            Command::Cas => {
                let (expected, value) = value.split_at(8);
                let current = state.map.get(&key).map_or(0, |(version, _)| *version);
                match expected == current.to_le_bytes() {
                    true => state.set(key, value),
                    false => Some((Status::Conflict, current.to_le_bytes().to_vec())),
                }
            }
            _ => Some((Status::BadRequest, b"the fake does not know this command".to_vec())),
        }
    }

    fn status(&self, node: usize, state: &State) -> String {
        let role = if state.leader == Some(node) { "leader" } else { "follower" };
        format!(r#"{{"id":"{}","role":"{role}","term":7,"leader":null,"applied_index":1,"pid":{}}}"#, self.addresses[node], state.pid)
    }
}

impl State {
    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn set(&mut self, key: Vec<u8>, value: &[u8]) -> Option<(Status, Vec<u8>)> {
        self.writes += 1;
        let version = self.next_version();
        let due = |every: Option<u64>| every.is_some_and(|every| self.writes.is_multiple_of(every));
        let (forget, cut) = (due(self.forget_every), due(self.cut_every));
        if !forget && let Some(old) = self.map.insert(key.clone(), (version, value.to_vec())) {
            self.before.insert(key, old);
        }
        (!cut).then(|| (Status::Ok, version.to_le_bytes().to_vec()))
    }
}

fn read_request(stream: &mut TcpStream) -> Option<(Command, Vec<u8>, Vec<u8>)> {
    let mut header = [0; 9];
    stream.read_exact(&mut header).ok()?;
    let header = RequestHeader::parse(&header)?;
    let mut key = vec![0; header.key_length as usize];
    let mut value = vec![0; header.value_length as usize];
    stream.read_exact(&mut key).ok()?;
    stream.read_exact(&mut value).ok()?;
    Some((Command::from_byte(header.command)?, key, value))
}
