//! Storage: disk and memory maps only. (The format document is to stand here.)

pub mod disk;
pub mod mapping;
pub mod real;
pub mod record;
pub mod slots;
