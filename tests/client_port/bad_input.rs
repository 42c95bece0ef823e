//! Frames that break the rules. Nothing here may panic the server, make it reserve what was announced, or keep it from answering.

use super::harness::*;
use apexkv::server::clients::ClientLimits;
use apexkv_client::protocol::Command::{Cas, Del, Get, Getv, Ping, Scan, Set, Status as StatusCommand};
use apexkv_client::protocol::{Command, Extension, Status, encode_extended_request, encode_request};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::Write;
use std::time::Duration;

fn header(command: u8, key_length: u32, value_length: u32) -> Vec<u8> {
    [&[command][..], &key_length.to_le_bytes(), &value_length.to_le_bytes()].concat()
}

/// Quick ends, so that a fault costs the test little.
fn quick() -> ClientLimits {
    ClientLimits { drain_time: Duration::from_millis(200), doomed_time: Duration::from_millis(50), ..ClientLimits::default() }
}

#[test]
fn wrong_shapes_are_refused_and_the_connection_goes_on() {
    let server = Server::start();
    let mut client = server.connect();
    let long_ping = [0; 1025];
    let wrong: [(Command, &[u8], &[u8], &str); 16] = [
        (Set, b"", b"v", "key"),
        (Get, b"", b"", "key"),
        (Get, b"k", b"v", "value"),
        (Getv, b"", b"", "key"),
        (Getv, b"k", b"v", "value"),
        (Del, b"", b"", "key"),
        (Del, b"k", b"v", "value"),
        (Cas, b"", &[0; 8], "key"),
        (Cas, b"k", &[0; 7], "8 bytes"),
        (Ping, b"k", b"", "key"),
        (Ping, b"", &long_ping, "1024"),
        (StatusCommand, b"k", b"", "key"),
        (StatusCommand, b"", b"v", "value"),
        (Scan, b"", &[0; 4], "limit"),
        (Scan, b"", &[0, 0, 0, 0, 2], "flags"),
        (Scan, b"p/", &[0, 0, 0, 0, 0, b'q'], "cursor"),
    ];
    for (command, key, value, hint) in wrong {
        let refusal = text(client.call(command, key, value), Status::BadRequest);
        assert!(refusal.contains(hint), "{command:?} {key:?}: {refusal:?} should name {hint:?}");
        assert_eq!(client.call(Ping, b"", b"on"), ok(b"on"), "after {command:?}");
    }
}

#[test]
fn unknown_commands_are_skipped_whole() {
    let server = Server::start();
    let mut client = server.connect();
    for command in [0x00, 0x0a, 0x7f] {
        client.queue_bytes(&header(command, 3, 5)).queue_bytes(b"keyvalue").queue(Ping, b"", b"on").flush();
        text(client.receive(), Status::BadRequest);
        assert_eq!(client.receive(), ok(b"on"));
    }
}

#[test]
fn sessions_are_refused_and_the_connection_goes_on() {
    let server = Server::start();
    let mut client = server.connect();
    client.queue_extended(Set, b"k", b"v", Extension { request_id: 4, session: 1, ..Extension::default() }).queue(Ping, b"", b"on").flush();
    let (refusal, id) = client.receive_extended();
    assert!(text(refusal, Status::BadRequest).contains("session") && id == 4);
    assert_eq!(client.receive(), ok(b"on"));
}

#[test]
fn a_value_in_the_room_that_only_a_cas_may_use_is_refused_without_closing() {
    let limits = ClientLimits { value_bytes_max: 100, ..quick() };
    let server = Server::with(limits);
    let mut client = server.connect();
    text(client.call(Set, b"k", &[1; 101]), Status::BadRequest);
    text(client.call(Set, b"k", &[1; 108]), Status::BadRequest);
    version(&client.call(Cas, b"k", &[0; 108]));
    version(&client.call(Set, b"k", &[1; 100]));
    text(client.call(Ping, b"", &[1; 109]), Status::BadRequest);
    client.expect_end();
}

#[test]
fn huge_lengths_are_answered_at_once_and_close() {
    for (command, key, value) in
        [(0x01, u32::MAX, 0), (0x01, (64 << 10) + 1, 0), (0x01, 1, (16 << 20) + 9), (0x07, 0, u32::MAX), (0x55, u32::MAX, u32::MAX)]
    {
        let server = Server::with(quick());
        let mut client = server.connect();
        client.queue_bytes(&header(command, key, value)).flush();
        let refusal = text(client.receive(), Status::BadRequest);
        assert!(refusal.contains("limit") && refusal.contains("--max-"), "{refusal:?} names the limit and the flag");
        client.expect_end();
    }
}

