//! What a program that embeds the client relies on: which node is asked, what is sent again, and what each error means.

mod fake;

use apexkv_client::protocol::{Command, Status};
use apexkv_client::{Client, Connection, Error, Failure, Pair, Pipeline, ScanOptions};
use fake::{Act, Node, dead_endpoint, eventually, response, version};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

fn client<'a>(endpoints: impl IntoIterator<Item = &'a String>) -> Client {
    client_with_timeout(endpoints, Duration::from_secs(10))
}

fn client_with_timeout<'a>(endpoints: impl IntoIterator<Item = &'a String>, timeout: Duration) -> Client {
    Client::builder().endpoints(endpoints.into_iter().cloned()).timeout(timeout).build().expect("good settings")
}

fn not_leader(leader: &str) -> Vec<u8> {
    response(Status::NotLeader, leader.as_bytes())
}

#[test]
fn each_command_sends_its_bytes_and_reads_its_answer() {
    let page = [&b"\0\x02\0\0\0\x01\0\0\0\x09\0\0\0\0\0\0\0p1x"[..]].concat();
    let mut answers = vec![
        version(5),
        response(Status::Ok, b"value"),
        response(Status::NotFound, b""),
        response(Status::Ok, b"\x07\0\0\0\0\0\0\0value"),
        version(8),
        response(Status::NotFound, b""),
        version(9),
        response(Status::Conflict, &3u64.to_le_bytes()),
        response(Status::Ok, &page),
    ]
    .into_iter();
    let node = Node::start(move |_, _| Act::Send(answers.next().expect("as many answers as requests")));
    let mut client = client([&node.endpoint]);

    assert_eq!(client.set(b"key", b"value"), Ok(5));
    assert_eq!(client.get(b"key"), Ok(Some(b"value".to_vec())));
    assert_eq!(client.get(b"key"), Ok(None));
    assert_eq!(client.get_versioned(b"key"), Ok(Some((7, b"value".to_vec()))));
    assert_eq!(client.delete(b"key"), Ok(Some(8)));
    assert_eq!(client.delete(b"key"), Ok(None));
    assert_eq!(client.compare_and_set(b"k", 0, b"v"), Ok(9));
    assert_eq!(client.compare_and_set(b"k", 4, b""), Err(Error::Conflict { current: 3 }));
    let pair = Pair { key: b"p1".to_vec(), version: 9, value: b"x".to_vec() };
    let read = client.scan_page(b"p", ScanOptions { page_limit: 2, keys_only: false }, b"p0").expect("a good page");
    assert_eq!((read.pairs, read.more), (vec![pair], false));
    assert_eq!(client.endpoint(), Some(node.endpoint.as_str()));

    let expected: [&[u8]; 9] = [
        b"\x01\x03\0\0\0\x05\0\0\0keyvalue",
        b"\x02\x03\0\0\0\0\0\0\0key",
        b"\x02\x03\0\0\0\0\0\0\0key",
        b"\x05\x03\0\0\0\0\0\0\0key",
        b"\x03\x03\0\0\0\0\0\0\0key",
        b"\x03\x03\0\0\0\0\0\0\0key",
        b"\x04\x01\0\0\0\x09\0\0\0k\0\0\0\0\0\0\0\0v",
        b"\x04\x01\0\0\0\x08\0\0\0k\x04\0\0\0\0\0\0\0",
        b"\x06\x01\0\0\0\x07\0\0\0p\x02\0\0\0\0p0",
    ];
    assert_eq!(node.frames(), expected);
}

