//! A client port with a Raft thread that does as it is told, and a client that sends and receives raw frames.

use super::engine::Engine;
use apexkv::raft::NodeId;
use apexkv::server::accept::listen;
use apexkv::server::clients::{ClientLimits, ClientPort, ClientPortConfig, NodeView};
use apexkv::server::event::{ClientBatch, Event, Outcome, Request, Slot};
use apexkv::server::gate::{EarlyRead, ReadGate};
use apexkv::server::mailbox::{Receiver, Sender, unbounded};
use apexkv::server::metrics::Metrics;
use apexkv::server::shared::OnDamage;
use apexkv::server::{Connection, Values};
use apexkv::storage::simulated::SimulatedDisk;
use apexkv_client::protocol::{
    Command, Extension, RESPONSE_HEADER, ResponseHeader, Status, encode_extended_request, encode_request, response_crc,
};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than anything here takes, so that a test that hangs fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The leader that refusals name, and where its clients connect.
pub(crate) const LEADER: (NodeId, &str) = (NodeId(7), "leader.example:9001");

/// What the Raft thread does with a batch.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// Applies it and answers at once.
    Prompt,
    /// Applies what waits and answers slot by slot, in an order drawn from this seed.
    Shuffled(u64),
    /// Leaves it until the mode changes.
    Hold,
    /// Confirms barriers before the writes that arrived earlier are applied; those wait until the mode changes.
    HoldWrites,
    /// Answers everything with this.
    Refuse(Outcome),
}

type Batch = ClientBatch<Arc<Connection>>;

/// A running port and what stands behind it.
pub(crate) struct Server {
    pub(crate) port: Option<ClientPort>,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    /// What was told of damage.
    pub(crate) damage: Arc<Mutex<Vec<String>>>,
    mode: Arc<Mutex<Mode>>,
    confirmed: Arc<AtomicU64>,
    gate: Arc<ReadGate<Arc<Connection>>>,
    inbox: Option<Sender<Event<Arc<Connection>>>>,
    seen: crossbeam_channel::Receiver<SeenBatch>,
    disk: Option<Arc<SimulatedDisk>>,
    thread: Option<JoinHandle<()>>,
}

/// What the Raft thread was given in one batch.
#[derive(Debug)]
pub(crate) struct SeenBatch {
    pub(crate) requests: usize,
    pub(crate) barrier: bool,
    pub(crate) deadline_ms: u32,
}

struct View;

impl NodeView for View {
    fn client_address(&self, node: NodeId) -> Option<String> {
        (node == LEADER.0).then(|| LEADER.1.to_owned())
    }

    fn status_json(&self) -> String {
        r#"{"id":"test:1"}"#.to_owned()
    }
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::with(ClientLimits::default())
    }

    pub(crate) fn with(limits: ClientLimits) -> Server {
        let mut server = Server::detached(limits);
        let engine = Engine::new();
        server.disk = Some(engine.disk());
        let (inbox, events) = unbounded();
        let (seen, seen_here) = crossbeam_channel::unbounded();
        let damage = Arc::clone(&server.damage);
        let on_damage: OnDamage = Arc::new(move |error| damage.lock().expect("no holder panics").push(error.to_string()));
        let values = Values { store: engine.store(), on_damage };
        server.port.as_ref().expect("started").attach(inbox.clone(), inbox.clone(), Arc::clone(&server.gate), values);
        let (mode, confirmed) = (Arc::clone(&server.mode), Arc::clone(&server.confirmed));
        let raft = Raft { engine, mode, confirmed, held: Vec::new(), looked: Vec::new(), seen };
        server.thread = Some(std::thread::spawn(move || raft.run(&events)));
        (server.inbox, server.seen) = (Some(inbox), seen_here);
        server
    }

    /// A port whose node has no Raft thread yet.
    pub(crate) fn detached(limits: ClientLimits) -> Server {
        let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let metrics = Arc::new(Metrics::default());
        let config = ClientPortConfig { listeners: vec![listener], limits, metrics: Arc::clone(&metrics) };
        let port = ClientPort::start(config, Arc::new(View)).expect("the port starts");
        let mode = Arc::new(Mutex::new(Mode::Prompt));
        let confirmed = Arc::default();
        let gate = Arc::new(ReadGate::new());
        let (damage, seen) = (Arc::default(), crossbeam_channel::unbounded().1);
        Server { port: Some(port), address, metrics, damage, mode, confirmed, gate, inbox: None, seen, disk: None, thread: None }
    }

    /// From now on the connections may look up before a read is confirmed.
    pub(crate) fn serve_early(&self) {
        self.gate.set_serving(1);
    }

    pub(crate) fn connect(&self) -> Client {
        let socket = TcpStream::connect(self.address).expect("connect");
        socket.set_nodelay(true).expect("an option");
        socket.set_read_timeout(Some(PATIENCE)).expect("an option");
        socket.set_write_timeout(Some(PATIENCE)).expect("an option");
        Client { socket, outgoing: Vec::new() }
    }

    pub(crate) fn mode(&self, mode: Mode) {
        *self.mode.lock().expect("no panic") = mode;
    }

    /// Waits until `bytes` are in a file of the log and flips a bit of the first of them.
    pub(crate) fn rot(&self, bytes: &[u8]) {
        let disk = self.disk.as_ref().expect("a server with a disk");
        eventually("the bytes are on the disk", || {
            let names = disk.boot().list().expect("a list");
            names.iter().filter(|name| name.ends_with(".log")).any(|name| {
                let content = disk.durable(name).unwrap_or_default();
                let at = content.windows(bytes.len()).position(|window| window == bytes);
                at.is_some_and(|at| disk.rot(name, at as u64, 1).is_ok())
            })
        });
    }

    /// How many read batches were confirmed ahead of writes.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed.load(SeqCst)
    }

    /// The next batch that the Raft thread was given.
    pub(crate) fn next_batch(&self) -> SeenBatch {
        self.seen.recv_timeout(PATIENCE).expect("a batch reaches the Raft thread")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.mode(Mode::Prompt);
        drop(self.port.take());
        drop(self.inbox.take());
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().expect("the Raft thread saw nothing wrong");
        }
    }
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Raft {
    engine: Engine,
    mode: Arc<Mutex<Mode>>,
    confirmed: Arc<AtomicU64>,
    held: Vec<Batch>,
    /// Reads that wait for their confirmation.
    looked: Vec<EarlyRead<Arc<Connection>>>,
    seen: crossbeam_channel::Sender<SeenBatch>,
}

