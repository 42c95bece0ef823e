//! The client: operations with a total time limit, carried to whichever node leads. Decides where the next attempt goes; what the end
//! of an attempt means is decided next door. Belongs to one thread at a time and never starts any.

use crate::attempt::{Decode, Ending, Request, attempt, decode_version, optional};
use crate::backup::{self, Backup};
use crate::connection::Connection;
use crate::error::{Error, FailedAttempt, Failure};
use crate::protocol::{BACKUP_OPEN, Command, LARGEST_KEY, LARGEST_VALUE, MAX_PING, SCAN_KEYS_ONLY, encode_request};
use crate::route::Route;
use crate::scan::{self, Scan, ScanOptions, ScanPage};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, thread};

/// Longer time limits are cut to this: a year is for ever, and a clock cannot be moved further without overflowing.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// A frame buffer above this size is given back after the operation.
const FRAME_BYTES_KEPT: usize = 1 << 20;

/// An operation that has found no taker is not tried again in the last tenth of its time, or this much if that is less. An answer that
/// comes too late would turn a write's certain "not done" into "unknown", and hide why the earlier attempts failed.
const RESERVE_MAX: Duration = Duration::from_millis(100);

type Observer = Arc<dyn Fn(&FailedAttempt) + Send + Sync>;

/// Collects the settings of a [`Client`]. Nothing is connected before the first operation.
#[derive(Clone)]
pub struct Builder {
    endpoints: Vec<String>,
    timeout: Duration,
    connect_timeout: Duration,
    read_attempt: Duration,
    observer: Option<Observer>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("endpoints", &self.endpoints).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Builder {
    /// Nodes to start from, each as `host:port` (client port). Any of them will do; more of them survive more failures.
    pub fn endpoints<E: Into<String>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Builder {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// Total time of one operation, over all its attempts; 5 s by default. No new attempt begins in its last tenth (at most 100 ms).
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// Time for connecting to one address of one node; 250 ms by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.connect_timeout = timeout;
        self
    }

    /// How long a read waits without receiving a byte before it is tried elsewhere; 500 ms by default. Writes wait until the total
    /// time is over: they are never sent twice.
    pub fn read_attempt_timeout(mut self, timeout: Duration) -> Builder {
        self.read_attempt = timeout;
        self
    }

    /// Called after each attempt that failed, before the next one: for progress messages. It must not block.
    ///
    /// ```
    /// # let node = apexkv_client::testing::MemoryNode::start()?;
    /// # let (dead, alive) = ("127.0.0.1:1", node.endpoint());
    /// use apexkv_client::Client;
    ///
    /// let builder = Client::builder().endpoints([dead, alive.as_str()]);
    /// let mut client = builder.observer(|attempt| eprintln!("{}: {}", attempt.endpoint, attempt.failure)).build()?;
    /// assert_eq!(client.get(b"nothing")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn observer(mut self, observer: impl Fn(&FailedAttempt) + Send + Sync + 'static) -> Builder {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Checks the settings. [`Error::Usage`] if there is no endpoint, one is not `host:port`, or a time is zero.
    pub fn build(mut self) -> Result<Client, Error> {
        if self.endpoints.is_empty() {
            return Err(Error::Usage("no endpoint is given; name at least one node as host:port".to_owned()));
        }
        self.endpoints.iter().try_for_each(|endpoint| crate::check_endpoint(endpoint)).map_err(Error::Usage)?;
        if self.timeout.is_zero() || self.connect_timeout.is_zero() || self.read_attempt.is_zero() {
            return Err(Error::Usage("a time limit is zero, so that nothing could ever be done; give at least 1ms".to_owned()));
        }
        self.timeout = self.timeout.min(TIMEOUT_MAX);
        let route = Route::new(self.endpoints.clone());
        Ok(Client { settings: self, route, connection: None, frame: Vec::new(), last_endpoint: None })
    }
}

/// A blocking client of one cluster. See the [crate's documentation](crate) for what its results mean.
#[derive(Debug)]
pub struct Client {
    settings: Builder,
    route: Route,
    /// Open and in step; to the node that answered last.
    connection: Option<Connection>,
    frame: Vec<u8>,
    last_endpoint: Option<String>,
}

impl Client {
    /// Settings to start from: no endpoints, 5 s.
    pub fn builder() -> Builder {
        Builder {
            endpoints: Vec::new(),
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_millis(250),
            read_attempt: Duration::from_millis(500),
            observer: None,
        }
    }

