//! Dials a peer: a connection, the first exchange, and the judgement of who answered. Whatever the connection is for is others' business.

use std::net::TcpStream;
use std::sync::Arc;

use parking_lot::Mutex;

use super::event::LinkChange;
use super::identity::{Mark, Refusal, Verdict, judge};
use super::shared::Shared;
use super::sockets::{connect, describe_error, greet};
use crate::protocol::handshake::{Greeting, Hello, LinkClass};
use crate::raft::NodeId;

/// The socket in use, to be shut down when the transport ends.
pub type SocketInUse = Arc<Mutex<Option<Arc<TcpStream>>>>;

/// Knows one peer and how to reach it.
#[derive(Clone)]
pub struct Dialer {
    /// The transport.
    pub shared: Arc<Shared>,
    /// Whom.
    pub peer: NodeId,
    /// Its id.
    pub id: String,
    /// Where it is dialed.
    pub address: String,
}

impl Dialer {
    /// A connection whose acceptor is who it should be and welcomed us, with the hello that opened it. From the start on it stands in
    /// `socket`. The error is for a person.
    pub fn dial(&self, class: LinkClass, socket: &SocketInUse) -> std::result::Result<(Arc<TcpStream>, Hello), String> {
        let stream = Arc::new(connect(&self.address, &self.shared.timing)?);
        *socket.lock() = Some(stream.clone());
        if self.shared.is_stopping() {
            return Err("shutting down".to_owned());
        }
        // Taken before the welcome can have been written.
        let mark = self.shared.marks.of(Some(self.peer), &self.shared.view);
        let hello = self.shared.hello(class);
        match greet(&stream, hello.clone(), self.shared.timing.handshake).map_err(|error| describe_error(&error))? {
            Greeting::Welcome(welcome) => self.judge(mark, &welcome)?,
            Greeting::Refusal(reason) => return Err(format!("it refuses this node: {}", reason.escape_debug())),
            Greeting::Hello(_) => return Err("it answers with a hello instead of a welcome".to_owned()),
        }
        Ok((stream, hello))
    }

    /// The acceptor is judged as the dialer is; but only what arrives from it counts, so nothing is remembered here.
    /// What the same process has said since `before` may have overtaken its welcome, and must not make it look old.
    fn judge(&self, before: Option<Mark>, welcome: &Hello) -> std::result::Result<(), String> {
        if welcome.id != self.id {
            return Err(format!("`{}` answers at {}", welcome.id.escape_debug(), self.address));
        }
        let now = self.shared.marks.of(Some(self.peer), &self.shared.view);
        let process = |mark: Option<Mark>| mark.map(|mark| (mark.boot, mark.nonce));
        let mark = if process(before) == process(now) { before } else { now };
        match judge(self.shared.standing(), mark.as_ref(), welcome) {
            Verdict::Accept { .. } => {
                self.shared.learn_address(self.peer, welcome);
                self.shared.registry.inbox().link(self.peer, LinkChange::Welcomed { last: welcome.last, boot: welcome.boot });
                Ok(())
            }
            Verdict::Refuse(refusal @ Refusal::Unfounded { .. }) => Err(refusal.to_string()),
            Verdict::Refuse(refusal) => Err(format!("it is refused: {refusal}")),
        }
    }
}
