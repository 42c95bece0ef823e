//! One connection's share of the load: keeps requests in flight, notes when each was answered, and finds the leader again when it has
//! moved. Everything that costs time per request is shared by the requests that one read of the socket has answered: the clock, the
//! write, the read.

use super::keys::{Chance, KeyPicker};
use super::load::{Load, Operation};
use super::progress::Answers;
use super::schedule::Schedule;
use super::tally::Tally;
use super::{BenchOptions, Window};
use crate::cli::args::Arguments;
use apexkv_client::protocol::Status;
use apexkv_client::{Client, Connection, Error, Pipeline};
use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Pause of a connection that has lost its leader, before it looks for the next one.
pub(crate) const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// Asks the cluster for any key: whoever answers leads.
pub(crate) fn find_leader(arguments: &Arguments, timeout: Duration) -> Result<String, Error> {
    let mut client = Client::builder().endpoints(arguments.endpoints.clone()).timeout(timeout).build()?;
    client.get(b"bench:")?;
    Ok(client.endpoint().unwrap_or(&arguments.endpoints[0]).to_owned())
}

/// Why a connection is of no more use; the name counts for every request that it leaves unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

impl From<&io::Error> for Broken {
    fn from(error: &io::Error) -> Broken {
        Broken(if error.kind() == io::ErrorKind::TimedOut { "timeout" } else { "connection" })
    }
}

/// A request in flight, and the moment from which its latency counts.
#[derive(Clone, Copy, Debug)]
struct Sent {
    operation: Operation,
    from: Instant,
}

