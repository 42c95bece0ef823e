//! Each command's answers.

use super::harness::*;
use apexkv::raft::NodeId;
use apexkv::server::clients::ClientLimits;
use apexkv::server::event::Outcome;
use apexkv_client::protocol::Command::{Cas, Del, Get, Getv, Ping, Scan, Set, Status as StatusCommand};
use apexkv_client::protocol::{Extension, Status};

fn scan_value(limit: u32, flags: u8, cursor: &[u8]) -> Vec<u8> {
    let mut value = limit.to_le_bytes().to_vec();
    value.push(flags);
    value.extend_from_slice(cursor);
    value
}

/// Key, version and value.
type Pair = (Vec<u8>, u64, Vec<u8>);

/// The pairs of a page, and whether there are more.
fn page(response: &Response) -> (Vec<Pair>, bool) {
    assert_eq!(response.0, Status::Ok);
    let (mut rest, mut pairs) = (&response.1[1..], Vec::new());
    while !rest.is_empty() {
        let number = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("4 bytes")) as usize;
        let (key, value) = (number(0), number(4));
        let version = u64::from_le_bytes(rest[8..16].try_into().expect("8 bytes"));
        pairs.push((rest[16..16 + key].to_vec(), version, rest[16 + key..16 + key + value].to_vec()));
        rest = &rest[16 + key + value..];
    }
    (pairs, response.1[0] == 1)
}

#[test]
fn set_get_and_delete() {
    let server = Server::start();
    let mut client = server.connect();
    assert_eq!(client.call(Get, b"a", b""), (Status::NotFound, vec![]));
    let first = version(&client.call(Set, b"a", b"one"));
    assert_eq!(client.call(Get, b"a", b""), ok(b"one"));
    let second = version(&client.call(Set, b"a", b"two"));
    assert!(second > first, "versions grow: {first}, then {second}");
    let versioned = client.call(Getv, b"a", b"");
    assert_eq!(versioned, ok(&[&second.to_le_bytes()[..], b"two"].concat()));
    assert!(version(&client.call(Del, b"a", b"")) > second);
    assert_eq!(client.call(Del, b"a", b""), (Status::NotFound, vec![]));
    assert_eq!(client.call(Getv, b"a", b""), (Status::NotFound, vec![]));
}

#[test]
fn compare_and_set_holds_to_the_version() {
    let server = Server::start();
    let mut client = server.connect();
    let cas = |client: &mut Client, expected: u64, value: &[u8]| client.call(Cas, b"k", &[&expected.to_le_bytes()[..], value].concat());
    let created = version(&cas(&mut client, 0, b"first"));
    assert_eq!(cas(&mut client, 0, b"again"), (Status::Conflict, created.to_le_bytes().to_vec()));
    let changed = version(&cas(&mut client, created, b""));
    assert_eq!(client.call(Get, b"k", b""), ok(b""));
    assert_eq!(cas(&mut client, created, b"late"), (Status::Conflict, changed.to_le_bytes().to_vec()));
    client.call(Del, b"k", b"");
    assert_eq!(cas(&mut client, changed, b"gone"), (Status::Conflict, 0u64.to_le_bytes().to_vec()));
}

#[test]
fn values_come_back_byte_for_byte_up_to_the_limit() {
    let server = Server::start();
    let mut client = server.connect();
    let longest = ClientLimits::default().value_bytes_max as usize;
    for size in [0, 1, 4095, 16 << 10, (1 << 20) + 1, longest] {
        let value: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
        let written = version(&client.call(Set, b"sized", &value));
        assert!(client.call(Get, b"sized", b"") == ok(&value), "a value of {size} bytes");
        let exchanged = client.call(Cas, b"sized", &[&written.to_le_bytes()[..], &value].concat());
        assert_eq!(exchanged.0, Status::Ok, "CAS of {size} bytes");
    }
    let key = vec![b'k'; ClientLimits::default().key_bytes_max as usize];
    version(&client.call(Set, &key, b"long key"));
    assert_eq!(client.call(Get, &key, b""), ok(b"long key"));
}

