//! stub engine
use super::harness::*;
use apexkv::raft::EntryId;
use apexkv::server::Connection;
use apexkv::server::event::{ClientBatch, Outcome, Request, Slot};
use apexkv::storage::record::{Operation, length_unchecked, operations, parse, seal};
use apexkv::storage::store::{Located, Store};
use std::sync::Arc;

pub struct Engine {
    store: Arc<Store>,
    last: u64,
}

impl Engine {
    pub fn new() -> Engine {
        Engine { store: Arc::default(), last: 0 }
    }
    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }
    pub fn apply(&mut self, batch: &ClientBatch<Arc<Connection>>) -> Vec<(Slot, Outcome)> {
        let mut replies = Vec::new();
        let mut records = batch.records.as_slice();
        for request in &batch.requests {
            match request {
                Request::Write { slot } => {
                    let (record, rest) = records.split_at(length_unchecked(records));
                    records = rest;
                    let mut record = record.to_vec();
                    self.last += 1;
                    seal(&mut record, EntryId { term: 1, index: self.last });
                    let (parsed, _) = parse(&record).expect("sound record");
                    let operation = operations(parsed.payload).next().unwrap().unwrap();
                    replies.push((*slot, self.operation(&operation)));
                }
                Request::Lookup { slot, key } => {
                    replies.push((*slot, self.store.lookup(key).map_or(Outcome::NotFound, Outcome::Found)));
                }
            }
        }
        assert!(records.is_empty());
        replies.extend(batch.barrier.map(|slot| (slot, Outcome::Proceed)));
        replies
    }
    fn operation(&mut self, operation: &Operation<'_>) -> Outcome {
        let mut map = self.store.0.lock();
        let current = map.get(operation.key()).map_or(0, |l| l.version);
        let version = self.last;
        match *operation {
            Operation::Delete { key } => match map.remove(key) {
                None => Outcome::NotFound,
                Some(_) => Outcome::Written { version },
            },
            Operation::CompareAndSet { expected, .. } if expected != current => Outcome::Conflict { current },
            Operation::Set { key, value } | Operation::CompareAndSet { key, value, .. } => {
                map.insert(key.to_vec(), Located { version, value: Arc::new(value.to_vec()) });
                Outcome::Written { version }
            }
        }
    }
}
