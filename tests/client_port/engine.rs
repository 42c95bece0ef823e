//! The real log and store on a simulated disk, driven as a cluster of one would: appended, applied and written in order.

use apexkv::raft::EntryId;
use apexkv::server::Connection;
use apexkv::server::event::{ClientBatch, Outcome, Request, Slot};
use apexkv::storage::Options;
use apexkv::storage::applier::Applier;
use apexkv::storage::applier::Effect;
use apexkv::storage::directory::{Directory, Founding, FoundingMember};
use apexkv::storage::log::Log;
use apexkv::storage::log::Room;
use apexkv::storage::preparer::Preparer;
use apexkv::storage::record::{length_unchecked, parse, seal};
use apexkv::storage::simulated::SimulatedDisk;
use apexkv::storage::store::Store;
use apexkv::storage::writer::LogWriter;
use apexkv::storage::writer::{Completion, Job};
use std::sync::Arc;

const ID: &str = "test:1";

pub(crate) struct Engine {
    disk: Arc<SimulatedDisk>,
    log: Log,
    applier: Applier,
    writer: LogWriter,
    preparer: Preparer,
    store: Arc<Store>,
}

impl Engine {
    pub(crate) fn new() -> Engine {
        let disk = SimulatedDisk::new(1);
        let mut directory = Directory::open(disk.boot(), ID).expect("an empty directory");
        let members = vec![FoundingMember { id: ID.to_owned(), uuid: directory.identity().uuid }];
        directory.found(&Founding { cluster: 1, members }).expect("founded");
        let opened = directory.open_log(&Options { segment_bytes: 1 << 20, reserve_bytes: 0 }).expect("an empty log");
        Engine {
            disk,
            log: opened.log,
            applier: opened.applier,
            writer: opened.workers.writer,
            preparer: opened.workers.preparer,
            store: opened.store,
        }
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// The disk, to do harm to.
    pub(crate) fn disk(&self) -> Arc<SimulatedDisk> {
        Arc::clone(&self.disk)
    }

    /// Carries out a batch and returns its replies. What it wrote is read from memory until [`Engine::write`].
    pub(crate) fn apply(&mut self, batch: &ClientBatch<Arc<Connection>>) -> Vec<(Slot, Outcome)> {
        self.append(batch.records.clone());
        let mut slice = self.applier.slice();
        let mut replies = Vec::new();
        for request in &batch.requests {
            replies.push(match request {
                Request::Write { slot } => {
                    let applied = slice.apply_next();
                    let outcome = match applied.effect {
                        Effect::Written => Outcome::Written { version: applied.id.index },
                        Effect::NotFound => Outcome::NotFound,
                        Effect::Conflict { current } => Outcome::Conflict { current },
                        Effect::None => panic!("a client's entry holds an operation"),
                    };
                    (*slot, outcome)
                }
                Request::Lookup { slot, key } => (*slot, slice.lookup(key).map_or(Outcome::NotFound, Outcome::Found)),
            });
        }
        drop(slice);
        assert_eq!(self.applier.pending(), 0, "one record for each write");
        replies.extend(batch.barrier.map(|slot| (slot, Outcome::Proceed)));
        replies
    }

    fn append(&mut self, mut records: Vec<u8>) {
        if records.is_empty() {
            return;
        }
        let (mut index, mut at) = (self.log.last().index, 0);
        while at < records.len() {
            let end = at + length_unchecked(&records[at..]);
            index += 1;
            seal(&mut records[at..end], EntryId { term: 1, index });
            parse(&records[at..end]).expect("the connection built a sound record");
            at = end;
        }
        self.make_room(records.len());
        self.applier.stage(&records);
        let locations = self.log.append(records);
        self.applier.place(&locations);
        self.log.freeze();
    }

    fn make_room(&mut self, bytes: usize) {
        let needed = match self.log.room(bytes) {
            Room::Yes => return,
            Room::NoSegment => 0,
            Room::Oversized(needed) => needed,
        };
        let segment = self.preparer.prepare(needed).expect("room on the disk");
        let Completion::Listed(segment) = self.writer.run(Job::List(segment)).expect("the disk works") else {
            panic!("the manifest is full");
        };
        self.log.add_prepared(segment);
        assert!(matches!(self.log.room(bytes), Room::Yes), "{bytes} bytes fit now");
    }

    /// Brings everything to the disk: from now on it is read from there.
    pub(crate) fn write(&mut self) {
        while let Some((job, _)) = self.log.next_job(self.applier.applied()) {
            let completion = self.writer.run(job).expect("the disk works");
            self.log.completed(&completion);
        }
    }
}
