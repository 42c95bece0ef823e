//! The reserve: a real, allocated file that holds disk space back from the log, for work that makes room. On a disk that is full of
//! records, a merge could free space only if it had some for its output first; the reserve is removed for that and made again when
//! there is room. It never holds data, nothing is ever read from it, and no write of a client may use its space: without the reserve,
//! the log takes no further segment.

use super::disk::Disk;
use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// The reserve's file.
pub(super) const NAME: &str = "reserve";

/// The space held back. Shared by the preparer, which makes it, and by background work that may borrow it. Its lock is held over calls to
/// the disk, so only threads that wait for disks may ask anything here.
#[derive(Debug)]
pub struct Reserve {
    disk: Arc<dyn Disk>,
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The file stands, with its full length.
    held: bool,
    /// How many work in its space. It is not made again before they are done.
    loans: u32,
}

/// The right to work in the reserve's space, until it is dropped.
#[derive(Debug)]
#[must_use = "the reserve may be made again as soon as this is dropped"]
pub struct Loan(Arc<Reserve>);

impl Drop for Loan {
    fn drop(&mut self) {
        self.0.state.lock().loans -= 1;
    }
}

impl Reserve {
    /// Finds out whether the file stands. One of another size is removed, and one of `bytes` is to be made in its place; 0 is none at
    /// all. Makes nothing: a start on a full disk must work.
    pub(super) fn open(disk: Arc<dyn Disk>, bytes: u64) -> Result<Arc<Reserve>> {
        let path = format!("{}/{NAME}", disk.path());
        let length = match disk.open(NAME).and_then(|file| file.length()) {
            Ok(length) => Some(length),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(format!("open {path}"))(error)),
        };
        let held = bytes > 0 && length == Some(bytes);
        if length.is_some() && !held {
            disk.remove(NAME).map_err(Error::io(format!("remove {path}")))?;
        }
        Ok(Arc::new(Reserve { disk, bytes, state: Mutex::new(State { held, loans: 0 }) }))
    }

    /// Its size in bytes when it stands; 0 if there is none by choice.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes it holds now: all or none.
    pub fn held(&self) -> u64 {
        if self.state.lock().held { self.bytes } else { 0 }
    }

    /// How many bytes must stay free for it.
    pub fn missing(&self) -> u64 {
        self.bytes - self.held()
    }

    /// Makes the file if it is missing and nobody works in its space. What was begun is removed if it fails.
    pub(super) fn keep(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.held || state.loans > 0 || self.bytes == 0 {
            return Ok(());
        }
        let temporary = format!("{NAME}.tmp");
        // Half of it would be taken for all of it by nobody, since its length is compared; the name is for whoever looks at the directory.
        let made = (|| {
            let file = self.disk.create(&temporary)?;
            file.allocate(self.bytes)?;
            // Some systems place what was written only when it is synced, and say only then that there is no room.
            file.sync()?;
            self.disk.rename(&temporary, NAME)
        })();
        if made.is_err() {
            let _ = self.disk.remove(&temporary);
        }
        state.held = made.is_ok();
        made
    }

    /// Gives the reserve's space to the caller until the loan is dropped; `None` if it was given away before, or there is none. The space
    /// is free when this returns. A removal that a crash undoes does no harm: the next start finds the file, or makes it.
    pub fn lend(self: &Arc<Reserve>) -> io::Result<Option<Loan>> {
        let mut state = self.state.lock();
        if !state.held {
            return Ok(None);
        }
        self.disk.remove(NAME)?;
        state.held = false;
        state.loans += 1;
        Ok(Some(Loan(Arc::clone(self))))
    }

    /// Does what makes new files; if there is no room for them, does it once more in the reserve's space. `work` must leave nothing
    /// behind when it fails.
    pub fn with_room<T>(self: &Arc<Reserve>, mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match work() {
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => match self.lend()? {
                Some(_loan) => work(),
                None => Err(error),
            },
            done => done,
        }
    }
}
