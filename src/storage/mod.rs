//! Storage: disk and memory maps only. (The format document is to stand here.)

pub mod applier;
mod batch;
mod bytes;
pub mod directory;
pub mod disk;
mod fill;
mod founding;
mod keydir;
mod location;
pub mod log;
mod manifest;
pub mod mapping;
mod ordered;
mod piece;
pub mod preparer;
pub mod real;
pub mod record;
mod recovery;
mod scan;
mod segment;
pub mod simulated;
pub mod slots;
mod stage;
pub mod store;
mod tail;
pub mod writer;

use crate::error::Error;

/// Settings of the storage engine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size at which a segment is left for the next one, in bytes.
    pub segment_bytes: u64,
}

/// What to do about damage; the end of every message about it.
const REMEDY: &str = "nothing was changed; restore this node from its peers: wipe its data directory and add it again";

fn corrupt(file: &str, offset: u64, reason: impl std::fmt::Display) -> Error {
    Error::Corrupt { file: file.to_owned(), offset, reason: format!("{reason}; {REMEDY}") }
}

fn newer(file: &str, found: u32, known: u32) -> Error {
    Error::Directory(format!("{file} has format version {found}, this program knows versions up to {known}: start a newer apexkv"))
}

#[cfg(test)]
mod tests;
