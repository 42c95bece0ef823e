//! ApexKV.

pub mod error;
pub mod raft;
pub mod storage;
