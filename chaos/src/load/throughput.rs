//! How much was answered when: counts in slices of a tenth of a second, from the start of the session.

use std::time::Duration;

/// The length of a slice.
pub(crate) const SLICE: Duration = Duration::from_millis(100);
/// Slices kept, for a run of a good month; what comes later is not counted. Bounds the memory.
const SLICES_MAX: usize = 30_000_000;

/// The counts, one a slice.
#[derive(Debug, Default)]
pub(crate) struct Throughput(Vec<u32>);

impl Throughput {
    /// Something was answered so long after the start.
    pub(crate) fn count(&mut self, at: Duration) {
        let slice = usize::try_from(at.as_millis() / SLICE.as_millis()).unwrap_or(usize::MAX);
        if slice < SLICES_MAX {
            if self.0.len() <= slice {
                self.0.resize(slice + 1, 0);
            }
            self.0[slice] = self.0[slice].saturating_add(1);
        }
    }

    /// The counts so far.
    pub(crate) fn slices(&self) -> &[u32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_the_time_they_come() {
        let mut throughput = Throughput::default();
        for milliseconds in [0, 99, 100, 350] {
            throughput.count(Duration::from_millis(milliseconds));
        }
        assert_eq!(throughput.slices(), [2, 1, 0, 1]);
        throughput.count(Duration::MAX);
        assert_eq!(throughput.slices().len(), 4, "no memory on the word of a broken clock");
    }
}
