//! Threads, channels and sockets. (The thread table is to stand here.)

pub mod accept;
mod batch;
pub mod clients;
mod connection;
pub mod event;
mod flusher;
mod input;
pub mod metrics;
mod output;
mod reads;
mod request;
mod response;
mod serve;
mod turnaway;
mod wake;

pub use connection::Connection;
