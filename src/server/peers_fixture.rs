//! Nodes in one process over loopback, with inboxes that are only looked at. Every wait has a deadline.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crossbeam_channel::unbounded;
use tempfile::TempDir;

use super::*;
use crate::protocol::handshake::{Greeting, Hello};
use crate::protocol::peer;
use crate::raft::{Entries, EntryId, Envelope, Message};
use crate::server::event::Incoming;
use crate::server::identity::ids_of;
use crate::server::join::{JoinConfig, found_or_join};
use crate::server::shared::bare_hello;
use crate::server::sockets::greet;
use crate::storage::Options;
use crate::storage::directory::{Directory, FoundingMember, Opened};
use crate::storage::disk::Disk;
use crate::storage::log::{Piece, Room};
use crate::storage::real::RealDisk;
use crate::storage::record::{self, Operation};
use crate::storage::simulated::SimulatedDisk;
use crate::storage::writer::{Completion, Job};

pub(super) const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn timing() -> Timing {
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
pub(super) struct Site {
    pub(super) id: String,
    pub(super) listener: TcpListener,
    pub(super) uuid: u128,
    pub(super) directory: TempDir,
}

impl Site {
    pub(super) fn new() -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let id = listener.local_addr().expect("a bound socket has an address").to_string();
        let site = Site { id, listener, uuid: rand::random(), directory: TempDir::new().expect("a scratch directory") };
        SlotFile::create(&site.disk(), "marks", 16 << 10, &[]).expect("the scratch directory is writable");
        site
    }

    pub(super) fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(RealDisk::open(self.directory.path()).expect("the scratch directory opens"))
    }

    pub(super) fn listeners(&self) -> Vec<TcpListener> {
        vec![self.listener.try_clone().expect("a descriptor is left")]
    }

    pub(super) fn identity(&self, boot: u64) -> Identity {
        Identity { uuid: self.uuid, boot, nonce: boot + 1000 }
    }

    pub(super) fn start(&self, boot: u64, founding: &Founding) -> Running {
        self.start_at(boot, founding, 1, EntryId::default())
    }

    pub(super) fn start_at(&self, boot: u64, founding: &Founding, term: u64, last: EntryId) -> Running {
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
            snapshots: opened().snapshots,
            on_damage: Arc::new(|error| panic!("damage: {error}")),
            metrics: Arc::default(),
            timing: timing(),
        };
        let fatal: Fatal = Arc::new(|error| panic!("fatal: {error}"));
        let peers = Peers::start(config, sender, view.clone(), fatal).expect("the transport starts");
        Running { peers, inbox, view }
    }

    /// What this site would say on a link of its own making.
    pub(super) fn hello(&self, founding: &Founding, link: LinkClass, boot: u64, attempt: u64) -> Hello {
        let members = ids_of(founding);
        let bare = bare_hello(&self.id, "raw", self.identity(boot), members, link);
        Hello { cluster: founding.cluster, term: 1, founding: Some(founding.clone()), attempt, ..bare }
    }
}

pub(super) struct Running {
    pub(super) peers: Peers,
    pub(super) inbox: Receiver<Event<()>>,
    pub(super) view: Arc<PeerView>,
}

