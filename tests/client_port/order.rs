//! Pipelining: responses in the order of requests, and reads that see exactly the writes before them.

use super::harness::*;
use apexkv_client::protocol::Command::{Del, Get, Ping, Scan, Set};
use apexkv_client::protocol::{Command, Status};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::io::Write;

/// Each GET must answer the value of the SET right before it, and no other.
fn five_hundred_pairs(server: &Server, bytes_at_a_time: usize) {
    let mut client = server.connect();
    let mut frames = Vec::new();
    for round in 0..500 {
        apexkv_client::protocol::encode_request(&mut frames, Set, b"one key", &[format!("value {round}").as_bytes()]);
        apexkv_client::protocol::encode_request(&mut frames, Get, b"one key", &[]);
    }
    for part in frames.chunks(bytes_at_a_time) {
        client.queue_bytes(part).flush();
    }
    let mut last = 0;
    for round in 0..500 {
        let written = version(&client.receive());
        assert!(written > last, "version {written} after {last}");
        last = written;
        assert_eq!(client.receive(), ok(format!("value {round}").as_bytes()), "round {round}");
    }
}

#[test]
fn five_hundred_pipelined_pairs_on_one_key_in_one_go() {
    five_hundred_pairs(&Server::start(), usize::MAX);
}

#[test]
fn five_hundred_pipelined_pairs_on_one_key_in_odd_pieces() {
    five_hundred_pairs(&Server::start(), 37);
}

#[test]
fn outcomes_may_come_in_any_order() {
    for seed in 0..20 {
        eprintln!("seed {seed}");
        let server = Server::start();
        server.mode(Mode::Shuffled(seed));
        five_hundred_pairs(&server, 211);
    }
}

#[test]
fn random_pipelines_answer_like_a_map() {
    for seed in 0..20 {
        eprintln!("seed {seed}");
        let server = Server::start();
        if seed >= 10 {
            server.serve_early();
        }
        server.mode(if seed % 2 == 0 { Mode::Prompt } else { Mode::Shuffled(seed) });
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut client, mut model) = (server.connect(), BTreeMap::<u8, Vec<u8>>::new());
        for round in 0..30 {
            let mut expected = Vec::new();
            for step in 0..random.random_range(1..40) {
                let key: u8 = random.random_range(0..4);
                match random.random_range(0..5) {
                    0 | 1 => {
                        let value = vec![step as u8; random.random_range(0..300)];
                        client.queue(Set, &[key], &value);
                        model.insert(key, value);
                        expected.push((Status::Ok, None));
                    }
                    2 => {
                        client.queue(Del, &[key], b"");
                        let there = model.remove(&key).is_some();
                        expected.push((if there { Status::Ok } else { Status::NotFound }, None));
                    }
                    3 => {
                        client.queue(Ping, b"", &[key; 9]);
                        expected.push((Status::Ok, Some(vec![key; 9])));
                    }
                    _ => {
                        client.queue(Get, &[key], b"");
                        let value = model.get(&key).cloned();
                        expected.push((if value.is_some() { Status::Ok } else { Status::NotFound }, Some(value.unwrap_or_default())));
                    }
                }
            }
            client.flush();
            // Reads alone, right behind the others.
            for key in 0..random.random_range(0..4) {
                client.queue(Get, &[key], b"").flush();
                let value = model.get(&key).cloned();
                expected.push((if value.is_some() { Status::Ok } else { Status::NotFound }, Some(value.unwrap_or_default())));
            }
            for (at, (status, payload)) in expected.into_iter().enumerate() {
                let response = client.receive();
                assert_eq!(response.0, status, "seed {seed}, round {round}, response {at}");
                assert!(payload.is_none_or(|payload| payload == response.1), "seed {seed}, round {round}, response {at}");
            }
        }
    }
}

#[test]
fn a_scan_shows_nothing_of_the_writes_behind_it() {
    let server = Server::start();
    let mut client = server.connect();
    for round in 0..50u8 {
        client
            .queue(Set, b"s/before", &[round])
            .queue(Scan, b"s/", &[0; 5])
            .queue(Set, b"s/before", b"after")
            .queue(Set, b"s/z", b"")
            .queue(Del, b"s/z", b"");
    }
    client.flush();
    for round in 0..50u8 {
        version(&client.receive());
        let (status, page) = client.receive();
        assert_eq!((status, page.len(), page.last()), (Status::Ok, 1 + 16 + 8 + 1, Some(&round)), "one pair, written right before");
        for _ in 0..3 {
            version(&client.receive());
        }
    }
}

