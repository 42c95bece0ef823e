//! Depth-first search over all states within bounds. Remembers a fingerprint of 128 bits of each state: two states that share one do
//! not occur in practice, and with fewer bits the memory would hold no more.

use super::bounds::Bounds;
use super::world::{Move, World};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// What a search has found.
pub(crate) struct Found {
    pub(crate) states: u64,
    pub(crate) transitions: u64,
    pub(crate) depth: usize,
    /// Every state within the bounds was visited.
    pub(crate) complete: bool,
    pub(crate) took: Duration,
    /// The promise that was broken, and the moves that led there.
    pub(crate) violation: Option<String>,
}

struct Frame {
    world: World,
    moves: std::vec::IntoIter<Move>,
    /// The move that is being looked at: the one that led to the state above.
    chosen: Option<Move>,
}

/// Visits up to `most` states.
pub(crate) fn search(bounds: &Bounds, most: u64) -> Found {
    let started = Instant::now();
    let mut visited: HashSet<u128, BuildHasherDefault<Finished>> = HashSet::default();
    let start = World::new(bounds);
    visited.insert(fingerprint(&start));
    let mut found = Found { states: 1, transitions: 0, depth: 1, complete: true, took: Duration::ZERO, violation: None };
    let moves = start.moves(bounds).into_iter();
    let mut stack = vec![Frame { world: start, moves, chosen: None }];
    while let Some(frame) = stack.last_mut() {
        let Some(chosen) = frame.moves.next() else {
            stack.pop();
            continue;
        };
        found.transitions += 1;
        // The core's own invariants panic.
        let result = catch_unwind(AssertUnwindSafe(|| frame.world.after(&chosen, bounds)));
        frame.chosen = Some(chosen);
        match result.unwrap_or_else(|panic| Err(text_of(&*panic))) {
            Err(broken) => {
                found.violation = Some(story(&stack, &broken));
                break;
            }
            Ok(world) if visited.insert(fingerprint(&world)) => {
                let moves = world.moves(bounds).into_iter();
                stack.push(Frame { world, moves, chosen: None });
                found.states += 1;
                found.depth = found.depth.max(stack.len());
            }
            Ok(_) => {}
        }
        if found.states >= most {
            found.complete = false;
            break;
        }
    }
    found.took = started.elapsed();
    found
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic without a text".to_owned())
}

fn story(stack: &[Frame], broken: &str) -> String {
    let told = stack.iter().map(|frame| match &frame.chosen {
        Some(chosen) => format!("{}\n{}", frame.world, frame.world.describe(chosen)),
        None => frame.world.to_string(),
    });
    let lines: Vec<String> = told.collect();
    format!("BROKEN: {broken}\nafter {} moves:\n{}", lines.len(), lines.join("\n"))
}

fn fingerprint(world: &World) -> u128 {
    let mut hasher = Wide { low: 0x243f_6a88_85a3_08d3, high: 0x1319_8a2e_0370_7344 };
    world.hash(&mut hasher);
    u128::from(hasher.high) << 64 | u128::from(hasher.low)
}

/// Two multiplicative hashes side by side.
struct Wide {
    low: u64,
    high: u64,
}

impl Hasher for Wide {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let fold = |state: u64, factor: u64| {
            let product = u128::from(state ^ word) * u128::from(factor);
            (product as u64) ^ (product >> 64) as u64
        };
        (self.low, self.high) = (
            fold(self.low.rotate_left(5), 0x9e37_79b9_7f4a_7c15).wrapping_add(word),
            fold(self.high.rotate_left(23), 0xd6e8_feb8_6659_fd93).wrapping_add(word.rotate_left(32)),
        );
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.low ^ self.high
    }
}

/// A fingerprint is its own hash.
#[derive(Default)]
struct Finished(u64);

impl Hasher for Finished {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only fingerprints are kept");
    }

    fn write_u128(&mut self, word: u128) {
        self.0 = (word as u64) ^ (word >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
