//! The Raft core.

mod message;

pub use message::{Config, Entries, EntryId, Envelope, HardState, Message, NodeId, TermRun};
