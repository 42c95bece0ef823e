//! Caps and time limits, clients that misbehave, and stopping.

use super::harness::*;
use apexkv::server::clients::ClientLimits;
use apexkv_client::protocol::Command::{Get, Ping, Set};
use apexkv_client::protocol::{Extension, Status, encode_extended_request, encode_request};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

#[test]
fn a_client_that_never_reads_is_cut_and_others_go_on() {
    let limits = ClientLimits { stall_time: Duration::from_millis(300), unsent_bytes: 1 << 20, ..ClientLimits::default() };
    let server = Server::with(limits);
    let mut good = server.connect();
    let value = vec![7; 1 << 20];
    version(&good.call(Set, b"big", &value));
    let mut greedy = server.connect();
    for _ in 0..200 {
        greedy.queue(Get, b"big", b"");
    }
    greedy.flush();
    eventually("the greedy client is cut", || {
        assert!(good.call(Get, b"big", b"") == ok(&value), "another client is served meanwhile");
        server.metrics.connections_cut.get() == 1
    });
    eventually("its connection is over", || server.metrics.connections_open.get() == 1);
    assert!(server.metrics.client_bytes_out.get() < 400 << 20);
}

#[test]
fn a_client_that_reads_slowly_is_not_cut() {
    let limits = ClientLimits { stall_time: Duration::from_millis(400), ..ClientLimits::default() };
    let server = Server::with(limits);
    let mut client = server.connect();
    let value = vec![7; 1 << 20];
    version(&client.call(Set, b"big", &value));
    for _ in 0..16 {
        client.queue(Get, b"big", b"");
    }
    client.flush();
    let began = Instant::now();
    for _ in 0..16 {
        assert!(client.receive() == ok(&value));
        std::thread::sleep(Duration::from_millis(60));
    }
    assert!(began.elapsed() > Duration::from_millis(800), "longer than the limit for no progress");
    assert_eq!(server.metrics.connections_cut.get(), 0);
}

