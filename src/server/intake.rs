//! Which snapshot is being received: one at a time, on one connection. What a broken connection leaves behind is kept for a while, so that
//! the same transfer can go on where it stopped. No lock in here is held over I/O.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::registry::Severable;
use crate::protocol::snapshot::Begin;
use crate::raft::NodeId;
use crate::storage::snapshot::SnapshotWriter;

/// A snapshot of which some has arrived. Dropping it removes its files.
#[derive(Debug)]
pub struct Half {
    /// Who sends it.
    pub from: NodeId,
    /// How it was announced.
    pub begin: Begin,
    /// What has arrived.
    pub writer: SnapshotWriter,
    /// Bytes of records that have arrived.
    pub bytes: u64,
    /// When its first connection was opened.
    pub begun: Instant,
}

/// The snapshot being received, if there is one.
#[derive(Default)]
pub struct Intake {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    /// Somebody receives it on this connection.
    current: Option<(Begin, Arc<TcpStream>)>,
    /// Left behind by a connection that broke, and when.
    kept: Option<(Half, Instant)>,
}

impl Intake {
    /// The right to receive a snapshot, and what has arrived of it before; `make` begins one. Whoever receives another, or the same on an
    /// older connection, is cut off, unless that is of a newer term; `patience` is how long this may take. The error is for a person. Who
    /// has the right must [`Intake::release`] it.
    pub fn claim(
        &self,
        from: NodeId,
        begin: Begin,
        stream: &Arc<TcpStream>,
        patience: Duration,
        make: impl FnOnce() -> SnapshotWriter,
    ) -> Result<Half, String> {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        while let Some((current, other)) = &state.current {
            if current.term > begin.term {
                return Err(format!("a snapshot of term {} is being received, this one is of term {}", current.term, begin.term));
            }
            other.sever();
            let (last, term) = (current.last, current.term);
            if self.freed.wait_until(&mut state, until).timed_out() && state.current.is_some() {
                return Err(format!("another snapshot, up to {last} of term {term}, is being received; try again later"));
            }
        }
        state.current = Some((begin, stream.clone()));
        let kept = state.kept.take();
        drop(state);
        Ok(match kept {
            Some((half, _)) if half.from == from && half.begin == begin => half,
            other => {
                drop(other);
                Half { from, begin, writer: make(), bytes: 0, begun: Instant::now() }
            }
        })
    }

    /// Gives the right back, and leaves behind what may be gone on with.
    pub fn release(&self, half: Option<Half>) {
        let mut state = self.state.lock();
        assert!(state.current.is_some(), "the right to receive a snapshot was given back twice");
        state.current = None;
        state.kept = half.map(|half| (half, Instant::now()));
        self.freed.notify_all();
    }

    /// Removes what nobody has gone on with for `age`.
    pub fn drop_older_than(&self, age: Duration) {
        let mut state = self.state.lock();
        let old = state.kept.take_if(|(_, since)| since.elapsed() >= age);
        drop(state);
        if let Some((half, _)) = old {
            log::info!("half a snapshot up to {} is given up: it has not gone on for {age:?}", half.begin.last);
        }
    }
}
