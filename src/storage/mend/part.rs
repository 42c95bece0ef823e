//! One segment of a damaged log: which of its entries can be read, and what stands around those that cannot.

use super::around::Around;
use crate::error::{Error, Result};
use crate::storage::applier::is_well_formed;
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::hint::Hint;
use crate::storage::manifest::{Listed, State};
use crate::storage::record;
use crate::storage::segment::{LENGTH_MAX, Segment, SegmentHeader, file_name};
use crate::storage::{is_lost, unread};
use std::io::ErrorKind;
use std::sync::Arc;

/// Where a record stands, and how many bytes it takes at most. A lost one has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

impl Place {
    pub(super) fn is_lost(self) -> bool {
        self.bytes == 0
    }
}

/// The records of a batch whose header is whole and whose body is not: what they must be once they are together again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: u32,
    pub(super) crc: u32,
}

/// See the file's doc.
#[derive(Debug)]
pub(super) struct Part {
    /// As the manifest has it.
    pub(super) listed: Listed,
    pub(super) name: String,
    /// The file, unless it is missing or another's.
    pub(super) segment: Option<Arc<Segment>>,
    /// The same file, which knows what of it the device has lost.
    around: Option<Arc<Around>>,
    /// Index of the first entry.
    pub(super) first: u64,
    /// For each entry.
    pub(super) places: Vec<Place>,
    /// The lowest offset at which the file is not what was written.
    pub(super) damage: Option<u64>,
    /// The first entry of each run of lost ones, and where it stood, or the bytes in front of it.
    pub(super) spots: Vec<(u64, u64)>,
    pub(super) bodies: Vec<Body>,
    /// The hint, if the manifest names it and it can be believed.
    pub(super) hint: Option<Hint>,
    /// Some batch knew this to be committed.
    pub(super) commit: u64,
    /// No batch here that can be read has a higher number.
    pub(super) last_batch: u64,
}

impl Part {
    /// A segment of which nothing has been read. The flag says whether the header block is whole.
    ///
    /// Errors: the file cannot be opened now, which says nothing about what is in it.
    pub(super) fn open(disk: &dyn Disk, listed: Listed, cluster: u128, node: u128, first: u64) -> Result<(Part, bool)> {
        let name = file_name(listed.id);
        let opened = match disk.open(&name) {
            Ok(file) => open_leniently(file, &listed, &name, cluster, node)?,
            Err(error) if error.kind() == ErrorKind::NotFound || is_lost(&error) => None,
            Err(source) => return Err(unread(&name, 0, source)),
        };
        let whole = opened.as_ref().is_some_and(|(.., whole)| *whole);
        let (segment, around) = opened.map(|(segment, around, _)| (segment, around)).unzip();
        let part = Part {
            listed,
            name,
            segment,
            around,
            first,
            places: Vec::new(),
            damage: (!whole).then_some(0),
            spots: Vec::new(),
            bodies: Vec::new(),
            hint: None,
            commit: 0,
            last_batch: 0,
        };
        Ok((part, whole))
    }

    /// One past the index of the last entry found so far.
    pub(super) fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// The file is not what was written there.
    pub(super) fn note_damage(&mut self, at: u64) {
        self.damage = Some(self.damage.map_or(at, |known| known.min(at)));
    }

    /// The entries up to the one before `next` cannot be read; the first of them stood at `at` or behind it.
    pub(super) fn lose_to(&mut self, next: u64, at: u64) {
        if self.next() >= next {
            return;
        }
        if self.places.last().is_none_or(|last| !last.is_lost()) {
            self.spots.push((self.next(), at));
        }
        self.places.resize((next - self.first) as usize, Place::default());
        self.note_damage(at);
    }

    /// Some of what was read so far is lost to the device. A start would refuse the file for it, wherever that stands.
    pub(super) fn note_lost_reads(&mut self) {
        if let Some(at) = self.lost_reads() {
            self.note_damage(at);
        }
    }

    /// The lowest offset that was read and that the device has lost.
    pub(super) fn lost_reads(&self) -> Option<u64> {
        self.around.as_ref().and_then(|around| around.lost())
    }

    /// Takes what the hint says about lost entries: where each stands is known from it whatever the bytes around it are.
    pub(super) fn look_where_the_hint_says(&mut self) -> Result<()> {
        let (Some(hint), Some(segment)) = (&self.hint, &self.segment) else { return Ok(()) };
        for (position, place) in self.places.iter_mut().enumerate().filter(|(_, place)| place.is_lost()) {
            let offsets = &hint.log.offsets;
            let (Some(offset), index) = (offsets.get(position).copied(), self.first + position as u64) else { continue };
            let end = offsets.get(position + 1).map_or(hint.log.end, |next| u64::from(*next)).min(segment.length());
            let mut bytes = vec![0; end.saturating_sub(u64::from(offset)) as usize];
            segment.read_file(&mut bytes, u64::from(offset))?;
            if let Some(length) = checked(&bytes, index) {
                *place = Place { offset, bytes: length as u32 };
            }
        }
        Ok(())
    }

