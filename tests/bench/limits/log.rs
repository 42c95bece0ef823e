//! A file to append to that was filled and synced before, as overwriting needs no new metadata: here the fastest way to make bytes durable.
//! It starts over at its end, so that it never grows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BYTES: u64 = 64 << 20;

/// The file; it is removed when this is dropped.
pub(crate) struct Log {
    file: File,
    path: PathBuf,
    end: u64,
}

impl Log {
    pub(crate) fn create(path: &Path) -> io::Result<Log> {
        let file = File::create(path)?;
        let fill = vec![0xa5; 1 << 20];
        for offset in (0..BYTES).step_by(fill.len()) {
            file.write_all_at(&fill, offset)?;
        }
        file.sync_all()?;
        Ok(Log { file, path: path.to_owned(), end: 0 })
    }

    /// Returns when the bytes are on the disk.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.end + bytes.len() as u64 > BYTES {
            self.end = 0;
        }
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        self.file.sync_data()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // What stays behind is found in the folder that the user named.
        let _ = std::fs::remove_file(&self.path);
    }
}
