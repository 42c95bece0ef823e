//! The requests themselves: frames that are encoded once, with a key number that is written over before each use.

use super::{BenchOptions, Workload};
use apexkv_client::protocol::{Command, LARGEST_KEY, LARGEST_VALUE, REQUEST_HEADER, Status, encode_request};
use apexkv_client::{Connection, Error, Pipeline};
use std::time::{Duration, Instant};

const PREFIX: &[u8] = b"bench:";
/// Requests in flight while the keys are written before the measurement.
const FILL_DEPTH: usize = 128;

/// The frames of a workload; each thread works on a copy.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    workload: Workload,
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
        Ok(Load { workload: options.workload, set, get, digits: REQUEST_HEADER + PREFIX.len()..REQUEST_HEADER + key.len() })
    }

    /// The next request of the workload, for key `number`.
    pub(crate) fn frame(&mut self, number: u64, chance: &mut Chance) -> &[u8] {
        let set = match self.workload {
            Workload::Set => true,
            Workload::Get => false,
            Workload::Mixed => chance.next() & 1 == 0,
        };
        self.numbered(set, number)
    }

    fn numbered(&mut self, set: bool, number: u64) -> &[u8] {
        let frame = if set { &mut self.set } else { &mut self.get };
        let mut rest = number;
        for digit in frame[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        frame
    }
}

/// Writes every key once, so that each GET finds one.
pub(crate) fn fill(load: &Load, keys: u64, leader: &str, timeout: Duration) -> Result<(), Error> {
    let broken = |reason: String| Error::Unknown { endpoint: leader.to_owned(), reason };
    let deadline = || Instant::now() + timeout;
    let connection = Connection::open(leader, timeout, deadline()).map_err(|error| broken(error.to_string()))?;
    let (mut load, mut pipeline) = (load.clone(), Pipeline::new(connection));
    let mut next = 0;
    while next < keys || pipeline.outstanding() > 0 {
        while next < keys && pipeline.outstanding() < FILL_DEPTH {
            pipeline.push_frame(load.numbered(true, next));
            next += 1;
        }
        pipeline.flush(deadline()).map_err(|error| broken(error.to_string()))?;
        loop {
            let response = pipeline.receive(deadline()).map_err(|error| broken(error.to_string()))?;
            if response.status != Status::Ok {
                let message = format!("writing the keys before the measurement: {}", String::from_utf8_lossy(response.payload));
                return Err(Error::Refused { status: response.status, endpoint: leader.to_owned(), message });
            }
            if pipeline.outstanding() == 0 || !pipeline.has_response() {
                break;
            }
        }
    }
    Ok(())
}

/// SplitMix64: picks keys fast; nothing depends on its quality.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(keys: u64, key_size: u64) -> BenchOptions {
        BenchOptions {
            workload: Workload::Get,
            connections: 1,
            depth: 1,
            keys,
            key_size,
            value_size: 3,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
        }
    }

    #[test]
    fn the_key_number_fills_the_key() {
        let mut load = Load::new(&options(1_000, 10)).expect("3 digits fit");
        assert_eq!(load.frame(7, &mut Chance::new(1)), b"\x02\x0a\0\0\0\0\0\0\0bench:0007");
        assert_eq!(load.frame(42, &mut Chance::new(1)), b"\x02\x0a\0\0\0\0\0\0\0bench:0042");
    }

    #[test]
    fn a_key_size_without_room_for_the_numbers_is_refused() {
        assert!(Load::new(&options(1_000, 9)).is_ok());
        assert!(matches!(Load::new(&options(1_001, 9)), Err(Error::Usage(reason)) if reason.contains("10 to")));
        assert!(Load::new(&options(1, 7)).is_ok());
        assert!(Load::new(&options(1, 2 << 20)).is_err());
    }
}