impl Raft {
    fn run(mut self, events: &Receiver<Event<Arc<Connection>>>) {
        loop {
            match events.recv_timeout(Duration::from_millis(2)) {
                Ok(event) => self.take(event),
                Err(apexkv::server::mailbox::RecvTimeoutError::Timeout) => {}
                Err(apexkv::server::mailbox::RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(event) = events.try_recv() {
                self.take(event);
            }
            self.work();
            self.confirm();
            self.engine.write();
        }
    }

    fn take(&mut self, event: Event<Arc<Connection>>) {
        let batch = match event {
            Event::Client(batch) => batch,
            Event::Reads(gate) => return self.looked.extend(gate.take()),
            event => panic!("a client port sends no {event:?}"),
        };
        let (requests, barrier, deadline_ms) = (batch.requests.len(), batch.barrier.is_some(), batch.deadline_ms);
        // Nobody listens in most tests.
        let _ = self.seen.send(SeenBatch { requests, barrier, deadline_ms });
        self.held.push(batch);
    }

    /// Answers reads that were looked up early as the mode wants it.
    fn confirm(&mut self) {
        let outcome = match self.mode.lock().expect("no panic").clone() {
            Mode::Hold => return,
            Mode::Refuse(outcome) => outcome,
            _ => Outcome::Proceed,
        };
        for read in self.looked.drain(..) {
            self.confirmed.fetch_add(1, SeqCst);
            read.client.complete([(read.slot, outcome.clone())]);
        }
    }

    fn work(&mut self) {
        let mode = self.mode.lock().expect("no panic").clone();
        match mode {
            Mode::Hold => {}
            Mode::HoldWrites => self.held.retain(|batch| {
                let only_reads = batch.requests.is_empty();
                if only_reads {
                    batch.client.complete(batch.barrier.map(|slot| (slot, Outcome::Proceed)));
                    self.confirmed.fetch_add(1, SeqCst);
                }
                !only_reads
            }),
            Mode::Refuse(outcome) => {
                for batch in self.held.drain(..) {
                    batch.client.complete(slots(&batch).into_iter().map(|slot| (slot, outcome.clone())));
                }
            }
            Mode::Prompt => {
                for batch in std::mem::take(&mut self.held) {
                    let replies = self.engine.apply(&batch);
                    batch.client.complete(replies);
                }
            }
            Mode::Shuffled(seed) => {
                let mut replies = Vec::new();
                for batch in std::mem::take(&mut self.held) {
                    let client = Arc::clone(&batch.client);
                    replies.extend(self.engine.apply(&batch).into_iter().map(|reply| (Arc::clone(&client), reply)));
                }
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                replies.shuffle(&mut random);
                while !replies.is_empty() {
                    let some = random.random_range(1..=replies.len().min(5));
                    for (client, reply) in replies.drain(..some) {
                        client.complete(vec![reply]);
                    }
                }
            }
        }
    }
}

fn slots(batch: &Batch) -> Vec<Slot> {
    let requests = batch.requests.iter().map(|request| match request {
        Request::Write { slot } | Request::Lookup { slot, .. } => *slot,
    });
    requests.chain(batch.barrier).collect()
}

/// A client that speaks frames.
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    outgoing: Vec<u8>,
}

/// Status and payload.
pub(crate) type Response = (Status, Vec<u8>);

impl Client {
    /// Puts a plain request into the next [`Client::flush`].
    pub(crate) fn queue(&mut self, command: Command, key: &[u8], value: &[u8]) -> &mut Client {
        encode_request(&mut self.outgoing, command, key, &[value]);
        self
    }