    /// Stores a value. Returns its version: the write is committed and durable on a majority.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<u64, Error> {
        self.perform(Command::Set, key, &[value], decode_version)
    }

    /// Reads a value; `None` if the key is absent. Linearizable: sees every write that was done before the call.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.perform(Command::Get, key, &[], optional(|_, payload: &[u8]| Ok(payload.to_vec())))
    }

    /// Reads a value with its version; `None` if the key is absent.
    pub fn get_versioned(&mut self, key: &[u8]) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let decode = |_, payload: &[u8]| match payload.split_first_chunk() {
            Some((version, value)) => Ok((u64::from_le_bytes(*version), value.to_vec())),
            None => Err(format!("a GETV with {} bytes, fewer than its version has", payload.len())),
        };
        self.perform(Command::Getv, key, &[], optional(decode))
    }

    /// Removes a key. Returns the version of the deletion; `None` if the key was absent.
    pub fn delete(&mut self, key: &[u8]) -> Result<Option<u64>, Error> {
        self.perform(Command::Del, key, &[], optional(decode_version))
    }

    /// Stores a value if the key's version is `expected` (0: if the key is absent). Returns the new version, or
    /// [`Error::Conflict`] with the one that stands.
    pub fn compare_and_set(&mut self, key: &[u8], expected: u64, value: &[u8]) -> Result<u64, Error> {
        self.perform(Command::Cas, key, &[&expected.to_le_bytes(), value], decode_version)
    }

    /// One page of the keys that start with `prefix`, in byte order, behind the key `after` (empty: from the beginning). A page shows
    /// one state; several pages may show several.
    pub fn scan_page(&mut self, prefix: &[u8], options: ScanOptions, after: &[u8]) -> Result<ScanPage, Error> {
        let flags = if options.keys_only { SCAN_KEYS_ONLY } else { 0 };
        let value: [&[u8]; 3] = [&options.page_limit.to_le_bytes(), &[flags], after];
        self.perform(Command::Scan, prefix, &value, |_, payload: &[u8]| scan::decode_page(payload, prefix, after))
    }

    /// All keys that start with `prefix`, page by page as the iteration goes on; each page has the whole time limit.
    ///
    /// ```
    /// # let node = apexkv_client::testing::MemoryNode::start()?;
    /// # let mut client = apexkv_client::Client::builder().endpoints([node.endpoint()]).build()?;
    /// use apexkv_client::ScanOptions;
    ///
    /// for name in ["user/ada", "user/grace", "visits"] {
    ///     client.set(name.as_bytes(), b"1")?;
    /// }
    /// let pairs = client.scan(b"user/", ScanOptions::default()).collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(pairs.len(), 2);
    /// assert_eq!(pairs[0].key, b"user/ada");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn scan(&mut self, prefix: &[u8], options: ScanOptions) -> Scan<'_> {
        Scan::new(self, prefix, options)
    }

    /// Begins a backup: the whole state at one index, which holds every write that was done before the call. It is read from the leader
    /// over a connection of its own, and goes on when that node no longer leads.
    pub fn backup(&mut self) -> Result<Backup, Error> {
        let opened = self.perform(Command::Backup, &[], &[&[BACKUP_OPEN]], backup::decode_opened)?;
        let connection = self.connection.take().expect("the connection over which an operation was done is kept");
        Ok(Backup::new(connection, opened, self.settings.timeout))
    }

    /// The view that one node has of itself and the cluster, as JSON text; leader or not, one attempt.
    pub fn status(&self, endpoint: &str) -> Result<String, Error> {
        let decode = |_, payload: &[u8]| String::from_utf8(payload.to_vec()).map_err(|_| "a STATUS that is not UTF-8".to_owned());
        self.ask(endpoint, Command::Status, &[], decode).map(|(_, status)| status)
    }

    /// The status of every endpoint of the settings, in their order.
    pub fn status_all(&self) -> Vec<(String, Result<String, Error>)> {
        self.endpoints().iter().map(|endpoint| (endpoint.clone(), self.status(endpoint))).collect()
    }

    /// Round trip of `payload` (up to 1,024 bytes) to one node, leader or not, on a new connection whose set-up does not count.
    pub fn ping(&self, endpoint: &str, payload: &[u8]) -> Result<Duration, Error> {
        if payload.len() > MAX_PING as usize {
            return Err(Error::Usage(format!("a ping has {} bytes; send at most {MAX_PING}", payload.len())));
        }
        let decode = |_, echo: &[u8]| if echo == payload { Ok(()) } else { Err("a PING that returns other bytes".to_owned()) };
        self.ask(endpoint, Command::Ping, &[payload], decode).map(|(round_trip, ())| round_trip)
    }

    /// The endpoints of the settings.
    pub fn endpoints(&self) -> &[String] {
        self.route.endpoints()
    }

    /// The node that answered the last operation, as it was addressed; `None` before the first answer.
    pub fn endpoint(&self) -> Option<&str> {
        self.last_endpoint.as_deref()
    }

    /// Carries one operation from node to node until it is over or its time is.
    fn perform<T>(&mut self, command: Command, key: &[u8], value: &[&[u8]], decode: impl Decode<T>) -> Result<T, Error> {
        check_sizes(command, key, value)?;
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        encode_request(&mut frame, command, key, value);
        let started = Instant::now();
        let deadline = started + self.settings.timeout;
        let request = Request { command, frame: &frame, deadline, silence: self.settings.read_attempt };
        let reserve = (self.settings.timeout / 10).min(RESERVE_MAX);
        let mut attempts = Vec::new();
        self.route.begin();
        let result = loop {
            let endpoint = self.route.target().to_owned();
            let failure = match self.attempt_at(&endpoint, &request, &decode) {
                Ending::Done(result) => break Ok(result),
                Ending::Over(error) => break Err(error),
                Ending::Again(failure) => failure,
            };
            let pause = match &failure {
                Failure::NotLeader { leader } => self.route.redirected(leader.as_deref()),
                Failure::Busy(_) => self.route.busy(),
                Failure::NotConnected(_) | Failure::NoAnswer(_) | Failure::Malformed(_) => self.route.failed(),
            };
            self.note(&mut attempts, FailedAttempt { endpoint, failure });
            if Instant::now() + pause + reserve >= deadline {
                break Err(Error::Unavailable { waited: started.elapsed(), attempts });
            }
            thread::sleep(pause);
        };
        if frame.capacity() <= FRAME_BYTES_KEPT {
            self.frame = frame;
        }
        result
    }

    /// Tells the observer, and keeps the last failure of each node.
    fn note(&self, attempts: &mut Vec<FailedAttempt>, attempt: FailedAttempt) {
        if let Some(observer) = &self.settings.observer {
            observer(&attempt);
        }
        attempts.retain(|earlier| earlier.endpoint != attempt.endpoint);
        attempts.push(attempt);
    }

    /// One attempt on the kept connection if it leads to `endpoint`, otherwise on a new one.
    fn attempt_at<T>(&mut self, endpoint: &str, request: &Request<'_>, decode: &impl Decode<T>) -> Ending<T> {
        let kept = self.connection.take().filter(|connection| connection.endpoint() == endpoint && connection.is_fresh());
        let mut connection = match kept.map_or_else(|| self.connect(endpoint, request.deadline), Ok) {
            Ok(connection) => connection,
            Err(failure) => return Ending::Again(failure),
        };
        let (ending, in_step) = attempt(&mut connection, request, decode);
        if in_step {
            self.connection = Some(connection);
        }
        if let Ending::Done(_) | Ending::Over(_) = &ending {
            self.last_endpoint = Some(endpoint.to_owned());
        }
        match &ending {
            // These are decided where the log is.
            Ending::Done(_) | Ending::Over(Error::Conflict { .. }) => self.route.answered(),
            // Whoever lost the answer may have lost the leadership: the next operation starts elsewhere.
            Ending::Over(Error::Unknown { .. }) => {
                self.route.failed();
            }
            Ending::Over(_) | Ending::Again(_) => {}
        }
        ending
    }

    fn connect(&self, endpoint: &str, deadline: Instant) -> Result<Connection, Failure> {
        Connection::open(endpoint, self.settings.connect_timeout, deadline).map_err(|error| Failure::NotConnected(error.to_string()))
    }

    /// One attempt at one node that need not lead, on a connection of its own, with the time from sending to the answer.
    fn ask<T>(&self, endpoint: &str, command: Command, value: &[&[u8]], decode: impl Decode<T>) -> Result<(Duration, T), Error> {
        crate::check_endpoint(endpoint).map_err(Error::Usage)?;
        let mut frame = Vec::new();
        encode_request(&mut frame, command, &[], value);
        let started = Instant::now();
        let request = Request { command, frame: &frame, deadline: started + self.settings.timeout, silence: self.settings.read_attempt };
        let mut sent = started;
        let ending = match self.connect(endpoint, request.deadline) {
            Err(failure) => Ending::Again(failure),
            Ok(mut connection) => {
                sent = Instant::now();
                attempt(&mut connection, &request, decode).0
            }
        };
        match ending {
            Ending::Done(result) => Ok((sent.elapsed(), result)),
            Ending::Over(error) => Err(error),
            Ending::Again(failure) => {
                let attempts = vec![FailedAttempt { endpoint: endpoint.to_owned(), failure }];
                Err(Error::Unavailable { waited: started.elapsed(), attempts })
            }
        }
    }
}