    /// Where the entry at `index` stood, or the nearest offset in front of it that is known.
    pub(super) fn offset_near(&self, index: u64) -> u64 {
        let before = self.spots.partition_point(|(first, _)| *first <= index);
        before.checked_sub(1).map_or(0, |spot| self.spots[spot].1)
    }

    /// Appends the record of the entry at `index`, if it is there and still whole. Says how many bytes that were.
    ///
    /// Errors: it cannot be read now, which says nothing about whether it is whole.
    pub(super) fn read(&self, index: u64, out: &mut Vec<u8>) -> Result<Option<usize>> {
        let position = index.checked_sub(self.first).map(|position| position as usize);
        let place = position.and_then(|position| self.places.get(position)).filter(|place| !place.is_lost());
        let (Some(place), Some(segment)) = (place, &self.segment) else { return Ok(None) };
        let before = out.len();
        out.resize(before + place.bytes as usize, 0);
        let length = segment.read_file(&mut out[before..], u64::from(place.offset)).map(|()| checked(&out[before..], index));
        out.truncate(before + length.as_ref().ok().copied().flatten().unwrap_or(0));
        length
    }

    /// What is to be said when the part cannot be mended.
    pub(super) fn corrupt(&self, reason: &str) -> Error {
        crate::storage::corrupt(&self.name, self.damage.unwrap_or(0), reason)
    }

    /// The last entry and the end of a segment that the manifest has sealed.
    pub(super) fn seal(&self) -> Option<(u64, u64)> {
        match self.listed.state {
            State::Sealed { last, offset, .. } | State::Hinted { last, offset, .. } => Some((last, offset)),
            _ => None,
        }
    }

    /// Whether so many entries can have stood in the file.
    pub(super) fn check_seal(&self) -> Result<()> {
        let Some((last, offset)) = self.seal() else { return Ok(()) };
        let count = (last + 1).checked_sub(self.first).filter(|count| *count > 0);
        let fits = count.and_then(|count| count.checked_mul(record::HEADER_BYTES as u64)).is_some_and(|bytes| bytes <= offset);
        if fits && offset <= self.listed.length && self.listed.length <= LENGTH_MAX {
            Ok(())
        } else {
            Err(self.corrupt("the manifest seals it where it cannot end"))
        }
    }
}

/// The length of the record at the start of `bytes`, if that is the whole record of the entry at `index`.
fn checked(bytes: &[u8], index: u64) -> Option<usize> {
    let (record, length) = record::parse(bytes).ok()?;
    (record.id.index == index && is_well_formed(&record)).then_some(length)
}

/// A file that is only looked at, twice, and whether its header block is whole.
type Lenient = (Arc<Segment>, Arc<Around>, bool);

/// The file of a listed segment, whatever its bytes are, and whether its header block is whole. `None` if it is not
/// the one that was listed. The seed in a damaged header block may be wrong: then no batch will be found valid.
///
/// Errors: a newer program made it, or it cannot be looked at now. Neither is damage.
fn open_leniently(file: Arc<dyn DiskFile>, listed: &Listed, name: &str, cluster: u128, node: u128) -> Result<Option<Lenient>> {
    let around = Arc::new(Around::new(file));
    let file: Arc<dyn DiskFile> = Arc::clone(&around) as Arc<dyn DiskFile>;
    // The cache may hold what the device has not.
    let _ = file.drop_cache(0);
    let Listed { id, length, .. } = *listed;
    match SegmentHeader::read(&*file, name, cluster) {
        Ok((header, crc)) => {
            let wanted = (header.node, header.id, header.length) == (node, id, length) && listed.node == node;
            return if wanted { Ok(Some((Arc::new(Segment::new(file, header, crc, 0)?), around, true))) } else { Ok(None) };
        }
        Err(Error::Corrupt { .. }) => {}
        Err(error) => return Err(error),
    }
    // The cluster and the number stand in every batch, too; whose file it is, only here.
    let SegmentHeader { seed, node: found, .. } = SegmentHeader::read_unchecked(&*file)?;
    let header = SegmentHeader { cluster, node, id, length, seed, data: false };
    if found == node { Ok(Some((Arc::new(Segment::new(file, header, 0, 0)?), around, false))) } else { Ok(None) }
}
