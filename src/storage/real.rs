//! The [`Disk`] of the operating system. The only file that calls fsync and fdatasync. It must never retry a sync that failed, and
//! never decides what an error means: it passes it on.
//!
//! Fault injection for tests with the real binary: if the environment variable `APEXKV_TEST_SYNC_STALL_FILE` is set when the
//! directory is opened, a sync of a log segment or of the hard state does not start as long as the file that it names exists. If
//! `APEXKV_TEST_FREE_BYTES_FILE` is set, no more bytes are said to be free than the number in the file that it names. Without the
//! variables they cost nothing.

use super::{
    disk::{Disk, DiskFile, Mapping},
    mapping,
};
use crate::error::{Error, Result};
use rustix::{
    fs::{Access, Advice, FallocateFlags},
    io::{Errno, retry_on_intr},
};
use std::{
    fmt,
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, IoSlice, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Names the file whose existence stalls syncs, see the module's doc.
const STALL_VARIABLE: &str = "APEXKV_TEST_SYNC_STALL_FILE";
/// Names the file whose number bounds the free bytes, see the module's doc.
const FREE_BYTES_VARIABLE: &str = "APEXKV_TEST_FREE_BYTES_FILE";
/// Most parts that one system call takes on Linux (`IOV_MAX`).
const PARTS_PER_CALL: usize = 1024;
/// Cache is dropped in pages: the kernel keeps a page that the range touches only in part.
const PAGE: u64 = 4096;

/// A data directory on a real file system.
pub struct RealDisk {
    path: PathBuf,
    /// Open for as long as the process lives: what is synced for creations, renames and removals.
    directory: File,
    stall: Option<Arc<Path>>,
    /// Holds a bound of the free bytes.
    free_bytes: Option<PathBuf>,
    /// Files are opened for reading alone, so that the system refuses whatever would change them.
    read_only: bool,
}

impl RealDisk {
    /// Opens a directory for looking at it: nothing is created, changed or synced, and the right to read is enough.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<RealDisk> {
        let path = path.as_ref();
        let refused = |reason: String| Error::Directory(format!("data directory {} {reason}", path.display()));
        let metadata = path.metadata().map_err(|error| refused(format!("cannot be looked at: {error}")))?;
        if !metadata.is_dir() {
            return Err(refused("is not a directory".to_owned()));
        }
        rustix::fs::access(path, Access::READ_OK | Access::EXEC_OK)
            .map_err(|error| refused(format!("cannot be read by this user ({error}): run this as its owner")))?;
        let directory = File::open(path).map_err(Error::io(format!("open data directory {}", path.display())))?;
        Ok(RealDisk { path: path.to_path_buf(), directory, stall: None, free_bytes: None, read_only: true })
    }

    /// Opens the directory, creating it and its missing parents (durably) if need be. Anything that could not be used later is refused
    /// now: not a directory, no permission.
    pub fn open(path: impl AsRef<Path>) -> Result<RealDisk> {
        let path = path.as_ref();
        make_directory(path)?;
        rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
            let remedy = "change its owner or mode, or name another one with --data-dir";
            Error::Directory(format!("data directory {} cannot be used by this user ({error}): {remedy}", path.display()))
        })?;
        let directory = File::open(path).map_err(Error::io(format!("open data directory {}", path.display())))?;
        let stall = std::env::var_os(STALL_VARIABLE).map(|name| Arc::from(PathBuf::from(name)));
        let free_bytes = std::env::var_os(FREE_BYTES_VARIABLE).map(PathBuf::from);
        Ok(RealDisk { path: path.to_path_buf(), directory, stall, free_bytes, read_only: false })
    }

    fn place(&self, name: &str) -> PathBuf {
        assert!(!name.is_empty() && !name.contains('/') && name != "." && name != "..", "{name:?} is not a plain file name");
        self.path.join(name)
    }

    fn file(&self, name: &str, options: &mut OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.place(name);
        // Values may be anybody's secrets: readable by the owner only.
        let file = options.read(true).write(!self.read_only).mode(0o600).open(&path)?;
        let stalls = name.contains(".log") || name.starts_with("hardstate");
        Ok(Arc::new(RealFile { file, path, stall: self.stall.clone().filter(|_| stalls) }))
    }
}

