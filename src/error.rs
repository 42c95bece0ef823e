//! The library's one error type. Each variant is named for what the caller must do; outcomes of a client's request
//! (`NOT_LEADER`, `NOT_FOUND`, `BUSY` …) are responses and never pass through here.

use std::{fmt, io};

/// What can go wrong outside a client's request.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused. The cause is kept; whether it is fatal is the caller's to decide.
    Io {
        /// What was being done, lower case, naming the file or address: `"sync data/hardstate"`.
        doing: String,
        /// The system's own answer.
        source: io::Error,
    },
    /// Bytes on disk are not what was written there. Never repaired by cutting: the caller stops.
    Corrupt {
        /// The damaged file.
        file: String,
        /// Offset of the first byte that cannot be explained.
        offset: u64,
        /// What was expected and what was found.
        reason: String,
    },
    /// The data directory is locked, foreign, or written by a newer version.
    Directory(String),
    /// A flag or a combination of flags cannot work; the text names flag, value and remedy.
    Config(String),
    /// A peer sent bytes that are not the protocol; the connection is to be closed.
    Protocol(String),
    /// The applied state of this node is not that of a majority: the process must end, and serve nothing of it.
    Diverged {
        /// The entry behind which it was found.
        index: u64,
        /// What a majority agrees on.
        expected: u64,
        /// What this node has.
        found: u64,
    },
    /// The other side of a channel is gone: the process is shutting down.
    Closed,
}

/// A result with the library's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps an I/O error with what was being done.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Io { doing, source }
    }

    /// The process exit code that this error ends a server with: 2 for usage, 7 for storage.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Config(_) => 2,
            Error::Io { .. } | Error::Corrupt { .. } | Error::Directory(_) | Error::Diverged { .. } => 7,
            Error::Protocol(_) | Error::Closed => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, source } => write!(f, "cannot {doing}: {source}"),
            Error::Corrupt { file, offset, reason } => write!(f, "{file} is damaged at offset {offset}: {reason}"),
            Error::Directory(reason) | Error::Config(reason) => f.write_str(reason),
            Error::Protocol(reason) => write!(f, "protocol violation: {reason}"),
            Error::Diverged { index, expected, found } => write!(
                f,
                "the state of this node behind entry {index} has the hash {found:016x}, that of a majority of the nodes {expected:016x}; \
                 start it again, and it decides again what its hints do not cover; if it ends like this once more, keep a copy of its \
                 directory and remove its *.hint files before the next start: then it decides everything again from its log, or, where \
                 some has left the log, puts everything aside and fetches it from the other nodes"
            ),
            Error::Closed => f.write_str("shutting down"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