#[test]
fn a_huge_extended_frame_is_answered_with_its_request_id() {
    let server = Server::with(quick());
    let mut whole = Vec::new();
    encode_extended_request(&mut whole, Ping, b"", &[], Extension { request_id: 0x0102_0304_0506_0708, ..Extension::default() });
    whole[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
    for (there, expected) in [(41, 0x0102_0304_0506_0708), (17, 0x0102_0304_0506_0708), (9, 0), (11, 0x0708)] {
        let mut client = server.connect();
        client.queue_bytes(&whole[..there]).flush();
        let (refusal, id) = client.receive_extended();
        text(refusal, Status::BadRequest);
        assert_eq!(id, expected, "{there} bytes of the header arrived");
        client.expect_end();
    }
}

#[test]
fn a_fault_delivers_all_earlier_responses_and_its_own() {
    let server = Server::with(quick());
    let mut client = server.connect();
    server.mode(Mode::Hold);
    for round in 0..100u8 {
        client.queue(Set, &[1], &[round]).queue(Get, &[1], b"");
    }
    client.queue_bytes(&header(0x01, u32::MAX, 0)).queue_bytes(&[0xaa; 100_000]).flush();
    server.next_batch();
    server.mode(Mode::Prompt);
    for round in 0..100u8 {
        version(&client.receive());
        assert_eq!(client.receive(), ok(&[round]));
    }
    text(client.receive(), Status::BadRequest);
    client.expect_end();
}

#[test]
fn a_bad_crc_is_answered_with_the_id_as_received_and_closes() {
    let server = Server::with(quick());
    let mut frame = Vec::new();
    encode_extended_request(&mut frame, Set, b"key", &[b"value"], Extension { request_id: 9, ..Extension::default() });
    for at in (0..frame.len()).filter(|at| !(1..9).contains(at)) {
        for flip in [1, 0x40] {
            let mut client = server.connect();
            let mut bad = frame.clone();
            bad[at] ^= flip;
            client.queue(Ping, b"", b"before").queue_bytes(&bad).flush();
            assert_eq!(client.receive(), ok(b"before"));
            let (refusal, id) = client.receive_extended();
            assert!(text(refusal, Status::BadRequest).contains("CRC"), "byte {at} flipped");
            assert_eq!(id, u64::from_le_bytes(bad[9..17].try_into().expect("8 bytes")));
            client.expect_end();
        }
    }
    assert_eq!(server.metrics.requests_set.get(), 0, "no such write was let through");
}

#[test]
fn truncated_requests_end_quietly_at_every_byte() {
    let server = Server::with(quick());
    let mut frames = Vec::new();
    encode_request(&mut frames, Ping, b"", &[b"first"]);
    let complete = frames.len();
    encode_extended_request(&mut frames, Set, b"key", &[b"value"], Extension::default());
    for cut in complete..frames.len() {
        let mut client = server.connect();
        client.queue_bytes(&frames[..cut]).flush();
        client.finish_sending();
        assert_eq!(client.receive(), ok(b"first"));
        client.expect_end();
    }
    eventually("all connections are over", || server.metrics.connections_open.get() == 0);
}

#[test]
fn garbage_never_hurts() {
    let server = Server::with(quick());
    let mut witness = server.connect();
    for seed in 0..60 {
        eprintln!("seed {seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut client = server.connect();
        let mut bytes: Vec<u8> = (0..random.random_range(0..3000)).map(|_| random.random()).collect();
        if seed % 2 == 0 {
            // Small lengths get past the first check.
            for at in (0..bytes.len().saturating_sub(9)).step_by(40) {
                bytes[at + 2..at + 5].fill(0);
                bytes[at + 6..at + 9].fill(0);
            }
        }
        // The server may have closed before everything is written.
        let _ = client.socket.write_all(&bytes);
        client.finish_sending();
        client.wait_for_end();
        assert_eq!(witness.call(Ping, b"", b"alive"), ok(b"alive"));
    }
    eventually("all others are over", || server.metrics.connections_open.get() == 1);
}
