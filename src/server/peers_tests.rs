//! What the Raft thread relies on from its links, between nodes of one process and against peers that misbehave.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use tempfile::TempDir;

use super::fixture::*;
use super::*;
use crate::protocol::handshake::{Greeting, Hello};
use crate::protocol::{frame, peer};
use crate::raft::{EntryId, Envelope, Message};

#[test]
fn empty_nodes_found_one_cluster_and_link_up_in_every_start_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let (sites, _) = sites(3);
        let members: Vec<String> = sites.iter().map(|site| site.id.clone()).collect();
        let never = AtomicBool::new(false);
        let running: BTreeMap<usize, (Founding, Running)> = thread::scope(|scope| {
            let starts: Vec<_> = order
                .iter()
                .zip(0u64..)
                .map(|(&at, delay)| {
                    let (site, members, never) = (&sites[at], &members, &never);
                    scope.spawn(move || {
                        // Not a wait for anything: it only makes the order of the starts likely.
                        thread::sleep(Duration::from_millis(60 * delay));
                        let founding = join(site, members, never).expect("the founding completes");
                        let running = site.start(1, &founding);
                        (at, (founding, running))
                    })
                })
                .collect();
            starts.into_iter().map(|start| start.join().expect("no panic")).collect()
        });
        for (at, (founding, node)) in &running {
            assert_eq!(founding, &running[&0].0, "{order:?}");
            let mut others: Vec<NodeId> = node.peers.others().keys().copied().collect();
            while !others.is_empty() {
                let up = node.wait("open link", |event| match event {
                    Event::Link(peer, LinkChange::Up { fresh, .. }) => Some((peer, fresh)),
                    _ => None,
                });
                assert!(up.1, "{order:?}: node {at} hears {} for the first time", up.0);
                others.retain(|peer| *peer != up.0);
            }
        }
    }
}

#[test]
fn a_wiped_node_waits_and_can_be_stopped() {
    let (sites, founding) = sites(2);
    let node = sites[0].start(1, &founding);
    let members: Vec<String> = sites.iter().map(|site| site.id.clone()).collect();
    let wiped = Site {
        uuid: 1,
        listener: sites[1].listener.try_clone().expect("a descriptor is left"),
        id: sites[1].id.clone(),
        directory: TempDir::new().expect("a scratch directory"),
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| join(&wiped, &members, &stop));
        thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished(), "a wiped node must not come back by itself");
        stop.store(true, Ordering::SeqCst);
        assert!(matches!(waiting.join().expect("no panic"), Err(Error::Closed)));
    });
    node.assert_silent();
    assert!(!node.peers.alive(NodeId(2)));
}

#[test]
fn messages_arrive_on_both_links_and_addresses_are_learned() {
    let (sites, founding) = sites(2);
    let (a, b) = (sites[0].start(1, &founding), sites[1].start(1, &founding));
    assert!(a.wait_up(NodeId(2)) && b.wait_up(NodeId(1)));
    let received = a.send_until_received(&b, &heartbeat(1, 2, 5));
    assert_eq!(received.envelope, heartbeat(1, 2, 5).envelope);
    let (outgoing, bytes) = append(1, 2, 100);
    let received = a.send_until_received(&b, &outgoing);
    assert_eq!((received.envelope, received.records), (outgoing.envelope, bytes));
    assert!(a.peers.alive(NodeId(2)) && b.peers.alive(NodeId(1)));
    assert_eq!(a.peers.client_address(NodeId(2)), Some(format!("client-of-{}", sites[1].id)));
    assert_eq!(a.peers.client_address(NodeId(1)), Some(format!("client-of-{}", sites[0].id)));
}

#[test]
fn control_messages_keep_their_order() {
    let (sites, founding) = sites(2);
    let (a, b) = (sites[0].start(1, &founding), sites[1].start(1, &founding));
    a.send_until_received(&b, &heartbeat(1, 2, 0));
    (1..=500).for_each(|round| a.peers.send(heartbeat(1, 2, round)));
    let mut next = 0;
    while next < 500 {
        let Message::Heartbeat { round, .. } = b.wait_message().envelope.message else { panic!("only heartbeats were sent") };
        assert!(round == next + 1 || round == 0 && next == 0, "{round} after {next}");
        next = round;
    }
}

#[test]
fn an_append_of_sixteen_mebibytes_arrives_whole() {
    let (sites, founding) = sites(2);
    let (a, b) = (sites[0].start(1, &founding), sites[1].start(1, &founding));
    a.wait_up(NodeId(2));
    let (small, _) = append(1, 2, 10);
    a.send_until_received(&b, &small);
    let (outgoing, bytes) = append(1, 2, 16 << 20);
    a.peers.send(outgoing);
    loop {
        let received = b.wait_message().records;
        if received.len() == bytes.len() {
            assert!(received == bytes, "the records differ");
            return;
        }
    }
}

