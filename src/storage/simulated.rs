//! A disk in memory for tests and simulators: it keeps what was synced apart from what was only written, and can lose, tear, delay,
//! fail and rot on command. Deterministic: the same seed and the same calls give the same bytes. It must never be kinder than a real
//! disk: a creation without a sync of the directory, or a write without a sync of the file, is gone when the power is cut and the
//! policy says so.
//!
//! [`SimulatedDisk`] is the device, which outlives machines and processes. [`SimulatedDisk::boot`] hands out a [`Disk`] for one life of
//! a process; [`SimulatedDisk::crash`] and [`SimulatedDisk::kill`] end it, and from then on everything opened in it answers with an
//! error. Used directly as a [`Disk`], the device stands for whatever process lives now.
//!
//! An operation is a call that changes the disk, or a sync; operations are counted from 1, can be recorded, and can be made to fail.
//! Reading, listing, opening and mapping are not operations.

mod content;
mod image;
mod process;

pub use image::{DiskImage, SECTOR, Unsynced};
pub use rustix::io::Errno;

use super::disk::Disk;
use image::InodeNumber;
use parking_lot::{Condvar, Mutex, MutexGuard};
use process::Process;
use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

/// What kinds of operations there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperationKind {
    /// A new file, also the one of a lock.
    Create,
    /// Bytes written to a file.
    Write,
    /// Space reserved.
    Allocate,
    /// A file synced.
    Sync,
    /// A file renamed.
    Rename,
    /// A file removed.
    Remove,
    /// The directory synced.
    SyncDirectory,
}

/// An operation that was asked for, whether it succeeded or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What was done.
    pub kind: OperationKind,
    /// To which file, by its name at that time; empty for the directory.
    pub name: String,
    /// Where a write began; the length asked for by an allocation; otherwise 0.
    pub offset: u64,
    /// What was written; the new name of a renaming; otherwise empty.
    pub bytes: Vec<u8>,
}

/// An operation before it is known whether anybody keeps a record of it.
struct Asked<'a> {
    kind: OperationKind,
    name: &'a str,
    offset: u64,
    bytes: &'a [u8],
}

/// What a fault does to the operation that it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails. Of a write, a random first part is written nevertheless, up to the end of a sector; after a failed sync the pages
    /// count as clean although they
    /// are not durable.
    Fail(Errno),
    /// It is not done, and nothing answers any more until [`SimulatedDisk::crash`] or [`SimulatedDisk::kill`].
    PowerOff,
}

/// An order to let operations fail.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Only operations of this kind; all if absent.
    pub kind: Option<OperationKind>,
    /// Only files whose name contains this; all if empty.
    pub name: String,
    /// Hits the n-th operation that fits, counted from now, from 1.
    pub nth: u64,
    /// Hits all that fit after the n-th, too.
    pub lasting: bool,
    /// What happens.
    pub effect: Effect,
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Debug)]
pub enum CrashPolicy {
    /// Nothing.
    LoseAll,
    /// Everything.
    KeepAll,
    /// Each sector, length and directory change survives or not, as the seed decides.
    Random,
    /// As listed, in the order of [`SimulatedDisk::unsynced`]; what is not listed is lost.
    Mask(Vec<bool>),
    /// Everything survives but the bytes of one file from an offset on: a tear inside a sector, which disks promise not to do.
    TearAt {
        /// Which file.
        name: String,
        /// The first byte that is lost.
        offset: u64,
    },
}

/// What happens to a sync while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The calling thread waits until the release.
    Block,
    /// It returns this error at once, without any effect, and may be tried again: for simulators with a single thread.
    Refuse(Errno),
}

/// The device, see the module's doc.
pub struct SimulatedDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when a hold begins to block, is released, or its process ends.
    changed: Condvar,
}

struct State {
    image: DiskImage,
    /// Number of the process that lives now.
    life: u64,
    off: bool,
    random: u64,
    faults: Vec<Fault>,
    /// Files whose name contains this cannot be opened.
    refused: Option<(String, Errno)>,
    operations: u64,
    record: Option<Vec<Operation>>,
    holds: Vec<(String, Hold)>,
    blocked: usize,
    locks: BTreeSet<String>,
}