    /// The same for an extended request.
    pub(crate) fn queue_extended(&mut self, command: Command, key: &[u8], value: &[u8], extension: Extension) -> &mut Client {
        encode_extended_request(&mut self.outgoing, command, key, &[value], extension);
        self
    }

    /// The same for any bytes.
    pub(crate) fn queue_bytes(&mut self, bytes: &[u8]) -> &mut Client {
        self.outgoing.extend_from_slice(bytes);
        self
    }

    /// Sends all that was queued in one go.
    pub(crate) fn flush(&mut self) {
        self.socket.write_all(&std::mem::take(&mut self.outgoing)).expect("send");
    }

    /// Sends all that was queued byte by byte, each in a packet of its own.
    pub(crate) fn flush_slowly(&mut self) {
        for byte in std::mem::take(&mut self.outgoing) {
            self.socket.write_all(&[byte]).expect("send");
        }
    }

    pub(crate) fn call(&mut self, command: Command, key: &[u8], value: &[u8]) -> Response {
        self.queue(command, key, value).flush();
        self.receive()
    }

    /// The next plain response.
    pub(crate) fn receive(&mut self) -> Response {
        let (header, payload) = self.receive_any();
        assert_eq!(header.extended, None, "a plain response");
        (header.status, payload)
    }

    /// The next extended response: its request id too.
    pub(crate) fn receive_extended(&mut self) -> (Response, u64) {
        let (header, payload) = self.receive_any();
        let (id, _) = header.extended.expect("an extended response");
        ((header.status, payload), id)
    }

    fn receive_any(&mut self) -> (ResponseHeader, Vec<u8>) {
        let mut frame = vec![0; RESPONSE_HEADER];
        self.socket.read_exact(&mut frame).expect("a response");
        if frame[0] & 0x80 != 0 {
            frame.resize(17, 0);
            self.socket.read_exact(&mut frame[RESPONSE_HEADER..]).expect("a response");
        }
        let header = ResponseHeader::parse(&frame).expect("a whole header");
        let start = frame.len();
        frame.resize(start + header.payload_length as usize, 0);
        self.socket.read_exact(&mut frame[start..]).expect("a whole payload");
        if let Some((_, crc)) = header.extended {
            assert_eq!(crc, response_crc(&frame), "the response's CRC");
        }
        (header, frame.split_off(start))
    }

    /// Asserts that the server sends nothing more and ends the stream in order.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.socket.read_to_end(&mut rest).expect("an orderly end");
        assert!(rest.is_empty(), "{} more bytes before the end", rest.len());
    }

    /// Waits for the end of the stream, in whatever way.
    pub(crate) fn wait_for_end(&mut self) {
        let mut buffer = [0; 4096];
        while matches!(self.socket.read(&mut buffer), Ok(received) if received > 0) {}
    }

    pub(crate) fn finish_sending(&self) {
        self.socket.shutdown(Shutdown::Write).expect("half a close");
    }
}

/// An OK with a version.
pub(crate) fn version(response: &Response) -> u64 {
    assert_eq!(response.0, Status::Ok, "{}", String::from_utf8_lossy(&response.1));
    u64::from_le_bytes(response.1.as_slice().try_into().expect("8 bytes"))
}

/// Asserts the status and returns the text.
pub(crate) fn text(response: Response, status: Status) -> String {
    let text = String::from_utf8(response.1).expect("UTF-8");
    assert_eq!(response.0, status, "{text}");
    text
}

/// Status and payload in one line, for comparing.
pub(crate) fn ok(payload: &[u8]) -> Response {
    (Status::Ok, payload.to_vec())
}
