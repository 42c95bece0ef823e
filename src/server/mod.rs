//! Threads, channels and sockets around the pure core.

pub mod acceptor;
pub mod event;
pub mod founding;
pub mod identity;
pub mod inbound;
pub mod join;
pub mod links;
pub mod marks;
pub mod notices;
pub mod peers;
pub mod registry;
pub mod shared;
pub mod sockets;
pub mod view;
