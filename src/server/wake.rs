//! A bell that a thread sleeping in poll(2) can hear. Ringing never blocks, so the Raft thread may do it.

use crate::error::{Error, Result};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// One bell: any number of threads ring, one clears.
#[derive(Debug)]
pub(super) struct Wake {
    reader: PipeReader,
    writer: PipeWriter,
    /// At most one byte is ever in the pipe, which is why writing it cannot block.
    ringing: AtomicBool,
}

impl Wake {
    pub(super) fn new() -> Result<Wake> {
        let (reader, writer) = std::io::pipe().map_err(Error::io("create a pipe to wake a thread"))?;
        Ok(Wake { reader, writer, ringing: AtomicBool::new(false) })
    }

    /// Makes the bell's descriptor readable.
    pub(super) fn ring(&self) {
        if !self.ringing.swap(true, SeqCst) {
            // The reading end lives as long as this value, and the pipe has room for one byte: this cannot fail.
            let _ = (&self.writer).write(&[1]);
        }
    }

    /// Silences a bell that poll reported. What was published before a ring is seen by whoever looks after this call.
    pub(super) fn clear(&self) {
        let _ = (&self.reader).read(&mut [0; 1]);
        self.ringing.store(false, SeqCst);
    }

    /// What to poll for reading.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