impl Running {
    /// The next event that `wanted` recognises; others are passed over.
    pub(super) fn wait<T>(&self, what: &str, mut wanted: impl FnMut(Event<()>) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            let event = self.inbox.recv_deadline(until).unwrap_or_else(|_| panic!("no {what} within {DEADLINE:?}"));
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    pub(super) fn wait_up(&self, peer: NodeId) -> bool {
        self.wait("open link", |event| match event {
            Event::Link(from, LinkChange::Up { fresh }) if from == peer => Some(fresh),
            _ => None,
        })
    }

    pub(super) fn wait_link(&self, peer: NodeId, change: LinkChange) {
        self.wait(&format!("{change:?}"), |event| matches!(event, Event::Link(from, seen) if from == peer && seen == change).then_some(()));
    }

    pub(super) fn wait_message(&self) -> Incoming {
        self.wait("message", |event| match event {
            Event::Peer(incoming) => Some(incoming),
            _ => None,
        })
    }

    /// Sends until it arrives: a link may not be open yet.
    pub(super) fn send_until_received(&self, receiver: &Running, outgoing: &Outgoing) -> Incoming {
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

    pub(super) fn assert_silent(&self) {
        if let Ok(event) = self.inbox.try_recv() {
            panic!("nothing was to arrive, and {event:?} did");
        }
    }
}

/// Sites sorted by id, so that a site's place is its rank, and their founding record.
pub(super) fn sites(count: usize) -> (Vec<Site>, Founding) {
    let mut sites: Vec<Site> = (0..count).map(|_| Site::new()).collect();
    sites.sort_by(|a, b| a.id.cmp(&b.id));
    let members = sites.iter().map(|site| FoundingMember { id: site.id.clone(), uuid: site.uuid }).collect();
    (sites, Founding { cluster: 42, members })
}

pub(super) fn heartbeat(from: u32, to: u32, round: u64) -> Outgoing {
    let message = Message::Heartbeat { commit: 0, round };
    Outgoing { envelope: Envelope { from: NodeId(from), to: NodeId(to), term: 1, message }, records: Vec::new() }
}

/// An append of one record of about this size, and its bytes.
pub(super) fn append(from: u32, to: u32, size: usize) -> (Outgoing, Vec<u8>) {
    let mut bytes = Vec::new();
    record::encode_operation(&mut bytes, &Operation::Set { key: b"key", value: &vec![7; size] });
    record::seal(&mut bytes, EntryId { term: 1, index: 1 });
    let mut entries = Entries::default();
    entries.push(1);
    let message = Message::Append { prev: EntryId::default(), entries, commit: 0, round: 0 };
    let envelope = Envelope { from: NodeId(from), to: NodeId(to), term: 1, message };
    (Outgoing { envelope, records: pieces(&bytes) }, bytes)
}

/// A new directory on a simulated disk.
pub(super) fn opened() -> Opened {
    let disk: Arc<dyn Disk> = SimulatedDisk::new(1);
    let mut directory = Directory::open(disk, "a:1").expect("a new disk");
    let member = FoundingMember { id: "a:1".to_owned(), uuid: directory.identity().uuid };
    directory.found(&Founding { cluster: 1, members: vec![member] }).expect("a new disk");
    directory.open_log(&Options { segment_bytes: 1 << 20, reserve_bytes: 0 }).expect("a new disk")
}

/// Sealed records as a log pins them: appended to one on a simulated disk, and not written yet.
pub(super) fn pieces(records: &[u8]) -> Vec<Piece> {
    let mut opened = opened();
    while !matches!(opened.log.room(records.len()), Room::Yes) {
        let segment = opened.workers.preparer.prepare(records.len() as u64).expect("a simulated disk has room");
        match opened.workers.writer.run(Job::List(segment)).expect("nothing fails here") {
            Completion::Listed(segment) => opened.log.add_prepared(segment),
            other => panic!("a listing ended with {other:?}"),
        }
    }
    let count = opened.log.append(records.to_vec()).len() as u64;
    opened.log.freeze();
    opened.log.pieces(1, count)
}

/// Dials a site as `hello` says, and returns the socket and the answer.
pub(super) fn dial(site: &Site, hello: Hello) -> (TcpStream, Greeting) {
    let stream = TcpStream::connect(&site.id).expect("the site listens");
    let greeting = greet(&stream, hello, DEADLINE).expect("an answer");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit above zero");
    (stream, greeting)
}

pub(super) fn welcomed(site: &Site, hello: Hello) -> TcpStream {
    match dial(site, hello) {
        (mut stream, Greeting::Welcome(_)) => {
            let mut content = Vec::new();
            peer::encode_keepalive(&mut content).expect("within the limits");
            stream.write_all(&content).expect("the connection is open");
            stream
        }
        (_, other) => panic!("welcome expected, got {other:?}"),
    }
}

pub(super) fn refused(site: &Site, hello: Hello) -> String {
    match dial(site, hello) {
        (_, Greeting::Refusal(reason)) => reason,
        (_, other) => panic!("refusal expected, got {other:?}"),
    }
}

pub(super) fn assert_closed(stream: &mut TcpStream) {
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => {}
        other => panic!("the connection should be closed, and a read gives {other:?}"),
    }
}

pub(super) fn join(site: &Site, members: &[String], stop: &AtomicBool) -> Result<Founding> {
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
