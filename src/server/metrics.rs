//! Counters of everything the server does, shared by all threads. Each is one atomic number that only rises (a [`Counter`]) or that
//! stands for a present level (a [`Gauge`]). Reading them takes no lock; nothing here decides anything.

use apexkv_client::protocol::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only rises, from 0 at the start of the process.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    /// The present number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A level that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the level.
    pub fn set(&self, level: u64) {
        self.0.store(level, Relaxed);
    }

    /// Raises the level by one.
    pub fn raise(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Lowers the level by one; the caller has raised it before.
    pub fn lower(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// The present level.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares the struct and the walk over it together, so that no counter can be missing from what STATUS shows.
macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident: $kind:ident,)*) => {
        /// All counters and levels of one node.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: $kind,)*
        }

        impl Metrics {
            /// Hands every name and number to `visit`, in the order of declaration.
            pub fn each(&self, visit: &mut dyn FnMut(&'static str, u64)) {
                $(visit(stringify!($name), self.$name.get());)*
            }
        }
    };
}

metrics! {
    /// SET requests that passed the checks of their shape.
    requests_set: Counter,
    /// GET requests that passed the checks of their shape.
    requests_get: Counter,
    /// DEL requests that passed the checks of their shape.
    requests_del: Counter,
    /// CAS requests that passed the checks of their shape.
    requests_cas: Counter,
    /// GETV requests that passed the checks of their shape.
    requests_getv: Counter,
    /// SCAN requests that passed the checks of their shape.
    requests_scan: Counter,
    /// PING requests that passed the checks of their shape.
    requests_ping: Counter,
    /// STATUS requests that passed the checks of their shape.
    requests_status: Counter,
    /// BACKUP requests that passed the checks of their shape: one to open it and one for each part.
    requests_backup: Counter,
    /// Requests answered BAD_REQUEST, whether or not the connection went on.
    requests_refused: Counter,
    /// Client connections that are open and served.
    connections_open: Gauge,
    /// Client connections accepted and served since the start.
    connections_accepted: Counter,
    /// Client connections turned away because the cap on connections was reached.
    connections_turned_away: Counter,
    /// Client connections cut because the client took no byte of its responses for too long, or left a frame incomplete.
    connections_cut: Counter,
    /// Batches that connections handed to the Raft thread.
    client_batches: Counter,
    /// Batches answered BUSY because too many bytes waited for the Raft thread.
    client_batches_busy: Counter,
    /// Bytes received from clients.
    client_bytes_in: Counter,
    /// Bytes of responses taken by the operating system.
    client_bytes_out: Counter,
    /// Times that a client did not take its responses at once, so that the flusher had to finish.
    client_sends_blocked: Counter,
    /// Merges whose outputs are durable.
    merges: Counter,
    /// Bytes that merges have read and written.
    merged_bytes: Counter,
    /// Snapshots that a follower has taken over whole.
    snapshots_sent: Counter,
    /// Snapshots received whole.
    snapshots_received: Counter,
    /// Bytes of records sent within snapshots.
    snapshot_bytes_out: Counter,
    /// Bytes of records received within snapshots.
    snapshot_bytes_in: Counter,
    /// Bytes of old files that were read again to see whether they are whole.
    scrubbed_bytes: Counter,
    /// Damaged places found while this node ran.
    damage_found: Counter,
    /// Batches of records written to the log's files.
    log_batches: Counter,
    /// Syncs of the log's files.
    log_syncs: Counter,
    /// Syncs of term and vote.
    hard_state_syncs: Counter,
    /// Times that the next log segment could not be made for lack of disk space, quota or file handles.
    segments_short: Counter,
    /// Bytes that the reserve of disk space holds; 0 while it is given away or there was no room to make it.
    reserve_bytes: Gauge,
    /// Bytes written to the log's files.
    log_bytes: Counter,
    /// Entries applied to the index of keys.
    entries_applied: Counter,
    /// Elections that this node began.
    elections_started: Counter,
    /// Elections that this node won.
    elections_won: Counter,
    /// Times that this node gave up leadership.
    step_downs: Counter,
    /// Times that this node, as leader, found the nodes' states to differ without a majority that says whose is right.
    state_hash_alarms: Counter,
    /// Majority confirmations begun for reads.
    read_rounds: Counter,
    /// Messages sent to peers.
    peer_messages_out: Counter,
    /// Messages received from peers.
    peer_messages_in: Counter,
    /// Messages to peers that were dropped because a queue was full or a link was down.
    peer_messages_dropped: Counter,
    /// Events that wait in the Raft thread's inbox.
    inbox_depth: Gauge,
}

impl Metrics {
    /// Counts a request that passed the checks of its shape.
    pub fn count_request(&self, command: Command) {
        match command {
            Command::Set => &self.requests_set,
            Command::Get => &self.requests_get,
            Command::Del => &self.requests_del,
            Command::Cas => &self.requests_cas,
            Command::Getv => &self.requests_getv,
            Command::Scan => &self.requests_scan,
            Command::Ping => &self.requests_ping,
            Command::Status => &self.requests_status,
            Command::Backup => &self.requests_backup,
        }
        .increment();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_shows_every_number_by_its_name() {
        let metrics = Metrics::default();
        metrics.count_request(Command::Cas);
        metrics.connections_open.raise();
        metrics.client_bytes_in.add(7);
        let mut seen = Vec::new();
        metrics.each(&mut |name, number| seen.push((name, number)));
        assert!(seen.contains(&("requests_cas", 1)) && seen.contains(&("connections_open", 1)) && seen.contains(&("client_bytes_in", 7)));
        assert!(seen.contains(&("requests_set", 0)));
    }
}
