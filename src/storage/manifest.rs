//! The manifest: which segments there are and where each ends. Pure data and encoding; its one owner is the log writer, which applies
//! edits and writes the result to its slot file.

use super::bytes::Fields;
use super::segment::file_name;
use super::state_hash::StateHash;
use crate::error::Result;
use crate::raft::EntryId;

/// The manifest's file.
pub(super) const NAME: &str = "manifest";
/// Most payload bytes; bounds the number of segments.
pub(super) const CAPACITY: usize = 1 << 20;

/// Highest number of a segment; no node comes near it.
pub(super) const ID_MAX: u32 = 1 << 31;

const VERSION: u32 = 3;
const FRONT_BYTES: usize = 72;
/// Entries that segments leave for the outputs of merges and for received files, so that a full list can become shorter again.
const RESERVED: usize = 256;
const ENTRY_BYTES: usize = 56;

/// Where a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Prepared, or being appended to.
    Open,
    /// Ended: what lies at or past `offset` does not exist.
    Sealed {
        /// Index of its first entry.
        first: u64,
        /// Index of its last entry.
        last: u64,
        /// Where it ends.
        offset: u64,
    },
    /// Ended without any entry; the file may be gone already.
    Dropped,
    /// Sealed, and its hint file is durable.
    Hinted {
        /// Index of its first entry.
        first: u64,
        /// Index of its last entry.
        last: u64,
        /// Where it ends.
        offset: u64,
    },
    /// Hinted, and no longer part of the log: its records only hold values, and its hint says which.
    Retired {
        /// Index of its first entry.
        first: u64,
        /// Index of its last entry.
        last: u64,
        /// Where it ends.
        offset: u64,
    },
    /// A data file.
    Data {
        /// The lowest version in it.
        first: u64,
        /// The highest version in it.
        last: u64,
        /// Where it ends.
        offset: u64,
    },
    /// Put aside because of damage. Kept until the log has been fetched again, and never read.
    Quarantined,
}

impl State {
    /// Whether a hint file belongs to it.
    pub(super) fn has_hint(&self) -> bool {
        matches!(self, State::Hinted { .. } | State::Retired { .. } | State::Data { .. } | State::Quarantined)
    }
}

/// One listed segment or data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its number.
    pub(super) id: u32,
    /// The node that made it.
    pub(super) node: u128,
    /// The length it was made with.
    pub(super) length: u64,
    /// Where it ends.
    pub(super) state: State,
}

/// The list, and what the log starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The entry before the first one that segments hold; zero as long as nothing is compacted.
    pub(super) base: EntryId,
    /// The hash of the state behind the base.
    pub(super) base_hash: StateHash,
    /// Applied and durable here when this version was written.
    pub(super) applied: u64,
    /// The highest number ever listed; numbers are not used again.
    pub(super) last_id: u32,
    /// Of segments up to this entry the hints are needed: a merge has left out what the conditions of their entries were decided against.
    pub(super) decided: u64,
    /// The last entry of the log that was put aside because of damage; zero when the log has reached it again.
    pub(super) floor: EntryId,
    /// Damage was found while the node ran: the next start does not go on with these files if others have the data.
    pub(super) distrusted: bool,
    /// In the order in which they were listed.
    pub(super) segments: Vec<Listed>,
}

impl Default for Manifest {
    /// Lists nothing, and starts from the empty state.
    fn default() -> Manifest {
        Manifest {
            base: EntryId::default(),
            base_hash: StateHash::START,
            applied: 0,
            last_id: 0,
            decided: 0,
            floor: EntryId::default(),
            distrusted: false,
            segments: Vec::new(),
        }
    }
}

impl Manifest {
    /// Whether one more segment can be listed.
    pub(super) fn has_room(&self) -> bool {
        self.fits(1 + RESERVED)
    }

    /// Whether so many files more fit the list.
    pub(super) fn fits(&self, more: usize) -> bool {
        FRONT_BYTES + (self.segments.len() + more) * ENTRY_BYTES <= CAPACITY
    }

    /// The last entry that hints in the log cover; zero if they cover none.
    pub(super) fn hinted(&self) -> u64 {
        let last = |listed: &Listed| if let State::Hinted { last, .. } = listed.state { Some(last) } else { None };
        self.segments.iter().filter_map(last).max().unwrap_or(0)
    }

    /// The entry of a listed segment. Only listed segments are ever edited.
    pub(super) fn find(&mut self, id: u32) -> &mut Listed {
        let found = self.segments.iter_mut().find(|listed| listed.id == id);
        found.unwrap_or_else(|| panic!("{} is edited in the manifest without being listed", file_name(id)))
    }

