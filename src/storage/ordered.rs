//! An ordered list of small numbers whose order is that of keys kept elsewhere: blocks of bounded size in a row. Inserting and removing
//! move at most one block and, rarely, the list of blocks. Four bytes an element; holds no keys itself.

use std::cmp::Ordering;

/// A block that reaches this size is cut in two.
const BLOCK_MAX: usize = 512;

/// Numbers in the order of their keys. No block is empty.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    blocks: Vec<Vec<u32>>,
}

/// A block with its full capacity: it will grow, and growing would double it.
fn block_of(elements: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut block = Vec::with_capacity(BLOCK_MAX);
    block.extend(elements);
    block
}

impl Ordered {
    /// The numbers `0 .. count`, which are in order already.
    pub(super) fn of_rising(count: u32) -> Ordered {
        let filled = BLOCK_MAX - BLOCK_MAX / 16;
        let blocks = (0..count).step_by(filled).map(|first| block_of(first..count.min(first.saturating_add(filled as u32))));
        Ordered { blocks: blocks.collect() }
    }

    /// Bytes of memory in use, about.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * (BLOCK_MAX * size_of::<u32>() + size_of::<Vec<u32>>())
    }

    /// Inserts `number`; `compare` tells how an element's key compares to the new one, and none is equal.
    pub(super) fn insert(&mut self, number: u32, mut compare: impl FnMut(u32) -> Ordering) {
        let mut before = |element: &u32| compare(*element) == Ordering::Less;
        let block = self.blocks.partition_point(|block| before(&block[0])).saturating_sub(1);
        let Some(elements) = self.blocks.get_mut(block) else {
            self.blocks.push(block_of([number].into_iter()));
            return;
        };
        let position = elements.partition_point(before);
        elements.insert(position, number);
        if elements.len() >= BLOCK_MAX {
            // A block that grew at its end alone stays nearly full, so that rising keys do not leave half-empty blocks behind.
            let cut = if position + 1 == elements.len() { BLOCK_MAX - BLOCK_MAX / 16 } else { BLOCK_MAX / 2 };
            let upper = block_of(elements.drain(cut..));
            self.blocks.insert(block + 1, upper);
        }
    }

    /// Removes the element whose key is equal by `compare`; it must be there.
    pub(super) fn remove(&mut self, mut compare: impl FnMut(u32) -> Ordering) {
        let block = self.blocks.partition_point(|block| compare(block[0]) != Ordering::Greater).saturating_sub(1);
        let elements = &mut self.blocks[block];
        let position = elements.partition_point(|element| compare(*element) == Ordering::Less);
        assert!(compare(elements[position]) == Ordering::Equal, "a key that is removed is in the ordered view");
        elements.remove(position);
        if elements.is_empty() {
            self.blocks.remove(block);
        }
    }

    /// The elements from the first one on that `before` does not hold for; `before` must hold for a prefix.
    pub(super) fn range(&self, mut before: impl FnMut(u32) -> bool) -> impl Iterator<Item = u32> {
        let block = self.blocks.partition_point(|block| before(block[0])).saturating_sub(1);
        let blocks = self.blocks.get(block..).unwrap_or(&[]);
        let skip = blocks.first().map_or(0, |first| first.partition_point(|element| before(*element)));
        blocks.iter().flatten().copied().skip(skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    #[test]
    fn it_behaves_like_an_ordered_set() {
        let seed: u64 = rand::random();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut ordered, mut model) = (Ordered::default(), BTreeSet::new());
        for step in 0..20_000 {
            let number = random.next_u32() % 3_000;
            if step > 10_000 && random.random_bool(0.6) || !model.insert(number) {
                if model.remove(&number) {
                    ordered.remove(|element| element.cmp(&number));
                }
            } else {
                ordered.insert(number, |element| element.cmp(&number));
            }
            if step % 97 == 0 {
                let found: Vec<u32> = ordered.range(|element| element < number).collect();
                assert!(found.iter().eq(model.range(number..)), "seed {seed}, step {step}");
            }
        }
        assert!(ordered.blocks.iter().all(|block| !block.is_empty() && block.len() < BLOCK_MAX), "seed {seed}");
    }

    #[test]
    fn rising_numbers_fill_their_blocks() {
        let mut ordered = Ordered::default();
        for number in 0..100_000 {
            ordered.insert(number, |element| element.cmp(&number));
        }
        assert!(ordered.blocks.len() < 220, "{} blocks", ordered.blocks.len());
        assert!(ordered.range(|_| false).eq(0..100_000));
    }
}
