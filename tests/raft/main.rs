//! The Raft core under test, without threads, sockets or files.
//!
//! | module | what is in it |
//! |---|---|
//! | `host` | one member: core, log in memory, disk that finishes when told |
//! | `network` | packets under way, two links a pair and direction |
//! | `oracle` | what must hold across all members, checked after every input |
//! | `cluster` | the three together; every input goes through it |
//! | `random` | seeded runs with all faults mixed |
//! | `arbitrary`, `inputs` | arbitrary inputs to a single member; what an input is, shared with fuzzing |
//! | `command`, `scripts` | the golden scripts' language and runner |

mod arbitrary;
mod cluster;
mod command;
mod host;
#[path = "../fuzz/targets/inputs.rs"]
mod inputs;
mod network;
mod oracle;
mod random;
mod scripts;
