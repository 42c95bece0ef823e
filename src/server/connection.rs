//! One client connection as the threads share it: who answers puts the outcome in, and whoever completes the head of the order sends
//! all that is ready, with one send that cannot wait. Replies by the completing thread are measurably faster than waking the
//! connection's own thread for them.
//!
//! Who answers, or brings the entries of a batch, never waits here: it only *tries* the lock of the output, and when another thread holds
//! it, leaves what it has in a queue, into which that thread looks once more after it has let go, so nothing is left lying. The lock is
//! held during a send, which cannot wait but takes a while, and which wakes a client whose next request arrives before it is over: a
//! connection's thread that waited for the lock would go to sleep for every few requests. What a socket does not take at once is finished
//! by the server's flusher, so that a connection's thread can sleep in a plain blocking receive: one system call for a request instead of
//! two.

use super::clients::Port;
use super::event::{Outcome, Slot};
use super::output::{Entry, Output, Wait};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use rustix::net::sockopt::socket_incoming_cpu;
use std::fmt;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicUsize, fence};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// A client connection; the Raft thread names it when it answers.
pub struct Connection {
    number: u64,
    socket: TcpStream,
    port: Arc<Port>,
    /// Changes on their way into `output`, in the order in which they must get there.
    changes: (Sender<Change>, Receiver<Change>),
    output: Mutex<Output>,
    /// The thread that serves the connection, to be woken.
    thread: OnceLock<Thread>,
    processor: AtomicUsize,
}

/// What is done to the output once its lock is free.
enum Change {
    /// The outcomes of some slots.
    Answers(Vec<(Slot, Outcome)>),
    /// The entries of a batch. Its outcomes come later.
    Entries(Vec<Entry>),
}

/// How a blocked connection stands after the flusher has tried it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Nothing is left to send, or nothing can be.
    Done,
    /// The client has not taken everything yet.
    Blocked,
}

impl Connection {
    pub(super) fn new(number: u64, socket: TcpStream, port: Arc<Port>) -> Connection {
        Connection {
            number,
            socket,
            port,
            changes: crossbeam_channel::unbounded(),
            output: Mutex::new(Output::new()),
            thread: OnceLock::new(),
            processor: AtomicUsize::new(0),
        }
    }

    /// Answers some slots, in any order; each slot exactly once. Never blocks: made for the Raft thread.
    ///
    /// # Panics
    /// When a slot is not open, or its outcome is of the wrong kind: the caller has broken its promise.
    pub fn complete(self: &Arc<Self>, replies: impl IntoIterator<Item = (Slot, Outcome)>) {
        // Mostly nobody is at the output, and the queue is not needed.
        match self.output.try_lock() {
            Some(mut output) => {
                self.absorb(&mut output);
                self.take(replies, &mut output);
                self.settle(&mut output);
            }
            None => self.queue(Change::Answers(replies.into_iter().collect())),
        }
        self.pump();
    }

    /// Takes over the entries of a batch, before anybody can answer them. Says whether `wait` is satisfied then, unless another thread
    /// is at the output. Only for the connection's own thread.
    pub(super) fn push(self: &Arc<Self>, entries: impl IntoIterator<Item = Entry>, wait: Wait) -> Option<bool> {
        let satisfied = match self.output.try_lock() {
            Some(mut output) => {
                self.absorb(&mut output);
                output.push(entries);
                self.settle(&mut output);
                Some(!output.closed && output.satisfies(wait))
            }
            None => {
                self.queue(Change::Entries(entries.into_iter().collect()));
                None
            }
        };
        self.pump();
        satisfied
    }

    fn queue(&self, change: Change) {
        self.changes.0.send(change).expect("the connection holds both ends of its queue");
    }

    /// The processor from which its client's bytes came lately, as far as that is known.
    pub(super) fn processor(&self) -> usize {
        self.processor.load(Relaxed)
    }

    /// Notes from which processor bytes have just come.
    pub(super) fn note_processor(&self) {
        if let Ok(processor) = socket_incoming_cpu(&self.socket) {
            self.processor.store(processor as usize, Relaxed);
        }
    }

    /// A number that no other connection of this process has, for messages.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Makes the calling thread the one that [`Connection::wait`] puts to sleep. Called once, by that thread.
    pub(super) fn adopt(&self) {
        self.thread.set(std::thread::current()).expect("a connection is served by one thread");
    }

    /// Lets `change` work on the output, then sends what became ready. For every thread but the Raft thread, which may not wait for
    /// the lock.
    pub(super) fn with_output<T>(self: &Arc<Self>, change: impl FnOnce(&mut Output) -> T) -> T {
        let mut output = self.output.lock();
        self.absorb(&mut output);
        let result = change(&mut output);
        self.settle(&mut output);
        drop(output);
        self.pump();
        result
    }

    /// Sleeps until `wait` is satisfied; false when the connection was closed meanwhile. Only for the connection's own thread.
    pub(super) fn wait(self: &Arc<Self>, wait: Wait) -> bool {
        loop {
            let open = self.with_output(|output| {
                let done = output.closed || output.satisfies(wait);
                output.wait = (!done).then_some(wait);
                done.then_some(!output.closed)
            });
            if let Some(open) = open {
                return open;
            }
            // An unpark between the lock's release and this call is remembered, so no wake-up is lost.
            std::thread::park();
        }
    }

