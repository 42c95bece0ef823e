//! The narrow interface to files: everything the storage engine asks of an operating system. One implementation is real
//! ([`super::real`]), one is simulated ([`super::simulated`]) and can lose, tear, delay, fail and rot. Code above this line must
//! never touch `std::fs`.

use std::{fmt, io, sync::Arc};

/// A directory of flat files. Names hold no separators. All methods may be called from any thread.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a new empty file for reading and writing; fails if it exists. Not durable before [`Disk::sync_directory`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames over whatever stands at `to`. Not durable before [`Disk::sync_directory`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Unlinks. Open handles and mappings stay usable. Not durable before [`Disk::sync_directory`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// All file names, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// Bytes that this user may still write on the file system.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Takes the exclusive lock of the directory, held until the value is dropped; `WouldBlock` if another process has it.
    fn lock(&self, name: &str) -> io::Result<Box<dyn Send + Sync>>;
    /// Keeps owners out until the value is dropped, for somebody who only reads: changes nothing, not even the lock's file. `WouldBlock`
    /// if a process has the lock, `NotFound` if there is no file to lock.
    fn lock_for_reading(&self, name: &str) -> io::Result<Box<dyn Send + Sync>>;
    /// Where the directory is, for messages.
    fn path(&self) -> String;
}

/// One file. Positioned calls only, so that it can be shared between threads.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Writes all parts, one after another, from `offset` on; short writes and EINTR are continued inside.
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// The file's length.
    fn length(&self) -> io::Result<u64>;
    /// Reserves space so that later writes below `length` need none; extends the file with zeros.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// `fdatasync`: after `Ok`, everything written so far survives a power cut. After an error nothing may be assumed, and it must not
    /// be tried again.
    fn sync(&self) -> io::Result<()>;
    /// Drops clean cached pages from `offset` on, so that the next read comes from the device.
    fn drop_cache(&self, offset: u64) -> io::Result<()>;
    /// Maps the file for reading, at its present length.
    fn map(&self) -> io::Result<Arc<dyn Mapping>>;
}

/// A read-only view of a file whose bytes are each written once before they are looked at.
pub trait Mapping: Send + Sync + fmt::Debug {
    /// Hands `length` bytes from `offset` to `look`. The caller guarantees that the range lies below what has been written and that
    /// nobody writes there again. Panics when the range exceeds the mapping.
    fn with(&self, offset: u64, length: usize, look: &mut dyn FnMut(&[u8]));
}
