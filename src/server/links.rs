//! The sending side of a link: one worker thread per peer and class, each with a connection of its own that it dials again and again.
//! It sends what waits in its queue, many messages in one write; a small message for which nothing waits leaves from the thread that has it
//! ([`super::lane`]). What waits while there is no connection is stale and dropped: the core
//! sends again. A second thread per connection only waits for the end of the stream, so that a peer that went away is dialed again at
//! once and not at the next message, which would be lost.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::server::mailbox::{Receiver, RecvTimeoutError, Sender};

use super::acceptor::LINK_STACK;
use super::dialer::{Dialer, SocketInUse};
use super::event::{LinkChange, Outgoing};
use super::lane::{Lane, Offered};
use super::sockets::describe;
use crate::error::{Error, Result};
use crate::protocol::handshake::LinkClass;
use crate::protocol::peer::{self, Note};
use crate::storage::log::Piece;

/// One write gathers messages until it has this many bytes.
const GATHER_BYTES: usize = 1 << 20;
/// A message whose records take more than this is left to the worker.
const DIRECT_BYTES: u64 = 32 << 10;
/// A buffer that grew beyond this is given back.
const BUFFER_KEPT: usize = 4 << 20;

/// What a worker finds in its queue.
#[derive(Debug)]
pub enum Work {
    /// To be sent.
    Send(Outgoing),
    /// To be said.
    Note(Note),
    /// A message was sent in part.
    Finish,
    /// The connection of this attempt has ended.
    Ended(u64),
}

impl Work {
    /// Whether it counts as a message that waits, so that later ones wait behind it.
    fn counts(&self) -> bool {
        !matches!(self, Work::Ended(_))
    }
}

/// What others hold of a link to a peer.
#[derive(Clone)]
pub struct LinkHandle {
    /// The worker's queue.
    pub queue: Sender<Work>,
    /// Who may write.
    pub lane: Arc<Lane>,
    /// Whether there is a connection. A hint: what is queued when there is none any more is dropped by the worker.
    pub connected: Arc<AtomicBool>,
    /// The socket in use, to be shut down when the transport ends.
    pub socket: SocketInUse,
}

impl LinkHandle {
    /// Sends a message now or leaves it to the worker; false if there is no connection, or no room.
    pub fn send(&self, outgoing: Outgoing) -> bool {
        if !self.connected.load(Ordering::SeqCst) {
            return false;
        }
        let small = outgoing.records.iter().all(Piece::is_staged) && outgoing.records.iter().map(Piece::bytes).sum::<u64>() <= DIRECT_BYTES;
        match if small { self.lane.offer(|out| encode(&outgoing, out).is_ok()) } else { Offered::Refused } {
            Offered::Sent => true,
            Offered::Begun => self.queue.try_send(Work::Finish).is_ok(),
            Offered::Refused => self.leave(Work::Send(outgoing)),
        }
    }

    /// Leaves something to the worker; false if there is no room.
    pub fn leave(&self, work: Work) -> bool {
        self.lane.will_wait();
        let left = self.queue.try_send(work).is_ok();
        if !left {
            self.lane.no_longer_waiting(1);
        }
        left
    }
}

/// Appends a message with its records.
fn encode(outgoing: &Outgoing, buffer: &mut Vec<u8>) -> Result<()> {
    let records = |out: &mut Vec<u8>| outgoing.records.iter().try_for_each(|piece| piece.write_to(out));
    peer::encode(buffer, &outgoing.envelope, records)
}

/// A worker: carries one class of messages to one peer.
pub struct Worker {
    /// To whom.
    pub to: Dialer,
    /// What the link carries.
    pub class: LinkClass,
    /// What is to be sent.
    pub queue: Receiver<Work>,
    /// Ends a pause early.
    pub kick: Receiver<()>,
    /// What others see of this link.
    pub handle: LinkHandle,
}

impl Worker {
    /// Dials and sends until the transport ends.
    pub fn run(self) {
        let timing = self.to.shared.timing;
        let mut pause = timing.pause_min;
        while !self.to.shared.is_stopping() {
            match self.to.dial(self.class, &self.handle.socket) {
                Ok((stream, hello)) => {
                    let opened = Instant::now();
                    let outcome = self.carry(&stream, hello.attempt);
                    self.hang_up(outcome);
                    // A connection that ends as soon as it is made is not a reason to hurry.
                    if opened.elapsed() > timing.pause_max {
                        pause = timing.pause_min;
                    }
                }
                Err(reason) => self.say(&reason),
            }
            *self.handle.socket.lock() = None;
            if self.to.shared.is_stopping() {
                break;
            }
            // Half of the pause is random, so that two nodes do not run into each other for ever.
            let kicked = self.kick.recv_timeout(pause.mul_f64(rand::random_range(0.5..1.0))).is_ok();
            pause = if kicked { timing.pause_min } else { timing.pause_max.min(pause * 2) };
            self.drop_waiting();
        }
    }

    /// Says a reason once per change. Both links of a peer fail for the same reasons, so the control link speaks for both.
    fn say(&self, reason: &str) {
        let quiet = self.to.shared.is_stopping() || self.class == LinkClass::Bulk;
        if !quiet && self.to.shared.notices.changed(&self.to.id, reason) {
            log::warn!("no link to {}: {reason}", self.to.id);
        }
    }