#[test]
fn ping_and_status_go_to_the_node_that_is_named() {
    let node = Node::start(|frame, _| match frame[0] {
        0x07 => Act::Send(response(Status::Ok, &frame[9..])),
        _ => Act::Send(response(Status::Ok, br#"{"role":"follower"}"#)),
    });
    let dead = dead_endpoint();
    let client = client([&node.endpoint, &dead]);
    assert!(client.ping(&node.endpoint, b"payload").is_ok_and(|round_trip| round_trip > Duration::ZERO));
    assert_eq!(client.status(&node.endpoint), Ok(r#"{"role":"follower"}"#.to_owned()));
    let all = client.status_all();
    assert!(all[0].1.is_ok());
    assert!(matches!(&all[1].1, Err(Error::Unavailable { attempts, .. }) if attempts[0].endpoint == dead), "{:?}", all[1]);
    assert_eq!(node.frames()[0], b"\x07\0\0\0\0\x07\0\0\0payload");
    assert_eq!(node.frames()[1], b"\x08\0\0\0\0\0\0\0\0");
}

#[test]
fn a_redirection_is_followed_and_remembered() {
    let leader = Node::always(version(1));
    let follower = Node::always(not_leader(&leader.endpoint));
    let mut client = client([&follower.endpoint]);
    for _ in 0..3 {
        assert_eq!(client.set(b"k", b"v"), Ok(1));
        assert_eq!(client.endpoint(), Some(leader.endpoint.as_str()));
    }
    assert_eq!((follower.frames().len(), leader.frames().len()), (1, 3));
}

#[test]
fn a_named_leader_that_is_gone_does_not_stop_the_search() {
    let leader = Node::always(version(1));
    let (gone, found) = (dead_endpoint(), leader.endpoint.clone());
    let follower = Node::start(move |_, before| Act::Send(not_leader(if before < 3 { &gone } else { &found })));
    let mut client = client([&follower.endpoint]);
    assert_eq!(client.set(b"k", b"v"), Ok(1));
    assert_eq!(follower.frames().len(), 4);
}

#[test]
fn a_hint_that_is_no_address_counts_as_none() {
    let leader = Node::always(version(1));
    let follower = Node::always(response(Status::NotLeader, b"\xff\xfe not an address"));
    assert_eq!(client([&follower.endpoint, &leader.endpoint]).set(b"k", b"v"), Ok(1));
}

#[test]
fn a_write_whose_answer_is_lost_is_unknown_and_never_sent_again() {
    let other = Node::always(version(1));
    let cutter = Node::start(|_, _| Act::Close);
    type Write = fn(&mut Client) -> Result<u64, Error>;
    let writes: [Write; 3] = [
        |client| client.set(b"k", b"v"),
        |client| client.compare_and_set(b"k", 1, b"v"),
        |client| client.delete(b"k").map(|version| version.unwrap_or(0)),
    ];
    for (number, write) in writes.into_iter().enumerate() {
        let mut client = client([&cutter.endpoint, &other.endpoint]);
        let outcome = write(&mut client);
        assert!(matches!(&outcome, Err(Error::Unknown { endpoint, .. }) if *endpoint == cutter.endpoint), "{outcome:?}");
        assert_eq!((cutter.frames().len(), other.frames().len()), (number + 1, number), "sent once, nowhere else");
        assert_eq!(write(&mut client), Ok(1), "whoever lost an answer is not the first to be asked next time");
    }
}

#[test]
fn a_write_that_meets_a_closed_connection_was_not_sent_and_goes_elsewhere() {
    let second = Node::always(version(2));
    let first = Node::start(|_, _| Act::SendAndClose(version(1)));
    let mut client = client([&first.endpoint, &second.endpoint]);
    assert_eq!(client.set(b"k", b"v"), Ok(1));
    let gone = first.endpoint.clone();
    drop(first);
    eventually("the first node stops listening", || std::net::TcpStream::connect(&gone).is_err());
    assert_eq!(client.set(b"k", b"v"), Ok(2));
    assert_eq!(client.endpoint(), Some(second.endpoint.as_str()));
}

#[test]
fn a_read_whose_answer_is_lost_is_tried_elsewhere() {
    let good = Node::always(response(Status::Ok, b"value"));
    let cutter = Node::start(|_, _| Act::Close);
    assert_eq!(client([&cutter.endpoint, &good.endpoint]).get(b"k"), Ok(Some(b"value".to_vec())));
    assert_eq!(cutter.frames().len(), 1);
}

#[test]
fn a_silent_node_costs_a_read_half_a_second_and_a_write_all_its_time() {
    let good = Node::always(response(Status::Ok, b"value"));
    let silent = Node::start(|_, _| Act::Silence);
    let began = Instant::now();
    assert_eq!(client([&silent.endpoint, &good.endpoint]).get(b"k"), Ok(Some(b"value".to_vec())));
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(silent.frames().len(), 1, "the silent node got its chance");

    let began = Instant::now();
    let mut client = client_with_timeout([&silent.endpoint, &good.endpoint], Duration::from_millis(700));
    assert!(matches!(client.set(b"k", b"v"), Err(Error::Unknown { endpoint, .. }) if endpoint == silent.endpoint));
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!(good.frames().len(), 1, "only the read went there");
}

#[test]
fn a_slow_answer_that_keeps_arriving_is_not_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on this machine");
    let endpoint = listener.local_addr().expect("a bound listener has an address").to_string();
    let server = thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("the client connects");
        socket.read_exact(&mut [0; 10]).expect("a GET of one letter");
        socket.write_all(b"\0\x06\0\0\0").expect("a header");
        for letter in b"slowly" {
            thread::sleep(Duration::from_millis(100));
            socket.write_all(&[*letter]).expect("the client waits");
        }
    });
    assert_eq!(client([&endpoint]).get(b"k"), Ok(Some(b"slowly".to_vec())));
    server.join().expect("the server saw what it expected");
}

#[test]
fn busy_is_tried_again_until_the_deadline() {
    let node = Node::start(|_, before| Act::Send(if before < 4 { response(Status::Busy, b"full") } else { version(1) }));
    assert_eq!(client([&node.endpoint]).set(b"k", b"v"), Ok(1));
    assert_eq!(node.frames().len(), 5);

    let busy = Node::always(response(Status::Busy, b"disk reserve reached"));
    match client_with_timeout([&busy.endpoint], Duration::from_secs(1)).set(b"k", b"v") {
        Err(Error::Unavailable { attempts, .. }) => assert_eq!(attempts[0].failure, Failure::Busy("disk reserve reached".to_owned())),
        other => panic!("expected no node to take it, got {other:?}"),
    }
}

#[test]
fn without_a_leader_every_endpoint_is_named_with_its_reason() {
    let nodes = [Node::always(not_leader("")), Node::always(not_leader(""))];
    let dead = dead_endpoint();
    let seen = Arc::new(Mutex::new(0));
    let counter = seen.clone();
    let endpoints = [nodes[0].endpoint.clone(), nodes[1].endpoint.clone(), dead.clone()];
    let builder = Client::builder().endpoints(endpoints.clone()).timeout(Duration::from_secs(1));
    let mut client = builder.observer(move |_| *counter.lock().expect("no test thread panics with the lock") += 1).build().expect("good");
    let began = Instant::now();
    let error = client.set(b"k", b"v").expect_err("nobody leads");
    assert!(began.elapsed() < Duration::from_secs(5));
    let Error::Unavailable { attempts, .. } = &error else { panic!("expected no leader, got {error:?}") };
    let mut named: Vec<&str> = attempts.iter().map(|attempt| attempt.endpoint.as_str()).collect();
    let mut expected: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    named.sort();
    expected.sort();
    assert_eq!(named, expected);
    let text = error.to_string();
    assert!(text.contains("knows of none") && text.contains(&format!("{dead} (cannot connect")), "{text}");
    let attempts = nodes[0].frames().len() + nodes[1].frames().len();
    assert!(*seen.lock().expect("no test thread panics with the lock") >= attempts, "the observer saw each failure");
    assert!(attempts < 80, "{attempts} attempts in a second: it must not spin");
}

#[test]
fn refusals_are_final_and_unknown_answers_are_unknown() {
    for (status, text) in [(Status::Error, "no"), (Status::BadRequest, "value too large")] {
        let node = Node::always(response(status, text.as_bytes()));
        let refused = Error::Refused { status, endpoint: node.endpoint.clone(), message: text.to_owned() };
        assert_eq!(client([&node.endpoint]).set(b"k", b"v"), Err(refused));
        assert_eq!(node.frames().len(), 1);
    }
    for bytes in [response(Status::Unknown, b"leadership lost"), b"\x2a\0\0\0\0".to_vec(), version(1)[..9].to_vec(), b"\0\0\0\0\0".to_vec()]
    {
        let node = Node::start(move |_, _| Act::SendAndClose(bytes.clone()));
        let outcome = client([&node.endpoint]).set(b"k", b"v");
        assert!(matches!(outcome, Err(Error::Unknown { .. })), "{outcome:?}");
        assert_eq!(node.frames().len(), 1);
    }
}

/// Of a connection whose frame it refused, a node discards what comes after: a write sent there would have an open outcome.
#[test]
fn nothing_is_sent_on_a_connection_that_is_about_to_close() {
    let refusal = response(Status::BadRequest, b"value too large");
    let node = Node::start(move |_, before| if before == 0 { Act::SendAndDiscard(refusal.clone()) } else { Act::Send(version(9)) });
    let mut client = client([&node.endpoint]);
    assert!(matches!(client.set(b"k", b"large"), Err(Error::Refused { status: Status::BadRequest, .. })));
    assert_eq!(client.set(b"k", b"small").expect("a connection of its own"), 9);
}

#[test]
fn an_early_refusal_of_a_large_value_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on this machine");
    let endpoint = listener.local_addr().expect("a bound listener has an address").to_string();
    let server = thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("the client connects");
        socket.read_exact(&mut [0; 9]).expect("a header");
        socket.write_all(&response(Status::BadRequest, b"value too large")).expect("room for a refusal");
        socket.shutdown(Shutdown::Write).expect("an open socket");
        let mut drained = 0;
        let mut buffer = [0; 1 << 16];
        while drained < 1 << 20 {
            drained += socket.read(&mut buffer).expect("the client is still sending");
        }
    });
    let outcome = client([&endpoint]).set(b"k", &vec![0; 48 << 20]);
    assert!(matches!(&outcome, Err(Error::Refused { status: Status::BadRequest, .. })), "{outcome:?}");
    server.join().expect("the server saw what it expected");
}

