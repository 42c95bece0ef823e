//! How a command of this program can fail to do its work, each with its exit code. A verdict is not an error: it is a result.

use std::{fmt, io};

/// Everything is well.
pub(crate) const EXIT_OK: u8 = 0;
/// The verdict is bad, or the cluster broke.
pub(crate) const EXIT_VIOLATION: u8 = 1;
/// The cluster could not be reached, so nothing is proved.
pub(crate) const EXIT_UNREACHABLE: u8 = 4;
/// Ended by a second Ctrl-C, or by the first before there was anything to verify.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// The text is one sentence that names the thing and the remedy.
#[derive(Debug)]
pub(crate) enum Error {
    /// Flags or surroundings that cannot work; nothing was started.
    Usage(String),
    /// The cluster did not do what it must: a node died by itself, or none became the leader.
    Failed(String),
    /// Nobody answered.
    Unreachable(String),
    /// Something of this machine failed: a file, a process, a thread.
    Local { doing: String, source: io::Error },
}

impl Error {
    /// An error of this machine; `doing` is what was being done, as in "create the folder /tmp/x".
    pub(crate) fn local(doing: impl Into<String>, source: io::Error) -> Error {
        Error::Local { doing: doing.into(), source }
    }

    /// The number that the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Failed(_) => EXIT_VIOLATION,
            Error::Usage(_) => 2,
            Error::Unreachable(_) => EXIT_UNREACHABLE,
            Error::Local { .. } => 7,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(text) | Error::Failed(text) | Error::Unreachable(text) => f.write_str(text),
            Error::Local { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}
