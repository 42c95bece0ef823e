//! Connections over the cap: each gets BUSY to its first frame and is closed. One thread for all of them and a bounded number at a
//! time, with a short time limit each, so that clients without a place cannot hold anything.

use super::clients::ClientLimits;
use super::flusher::timespec;
use super::request::form_so_far;
use super::response::refuse;
use apexkv_client::protocol::{EXTENDED, REQUEST_HEADER, Status};
use crossbeam_channel::Receiver;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// How many are handled at a time; as many again may queue.
pub(super) const GUESTS_MAX: usize = 64;
/// How soon an arrival is noticed while others are handled.
const ROUND: Duration = Duration::from_millis(20);
/// Enough of a frame to answer it: an extended header up to the request id.
const HEAD_BYTES: usize = 17;

/// A connection on its way out.
struct Guest {
    socket: TcpStream,
    head: Vec<u8>,
    answered: bool,
    discarded: usize,
    deadline: Instant,
}

/// The thread's body; ends when the sending side of `arrivals` is gone.
pub(super) fn run(arrivals: &Receiver<TcpStream>, limits: &ClientLimits) {
    let mut guests: Vec<Guest> = Vec::new();
    loop {
        if guests.is_empty() {
            let Ok(socket) = arrivals.recv() else { return };
            guests.extend(Guest::new(socket, limits));
        }
        while guests.len() < GUESTS_MAX
            && let Ok(socket) = arrivals.try_recv()
        {
            guests.extend(Guest::new(socket, limits));
        }
        let mut descriptors: Vec<_> = guests.iter().map(|guest| PollFd::new(&guest.socket, PollFlags::IN)).collect();
        // Interrupted: the sockets do not block, so trying them all is harmless.
        let _ = poll(&mut descriptors, Some(&timespec(ROUND)));
        let now = Instant::now();
        guests.retain_mut(|guest| guest.deadline > now && guest.step(limits));
    }
}

impl Guest {
    fn new(socket: TcpStream, limits: &ClientLimits) -> Option<Guest> {
        socket.set_nonblocking(true).ok()?;
        let deadline = Instant::now() + limits.drain_time;
        Some(Guest { socket, head: Vec::new(), answered: false, discarded: 0, deadline })
    }

    /// Takes what has arrived; false when the connection is done.
    fn step(&mut self, limits: &ClientLimits) -> bool {
        let mut bytes = [0; 4096];
        match recv(&self.socket, &mut bytes, RecvFlags::empty()) {
            Ok((0, _)) => return false,
            Ok((received, _)) => {
                self.discarded += received;
                let wanted = HEAD_BYTES.saturating_sub(self.head.len()).min(received);
                self.head.extend_from_slice(&bytes[..wanted]);
            }
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        }
        let needed = if self.head[0] & EXTENDED != 0 { HEAD_BYTES } else { REQUEST_HEADER };
        if !self.answered && self.head.len() >= needed {
            self.answered = true;
            self.deadline = Instant::now() + limits.drain_time;
            let mut response = Vec::new();
            let text = format!("this node has its {} client connections (--max-connections); try again later", limits.connections_max);
            refuse(&mut response, form_so_far(&self.head), Status::Busy, &text);
            let sent = send(&self.socket, &response, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            if sent.is_err() || self.socket.shutdown(Shutdown::Write).is_err() {
                return false;
            }
        }
        self.discarded < limits.drain_bytes
    }
}
