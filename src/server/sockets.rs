//! Sockets between peers: dialing, time limits, and the first exchange from the dialer's side. Blocking calls only; each has a limit.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::protocol::frame;
use crate::protocol::handshake::{Greeting, Hello};

/// Time limits between peers. The defaults are for production; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For one attempt to connect to one address.
    pub connect: Duration,
    /// For the whole first exchange, on either side.
    pub handshake: Duration,
    /// An idle link says that it lives this often.
    pub keepalive: Duration,
    /// A link without a byte for this long is cut.
    pub silence: Duration,
    /// First pause before a link is dialed again; doubles up to `pause_max`, with jitter.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// How often changed acknowledgements are made durable.
    pub marks: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            connect: Duration::from_millis(500),
            handshake: Duration::from_secs(2),
            keepalive: Duration::from_millis(500),
            silence: Duration::from_secs(5),
            pause_min: Duration::from_millis(10),
            pause_max: Duration::from_millis(500),
            marks: Duration::from_secs(1),
        }
    }
}

/// A stream whose reads and writes together end at an instant, however the bytes trickle.
#[derive(Debug)]
pub struct Limited<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl<'a> Limited<'a> {
    /// Everything must be over in `limit`. The stream's own time limits are overwritten.
    pub fn new(stream: &'a TcpStream, limit: Duration) -> Limited<'a> {
        Limited { stream, until: Instant::now() + limit }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        (&mut &*self.stream).read(buffer)
    }
}

impl Write for Limited<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        (&mut &*self.stream).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects to a `host:port`, whose name is resolved anew. The error is a short text for a person, the same at each attempt.
pub fn connect(address: &str, timing: &Timing) -> std::result::Result<TcpStream, String> {
    let resolved = address.to_socket_addrs().map_err(|error| format!("the name does not resolve: {error}"))?;
    let mut failure = "the name resolves to no address".to_owned();
    for address in resolved {
        match TcpStream::connect_timeout(&address, timing.connect).and_then(|stream| prepare(&stream, timing).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = describe(&error),
        }
    }
    Err(failure)
}

/// Options of a socket between peers: no delay for small frames, and a host that is gone is noticed although nothing is read from it.
pub fn prepare(stream: &TcpStream, timing: &Timing) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(timing.silence))
}

/// The dialer's side of the first exchange: says `hello` and returns the answer.
pub fn greet(stream: &TcpStream, hello: Hello, limit: Duration) -> Result<Greeting> {
    let mut limited = Limited::new(stream, limit);
    let hello = Greeting::Hello(Box::new(hello)).encode()?;
    limited.write_all(&hello).map_err(Error::io("send the hello"))?;
    match frame::read_head(&mut limited)? {
        Some(frame) => Greeting::decode(&frame),
        None => Err(Error::Protocol("the connection was closed before an answer".to_owned())),
    }
}

/// An error in words that stay the same from attempt to attempt.
pub fn describe(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer in time".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

/// As [`describe`], for any error of a link.
pub fn describe_error(error: &Error) -> String {
    match error {
        Error::Io { source, .. } => describe(source),
        other => other.to_string(),
    }
}
