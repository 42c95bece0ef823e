//! The leader of the bare write path. A thread for each connection adds records to a buffer; one thread writes and syncs what is new, one
//! for each follower sends what is new and waits for its acknowledgement. A record is committed when two of the three logs hold it; the
//! thread that finds this out answers the clients itself.

use super::follower::HEADER;
use super::log::Log;
use super::process::end_with_parent;
use super::{ANSWER, REQUEST, print};
use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Of a record: checksum, term, index.
const RECORD_HEADER: usize = 18;
const RECORD: usize = REQUEST + RECORD_HEADER;
const COPIES: usize = 3;
/// Records that all copies hold are let go of when there are this many.
const KEPT: u64 = 65_536;

/// A request that has no answer yet.
struct Waiter {
    record: u64,
    socket: Arc<TcpStream>,
}

#[derive(Default)]
struct State {
    /// The records after number `base`.
    log: Vec<u8>,
    base: u64,
    last: u64,
    /// The number of the last record that each copy holds durably.
    durable: [u64; COPIES],
    committed: u64,
    /// Threads that wait for records.
    idle: u32,
    waiters: VecDeque<Waiter>,
}

#[derive(Default)]
struct Leader {
    state: Mutex<State>,
    added: Condvar,
}

impl Leader {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request as a record.
    fn add(&self, record: &[u8], socket: &Arc<TcpStream>) {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.log.extend_from_slice(record);
        state.waiters.push_back(Waiter { record: number, socket: Arc::clone(socket) });
        let somebody_waits = state.idle > 0;
        drop(state);
        if somebody_waits {
            self.added.notify_all();
        }
    }

    /// Waits for records after number `from`, puts them behind what is in `batch`, and returns the last one's number.
    fn take(&self, from: u64, batch: &mut Vec<u8>) -> u64 {
        let mut state = self.lock();
        while state.last == from {
            state.idle += 1;
            state = self.added.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
        batch.extend_from_slice(&state.log[(from - state.base) as usize * RECORD..]);
        state.last
    }

    /// A copy holds all records up to number `last`: answers what that commits.
    fn stored(&self, copy: usize, last: u64) {
        let mut state = self.lock();
        state.durable[copy] = last;
        let mut durable = state.durable;
        durable.sort_unstable();
        let [by_all, by_majority, _] = durable;
        state.committed = state.committed.max(by_majority);
        let committed = state.committed;
        let ready = state.waiters.iter().take_while(|waiter| waiter.record <= committed).count();
        let ready: Vec<Waiter> = state.waiters.drain(..ready).collect();
        if by_all - state.base > KEPT {
            let unneeded = (by_all - state.base) as usize * RECORD;
            state.log.drain(..unneeded);
            state.base = by_all;
        }
        drop(state);
        for waiter in ready {
            // A client that has gone needs no answer.
            let _ = (&*waiter.socket).write_all(&[b'k'; ANSWER]);
        }
    }
}

pub(crate) fn run(file: &Path, followers: &[u16]) -> io::Result<()> {
    let mut log = Log::create(file)?;
    let leader = Arc::new(Leader::default());
    for (number, port) in followers.iter().enumerate() {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))?;
        socket.set_nodelay(true)?;
        let leader = Arc::clone(&leader);
        thread::spawn(move || end_process(&replicate(&leader, number + 1, socket)));
    }
    let writer = Arc::clone(&leader);
    thread::spawn(move || {
        end_process(&(|| -> io::Result<()> {
            let (mut from, mut batch) = (0, Vec::new());
            loop {
                batch.clear();
                from = writer.take(from, &mut batch);
                log.append(&batch)?;
                writer.stored(0, from);
            }
        })());
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    print(&listener.local_addr()?.port())?;
    end_with_parent();
    for socket in listener.incoming() {
        let (leader, socket) = (Arc::clone(&leader), Arc::new(socket?));
        // A connection that breaks concerns its client, which sees it.
        thread::Builder::new().stack_size(128 << 10).spawn(move || receive(&leader, &socket))?;
    }
    Ok(())
}

/// Without this thread nothing would be right any more.
fn end_process(result: &io::Result<()>) {
    if let Err(error) = result {
        let _ = writeln!(io::stderr(), "limits: the bare write path broke: {error}");
    }
    std::process::exit(7);
}

fn replicate(leader: &Leader, copy: usize, mut socket: TcpStream) -> io::Result<()> {
    let (mut from, mut batch) = (0u64, Vec::new());
    loop {
        batch.clear();
        batch.resize(HEADER, 0);
        let last = leader.take(from, &mut batch);
        let length = (batch.len() - HEADER) as u32;
        batch[..4].copy_from_slice(&length.to_le_bytes());
        batch[4..HEADER].copy_from_slice(&last.to_le_bytes());
        socket.write_all(&batch)?;
        let mut acknowledged = [0; 8];
        socket.read_exact(&mut acknowledged)?;
        from = u64::from_le_bytes(acknowledged);
        leader.stored(copy, from);
    }
}

fn receive(leader: &Leader, socket: &Arc<TcpStream>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut input = BufReader::new(&**socket);
    let mut record = [0; RECORD];
    loop {
        input.read_exact(&mut record[RECORD_HEADER..])?;
        let crc = crc32fast::hash(&record[4..]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        leader.add(&record, socket);
    }
}