impl SimulatedDisk {
    /// An empty device without faults, and with room for everything.
    pub fn new(seed: u64) -> Arc<SimulatedDisk> {
        let state = State {
            image: DiskImage::default(),
            life: 0,
            off: false,
            random: seed,
            faults: Vec::new(),
            refused: None,
            operations: 0,
            record: None,
            holds: Vec::new(),
            blocked: 0,
            locks: BTreeSet::new(),
        };
        Arc::new(SimulatedDisk { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// The disk as the process that lives now sees it, until it ends.
    pub fn boot(&self) -> Arc<dyn Disk> {
        Arc::new(self.living())
    }

    fn living(&self) -> Process {
        Process { shared: self.shared.clone(), life: self.state().life }
    }

    /// Ends the process and cuts the power: what was not synced survives as the policy says, and the cache is empty.
    pub fn crash(&self, policy: &CrashPolicy) {
        let mut state = self.state();
        let State { image, random, .. } = &mut *state;
        let mut asked = 0;
        image.cut_power(&mut |unsynced| {
            asked += 1;
            match (policy, unsynced) {
                (CrashPolicy::LoseAll, _) => 0,
                (CrashPolicy::KeepAll, _) => SECTOR,
                (CrashPolicy::Random, _) => next_random(random) % 2 * SECTOR,
                (CrashPolicy::Mask(kept), _) => u64::from(kept.get(asked - 1) == Some(&true)) * SECTOR,
                (CrashPolicy::TearAt { name, offset }, Unsynced::Sector { name: other, offset: start }) if name == other => {
                    offset.saturating_sub(*start).min(SECTOR)
                }
                (CrashPolicy::TearAt { name, .. }, Unsynced::Length { name: other }) if name == other => 0,
                (CrashPolicy::TearAt { .. }, _) => SECTOR,
            }
        });
        self.end_process(&mut state);
    }

    /// Ends the process but not the machine: what it wrote stays in the cache, as little durable as it was.
    pub fn kill(&self) {
        let mut state = self.state();
        state.image.forget_unnamed(false);
        self.end_process(&mut state);
    }

    fn end_process(&self, state: &mut State) {
        state.life += 1;
        state.off = false;
        state.locks.clear();
        self.shared.changed.notify_all();
    }

    /// Adds a fault. Faults outlive processes, until they have hit or [`SimulatedDisk::clear_faults`].
    pub fn inject(&self, fault: Fault) {
        assert!(fault.nth > 0, "operations are counted from 1");
        self.state().faults.push(fault);
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Cuts the power right before the n-th operation from now (from 1); the policy is given later to [`SimulatedDisk::crash`].
    pub fn power_off_at(&self, nth: u64) {
        self.inject(Fault { kind: None, name: String::new(), nth, lasting: false, effect: Effect::PowerOff });
    }

    /// Lets the n-th operation from now (from 1) of this kind fail.
    pub fn fail_at(&self, kind: OperationKind, nth: u64, errno: Errno) {
        self.inject(Fault { kind: Some(kind), name: String::new(), nth, lasting: false, effect: Effect::Fail(errno) });
    }

    /// Whether a fault has cut the power and nobody has said yet what survives.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// How many operations there were since the device was made.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Begins to record operations, with their bytes.
    pub fn record(&self) {
        self.state().record = Some(Vec::new());
    }

    /// Ends the recording and returns it.
    pub fn recorded(&self) -> Vec<Operation> {
        self.state().record.take().unwrap_or_default()
    }

    /// From here on files may grow by so many bytes in all; `None` is no limit. A write beyond writes what fits and fails with ENOSPC.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        self.state().image.set_free_bytes(free);
    }

    /// Holds syncs of files whose name contains `name`.
    pub fn hold_sync(&self, name: &str, hold: Hold) {
        self.state().holds.push((name.into(), hold));
    }

    /// Ends the holds that were set with this `name`.
    pub fn release_sync(&self, name: &str) {
        self.state().holds.retain(|(other, _)| other != name);
        self.shared.changed.notify_all();
    }

    /// Waits until a thread is blocked in a held sync; false if none is after `limit`.
    pub fn wait_for_blocked_sync(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        while state.blocked == 0 {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                return state.blocked > 0;
            }
        }
        true
    }

    /// What a power cut now could keep or lose.
    pub fn unsynced(&self) -> Vec<Unsynced> {
        self.state().image.unsynced()
    }

    /// A copy of everything, cache included.
    pub fn snapshot(&self) -> DiskImage {
        self.state().image.clone()
    }

    /// Puts a copy back in place of everything; ends the process.
    pub fn restore(&self, image: DiskImage) {
        let mut state = self.state();
        state.image = image;
        self.end_process(&mut state);
    }

    /// What of a file is durable; its name as the living process sees it.
    pub fn durable(&self, name: &str) -> io::Result<Vec<u8>> {
        let state = self.state();
        Ok(state.image.inode(state.image.find(name)?).durable())
    }

    /// Changes the bits of `mask` in the byte at `offset`, cached and durable; `UnexpectedEof` behind the file's end.
    pub fn rot(&self, name: &str, offset: u64, mask: u8) -> io::Result<()> {
        self.damage(name, offset, 1, |content| content[0] ^= mask)
    }

    /// Replaces bytes, cached and durable, as a misdirected write does.
    pub fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.damage(name, offset, bytes.len(), |content| content.copy_from_slice(bytes))
    }

    /// Shortens a file, durably.
    pub fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.image.find(name)?;
        state.image.inode_mut(inode).truncate(length);
        Ok(())
    }

