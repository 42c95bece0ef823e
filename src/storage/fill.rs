//! The fill: what a segment holds where nothing has been written yet. It is computable at any offset from the segment's own seed,
//! never looks like data, and differs between segments, so that "never written" can be told from "written and rotted".

use crate::bugbank::planted;

/// Batches begin and end between two units of this size. A unit that was written never equals the fill: nobody who sends values knows
/// the seed, and padding differs from it. Disks write whole sectors, and a sector, or the part of one that belongs to a batch, consists
/// of units; so a write that was interrupted leaves at least one of them as it was.
pub(super) const UNIT: usize = 16;

/// Eight bytes of the fill, by their number in the file (splitmix64 of the seed and the number).
fn word(seed: u64, number: u64) -> u64 {
    let mut mixed = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Writes into `buffer` what a file with this seed holds from `offset` on.
pub(super) fn fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    // A word that begins before the buffer, whole words, and one that ends behind it.
    let skip = (offset % 8) as usize;
    let before = buffer.len().min((8 - skip) % 8);
    let (front, rest) = buffer.split_at_mut(before);
    front.copy_from_slice(&word(seed, offset / 8).to_le_bytes()[skip..][..before]);
    let first = offset.div_ceil(8);
    let behind = word(seed, first + rest.len() as u64 / 8).to_le_bytes();
    let mut words = rest.chunks_exact_mut(8);
    for (number, bytes) in (first..).zip(&mut words) {
        bytes.copy_from_slice(&word(seed, number).to_le_bytes());
    }
    let end = words.into_remainder();
    end.copy_from_slice(&behind[..end.len()]);
}

/// Whether `bytes`, which stand at `offset`, are still the fill.
pub(super) fn is_fill(seed: u64, offset: u64, bytes: &[u8]) -> bool {
    let mut expected = [0; 4096];
    let mut at = offset;
    bytes.chunks(expected.len()).all(|chunk| {
        let expected = &mut expected[..chunk.len()];
        fill(seed, at, expected);
        at += chunk.len() as u64;
        expected == chunk
    })
}

/// Whether some unit of `bytes`, which stand at `offset` and begin and end between two units, is still the fill: the mark of a write
/// that was interrupted.
pub(super) fn holds_unwritten_unit(seed: u64, offset: u64, bytes: &[u8]) -> bool {
    let units = (offset..).step_by(UNIT).zip(bytes.chunks(UNIT));
    if planted(45) {
        return units.last().is_some_and(|(at, unit)| is_fill(seed, at, unit));
    }
    if planted(111) {
        let skipped = (offset.next_multiple_of(512) - offset) as usize;
        let mut sectors = bytes.get(skipped..).unwrap_or_default().chunks_exact(512).zip((offset.next_multiple_of(512)..).step_by(512));
        return sectors.any(|(sector, at)| is_fill(seed, at, sector));
    }
    let mut units = units;
    units.any(|(at, unit)| is_fill(seed, at, unit) || planted(47) && unit.iter().all(|byte| *byte == 0))
}

/// The padding that stands at `offset`: the complement of the fill, so that a written sector never looks unwritten however few bytes
/// of it are used.
pub(super) fn padding(seed: u64, offset: u64, buffer: &mut [u8]) {
    fill(seed, offset, buffer);
    buffer.iter_mut().for_each(|byte| *byte = !*byte);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fill_is_the_same_however_it_is_cut() {
        let mut whole = [0; 5000];
        fill(7, 100, &mut whole);
        for start in 0..40 {
            let mut part = [0; 33];
            fill(7, 100 + start as u64, &mut part);
            assert_eq!(part[..], whole[start..start + 33], "start {start}");
        }
        assert!(is_fill(7, 100, &whole));
        assert!(!is_fill(8, 100, &whole));
        whole[4999] ^= 1;
        assert!(!is_fill(7, 100, &whole));
    }

    #[test]
    fn one_unwritten_unit_is_found() {
        let mut bytes = vec![0; 160];
        assert!(!holds_unwritten_unit(3, 496, &bytes));
        fill(3, 512, &mut bytes[16..32]);
        assert!(holds_unwritten_unit(3, 496, &bytes));
        bytes[31] ^= 1;
        assert!(!holds_unwritten_unit(3, 496, &bytes));
    }

    #[test]
    fn padding_never_equals_the_fill() {
        let (mut pad, mut plain) = ([0; 64], [0; 64]);
        padding(9, 13, &mut pad);
        fill(9, 13, &mut plain);
        assert!(pad.iter().zip(&plain).all(|(pad, plain)| pad != plain));
    }
}
