//! An ordered list of small numbers whose order is that of keys kept elsewhere: blocks of bounded size in a row. Inserting and removing
//! move at most one block and, rarely, the list of blocks. Beside each number stand the bytes with which its key goes on behind those
//! that all keys of its block share, so that a search seldom has to fetch a key: with a million keys each costs a trip to main memory or
//! two. Eight bytes an element and, where keys came in no order, as much again for elements to come; holds no keys itself.

use std::cmp::Ordering;

/// Bytes of a hint in a block: the keys of a block are close relatives.
const NEAR: usize = 4;
/// Bytes of a hint among the blocks' first keys, which may have nothing in common; they are few.
const FAR: usize = 20;

/// A number, and what its key goes on with behind the bytes that the keys of its run share; short keys end in zeros. Of two keys the
/// lesser never has the greater hint.
#[derive(Clone, Copy, Debug)]
struct Element<const HINT: usize> {
    hint: [u8; HINT],
    number: u32,
}

/// Numbers in the order of their keys.
#[derive(Debug, Default)]
struct Run<const HINT: usize> {
    /// All keys share at least so many first bytes.
    shared: usize,
    elements: Vec<Element<HINT>>,
}

/// How many of these first bytes a key has.
fn shared_with(first: &[u8], key: &[u8]) -> usize {
    if key.starts_with(first) {
        return first.len();
    }
    first.iter().zip(key).take_while(|(first, key)| first == key).count()
}

fn hint_of<const HINT: usize>(key: &[u8], shared: usize) -> [u8; HINT] {
    let rest = &key[shared..];
    rest.first_chunk().copied().unwrap_or_else(|| {
        let mut hint = [0; HINT];
        hint[..rest.len()].copy_from_slice(rest);
        hint
    })
}

impl<const HINT: usize> Run<HINT> {
    /// These numbers, with room for `capacity` in all.
    fn of<'a>(numbers: impl Iterator<Item = u32>, capacity: usize, key_of: &impl Fn(u32) -> &'a [u8]) -> Self {
        let mut elements = Vec::with_capacity(capacity);
        elements.extend(numbers.map(|number| Element { hint: [0; HINT], number }));
        let mut run = Self { shared: 0, elements };
        run.share(key_of);
        run
    }

    fn first(&self) -> u32 {
        self.elements[0].number
    }

    /// Finds anew how much the keys share, and all hints.
    fn share<'a>(&mut self, key_of: &impl Fn(u32) -> &'a [u8]) {
        let ends = self.elements.first().zip(self.elements.last());
        self.set_shared(ends.map_or(0, |(first, last)| shared_with(key_of(first.number), key_of(last.number))), key_of);
    }

    /// All keys share so many bytes; their hints begin behind them.
    fn set_shared<'a>(&mut self, shared: usize, key_of: &impl Fn(u32) -> &'a [u8]) {
        self.shared = shared;
        self.elements.iter_mut().for_each(|element| element.hint = hint_of(key_of(element.number), shared));
    }

    /// Makes the keys share no more than this one does, which comes to them, and tells its element.
    fn admit<'a>(&mut self, number: u32, key_of: &impl Fn(u32) -> &'a [u8]) -> Element<HINT> {
        let key = key_of(number);
        let shared = self.elements.first().map_or(key.len(), |first| shared_with(&key_of(first.number)[..self.shared], key));
        if shared != self.shared {
            self.set_shared(shared, key_of);
        }
        Element { hint: hint_of(key, shared), number }
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
        let element = self.admit(number, key_of);
        self.elements.insert(position, element);
    }

    /// Puts a number in the place of another one, where its key belongs.
    fn replace<'a>(&mut self, position: usize, number: u32, key_of: &impl Fn(u32) -> &'a [u8]) {
        self.elements[position] = self.admit(number, key_of);
    }

    fn remove(&mut self, position: usize) {
        self.elements.remove(position);
    }
}

/// Numbers in the order of their keys. Each method is told which key a number has; a number that is in the list keeps its key.
#[derive(Debug, Default)]
pub(super) struct Ordered<const BLOCK_MAX: usize = 512> {
    /// None is empty, and one that reaches `BLOCK_MAX` is cut in two.
    blocks: Vec<Run<NEAR>>,
    /// The first number of each block.
    heads: Run<FAR>,
}