    /// Existing files whose name contains this cannot be opened from now on, whoever asks; `None` lifts that.
    pub fn refuse_to_open(&self, refused: Option<(&str, Errno)>) {
        self.state().refused = refused.map(|(name, errno)| (name.to_owned(), errno));
    }

    /// Reads of the sector at `offset` fail with EIO (through a map: panic, in place of SIGBUS) until it is written again.
    pub fn make_unreadable(&self, name: &str, offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.image.find(name)?;
        state.image.inode_mut(inode).make_unreadable(offset);
        Ok(())
    }

    /// Takes a file away, durably.
    pub fn delete(&self, name: &str) -> io::Result<()> {
        self.state().image.delete(name)
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, content: &[u8]) {
        self.state().image.put(name, content);
    }

    fn damage(&self, name: &str, offset: u64, length: usize, damage: impl Fn(&mut [u8])) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.image.find(name)?;
        state.image.inode_mut(inode).damage(offset as usize, length, damage)
    }
}

/// SplitMix64: small, and its stream never changes, so that kept seeds stay meaningful.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

fn powered_off() -> io::Error {
    io::Error::other("disk was powered off")
}

impl State {
    fn alive(&self, life: u64) -> io::Result<()> {
        if self.off || self.life != life { Err(powered_off()) } else { Ok(()) }
    }

    /// Counts and records an operation; `Err` from the outside if it cannot be tried, from the inside if it is to fail.
    fn begin(&mut self, life: u64, operation: &Asked<'_>) -> io::Result<Result<(), Errno>> {
        self.alive(life)?;
        self.operations += 1;
        let mut hit = None;
        for fault in &mut self.faults {
            let fits = fault.kind.is_none_or(|kind| kind == operation.kind) && operation.name.contains(&*fault.name);
            if fits && fault.nth > 0 {
                fault.nth -= 1;
                if fault.nth == 0 {
                    fault.nth = u64::from(fault.lasting);
                    hit = hit.or(Some(fault.effect));
                }
            }
        }
        self.faults.retain(|fault| fault.nth > 0);
        if let Some(record) = &mut self.record {
            let Asked { kind, name, offset, bytes } = *operation;
            record.push(Operation { kind, name: name.into(), offset, bytes: bytes.into() });
        }
        match hit {
            None => Ok(Ok(())),
            Some(Effect::Fail(errno)) => Ok(Err(errno)),
            Some(Effect::PowerOff) => {
                self.off = true;
                Err(powered_off())
            }
        }
    }

    fn hold(&self, name: &str) -> Option<Hold> {
        self.holds.iter().find(|(part, _)| name.contains(part)).map(|(_, hold)| *hold)
    }
}

#[cfg(test)]
mod tests;
