//! Accepts connections on the peer port and gives each its thread. What is said on them is not known here. At any time only a few
//! connections may be unauthenticated, so a flood of strangers costs neither threads nor memory; more of them are closed at once.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::notices::Throttle;
use crate::error::{Error, Result};

/// Most connections that have not introduced themselves yet.
pub const PENDING_MAX: usize = 64;
/// Stack of a thread that serves one connection.
pub const LINK_STACK: usize = 256 << 10;
/// How long a stop waits for the connections' threads.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Pause when the process has no file descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Serves one connection until it ends.
pub type Serve = dyn Fn(&Arc<TcpStream>, &mut Pending) + Send + Sync;

/// The accepting thread and the threads of its connections.
pub struct Acceptor {
    wake: Arc<OwnedFd>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    connections: Arc<Connections>,
}

/// Counts a connection among the unauthenticated ones until it is settled or dropped.
#[derive(Debug)]
pub struct Pending {
    count: Option<Arc<AtomicUsize>>,
}

#[derive(Default)]
struct Connections {
    open: Mutex<(u64, HashMap<u64, Arc<TcpStream>>)>,
    ended: Condvar,
}

impl Pending {
    /// The connection has introduced itself.
    pub fn settle(&mut self) {
        if let Some(count) = self.count.take() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Acceptor {
    /// Starts to accept. The listeners stay the caller's and may be given to another acceptor once this one has stopped; connections
    /// that arrive between wait in the backlog.
    pub fn start(listeners: &[TcpListener], serve: Arc<Serve>) -> Result<Acceptor> {
        let failed = || Error::io("accept connections on the peer port");
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed()(error.into()))?);
        let listeners = listeners
            .iter()
            .map(|listener| listener.set_nonblocking(true).and_then(|()| listener.try_clone()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed())?;
        let stopping = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Connections::default());
        let accepting = Accepting {
            listeners,
            wake: wake.clone(),
            stopping: stopping.clone(),
            connections: connections.clone(),
            serve,
            pending: Arc::new(AtomicUsize::new(0)),
            complaints: Throttle::new(Duration::from_secs(1)),
        };
        let thread = thread::Builder::new().name("peer-accept".to_owned()).stack_size(LINK_STACK).spawn(move || accepting.run());
        Ok(Acceptor { wake, stopping, thread: Some(thread.map_err(failed())?), connections })
    }

    /// Accepts no more, cuts all connections, and waits for their threads.
    pub fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stopping.store(true, Ordering::SeqCst);
        // The counter is at 0, so the write cannot block, and the thread reads it only by ending.
        let _ = rustix::io::write(&*self.wake, &1u64.to_le_bytes());
        let _ = thread.join();
        let mut open = self.connections.open.lock();
        for stream in open.1.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let until = Instant::now() + STOP_LIMIT;
        while !open.1.is_empty() && !self.connections.ended.wait_until(&mut open, until).timed_out() {}
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Accepting {
    listeners: Vec<TcpListener>,
    wake: Arc<OwnedFd>,
    stopping: Arc<AtomicBool>,
    connections: Arc<Connections>,
    serve: Arc<Serve>,
    pending: Arc<AtomicUsize>,
    complaints: Throttle,
}

impl Accepting {
    fn run(self) {
        while !self.stopping.load(Ordering::SeqCst) {
            let mut sources: Vec<PollFd<'_>> =
                self.listeners.iter().map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)).collect();
            sources.push(PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN));
            match poll(&mut sources, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    self.complain(format_args!("waiting on the peer port failed: {error}"));
                    thread::sleep(EXHAUSTED_PAUSE);
                }
            }
            for listener in &self.listeners {
                self.accept_waiting(listener);
            }
        }
    }

    fn accept_waiting(&self, listener: &TcpListener) {
        while !self.stopping.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((stream, _)) => self.take(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    // Out of file descriptors or memory: the connection stays in the backlog, so without a pause this would spin.
                    self.complain(format_args!("cannot accept a connection on the peer port: {error}; raise the limit of open files"));
                    thread::sleep(EXHAUSTED_PAUSE);
                    return;
                }
            }
        }
    }

    fn take(&self, stream: TcpStream) {
        if self.pending.fetch_add(1, Ordering::Relaxed) >= PENDING_MAX {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            self.complain(format_args!(
                "more than {PENDING_MAX} connections on the peer port have not introduced themselves: one is closed"
            ));
            return;
        }
        let mut pending = Pending { count: Some(self.pending.clone()) };
        let stream = Arc::new(stream);
        let number = self.connections.enter(&stream);
        let (serve, connections) = (self.serve.clone(), self.connections.clone());
        let spawned = thread::Builder::new().name("peer-in".to_owned()).stack_size(LINK_STACK).spawn(move || {
            serve(&stream, &mut pending);
            drop(stream);
            connections.leave(number);
        });
        if let Err(error) = spawned {
            self.connections.leave(number);
            self.complain(format_args!("no thread for a connection on the peer port: {error}"));
        }
    }

    fn complain(&self, text: std::fmt::Arguments<'_>) {
        if let Some(left_out) = self.complaints.allow() {
            log::warn!("{text} ({left_out} like this left out)");
        }
    }
}

impl Connections {
    fn enter(&self, stream: &Arc<TcpStream>) -> u64 {
        let mut open = self.open.lock();
        open.0 += 1;
        let number = open.0;
        open.1.insert(number, stream.clone());
        number
    }

    fn leave(&self, number: u64) {
        self.open.lock().1.remove(&number);
        self.ended.notify_all();
    }
}
