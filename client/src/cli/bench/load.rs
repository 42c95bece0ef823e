//! The requests themselves: frames that are encoded once, with a key number that is written over before each use.

use super::keys::Chance;
use super::{BenchOptions, Workload};
use apexkv_client::Error;
use apexkv_client::protocol::{Command, LARGEST_KEY, LARGEST_VALUE, REQUEST_HEADER, encode_request};

const PREFIX: &[u8] = b"bench:";

/// What one request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Set,
    Get,
}

/// The frames of a workload; each thread works on a copy.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    workload: Workload,
    /// Of a mixed load, GETs in a hundred requests.
    reads: u64,
    set: Vec<u8>,
    get: Vec<u8>,
    digits: std::ops::Range<usize>,
}

impl Load {
    pub(crate) fn new(options: &BenchOptions) -> Result<Load, Error> {
        let digits = (options.keys - 1).checked_ilog10().unwrap_or(0) as usize + 1;
        let key_min = PREFIX.len() + digits;
        let (key_size, value_size) = (options.key_size, options.value_size);
        if key_size < key_min as u64 || key_size > LARGEST_KEY as u64 {
            let reason = format!("--key-size {key_size} does not fit; {} keys need {key_min} to {LARGEST_KEY} bytes each", options.keys);
            return Err(Error::Usage(reason));
        }
        if value_size > LARGEST_VALUE as u64 {
            return Err(Error::Usage(format!("--value-size {value_size} is too large; a value has at most {LARGEST_VALUE} bytes")));
        }
        let mut key = vec![b'0'; key_size as usize];
        key[..PREFIX.len()].copy_from_slice(PREFIX);
        // Bytes without a pattern, so that nothing on the way can make them smaller.
        let mut chance = Chance::new(0);
        let value: Vec<u8> = (0..value_size).map(|_| chance.next() as u8).collect();
        let (mut set, mut get) = (Vec::new(), Vec::new());
        encode_request(&mut set, Command::Set, &key, &[&value]);
        encode_request(&mut get, Command::Get, &key, &[]);
        let digits = REQUEST_HEADER + PREFIX.len()..REQUEST_HEADER + key.len();
        Ok(Load { workload: options.workload, reads: options.reads(), set, get, digits })
    }

    /// What the next request does.
    pub(crate) fn next(&self, chance: &mut Chance) -> Operation {
        match self.workload {
            Workload::Set => Operation::Set,
            Workload::Get => Operation::Get,
            Workload::Mixed if chance.next() % 100 < self.reads => Operation::Get,
            Workload::Mixed => Operation::Set,
        }
    }

    /// The request for key `number`.
    pub(crate) fn frame(&mut self, operation: Operation, number: u64) -> &[u8] {
        let frame = match operation {
            Operation::Set => &mut self.set,
            Operation::Get => &mut self.get,
        };
        let mut rest = number;
        for digit in frame[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::*;

    #[test]
    fn the_key_number_fills_the_key() {
        let mut load = Load::new(&options(&["--workload", "get", "--keys", "1000", "--key-size", "10"])).expect("3 digits fit");
        assert_eq!(load.frame(Operation::Get, 7), b"\x02\x0a\0\0\0\0\0\0\0bench:0007");
        assert_eq!(load.frame(Operation::Get, 42), b"\x02\x0a\0\0\0\0\0\0\0bench:0042");
    }

    #[test]
    fn a_key_size_without_room_for_the_numbers_is_refused() {
        let load = |keys, key_size| Load::new(&options(&["--keys", keys, "--key-size", key_size]));
        assert!(load("1000", "9").is_ok());
        assert!(matches!(load("1001", "9"), Err(Error::Usage(reason)) if reason.contains("10 to")));
        assert!(load("1", "7").is_ok());
        assert!(load("1", "2MiB").is_err());
    }

    #[test]
    fn a_mixed_load_has_the_share_of_reads_that_was_asked_for() {
        for (reads, expected) in [("0", 0..1), ("95", 9_400..9_600), ("100", 10_000..10_001)] {
            let load = Load::new(&options(&["--workload", "mixed", "--reads", reads])).expect("good options");
            let mut chance = Chance::new(5);
            let gets = (0..10_000).filter(|_| load.next(&mut chance) == Operation::Get).count();
            assert!(expected.contains(&gets), "{reads} %: {gets} of 10000");
        }
    }
}
