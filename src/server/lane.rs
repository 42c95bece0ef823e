//! The right to write to a link's connection. The link's worker has it as a rule; the Raft thread takes it for a small message when nothing
//! waits before it, because waking the worker would take longer than the message. Whoever writes holds the lock, and messages keep
//! their order: as long as one waits, or is in the worker's hand, the next one waits behind it. A message that the socket takes in part is
//! finished by the worker.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// What became of a message that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// The socket has it.
    Sent,
    /// The socket has some of it: the worker must be woken, and counts as having one message waiting.
    Begun,
    /// Nothing was written.
    Refused,
}

/// See the module's doc.
#[derive(Debug, Default)]
pub struct Lane {
    /// Messages that wait for the worker or are in its hand.
    waiting: AtomicUsize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    stream: Option<Arc<TcpStream>>,
    /// The end of a message whose beginning the socket has.
    rest: Vec<u8>,
    scratch: Vec<u8>,
}

impl Lane {
    /// From now on messages may be offered.
    pub fn open(&self, stream: &Arc<TcpStream>) {
        self.open.lock().stream = Some(stream.clone());
    }

    /// The connection is gone, and with it what it had taken in part.
    pub fn close(&self) {
        *self.open.lock() = Open::default();
    }

    /// A message is about to be left for the worker.
    pub fn will_wait(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// So many messages no longer wait: they were written or dropped.
    pub fn no_longer_waiting(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::SeqCst);
    }

    /// Writes what `encode` appends, if nothing is before it and that needs no waiting. `encode` says whether it could.
    pub fn offer(&self, encode: impl FnOnce(&mut Vec<u8>) -> bool) -> Offered {
        let Some(mut open) = self.open.try_lock() else { return Offered::Refused };
        let Open { stream: Some(stream), rest, scratch } = &mut *open else { return Offered::Refused };
        if self.waiting.load(Ordering::SeqCst) > 0 {
            return Offered::Refused;
        }
        scratch.clear();
        if !encode(scratch) {
            return Offered::Refused;
        }
        let taken = loop {
            match send(&**stream, scratch, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(taken) => break taken,
                Err(Errno::INTR) => {}
                // What is wrong is the worker's to find out.
                Err(_) => return Offered::Refused,
            }
        };
        if taken == scratch.len() {
            return Offered::Sent;
        }
        rest.extend_from_slice(&scratch[taken..]);
        self.will_wait();
        Offered::Begun
    }

    /// Writes what was begun, and then these bytes. Waits as long as the socket does.
    pub fn write(&self, mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock();
        stream.write_all(&open.rest)?;
        open.rest = Vec::new();
        stream.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    fn pair() -> (Arc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        (Arc::new(stream), listener.accept().expect("accept").0)
    }

    fn offer(lane: &Lane, bytes: &[u8]) -> Offered {
        lane.offer(|out| {
            out.extend_from_slice(bytes);
            true
        })
    }

    #[test]
    fn what_waits_comes_first() {
        let lane = Lane::default();
        assert_eq!(offer(&lane, b"early"), Offered::Refused, "there is no connection");
        let (stream, mut far) = pair();
        lane.open(&stream);
        assert_eq!(offer(&lane, b"1"), Offered::Sent);
        lane.will_wait();
        assert_eq!(offer(&lane, b"3"), Offered::Refused, "the worker has an older one");
        lane.write(&stream, b"2").expect("there is room");
        lane.no_longer_waiting(1);
        assert_eq!(offer(&lane, b"3"), Offered::Sent);
        let mut got = [0; 3];
        far.read_exact(&mut got).expect("three bytes");
        assert_eq!(&got, b"123");
        assert_eq!(lane.offer(|_| false), Offered::Refused);
        lane.close();
        assert_eq!(offer(&lane, b"late"), Offered::Refused);
    }

    #[test]
    fn a_message_that_was_begun_is_finished_before_the_next_one() {
        let lane = Lane::default();
        let (stream, mut far) = pair();
        lane.open(&stream);
        // No buffer of a socket takes it whole.
        let large: Vec<u8> = (0..64_u32 << 20).map(|at| (at % 251) as u8).collect();
        assert_eq!(offer(&lane, &large), Offered::Begun);
        assert_eq!(offer(&lane, b"x"), Offered::Refused);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            far.read_to_end(&mut all).map(|_| all)
        });
        lane.write(&stream, b"end").expect("the reader makes room");
        lane.no_longer_waiting(1);
        lane.close();
        drop(stream);
        let all = reader.join().expect("it ends").expect("readable");
        assert!(all == [&large[..], b"end"].concat(), "{} bytes arrived of {}", all.len(), large.len() + 3);
    }
}