#[test]
fn a_frame_must_be_complete_in_time_however_it_trickles() {
    let limits = ClientLimits { frame_time: Duration::from_millis(300), ..ClientLimits::default() };
    let server = Server::with(limits);
    let mut idle = server.connect();
    let mut client = server.connect();
    let mut frame = Vec::new();
    encode_request(&mut frame, Set, b"key", &[&[0; 1000]]);
    client.queue(Ping, b"", b"before").flush();
    assert_eq!(client.receive(), ok(b"before"));
    let began = Instant::now();
    let mut sender = client.socket.try_clone().expect("a second handle");
    let trickle = std::thread::spawn(move || {
        for byte in frame {
            if sender.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    client.wait_for_end();
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    trickle.join().expect("the sender ends");
    assert_eq!(idle.call(Ping, b"", b"still"), ok(b"still"), "idle between frames is fine");
}

#[test]
fn a_connection_over_the_cap_gets_busy_to_its_first_frame() {
    let limits = ClientLimits { connections_max: 2, drain_time: Duration::from_millis(300), ..ClientLimits::default() };
    let server = Server::with(limits);
    let (mut first, mut second) = (server.connect(), server.connect());
    assert_eq!((first.call(Ping, b"", b""), second.call(Ping, b"", b"")), (ok(b""), ok(b"")));
    let mut third = server.connect();
    let refusal = text(third.call(Set, b"k", &[0; 1000]), Status::Busy);
    assert!(refusal.contains("--max-connections"), "{refusal}");
    third.expect_end();
    let mut fourth = server.connect();
    fourth.queue_extended(Ping, b"", b"", Extension { request_id: 5, ..Extension::default() }).flush_slowly();
    let (refusal, id) = fourth.receive_extended();
    assert!(text(refusal, Status::Busy).contains("try again") && id == 5);
    fourth.expect_end();
    let mut silent = server.connect();
    silent.expect_end();
    drop(first);
    eventually("a place is free", || server.metrics.connections_open.get() == 1);
    assert_eq!(server.connect().call(Ping, b"", b"in"), ok(b"in"));
}

#[test]
fn bytes_in_flight_over_the_cap_are_busy() {
    let limits = ClientLimits { in_flight_bytes: 10_000, ..ClientLimits::default() };
    let server = Server::with(limits);
    server.mode(Mode::Hold);
    let (mut first, mut second) = (server.connect(), server.connect());
    // A request of any size fits when nothing waits.
    first.queue(Set, b"large", &[0; 50_000]).flush();
    eventually("it reaches the Raft thread", || server.metrics.client_batches.get() == 1);
    second.queue(Set, b"small", b"").queue(Get, b"small", b"").queue(Ping, b"", b"fine").flush();
    text(second.receive(), Status::Busy);
    text(second.receive(), Status::Busy);
    assert_eq!(second.receive(), ok(b"fine"));
    server.mode(Mode::Prompt);
    version(&first.receive());
    version(&second.call(Set, b"small", b""));
}

#[test]
fn one_connection_cannot_pile_up_requests() {
    let limits = ClientLimits { unanswered_requests: 100, ..ClientLimits::default() };
    let server = Server::with(limits);
    server.mode(Mode::Hold);
    let mut client = server.connect();
    let mut sender = client.socket.try_clone().expect("a second handle");
    let mut frames = Vec::new();
    (0..20_000).for_each(|_| encode_request(&mut frames, Set, b"k", &[b"v"]));
    let writing = std::thread::spawn(move || sender.write_all(&frames));
    server.next_batch();
    assert!(server.metrics.requests_set.get() < 20_000, "it stops reading at the cap");
    server.mode(Mode::Prompt);
    for _ in 0..20_000 {
        version(&client.receive());
    }
    writing.join().expect("the writer ends").expect("all was taken");
}

#[test]
fn stopping_lets_open_requests_finish_and_closes_everything() {
    let mut server = Server::start();
    let (mut waiting, mut idle) = (server.connect(), server.connect());
    assert_eq!(idle.call(Ping, b"", b""), ok(b""));
    server.mode(Mode::Hold);
    waiting.queue(Set, b"k", b"v").flush();
    server.next_batch();
    let mut port = server.port.take().expect("it runs");
    let stopping = std::thread::spawn(move || {
        let began = Instant::now();
        port.stop();
        began.elapsed()
    });
    idle.expect_end();
    server.mode(Mode::Prompt);
    version(&waiting.receive());
    waiting.expect_end();
    let took = stopping.join().expect("it stops");
    assert!(took < Duration::from_secs(3), "stopping took {took:?}");
    assert!(std::net::TcpStream::connect(server.address).is_err(), "nobody listens any more");
}

#[test]
fn stopping_does_not_wait_for_ever() {
    let limits = ClientLimits { stop_time: Duration::from_millis(200), ..ClientLimits::default() };
    let mut server = Server::with(limits);
    server.mode(Mode::Hold);
    let mut client = server.connect();
    client.queue(Set, b"k", b"v").queue(Get, b"k", b"").flush();
    server.next_batch();
    let began = Instant::now();
    drop(server.port.take());
    assert!(began.elapsed() < Duration::from_secs(3), "stopping took {:?}", began.elapsed());
    client.wait_for_end();
    assert_eq!(server.metrics.connections_open.get(), 0);
}

#[test]
fn vanished_clients_leave_nothing_behind() {
    let server = Server::start();
    server.mode(Mode::Hold);
    for round in 0..50 {
        let mut client = server.connect();
        client.queue(Set, b"k", &[0; 5000]).queue(Get, b"k", b"").flush();
        if round % 2 == 0 {
            let mut partial = Vec::new();
            encode_extended_request(&mut partial, Set, b"key", &[b"value"], Extension::default());
            client.queue_bytes(&partial[..30]).flush();
        }
    }
    eventually("all are in", || server.metrics.client_batches.get() == 50);
    server.mode(Mode::Prompt);
    eventually("all connections are over", || server.metrics.connections_open.get() == 0);
    assert_eq!(server.connect().call(Ping, b"", b""), ok(b""));
}

/// The value was whole when it was checked, and part of it has left by the time it changes.
#[test]
fn a_large_value_that_changes_while_it_is_sent_never_arrives_whole() {
    let server = Server::start();
    let mut client = server.connect();
    // More than the sockets of both sides take, so that the end is still on the disk when the beginning has arrived.
    let mut value = vec![7; 16 << 20];
    let marker = b"the very end of the value";
    value.extend_from_slice(marker);
    value.drain(..marker.len());
    version(&client.call(Set, b"large", &value));
    client.queue(Get, b"large", b"").flush();
    eventually("the response is held up", || server.metrics.client_sends_blocked.get() > 0);
    server.rot(marker);
    let mut received = Vec::new();
    // The end of the stream comes in order or as a reset.
    let _ = client.socket.read_to_end(&mut received);
    assert!(received.len() < 5 + value.len(), "all {} bytes arrived", received.len());
    assert!(received.len() > 5 && received[5] == value[0], "its beginning had left before");
    assert_eq!(server.connect().call(Ping, b"", b"others go on"), ok(b"others go on"));
}
