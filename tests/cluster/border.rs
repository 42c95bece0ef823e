//! What strangers do to a node's ports: crowds, garbage, resets, requests that trickle and answers that nobody takes, all at once. The
//! node lives, its memory stays bounded, and other clients notice nothing.

use crate::harness::Cluster;
use crate::node::{Node, PATIENCE};
use apexkv_client::protocol::{Command, Extension, encode_extended_request, encode_request};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long the strangers are at it.
const SIEGE: Duration = Duration::from_secs(20);
const IDLE: usize = 1000;
const NEVER_READING: usize = 100;
/// Answers of this size wait for each of those that never read; more of them than any socket buffer takes.
const ANSWER_BYTES: usize = 1 << 20;
const ANSWERS: usize = 24;
const RESETS_PER_SECOND: u32 = 100;
/// By how much the strangers may make a node's own memory grow, in bytes.
const GROWTH_MAX: u64 = 64 << 20;
/// A client that behaves waits no longer than this, on a machine that is busy with everything else.
const PROMPT: Duration = Duration::from_secs(5);

fn request(command: Command, key: &[u8], value: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_request(&mut frame, command, key, value);
    frame
}

fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).expect("the listener's queue has room")
}

/// Connections that have been served once and then say nothing.
fn idle_crowd(node: &Node) -> Vec<TcpStream> {
    let serve = |_| {
        let mut socket = connect(&node.client_address);
        socket.write_all(&request(Command::Ping, b"", &[])).expect("a fresh connection takes a request");
        socket.read_exact(&mut [0; 5]).expect("a PING is answered");
        socket
    };
    (0..IDLE).map(serve).collect()
}

/// Connections that ask for many large values and take none.
fn never_reading_crowd(node: &Node) -> Vec<TcpStream> {
    let gets = request(Command::Get, b"large", &[]).repeat(ANSWERS);
    let ask = |_| {
        let mut socket = connect(&node.client_address);
        socket.write_all(&gets).expect("requests this small fit the socket");
        socket
    };
    (0..NEVER_READING).map(ask).collect()
}

/// Connects and resets at a steady rate: half of them in the middle of a request.
fn reset(address: &str, over: &AtomicBool) {
    let begun = Instant::now();
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        let mut socket = connect(address);
        // Unread input at the other side, or a linger of zero, turns the close into a reset.
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("an option of every socket");
        if count % 2 == 0 {
            let _ = socket.write_all(&request(Command::Set, b"key", &[b"value"])[..11]);
        }
        drop(socket);
        count += 1;
        thread::sleep((begun + Duration::from_secs(1) * count / RESETS_PER_SECOND).saturating_duration_since(Instant::now()));
    }
}

