//! The receiving side of a link: the first exchange, then frame after frame into the inbox. Nothing of a peer that was not admitted gets
//! further than the exchange. Nothing is ever said on an inbound link but the welcome or the refusal; snapshots are answered, see
//! `snapshot_receiver`, and so are questions about lost entries, see `mend_link`.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::acceptor::Pending;
use super::event::Incoming;
use super::identity::{Refusal, Verdict, judge};
use super::mend_link;
use super::registry::Age;
use super::shared::Shared;
use super::snapshot_receiver;
use super::sockets::{Limited, Timing, describe_error, prepare};
use crate::error::{Error, Result};
use crate::protocol::handshake::{Greeting, Hello, LinkClass};
use crate::protocol::{frame, peer};
use crate::raft::{Envelope, Message, NodeId};

/// A frame of the bulk link that takes longer than this is spoken of, as often as it takes that long again. Several times within the
/// shortest time for which a leader waits before it sends again.
const ARRIVING: Duration = Duration::from_millis(50);
/// Small frames are read this many bytes at a time; bigger stretches bypass the buffer.
const READ_BYTES: usize = 64 << 10;

/// Serves one inbound connection until it ends.
pub fn serve(shared: &Shared, stream: &Arc<TcpStream>, pending: &mut Pending) {
    let hello = match read_hello(stream, &shared.timing) {
        Ok(hello) => hello,
        Err(error) => return stranger(shared, stream, &error),
    };
    match hello.link {
        LinkClass::Founding => return show_record(shared, stream, &hello),
        LinkClass::Mend => return mend_link::serve_running(shared, stream, &hello),
        LinkClass::Control | LinkClass::Bulk | LinkClass::Snapshot => {}
    }
    let Some(peer) = admit(shared, stream, &hello) else { return };
    if let Err(error) = welcome(shared, stream, &hello) {
        log::debug!("{} did not take its welcome: {error}", hello.id);
        return;
    }
    pending.settle();
    shared.learn_address(peer, &hello);
    if !shared.registry.open(peer, &hello, stream.clone()) {
        return;
    }
    let opened = Instant::now();
    shared.notices.settled(&format!("refused {}", hello.id));
    shared.notices.trust(&hello.id);
    log::debug!("{} link from {} is open: boot {}, term {}, last {}", name(hello.link), hello.id, hello.boot, hello.term, hello.last);
    // The peer lives: whoever pauses before dialing it again need not wait longer.
    shared.kick(peer);
    let snapshot = hello.link == LinkClass::Snapshot;
    let end = if snapshot { snapshot_receiver::receive(shared, stream, peer, &hello) } else { receive(shared, stream, peer, &hello) };
    // What becomes of a snapshot has been said where it is known.
    if shared.registry.close(peer, hello.link, Age::of(&hello)) && !snapshot {
        say_end(shared, &hello, opened.elapsed(), &end);
    }
    if let Err(error) = shared.marks.flush(&shared.view) {
        (shared.fatal)(error);
    }
}

/// Reads a stranger's first frame, within the time limit of the whole exchange.
pub fn read_hello(stream: &TcpStream, timing: &Timing) -> Result<Hello> {
    prepare(stream, timing).map_err(Error::io("prepare a connection"))?;
    match frame::read_head(&mut Limited::new(stream, timing.handshake))? {
        None => Err(Error::Protocol("nothing was said".to_owned())),
        Some(frame) => match Greeting::decode(&frame)? {
            Greeting::Hello(hello) => Ok(*hello),
            _ => Err(Error::Protocol("the first frame is no hello".to_owned())),
        },
    }
}

/// Answers a hello.
pub fn answer(stream: &TcpStream, timing: &Timing, greeting: &Greeting) -> Result<()> {
    let bytes = greeting.encode()?;
    Limited::new(stream, timing.handshake).write_all(&bytes).map_err(Error::io("answer a hello"))
}

