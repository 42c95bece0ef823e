//! The client side of ApexKV: the wire protocol, and a blocking client that finds the leader and keeps finding it.
//!
//! Give a [`Client`] any endpoints of the cluster. It asks one of them, follows the answer `NOT_LEADER` to the node that leads, and
//! keeps that connection. When the leader dies, the next operation looks for the new one until the operation's time limit is over.
//!
//! # Three outcomes
//!
//! A write over a network ends in one of three ways, and the type of the result keeps them apart:
//!
//! | outcome | what the caller sees | what it may conclude |
//! |---|---|---|
//! | done | `Ok` | committed on a majority and on its disks |
//! | not done | every [`Error`] but `Unknown` | had no effect and never will |
//! | unknown | [`Error::Unknown`] | may have taken effect, or may yet; read the key to learn more |
//!
//! So a write is sent again only while it is certain that no earlier copy of it can take effect: nothing of it was sent, or the node
//! answered that it refused. Reads have no effect and are tried elsewhere whenever an answer stays away.
//!
//! # Example
//!
//! A counter that several programs may raise at the same time. The examples of these pages run against
//! [a node in memory](testing::MemoryNode); an application names the client addresses of its cluster.
//!
//! ```
//! # let node = apexkv_client::testing::MemoryNode::start()?;
//! # let endpoints = [node.endpoint()];
//! use apexkv_client::{Client, Error};
//! use std::time::Duration;
//!
//! fn raise(client: &mut Client) -> Result<u64, Error> {
//!     loop {
//!         let (version, text) = client.get_versioned(b"counter")?.unwrap_or((0, b"0".to_vec()));
//!         let next = String::from_utf8_lossy(&text).parse().unwrap_or(0) + 1;
//!         match client.compare_and_set(b"counter", version, next.to_string().as_bytes()) {
//!             Ok(_) => return Ok(next),
//!             // Somebody else was faster: look again.
//!             Err(Error::Conflict { .. }) => {}
//!             // Everything else, and above all `Unknown`, is for the caller to judge.
//!             Err(error) => return Err(error),
//!         }
//!     }
//! }
//!
//! let mut client = Client::builder().endpoints(endpoints).timeout(Duration::from_secs(5)).build()?;
//! assert_eq!(raise(&mut client)?, 1);
//! assert_eq!(raise(&mut client)?, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rooms
//!
//! [`protocol`] is the bytes and nothing else; [`Connection`] carries them over one socket; [`Pipeline`] sends many requests before it
//! reads the first answer; [`Client`] adds the search for the leader and the rules of sending again. [`backup`] is a whole state, as a
//! stream and as a file. [`text`] is how the programs print bytes; [`testing`] is a node in memory for the tests of applications. The
//! library (but for [`testing`]) starts no threads and keeps no global state: a `Client` belongs to one thread at a time, and a program
//! that wants several makes several.

mod attempt;
pub mod backup;
mod client;
mod connection;
mod endpoint;
mod error;
mod pipeline;
pub mod protocol;
mod route;
mod scan;
pub mod testing;
pub mod text;

pub use backup::Backup;
pub use client::{Builder, Client};
pub use connection::{Connection, MAX_RESPONSE_PAYLOAD, Response, SendError};
pub use endpoint::check_endpoint;
pub use error::{Error, FailedAttempt, Failure};
pub use pipeline::Pipeline;
#[doc(hidden)]
pub use scan::decode_page;
pub use scan::{Pair, Scan, ScanOptions, ScanPage};
