//! Nodes as processes of this machine: where they live, how they are started, struck and stopped, and what they say of themselves. A
//! node is the real server binary with its ordinary command line; nothing here knows what is inside.

mod members;
pub(crate) mod network;
mod ports;
mod process;
pub(crate) mod scratch;
pub(crate) mod status;

pub(crate) use members::{members, server_binary};
pub(crate) use ports::check_free;
pub(crate) use process::{Cluster, Death, describe, leash};
