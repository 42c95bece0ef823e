//! Which key a request is about: all alike, or few of them most of the time. Chance is seeded by the connection's number, so two runs
//! with the same flags ask for the same keys in the same order.

use super::zipf::Zipf;
use super::{BenchOptions, Distribution};

/// Picks the numbers of keys.
#[derive(Clone, Debug)]
pub(crate) enum KeyPicker {
    /// Every key is as likely as any other.
    Uniform { keys: u64 },
    /// Key 0 is the most wanted one.
    Zipfian(Zipf),
}

impl KeyPicker {
    pub(crate) fn new(options: &BenchOptions) -> KeyPicker {
        match options.distribution {
            Distribution::Uniform => KeyPicker::Uniform { keys: options.keys },
            Distribution::Zipfian => KeyPicker::Zipfian(Zipf::new(options.keys, options.theta)),
        }
    }

    pub(crate) fn pick(&self, chance: &mut Chance) -> u64 {
        match self {
            KeyPicker::Uniform { keys } => chance.next() % keys,
            KeyPicker::Zipfian(law) => law.rank(|| chance.unit()) - 1,
        }
    }
}

/// SplitMix64: fast, and good enough to pick keys.
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

    /// From 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        // As many bits as a float holds without rounding.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_keys_are_all_alike_and_zipfian_ones_are_not() {
        let (uniform, zipfian) = (KeyPicker::Uniform { keys: 100 }, KeyPicker::Zipfian(Zipf::new(100, 0.99)));
        for (picker, first) in [(uniform, 800..1_200), (zipfian, 18_000..21_000)] {
            let mut chance = Chance::new(3);
            let mut counts = [0u32; 100];
            (0..100_000).for_each(|_| counts[picker.pick(&mut chance) as usize] += 1);
            assert!(first.contains(&counts[0]), "{picker:?}: {}", counts[0]);
            assert!(counts.iter().all(|count| *count > 100), "{picker:?}: {counts:?}");
        }
    }
}