    fn carry(&self, stream: &Arc<TcpStream>, attempt: u64) -> Result<()> {
        stream.set_write_timeout(Some(self.to.shared.timing.silence)).map_err(Error::io("limit the silence of a link"))?;
        stream.set_read_timeout(None).map_err(Error::io("wait for the end of a link"))?;
        let watcher = self.watch(stream, attempt)?;
        self.drop_waiting();
        let outcome = self.open(stream).and_then(|()| self.send_all(stream, attempt));
        self.handle.connected.store(false, Ordering::SeqCst);
        self.handle.lane.close();
        let _ = stream.shutdown(Shutdown::Both);
        let _ = watcher.join();
        outcome
    }

    /// The first keepalive says that this side is content with the welcome. From then on messages may leave.
    fn open(&self, stream: &Arc<TcpStream>) -> Result<()> {
        let mut first = Vec::new();
        peer::encode_keepalive(&mut first)?;
        self.handle.lane.write(stream, &first).map_err(Error::io("send to a peer"))?;
        self.handle.lane.open(stream);
        self.handle.connected.store(true, Ordering::SeqCst);
        if self.class == LinkClass::Control && self.to.shared.notices.changed(&self.to.id, "linked") {
            log::info!("linked to {}", self.to.id);
        }
        Ok(())
    }

    /// The acceptor says nothing after its welcome: whatever a read returns is the end.
    fn watch(&self, stream: &Arc<TcpStream>, attempt: u64) -> Result<thread::JoinHandle<()>> {
        let (stream, queue) = (stream.clone(), self.handle.queue.clone());
        let watch = move || {
            let _ = (&*stream).read(&mut [0]);
            let _ = stream.shutdown(Shutdown::Both);
            // A full queue keeps the worker busy, and its next write fails.
            let _ = queue.try_send(Work::Ended(attempt));
        };
        let thread = thread::Builder::new().name(format!("peer-end-{}", self.to.peer)).stack_size(LINK_STACK / 4);
        thread.spawn(watch).map_err(Error::io("start a thread that watches a link"))
    }

    fn send_all(&self, stream: &TcpStream, attempt: u64) -> Result<()> {
        let mut buffer = Vec::new();
        while !self.to.shared.is_stopping() {
            buffer.clear();
            let mut taken = 0;
            let gathered = match self.queue.recv_timeout(self.to.shared.timing.keepalive) {
                Ok(first) => self.gather(first, &mut buffer, attempt, &mut taken),
                Err(RecvTimeoutError::Timeout) => peer::encode_keepalive(&mut buffer),
                Err(RecvTimeoutError::Disconnected) => Err(Error::Closed),
            };
            let sent = gathered.and_then(|()| self.handle.lane.write(stream, &buffer).map_err(Error::io("send to a peer")));
            self.handle.lane.no_longer_waiting(taken);
            sent?;
            if buffer.capacity() > BUFFER_KEPT {
                buffer = Vec::new();
            }
        }
        Ok(())
    }

    /// Encodes `first` and what else waits, and counts in `taken` what had waited.
    fn gather(&self, first: Work, buffer: &mut Vec<u8>, attempt: u64, taken: &mut usize) -> Result<()> {
        let mut next = Some(first);
        while let Some(work) = next {
            *taken += usize::from(work.counts());
            match work {
                Work::Send(outgoing) => self.encode(&outgoing, buffer),
                Work::Note(note) => peer::encode_note(buffer, &note)?,
                Work::Ended(ended) if ended == attempt => return Err(Error::Closed),
                Work::Finish | Work::Ended(_) => {}
            }
            next = if buffer.len() < GATHER_BYTES { self.queue.try_recv().ok() } else { None };
        }
        Ok(())
    }

    /// A record of the own log that cannot be read ends the process: others have it, and one of them can lead.
    fn encode(&self, outgoing: &Outgoing, buffer: &mut Vec<u8>) {
        match encode(outgoing, buffer) {
            Ok(()) => {}
            Err(Error::Protocol(reason)) => {
                log::error!("a message to {} cannot be sent: {reason}", self.to.id);
                self.dropped();
            }
            Err(error) => (self.to.shared.fatal)(error),
        }
    }

    fn hang_up(&self, outcome: Result<()>) {
        if !self.to.shared.is_stopping() {
            let reason = match &outcome {
                Ok(()) | Err(Error::Closed) => "it closed the connection".to_owned(),
                Err(Error::Io { source, .. }) => describe(source),
                Err(error) => error.to_string(),
            };
            self.say(&reason);
        }
        self.drop_waiting();
        self.dropped();
    }

    fn drop_waiting(&self) {
        let mut any = false;
        while let Ok(work) = self.queue.try_recv() {
            any |= matches!(work, Work::Send(_));
            self.handle.lane.no_longer_waiting(usize::from(work.counts()));
        }
        if any {
            self.dropped();
        }
    }

    fn dropped(&self) {
        if self.class == LinkClass::Bulk {
            self.to.shared.registry.inbox().link(self.to.peer, LinkChange::Dropped);
        }
    }
}