/// Welcomes the peer, and waits until it agrees: the dialer judges too, and shows by a first keepalive that it is content. So a link
/// that one side refuses never counts as open on the other.
fn welcome(shared: &Shared, stream: &TcpStream, hello: &Hello) -> Result<()> {
    answer(stream, &shared.timing, &Greeting::Welcome(Box::new(shared.hello(hello.link))))?;
    match frame::read_head(&mut Limited::new(stream, shared.timing.handshake))?.map(peer::decode).transpose()? {
        Some(peer::Said::Keepalive) => Ok(()),
        Some(peer::Said::Message { .. } | peer::Said::Note(_)) => {
            Err(Error::Protocol("a message before the welcome was acknowledged".to_owned()))
        }
        None => Err(Error::Protocol("it closed the connection".to_owned())),
    }
}

/// Says why a link ended, once per change while links end as soon as they are made.
fn say_end(shared: &Shared, hello: &Hello, lived: Duration, end: &Result<()>) {
    if shared.is_stopping() {
        return;
    }
    let subject = format!("{} link from {}", name(hello.link), hello.id);
    let reason = end.as_ref().map_or_else(describe_error, |()| "closed".to_owned());
    if lived > shared.timing.silence {
        shared.notices.settled(&subject);
    }
    if shared.notices.changed(&subject, &reason) {
        log::info!("{subject} ended: {reason}");
    }
}

fn stranger(shared: &Shared, stream: &TcpStream, error: &Error) {
    if shared.is_stopping() {
        return;
    }
    if let Some(left_out) = shared.strangers.allow() {
        let from = stream.peer_addr().map_or_else(|_| "an unknown address".to_owned(), |address| address.to_string());
        log::warn!("a connection from {from} on the peer port is no peer: {} ({left_out} like this left out)", describe_error(error));
    }
}

/// An empty node asks: it gets the founding record, and judges itself by it.
fn show_record(shared: &Shared, stream: &TcpStream, hello: &Hello) {
    let mark = shared.marks.of(shared.peer_of(&hello.id), &shared.view);
    let verdict = judge(shared.standing(), mark.as_ref(), hello);
    if let Verdict::Refuse(refusal) = &verdict {
        complain(shared, refusal, hello);
    }
    let greeting = match verdict {
        Verdict::Refuse(refusal @ Refusal::Version { .. }) => Greeting::Refusal(refusal.to_string()),
        _ => Greeting::Welcome(Box::new(shared.hello(LinkClass::Founding))),
    };
    if let Err(error) = answer(stream, &shared.timing, &greeting) {
        log::debug!("{} left before it got the founding record: {error}", hello.id.escape_debug());
    }
}

/// Judges a peer, and refuses it or makes its identity durable.
fn admit(shared: &Shared, stream: &TcpStream, hello: &Hello) -> Option<NodeId> {
    let peer = shared.peer_of(&hello.id);
    match shared.marks.admit(shared.standing(), peer, hello, &shared.view) {
        Ok(Verdict::Accept { .. }) => peer,
        Ok(Verdict::Refuse(refusal)) => {
            complain(shared, &refusal, hello);
            if let Err(error) = answer(stream, &shared.timing, &Greeting::Refusal(refusal.to_string())) {
                log::debug!("{} left before its refusal: {error}", hello.id.escape_debug());
            }
            let _ = stream.shutdown(Shutdown::Write);
            None
        }
        Err(error) => {
            (shared.fatal)(error);
            None
        }
    }
}

/// For how long a peer that looks rolled back is doubted silently.
const DOUBT_PATIENCE: Duration = Duration::from_secs(2);

