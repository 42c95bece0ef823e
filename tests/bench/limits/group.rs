//! Group commit and nothing else: threads add records to a buffer and wait; one thread writes and syncs what has gathered, and wakes them.

use super::load::Measured;
use super::log::Log;
use super::{LoadArguments, REQUEST, print};
use serde_json::json;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the writer waits for records before it looks whether all is over.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    added: u64,
    durable: u64,
    syncs: u64,
    over: bool,
}

#[derive(Default)]
struct Group {
    gathered: Mutex<Gathered>,
    added: Condvar,
    durable: Condvar,
}

impl Group {
    fn lock(&self) -> std::sync::MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record and returns when it is durable.
    fn commit(&self, record: &[u8]) {
        let mut gathered = self.lock();
        gathered.bytes.extend_from_slice(record);
        gathered.added += 1;
        let own = gathered.added;
        self.added.notify_one();
        while gathered.durable < own {
            gathered = self.durable.wait(gathered).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, mut log: Log) -> io::Result<()> {
        let mut batch = Vec::new();
        loop {
            let mut gathered = self.lock();
            while gathered.bytes.is_empty() {
                if gathered.over {
                    return Ok(());
                }
                gathered = self.added.wait_timeout(gathered, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            }
            std::mem::swap(&mut gathered.bytes, &mut batch);
            let last = gathered.added;
            drop(gathered);
            log.append(&batch)?;
            batch.clear();
            let mut gathered = self.lock();
            gathered.durable = last;
            gathered.syncs += 1;
            drop(gathered);
            self.durable.notify_all();
        }
    }
}

pub(crate) fn run(arguments: &LoadArguments) -> io::Result<()> {
    let log = Log::create(&arguments.dir.join("group"))?;
    let group = Group::default();
    let measured = thread::scope(|scope| {
        let writer = scope.spawn(|| group.write(log));
        let record = [0x5a; REQUEST];
        let measured = Measured::run(arguments.connections, arguments.time(), || {
            let group = &group;
            Ok(move || {
                group.commit(&record);
                Ok(())
            })
        });
        group.lock().over = true;
        writer.join().map_err(|_| io::Error::other("the writer panicked"))??;
        measured
    })?;
    let mut object = measured.object(1);
    object["limit"] = json!("group");
    object["connections"] = json!(arguments.connections);
    object["syncs"] = json!(group.lock().syncs);
    print(&object)
}
