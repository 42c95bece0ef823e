//! A closed loop against ZooKeeper, in its own wire protocol: a thread and a connection for each client, spread over the nodes. It does to
//! ZooKeeper what `apexkv-client bench` does to ApexKV, with the same sizes. Reads there are local to a node and may be stale.

#![allow(clippy::big_endian_bytes)] // So does ZooKeeper.

use clap::{Parser, ValueEnum};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Numbers of ZooKeeper's requests.
const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
/// Its error for a node that is there already.
const NODE_EXISTS: i32 = -110;
/// Longest answer that is taken.
const ANSWER_MAX: usize = 16 << 20;
/// Bytes of an answer before its payload: request, transaction, error.
const ANSWER_HEADER: usize = 16;

/// Loads a ZooKeeper ensemble and reports operations per second and latencies.
#[derive(Clone, Debug, Parser)]
#[command(name = "zookeeper-load", max_term_width = 110)]
struct Arguments {
    /// Client addresses of the nodes
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// What the requests do; create makes the keys that the other two use
    #[arg(long, value_enum)]
    operation: Operation,
    /// Connections, each with a thread of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Distinct keys
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// How long is measured
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How long runs before it, unmeasured
    #[arg(long, default_value_t = 1)]
    warmup: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Operation {
    Create,
    Set,
    Get,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if arguments.operation == Operation::Create { create(&arguments) } else { measure(&arguments) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be gone; the exit code says it too.
            let _ = writeln!(io::stderr(), "zookeeper-load: {error}");
            ExitCode::from(7)
        }
    }
}

/// A connection with a session.
struct Session {
    socket: TcpStream,
    request: i32,
    output: Vec<u8>,
    answer: Vec<u8>,
}

/// A length of four bytes, then the bytes themselves.
fn put_bytes(output: &mut Vec<u8>, bytes: &[u8]) {
    output.extend((bytes.len() as i32).to_be_bytes());
    output.extend(bytes);
}

/// 16 bytes, as the keys of the other loads.
fn path(key: u64) -> Vec<u8> {
    format!("/k/{key:013}").into_bytes()
}

impl Session {
    fn open(endpoint: &str) -> io::Result<Session> {
        let socket = TcpStream::connect(endpoint)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(15)))?;
        let mut session = Session { socket, request: 0, output: Vec::new(), answer: Vec::new() };
        // Protocol 0, nothing seen yet, 30 s of session, no former session and no password, not read-only.
        session.output.extend([0; 4 + 8]);
        session.output.extend(30_000i32.to_be_bytes());
        session.output.extend([0; 8]);
        put_bytes(&mut session.output, &[0; 16]);
        session.output.push(0);
        session.exchange()?;
        Ok(session)
    }

    /// Sends what is in the output as one frame, and takes the next frame.
    fn exchange(&mut self) -> io::Result<()> {
        let mut frame = Vec::with_capacity(self.output.len() + 4);
        put_bytes(&mut frame, &self.output);
        self.socket.write_all(&frame)?;
        let mut length = [0; 4];
        self.socket.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > ANSWER_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer announces {length} bytes")));
        }
        self.answer.resize(length, 0);
        self.socket.read_exact(&mut self.answer)
    }

    fn begin(&mut self, operation: i32, path: &[u8]) {
        self.request += 1;
        self.output.clear();
        self.output.extend(self.request.to_be_bytes());
        self.output.extend(operation.to_be_bytes());
        put_bytes(&mut self.output, path);
    }

    /// The error's number that the answer carries; 0 is success.
    fn call(&mut self) -> io::Result<i32> {
        self.exchange()?;
        let bytes = self.answer.get(12..ANSWER_HEADER).and_then(|bytes| bytes.try_into().ok());
        bytes.map(i32::from_be_bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer without a header"))
    }

    /// Makes a node with all rights for everybody; one that is there is as good.
    fn create(&mut self, path: &[u8], value: &[u8]) -> io::Result<()> {
        self.begin(CREATE, path);
        put_bytes(&mut self.output, value);
        self.output.extend(1i32.to_be_bytes());
        self.output.extend(31i32.to_be_bytes());
        put_bytes(&mut self.output, b"world");
        put_bytes(&mut self.output, b"anyone");
        self.output.extend(0i32.to_be_bytes());
        match self.call()? {
            0 | NODE_EXISTS => Ok(()),
            error => Err(io::Error::other(format!("create failed with ZooKeeper's error {error}"))),
        }
    }

    /// Whether it succeeded.
    fn perform(&mut self, operation: Operation, key: u64, value: &[u8]) -> io::Result<bool> {
        match operation {
            Operation::Create => self.create(&path(key), value).map(|()| true),
            Operation::Set => {
                self.begin(SET_DATA, &path(key));
                put_bytes(&mut self.output, value);
                self.output.extend((-1i32).to_be_bytes());
                Ok(self.call()? == 0)
            }
            Operation::Get => {
                self.begin(GET_DATA, &path(key));
                self.output.push(0);
                Ok(self.call()? == 0 && self.answer.len() >= ANSWER_HEADER + value.len())
            }
        }
    }
}

