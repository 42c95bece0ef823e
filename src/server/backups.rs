//! Backups on the client port: which are open, and the answers to BACKUP. A backup belongs to one connection, whose thread reads the files
//! and builds the parts; the Raft thread only pins the state, once. Nothing here waits for anybody.

use super::event::Outcome;
use super::response::{Form, begin, finish, refuse};
use super::shared::OnDamage;
use crate::error::Error;
use crate::storage::snapshot::SnapshotMaker;
use crate::storage::state_at::{StateAt, StateReader};
use apexkv_client::protocol::{BACKUP_PART_BYTES, Status};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Most backups of all connections together: each pins files that would otherwise be removed.
const OPEN_MAX: usize = 4;
/// One that is not read for this long is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// So is one that takes longer than this, and than its bytes at the slowest rate: it would pin its files for ever, part by part.
const TIME_MIN: Duration = Duration::from_secs(3600);
/// Bytes that a reader takes in a second at least.
const SLOWEST: u64 = 1 << 20;

/// What the connections share.
#[derive(Debug, Default)]
pub(super) struct Backups {
    open: AtomicUsize,
    last_id: AtomicU64,
    /// Missing until the log has been recovered.
    pub(super) source: OnceLock<Source>,
}

/// Where backups come from.
pub(super) struct Source {
    /// Reads the files.
    pub(super) maker: SnapshotMaker,
    /// Is told of damage in them.
    pub(super) on_damage: OnDamage,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.maker)
    }
}

/// The right to one open backup, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Backups>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

impl Backups {
    /// The right to open one more, or why not.
    pub(super) fn permit(self: &Arc<Backups>) -> Result<Permit, Outcome> {
        let permit = Permit(Arc::clone(self));
        if self.open.fetch_add(1, SeqCst) < OPEN_MAX && self.source.get().is_some() {
            return Ok(permit);
        }
        Err(Outcome::Busy("this node has as many open backups as it serves at a time; try again later".into()))
    }
}

/// One backup.
pub(super) struct OpenBackup {
    id: u64,
    reader: StateReader,
    /// The position that must be asked for.
    next: u64,
    used: Instant,
    /// When it is given up in any case.
    until: Instant,
    permit: Permit,
}

impl fmt::Debug for OpenBackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenBackup({} at {})", self.id, self.next)
    }
}

impl OpenBackup {
    /// Opens a pinned state, and appends the answer.
    pub(super) fn open(state: StateAt, permit: Permit, out: &mut Vec<u8>, form: Form) -> OpenBackup {
        let backups = &permit.0;
        let Source { maker, .. } = backups.source.get().expect("a permit is given where there is somebody to read the files");
        let id = backups.last_id.fetch_add(1, SeqCst) + 1;
        let start = begin(out, form);
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&maker.cluster().to_le_bytes());
        for number in [state.last.term, state.last.index, state.bytes()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        finish(out, start, form, Status::Ok);
        let until = Instant::now() + TIME_MIN + Duration::from_secs(state.bytes() / SLOWEST);
        OpenBackup { id, until, reader: maker.read_state(state), next: 0, used: Instant::now(), permit }
    }

    /// Whether nobody reads it any more.
    pub(super) fn is_stale(&self) -> bool {
        self.used.elapsed() > PATIENCE || Instant::now() > self.until
    }

    /// Appends a part, and says whether there are more. After damage there are none.
    fn part(&mut self, out: &mut Vec<u8>, form: Form) -> bool {
        let start = begin(out, form);
        let front = out.len();
        out.resize(front + 13, 0);
        let count = match self.reader.read(BACKUP_PART_BYTES, out) {
            Ok(count) => count,
            Err(error) => {
                log::error!("a backup was given up: {error}");
                if let (Error::Corrupt { .. }, Some(source)) = (&error, self.permit.0.source.get()) {
                    (source.on_damage)(&error);
                }
                out.truncate(start);
                let remedy = "it hands leadership over if another node can lead: try again; restart this node to have its log mended";
                refuse(out, form, Status::Error, &format!("this node cannot be backed up: {error}; {remedy}"));
                return false;
            }
        };
        self.next += 1;
        self.used = Instant::now();
        out[front] = u8::from(count > 0);
        out[front + 1..front + 9].copy_from_slice(&self.next.to_le_bytes());
        out[front + 9..front + 13].copy_from_slice(&count.to_le_bytes());
        finish(out, start, form, Status::Ok);
        count > 0
    }
}

/// Appends the answer to a request for a part of the backup that is open on a connection, if one is; it is closed when it was the last.
pub(super) fn answer_part(open: &mut Option<OpenBackup>, id: u64, position: u64, out: &mut Vec<u8>, form: Form) {
    let expected = open.as_ref().map(|backup| (backup.id, backup.next));
    let more = match open {
        Some(backup) if expected == Some((id, position)) => backup.part(out, form),
        _ => {
            let reason = match expected {
                Some((id, next)) => format!("backup {id} is open on this connection and goes on at position {next}"),
                None => "no backup is open on this connection: it was read to the end, or not read for too long; open another".to_owned(),
            };
            return refuse(out, form, Status::BadRequest, &reason);
        }
    };
    if !more {
        *open = None;
    }
}
