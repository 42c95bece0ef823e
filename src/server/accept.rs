//! Listening and accepting. One thread for each listener; it never reads from a client and never spins when the system has no
//! descriptors or threads left. A connection over the cap goes to `turnaway`.

use super::clients::Port;
use super::connection::Connection;
use super::flusher::timespec;
use super::serve::serve;
use crate::error::{Error, Result};
use crossbeam_channel::Sender;
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Connections that the system queues while the accept thread is busy.
const BACKLOG: i32 = 1024;
/// How long accepting pauses when the system has run out of something.
const PAUSE: Duration = Duration::from_millis(50);
/// What to do about a lack of descriptors or threads.
const REMEDY: &str = "raise the limits on open files and threads or lower --max-connections";
/// A node at its limits may succeed and fail by turns; it says so this often at most.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);
/// Address space of a connection's thread; only what it touches becomes memory.
const STACK_BYTES: usize = 256 << 10;

/// Binds and listens.
///
/// # Errors
/// [`Error::Io`] naming the address, for instance when another process listens there.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let attempt = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // Each address of a name has a listener of its own; one that took the IPv4 address too would collide with its sibling.
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    attempt().map_err(Error::io(format!("listen on {address}")))
}

/// The accept thread's body.
pub(super) fn run(listener: &TcpListener, port: &Arc<Port>, overflow: &Sender<TcpStream>) {
    let mut complained: Option<Instant> = None;
    while !port.stopping.load(SeqCst) {
        sleep(port, Some(listener), None);
        while !port.stopping.load(SeqCst) {
            let outcome = match listener.accept() {
                Ok((socket, _)) => admit(socket, port, overflow),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The client was gone before it was accepted.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => Ok(()),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => {}
                Err(error) => {
                    if complained.is_none_or(|last| last.elapsed() > COMPLAINT_PAUSE) {
                        log::error!("cannot accept clients at the moment, trying again: {error}; {REMEDY}");
                        complained = Some(Instant::now());
                    }
                    sleep(port, None, Some(PAUSE));
                }
            }
        }
    }
}

/// Sleeps until a client knocks, the server stops, or the time is over.
fn sleep(port: &Port, listener: Option<&TcpListener>, limit: Option<Duration>) {
    let bell = port.stop_bell.descriptor();
    let mut descriptors = vec![PollFd::new(&bell, PollFlags::IN)];
    if let Some(listener) = listener {
        descriptors.push(PollFd::new(listener, PollFlags::IN));
    }
    // Interrupted or failed: the caller looks at its conditions again either way.
    let _ = poll(&mut descriptors, limit.map(timespec).as_ref());
}

/// Gives a connection its thread. An error is the system's lack of something; a client that is gone already is none.
fn admit(socket: TcpStream, port: &Arc<Port>, overflow: &Sender<TcpStream>) -> std::io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3);
    if socket.set_nodelay(true).is_err() || SockRef::from(&socket).set_tcp_keepalive(&keepalive).is_err() {
        return Ok(());
    }
    let connection = match port.open(socket) {
        Ok(connection) => connection,
        Err(socket) => {
            port.metrics.connections_turned_away.increment();
            // When even those to be turned away queue up, closing without a word is all that is left.
            let _ = overflow.try_send(socket);
            return Ok(());
        }
    };
    let (served, shared) = (Arc::clone(&connection), Arc::clone(port));
    let thread = std::thread::Builder::new().name(format!("client-{}", connection.number())).stack_size(STACK_BYTES);
    let spawned = thread.spawn(move || {
        serve(&served, &shared);
        shared.ended(&served);
    });
    spawned.map(drop).inspect_err(|_| {
        connection.cut();
        port.ended(&connection);
    })
}

impl Port {
    /// Registers a connection, or gives the socket back when the cap is reached.
    fn open(self: &Arc<Self>, socket: TcpStream) -> std::result::Result<Arc<Connection>, TcpStream> {
        let mut connections = self.connections.lock();
        if connections.len() >= self.limits.connections_max {
            return Err(socket);
        }
        let number = self.numbers.fetch_add(1, SeqCst);
        let connection = Arc::new(Connection::new(number, socket, Arc::clone(self)));
        connections.insert(number, Arc::clone(&connection));
        self.metrics.connections_accepted.increment();
        self.metrics.connections_open.raise();
        Ok(connection)
    }

    fn ended(&self, connection: &Arc<Connection>) {
        self.connections.lock().remove(&connection.number());
        self.metrics.connections_open.lower();
        self.all_ended.notify_all();
    }
}
