//! A file to append to that was filled and synced before, as overwriting needs no new metadata: here the fastest way to make bytes durable.
//! It starts over at its end, so that it never grows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BYTES: u64 = 64 << 20;

/// The file. It has no name any more once it is open, so however the process ends, nothing stays behind.
pub(crate) struct Log {
    file: File,
    end: u64,
}

impl Log {
    pub(crate) fn create(path: &Path) -> io::Result<Log> {
        let file = File::create(path)?;
        std::fs::remove_file(path)?;
        let fill = vec![0xa5; 1 << 20];
        for offset in (0..BYTES).step_by(fill.len()) {
            file.write_all_at(&fill, offset)?;
        }
        file.sync_all()?;
        Ok(Log { file, end: 0 })
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
