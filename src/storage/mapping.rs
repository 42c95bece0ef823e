//! Memory maps of real files, and what happens when the bytes behind one cannot be read. Called by [`super::real`] to make maps and
//! by the server once, at start, to install the handler. The only file with `unsafe`; it must never hand out a reference that outlives
//! the call, nor one to bytes that may still be written.
//!
//! Contract for every `unsafe` here: a map is read-only and shared; a file that is mapped is never shortened or overwritten by us, and
//! [`Mapping::with`] is called only for ranges that were written once, before, and for good. If somebody else shortens the file, or the
//! device loses a sector, the processor raises SIGBUS: that is no undefined behaviour but the end of the process, with a line that
//! says where.

#![allow(unsafe_code)]

use super::disk::Mapping;
use memmap2::{MmapOptions, MmapRaw};
use std::{
    fmt,
    fs::File,
    io,
    mem::MaybeUninit,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence},
    },
};

/// Exit code of a storage failure.
const EXIT_STORAGE: i32 = 7;
/// Maps that the handler can name at the same time. Beyond it a map works, but a fault in it ends the process without our line.
const TABLE_ENTRIES: usize = 4096;
/// Bytes of a path that the table keeps; of a longer one, the end.
const NAME_BYTES: usize = 96;

/// A map that the handler knows of. The words are changed only by whoever holds `claimed`; `version` is odd while they change, so
/// that the handler, which can wait for nobody, can tell a whole entry from one that is being replaced.
struct Entry {
    claimed: AtomicBool,
    version: AtomicUsize,
    start: AtomicUsize,
    length: AtomicUsize,
    name: [AtomicU8; NAME_BYTES],
    name_length: AtomicUsize,
}

static TABLE: [Entry; TABLE_ENTRIES] = [const {
    Entry {
        claimed: AtomicBool::new(false),
        version: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        name: [const { AtomicU8::new(0) }; NAME_BYTES],
        name_length: AtomicUsize::new(0),
    }
}; TABLE_ENTRIES];

impl Entry {
    fn set(&self, start: usize, length: usize, name: &[u8]) {
        self.version.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.length.store(length, Ordering::Relaxed);
        self.name.iter().zip(name).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
        self.name_length.store(name.len(), Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The offset of `address` in the mapped file, if this entry covers it.
    fn offset_of(&self, address: usize) -> Option<usize> {
        let version = self.version.load(Ordering::Acquire);
        let (start, length) = (self.start.load(Ordering::Relaxed), self.length.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let stable = version.is_multiple_of(2) && version == self.version.load(Ordering::Relaxed);
        (stable && address.wrapping_sub(start) < length).then(|| address - start)
    }
}

/// Takes a free entry; `None` when the table is full.
fn register(start: usize, length: usize, path: &Path) -> Option<&'static Entry> {
    let name = path.as_os_str().as_encoded_bytes();
    let entry = TABLE.iter().find(|entry| !entry.claimed.load(Ordering::Relaxed) && !entry.claimed.swap(true, Ordering::Acquire))?;
    entry.set(start, length, &name[name.len().saturating_sub(NAME_BYTES)..]);
    Some(entry)
}

/// A read-only map of a real file at the length that it had.
struct FileMapping {
    map: MmapRaw,
    length: usize,
    entry: Option<&'static Entry>,
}

/// Maps `file` for reading, at its present length. `path` is for the handler's message only.
pub(super) fn map(file: &File, path: &Path) -> io::Result<Arc<dyn Mapping>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let map = MmapOptions::new().len(length).map_raw_read_only(file)?;
    let entry = register(map.as_ptr() as usize, length, path);
    Ok(Arc::new(FileMapping { map, length, entry }))
}

impl Mapping for FileMapping {
    fn with(&self, offset: u64, length: usize, look: &mut dyn FnMut(&[u8])) {
        let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(length));
        assert!(end.is_some_and(|end| end <= self.length), "{length} bytes at offset {offset} exceed a mapping of {} bytes", self.length);
        // SAFETY: the range lies inside the map, which lives as long as `self`; by the contract above nobody writes these bytes any
        // more. A slice of the range only, never of the whole map, whose end may still be being written.
        let bytes = unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(offset as usize), length) };
        look(bytes);
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // Before the unmapping that follows, because the address may at once belong to another map.
        if let Some(entry) = self.entry {
            entry.set(0, 0, b"");
            entry.claimed.store(false, Ordering::Release);
        }
    }
}

impl fmt::Debug for FileMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileMapping({} bytes)", self.length)
    }
}

/// Makes SIGBUS in a map end the process with exit code 7 and one line on standard error that names file and offset. SIGBUS anywhere
/// else keeps its default action. To be called once, before the first map is read.
pub fn install_sigbus_handler() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value (no flags, empty mask), filled in before it is used; the handler calls only
    // async-signal-safe functions.
    let result = unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = on_sigbus as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs on the thread that touched the page. Takes no lock, allocates nothing, and calls only write, sigaction, raise and _exit. The
/// entry of the faulting map cannot change meanwhile: the thread is inside [`Mapping::with`] and so keeps it alive.
extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t; for SIGBUS it holds the address (0 if another process sent it).
    let address = unsafe { (*info).si_addr() } as usize;
    for entry in &TABLE {
        if let Some(offset) = entry.offset_of(address) {
            report(entry, offset);
            // SAFETY: _exit may be called from a handler.
            unsafe { libc::_exit(EXIT_STORAGE) };
        }
    }
    // SAFETY: both may be called from a handler. The signal is blocked until the handler returns, and then has its default action.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        libc::raise(libc::SIGBUS);
    }
}