#[test]
fn scans_page_in_byte_order() {
    let server = Server::start();
    let mut client = server.connect();
    for key in ["b/2", "a/1", "b/10", "b/1", "c"] {
        client.call(Set, key.as_bytes(), format!("value of {key}").as_bytes());
    }
    let keys =
        |response: &Response| page(response).0.into_iter().map(|(key, ..)| String::from_utf8(key).expect("text")).collect::<Vec<_>>();
    let everything = client.call(Scan, b"", &scan_value(0, 0, b""));
    assert_eq!(keys(&everything), ["a/1", "b/1", "b/10", "b/2", "c"]);
    assert!(page(&everything).0.iter().all(|(key, version, value)| *version > 0 && *value == [b"value of ", key.as_slice()].concat()));
    let first = client.call(Scan, b"b/", &scan_value(2, 0, b""));
    assert_eq!((keys(&first), page(&first).1), (vec!["b/1".to_owned(), "b/10".to_owned()], true));
    let second = client.call(Scan, b"b/", &scan_value(2, 1, b"b/10"));
    assert_eq!((keys(&second), page(&second).1), (vec!["b/2".to_owned()], false));
    assert!(page(&second).0[0].2.is_empty() && page(&second).0[0].1 > 0, "keys only");
    assert_eq!(page(&client.call(Scan, b"nothing", &scan_value(u32::MAX, 0, b""))), (vec![], false));
}

