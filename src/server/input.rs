//! The receive buffer of one connection. It grows only as bytes arrive, never by an announced length, and gives its memory back when
//! the connection falls idle.

use rustix::buffer::spare_capacity;
use rustix::net::RecvFlags;
use std::net::TcpStream;

/// What an idle connection keeps.
pub(super) const IDLE_BYTES: usize = 16 << 10;
/// How far the buffer grows for pipelined small frames; a single larger frame may need more.
const PIPELINE_BYTES: usize = 256 << 10;
/// A buffer larger than this is given back as soon as it is empty, not only when the connection is idle.
const KEEP_BYTES: usize = 1 << 20;

/// Received bytes of which a prefix has been used.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    used: usize,
}

impl Input {
    /// What has been received and not used.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    /// Marks the first `count` of [`Input::bytes`] as used.
    pub(super) fn consume(&mut self, count: usize) {
        self.used += count;
        assert!(self.used <= self.bytes.len(), "{} bytes used of {} received", self.used, self.bytes.len());
    }

    /// Receives once, blocking as the socket's settings say; 0 is the end of the stream. `frame_bytes` is the size of the frame that
    /// stands incomplete at the front (0: unknown), so that the buffer does not grow beyond what it can use.
    pub(super) fn receive(&mut self, socket: &TcpStream, frame_bytes: usize) -> rustix::io::Result<usize> {
        self.make_room(frame_bytes);
        loop {
            match rustix::net::recv(socket, spare_capacity(&mut self.bytes), RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                other => return other.map(|(received, _)| received),
            }
        }
    }

    /// Moves what is left to the front and doubles a full buffer, up to what pipelining or the frame at the front can use. What is
    /// left is less than one frame, and stays in front until that frame is complete: each byte moves a bounded number of times.
    fn make_room(&mut self, frame_bytes: usize) {
        if self.used > 0 {
            self.bytes.drain(..self.used);
            self.used = 0;
        }
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP_BYTES {
            self.bytes = Vec::new();
        }
        let received = self.bytes.len();
        let useful = frame_bytes.max(PIPELINE_BYTES);
        let target = (received * 2).clamp(IDLE_BYTES, useful).max(received + 1);
        if self.bytes.capacity() - received < IDLE_BYTES / 4 {
            self.bytes.reserve_exact(target - received);
        }
    }

    /// Whether the buffer holds more memory than an idle connection should.
    pub(super) fn is_grown(&self) -> bool {
        self.bytes.capacity() > IDLE_BYTES
    }

    /// Gives grown memory back; only while nothing is unused.
    pub(super) fn shrink(&mut self) {
        if self.bytes().is_empty() && self.is_grown() {
            *self = Input::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        (near, listener.accept().expect("accept").0)
    }

    #[test]
    fn memory_follows_the_bytes_received_and_not_the_announced_size() {
        let (mut near, far) = pair();
        let mut input = Input::default();
        near.write_all(&[7; 100]).expect("write");
        assert_eq!(input.receive(&far, 1 << 30).expect("receive"), 100);
        assert!(input.bytes.capacity() <= 2 * IDLE_BYTES, "{} bytes reserved for 100 received", input.bytes.capacity());
    }

    #[test]
    fn a_large_frame_arrives_whole_and_its_memory_is_given_back() {
        let (mut near, far) = pair();
        let size = 5 << 20;
        let writer = std::thread::spawn(move || near.write_all(&vec![9; size]).map(|()| near));
        let mut input = Input::default();
        while input.bytes().len() < size {
            assert!(input.receive(&far, size).expect("receive") > 0);
            assert!(input.bytes.capacity() <= (2 * input.bytes().len()).max(2 * IDLE_BYTES));
        }
        assert!(input.bytes().iter().all(|byte| *byte == 9));
        let mut near = writer.join().expect("the writer ends").expect("write");
        input.consume(size);
        near.write_all(b"x").expect("write");
        input.receive(&far, 0).expect("receive");
        assert!(!input.is_grown(), "{} bytes kept", input.bytes.capacity());
        assert_eq!(input.bytes(), b"x");
    }
}
