//! ApexKV: a replicated, linearizable, fsync-durable key-value store whose Raft log is the database.
//!
//! # The idea
//!
//! Other systems write a value two or three times: into a write-ahead log, into a storage engine, again when that is compacted. Here
//! it is written **once**. One *record* is the log entry, the bytes that travel between nodes, and the stored value; applying a committed
//! entry only inserts its place into an index in memory. One write and one fdatasync carry a whole *batch* of commands.
//!
//! # The path of a SET
//!
//! 1. The connection's thread reads what its socket has, checks lengths before it reserves memory, builds an unsealed record with its
//!    payload CRC for each write, and hands all of it to the Raft thread in one message ([`server::clients`], [`storage::record`]).
//! 2. The Raft thread drains its inbox; the core gives each write its index and term ([`raft::Node::propose`]); the records are sealed.
//! 3. The log gives each record its place on disk, for good ([`storage::log::Log::append`]); the keys wait in memory to be applied.
//! 4. Appends leave for the followers, made of the very same bytes: at once, or with the answer to the one before ([`server::peers`]).
//! 5. In parallel the log writer issues one write and one fdatasync for everything that was staged while its last one ran
//!    ([`storage::writer`]). No timer and no linger: a batch is what arrived meanwhile.
//! 6. A follower checks the previous entry and every CRC, stages the same records, syncs, and acknowledges cumulatively.
//! 7. Commit is the median of durable indexes in the leader's own term; the leader's disk counts like any other.
//! 8. Applying decides conditions and inserts places into the keydir, in log order ([`storage::applier`]).
//! 9. The outcomes go to their connections; whoever completes the head of a connection's order encodes all ready responses and sends them
//!    with one send ([`server::Connection`]).
//! 10. A GET is looked up at once by its connection's thread, which copies the value from the memory map and checks its CRC
//!     ([`storage::store::Store`]); the response leaves when one read round (a majority has answered a message that left after the read
//!     arrived) has shown that this node led ([`server::gate`]).
//!
//! # The rooms
//!
//! | room | what lives there | what it never does |
//! |---|---|---|
//! | [`raft`] | the protocol as a pure state machine | I/O, threads, clocks, locks, payload bytes |
//! | [`storage`] | records, segments, manifest, recovery, index | threads, sockets, deciding what is committed |
//! | [`protocol`] | messages between nodes as bytes | sockets, trusting a length |
//! | [`server`] | threads, channels, sockets, the [`server::replica::Replica`] | anything that makes the Raft thread wait |
//! | [`config`] | flags, checked once | touching a file or a socket |
//! | [`restore`] | a backup file to a new cluster's directory | making anything of a file that is not whole |
//!
//! Beside the server the binary holds tools for the directory of a node that does not run (`src/tools.rs`), on top of [`storage::inspect`]
//! and [`restore`].
//!
//! Imports point inward only: server → protocol → storage → the vocabulary of raft. The client's wire protocol stands in the crate
//! `apexkv-client`, so that an application that embeds the client compiles little.
//!
//! # What cannot be read from the code, because it is not there
//!
//! * No acknowledgement ahead of the disk: a write is answered only from applying its entry, an entry is applied only when committed, and
//!   only durable entries are counted.
//! * No byte of a segment is written twice, cut off or recycled; so a mapped read never sees bytes change under it.
//! * No `unsafe` outside `storage/mapping.rs`, no fsync outside `storage/real.rs`, no thread started outside [`server`].
//! * No fsync is tried a second time: after a failed one the process ends.
//! * The Raft thread takes no lock that is held over I/O, reads no mapped page, and never waits for a socket or a disk.

mod bugbank;
pub mod config;
pub mod error;
pub mod protocol;
pub mod raft;
pub mod restore;
pub mod server;
pub mod storage;
