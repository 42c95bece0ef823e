//! Tests of the judgement: histories known good and known bad, all small histories against brute force, and good ones with their answers
//! exchanged.

mod brute_force;
mod hand_made;
mod random;
mod simulated;

use super::{Answer, Call, History, Operation, Returned, Verdict, check};

/// An operation of a key of its own; the answer came at the end of `time`.
fn operation(process: u32, time: (u64, u64), call: Call, answer: Answer) -> Operation {
    Operation { process, key: b"k".to_vec(), invoked: time.0, call, returned: Some(Returned { at: time.1, answer }) }
}

/// An operation whose outcome was not learned.
fn unknown(process: u32, invoked: u64, call: Call) -> Operation {
    Operation { process, key: b"k".to_vec(), invoked, call, returned: None }
}

fn put(value: &str) -> Call {
    Call::Put { value: value.as_bytes().to_vec() }
}

fn cas(expected: u64, value: &str) -> Call {
    Call::CompareAndSet { expected, value: value.as_bytes().to_vec() }
}

fn written(version: u64) -> Answer {
    Answer::Written { version }
}

fn found(version: u64, value: &str) -> Answer {
    Answer::Found { version: Some(version), value: value.as_bytes().to_vec() }
}

fn found_value(value: &str) -> Answer {
    Answer::Found { version: None, value: value.as_bytes().to_vec() }
}

fn judge(operations: &[Operation]) -> Verdict {
    check(&operations.iter().cloned().collect::<History>())
}
