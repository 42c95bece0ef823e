//! Breadth-first search over all states within bounds, on all processors. So the first violation found has the shortest story, and the
//! depth is the number of moves that the furthest state needs. Remembers a fingerprint of 128 bits of each state: two states that share
//! one do not occur in practice, and with fewer bits the memory would hold no more.

use super::bounds::Bounds;
use super::progress::Progress;
use super::world::World;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// States that a thread takes at a time.
const PART: usize = 128;
/// Parts of the set of fingerprints, each behind a lock of its own.
const SHARDS: usize = 256;

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

/// How a state was reached: from which one, by which of its moves.
#[derive(Clone, Copy)]
struct Step {
    from: u32,
    chosen: u32,
}

/// A state whose moves have not been looked at, and its place among the steps.
type Waiting = (World, u32);

/// What a thread brings back from its share of a level.
#[derive(Default)]
struct Share {
    reached: Vec<(World, Step)>,
    broken: Option<(Step, String)>,
}

struct Search<'a> {
    bounds: &'a Bounds,
    most: u64,
    visited: Vec<Mutex<HashSet<u128, BuildHasherDefault<Finished>>>>,
    states: AtomicU64,
    transitions: AtomicU64,
}

/// Visits up to about `most` states.
pub(crate) fn search(bounds: &Bounds, most: u64, progress: &Progress) -> Found {
    let started = Instant::now();
    let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
    let search = Search { bounds, most, visited: shards, states: AtomicU64::new(0), transitions: AtomicU64::new(0) };
    let start = World::new(bounds);
    search.is_new(&start);
    let mut steps = vec![Step { from: 0, chosen: 0 }];
    let mut level: Vec<Waiting> = vec![(start, 0)];
    let mut depth = 0;
    let mut violation = None;
    while !level.is_empty() && violation.is_none() && search.may_go_on() {
        let shares = search.level(level, |states| progress.show(bounds.name, depth, states));
        level = Vec::new();
        let mut broken: Option<(Step, String)> = None;
        for share in shares {
            broken = broken.or(share.broken);
            for (world, step) in share.reached {
                level.push((world, steps.len() as u32));
                steps.push(step);
            }
        }
        violation = broken.map(|(step, broken)| story(bounds, &steps, step, &broken));
        depth += usize::from(!level.is_empty() || violation.is_some());
    }
    Found {
        states: search.states.load(Relaxed),
        transitions: search.transitions.load(Relaxed),
        depth,
        complete: level.is_empty() && violation.is_none(),
        took: started.elapsed(),
        violation,
    }
}

impl Search<'_> {
    fn may_go_on(&self) -> bool {
        self.states.load(Relaxed) < self.most
    }

    fn is_new(&self, world: &World) -> bool {
        let fingerprint = fingerprint(world);
        let shard = &self.visited[(fingerprint >> 120) as usize % SHARDS];
        let new = shard.lock().expect("no thread panics while it holds a shard").insert(fingerprint);
        self.states.fetch_add(u64::from(new), Relaxed);
        new
    }

    /// Makes every move of every state of a level.
    fn level(&self, level: Vec<Waiting>, show: impl Fn(u64) + Sync) -> Vec<Share> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(level.len().div_ceil(PART));
        let waiting = Mutex::new(level.into_iter());
        let work = || {
            let mut share = Share::default();
            loop {
                let part: Vec<Waiting> = waiting.lock().expect("taking from a list does not panic").by_ref().take(PART).collect();
                if part.is_empty() || share.broken.is_some() || !self.may_go_on() {
                    return share;
                }
                part.into_iter().for_each(|(world, place)| self.expand(&world, place, &mut share));
                show(self.states.load(Relaxed));
            }
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut shares = vec![work()];
            shares.extend(others.into_iter().map(|other| other.join().expect("panics of the core are caught")));
            shares
        })
    }

    fn expand(&self, world: &World, place: u32, share: &mut Share) {
        let moves = world.moves(self.bounds);
        self.transitions.fetch_add(moves.len() as u64, Relaxed);
        for (chosen, one) in (0..).zip(&moves) {
            let step = Step { from: place, chosen };
            // The core's own invariants panic.
            let result = catch_unwind(AssertUnwindSafe(|| world.after(one, self.bounds)));
            match result.unwrap_or_else(|panic| Err(text_of(&*panic))) {
                Ok(reached) if self.is_new(&reached) => share.reached.push((reached, step)),
                Ok(_) => {}
                Err(broken) => {
                    share.broken = Some((step, broken));
                    return;
                }
            }
        }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic without a text".to_owned())
}

/// The moves from the start to the one that breaks a promise, each with the state before it.
fn story(bounds: &Bounds, steps: &[Step], last: Step, broken: &str) -> String {
    let mut path = vec![last.chosen];
    let mut place = last.from;
    while place > 0 {
        let step = steps[place as usize];
        path.push(step.chosen);
        place = step.from;
    }
    let mut world = World::new(bounds);
    let mut told = format!("BROKEN: {broken}\nafter {} moves:", path.len());
    for (left, chosen) in (0..path.len()).zip(path.iter().rev()) {
        let one = world.moves(bounds).swap_remove(*chosen as usize);
        told.push_str(&format!("\n{world}{}", world.describe(&one)));
        if left + 1 < path.len() {
            world = world.after(&one, bounds).unwrap_or_else(|broken| panic!("the search made this move and found nothing: {broken}"));
        }
    }
    told
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
