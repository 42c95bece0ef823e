//! An ordered list of small numbers whose order is that of keys kept elsewhere: blocks of bounded size in a row. Inserting and removing
//! move at most one block and, rarely, the list of blocks. Beside each number stand the four bytes by which its key differs from those
//! around it, so that a search seldom has to fetch a key: with a million keys each costs a trip to main memory or two. Eight bytes an
//! element; holds no keys itself.

use std::cmp::Ordering;

/// A block that reaches this size is cut in two.
const BLOCK_MAX: usize = 512;
/// So much of a block whose keys came in their order is filled.
const BLOCK_FILLED: usize = BLOCK_MAX - BLOCK_MAX / 16;

/// A number, and what its key goes on with behind the bytes that the keys of its run share; short keys end in zeros. Of two keys the
/// lesser never has the greater hint.
#[derive(Clone, Copy, Debug)]
struct Element {
    hint: [u8; 4],
    number: u32,
}

/// Numbers in the order of their keys.
#[derive(Debug, Default)]
struct Run {
    /// All keys share at least so many first bytes.
    shared: usize,
    elements: Vec<Element>,
}

fn shared_by(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

fn hint_of(key: &[u8], shared: usize) -> [u8; 4] {
    let rest = &key[shared..];
    rest.first_chunk().copied().unwrap_or_else(|| {
        let mut hint = [0; 4];
        hint[..rest.len()].copy_from_slice(rest);
        hint
    })
}

impl Run {
    /// These numbers, with their full capacity: a run will grow, and growing would double it.
    fn of<'a>(numbers: impl Iterator<Item = u32>, capacity: usize, key_of: &impl Fn(u32) -> &'a [u8]) -> Run {
        let mut elements = Vec::with_capacity(capacity);
        elements.extend(numbers.map(|number| Element { hint: [0; 4], number }));
        let mut run = Run { shared: 0, elements };
        run.share(key_of);
        run
    }

    fn first(&self) -> u32 {
        self.elements[0].number
    }

    /// Finds anew what the keys share, and all hints.
    fn share<'a>(&mut self, key_of: &impl Fn(u32) -> &'a [u8]) {
        let ends = self.elements.first().zip(self.elements.last());
        self.shared = ends.map_or(0, |(first, last)| shared_by(key_of(first.number), key_of(last.number)));
        self.share_less(self.shared, key_of);
    }

    fn share_less<'a>(&mut self, shared: usize, key_of: &impl Fn(u32) -> &'a [u8]) {
        self.shared = shared;
        self.elements.iter_mut().for_each(|element| element.hint = hint_of(key_of(element.number), shared));
    }

    /// How many keys are less than this one.
    fn position<'a>(&self, key: &[u8], key_of: &impl Fn(u32) -> &'a [u8]) -> usize {
        let Some(first) = self.elements.first() else { return 0 };
        let begin = &key[..key.len().min(self.shared)];
        match begin.cmp(&key_of(first.number)[..self.shared]) {
            Ordering::Less => return 0,
            Ordering::Greater => return self.elements.len(),
            Ordering::Equal => {}
        }
        let hint = hint_of(key, self.shared);
        let from = self.elements.partition_point(|element| element.hint < hint);
        let alike = self.elements[from..].partition_point(|element| element.hint == hint);
        from + self.elements[from..from + alike].partition_point(|element| key_of(element.number) < key)
    }

    /// Puts a number in front of the element at `position`, where its key belongs.
    fn insert<'a>(&mut self, position: usize, number: u32, key_of: &impl Fn(u32) -> &'a [u8]) {
        let key = key_of(number);
        let shared = self.elements.first().map_or(key.len(), |first| shared_by(&key_of(first.number)[..self.shared], key));
        if shared != self.shared {
            self.share_less(shared, key_of);
        }
        self.elements.insert(position, Element { hint: hint_of(key, shared), number });
    }

    fn remove(&mut self, position: usize) {
        self.elements.remove(position);
    }
}

