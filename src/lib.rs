//! ApexKV.

pub mod error;
pub mod raft;
pub mod server;
pub mod storage;
