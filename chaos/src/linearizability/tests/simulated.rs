//! Histories that a register has really made: operations of several processes that overlap, each with its effect at one moment between
//! its call and its answer. Linearizable by construction.

use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a simulated history is like.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) operations: usize,
    pub(super) processes: u32,
    /// Different values written; fewer make reads say less.
    pub(super) values: u32,
    /// One in this many outcomes is not learned.
    pub(super) unknown_every: u32,
    /// One in this many reads tells no version.
    pub(super) bare_every: u32,
}

struct Register {
    index: u64,
    current: Option<(u64, Vec<u8>)>,
}

impl Register {
    fn apply(&mut self, call: &Call, tells_version: bool) -> Answer {
        let current = self.current.as_ref().map_or(0, |(version, _)| *version);
        match call {
            Call::Get => self
                .current
                .clone()
                .map_or(Answer::Absent, |(version, value)| Answer::Found { version: tells_version.then_some(version), value }),
            Call::Delete if self.current.is_none() => Answer::Absent,
            Call::Delete => {
                self.current = None;
                Answer::Deleted { version: self.index }
            }
            Call::CompareAndSet { expected, .. } if *expected != current => Answer::Conflict { current },
            Call::Put { value } | Call::CompareAndSet { value, .. } => {
                self.current = Some((self.index, value.clone()));
                Answer::Written { version: self.index }
            }
        }
    }
}

/// An operation under way.
struct Pending {
    operation: Operation,
    answer: Option<Answer>,
}

/// A linearizable history.
pub(super) fn history(seed: u64, shape: Shape) -> Vec<Operation> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut below = |bound: u32| chance.next_u32() % bound.max(1);
    let mut register = Register { index: 0, current: None };
    let mut pending: Vec<Option<Pending>> = (0..shape.processes).map(|_| None).collect();
    // Operations whose process has given up and that may yet take effect.
    let mut adrift: Vec<Call> = Vec::new();
    let (mut finished, mut time, mut started) = (Vec::new(), 0, 0);
    while finished.len() < shape.operations {
        time += 1;
        register.index += u64::from(1 + below(3));
        if !adrift.is_empty() && below(30) == 0 {
            let call = adrift.swap_remove(below(adrift.len() as u32) as usize);
            register.apply(&call, true);
            continue;
        }
        let process = below(shape.processes);
        let place = &mut pending[process as usize];
        match place.take() {
            None => {
                started += 1;
                let value = format!("v{}", if shape.values == 0 { started } else { below(shape.values) }).into_bytes();
                let expected = if below(3) == 0 { 0 } else { register.current.as_ref().map_or(0, |(version, _)| *version) };
                let call = match below(10) {
                    0..=2 => Call::Put { value },
                    3..=5 => Call::CompareAndSet { expected, value },
                    6 => Call::Delete,
                    _ => Call::Get,
                };
                let operation = Operation { process, key: b"k".to_vec(), invoked: time, call, returned: None };
                *place = Some(Pending { operation, answer: None });
            }
            Some(Pending { operation, answer: None }) if below(shape.unknown_every) == 0 => {
                adrift.extend((operation.call != Call::Get).then(|| operation.call.clone()));
                finished.push(operation);
            }
            Some(Pending { operation, answer: None }) => {
                let answer = register.apply(&operation.call, below(shape.bare_every) != 0);
                *place = Some(Pending { operation, answer: Some(answer) });
            }
            Some(Pending { operation, answer: Some(_) }) if below(shape.unknown_every) == 0 => finished.push(operation),
            Some(Pending { mut operation, answer: Some(answer) }) => {
                operation.returned = Some(Returned { at: time, answer });
                finished.push(operation);
            }
        }
    }
    // What took effect and was not answered yet belongs to the history, too.
    finished.extend(pending.into_iter().flatten().map(|pending| pending.operation));
    finished
}
