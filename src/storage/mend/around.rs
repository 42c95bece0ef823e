//! A file as far as it can be read: what the device has lost, and what lies behind an end that came too early, reads as zeros. No record
//! and no header of a batch consists of zeros, so nothing of it is ever taken for what was written. For looking only. Errors that say
//! nothing about the device, only about this process or this moment, stay errors: nothing is concluded from them.

use crate::storage::disk::{DiskFile, Mapping};
use crate::storage::is_lost;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a device loses at once, and the least that is read at once around it.
const PIECE: u64 = 512;

/// See the file's doc.
#[derive(Debug)]
pub(super) struct Around {
    file: Arc<dyn DiskFile>,
    /// The lowest offset at which something that was asked for is lost; `u64::MAX` as long as nothing is.
    lost: AtomicU64,
}

impl Around {
    /// A file of which nothing has been read yet.
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Around {
        Around { file, lost: AtomicU64::new(u64::MAX) }
    }

    /// The lowest offset of what was asked for and is lost.
    pub(super) fn lost(&self) -> Option<u64> {
        Some(self.lost.load(Ordering::Relaxed)).filter(|offset| *offset != u64::MAX)
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::new(ErrorKind::ReadOnlyFilesystem, "the file is only looked at"))
}

impl DiskFile for Around {
    fn write_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        refused()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.file.read_at(buffer, offset) {
            Err(error) if is_lost(&error) => {}
            read => return read,
        }
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let length = (PIECE - at % PIECE).min(rest.len() as u64);
            let (piece, later) = rest.split_at_mut(length as usize);
            match self.file.read_at(piece, at) {
                Err(error) if is_lost(&error) => {
                    piece.fill(0);
                    self.lost.fetch_min(at, Ordering::Relaxed);
                }
                read => read?,
            }
            (at, rest) = (at + length, later);
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        refused()
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }

    fn drop_cache(&self, offset: u64) -> io::Result<()> {
        self.file.drop_cache(offset)
    }

    fn map(&self) -> io::Result<Arc<dyn Mapping>> {
        self.file.map()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    /// A file whose reads fail if they touch the byte at 1,000.
    #[derive(Debug)]
    struct Failing(Errno);

    impl DiskFile for Failing {
        fn write_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
            refused()
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            buffer.fill(7);
            if (offset..offset + buffer.len() as u64).contains(&1_000) { Err(self.0.into()) } else { Ok(()) }
        }

        fn length(&self) -> io::Result<u64> {
            Ok(4_096)
        }

        fn allocate(&self, _: u64) -> io::Result<()> {
            refused()
        }

        fn sync(&self) -> io::Result<()> {
            refused()
        }

        fn drop_cache(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn map(&self) -> io::Result<Arc<dyn Mapping>> {
            refused()
        }
    }

    #[test]
    fn what_the_device_has_lost_reads_as_zeros_and_everything_around_it_as_it_is() {
        let around = Around::new(Arc::new(Failing(Errno::IO)));
        let mut buffer = [1; 700];
        around.read_at(&mut buffer, 2_000).expect("nothing is lost there");
        assert_eq!((buffer, around.lost()), ([7; 700], None));
        around.read_at(&mut buffer, 500).expect("it reads around what is lost");
        // The piece from 512 up to 1024.
        let expected = |at: usize| if (12..524).contains(&at) { 0 } else { 7 };
        assert!(buffer.iter().enumerate().all(|(at, byte)| *byte == expected(at)), "{buffer:?}");
        assert_eq!(around.lost(), Some(512));
    }

    #[test]
    fn errors_that_say_nothing_about_the_device_stay_errors() {
        for errno in [Errno::MFILE, Errno::NOMEM, Errno::ACCESS, Errno::AGAIN, Errno::STALE] {
            let around = Around::new(Arc::new(Failing(errno)));
            let error = around.read_at(&mut [0; 700], 500).expect_err("not a word about what is there");
            assert_eq!((error.raw_os_error(), around.lost()), (Some(errno.raw_os_error()), None));
        }
    }
}