#[test]
fn an_answer_beyond_all_limits_is_refused() {
    let node = Node::always(b"\0\xff\xff\xff\xff".to_vec());
    let outcome = client_with_timeout([&node.endpoint], Duration::from_secs(1)).get(b"k");
    assert!(matches!(&outcome, Err(error) if error.to_string().contains("4294967295 bytes")), "{outcome:?}");
}

#[test]
fn extended_answers_are_checked_and_belong_to_extended_requests() {
    let mut extended = Vec::new();
    apexkv_client::protocol::encode_response(&mut extended, Status::Ok, &[&1u64.to_le_bytes()], Some(77));
    let good = Node::always(extended.clone());
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut connection = Connection::open(&good.endpoint, Duration::from_secs(1), deadline).expect("the node listens");
    connection.request(Command::Set, b"k", &[b"v"], deadline).expect("the node reads");
    let answer = connection.receive(deadline).expect("a good answer");
    assert_eq!((answer.status, answer.request_id, answer.payload), (Status::Ok, Some(77), &1u64.to_le_bytes()[..]));
    assert!(matches!(client([&good.endpoint]).set(b"k", b"v"), Err(Error::Unknown { .. })));

    for byte in 0..extended.len() {
        let mut damaged = extended.clone();
        damaged[byte] ^= 1;
        let node = Node::start(move |_, _| Act::SendAndClose(damaged.clone()));
        let mut connection = Connection::open(&node.endpoint, Duration::from_secs(1), deadline).expect("the node listens");
        connection.request(Command::Set, b"k", &[b"v"], deadline).expect("the node reads");
        assert!(connection.receive(deadline).is_err(), "a flipped bit in byte {byte}");
    }
}

