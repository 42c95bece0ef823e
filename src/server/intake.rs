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

/// Why somebody may not receive a snapshot now.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// The same transfer is still being received on an older connection, which waits for the disk. The sender should try again soon.
    Held,
    /// It cannot be received; text for a person.
    Refused(String),
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
    /// The right to receive a snapshot, and what has arrived of it before; `make` begins one, or says why not. Whoever receives another, or
    /// the same on an older connection, is cut off, unless that is of a newer term; `patience` is how long this may take. Who has the right
    /// must [`Intake::release`] it.
    pub fn claim(
        &self,
        from: NodeId,
        begin: Begin,
        stream: &Arc<TcpStream>,
        patience: Duration,
        make: impl FnOnce() -> Result<SnapshotWriter, String>,
    ) -> Result<Half, Denied> {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        while let Some((current, other)) = &state.current {
            if current.term > begin.term {
                let (current, term) = (current.term, begin.term);
                return Err(Denied::Refused(format!("a snapshot of term {current} is being received, this one is of term {term}")));
            }
            other.sever();
            let (same, last, term) = (*current == begin, current.last, current.term);
            if self.freed.wait_until(&mut state, until).timed_out() && state.current.is_some() {
                let reason = || format!("another snapshot, up to {last} of term {term}, is still being received");
                return Err(if same { Denied::Held } else { Denied::Refused(reason()) });
            }
        }
        state.current = Some((begin, stream.clone()));
        let kept = state.kept.take();
        drop(state);
        if let Some((half, _)) = kept
            && half.from == from
            && half.begin == begin
        {
            return Ok(half);
        }
        // Files of another one were removed just now, which may have made room.
        match make() {
            Ok(writer) => Ok(Half { from, begin, writer, bytes: 0, begun: Instant::now() }),
            Err(reason) => {
                self.release(None);
                Err(Denied::Refused(reason))
            }
        }
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