#[test]
fn ping_and_status_need_no_raft_thread() {
    let server = Server::detached(ClientLimits::default());
    let mut client = server.connect();
    assert_eq!(client.call(Ping, b"", b""), ok(b""));
    assert_eq!(client.call(Ping, b"", &[5; 1024]), ok(&[5; 1024]));
    assert_eq!(client.call(StatusCommand, b"", b""), ok(br#"{"id":"test:1"}"#));
    for (command, value) in [(Set, &b"v"[..]), (Get, b""), (Getv, b""), (Del, b""), (Cas, &[0; 8]), (Scan, &[0; 5])] {
        assert_eq!(client.call(command, b"k", value), (Status::NotLeader, vec![]), "{command:?} before there is a cluster");
    }
    client.queue(Set, b"k", b"v").queue(Get, b"k", b"").queue(Ping, b"", b"p").queue(Set, b"k", b"w").queue(Get, b"k", b"").flush();
    let statuses: Vec<Status> = (0..5).map(|_| client.receive().0).collect();
    assert_eq!(statuses, [Status::NotLeader, Status::NotLeader, Status::Ok, Status::NotLeader, Status::NotLeader]);
}

#[test]
fn refusals_reach_reads_and_writes_alike() {
    let server = Server::start();
    let mut client = server.connect();
    let all = |client: &mut Client| {
        client.queue(Set, b"k", b"v").queue(Get, b"k", b"").queue(Del, b"k", b"").queue(Getv, b"k", b"").queue(Scan, b"", &[0; 5]).flush();
        (0..5).map(|_| client.receive()).collect::<Vec<_>>()
    };
    server.mode(Mode::Refuse(Outcome::NotLeader { leader: Some(LEADER.0) }));
    assert!(all(&mut client).iter().all(|response| *response == (Status::NotLeader, LEADER.1.as_bytes().to_vec())));
    server.mode(Mode::Refuse(Outcome::NotLeader { leader: Some(NodeId(99)) }));
    assert!(all(&mut client).iter().all(|response| *response == (Status::NotLeader, vec![])), "a leader without a known address");
    server.mode(Mode::Refuse(Outcome::Busy("later".into())));
    assert!(all(&mut client).iter().all(|response| *response == (Status::Busy, b"later".to_vec())));
    server.mode(Mode::Refuse(Outcome::Unknown("lost")));
    let statuses: Vec<Status> = all(&mut client).into_iter().map(|response| response.0).collect();
    use Status::{Busy, Unknown};
    assert_eq!(statuses, [Unknown, Busy, Unknown, Busy, Busy], "a read never has an open outcome");
}

#[test]
fn a_rotten_value_is_an_error_and_never_other_bytes() {
    let server = Server::start();
    let mut client = server.connect();
    version(&client.call(Set, b"k/good", b"a value that stays whole"));
    version(&client.call(Set, b"k/rotten", b"a value that will rot away"));
    server.rot(b"a value that will rot away");
    client.queue(Get, b"k/rotten", b"").queue(Get, b"k/good", b"").queue(Getv, b"k/rotten", b"").queue(Scan, b"k/", &[0; 5]);
    client.queue(Scan, b"k/", &scan_value(0, 1, b"")).queue(Scan, b"k/g", &[0; 5]).flush();
    let refusal = text(client.receive(), Status::Error);
    assert!(refusal.contains(".log") && refusal.contains("offset"), "{refusal:?} names the place");
    let told = server.damage.lock().expect("no holder panics").first().cloned().expect("whoever sees to damage was told before the client");
    assert!(refusal.contains(&told), "{told:?}");
    assert_eq!(client.receive(), ok(b"a value that stays whole"));
    text(client.receive(), Status::Error);
    text(client.receive(), Status::Error);
    assert_eq!(page(&client.receive()).0.len(), 2, "keys alone touch no value");
    assert_eq!(page(&client.receive()).0[0].2, b"a value that stays whole");
}

#[test]
fn extended_requests_are_answered_in_kind() {
    let server = Server::start();
    let mut client = server.connect();
    let id = |request_id| Extension { request_id, ..Extension::default() };
    client.queue_extended(Set, b"x", b"value", id(u64::MAX)).queue(Get, b"x", b"").queue_extended(Getv, b"x", b"", id(2));
    client
        .queue_extended(Ping, b"", b"echo", id(3))
        .queue_extended(Scan, b"x", &[0; 5], id(4))
        .queue_extended(Del, b"y", b"", id(5))
        .flush();
    let (written, request_id) = client.receive_extended();
    assert_eq!(request_id, u64::MAX);
    assert_eq!(client.receive(), ok(b"value"), "a plain frame among them");
    assert_eq!(client.receive_extended(), (ok(&[&version(&written).to_le_bytes()[..], b"value"].concat()), 2));
    assert_eq!(client.receive_extended(), (ok(b"echo"), 3));
    let (scanned, request_id) = client.receive_extended();
    assert_eq!((page(&scanned).0[0].2.as_slice(), request_id), (&b"value"[..], 4));
    assert_eq!(client.receive_extended(), ((Status::NotFound, vec![]), 5));
}

#[test]
fn deadlines_reach_the_raft_thread() {
    let server = Server::start();
    let mut client = server.connect();
    let within = |deadline_ms| Extension { deadline_ms, ..Extension::default() };
    client.queue_extended(Set, b"a", b"", within(70)).queue_extended(Ping, b"", b"", within(5)).queue_extended(Get, b"a", b"", within(70));
    client.queue_extended(Get, b"a", b"", within(90)).queue(Set, b"b", b"").flush();
    (0..4).for_each(|_| drop(client.receive_extended()));
    client.receive();
    let seen: Vec<_> = (0..3).map(|_| server.next_batch()).map(|batch| (batch.requests, batch.barrier, batch.deadline_ms)).collect();
    let default = ClientLimits::default().request_timeout.as_millis() as u32;
    assert_eq!(seen, [(1, true, 70), (0, true, 90), (1, false, default)]);
}

/// Values around the size from which responses are built piece by piece, read in both frames, alone and in pages.
#[test]
fn large_responses_come_whole_in_both_frames() {
    let server = Server::start();
    let mut client = server.connect();
    let sizes = [0, 65_535, 65_536, 65_537, 200_000, 3 << 20];
    let value = |size: usize| (0..size).map(|at| (at * 7 % 253) as u8).collect::<Vec<u8>>();
    for (number, size) in sizes.iter().enumerate() {
        version(&client.call(Set, format!("large/{number}").as_bytes(), &value(*size)));
    }
    for (number, size) in sizes.iter().enumerate() {
        let key = format!("large/{number}").into_bytes();
        let (status, payload) = client.call(Getv, &key, b"");
        assert_eq!((status, payload.len()), (Status::Ok, 8 + size), "{size} bytes");
        for (command, wanted) in [(Get, &payload[8..]), (Getv, &payload[..])] {
            let extension = Extension { request_id: number as u64, ..Extension::default() };
            // The harness checks the CRC of every extended response.
            client.queue_extended(command, &key, b"", extension).flush();
            assert!(client.receive_extended() == (ok(wanted), number as u64), "{command:?} of {size} bytes");
            assert!(client.call(command, &key, b"") == ok(wanted), "{command:?} of {size} bytes");
        }
    }
    let (pairs, more) = page(&client.call(Scan, b"large/", &scan_value(0, 0, b"")));
    assert_eq!((pairs.len(), more), (sizes.len(), false));
    assert!(pairs.iter().zip(sizes).all(|((_, _, found), size)| *found == value(size)));
    // In the middle of a pipeline, each read sees the write before it.
    client.queue(Set, b"p", &value(100_000)).queue(Get, b"p", b"").queue(Set, b"p", b"small").queue(Get, b"p", b"");
    client.queue(Get, b"large/5", b"").queue(Get, b"p", b"").flush();
    let answers: Vec<Response> = (0..6).map(|_| client.receive()).collect();
    assert!(
        answers[1] == ok(&value(100_000)) && answers[3] == ok(b"small") && answers[4] == ok(&value(3 << 20)) && answers[5] == ok(b"small")
    );
}

/// What is ready behind a large response, or behind a read in the middle of a batch, waits for it, however much it is.
#[test]
fn much_that_waits_behind_a_large_response_holds_nobody_up() {
    let server = Server::start();
    let mut client = server.connect();
    let (large, middle, ping) = (vec![7; 300_000], vec![8; 40_000], [9; 1024]);
    version(&client.call(Set, b"large", &large));
    version(&client.call(Set, b"middle", &middle));
    for round in 0..3 {
        client.queue(Get, b"large", b"");
        for _ in 0..200 {
            client.queue(Ping, b"", &ping);
        }
        client.flush();
        assert!(client.receive() == ok(&large), "round {round}");
        (0..200).for_each(|_| assert!(client.receive() == ok(&ping), "round {round}"));

        for _ in 0..4 {
            client.queue(Get, b"middle", b"");
        }
        for _ in 0..200 {
            client.queue(Ping, b"", &ping);
        }
        client.flush();
        (0..4).for_each(|_| assert!(client.receive() == ok(&middle), "round {round}"));
        (0..200).for_each(|_| assert!(client.receive() == ok(&ping), "round {round}"));

        client.queue(Get, b"large", b"");
        for _ in 0..4000 {
            client.queue(Set, b"k", b"v");
        }
        client.queue(Get, b"large", b"").flush();
        assert!(client.receive() == ok(&large), "round {round}");
        (0..4000).for_each(|_| assert_eq!(client.receive().0, Status::Ok, "round {round}"));
        assert!(client.receive() == ok(&large), "round {round}");
    }
}

#[test]
fn a_page_of_long_keys_comes_whole() {
    let server = Server::start();
    let mut client = server.connect();
    let keys: Vec<Vec<u8>> = (0..20).map(|number| [format!("long/{number:02}/").into_bytes(), vec![b'k'; 60_000]].concat()).collect();
    for key in &keys {
        version(&client.call(Set, key, b"v"));
    }
    let whole = page(&client.call(Scan, b"long/", &scan_value(0, 0, b"")));
    assert!(whole.0.iter().map(|(key, ..)| key).eq(&keys) && whole.0.iter().all(|(_, _, value)| value == b"v"));
    let names = page(&client.call(Scan, b"long/", &scan_value(0, 1, b"")));
    assert!(names.0.iter().map(|(key, ..)| key).eq(&keys) && !names.1);
}
