//! One TCP connection that carries requests out and responses in, in order. Knows frames and time limits; knows nothing of leaders
//! and never sends anything a second time. Memory grows with the bytes that arrived, never with a length that was announced.

use crate::endpoint;
use crate::protocol::{Command, EXTENDED, EXTENDED_RESPONSE_HEADER, ResponseHeader, Status, encode_request, response_crc};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use std::{error, fmt};

/// Longest payload that is taken: a page of a scan may be 4 MiB and one pair of the largest key (1 MiB) and value (64 MiB) beyond.
pub const MAX_RESPONSE_PAYLOAD: usize = 72 << 20;

/// Size that the input buffer starts with and returns to.
const INPUT_BYTES: usize = 64 << 10;
/// An empty input buffer above this size is given back.
const INPUT_BYTES_KEPT: usize = 1 << 20;
/// A send that is stuck for this long looks whether responses wait to be collected.
const SEND_SLICE: Duration = Duration::from_millis(20);

/// A connection to one node. All methods block, none longer than its deadline.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    endpoint: String,
    input: Vec<u8>,
    /// The bytes `input[start..end]` have arrived and are not yet consumed.
    start: usize,
    end: usize,
    read_timeout: Duration,
}

/// The answer to one request; the payload points into the connection's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// How the request ended; a status that this version does not know is [`Status::Unknown`].
    pub status: Status,
    /// The status byte as received, without the extended bit.
    pub status_byte: u8,
    /// What belongs to it.
    pub payload: &'a [u8],
    /// The echoed id of an extended response, its CRC checked.
    pub request_id: Option<u64>,
}

/// A send that did not take everything.
#[derive(Debug)]
pub struct SendError {
    /// Bytes that the operating system took and that may have left; 0 means that the node cannot have seen any of it.
    pub accepted: usize,
    /// What stopped it.
    pub source: io::Error,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sending broke after {} bytes: {}", self.accepted, self.source)
    }
}

impl error::Error for SendError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.source)
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The socket's time limit for a wait of `left`: rounded down to a power of two of milliseconds, so that consecutive operations agree
/// on it and the system call that sets it is rare. Waiting goes on after it until `left` is really over.
fn wait_slice(left: Duration) -> Duration {
    let milliseconds = left.as_millis().clamp(1, 1 << 16);
    Duration::from_millis(1 << milliseconds.ilog2())
}

impl Connection {
    /// Connects to `endpoint` (`host:port`, resolved now); each of its addresses gets `per_address`, all end at `deadline`.
    pub fn open(endpoint: &str, per_address: Duration, deadline: Instant) -> io::Result<Connection> {
        let stream = endpoint::connect(endpoint, per_address, deadline)?;
        stream.set_write_timeout(Some(SEND_SLICE))?;
        let read_timeout = Duration::from_millis(1);
        stream.set_read_timeout(Some(read_timeout))?;
        Ok(Connection { stream, endpoint: endpoint.to_owned(), input: vec![0; INPUT_BYTES], start: 0, end: 0, read_timeout })
    }

    /// The node as it was addressed.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends one plain request; see [`Connection::send`].
    pub fn request(&mut self, command: Command, key: &[u8], value: &[&[u8]], deadline: Instant) -> Result<(), SendError> {
        let mut frame = Vec::new();
        encode_request(&mut frame, command, key, value);
        self.send(&frame, deadline)
    }