#[test]
fn a_stopped_peer_is_down_at_once_and_comes_back_fresh() {
    let (sites, founding) = sites(2);
    let a = sites[0].start(1, &founding);
    for boot in 1..4 {
        let b = sites[1].start(boot, &founding);
        assert!(a.wait_up(NodeId(2)), "boot {boot} is a new process");
        b.wait_up(NodeId(1));
        a.send_until_received(&b, &heartbeat(1, 2, boot));
        let stopped = Instant::now();
        drop(b);
        a.wait_link(NodeId(2), LinkChange::Down);
        assert!(stopped.elapsed() < timing().silence, "the end of a process is not a matter of silence");
        assert!(!a.peers.alive(NodeId(2)));
    }
}

#[test]
fn a_broken_connection_is_made_again() {
    let (sites, founding) = sites(2);
    let (a, b) = (sites[0].start(1, &founding), sites[1].start(1, &founding));
    a.wait_up(NodeId(2));
    b.wait_up(NodeId(1));
    a.send_until_received(&b, &heartbeat(1, 2, 1));
    let socket = a.peers.links[&(NodeId(2), LinkClass::Control)].socket.lock().clone().expect("a message has just been sent");
    socket.shutdown(Shutdown::Both).expect("the socket is open");
    b.wait_link(NodeId(1), LinkChange::Down);
    assert!(!b.wait_up(NodeId(1)), "it is the same process");
    a.send_until_received(&b, &heartbeat(1, 2, 2));
}

#[test]
fn a_newer_link_replaces_the_older_without_a_down() {
    let (sites, founding) = sites(2);
    let a = sites[0].start(1, &founding);
    let hello = |attempt| sites[1].hello(&founding, LinkClass::Control, 1, attempt);
    let mut first = welcomed(&sites[0], hello(5));
    assert!(a.wait_up(NodeId(2)));
    let second = welcomed(&sites[0], hello(6));
    let fresh = a.wait("event", |event| match event {
        Event::Link(_, LinkChange::Up { fresh, .. }) => Some(fresh),
        other => panic!("{other:?}"),
    });
    assert!(!fresh);
    assert_closed(&mut first);
    let mut late = welcomed(&sites[0], hello(4));
    assert_closed(&mut late);
    a.assert_silent();
    assert!(a.peers.alive(NodeId(2)));
    drop(second);
    a.wait_link(NodeId(2), LinkChange::Down);
}

#[test]
fn the_links_of_an_older_process_end_with_the_first_of_a_newer_one() {
    let (sites, founding) = sites(2);
    let a = sites[0].start(1, &founding);
    let mut control = welcomed(&sites[0], sites[1].hello(&founding, LinkClass::Control, 1, 1));
    let mut bulk = welcomed(&sites[0], sites[1].hello(&founding, LinkClass::Bulk, 1, 2));
    assert!(a.wait_up(NodeId(2)));
    let _newer = welcomed(&sites[0], sites[1].hello(&founding, LinkClass::Bulk, 2, 1));
    assert_closed(&mut control);
    assert_closed(&mut bulk);
    a.wait_link(NodeId(2), LinkChange::Down);
    assert!(refused(&sites[0], sites[1].hello(&founding, LinkClass::Control, 1, 3)).contains("old copy"));
    let _control = welcomed(&sites[0], sites[1].hello(&founding, LinkClass::Control, 2, 2));
    assert!(a.wait_up(NodeId(2)));
}

#[test]
fn those_who_forgot_are_refused_and_nothing_of_them_arrives() {
    let (sites, founding) = sites(3);
    let a = sites[0].start(1, &founding);
    let good = |link| Hello { term: 5, last: EntryId { term: 5, index: 9 }, ..sites[1].hello(&founding, link, 3, 1) };
    drop(welcomed(&sites[0], good(LinkClass::Control)));
    a.wait_link(NodeId(2), LinkChange::Down);
    for link in [LinkClass::Control, LinkClass::Bulk, LinkClass::Snapshot] {
        let expect = |hello: Hello, text: &str| {
            let reason = refused(&sites[0], hello);
            assert!(reason.contains(text), "{reason}");
        };
        expect(Hello { boot: 2, ..good(link) }, "old copy");
        expect(Hello { nonce: 7, ..good(link) }, "second process");
        expect(Hello { uuid: 1, ..good(link) }, "lost its disk");
        expect(Hello { term: 4, ..good(link) }, "rolled back");
        expect(Hello { cluster: 43, ..good(link) }, "belongs to cluster");
        expect(Hello { members: vec![sites[1].id.clone()], ..good(link) }, "names the members");
        expect(Hello { id: sites[0].id.clone(), ..good(link) }, "own id");
        expect(Hello { id: "nobody:1".to_owned(), ..good(link) }, "not a member");
        expect(Hello { versions: (7, 9), ..good(link) }, "protocol 7 to 9");
        expect(Hello { cluster: 0, founding: None, ..good(link) }, "not stored its founding record");
    }
    a.assert_silent();
}