/// Writes the line about a fault, built on the stack and written at once so that it cannot mix with others.
fn report(entry: &Entry, offset: usize) {
    let mut line = Line { bytes: [0; 320], length: 0 };
    line.push(b"fatal: ");
    for byte in entry.name.iter().take(entry.name_length.load(Ordering::Relaxed)) {
        line.push(&[byte.load(Ordering::Relaxed)]);
    }
    line.push(b" cannot be read at offset ");
    line.push_number(offset);
    line.push(b" (SIGBUS): the device lost the page or the file was shortened; check the disk, then restore or replace this node\n");
    // SAFETY: the pointer and the length describe initialised bytes of `line`. Nothing can be done if the write fails.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.length) };
}

/// Text on the stack. What does not fit is left out.
struct Line {
    bytes: [u8; 320],
    length: usize,
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if self.length < self.bytes.len() {
                self.bytes[self.length] = *byte;
                self.length += 1;
            }
        }
    }

    fn push_number(&mut self, mut number: usize) {
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[first..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::process::ExitStatusExt, process::Command};

    const CHILD: &str = "APEXKV_TEST_SIGBUS_CHILD";

    fn scratch(length: usize) -> (tempfile::TempDir, std::path::PathBuf, File) {
        let directory = tempfile::tempdir().expect("a scratch directory can be made");
        let path = directory.path().join("segment");
        let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
        std::fs::write(&path, bytes).expect("a scratch file can be written");
        let file = File::open(&path).expect("a scratch file can be opened");
        (directory, path, file)
    }

    fn read(map: &Arc<dyn Mapping>, offset: u64, length: usize) -> Vec<u8> {
        let mut copy = Vec::new();
        map.with(offset, length, &mut |bytes| copy = bytes.to_vec());
        copy
    }

    #[test]
    fn hands_out_exactly_the_range_asked_for() {
        let (_directory, path, file) = scratch(10_000);
        let map = map(&file, &path).expect("a file can be mapped");
        assert_eq!(read(&map, 0, 3), [0, 1, 2]);
        assert_eq!(read(&map, 9_998, 2), [9_998_usize as u8, 9_999_usize as u8]);
        assert!(read(&map, 10_000, 0).is_empty());
    }

    #[test]
    fn an_empty_file_can_be_mapped() {
        let (_directory, path, file) = scratch(0);
        assert!(read(&map(&file, &path).expect("an empty file can be mapped"), 0, 0).is_empty());
    }

    #[test]
    #[should_panic(expected = "2 bytes at offset 9999 exceed a mapping of 10000 bytes")]
    fn a_range_beyond_the_map_is_a_broken_promise() {
        let (_directory, path, file) = scratch(10_000);
        read(&map(&file, &path).expect("a file can be mapped"), 9_999, 2);
    }

    #[test]
    fn the_table_forgets_a_map_that_is_dropped() {
        let (_directory, path, file) = scratch(4096);
        let map = MmapOptions::new().map_raw_read_only(&file).expect("a file can be mapped");
        let start = map.as_ptr() as usize;
        let entry = register(start, 4096, &path).expect("the table has room");
        assert_eq!(entry.offset_of(start + 17), Some(17));
        assert_eq!(entry.offset_of(start + 4096), None);
        drop(FileMapping { map, length: 4096, entry: Some(entry) });
        assert!(TABLE.iter().all(|entry| entry.offset_of(start + 17).is_none() || entry.start.load(Ordering::Relaxed) != start));
    }

    /// Not a test by itself: the process that the next two tests start, and that is to die.
    #[test]
    fn sigbus_child() {
        let Ok(mode) = std::env::var(CHILD) else { return };
        install_sigbus_handler().expect("a handler can be installed");
        if mode == "elsewhere" {
            // SAFETY: sends a signal to this process.
            unsafe { libc::raise(libc::SIGBUS) };
        }
        let (_directory, path, file) = scratch(16_384);
        let map = map(&file, &path).expect("a file can be mapped");
        assert_eq!(read(&map, 9_000, 1), [9_000_usize as u8]);
        File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("a file can be shortened");
        read(&map, 9_000, 1);
    }

    fn run_child(mode: &str) -> std::process::Output {
        Command::new(std::env::current_exe().expect("a test knows its program"))
            .args(["storage::mapping::tests::sigbus_child", "--exact", "--nocapture"])
            .env(CHILD, mode)
            .output()
            .expect("the test program can be started again")
    }

    #[test]
    fn a_page_that_cannot_be_read_ends_the_process_with_file_and_offset() {
        let output = run_child("map");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(EXIT_STORAGE), "stderr: {text}");
        let line = text.lines().find(|line| line.starts_with("fatal: ")).unwrap_or_default();
        assert!(line.contains("/segment cannot be read at offset 9000 (SIGBUS)"), "stderr: {text}");
    }

    #[test]
    fn sigbus_outside_a_map_keeps_its_default_action() {
        let output = run_child("elsewhere");
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "stderr: {}", String::from_utf8_lossy(&output.stderr));
    }
}