    /// Sends `bytes`, which hold whole frames. While the socket takes nothing, responses are collected, so that a long pipeline and
    /// its answers cannot block each other. After an error the connection is of no use for further requests.
    pub fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), SendError> {
        let mut accepted = 0;
        while accepted < bytes.len() {
            let source = match self.stream.write(&bytes[accepted..]) {
                Ok(0) => io::Error::from(io::ErrorKind::WriteZero),
                Ok(count) => {
                    accepted += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_timeout(&error) && Instant::now() < deadline => match self.collect() {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(error) if is_timeout(&error) => io::Error::new(io::ErrorKind::TimedOut, "the time limit passed while sending"),
                Err(error) => error,
            };
            return Err(SendError { accepted, source });
        }
        Ok(())
    }

    /// Takes what has arrived, without waiting. The end of the stream is left for [`Connection::receive`] to find.
    fn collect(&mut self) -> io::Result<()> {
        self.make_room()?;
        self.stream.set_nonblocking(true)?;
        let taken = self.stream.read(&mut self.input[self.end..]);
        self.stream.set_nonblocking(false)?;
        match taken {
            Ok(count) => self.end += count,
            Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next response, waiting for it until `deadline`. After any error the connection is out of step and is to be dropped.
    pub fn receive(&mut self, deadline: Instant) -> io::Result<Response<'_>> {
        self.receive_while_alive(deadline, Duration::MAX)
    }

    /// As [`Connection::receive`], but gives up as soon as no byte has arrived for `silence`.
    pub fn receive_while_alive(&mut self, deadline: Instant, silence: Duration) -> io::Result<Response<'_>> {
        let header = loop {
            match self.complete_response()? {
                Some(header) => break header,
                None => self.fill(deadline, silence)?,
            }
        };
        let payload_start = self.start + header.header_bytes();
        let frame_end = payload_start + header.payload_length as usize;
        let frame = &self.input[self.start..frame_end];
        if header.extended.is_some_and(|(_, crc)| response_crc(frame) != crc) {
            return Err(invalid("an extended response has a wrong CRC".to_owned()));
        }
        let status_byte = frame[0] & !EXTENDED;
        self.start = frame_end;
        let payload = &self.input[payload_start..frame_end];
        Ok(Response { status: header.status, status_byte, payload, request_id: header.extended.map(|(id, _)| id) })
    }

    /// Whether a whole response has arrived already, so that [`Connection::receive`] would not wait.
    pub fn has_response(&self) -> bool {
        matches!(self.complete_response(), Ok(Some(_)) | Err(_))
    }

    /// The header of the next response if all of it is in the buffer. Refuses a length beyond any answer as soon as it is known.
    fn complete_response(&self) -> io::Result<Option<ResponseHeader>> {
        let Some(header) = ResponseHeader::parse(&self.input[self.start..self.end]) else {
            return Ok(None);
        };
        let payload = header.payload_length as usize;
        if payload > MAX_RESPONSE_PAYLOAD {
            return Err(invalid(format!("a response announces {payload} bytes, at most {MAX_RESPONSE_PAYLOAD} are possible")));
        }
        Ok((self.end - self.start >= header.header_bytes() + payload).then_some(header))
    }

    /// Waits for at least one more byte.
    fn fill(&mut self, deadline: Instant, silence: Duration) -> io::Result<()> {
        self.make_room()?;
        let began = Instant::now();
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(silence.saturating_sub(began.elapsed()));
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing arrived for {} ms", began.elapsed().as_millis())));
            }
            let slice = wait_slice(left);
            if slice != self.read_timeout {
                self.stream.set_read_timeout(Some(slice))?;
                self.read_timeout = slice;
            }
            match self.stream.read(&mut self.input[self.end..]) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection")),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Leaves at least one free byte behind `end`: by moving what is there, or by doubling a buffer that is full of arrived bytes.
    fn make_room(&mut self) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.input.len() > INPUT_BYTES_KEPT {
                self.input = vec![0; INPUT_BYTES];
            }
        }
        if self.end < self.input.len() {
            return Ok(());
        }
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let size_max = 2 * (MAX_RESPONSE_PAYLOAD + EXTENDED_RESPONSE_HEADER);
        if self.end > self.input.len() / 2 {
            if self.end >= size_max {
                return Err(invalid(format!("{} bytes of responses wait to be read; read them before sending more", self.end)));
            }
            self.input.resize((2 * self.input.len()).min(size_max), 0);
        }
        Ok(())
    }

    /// Whether nothing is outstanding or left over and the node has not closed: a kept connection is worth a new request. A node that
    /// dies right after this look is still possible.
    pub(crate) fn is_fresh(&self) -> bool {
        if self.start != self.end || self.stream.set_nonblocking(true).is_err() {
            return false;
        }
        let peeked = self.stream.peek(&mut [0]);
        // Bytes nobody asked for, the end of the stream, an error: all the same, the connection is done for.
        let quiet = peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).is_ok() && quiet
    }
}

/// The socket, to wait on together with others. Reading from it or writing to it leaves the connection out of step.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn waits_are_cut_to_powers_of_two_and_never_longer_than_asked_above_a_millisecond() {
        for (left, expected) in [(0, 1), (1, 1), (3, 2), (500, 256), (5_000, 4_096), (10_000_000, 65_536)] {
            assert_eq!(wait_slice(Duration::from_millis(left)), Duration::from_millis(expected), "{left} ms");
        }
        assert_eq!(wait_slice(Duration::MAX), Duration::from_millis(65_536));
    }

    #[test]
    fn memory_follows_the_bytes_that_arrived_not_the_length_that_was_announced() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on this machine");
        let endpoint = listener.local_addr().expect("a bound listener has an address").to_string();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut connection = Connection::open(&endpoint, Duration::from_secs(1), deadline).expect("the listener is there");
        let (mut node, _) = listener.accept().expect("the connection is there");

        let announced = MAX_RESPONSE_PAYLOAD as u32;
        node.write_all(&[&[0][..], &announced.to_le_bytes(), b"little"].concat()).expect("an open socket");
        let silence = Duration::from_millis(50);
        let error = connection.receive_while_alive(deadline, silence).expect_err("the rest never arrives");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(connection.end, 11, "the announcement and the beginning have arrived");
        assert_eq!(connection.input.len(), INPUT_BYTES);

        let arrives = vec![1; 5 * INPUT_BYTES];
        let writer = std::thread::spawn(move || node.write_all(&arrives).map(|()| node));
        connection.receive_while_alive(deadline, silence).expect_err("the rest never arrives");
        assert_eq!(connection.end, 11 + 5 * INPUT_BYTES);
        assert_eq!(connection.input.len(), 8 * INPUT_BYTES);
        writer.join().expect("no panic").expect("an open socket");
    }
}
