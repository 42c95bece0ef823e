//! Many requests on one connection before the first answer is read. For load generators, bulk loading and tests: it talks to one node,
//! follows no redirection and sends nothing twice, so what an answer means is left to the caller.

use crate::connection::{Connection, Response, SendError};
use crate::protocol::{Command, encode_request};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// Requests gathered in a buffer, sent in one go, and answered in their order.
///
/// ```
/// # let node = apexkv_client::testing::MemoryNode::start()?;
/// # let leader = node.endpoint();
/// use apexkv_client::{Connection, Pipeline, protocol::{Command, Status}};
/// use std::time::{Duration, Instant};
///
/// let deadline = Instant::now() + Duration::from_secs(5);
/// let mut pipeline = Pipeline::new(Connection::open(&leader, Duration::from_millis(250), deadline)?);
/// for number in 0..100 {
///     pipeline.push(Command::Set, format!("key_{number}").as_bytes(), &[b"value"]);
/// }
/// pipeline.flush(deadline)?;
/// while pipeline.outstanding() > 0 {
///     assert_eq!(pipeline.receive(deadline)?.status, Status::Ok);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pipeline {
    connection: Connection,
    output: Vec<u8>,
    outstanding: usize,
}

impl Pipeline {
    /// A pipeline on a connection with nothing outstanding.
    pub fn new(connection: Connection) -> Pipeline {
        Pipeline { connection, output: Vec::new(), outstanding: 0 }
    }

    /// The node as it was addressed.
    pub fn endpoint(&self) -> &str {
        self.connection.endpoint()
    }

    /// Adds a plain request to what the next flush sends. The value's parts are joined.
    pub fn push(&mut self, command: Command, key: &[u8], value: &[&[u8]]) {
        encode_request(&mut self.output, command, key, value);
        self.outstanding += 1;
    }

    /// As [`Pipeline::push`], for a request that is encoded already. `frame` is exactly one request.
    pub fn push_frame(&mut self, frame: &[u8]) {
        self.output.extend_from_slice(frame);
        self.outstanding += 1;
    }

    /// Sends what was pushed. After an error the pipeline is of no use; which of its requests arrived is not known.
    pub fn flush(&mut self, deadline: Instant) -> Result<(), SendError> {
        if self.output.is_empty() {
            return Ok(());
        }
        let sent = self.connection.send(&self.output, deadline);
        self.output.clear();
        sent
    }

    /// The answer to the oldest request that has none yet; call it at most [`Pipeline::outstanding`] times after a flush. After an
    /// error the pipeline is of no use.
    pub fn receive(&mut self, deadline: Instant) -> io::Result<Response<'_>> {
        let response = self.connection.receive(deadline)?;
        self.outstanding = self.outstanding.saturating_sub(1);
        Ok(response)
    }

    /// Whether [`Pipeline::receive`] would return without waiting.
    pub fn has_response(&self) -> bool {
        self.connection.has_response()
    }

    /// Requests pushed and not yet answered.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }
}

/// The socket, to wait on together with others. A response may wait in the pipeline already: see [`Pipeline::has_response`].
impl AsFd for Pipeline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