/// A request that comes byte by byte, a second apart, until the node has had enough; then the next.
fn trickle(address: &str, over: &AtomicBool) {
    let frame = request(Command::Set, &[b'k'; 1000], &[b"value"]);
    while !over.load(Ordering::Relaxed) {
        let mut socket = connect(address);
        for byte in &frame {
            if over.load(Ordering::Relaxed) || socket.write_all(&[*byte]).is_err() {
                break;
            }
            thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Connections full of garbage: random bytes, frames cut anywhere, lengths that promise gigabytes.
fn garbage(address: &str, random: &mut ChaCha8Rng, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let mut bytes = vec![0; random.random_range(1..5000)];
        random.fill_bytes(&mut bytes);
        match random.random_range(0..4) {
            0 => bytes.splice(..0, [random.random(), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).for_each(drop),
            1 => {
                let extension = Extension { request_id: random.random(), session: 0, sequence: 0, deadline_ms: random.random(), crc: 0 };
                let mut frame = Vec::new();
                encode_extended_request(&mut frame, Command::Set, b"key", &[&bytes], extension);
                frame.truncate(random.random_range(0..frame.len()));
                bytes = frame;
            }
            _ => {}
        }
        let mut socket = connect(address);
        let _ = socket.set_read_timeout(Some(Duration::from_millis(500)));
        if socket.write_all(&bytes).and_then(|()| socket.shutdown(Shutdown::Write)).is_ok() {
            // Whatever comes back; the end, or patience, ends it.
            let _ = socket.read_to_end(&mut Vec::new());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A client that behaves: each write and read succeeds, promptly.
fn behave(cluster: &Cluster, over: &AtomicBool) -> u64 {
    let mut client = cluster.client(PROMPT);
    let mut number = 0u64;
    while !over.load(Ordering::Relaxed) {
        let (key, value) = (format!("key {}", number % 50), format!("value {number}"));
        client.set(key.as_bytes(), value.as_bytes()).unwrap_or_else(|error| panic!("write {number}: {error}"));
        let read = client.get(key.as_bytes()).unwrap_or_else(|error| panic!("read {number}: {error}"));
        assert_eq!(read, Some(value.into_bytes()), "read {number}");
        number += 1;
    }
    number
}

#[test]
fn a_siege_of_strangers_costs_little_memory_and_no_service() {
    let seed: u64 = std::env::var("APEXKV_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("APEXKV_SEED={seed}");
    let mut cluster = Cluster::new(3).with_flags(&["--election-timeout", "3s"]);
    cluster.start_all();
    let (leader, before) = cluster.wait_leader();
    cluster.client(PATIENCE).set(b"large", &vec![b'x'; ANSWER_BYTES]).expect("the cluster works");
    let node = &cluster.nodes[leader];
    let over = AtomicBool::new(false);
    // What ordinary work costs is not the strangers' doing.
    thread::scope(|scope| {
        let client = scope.spawn(|| behave(&cluster, &over));
        thread::sleep(Duration::from_secs(1));
        over.store(true, Ordering::Relaxed);
        client.join().expect("the cluster works");
    });
    over.store(false, Ordering::Relaxed);
    let quiet = node.anonymous_bytes();
    let idle = idle_crowd(node);
    let each = node.anonymous_bytes().saturating_sub(quiet) / IDLE as u64;
    eprintln!("an idle connection: {each} bytes");

    let mut peak = 0;
    thread::scope(|scope| {
        let client = scope.spawn(|| behave(&cluster, &over));
        let (client_port, peer_port) = (&node.client_address, &node.id);
        let admin_port =
            format!("127.0.0.1:{}", node.id.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).expect("a port") + 2000);
        for (number, address) in [client_port.clone(), peer_port.clone(), admin_port].into_iter().enumerate() {
            let (mut random, over) = (ChaCha8Rng::seed_from_u64(seed + number as u64), &over);
            scope.spawn(move || garbage(&address, &mut random, over));
        }
        scope.spawn(|| reset(client_port, &over));
        scope.spawn(|| trickle(client_port, &over));
        let never_reading = never_reading_crowd(node);
        let end = Instant::now() + SIEGE;
        while Instant::now() < end && !client.is_finished() {
            peak = peak.max(node.anonymous_bytes());
            thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::Relaxed);
        let served = client.join().expect("a client that behaves is served");
        eprintln!("{served} writes and reads; own memory {} KiB before, {} KiB at most", quiet >> 10, peak >> 10);
        assert!(served > 20, "only {served} writes and reads in {SIEGE:?}");
        drop((idle, never_reading));
    });
    assert!(peak.saturating_sub(quiet) < GROWTH_MAX, "its own memory grew from {quiet} to {peak} bytes");
    let (leader_after, after) = cluster.wait_leader();
    assert_eq!((leader_after, after.number("term")), (leader, before.number("term")), "the leader stays");
    assert!(cluster.nodes.iter_mut().all(Node::is_running));
}

/// A pipe that nobody reads, full to the brim: its end to write to, and the one that keeps it alive.
fn stopped_sink(path: &std::path::Path) -> (File, File) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0)
        .expect("the scratch directory is writable");
    // Opened for both, so that neither open waits for the other side.
    let keeper = OpenOptions::new().read(true).write(true).open(path).expect("the pipe was just made");
    let mut sink = OpenOptions::new().append(true).open(path).expect("the pipe has a reader");
    let filler = OpenOptions::new().append(true).open(path).expect("the pipe has a reader");
    let flags = rustix::fs::fcntl_getfl(&filler).expect("a pipe has flags");
    rustix::fs::fcntl_setfl(&filler, flags | rustix::fs::OFlags::NONBLOCK).expect("a pipe may be non-blocking");
    while (&filler).write(&[b'.'; 4096]).is_ok() {}
    while (&filler).write(b".").is_ok() {}
    sink.flush().expect("nothing to flush");
    (sink, keeper)
}

#[test]
fn nodes_whose_log_nobody_takes_serve_and_stop() {
    let mut cluster = Cluster::new(3).with_flags(&["--log-level", "trace"]);
    let mut keepers = Vec::new();
    let scratch = cluster.scratch().to_path_buf();
    for (number, node) in cluster.nodes.iter_mut().enumerate() {
        let (sink, keeper) = stopped_sink(&scratch.join(format!("sink-{number}")));
        node.sink = Some(sink);
        keepers.push(keeper);
    }
    cluster.start_all();
    let mut client = cluster.client(PATIENCE);
    for number in 0..200 {
        client.set(b"key", format!("value {number}").as_bytes()).expect("the cluster works");
    }
    let (leader, _) = cluster.wait_leader();
    cluster.nodes[leader].kill();
    cluster.client(PATIENCE).set(b"key", b"after").expect("a majority works");
    cluster.nodes[leader].start();
    cluster.nodes[leader].wait_status("answers again", |_| true);
    cluster.stop_all();
}