#[test]
fn a_welcome_that_the_dialer_does_not_believe_opens_no_link() {
    let (sites, founding) = sites(2);
    // The first node has seen the second in term 5; the second was rolled back to 4 and does not know it.
    let a = sites[0].start(1, &founding);
    drop(welcomed(&sites[0], Hello { term: 5, ..sites[1].hello(&founding, LinkClass::Control, 1, 1) }));
    a.wait_link(NodeId(2), LinkChange::Down);
    let b = sites[1].start_at(2, &founding, 4, EntryId::default());
    let until = Instant::now() + 5 * timing().pause_max;
    if let Ok(event) = b.inbox.recv_deadline(until) {
        panic!("{event:?} arrived from a node that refuses this one");
    }
    a.assert_silent();
}

#[test]
fn what_was_seen_of_a_peer_survives_a_restart() {
    let (sites, founding) = sites(2);
    let last = EntryId { term: 5, index: 9 };
    let hello = |boot| Hello { term: 5, last, ..sites[1].hello(&founding, LinkClass::Control, boot, 1) };
    {
        let a = sites[0].start(1, &founding);
        let link = welcomed(&sites[0], hello(3));
        a.wait_up(NodeId(2));
        a.view.set_acknowledged(NodeId(2), last);
        drop(link);
        a.wait_link(NodeId(2), LinkChange::Down);
    }
    let a = sites[0].start(2, &founding);
    assert!(refused(&sites[0], hello(2)).contains("old copy"));
    assert!(refused(&sites[0], Hello { term: 4, ..hello(4) }).contains("rolled back"));
    assert!(refused(&sites[0], Hello { last: EntryId { term: 5, index: 8 }, ..hello(4) }).contains("rolled back"));
    drop(welcomed(&sites[0], hello(4)));
    assert!(a.wait_up(NodeId(2)));
}

#[test]
fn a_term_heard_in_a_message_is_remembered() {
    let (sites, founding) = sites(2);
    let a = sites[0].start(1, &founding);
    let hello = |term| Hello { term, ..sites[1].hello(&founding, LinkClass::Control, 1, 1) };
    let mut link = welcomed(&sites[0], hello(1));
    let mut bytes = Vec::new();
    let envelope = Envelope { term: 8, ..heartbeat(2, 1, 1).envelope };
    peer::encode(&mut bytes, &envelope, |_| Ok(())).expect("within the limits");
    link.write_all(&bytes).expect("the link is open");
    assert_eq!(a.wait_message().envelope, envelope);
    drop(link);
    a.wait_link(NodeId(2), LinkChange::Down);
    assert!(refused(&sites[0], hello(7)).contains("rolled back"));
}

#[test]
fn an_empty_member_is_shown_the_record() {
    let (sites, founding) = sites(2);
    let _a = sites[0].start(1, &founding);
    let empty = Hello { cluster: 0, founding: None, ..sites[1].hello(&founding, LinkClass::Founding, 1, 1) };
    match dial(&sites[0], empty) {
        (_, Greeting::Welcome(welcome)) => assert_eq!(welcome.founding, Some(founding)),
        (_, other) => panic!("welcome expected, got {other:?}"),
    }
}

#[test]
fn bytes_that_are_no_protocol_close_the_link_and_nothing_else() {
    let (sites, founding) = sites(2);
    let (a, b) = (sites[0].start(1, &founding), sites[1].start(1, &founding));
    a.wait_up(NodeId(2));
    for garbage in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &[0xff; 4096], &[0; 64], b""] {
        let mut stream = TcpStream::connect(&sites[0].id).expect("the site listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit above zero");
        // The site may have closed its end by then.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(Shutdown::Write);
        assert_closed(&mut stream);
    }
    b.wait_up(NodeId(1));
    b.send_until_received(&a, &heartbeat(2, 1, 1));
}

#[test]
fn a_bad_message_on_a_good_link_ends_it() {
    let (sites, founding) = sites(2);
    let a = sites[0].start(1, &founding);
    let bad = |attempt: u64, outgoing: &Outgoing, flip: bool| {
        let mut link = welcomed(&sites[0], sites[1].hello(&founding, LinkClass::Control, 1, attempt));
        a.wait_up(NodeId(2));
        let mut bytes = Vec::new();
        peer::encode(&mut bytes, &outgoing.envelope, |_| Ok(())).expect("within the limits");
        bytes[frame::PREFIX_BYTES] ^= u8::from(flip);
        link.write_all(&bytes).expect("the link is open");
        assert_closed(&mut link);
        match a.wait("end", Some) {
            Event::Link(NodeId(2), LinkChange::Down) => {}
            other => panic!("{other:?}"),
        }
    };
    bad(1, &heartbeat(2, 1, 1), true);
    bad(2, &heartbeat(1, 1, 1), false);
    bad(3, &heartbeat(2, 3, 1), false);
    bad(4, &append(2, 1, 0).0, false);
}