fn endpoint(arguments: &Arguments, connection: u32) -> &str {
    &arguments.endpoints[connection as usize % arguments.endpoints.len()]
}

fn value(arguments: &Arguments) -> Vec<u8> {
    (0..arguments.value_size).map(|number| (number * 31 + number / 7) as u8).collect()
}

/// Makes all keys, each connection its share.
fn create(arguments: &Arguments) -> io::Result<()> {
    Session::open(&arguments.endpoints[0])?.create(b"/k", b"")?;
    thread::scope(|scope| {
        let share = |connection: u32| -> io::Result<()> {
            let mut session = Session::open(endpoint(arguments, connection))?;
            let value = value(arguments);
            (u64::from(connection)..arguments.keys)
                .step_by(arguments.connections as usize)
                .try_for_each(|key| session.create(&path(key), &value))
        };
        let threads: Vec<_> = (0..arguments.connections).map(|connection| scope.spawn(move || share(connection))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a thread panicked"))?)
    })
}

/// Latencies in nanoseconds of what succeeded in the window, and the number of failures.
fn load(arguments: &Arguments, mut session: Session, connection: u32, begin: Instant, end: Instant) -> io::Result<(Vec<u64>, u64)> {
    let (value, mut latencies, mut failures) = (value(arguments), Vec::new(), 0);
    let mut chance = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(u64::from(connection) + 1);
    loop {
        // Xorshift: fast, and good enough to pick keys.
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let sent = Instant::now();
        let succeeded = session.perform(arguments.operation, chance % arguments.keys, &value)?;
        let now = Instant::now();
        if now >= end {
            return Ok((latencies, failures));
        }
        if now >= begin {
            if succeeded { latencies.push((now - sent).as_nanos() as u64) } else { failures += 1 }
        }
    }
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let sessions: Vec<Session> =
        (0..arguments.connections).map(|connection| Session::open(endpoint(arguments, connection))).collect::<io::Result<_>>()?;
    let begin = Instant::now() + Duration::from_secs(arguments.warmup);
    let end = begin + Duration::from_secs(arguments.seconds);
    let (mut latencies, mut failures) = (Vec::new(), 0);
    thread::scope(|scope| -> io::Result<()> {
        let threads: Vec<_> = (0u32..)
            .zip(sessions)
            .map(|(connection, session)| scope.spawn(move || load(arguments, session, connection, begin, end)))
            .collect();
        for thread in threads {
            let (own, failed) = thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
            latencies.extend(own);
            failures += failed;
        }
        Ok(())
    })?;
    latencies.sort_unstable();
    let quantile = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).map_or(0.0, |time| *time as f64 / 1_000.0);
    let rate = (latencies.len() as f64 / arguments.seconds as f64).round();
    let object = json!({
        "connections": arguments.connections, "operations": latencies.len(), "operations_per_second": rate,
        "p50_us": quantile(0.5), "p99_us": quantile(0.99), "failures": failures,
    });
    writeln!(io::stdout(), "{object}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Takes a frame, and answers with one that carries this error's number.
    fn answer(socket: &mut TcpStream, error: i32) -> Vec<u8> {
        let mut length = [0; 4];
        socket.read_exact(&mut length).expect("a frame");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        socket.read_exact(&mut frame).expect("the whole frame");
        let mut response = vec![0; 12];
        response.extend(error.to_be_bytes());
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, &response);
        socket.write_all(&bytes).expect("an open socket");
        frame
    }

    #[test]
    fn requests_have_the_layout_of_the_protocol() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = listener.local_addr().expect("a bound listener").to_string();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a connection");
            [0, 0, NODE_EXISTS, -101].map(|error| answer(&mut socket, error))
        });
        let mut session = Session::open(&endpoint).expect("a session");
        assert!(session.perform(Operation::Set, 7, b"v").expect("an answer"));
        assert!(session.perform(Operation::Create, 7, b"v").expect("one that is there is as good"));
        assert!(!session.perform(Operation::Get, 7, b"v").expect("an answer"));
        let [connect, set, _, get] = server.join().expect("no panic");
        assert_eq!(connect.len(), 45);
        assert_eq!(set, b"\0\0\0\x01\0\0\0\x05\0\0\0\x10/k/0000000000007\0\0\0\x01v\xff\xff\xff\xff");
        assert_eq!(get, b"\0\0\0\x03\0\0\0\x04\0\0\0\x10/k/0000000000007\0");
    }
}