    /// Ends the connection at once: unsent responses are dropped, its thread wakes up.
    pub(super) fn cut(self: &Arc<Self>) {
        self.with_output(|output| self.close(output));
    }

    /// Tries a connection that was blocked. One that has taken no byte for `stall` is cut.
    pub(super) fn flush(self: &Arc<Self>, stall: Duration) -> Flushed {
        self.with_output(|output| {
            if output.closed {
                return Flushed::Done;
            }
            let taken = output.send(&self.socket);
            self.port.metrics.client_bytes_out.add(taken as u64);
            if taken > 0 {
                output.progress = Instant::now();
            }
            if output.closed || !output.has_unsent() {
                output.blocked = false;
                return Flushed::Done;
            }
            if output.progress.elapsed() < stall {
                return Flushed::Blocked;
            }
            log::info!("client connection {}: cut, it took no byte of its responses for {stall:?}", self.number);
            self.port.metrics.connections_cut.increment();
            self.close(output);
            Flushed::Done
        })
    }

    /// Brings queued changes into the output as long as there are any and nobody else is at it.
    fn pump(self: &Arc<Self>) {
        loop {
            // Pairs with itself in the other thread: either the one that just let go of the lock sees the new change, or the one
            // that just queued it finds the lock free.
            fence(SeqCst);
            if self.changes.1.is_empty() {
                return;
            }
            let Some(mut output) = self.output.try_lock() else { return };
            self.absorb(&mut output);
            self.settle(&mut output);
        }
    }

    fn absorb(&self, output: &mut Output) {
        while let Ok(change) = self.changes.1.try_recv() {
            match change {
                Change::Answers(replies) => self.take(replies, output),
                Change::Entries(entries) => output.push(entries),
            }
        }
    }

    fn take(&self, replies: impl IntoIterator<Item = (Slot, Outcome)>, output: &mut Output) {
        let freed = replies.into_iter().map(|(slot, outcome)| output.answer(slot, outcome, self.port.view.as_ref())).sum();
        self.port.in_flight.release(freed);
    }

    /// After a change: sends what is ready unless the flusher is at it, hands what did not fit to the flusher, and wakes the
    /// connection's thread if it waits for what has come.
    fn settle(self: &Arc<Self>, output: &mut Output) {
        output.advance();
        if output.has_unsent() && !output.blocked {
            let taken = output.send(&self.socket);
            self.port.metrics.client_bytes_out.add(taken as u64);
            if output.has_unsent() {
                output.blocked = true;
                output.progress = Instant::now();
                self.port.metrics.client_sends_blocked.increment();
                self.port.flusher.watch(Arc::clone(self));
            }
        }
        if output.closed {
            self.close(output);
        }
        output.report_unsent(&self.port.unsent);
        if output.wait.is_some_and(|wait| output.closed || output.satisfies(wait)) {
            output.wait = None;
            if let Some(thread) = self.thread.get() {
                thread.unpark();
            }
        }
    }

    fn close(&self, output: &mut Output) {
        output.close();
        // The connection's thread may sleep in a receive: this ends it. A socket that is gone already needs nothing.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let output = self.output.get_mut();
        output.discard();
        output.report_unsent(&self.port.unsent);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client connection {}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::clients::{ClientLimits, ClientPort, ClientPortConfig, NodeView};
    use super::super::metrics::Metrics;
    use super::super::output::Entry;
    use super::*;
    use crate::raft::NodeId;
    use std::io::Read;
    use std::net::TcpListener;

    struct View;

    impl NodeView for View {
        fn client_address(&self, _: NodeId) -> Option<String> {
            None
        }

        fn status_json(&self) -> String {
            String::new()
        }
    }

    /// A connection with a client at its other end.
    fn connected(port: &ClientPort) -> (Arc<Connection>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("an option");
        (Arc::new(Connection::new(1, listener.accept().expect("accept").0, port.shared())), client)
    }

    fn write() -> Vec<Entry> {
        vec![Entry::Write { form: None, cost: 1 }]
    }

    #[test]
    fn whoever_finds_the_output_locked_does_not_wait_and_the_holder_sends() {
        let config = ClientPortConfig { listeners: Vec::new(), limits: ClientLimits::default(), metrics: Arc::new(Metrics::default()) };
        let started = ClientPort::start(config, Arc::new(View)).expect("the port starts");
        let (connection, mut client) = connected(&started);
        connection.port.in_flight.enter(2);
        assert_eq!(connection.push(write(), Wait::Front { slot: 0 }), Some(true));
        connection.with_output(|_| {
            let other = Arc::clone(&connection);
            let threads = std::thread::spawn(move || {
                other.complete(vec![(0, Outcome::Written { version: 7 })]);
                assert_eq!(other.push(write(), Wait::Front { slot: 0 }), None, "nobody can see the output");
                other.complete(vec![(1, Outcome::Written { version: 8 })]);
            });
            threads.join().expect("it returns although the output is locked");
        });
        for version in [7_u64, 8] {
            let mut response = [0; 13];
            client.read_exact(&mut response).expect("the answer");
            assert_eq!(response[5..], version.to_le_bytes());
        }
    }
}
