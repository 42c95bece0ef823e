//! How a command can end, and the one place where endings become exit codes.

use apexkv_client::Error;
use apexkv_client::protocol::Status;
use std::io;

/// The exit codes: a public contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Exit {
    Success = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Unavailable = 4,
    Unknown = 6,
    Local = 7,
    Interrupted = 130,
}

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The key is absent.
    NotFound,
    /// The client library's error.
    Client(Error),
    /// The cluster does something that it must not; the text says what.
    Wrong(String),
    /// Standard input or output, with what was being done.
    Local(&'static str, io::Error),
    /// Whoever read the output has seen enough.
    ReaderGone,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Client(error)
    }
}

impl Trouble {
    /// What a failed write to standard output means.
    pub(crate) fn from_output(error: io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Trouble::ReaderGone,
            _ => Trouble::Local("write to standard output", error),
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Trouble::ReaderGone => Exit::Success,
            Trouble::Wrong(_) => Exit::Failed,
            Trouble::NotFound => Exit::NotFound,
            Trouble::Local(..) => Exit::Local,
            Trouble::Client(Error::Unavailable { .. }) => Exit::Unavailable,
            Trouble::Client(Error::Unknown { .. }) => Exit::Unknown,
            Trouble::Client(Error::Usage(_)) => Exit::Usage,
            Trouble::Client(_) => Exit::Failed,
        }
    }

    /// The name in JSON output: the protocol's where it has one.
    pub(crate) fn status(&self) -> &'static str {
        match self {
            Trouble::ReaderGone => Status::Ok.name(),
            Trouble::NotFound => Status::NotFound.name(),
            Trouble::Wrong(_) => "WRONG",
            Trouble::Local(..) => "LOCAL_IO",
            Trouble::Client(Error::Conflict { .. }) => Status::Conflict.name(),
            Trouble::Client(Error::Refused { status, .. }) => status.name(),
            Trouble::Client(Error::Unavailable { .. }) => "UNAVAILABLE",
            Trouble::Client(Error::Unknown { .. }) => Status::Unknown.name(),
            Trouble::Client(Error::Usage(_)) => "USAGE",
            Trouble::Client(_) => Status::Error.name(),
        }
    }

    /// A sentence for a person: what happened, and what to do about it.
    pub(crate) fn message(&self) -> String {
        let remedy = match self {
            Trouble::Client(Error::Conflict { .. }) => "; read it with getv and decide anew",
            Trouble::Client(Error::Unavailable { .. }) => {
                "; check that the nodes run and that --endpoints names their client ports, or raise --timeout"
            }
            Trouble::Client(Error::Unknown { .. }) => "; read the key before writing it again",
            _ => "",
        };
        match self {
            Trouble::ReaderGone => String::new(),
            Trouble::NotFound => "key not found".to_owned(),
            Trouble::Wrong(reason) => reason.clone(),
            Trouble::Local(doing, source) => format!("cannot {doing}: {source}"),
            Trouble::Client(error) => format!("{error}{remedy}"),
        }
    }
}
