//! Nodes in one process over loopback, with inboxes that are only looked at. Every wait has a deadline.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crossbeam_channel::unbounded;
use tempfile::TempDir;

use super::*;
use crate::protocol::handshake::{Greeting, Hello};
use crate::protocol::{frame, peer};
use crate::raft::{Entries, EntryId, Envelope, Message};
use crate::server::event::Incoming;
use crate::server::join::{JoinConfig, found_or_join};
use crate::server::shared::bare_hello;
use crate::server::sockets::greet;
use crate::storage::directory::FoundingMember;
use crate::storage::disk::Disk;
use crate::storage::log::Piece;
use crate::storage::real::RealDisk;
use crate::storage::record::{self, Kind};

const DEADLINE: Duration = Duration::from_secs(10);

fn timing() -> Timing {
    Timing {
        handshake: Duration::from_millis(700),
        keepalive: Duration::from_millis(50),
        silence: Duration::from_millis(1500),
        pause_max: Duration::from_millis(100),
        marks: Duration::from_millis(50),
        ..Timing::default()
    }
}

/// A node's place in the world, which outlives its processes: address and disk.
struct Site {
    id: String,
    listener: TcpListener,
    uuid: u128,
    directory: TempDir,
}

impl Site {
    fn new() -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let id = listener.local_addr().expect("a bound socket has an address").to_string();
        let site = Site { id, listener, uuid: rand::random(), directory: TempDir::new().expect("a scratch directory") };
        SlotFile::create(&site.disk(), "marks", 16 << 10, &[]).expect("the scratch directory is writable");
        site
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(RealDisk::open(self.directory.path()).expect("the scratch directory opens"))
    }

    fn listeners(&self) -> Vec<TcpListener> {
        vec![self.listener.try_clone().expect("a descriptor is left")]
    }

    fn identity(&self, boot: u64) -> Identity {
        Identity { uuid: self.uuid, boot, nonce: boot + 1000 }
    }

    fn start(&self, boot: u64, founding: &Founding) -> Running {
        self.start_at(boot, founding, 0, EntryId::default())
    }

    fn start_at(&self, boot: u64, founding: &Founding, term: u64, last: EntryId) -> Running {
        let (sender, inbox) = unbounded::<Event<()>>();
        let view = Arc::new(PeerView::new(term, last));
        let config = PeersConfig {
            id: self.id.clone(),
            identity: self.identity(boot),
            founding: founding.clone(),
            dial: BTreeMap::new(),
            listeners: self.listeners(),
            client_address: format!("client-of-{}", self.id),
            marks: SlotFile::open(&self.disk(), "marks").expect("the marks are whole"),
            timing: timing(),
        };
        let fatal: Fatal = Arc::new(|error| panic!("fatal: {error}"));
        let peers = Peers::start(config, sender, view.clone(), fatal).expect("the transport starts");
        Running { peers, inbox, view }
    }

    /// What this site would say on a link of its own making.
    fn hello(&self, founding: &Founding, link: LinkClass, boot: u64, attempt: u64) -> Hello {
        let members = crate::server::identity::ids_of(founding);
        let bare = bare_hello(&self.id, "raw", self.identity(boot), members, link);
        Hello { cluster: founding.cluster, founding: Some(founding.clone()), attempt, ..bare }
    }
}

struct Running {
    peers: Peers,
    inbox: Receiver<Event<()>>,
    view: Arc<PeerView>,
}

impl Running {
    /// The next event that `wanted` recognises; others are passed over.
    fn wait<T>(&self, what: &str, mut wanted: impl FnMut(Event<()>) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            let event = self.inbox.recv_deadline(until).unwrap_or_else(|_| panic!("no {what} within {DEADLINE:?}"));
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    fn wait_up(&self, peer: NodeId) -> bool {
        self.wait("open link", |event| match event {
            Event::Link(from, LinkChange::Up { fresh }) if from == peer => Some(fresh),
            _ => None,
        })
    }

    fn wait_link(&self, peer: NodeId, change: LinkChange) {
        self.wait(&format!("{change:?}"), |event| matches!(event, Event::Link(from, seen) if from == peer && seen == change).then_some(()));
    }

    fn wait_message(&self) -> Incoming {
        self.wait("message", |event| match event {
            Event::Peer(incoming) => Some(incoming),
            _ => None,
        })
    }

    /// Sends until it arrives: a link may not be open yet.
    fn send_until_received(&self, receiver: &Running, outgoing: &Outgoing) -> Incoming {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            self.peers.send(outgoing.clone());
            let soon = Instant::now() + Duration::from_millis(300);
            while let Ok(event) = receiver.inbox.recv_deadline(soon) {
                if let Event::Peer(incoming) = event {
                    return incoming;
                }
            }
        }
        panic!("{:?} did not arrive within {DEADLINE:?}", outgoing.envelope);
    }