/// Numbers in the order of their keys. Each method is told which key a number has; a number that is in the list keeps its key.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    /// None is empty.
    blocks: Vec<Run>,
    /// The first number of each block.
    heads: Run,
}

impl Ordered {
    /// The numbers `0 .. count`, whose keys rise.
    pub(super) fn of_rising<'a>(count: u32, key_of: &impl Fn(u32) -> &'a [u8]) -> Ordered {
        let firsts = (0..count).step_by(BLOCK_FILLED);
        let blocks = firsts.map(|first| Run::of(first..count.min(first.saturating_add(BLOCK_FILLED as u32)), BLOCK_MAX, key_of));
        let blocks: Vec<Run> = blocks.collect();
        let heads = Run::of(blocks.iter().map(Run::first), blocks.len(), key_of);
        Ordered { blocks, heads }
    }

    /// Bytes of memory in use, about.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * (BLOCK_MAX * size_of::<Element>() + size_of::<Run>()) + self.heads.elements.capacity() * size_of::<Element>()
    }

    /// The block in which the key stands or belongs.
    fn block<'a>(&self, key: &[u8], key_of: &impl Fn(u32) -> &'a [u8]) -> usize {
        let less = self.heads.position(key, key_of);
        match self.heads.elements.get(less) {
            Some(head) if key_of(head.number) == key => less,
            _ => less.saturating_sub(1),
        }
    }

    /// Inserts a number; none has its key.
    pub(super) fn insert<'a>(&mut self, number: u32, key_of: &impl Fn(u32) -> &'a [u8]) {
        let key = key_of(number);
        let block = self.heads.position(key, key_of).saturating_sub(1);
        let Some(run) = self.blocks.get_mut(block) else {
            self.blocks.push(Run::of([number].into_iter(), BLOCK_MAX, key_of));
            return self.heads.insert(0, number, key_of);
        };
        let position = run.position(key, key_of);
        run.insert(position, number, key_of);
        if position == 0 {
            self.heads.remove(block);
            self.heads.insert(block, number, key_of);
        }
        if self.blocks[block].elements.len() >= BLOCK_MAX {
            self.cut(block, position, key_of);
        }
    }

    /// Cuts a full block in two. One that grew at its end alone stays nearly full, so that rising keys do not leave half-empty blocks
    /// behind.
    fn cut<'a>(&mut self, block: usize, grown_at: usize, key_of: &impl Fn(u32) -> &'a [u8]) {
        let run = &mut self.blocks[block];
        let at = if grown_at + 1 == run.elements.len() { BLOCK_FILLED } else { BLOCK_MAX / 2 };
        let upper = Run::of(run.elements.drain(at..).map(|element| element.number), BLOCK_MAX, key_of);
        run.share(key_of);
        self.heads.insert(block + 1, upper.first(), key_of);
        self.blocks.insert(block + 1, upper);
    }

    /// Removes the number that has this key; it must be there.
    pub(super) fn remove<'a>(&mut self, key: &[u8], key_of: &impl Fn(u32) -> &'a [u8]) {
        let block = self.block(key, key_of);
        let run = &mut self.blocks[block];
        let position = run.position(key, key_of);
        assert!(key_of(run.elements[position].number) == key, "a key that is removed is in the ordered view");
        run.remove(position);
        if position > 0 {
            return;
        }
        self.heads.remove(block);
        if self.blocks[block].elements.is_empty() {
            self.blocks.remove(block);
        } else {
            self.heads.insert(block, self.blocks[block].first(), key_of);
        }
    }

    /// The numbers from this key on.
    pub(super) fn range<'s, 'a, F: Fn(u32) -> &'a [u8]>(&'s self, key: &[u8], key_of: &F) -> impl Iterator<Item = u32> + use<'s, 'a, F> {
        let block = self.block(key, key_of);
        let blocks = self.blocks.get(block..).unwrap_or(&[]);
        let skip = blocks.first().map_or(0, |first| first.position(key, key_of));
        blocks.iter().flat_map(|block| &block.elements).map(|element| element.number).skip(skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    /// A key with many relatives: they share beginnings, end in one another, and hold zeros.
    fn random_key(random: &mut ChaCha8Rng) -> Vec<u8> {
        let family: &[u8] = [&b""[..], b"a", b"user:000", b"user:000000", b"user:001"][random.random_range(0..5)];
        let tail = (0..random.random_range(0..7)).map(|_| [0, 1, b'0', 255][random.random_range(0..4)]);
        family.iter().copied().chain(tail).collect()
    }

    #[test]
    fn it_behaves_like_an_ordered_set() {
        let seed: u64 = rand::random();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let keys: Vec<Vec<u8>> = (0..6_000).map(|_| random_key(&mut random)).collect::<BTreeSet<_>>().into_iter().collect();
        let key_of = |number: u32| &*keys[number as usize];
        let (mut ordered, mut model) = (Ordered::default(), BTreeSet::new());
        for step in 0..20_000 {
            let number = random.next_u32() % keys.len() as u32;
            if step > 10_000 && random.random_bool(0.6) || !model.insert(number) {
                if model.remove(&number) {
                    ordered.remove(key_of(number), &key_of);
                }
            } else {
                ordered.insert(number, &key_of);
            }
            if step % 97 == 0 {
                let from = random_key(&mut random);
                let first = keys.partition_point(|key| *key < from) as u32;
                assert!(ordered.range(&from, &key_of).eq(model.range(first..).copied()), "seed {seed}, step {step}, from {from:?}");
            }
        }
        assert!(ordered.blocks.iter().all(|block| (1..BLOCK_MAX).contains(&block.elements.len())), "seed {seed}");
        model.iter().for_each(|number| ordered.remove(key_of(*number), &key_of));
        assert!(ordered.range(b"", &key_of).next().is_none() && ordered.heads.elements.is_empty(), "seed {seed}");
    }

    #[test]
    fn rising_keys_fill_their_blocks_and_look_alike_however_they_came() {
        let keys: Vec<String> = (0..100_000).map(|number| format!("key:{number:08}")).collect();
        let key_of = |number: u32| keys[number as usize].as_bytes();
        let mut ordered = Ordered::default();
        (0..100_000).for_each(|number| ordered.insert(number, &key_of));
        assert!(ordered.blocks.len() < 220, "{} blocks", ordered.blocks.len());
        let at_once = Ordered::of_rising(100_000, &key_of);
        for ordered in [ordered, at_once] {
            assert!(ordered.range(b"", &key_of).eq(0..100_000));
            assert!(ordered.range(b"key:0005", &key_of).eq(50_000..100_000));
            assert_eq!(ordered.range(b"kez", &key_of).next(), None);
        }
    }

    #[test]
    fn a_search_fetches_few_keys() {
        let keys: Vec<String> = (0..100_000).map(|number| format!("key:{number:08}")).collect();
        let fetched = std::cell::Cell::new(0);
        let key_of = |number: u32| {
            fetched.set(fetched.get() + 1);
            keys[number as usize].as_bytes()
        };
        let mut ordered = Ordered::default();
        // Every number once, scattered.
        (0..100_000).for_each(|step| ordered.insert((step * 7_919) % 100_000, &key_of));
        let of_inserting = fetched.replace(0);
        for step in 0..1_000 {
            assert_eq!(ordered.range(keys[step * 100].as_bytes(), &key_of).next(), Some(step as u32 * 100));
        }
        assert!(fetched.get() <= 6_000, "{} keys fetched for 1,000 searches among 100,000", fetched.get());
        assert!(of_inserting <= 900_000, "{of_inserting} keys fetched for 100,000 insertions");
    }
}