    /// The payload of the slot file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FRONT_BYTES + self.segments.len() * ENTRY_BYTES);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.base.term.to_le_bytes());
        out.extend_from_slice(&self.base.index.to_le_bytes());
        out.extend_from_slice(&self.applied.to_le_bytes());
        out.extend_from_slice(&self.last_id.to_le_bytes());
        for number in [self.decided, self.floor.term, self.floor.index, self.base_hash.number()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&u32::from(self.distrusted).to_le_bytes());
        for listed in &self.segments {
            let (state, first, last, offset) = match listed.state {
                State::Open => (0u32, 0, 0, 0),
                State::Sealed { first, last, offset } => (1, first, last, offset),
                State::Dropped => (2, 0, 0, 0),
                State::Hinted { first, last, offset } => (3, first, last, offset),
                State::Retired { first, last, offset } => (4, first, last, offset),
                State::Data { first, last, offset } => (5, first, last, offset),
                State::Quarantined => (6, 0, 0, 0),
            };
            out.extend_from_slice(&listed.id.to_le_bytes());
            out.extend_from_slice(&state.to_le_bytes());
            out.extend_from_slice(&listed.node.to_le_bytes());
            for number in [listed.length, first, last, offset] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out
    }

    /// Whether each segment has a number of its own that was given out, and there are numbers left.
    fn is_numbered_well(&self) -> bool {
        let mut ids: Vec<u32> = self.segments.iter().map(|listed| listed.id).collect();
        ids.sort_unstable();
        ids.is_sorted_by(|a, b| a < b) && ids.last().is_none_or(|newest| *newest <= self.last_id) && self.last_id <= ID_MAX
    }

    /// Reads a payload back.
    pub(super) fn decode(payload: &[u8]) -> Result<Manifest> {
        let mut fields = Fields::new(payload);
        let version = fields.u32().unwrap_or(0);
        if version > VERSION {
            return Err(super::newer(NAME, version, VERSION));
        }
        Manifest::decode_fields(&mut fields, version)
            .ok_or_else(|| super::corrupt(NAME, 0, "its list of segments does not follow the format"))
    }

    fn decode_fields(fields: &mut Fields<'_>, version: u32) -> Option<Manifest> {
        let count = fields.u32()?;
        let base = EntryId { term: fields.number()?, index: fields.number()? };
        let (applied, last_id) = (fields.number()?, fields.u32()?);
        let mut manifest = Manifest { base, applied, last_id, ..Manifest::default() };
        if version >= 3 {
            manifest.decided = fields.number()?;
            manifest.floor = EntryId { term: fields.number()?, index: fields.number()? };
            manifest.base_hash = StateHash::from_number(fields.u64()?);
            manifest.distrusted = fields.u32().filter(|flag| *flag < 2)? == 1;
        }
        for _ in 0..count {
            let (id, state, node) = (fields.u32()?, fields.u32()?, fields.u128()?);
            let (length, first, last, offset) = (fields.u64()?, fields.number()?, fields.number()?, fields.u64()?);
            let state = match state {
                0 => State::Open,
                1 => State::Sealed { first, last, offset },
                2 => State::Dropped,
                3 if version >= 2 => State::Hinted { first, last, offset },
                4 if version >= 3 => State::Retired { first, last, offset },
                5 if version >= 3 => State::Data { first, last, offset },
                6 if version >= 3 => State::Quarantined,
                _ => return None,
            };
            manifest.segments.push(Listed { id, node, length, state });
        }
        (fields.is_empty() && manifest.is_numbered_well()).then_some(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back() {
        let listed = |id, state| Listed { id, node: 7, length: 1 << 20, state };
        let manifest = Manifest {
            base: EntryId { term: 1, index: 2 },
            base_hash: StateHash::from_number(9),
            applied: 3,
            last_id: 4,
            decided: 0,
            floor: EntryId { term: 7, index: 8 },
            distrusted: true,
            segments: vec![listed(1, State::Sealed { first: 3, last: 9, offset: 5000 }), listed(2, State::Dropped), listed(3, State::Open)],
        };
        let mut manifest = manifest;
        manifest.segments.push(listed(4, State::Hinted { first: 10, last: 20, offset: 6000 }));
        let payload = manifest.encode();
        assert_eq!(Manifest::decode(&payload).expect("just encoded"), manifest);
        let of_version = |version: u32| [&version.to_le_bytes(), &payload[4..]].concat();
        assert!(Manifest::decode(&of_version(2)).is_err(), "the second version has a shorter front");
        assert!(matches!(Manifest::decode(&of_version(VERSION + 1)), Err(crate::error::Error::Directory(_))));
        for length in 0..payload.len() {
            assert!(Manifest::decode(&payload[..length]).is_err(), "cut to {length}");
        }
    }
}