impl<const BLOCK_MAX: usize> Ordered<BLOCK_MAX> {
    /// So much of a block is filled when its keys came in their order.
    const FILLED: usize = BLOCK_MAX - BLOCK_MAX / 16;

    /// The numbers `0 .. count`, whose keys rise.
    pub(super) fn of_rising<'a>(count: u32, key_of: &impl Fn(u32) -> &'a [u8]) -> Self {
        let firsts = (0..count).step_by(Self::FILLED);
        let blocks = firsts.map(|first| Run::of(first..count.min(first.saturating_add(Self::FILLED as u32)), BLOCK_MAX, key_of));
        let blocks: Vec<Run<NEAR>> = blocks.collect();
        let heads = Run::of(blocks.iter().map(Run::first), blocks.len(), key_of);
        Self { blocks, heads }
    }

    /// Bytes of memory in use, about.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * (BLOCK_MAX * size_of::<Element<NEAR>>() + size_of::<Run<NEAR>>())
            + self.heads.elements.capacity() * size_of::<Element<FAR>>()
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
            self.heads.replace(block, number, key_of);
        }
        if self.blocks[block].elements.len() >= BLOCK_MAX {
            self.cut(block, position, key_of);
        }
    }

    /// Cuts a full block in two. One that grew at its end alone stays nearly full, so that rising keys do not leave half-empty blocks
    /// behind.
    fn cut<'a>(&mut self, block: usize, grown_at: usize, key_of: &impl Fn(u32) -> &'a [u8]) {
        let run = &mut self.blocks[block];
        let at = if grown_at + 1 == run.elements.len() { Self::FILLED } else { BLOCK_MAX / 2 };
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
        if run.elements.is_empty() {
            self.blocks.remove(block);
            self.heads.remove(block);
        } else if position == 0 {
            self.heads.replace(block, run.first(), key_of);
        }
    }

    /// The numbers from this key on.
    pub(super) fn range<'s, 'a, F>(&'s self, key: &[u8], key_of: &F) -> impl Iterator<Item = u32> + use<'s, 'a, F, BLOCK_MAX>
    where
        F: Fn(u32) -> &'a [u8],
    {
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
    use std::cell::Cell;
    use std::collections::BTreeSet;

    impl<const HINT: usize> Run<HINT> {
        fn check<'a>(&self, seed: u64, key_of: &impl Fn(u32) -> &'a [u8]) {
            let rising = |pair: &[Element<HINT>]| key_of(pair[0].number) < key_of(pair[1].number) && pair[0].hint <= pair[1].hint;
            assert!(self.elements.windows(2).all(rising), "seed {seed}");
            let shared = |element: &Element<HINT>| &key_of(element.number)[..self.shared];
            assert!(self.elements.iter().all(|element| shared(element) == shared(&self.elements[0])), "seed {seed}");
            assert!(self.elements.iter().all(|element| element.hint == hint_of(key_of(element.number), self.shared)), "seed {seed}");
        }
    }

    impl<const BLOCK_MAX: usize> Ordered<BLOCK_MAX> {
        fn check<'a>(&self, seed: u64, key_of: &impl Fn(u32) -> &'a [u8]) {
            self.blocks.iter().for_each(|block| block.check(seed, key_of));
            self.heads.check(seed, key_of);
            assert!(self.blocks.iter().all(|block| (1..BLOCK_MAX).contains(&block.elements.len())), "seed {seed}");
            assert!(self.heads.elements.iter().map(|head| head.number).eq(self.blocks.iter().map(Run::first)), "seed {seed}");
        }
    }

    /// Keys with many relatives: they share beginnings, end in one another, and hold zeros.
    fn random_keys(random: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
        let families = [&b""[..], b"a", b"user:000", b"user:000000", b"user:001", b"user:0000000000000000000000000"];
        let (first, count) = (random.random_range(0..families.len()), random.random_range(1..4));
        let key = |random: &mut ChaCha8Rng| {
            let family = families[(first + random.random_range(0..count)) % families.len()];
            let tail: Vec<u8> = (0..random.random_range(0..7)).map(|_| [0, 1, b'0', 255][random.random_range(0..4)]).collect();
            [family, &tail].concat()
        };
        (0..1_000).map(|_| key(random)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    #[test]
    fn it_behaves_like_an_ordered_set() {
        let seed: u64 = rand::random();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..100 {
            live(seed, &mut random);
        }
    }

    /// Numbers come and go, anywhere or at the ends; in the end all go.
    fn live(seed: u64, random: &mut ChaCha8Rng) {
        let keys = random_keys(random);
        let there: Vec<Cell<bool>> = keys.iter().map(|_| Cell::new(false)).collect();
        let key_of = |number: u32| {
            assert!(there[number as usize].get(), "seed {seed}: the key of {number} is asked for, which is not in the list");
            &*keys[number as usize]
        };
        let (mut ordered, mut model) = (Ordered::<16>::default(), BTreeSet::new());
        let (mut ends, mut growth) = (false, 0.9);
        for step in 0..1_500 {
            if step % 100 == 0 {
                (ends, growth) = (random.random_bool(0.3), [0.1, 0.5, 0.9][random.random_range(0..3)]);
            }
            let inserts = random.random_bool(growth);
            let anywhere = random.next_u32() % keys.len() as u32;
            let number = match model.first() {
                Some(first) if ends && inserts => u32::saturating_sub(*first, 1),
                Some(first) if ends => *first,
                _ => anywhere,
            };
            if inserts && model.insert(number) {
                there[number as usize].set(true);
                ordered.insert(number, &key_of);
            } else if !inserts && model.remove(&number) {
                ordered.remove(&keys[number as usize], &key_of);
                there[number as usize].set(false);
            }
            if step % 10 == 0 {
                ordered.check(seed, &key_of);
                let from = [&keys[anywhere as usize][..], &[0][..random.random_range(0..2)]].concat();
                let first = keys.partition_point(|key| *key < from) as u32;
                assert!(ordered.range(&from, &key_of).eq(model.range(first..).copied()), "seed {seed}, step {step}, from {from:?}");
            }
        }
        for number in model {
            ordered.remove(&keys[number as usize], &key_of);
            there[number as usize].set(false);
        }
        assert!(ordered.range(b"", &key_of).next().is_none() && ordered.heads.elements.is_empty(), "seed {seed}");
    }

    #[test]
    fn rising_keys_fill_their_blocks_and_look_alike_however_they_came() {
        let keys: Vec<String> = (0..100_000).map(|number| format!("key:{number:08}")).collect();
        let key_of = |number: u32| keys[number as usize].as_bytes();
        let mut ordered = Ordered::<512>::default();
        (0..100_000).for_each(|number| ordered.insert(number, &key_of));
        assert!(ordered.blocks.len() < 220, "{} blocks", ordered.blocks.len());
        let at_once = Ordered::<512>::of_rising(100_000, &key_of);
        for ordered in [ordered, at_once] {
            ordered.check(0, &key_of);
            assert!(ordered.range(b"", &key_of).eq(0..100_000));
            assert!(ordered.range(b"key:0005", &key_of).eq(50_000..100_000));
            assert_eq!(ordered.range(b"kez", &key_of).next(), None);
        }
    }

    #[test]
    fn a_search_fetches_few_keys_whether_they_are_alike_or_not() {
        for families in [&["key:"][..], &["order:", "user:"]] {
            let numbered = |family: &&str| (0..100_000 / families.len()).map(move |number| format!("{family}{number:08}")).collect();
            let keys: Vec<String> = families.iter().map(numbered).collect::<Vec<Vec<String>>>().concat();
            let fetched = Cell::new(0);
            let key_of = |number: u32| {
                fetched.set(fetched.get() + 1);
                keys[number as usize].as_bytes()
            };
            let mut ordered = Ordered::<512>::default();
            // Every number once, scattered.
            (0..100_000).for_each(|step| ordered.insert((step * 7_919) % 100_000, &key_of));
            let of_inserting = fetched.replace(0);
            for step in 0..1_000 {
                assert_eq!(ordered.range(keys[step * 100].as_bytes(), &key_of).next(), Some(step as u32 * 100));
            }
            assert!(fetched.get() <= 6_000, "{families:?}: {} keys fetched for 1,000 searches", fetched.get());
            assert!(of_inserting <= 900_000, "{families:?}: {of_inserting} keys fetched for 100,000 insertions");
        }
    }
}
