//! The follower of the bare write path: receives a batch, checks its bytes, makes it durable, says so.

use super::log::Log;
use super::print;
use super::process::end_with_parent;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// Before each batch: its length (4), the number of its last record (8); the latter comes back as the acknowledgement.
pub(crate) const HEADER: usize = 12;

pub(crate) fn run(file: &Path) -> io::Result<()> {
    let mut log = Log::create(file)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    print(&listener.local_addr()?.port())?;
    end_with_parent();
    let (mut socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    let mut batch = Vec::new();
    loop {
        let mut header = [0; HEADER];
        if socket.read_exact(&mut header).is_err() {
            // The leader has been ended: the measurement is over.
            return Ok(());
        }
        let (length, last) = header.split_at(4);
        // From the leader of this program's own making.
        batch.resize(length.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)), 0);
        socket.read_exact(&mut batch)?;
        std::hint::black_box(crc32fast::hash(&batch));
        log.append(&batch)?;
        socket.write_all(last)?;
    }
}
