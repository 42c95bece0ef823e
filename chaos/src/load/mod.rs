//! The load and its judgement: writers that loop over keys of their own, clients that do everything at once on few keys, the history of
//! every key, the outages that the writers met, and the verdict. Works on any running cluster; starts and stops no nodes.

mod direct;
pub(crate) mod history;
pub(crate) mod mixed;
pub(crate) mod outage;
pub(crate) mod report;
pub(crate) mod session;
pub(crate) mod throughput;
pub(crate) mod verify;
pub(crate) mod writer;