#[test]
fn a_silent_link_is_cut() {
    let (sites, founding) = sites(2);
    let a = sites[0].start(1, &founding);
    let mut link = welcomed(&sites[0], sites[1].hello(&founding, LinkClass::Control, 1, 1));
    a.wait_up(NodeId(2));
    let opened = Instant::now();
    a.wait_link(NodeId(2), LinkChange::Down);
    assert!(opened.elapsed() >= timing().silence / 2, "cut after {:?}", opened.elapsed());
    assert_closed(&mut link);
}

#[test]
fn an_idle_link_stays() {
    let (sites, founding) = sites(2);
    let (a, b) = (sites[0].start(1, &founding), sites[1].start(1, &founding));
    a.wait_up(NodeId(2));
    b.wait_up(NodeId(1));
    let until = Instant::now() + timing().silence * 2;
    while let Ok(event) = a.inbox.recv_deadline(until) {
        assert!(!matches!(event, Event::Link(_, LinkChange::Down | LinkChange::Up { .. })), "{event:?} on an idle link");
    }
}

#[test]
fn a_handshake_that_trickles_is_cut_and_strangers_lock_nobody_out() {
    let (sites, founding) = sites(2);
    let a = sites[0].start(1, &founding);
    let mut idle: Vec<TcpStream> =
        (0..2 * crate::server::acceptor::PENDING_MAX).map(|_| TcpStream::connect(&sites[0].id).expect("a connection")).collect();
    let mut trickling = TcpStream::connect(&sites[0].id).expect("a connection");
    let started = Instant::now();
    // The head announces 100 bytes; one comes now and then.
    let _ = trickling.write_all(&[100, 0, 0, 0]);
    while trickling.write_all(&[0]).is_ok() {
        assert!(started.elapsed() < DEADLINE, "a trickling handshake was not cut");
        thread::sleep(Duration::from_millis(20));
    }
    for stream in &mut idle {
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit above zero");
        assert_closed(stream);
    }
    let b = sites[1].start(1, &founding);
    a.wait_up(NodeId(2));
    b.wait_up(NodeId(1));
}

#[test]
fn a_peer_that_does_not_read_costs_drops_and_never_time() {
    let (sites, founding) = sites(2);
    let deaf = sites[1].listener.try_clone().expect("a descriptor is left");
    let a = sites[0].start(1, &founding);
    let accepting = |class: LinkClass| loop {
        let (mut stream, _) = deaf.accept().expect("the node dials");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit above zero");
        let Ok(Some(frame)) = frame::read(&mut stream) else { continue };
        let Ok(Greeting::Hello(hello)) = Greeting::decode(&frame) else { panic!("a hello comes first") };
        let welcome = Greeting::Welcome(Box::new(sites[1].hello(&founding, hello.link, 1, 0)));
        stream.write_all(&welcome.encode().expect("within the limits")).expect("the connection is open");
        if hello.link == class {
            return stream;
        }
    };
    let _unread = accepting(LinkClass::Bulk);
    let (outgoing, _) = append(1, 2, 1 << 20);
    let until = Instant::now() + DEADLINE;
    let connected = &a.peers.links[&(NodeId(2), LinkClass::Bulk)].connected;
    while !connected.load(Ordering::SeqCst) {
        assert!(Instant::now() < until, "the bulk link did not open");
        thread::yield_now();
    }
    while a.inbox.try_recv().is_ok() {}
    let mut slowest = Duration::ZERO;
    for _ in 0..2 * BULK_QUEUE {
        let before = Instant::now();
        a.peers.send(outgoing.clone());
        slowest = slowest.max(before.elapsed());
    }
    assert!(slowest < Duration::from_millis(500), "one send took {slowest:?}");
    a.wait_link(NodeId(2), LinkChange::Dropped);
    let stopping = Instant::now();
    a.peers.stop();
    assert!(stopping.elapsed() < Duration::from_secs(3), "the stop took {:?}", stopping.elapsed());
}

#[test]
fn entries_for_a_peer_that_is_away_are_reported_as_dropped() {
    let (sites, founding) = sites(2);
    let a = sites[0].start(1, &founding);
    a.peers.send(append(1, 2, 10).0);
    a.wait_link(NodeId(2), LinkChange::Dropped);
}
