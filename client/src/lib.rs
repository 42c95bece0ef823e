//! The wire protocol of ApexKV and a blocking client.

pub mod protocol;