/// Creates the directory `path` if it is missing, and makes its entry in the parent durable.
fn make_directory(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    let existed = match path.metadata() {
        Ok(metadata) if metadata.is_dir() => true,
        Ok(_) => {
            let remedy = "name a directory with --data-dir, or one that does not exist yet";
            return Err(Error::Directory(format!("{} is not a directory: {remedy}", path.display())));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io(format!("look at data directory {}", path.display()))(error)),
    };
    if !existed {
        make_directory(parent)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("create data directory {}", path.display()))(error));
            }
            _ => {}
        }
    }
    // Also for a directory that stands already: the process that made it may have died before this line.
    match File::open(parent).and_then(|parent| parent.sync_all()) {
        Err(error) if existed && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result.map_err(Error::io(format!("sync {}", parent.display()))),
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(name, OpenOptions::new().create_new(true))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(name, &mut OpenOptions::new())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.place(from), self.place(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.place(name))
    }

    /// Leaves out what cannot be ours: directories (such as `lost+found`) and names that are not UTF-8.
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::fstatvfs(&self.directory)?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let bound = self.free_bytes.as_ref().and_then(|name| std::fs::read_to_string(name).ok()?.trim().parse().ok());
        Ok(bound.map_or(free, |bound: u64| bound.min(free)))
    }

    /// The file holds the process id of the last owner, so that tools find the process.
    fn lock(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(self.place(name))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            TryLockError::Error(error) => error,
        })?;
        // Overwritten in place, and only a help to tools: a full disk must not keep a node from starting.
        let _ = writeln!(file, "{:<10}", std::process::id());
        Ok(Box::new(file))
    }

    fn lock_for_reading(&self, name: &str) -> io::Result<Box<dyn Send + Sync>> {
        let file = File::open(self.place(name))?;
        file.try_lock_shared().map_err(|error| match error {
            TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            TryLockError::Error(error) => error,
        })?;
        Ok(Box::new(file))
    }

    fn path(&self) -> String {
        self.path.display().to_string()
    }
}

impl fmt::Debug for RealDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RealDisk({})", self.path.display())
    }
}

/// An open file.
struct RealFile {
    file: File,
    /// As opened; for messages.
    path: PathBuf,
    stall: Option<Arc<Path>>,
}

impl DiskFile for RealFile {
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
        let (mut rest, mut offset) = (&mut slices[..], offset);
        while !rest.is_empty() {
            let call = &rest[..rest.len().min(PARTS_PER_CALL)];
            let written = retry_on_intr(|| rustix::io::pwritev(&self.file, call, offset))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, written);
            offset += written as u64;
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Where the file system cannot reserve, the file is extended by writing zeros; what stands is left alone.
    fn allocate(&self, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        match retry_on_intr(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length)) {
            Err(Errno::OPNOTSUPP) => {
                let zeros = [0; 64 << 10];
                let mut end = self.length()?;
                while end < length {
                    let part = (length - end).min(zeros.len() as u64);
                    self.write_at(&[&zeros[..part as usize]], end)?;
                    end += part;
                }
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        if let Some(stall) = &self.stall {
            while stall.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.file.sync_data()
    }

    /// Pages that are dirty, or mapped by anybody, stay: sync before, and map after.
    fn drop_cache(&self, offset: u64) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, offset / PAGE * PAGE, None, Advice::DontNeed)?)
    }

    fn map(&self) -> io::Result<Arc<dyn Mapping>> {
        mapping::map(&self.file, &self.path)
    }
}

