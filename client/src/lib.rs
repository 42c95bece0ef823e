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
//! ```
//! # use std::io::{Read, Write};
//! # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let node = listener.local_addr()?.to_string();
//! # std::thread::spawn(move || {
//! #     let (mut socket, _) = listener.accept().expect("the example connects");
//! #     let mut frame = [0; 9 + 4 + 5];
//! #     socket.read_exact(&mut frame).expect("a SET");
//! #     socket.write_all(b"\x00\x08\x00\x00\x00\x2a\x00\x00\x00\x00\x00\x00\x00").expect("version 42");
//! #     socket.read_exact(&mut frame[..13]).expect("a GET");
//! #     socket.write_all(b"\x00\x05\x00\x00\x00hello").expect("its value");
//! # });
//! use apexkv_client::Client;
//! use std::time::Duration;
//!
//! let mut client = Client::builder().endpoints([node]).timeout(Duration::from_secs(5)).build()?;
//! let version = client.set(b"name", b"hello")?;
//! assert_eq!(version, 42);
//! assert_eq!(client.get(b"name")?.as_deref(), Some(&b"hello"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rooms
//!
//! [`protocol`] is the bytes and nothing else; [`Connection`] carries them over one socket; [`Pipeline`] sends many requests before it
//! reads the first answer; [`Client`] adds the search for the leader and the rules of sending again. The library starts no threads and
//! keeps no global state: a `Client` belongs to one thread at a time, and a program that wants several makes several.

mod attempt;
mod client;
mod connection;
mod endpoint;
mod error;
mod pipeline;
pub mod protocol;
mod route;
mod scan;

pub use client::{Builder, Client};
pub use connection::{Connection, MAX_RESPONSE_PAYLOAD, Response, SendError};
pub use endpoint::check_endpoint;
pub use error::{Error, FailedAttempt, Failure};
pub use pipeline::Pipeline;
#[doc(hidden)]
pub use scan::decode_page;
pub use scan::{Pair, Scan, ScanOptions, ScanPage};
