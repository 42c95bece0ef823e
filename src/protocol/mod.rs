//! What peers say to each other, as bytes. Pure: no sockets, no threads, no clocks; nothing here trusts a length before it is checked
//! against a limit, and nothing panics on a stranger's bytes. (The clients' protocol lives in the client crate.)
//!
//! A link is a one-way stream of frames: the dialer speaks, a reply travels on the other node's own link; snapshots
//! and the mending of logs are the exceptions. The
//! first exchange always goes both ways: the dialer says [`handshake::Hello`], the acceptor answers with its own hello as a welcome, or
//! with a refusal, and the dialer's first keepalive says that it is content with the welcome. Only then is the link open.
//!
//! | room | what |
//! |---|---|
//! | [`fields`] | integers and texts within a frame |
//! | [`frame`] | where a frame begins and ends, its limits and its CRC; reading one from a stream |
//! | [`handshake`] | the first exchange |
//! | [`mend`] | lost entries, asked for and answered |
//! | [`peer`] | the core's messages, with the records of an append checked one by one |
//! | [`snapshot`] | a snapshot on its way, and the answers to it |

pub mod fields;
pub mod frame;
pub mod handshake;
pub mod mend;
pub mod peer;
pub mod snapshot;
