//! Chance for the simulator: a seeded generator whose stream never changes, and the few shapes in which chance is needed here.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A seeded stream of choices.
#[derive(Clone, Debug)]
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    /// Streams of the same seed and different purposes are independent of each other.
    pub(crate) fn new(seed: u64, purpose: u64) -> Random {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(purpose);
        Random(random)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 to `end`, exclusive.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end.max(1)
    }

    /// Both included.
    pub(crate) fn between(&mut self, (from, to): (u64, u64)) -> u64 {
        from + self.below(to.max(from) - from + 1)
    }

    /// True so many times in a thousand.
    pub(crate) fn per_mille(&mut self, chance: u64) -> bool {
        chance > 0 && self.below(1000) < chance
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// A number between the bounds, small ones far more often than great ones: every order of magnitude gets its share.
    pub(crate) fn spread(&mut self, (from, to): (u64, u64)) -> u64 {
        let magnitudes = u64::from((to / from.max(1)).max(1).ilog2());
        let top = (from.max(1) << self.below(magnitudes + 1)).saturating_mul(2).min(to);
        self.between((from, top.max(from)))
    }
}
