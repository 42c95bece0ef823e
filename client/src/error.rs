//! The library's one error type, and what is told about an attempt that failed. Each variant of [`Error`] is named for what the caller
//! may conclude. An absent key is no error: it is `None`.

use crate::protocol::Status;
use std::fmt;
use std::time::Duration;

/// Why an operation did not end well. Only [`Error::Unknown`] leaves open whether a write took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A compare-and-set met another version. No effect; read the key, decide anew.
    Conflict {
        /// The version that stands; 0 when the key is absent.
        current: u64,
    },
    /// A node refused the request for a reason that will not go away by itself (`ERROR` or `BAD_REQUEST`). No effect.
    Refused {
        /// Which of the two.
        status: Status,
        /// The node that answered.
        endpoint: String,
        /// The node's own words.
        message: String,
    },
    /// No node took the operation within its time limit: no connection, no leader, or only BUSY. No effect; try again later.
    Unavailable {
        /// How long it was tried.
        waited: Duration,
        /// The last failure of each node that was tried.
        attempts: Vec<FailedAttempt>,
    },
    /// The write may have taken effect, or may yet: it was sent, and its answer was lost or is not understood.
    Unknown {
        /// The node that it was sent to.
        endpoint: String,
        /// What happened instead of an answer.
        reason: String,
    },
    /// The arguments can never work; nothing was sent. The text names the argument, the limit and the remedy.
    Usage(String),
}

/// One node that was tried in vain during an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// The node, as it was addressed.
    pub endpoint: String,
    /// What went wrong there.
    pub failure: Failure,
}

/// Why one attempt at one node failed. None of them means that the operation took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection came about.
    NotConnected(String),
    /// The connection broke, or the answer to a read stayed away too long.
    NoAnswer(String),
    /// The node does not lead.
    NotLeader {
        /// The leader's address as the node knows it.
        leader: Option<String>,
    },
    /// The node is overloaded or could not act in time; its own words.
    Busy(String),
    /// The answer does not follow the protocol.
    Malformed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotConnected(reason) => write!(f, "cannot connect: {reason}"),
            Failure::NoAnswer(reason) => write!(f, "no answer: {reason}"),
            Failure::NotLeader { leader: Some(leader) } => write!(f, "not the leader, names {leader}"),
            Failure::NotLeader { leader: None } => f.write_str("not the leader, knows of none"),
            Failure::Busy(message) => write!(f, "busy: {message}"),
            Failure::Malformed(reason) => write!(f, "answer outside the protocol: {reason}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Conflict { current: 0 } => f.write_str("the key is absent, so its version is not the expected one"),
            Error::Conflict { current } => write!(f, "the key's version is {current}, not the expected one"),
            Error::Refused { status, endpoint, message } => write!(f, "{endpoint} refused with {}: {message}", status.name()),
            Error::Unavailable { waited, attempts } => {
                write!(f, "no node took the operation within {} ms", waited.as_millis())?;
                for (position, attempt) in attempts.iter().enumerate() {
                    let separator = if position == 0 { ": " } else { "; " };
                    write!(f, "{separator}{} ({})", attempt.endpoint, attempt.failure)?;
                }
                Ok(())
            }
            Error::Unknown { endpoint, reason } => write!(f, "outcome unknown, it may have taken effect: sent to {endpoint}, {reason}"),
            Error::Usage(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Error {}