/// Says why a peer is refused, once per change. Strangers choose their own names, so they share one subject and its throttle.
pub(super) fn complain(shared: &Shared, refusal: &Refusal, hello: &Hello) {
    if matches!(refusal, Refusal::Unfounded { .. }) {
        return;
    }
    // What a peer says on one link may overtake its hello on another, which then looks old. It dials again within milliseconds and is
    // believed then, so only what lasts is news.
    if matches!(refusal, Refusal::RolledBack { .. }) && shared.notices.doubt(&hello.id) < DOUBT_PATIENCE {
        return;
    }
    let known = shared.peer_of(&hello.id).is_some() || hello.id == shared.id;
    if known && shared.notices.changed(&format!("refused {}", hello.id), &refusal.to_string()) {
        log::error!("a peer is refused: {refusal}");
    } else if !known && let Some(left_out) = shared.strangers.allow() {
        log::error!("a peer is refused: {refusal} ({left_out} like this left out)");
    }
}

fn receive(shared: &Shared, stream: &TcpStream, peer: NodeId, hello: &Hello) -> Result<()> {
    stream.set_read_timeout(Some(shared.timing.silence)).map_err(Error::io("limit the silence of a link"))?;
    let arriving = || {
        if hello.link == LinkClass::Bulk {
            shared.registry.arriving(peer, hello.link, Age::of(hello));
        }
    };
    let mut reader = BufReader::with_capacity(READ_BYTES, Watched { stream, spoke: None, arriving });
    let mut term_seen = hello.term;
    while let Some(frame) = frame::read(&mut reader)? {
        reader.get_mut().spoke = None;
        let (envelope, records) = match peer::decode(frame)? {
            peer::Said::Keepalive => continue,
            peer::Said::Note(note) if hello.link == LinkClass::Control => {
                if shared.registry.deliver_note(peer, hello.link, Age::of(hello), note) {
                    continue;
                }
                break;
            }
            peer::Said::Note(_) => return Err(Error::Protocol(format!("a note on the wrong link, {}", name(hello.link)))),
            peer::Said::Message { envelope, records } => (envelope, records),
        };
        check_addresses(shared, peer, hello.link, &envelope)?;
        // A pre-vote promises nothing, so its term need not be durable at the sender.
        if envelope.term > term_seen && !matches!(envelope.message, Message::PreVote { .. } | Message::PreVoteReply { .. }) {
            term_seen = envelope.term;
            shared.marks.note_term(peer, term_seen);
        }
        if !shared.registry.deliver(peer, hello.link, Age::of(hello), Incoming { envelope, records }) {
            break;
        }
    }
    Ok(())
}

/// A stream that speaks of frames whose bytes take long to arrive: to the sender, silence would mean that they are lost.
struct Watched<'a, F> {
    stream: &'a TcpStream,
    /// When the frame's first bytes arrived, or was last spoken of it; nobody has seen any of it yet if there is nothing.
    spoke: Option<Instant>,
    arriving: F,
}

impl<F: Fn()> Read for Watched<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&mut &*self.stream).read(buffer)?;
        let now = Instant::now();
        if count > 0 && now - *self.spoke.get_or_insert(now) >= ARRIVING {
            self.spoke = Some(now);
            (self.arriving)();
        }
        Ok(count)
    }
}

fn check_addresses(shared: &Shared, peer: NodeId, link: LinkClass, envelope: &Envelope) -> Result<()> {
    if (envelope.from, envelope.to) != (peer, shared.own) {
        return Err(Error::Protocol(format!(
            "a message from {} to {} on the link from {peer} to {}",
            envelope.from, envelope.to, shared.own
        )));
    }
    if envelope.message.is_bulk() != (link == LinkClass::Bulk) {
        return Err(Error::Protocol(format!("a message on the wrong link, {}", name(link))));
    }
    Ok(())
}

/// The link's class in words.
pub fn name(link: LinkClass) -> &'static str {
    match link {
        LinkClass::Founding => "founding",
        LinkClass::Control => "control",
        LinkClass::Bulk => "bulk",
        LinkClass::Snapshot => "snapshot",
        LinkClass::Mend => "mending",
    }
}
