//! Chance for the core: a seeded generator that is plain state, so that a node can be cloned, compared and hashed with it.

/// SplitMix64 (Steele, Lea and Flood, 2014): one word of state, a full period, good enough to spread timeouts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Chance(u64);

impl Chance {
    /// A generator whose whole stream follows from `seed`.
    pub(super) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number by which an answer is known again: any but 0, with the two highest bits clear.
    pub(super) fn token(&mut self) -> u64 {
        (self.next() >> 2).max(1)
    }

    /// A number from `from` to `to`, both included.
    pub(super) fn between(&mut self, from: u32, to: u32) -> u32 {
        let span = u64::from(to.max(from) - from) + 1;
        from + (self.next() % span) as u32
    }
}
