//! Threads, channels and sockets: the only room that spawns threads, and the only one that talks to the network.
//!
//! | thread | number | owns | waits for |
//! |---|---|---|---|
//! | `raft` | 1 | the [`replica::Replica`]: node, log, requests in flight | its inbox, until the next tick is due |
//! | `log-writer` | 1 | active segment, hard state, manifest; one write and one sync at a time | its jobs, the disk |
//! | `preparer` | 1 | the segment being made, the reserve | requests, the disk |
//! | `responder` | one per processor, at most 8 | nothing | answers of the Raft thread, many at a time |
//! | `hinter` | 1 | the hint being made | requests, the disk |
//! | `merger` | 1 | the merge being done; removes files | requests, the disk, time |
//! | `scrubber` | 1 | the file being read again | requests, the disk, time |
//! | `client-accept` | one per listener | the listener | arrivals |
//! | client connection | one per client | its receive buffer | its socket |
//! | `client-flusher` | 1 | responses that clients did not take at once | those sockets |
//! | `client-turnaway` | 1 | connections over the cap | them, for a bounded time |
//! | peer acceptor | 1 | the peer listener | arrivals |
//! | peer receiver | one per inbound link | its socket | its socket |
//! | `peer-control-…`, `peer-bulk-…` | two per peer | the outgoing connection | its queue, its socket |
//! | `snapshot-…` | one per snapshot being sent | its connection, the snapshot's reader | its socket, the disk, time |
//! | `snapshot-finish` | 0 or 1 | a snapshot that has arrived | the disk |
//! | `peer-marks` | 1 | the file of marks | time, the disk |
//! | the first thread | 1 | a damaged log, until it is mended | answers of the other nodes, the disk |
//! | `admin` | one per listener | the admin listener | requests, one at a time, for a bounded time |
//! | `log` | 1 | standard error | its queue |
//!
//! A node that meets damage at its start mends its log before any thread but those of its ports runs: the first thread asks the others, the
//! peer acceptor's threads answer them.
//!
//! The Raft thread waits for nothing but its inbox. Everyone else may wait, because nobody waits for them but through a queue: a queue to
//! a peer that is full drops, and Raft sends again; the clients' share of the inbox is bounded, and over it the answer is BUSY. What peers
//! and the disk send overtakes it.

pub mod accept;
pub mod acceptor;
mod admin;
mod background;
mod backups;
mod batch;
pub mod clients;
mod comparison;
mod confirming;
mod connection;
mod damage;
pub mod dialer;
mod disk_threads;
pub mod event;
mod flusher;
pub mod founding;
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod identity;
pub mod inbound;
mod input;
pub mod intake;
pub mod join;
pub mod lane;
pub mod links;
pub mod log_sink;
pub mod mailbox;
pub mod marks;
mod mend_answers;
pub mod mend_decision;
mod mend_link;
mod mending;
mod merge_thread;
pub mod metrics;
pub mod notices;
mod output;
mod pace;
pub mod peers;
mod preparing;
mod raft_thread;
mod reads;
pub mod recovered;
pub mod registry;
pub mod replica;
mod request;
mod responders;
mod response;
mod run;
mod scrub_thread;
mod serve;
pub mod shared;
mod snapshot_receiver;
mod snapshot_sender;
pub mod sockets;
mod status;
mod stream;
mod turnaway;
mod upkeep;
mod values;
pub mod view;
mod waiting;
mod wake;

pub use connection::Connection;
pub use run::run;
pub use values::Values;