#[test]
fn a_read_waits_for_every_earlier_write_of_its_connection() {
    let server = Server::start();
    let mut client = server.connect();
    server.mode(Mode::HoldWrites);
    client.queue(Set, b"k", b"new").flush();
    server.next_batch();
    client.queue(Get, b"k", b"").flush();
    eventually("the read is confirmed", || server.confirmed() == 1);
    // Time enough for a thread that would not wait to answer that there is no such key.
    let mut other = server.connect();
    (0..50).for_each(|_| assert_eq!(other.call(Ping, b"", b""), ok(b"")));
    server.mode(Mode::Prompt);
    version(&client.receive());
    assert_eq!(client.receive(), ok(b"new"));
}

#[test]
fn writes_are_pipelined_while_earlier_ones_wait() {
    let server = Server::start();
    let mut client = server.connect();
    server.mode(Mode::Hold);
    for round in 0..10u8 {
        client.queue(Set, &[round], b"v").flush();
        assert_eq!(server.next_batch().requests, 1, "handed over although nothing has been answered");
    }
    client.queue(Ping, b"", b"last").flush();
    server.mode(Mode::Prompt);
    for _ in 0..10 {
        version(&client.receive());
    }
    assert_eq!(client.receive(), ok(b"last"), "in its order behind the writes");
}

#[test]
fn one_read_of_the_socket_becomes_one_batch() {
    let server = Server::start();
    let mut client = server.connect();
    client.queue(Set, b"a", b"").queue(Get, b"a", b"").queue(Set, b"b", b"").queue(Get, b"b", b"").queue(Get, b"a", b"").flush();
    (0..5).for_each(|_| assert_eq!(client.receive().0, Status::Ok));
    let batch = server.next_batch();
    assert_eq!((batch.requests, batch.barrier), (3, true), "two writes and the read between them, and a barrier for the two last reads");
}

#[test]
fn requests_that_arrive_byte_by_byte_are_answered() {
    let server = Server::start();
    let mut client = server.connect();
    let extension = apexkv_client::protocol::Extension { request_id: 77, ..Default::default() };
    client.queue(Set, b"slow", b"motion").queue_extended(Get, b"slow", b"", extension).queue(Ping, b"", b"!").flush_slowly();
    version(&client.receive());
    assert_eq!(client.receive_extended(), (ok(b"motion"), 77));
    assert_eq!(client.receive(), ok(b"!"));
}

#[test]
fn a_half_closed_socket_still_gets_its_answers() {
    let server = Server::start();
    let mut client = server.connect();
    server.mode(Mode::Hold);
    client.queue(Set, b"k", b"v").queue(Ping, b"", b"x").flush();
    client.finish_sending();
    server.next_batch();
    server.mode(Mode::Prompt);
    version(&client.receive());
    assert_eq!(client.receive(), ok(b"x"));
    client.expect_end();
}

/// Answers of the Raft thread and of the connection's own thread meet at the output all the time; one that were left lying would stop
/// everything behind it.
#[test]
fn no_answer_is_left_lying_when_two_threads_answer() {
    let server = Server::start();
    let mut client = server.connect();
    let mut sender = client.socket.try_clone().expect("a second handle");
    let rounds = 20_000;
    let writing = std::thread::spawn(move || {
        let mut frames = Vec::new();
        for round in 0..rounds {
            apexkv_client::protocol::encode_request(&mut frames, Set, b"k", &[]);
            apexkv_client::protocol::encode_request(&mut frames, Ping, b"", &[b"p"]);
            if round % 3 == 0 {
                sender.write_all(&frames).expect("send");
                frames.clear();
            }
        }
        sender.write_all(&frames).expect("send");
    });
    for _ in 0..rounds {
        version(&client.receive());
        assert_eq!(client.receive(), ok(b"p"));
    }
    writing.join().expect("the writer ends");
}

#[test]
fn many_connections_at_once() {
    let server = Server::start();
    std::thread::scope(|scope| {
        for number in 0..16u8 {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.connect();
                for round in 0..200u16 {
                    let value = [&[number][..], &round.to_le_bytes()].concat();
                    client.queue(Command::Set, &[number], &value).queue(Command::Get, &[number], b"").flush();
                    version(&client.receive());
                    assert_eq!(client.receive(), ok(&value));
                }
            });
        }
    });
    assert_eq!(server.metrics.requests_set.get(), 16 * 200);
}
