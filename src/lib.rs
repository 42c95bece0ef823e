//! ApexKV.

pub mod config;
pub mod error;
pub mod protocol;
pub mod raft;
pub mod server;
pub mod storage;