/// Refuses what no node can take, whatever its flags say. Each node may set lower limits.
fn check_sizes(command: Command, key: &[u8], value: &[&[u8]]) -> Result<(), Error> {
    if key.is_empty() && !matches!(command, Command::Scan | Command::Backup) {
        return Err(Error::Usage("the key is empty; a key has at least 1 byte".to_owned()));
    }
    if key.len() > LARGEST_KEY {
        return Err(Error::Usage(format!("the key has {} bytes, at most {LARGEST_KEY} are possible; use a shorter key", key.len())));
    }
    let value_length: usize = value.iter().map(|part| part.len()).sum();
    if value_length > LARGEST_VALUE + 8 {
        let remedy = "split the value over several keys";
        return Err(Error::Usage(format!("the value has {value_length} bytes, at most {LARGEST_VALUE} are possible; {remedy}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let usage = |builder: Builder| matches!(builder.build(), Err(Error::Usage(_)));
        assert!(usage(Client::builder()));
        assert!(usage(Client::builder().endpoints(["localhost"])));
        assert!(usage(Client::builder().endpoints(["localhost:1"]).timeout(Duration::ZERO)));
        assert!(Client::builder().endpoints(["localhost:1"]).build().is_ok());
    }

    #[test]
    fn sizes_that_no_node_takes_are_refused_before_anything_is_sent() {
        let mut client = Client::builder().endpoints(["localhost:1"]).build().expect("good settings");
        assert!(matches!(client.set(b"", b"value"), Err(Error::Usage(_))));
        assert!(matches!(client.set(&vec![0; LARGEST_KEY + 1], b""), Err(Error::Usage(_))));
        assert!(matches!(client.set(b"key", &vec![0; LARGEST_VALUE + 9]), Err(Error::Usage(_))));
        assert!(matches!(client.ping("localhost:1", &[0; 1025]), Err(Error::Usage(_))));
    }
}