/// One connection's share of the load.
pub(crate) struct Worker<'a> {
    arguments: &'a Arguments,
    pub(super) options: &'a BenchOptions,
    load: Load,
    keys: KeyPicker,
    chance: Chance,
    number: u32,
    answers: &'a Answers,
    sent: VecDeque<Sent>,
    tally: Tally,
    pub(super) window: Window,
    /// In an open loop.
    pub(super) schedule: Option<Schedule>,
    /// The node has said that it does not lead: nothing more is sent there.
    pub(super) moved: bool,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(arguments: &'a Arguments, options: &'a BenchOptions, load: Load, number: u32, answers: &'a Answers) -> Worker<'a> {
        let now = Instant::now();
        Worker {
            arguments,
            options,
            load,
            keys: KeyPicker::new(options),
            chance: Chance::new((u64::from(number) << 32) | 1),
            number,
            answers,
            sent: VecDeque::with_capacity(options.depth as usize),
            tally: Tally::new(),
            window: Window { begin: now, end: now },
            schedule: None,
            moved: false,
        }
    }

    /// Connects, lets go of `ready`, waits for the window, and runs to its end over as many connections as it takes.
    pub(crate) fn run(mut self, mut leader: String, ready: Sender<()>, window: &Receiver<Window>) -> Tally {
        let mut pipeline = self.connect(&leader);
        drop(ready);
        let Ok(window) = window.recv() else { return self.tally };
        self.window = window;
        let start = window.begin - self.options.warmup;
        self.schedule = self.options.rate.map(|rate| Schedule::new(start, rate, self.options.connections, self.number));
        while Instant::now() < window.end {
            let ended = match &mut pipeline {
                Ok(pipeline) => self.drive(pipeline),
                Err(broken) => {
                    self.tally.fail(broken.0, 1);
                    Err(*broken)
                }
            };
            let Err(broken) = ended else { break };
            self.give_up(broken);
            thread::sleep(RECONNECT_PAUSE);
            let left = window.end.saturating_duration_since(Instant::now()).max(RECONNECT_PAUSE);
            leader = find_leader(self.arguments, self.arguments.timeout.min(left)).unwrap_or(leader);
            pipeline = self.connect(&leader);
        }
        if let Some(schedule) = &self.schedule {
            self.tally.fail("unsent", schedule.unsent(&window));
        }
        self.tally
    }

    fn connect(&self, leader: &str) -> Result<Pipeline, Broken> {
        let timeout = self.arguments.timeout;
        Connection::open(leader, timeout, Instant::now() + timeout).map(Pipeline::new).map_err(|_| Broken("connect"))
    }

    fn drive(&mut self, pipeline: &mut Pipeline) -> Result<(), Broken> {
        self.moved = false;
        if self.schedule.is_some() { self.drive_open(pipeline) } else { self.drive_closed(pipeline) }
    }

    /// A new request whenever one was answered; ends with the window, or early when the connection is of no more use.
    fn drive_closed(&mut self, pipeline: &mut Pipeline) -> Result<(), Broken> {
        let depth = self.options.depth as usize;
        let mut now = Instant::now();
        loop {
            while !self.moved && now < self.window.end && pipeline.outstanding() < depth {
                self.push(pipeline, now);
            }
            if pipeline.outstanding() == 0 {
                return self.ended();
            }
            now = self.collect(pipeline, now)?;
        }
    }

    /// How a connection ends on which nothing is outstanding.
    pub(super) fn ended(&self) -> Result<(), Broken> {
        if self.moved { Err(Broken("moved")) } else { Ok(()) }
    }

    /// Adds a request; its latency counts from `from`.
    pub(super) fn push(&mut self, pipeline: &mut Pipeline, from: Instant) {
        let operation = self.load.next(&mut self.chance);
        let number = self.keys.pick(&mut self.chance);
        pipeline.push_frame(self.load.frame(operation, number));
        self.sent.push_back(Sent { operation, from });
    }

    /// Sends what was pushed.
    pub(super) fn flush(&mut self, pipeline: &mut Pipeline, now: Instant) -> Result<(), Broken> {
        pipeline.flush(now + self.arguments.timeout).map_err(|error| Broken::from(&error.source))
    }

    /// Sends what was pushed, waits for the next answer, takes all others that came with it, and returns when that was.
    pub(super) fn collect(&mut self, pipeline: &mut Pipeline, now: Instant) -> Result<Instant, Broken> {
        self.flush(pipeline, now)?;
        let deadline = now + self.arguments.timeout;
        let receive = |pipeline: &mut Pipeline| match pipeline.receive(deadline) {
            Ok(response) => Ok(response.status),
            Err(error) => Err(Broken::from(&error)),
        };
        let mut status = receive(pipeline)?;
        let arrived = Instant::now();
        let mut count = 0;
        loop {
            count += 1;
            self.moved |= status == Status::NotLeader;
            let sent = self.sent.pop_front().expect("every answer belongs to a request that was pushed");
            if self.counts(sent.from, arrived) {
                self.tally.record(sent.operation, status, arrived.saturating_duration_since(sent.from));
            }
            if pipeline.outstanding() == 0 || !pipeline.has_response() {
                self.answers.add(count);
                return Ok(arrived);
            }
            status = receive(pipeline)?;
        }
    }

    /// In a closed loop, what was answered within the window counts. In an open one it is what was due in it: otherwise the slowest
    /// requests would be missing, just because they were still under way at the end.
    fn counts(&self, from: Instant, arrived: Instant) -> bool {
        let moment = if self.schedule.is_some() { from } else { arrived };
        moment >= self.window.begin && moment < self.window.end
    }

    /// What was in flight has no answer.
    fn give_up(&mut self, broken: Broken) {
        let now = Instant::now();
        while let Some(sent) = self.sent.pop_front() {
            if self.counts(sent.from, now) {
                self.tally.fail(broken.0, 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_a_broken_connection_have_different_names() {
        assert_eq!(Broken::from(&io::Error::from(io::ErrorKind::TimedOut)), Broken("timeout"));
        assert_eq!(Broken::from(&io::Error::from(io::ErrorKind::ConnectionReset)), Broken("connection"));
        assert_eq!(Broken::from(&io::Error::from(io::ErrorKind::UnexpectedEof)), Broken("connection"));
    }
}