#[test]
fn a_scan_goes_on_page_by_page() {
    let page = |more: u8, keys: &[&str]| {
        let mut bytes = vec![more];
        for key in keys {
            bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(key.as_bytes());
        }
        response(Status::Ok, &bytes)
    };
    let (first, second) = (page(1, &["p1", "p2"]), page(0, &["p3"]));
    let node = Node::start(move |frame, _| Act::Send(if frame.ends_with(b"p2") { second.clone() } else { first.clone() }));
    let mut client = client([&node.endpoint]);
    let keys: Result<Vec<Vec<u8>>, Error> =
        client.scan(b"p", ScanOptions { page_limit: 2, keys_only: true }).map(|pair| pair.map(|pair| pair.key)).collect();
    assert_eq!(keys, Ok(vec![b"p1".to_vec(), b"p2".to_vec(), b"p3".to_vec()]));
    assert_eq!(node.frames()[1], b"\x06\x01\0\0\0\x07\0\0\0p\x02\0\0\0\x01p2");
}

#[test]
fn a_pipeline_larger_than_all_socket_buffers_does_not_block() {
    // The node does not read on before its answer has left, so both directions fill.
    let node = Node::start(|frame, _| Act::Send(response(Status::Ok, &frame[9..])));
    let deadline = Instant::now() + Duration::from_secs(60);
    let connection = Connection::open(&node.endpoint, Duration::from_secs(1), deadline).expect("the node listens");
    let mut pipeline = Pipeline::new(connection);
    let value = vec![7; 1 << 20];
    for number in 0..32u8 {
        pipeline.push(Command::Ping, b"", &[&[number], &value]);
    }
    pipeline.flush(deadline).expect("all of it leaves");
    for number in 0..32u8 {
        let answer = pipeline.receive(deadline).expect("an answer for each");
        assert_eq!((answer.payload.len(), answer.payload[0]), (value.len() + 1, number));
    }
    assert_eq!(pipeline.outstanding(), 0);
}
