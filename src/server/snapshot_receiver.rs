//! The receiving side of a snapshot's connection: chunk after chunk to disk, an answer to each, and at the end the whole to the Raft
//! thread, which decides whether it is wanted. Nothing received here counts for anything before that. Memory holds one chunk and the keys
//! of the file being written.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::intake::{Denied, Half};
use super::shared::Shared;
use super::sockets::{Limited, describe_error};
use crate::error::{Error, Result};
use crate::protocol::frame;
use crate::protocol::handshake::Hello;
use crate::protocol::snapshot::{self, Begin, Said, behind};
use crate::raft::NodeId;
use crate::storage::snapshot::{Position, Received, SnapshotError, SnapshotWriter};

/// How long the end of a received snapshot waits for its installation, so that the sender learns of it before it thinks of another one. A
/// merge that is under way comes first, and takes its time.
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);
/// A sender says nothing while it loads the keys of a large file. It may take so many times as long as a link is usually silent: where it
/// has died, nobody waits for this side but the next snapshot, which takes its place.
const SENDER_SILENCES: u32 = 12;
/// Pause between two looks at whether it has been installed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// After a failure, input is discarded up to this size, so that the reason is not lost with the connection.
const DISCARDED_MAX: u64 = 16 << 20;

/// Why a transfer stops.
enum Stop {
    /// The connection is of no use any more; another one may go on.
    Broken(Error),
    /// What has arrived is of no use; text for a person.
    Useless(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Broken(error)
    }
}

/// Serves one connection of an admitted peer until it ends.
pub(super) fn receive(shared: &Shared, stream: &Arc<TcpStream>, peer: NodeId, hello: &Hello) -> Result<()> {
    let silence = shared.timing.silence;
    let limited = stream.set_read_timeout(Some(silence * SENDER_SILENCES)).and_then(|()| stream.set_write_timeout(Some(silence)));
    limited.map_err(Error::io("limit the silence of a link"))?;
    let mut link = Link { stream, keepalive: shared.timing.keepalive, spoke: Instant::now(), at: None };
    let begin = match link.hear()? {
        Said::Begin(begin) if begin.term <= hello.term => begin,
        other => return Err(Error::Protocol(format!("a snapshot's connection in term {} begins with {other:?}", hello.term))),
    };
    let (term, _) = shared.view.position();
    if begin.term < term {
        return link.fail(&format!("term {} of this snapshot is over, this node is in term {term}", begin.term));
    }
    let make = || shared.snapshots.check_room(begin.bytes).map(|()| shared.snapshots.begin(begin.last, begin.hash));
    let mut half = match shared.intake.claim(peer, begin, stream, shared.timing.handshake, make) {
        Ok(half) => half,
        // To the sender the connection is broken, and it makes another one.
        Err(Denied::Held) => return Err(Error::Closed),
        Err(Denied::Refused(reason)) => return link.fail(&reason),
    };
    say_begin(&half, &hello.id);
    match take_all(shared, &mut link, &mut half) {
        Ok(()) => end(shared, &mut link, half, &hello.id),
        Err(Stop::Broken(error)) => {
            log::info!("the snapshot from {} breaks off after {} bytes: {}", hello.id, half.bytes, describe_error(&error));
            shared.intake.release(Some(half));
            Err(error)
        }
        Err(Stop::Useless(reason)) => {
            log::warn!("the snapshot from {} up to {} is given up: {reason}", hello.id, begin.last);
            drop(half);
            shared.intake.release(None);
            link.fail(&reason)
        }
    }
}

fn say_begin(half: &Half, id: &str) {
    let Half { begin: Begin { last, files, bytes, .. }, writer, bytes: arrived, .. } = half;
    if writer.position() == Position::default() {
        log::info!("receives a snapshot from {id} up to {last}: {files} files, at least {bytes} bytes");
    } else {
        log::info!("goes on with the snapshot from {id} up to {last}, behind {arrived} bytes");
    }
}

fn take_all(shared: &Shared, link: &mut Link<'_>, half: &mut Half) -> std::result::Result<(), Stop> {
    link.at = Some(half.writer.position());
    link.say(&Said::Resume(half.writer.position()))?;
    loop {
        match link.hear()? {
            Said::Chunk { from, count, records } => {
                half.writer.take(from, &records).map_err(|error| useless(shared, error))?;
                let at = half.writer.position();
                if behind(from, count) != Some(at) {
                    return Err(Stop::Useless(format!("{count} records from {from:?} on end before {at:?}")));
                }
                half.bytes += records.len() as u64;
                shared.metrics.snapshot_bytes_in.add(records.len() as u64);
                link.at = Some(at);
                link.say(&Said::Ack(at))?;
            }
            Said::End => return Ok(()),
            other => return Err(Error::Protocol(format!("{other:?} within a snapshot")).into()),
        }
    }
}

