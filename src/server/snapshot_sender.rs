//! The sending side of a snapshot's connection: a thread for each transfer, which reads the pinned files from the place that the receiver
//! names and waits for its answers. Ends when the receiver has everything, or says why it cannot, or this node no longer leads the term.
//! Memory holds one chunk and what the hint of one file names. A damaged file ends the transfer and nothing else.

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::dialer::{Dialer, SocketInUse};
use super::event::OutgoingSnapshot;
use super::pace::{Pace, Rates};
use super::shared::Shared;
use super::sockets::describe_error;
use crate::error::{Error, Result};
use crate::protocol::handshake::LinkClass;
use crate::protocol::snapshot::{self, Begin, Said, behind};
use crate::protocol::{frame, peer};
use crate::storage::snapshot::{Position, SnapshotReader};

/// About how many bytes of records go into one chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks that may be without an answer.
const WINDOW: usize = 4;
/// A connection that breaks is made again for so long without progress: half as long as the receiver keeps what it has.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where a snapshot was in vain, for lack of room over there or for damage here perhaps, another one is not sent for so long, and for twice
/// as long each time.
const VAIN_PAUSE: Duration = Duration::from_secs(5);
/// But for no longer than this.
const VAIN_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Longest sleep before it is looked whether the transport ends.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Bytes that are read and sent in a second.
const RATES: Rates = Rates { busy: 64 << 20, idle: 256 << 20 };

/// Why a connection brought no end.
enum Trouble {
    /// Another one may go on; text for a person.
    Broken(String),
    /// No other one will do better; text for a person.
    Over(String),
    /// No other transfer will do better before something has changed, here or there; text for a person.
    Vain(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Broken(match error {
            Error::Closed => "it closed the connection".to_owned(),
            other => describe_error(&other),
        })
    }
}

/// One transfer of one snapshot to one peer.
pub(super) struct SnapshotSender {
    to: Dialer,
    socket: SocketInUse,
    snapshot: OutgoingSnapshot,
    begin: Begin,
    /// Everything before this place has been read and sent, on some connection.
    sent: Position,
    /// When the receiver last said anything.
    moved: Instant,
    /// Bytes of records sent.
    bytes: u64,
    /// After the end nobody shall try again before this time has passed.
    pause: Duration,
    /// When the receiver was first ready to take it.
    begun: Option<Instant>,
}

impl SnapshotSender {
    /// Prepares a transfer. `socket` is to be shut down by whoever ends the transport.
    pub(super) fn new(to: Dialer, socket: SocketInUse, snapshot: OutgoingSnapshot) -> SnapshotSender {
        let begin = Begin {
            term: snapshot.term,
            last: snapshot.snapshot.last,
            hash: snapshot.snapshot.hash,
            transfer: rand::random(),
            files: snapshot.snapshot.files(),
            bytes: snapshot.snapshot.least_bytes(),
        };
        SnapshotSender {
            to,
            socket,
            snapshot,
            begin,
            sent: Position::default(),
            moved: Instant::now(),
            bytes: 0,
            pause: Duration::ZERO,
            begun: None,
        }
    }

    /// Sends it, however often the connection breaks, and says in the end that it is over.
    pub(super) fn run(mut self) {
        let outcome = self.deliver();
        *self.socket.lock() = None;
        let (id, last, shared) = (&self.to.id, self.begin.last, &self.to.shared);
        let subject = format!("snapshot to {id}");
        match outcome {
            Ok(()) => {
                shared.notices.settled(&subject);
                shared.vain_snapshots.lock().remove(&self.to.peer);
                shared.metrics.snapshots_sent.increment();
                let seconds = self.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
                log::info!("sent a snapshot to {id} up to {last}: {} bytes in {seconds:.1} s", self.bytes);
            }
            Err(_) if shared.is_stopping() => {}
            Err(reason) if shared.notices.changed(&subject, &reason) => {
                log::warn!("the snapshot to {id} up to {last} ends after {} bytes: {reason}", self.bytes);
            }
            Err(reason) => log::debug!("the snapshot to {id} up to {last} ends again: {reason}"),
        }
        let (shared, peer, length) = (self.to.shared.clone(), self.to.peer, self.pause);
        // The files are let go first: whoever hears of the end may remove them.
        drop(self);
        pause(&shared, length);
        shared.registry.inbox().snapshot_ended(peer);
    }

    fn deliver(&mut self) -> std::result::Result<(), String> {
        loop {
            let reason = match self.try_once() {
                Ok(()) => return Ok(()),
                Err(Trouble::Over(reason)) => return Err(reason),
                Err(Trouble::Vain(reason)) => {
                    self.pause = self.pause_after_vain();
                    return Err(reason);
                }
                Err(Trouble::Broken(reason)) => reason,
            };
            // Somebody who was never there is not waited for: whoever wants the snapshot sent will ask again.
            if self.begun.is_none() || self.moved.elapsed() > PATIENCE {
                return Err(reason);
            }
            self.check_term().map_err(|_| reason.clone())?;
            log::debug!("the snapshot to {} goes on soon: {reason}", self.to.id);
            pause(&self.to.shared, self.to.shared.timing.pause_max.mul_f64(rand::random_range(0.5..1.0)));
        }
    }

