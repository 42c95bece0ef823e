//! The entry points of fuzzing. Each takes bytes that may be anything, hands them to shipping code as a socket or a disk would, and
//! panics when a promise is broken: nothing panics, what is accepted survives its own encoding, and memory stays in proportion to
//! the input. The property tests, the replay of the corpus and the cargo-fuzz programs all call these and nothing else.
//!
//! | target | the bytes are | memory, at most |
//! |---|---|---|
//! | `client_frames` | what a client sends, what a server answers | 640 KiB + 64 a byte |
//! | `peer_frames` | frames on a link, or on a connection for a snapshot or for mending, records included | 192 KiB + 32 a byte |
//! | `handshake` | the first exchange of two peers | 192 KiB + 32 a byte |
//! | `segments` | changes to a data directory's segments, or a segment's batches as a whole | 24 MiB + 64 a byte |
//! | `slots` | a slot file | 256 KiB + 16 a byte |
//! | `state_files` | the payload of manifest, hard state, identity, founding record or peers' marks; a hint file | 12 MiB + 64 a byte |
//! | `core_messages` | messages and other inputs to one member's core | 1 MiB + 2 KiB a byte |
//!
//! The constants: a connection's local answers may come to 256 KiB a batch and double as they grow; a peer's head may announce 64 KiB;
//! files are read in parts of 1 MiB, whatever their size; a core's log, progress and settings are counted by entries. A checksum would
//! keep most inputs out, so the first byte says whether checksums are set right before the bytes are used ([`seal`]).

pub(crate) mod client;
pub(crate) mod core;
pub(crate) mod directory;
#[allow(dead_code, reason = "the core's own tests use all of it")]
#[path = "../../raft/host.rs"]
mod host;
mod inputs;
mod memory;
mod mending;
pub(crate) mod peer;
mod seal;
pub(crate) mod storage;

/// A target's name and its entry point.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All targets.
pub(crate) const TARGETS: [Target; 7] = [
    ("client_frames", client::client_frames),
    ("peer_frames", peer::peer_frames),
    ("handshake", peer::handshake),
    ("segments", storage::segments),
    ("slots", storage::slots),
    ("state_files", storage::state_files),
    ("core_messages", core::core_messages),
];