fn useless(shared: &Shared, error: SnapshotError) -> Stop {
    Stop::Useless(match error {
        SnapshotError::Full(reason) | SnapshotError::Bad(reason) => reason,
        SnapshotError::Fatal(error) => {
            let reason = error.to_string();
            (shared.fatal)(error);
            reason
        }
    })
}

/// All records are there: makes them durable, and hands them over.
fn end(shared: &Shared, link: &mut Link<'_>, half: Half, id: &str) -> Result<()> {
    let Half { begin, writer, bytes, begun, .. } = half;
    let received = match finish(shared, link, writer).map_err(|error| useless(shared, error)) {
        Ok(received) => received,
        Err(Stop::Broken(error)) => {
            shared.intake.release(None);
            return Err(error);
        }
        Err(Stop::Useless(reason)) => {
            log::warn!("the snapshot from {id} up to {} is given up: {reason}", begin.last);
            shared.intake.release(None);
            return link.fail(&reason);
        }
    };
    log::info!("received a snapshot from {id} up to {}: {bytes} bytes in {:.1} s", begin.last, begun.elapsed().as_secs_f64());
    shared.metrics.snapshots_received.increment();
    shared.registry.inbox().received(received, begin.term);
    await_installed(shared, link, begin);
    shared.intake.release(None);
    link.say(&Said::Done)
}

/// Takes as long as the disk and the number of keys want, so it has a thread of its own, while this one shows that it lives.
fn finish(shared: &Shared, link: &mut Link<'_>, writer: SnapshotWriter) -> std::result::Result<Received, SnapshotError> {
    let (sender, finished) = bounded(1);
    let work = move || {
        // Nobody waits for it if the process is ending.
        let _ = sender.send(writer.finish());
    };
    if let Err(error) = thread::Builder::new().name("snapshot-finish".to_owned()).spawn(work) {
        return Err(SnapshotError::Full(format!("cannot start a thread: {error}")));
    }
    loop {
        match finished.recv_timeout(link.keepalive) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Timeout) if shared.is_stopping() => return Err(SnapshotError::Bad("shutting down".to_owned())),
            // If the connection is broken, the answer at the end says so.
            Err(RecvTimeoutError::Timeout) => drop(link.show_life()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(SnapshotError::Bad("the thread that finishes it ended".to_owned()));
            }
        }
    }
}

/// Waits until this node knows that the snapshot's last entry is committed, which it does as soon as the snapshot is installed. If it turns
/// out that it is not wanted any more, or the sender is gone, nobody needs to wait.
fn await_installed(shared: &Shared, link: &mut Link<'_>, begin: Begin) {
    let until = Instant::now() + INSTALL_PATIENCE;
    while Instant::now() < until && !shared.is_stopping() {
        let (term, _) = shared.view.position();
        if term != begin.term || shared.view.commit() >= begin.last.index || link.show_life().is_err() {
            return;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// The connection, as far as this side speaks on it.
struct Link<'a> {
    stream: &'a TcpStream,
    keepalive: Duration,
    spoke: Instant,
    /// What has been taken over, once it is known.
    at: Option<Position>,
}

impl Link<'_> {
    /// The next frame. The end of the stream is an error: a transfer ends with words.
    fn hear(&mut self) -> Result<Said> {
        match frame::read(self)? {
            Some(frame) => snapshot::decode(frame),
            None => Err(Error::Closed),
        }
    }

    fn say(&mut self, said: &Said) -> Result<()> {
        let mut bytes = Vec::new();
        snapshot::encode(&mut bytes, said)?;
        self.spoke = Instant::now();
        (&mut &*self.stream).write_all(&bytes).map_err(Error::io("answer a snapshot"))
    }

    /// Repeats what was taken over if nothing was said for a while: to the sender, silence would mean that the connection is broken.
    fn show_life(&mut self) -> Result<()> {
        match self.at.filter(|_| self.spoke.elapsed() >= self.keepalive) {
            Some(at) => self.say(&Said::Ack(at)),
            None => Ok(()),
        }
    }

    /// Says why the transfer is over. What is still arriving is read for a moment: a connection that is closed with unread input takes what
    /// was said last with it.
    fn fail(&mut self, reason: &str) -> Result<()> {
        self.say(&Said::Failed(reason.to_owned()))?;
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut rest = Limited::new(self.stream, Duration::from_secs(1)).take(DISCARDED_MAX);
        let _ = io::copy(&mut rest, &mut io::sink());
        Ok(())
    }
}

impl Read for Link<'_> {
    /// Shows life while the bytes of a frame trickle.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&mut &*self.stream).read(buffer)?;
        // If it is broken, the next read says so.
        let _ = self.show_life();
        Ok(count)
    }
}