    fn assert_silent(&self) {
        if let Ok(event) = self.inbox.try_recv() {
            panic!("nothing was to arrive, and {event:?} did");
        }
    }
}

/// Sites sorted by id, so that a site's place is its rank, and their founding record.
fn sites(count: usize) -> (Vec<Site>, Founding) {
    let mut sites: Vec<Site> = (0..count).map(|_| Site::new()).collect();
    sites.sort_by(|a, b| a.id.cmp(&b.id));
    let members = sites.iter().map(|site| FoundingMember { id: site.id.clone(), uuid: site.uuid }).collect();
    (sites, Founding { cluster: 42, members })
}

fn heartbeat(from: u32, to: u32, round: u64) -> Outgoing {
    let message = Message::Heartbeat { commit: 0, round };
    Outgoing { envelope: Envelope { from: NodeId(from), to: NodeId(to), term: 1, message }, records: Vec::new() }
}

/// An append of one record of about this size, and its bytes.
fn append(from: u32, to: u32, size: usize) -> (Outgoing, Vec<u8>) {
    let mut bytes = Vec::new();
    record::encode(&mut bytes, Kind::Command, &vec![7; size]);
    record::seal(&mut bytes, EntryId { term: 1, index: 1 });
    let mut entries = Entries::default();
    entries.push(1);
    let message = Message::Append { prev: EntryId::default(), entries, commit: 0, round: 0 };
    let envelope = Envelope { from: NodeId(from), to: NodeId(to), term: 1, message };
    (Outgoing { envelope, records: vec![piece(&bytes)] }, bytes)
}

fn piece(bytes: &[u8]) -> Piece {
    Piece::of_records(bytes.to_vec())
}

/// Dials a site as `hello` says, and returns the socket and the answer.
fn dial(site: &Site, hello: Hello) -> (TcpStream, Greeting) {
    let stream = TcpStream::connect(&site.id).expect("the site listens");
    let greeting = greet(&stream, hello, DEADLINE).expect("an answer");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit above zero");
    (stream, greeting)
}

fn welcomed(site: &Site, hello: Hello) -> TcpStream {
    match dial(site, hello) {
        (stream, Greeting::Welcome(_)) => stream,
        (_, other) => panic!("welcome expected, got {other:?}"),
    }
}

fn refused(site: &Site, hello: Hello) -> String {
    match dial(site, hello) {
        (_, Greeting::Refusal(reason)) => reason,
        (_, other) => panic!("refusal expected, got {other:?}"),
    }
}

fn assert_closed(stream: &mut TcpStream) {
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => {}
        other => panic!("the connection should be closed, and a read gives {other:?}"),
    }
}

fn join(site: &Site, members: &[String], stop: &AtomicBool) -> Result<Founding> {
    let listeners = site.listeners();
    let config = JoinConfig {
        id: &site.id,
        members,
        identity: site.identity(1),
        dial: &BTreeMap::new(),
        listeners: &listeners,
        client_address: "c",
        timing: timing(),
    };
    found_or_join(&config, stop)
}

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
                    Event::Link(peer, LinkChange::Up { fresh }) => Some((peer, fresh)),
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
        Event::Link(_, LinkChange::Up { fresh }) => Some(fresh),
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
fn those_who_forgot_are_refused_and_nothing_of_them_arrives() {
    let (sites, founding) = sites(3);
    let a = sites[0].start(1, &founding);
    let good = |link| Hello { term: 5, last: EntryId { term: 5, index: 9 }, ..sites[1].hello(&founding, link, 3, 1) };
    drop(welcomed(&sites[0], good(LinkClass::Control)));
    a.wait_link(NodeId(2), LinkChange::Down);
    for link in [LinkClass::Control, LinkClass::Bulk] {
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
        stream.write_all(garbage).expect("the connection is open");
        stream.shutdown(Shutdown::Write).expect("the connection is open");
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