impl fmt::Debug for RealFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RealFile({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, RealDisk) {
        let directory = tempfile::tempdir().expect("a scratch directory can be made");
        let disk = RealDisk::open(directory.path().join("parent/data")).expect("a missing directory is created");
        (directory, disk)
    }

    #[test]
    fn what_is_written_is_read_and_mapped() {
        let (_directory, disk) = scratch();
        let file = disk.create("a.log").expect("created");
        file.allocate(10_000).expect("allocated");
        assert_eq!(file.length().expect("length"), 10_000);
        file.write_at(&[b"hello", b"", b", ", b"disk"], 100).expect("written");
        file.sync().expect("synced");
        file.drop_cache(0).expect("dropped");
        let mut read = [0; 11];
        disk.open("a.log").expect("opened").read_at(&mut read, 100).expect("read");
        assert_eq!(&read, b"hello, disk");
        let mut seen = Vec::new();
        file.map().expect("mapped").with(100, 5, &mut |bytes| seen = bytes.to_vec());
        assert_eq!(seen, b"hello");
        let end = file.read_at(&mut read, 9_995).expect_err("the file ends before");
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn more_parts_than_one_call_takes_are_all_written() {
        let (_directory, disk) = scratch();
        let file = disk.create("many").expect("created");
        let numbers: Vec<[u8; 2]> = (0..5_000_u16).map(u16::to_le_bytes).collect();
        let parts: Vec<&[u8]> = numbers.iter().flat_map(|number| [&number[..], &[]]).collect();
        file.write_at(&parts, 3).expect("written");
        let mut read = vec![0; 10_000];
        file.read_at(&mut read, 3).expect("read");
        assert_eq!(read, numbers.concat());
    }

    #[test]
    fn allocating_keeps_content_and_never_shortens() {
        let (_directory, disk) = scratch();
        let file = disk.create("kept").expect("created");
        file.write_at(&[b"content"], 0).expect("written");
        file.allocate(4).expect("allocated");
        file.allocate(0).expect("allocated");
        assert_eq!(file.length().expect("length"), 7);
        file.allocate(4096).expect("allocated");
        let mut read = [1; 9];
        file.read_at(&mut read, 0).expect("read");
        assert_eq!(&read, b"content\0\0");
    }

    #[test]
    fn the_directory_lists_creates_renames_and_removes() {
        let (directory, disk) = scratch();
        for name in ["b", "a", "c"] {
            disk.create(name).expect("created");
        }
        assert_eq!(disk.create("a").expect_err("exists").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.open("d").expect_err("missing").kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(directory.path().join("parent/data/lost+found")).expect("created");
        disk.rename("a", "b").expect("renamed");
        disk.remove("c").expect("removed");
        disk.sync_directory().expect("synced");
        assert_eq!(disk.list().expect("listed"), ["b"]);
        assert!(disk.free_bytes().expect("known") > 0);
    }

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let (directory, disk) = scratch();
        let lock = disk.lock("lock").expect("free");
        let other = RealDisk::open(directory.path().join("parent/data")).expect("opened");
        assert_eq!(other.lock("lock").err().expect("taken").kind(), io::ErrorKind::WouldBlock);
        let owner = std::fs::read_to_string(directory.path().join("parent/data/lock")).expect("readable");
        assert_eq!(owner.trim(), std::process::id().to_string());
        drop(lock);
        other.lock("lock").expect("free again");
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_refused_by_name() {
        let (directory, _disk) = scratch();
        let path = directory.path().join("file");
        std::fs::write(&path, "").expect("written");
        let error = RealDisk::open(&path).expect_err("not a directory").to_string();
        assert!(error.contains("/file is not a directory: name a directory with --data-dir"), "{error}");
    }

    #[test]
    fn a_stalled_sync_waits_until_the_file_is_gone() {
        let (directory, mut disk) = scratch();
        let stall = directory.path().join("stall");
        std::fs::write(&stall, "").expect("written");
        disk.stall = Some(Arc::from(stall.as_path()));
        disk.create("other").expect("created").sync().expect("only segments and the hard state stall");
        let segment = disk.create("1.log").expect("created");
        let waiting = std::thread::spawn(move || segment.sync());
        assert!(!waiting.is_finished());
        std::fs::remove_file(&stall).expect("removed");
        waiting.join().expect("no panic").expect("synced");
    }
}
