//! Reads that are looked up before they are confirmed: nothing leaves before the confirmation, order holds, and writes come first.

use super::harness::*;
use apexkv::server::event::Outcome;
use apexkv_client::protocol::Command::{Get, Getv, Ping, Set};
use apexkv_client::protocol::{Extension, Status};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn early() -> Server {
    let server = Server::start();
    server.serve_early();
    server
}

#[test]
fn what_was_looked_up_leaves_when_it_is_confirmed_and_in_its_order() {
    let server = early();
    let mut client = server.connect();
    let written = version(&client.call(Set, b"k", b"old"));
    server.mode(Mode::Hold);
    client.queue(Get, b"k", b"").queue(Get, b"none", b"").flush();
    eventually("the reads are looked up", || server.metrics.client_batches.get() == 2);
    client.queue(Getv, b"k", b"").queue(Ping, b"", b"behind").flush();
    eventually("so is the next one", || server.metrics.requests_ping.get() == 1);
    assert_eq!(server.confirmed(), 0);
    server.mode(Mode::Prompt);
    assert_eq!(client.receive(), ok(b"old"));
    assert_eq!(client.receive(), (Status::NotFound, Vec::new()));
    assert_eq!(client.receive(), ok(&[&written.to_le_bytes()[..], b"old"].concat()));
    assert_eq!(client.receive(), ok(b"behind"));
    assert!(server.confirmed() > 0, "it went through the gate");
}

#[test]
fn what_is_not_confirmed_is_refused_read_by_read() {
    let server = early();
    let mut client = server.connect();
    version(&client.call(Set, b"k", b"secret"));
    for outcome in [Outcome::NotLeader { leader: Some(LEADER.0) }, Outcome::Busy("later".into())] {
        let status = if matches!(outcome, Outcome::Busy(_)) { Status::Busy } else { Status::NotLeader };
        server.mode(Mode::Refuse(outcome));
        let extension = Extension { request_id: 5, ..Default::default() };
        client.queue(Get, b"k", b"").queue_extended(Get, b"k", b"", extension).queue(Get, b"none", b"").flush();
        assert_eq!(client.receive().0, status);
        let ((extended, _), id) = client.receive_extended();
        assert_eq!((extended, id), (status, 5));
        assert_eq!(client.receive().0, status);
    }
}

#[test]
fn a_read_behind_a_write_without_an_answer_is_not_looked_up_early() {
    let server = early();
    let mut client = server.connect();
    server.mode(Mode::HoldWrites);
    client.queue(Set, b"k", b"new").flush();
    server.next_batch();
    client.queue(Get, b"k", b"").flush();
    assert!(server.next_batch().barrier, "it waits for the write as any other");
    server.mode(Mode::Prompt);
    version(&client.receive());
    assert_eq!(client.receive(), ok(b"new"));
    assert_eq!(client.call(Get, b"k", b""), ok(b"new"));
    assert_eq!(server.confirmed(), 2, "the one behind the write, and the one that could be looked up early");
}

#[test]
fn values_of_any_size_are_read() {
    let server = early();
    let mut client = server.connect();
    let seed = 7;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for size in [0, 1, 250, 30_000, 33_000, 70_000, 1 << 20] {
        let value: Vec<u8> = (0..size).map(|_| random.random()).collect();
        version(&client.call(Set, b"k", &value));
        client.queue(Get, b"k", b"").queue(Get, b"k", b"").flush();
        assert_eq!(client.receive(), ok(&value), "seed {seed}, {size} bytes");
        assert_eq!(client.receive(), ok(&value), "seed {seed}, {size} bytes");
    }
}

#[test]
fn a_client_that_goes_away_meanwhile_disturbs_nobody() {
    let server = early();
    let mut client = server.connect();
    version(&client.call(Set, b"k", b"v"));
    server.mode(Mode::Hold);
    for _ in 0..10 {
        let mut gone = server.connect();
        let before = server.metrics.client_batches.get();
        gone.queue(Get, b"k", b"").flush();
        eventually("it is looked up", || server.metrics.client_batches.get() == before + 1);
    }
    server.mode(Mode::Prompt);
    assert_eq!(client.call(Get, b"k", b""), ok(b"v"));
}