    fn pause_after_vain(&self) -> Duration {
        let mut vain = self.to.shared.vain_snapshots.lock();
        let before = vain.entry(self.to.peer).or_default();
        let pause = VAIN_PAUSE_MAX.min(VAIN_PAUSE * 2_u32.pow((*before).min(10)));
        *before += 1;
        pause
    }

    /// Only a leader's snapshot is of use, and only in its term.
    fn check_term(&self) -> std::result::Result<(), Trouble> {
        let shared = &self.to.shared;
        let (term, _) = shared.view.position();
        if shared.is_stopping() {
            return Err(Trouble::Over("shutting down".to_owned()));
        }
        if term != self.begin.term {
            return Err(Trouble::Over(format!("term {} is over, it is term {term}", self.begin.term)));
        }
        Ok(())
    }

    fn try_once(&mut self) -> std::result::Result<(), Trouble> {
        self.check_term()?;
        let (stream, _) = self.to.dial(LinkClass::Snapshot, &self.socket).map_err(Trouble::Broken)?;
        let outcome = self.carry(&stream);
        if outcome.is_err() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        outcome
    }

    fn carry(&mut self, stream: &Arc<TcpStream>) -> std::result::Result<(), Trouble> {
        let silence = Some(self.to.shared.timing.silence);
        let limited = stream.set_read_timeout(silence).and_then(|()| stream.set_write_timeout(silence));
        limited.map_err(Error::io("limit the silence of a link"))?;
        let mut opening = Vec::new();
        // Says that this side is content with the welcome.
        peer::encode_keepalive(&mut opening)?;
        snapshot::encode(&mut opening, &Said::Begin(self.begin))?;
        write(stream, &opening)?;
        let from = match self.hear(stream)? {
            Said::Resume(position) if position <= self.sent => position,
            other => return Err(unexpected(&other)),
        };
        if self.begun.is_none() {
            self.begun = Some(Instant::now());
            let Begin { last, files, bytes, .. } = self.begin;
            log::info!("sends a snapshot to {} up to {last}: {files} files, at least {bytes} bytes", self.to.id);
        }
        let maker = self.to.shared.snapshots.clone();
        self.send_all(stream, maker.read(self.snapshot.snapshot.clone(), from))?;
        self.say(stream, &Said::End)?;
        loop {
            match self.hear(stream)? {
                Said::Done => return Ok(()),
                Said::Ack(_) => self.check_term()?,
                other => return Err(unexpected(&other)),
            }
        }
    }

    fn send_all(&mut self, stream: &TcpStream, mut reader: SnapshotReader) -> std::result::Result<(), Trouble> {
        let mut pace = Pace::new(&self.to.shared.metrics, RATES);
        // The ends of the chunks without an answer.
        let mut waiting = VecDeque::new();
        loop {
            self.check_term()?;
            let mut records = Vec::new();
            let read = reader.read(CHUNK_BYTES, &mut records).map_err(|error| self.unreadable(&error))?;
            let Some((from, count)) = read else { break };
            let end = behind(from, count).ok_or_else(|| Trouble::Over(format!("{count} records from {from:?} on")))?;
            let bytes = records.len() as u64;
            self.say(stream, &Said::Chunk { from, count, records })?;
            self.sent = self.sent.max(end);
            self.bytes += bytes;
            self.to.shared.metrics.snapshot_bytes_out.add(bytes);
            pace.moved(bytes);
            waiting.push_back(end);
            while waiting.len() >= WINDOW {
                self.await_ack(stream, &mut waiting)?;
            }
        }
        while !waiting.is_empty() {
            self.await_ack(stream, &mut waiting)?;
        }
        Ok(())
    }

    /// The transfer ends; this node goes on serving.
    fn unreadable(&self, error: &Error) -> Trouble {
        if let Error::Corrupt { .. } = error {
            (self.to.shared.on_damage)(error);
        }
        Trouble::Vain(format!("it cannot be read here: {error}"))
    }

    fn await_ack(&mut self, stream: &TcpStream, waiting: &mut VecDeque<Position>) -> std::result::Result<(), Trouble> {
        match self.hear(stream)? {
            Said::Ack(position) => {
                while waiting.pop_front_if(|end| *end <= position).is_some() {}
                self.check_term()
            }
            other => Err(unexpected(&other)),
        }
    }

    fn hear(&mut self, stream: &TcpStream) -> Result<Said> {
        let frame = frame::read_head(&mut &*stream)?.ok_or(Error::Closed)?;
        let said = snapshot::decode(frame)?;
        self.moved = Instant::now();
        Ok(said)
    }

    fn say(&self, stream: &TcpStream, said: &Said) -> Result<()> {
        let mut bytes = Vec::new();
        snapshot::encode(&mut bytes, said)?;
        write(stream, &bytes)
    }
}

fn write(stream: &TcpStream, bytes: &[u8]) -> Result<()> {
    (&mut &*stream).write_all(bytes).map_err(Error::io("send a snapshot"))
}

fn unexpected(said: &Said) -> Trouble {
    match said {
        Said::Failed(reason) => Trouble::Vain(format!("it says: {}", reason.escape_debug())),
        other => Trouble::Over(format!("it answers with {other:?}")),
    }
}

/// Waits, unless the transport ends.
fn pause(shared: &Shared, length: Duration) {
    let until = Instant::now() + length;
    while Instant::now() < until && !shared.is_stopping() {
        thread::sleep(LOOK_AGAIN.min(length));
    }
}
