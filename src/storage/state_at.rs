//! The state behind one applied entry, pinned: what backups are made of. It is the snapshot at the end of the hinted prefix, and behind it
//! those entries of the log that took effect. Pinning is done on the Raft thread and costs no I/O; reading is done by anybody, from files
//! and not from maps, and sees the same whatever happens to the log and the files meanwhile.

use super::applier::Applier;
use super::data_file;
use super::log::{Log, Piece};
use super::record::{self, Operation};
use super::snapshot::{Position, Snapshot, SnapshotMaker, SnapshotReader};
use crate::error::Result;
use crate::raft::EntryId;

/// Entries of the log are pinned, and later read, in portions of about this size.
const PIECE_BYTES: u64 = 1 << 20;

/// The state behind an entry, pinned.
#[derive(Debug)]
pub struct StateAt {
    /// The last entry that it includes.
    pub last: EntryId,
    snapshot: Option<Snapshot>,
    /// The entries behind the snapshot.
    pieces: Vec<Piece>,
    /// For each of these entries, whether its operations took effect.
    effects: Vec<bool>,
}

impl StateAt {
    /// About how many bytes will be read; never fewer.
    pub fn bytes(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, Snapshot::bytes) + self.pieces.iter().map(Piece::bytes).sum::<u64>()
    }
}

impl Log {
    /// The state behind the last applied entry. Everything applied must be frozen.
    pub fn state_at(&self, applier: &Applier) -> StateAt {
        let (applied, hinted) = (applier.applied(), self.hinted());
        assert!(hinted <= applied, "hints name what took effect up to {hinted}, but only {applied} is applied");
        let mut pieces = Vec::new();
        let mut next = hinted + 1;
        while next <= applied {
            let count = self.fit(next, applied, PIECE_BYTES);
            pieces.extend(self.pieces(next, count));
            next += count;
        }
        let effects = if applied > hinted { applier.effects(hinted + 1, applied) } else { Vec::new() };
        StateAt { last: EntryId { term: self.term_of(applied), index: applied }, snapshot: self.snapshot(), pieces, effects }
    }
}

impl SnapshotMaker {
    /// The cluster that this node belongs to.
    pub fn cluster(&self) -> u128 {
        self.owner.cluster
    }

    /// Reads a state of this node from front to back.
    pub fn read_state(&self, state: StateAt) -> StateReader {
        let snapshot = state.snapshot.map(|snapshot| self.read(snapshot, Position::default()));
        StateReader { snapshot, pieces: state.pieces.into_iter(), effects: state.effects.into_iter(), entries: Vec::new() }
    }
}

/// Reads a [`StateAt`] from front to back. What was read is given up as it goes on.
#[derive(Debug)]
pub struct StateReader {
    snapshot: Option<SnapshotReader>,
    pieces: std::vec::IntoIter<Piece>,
    effects: std::vec::IntoIter<bool>,
    /// The entries of one piece.
    entries: Vec<u8>,
}

impl StateReader {
    /// Appends records to `out`, about `budget` bytes (entries of the log come in portions of a megabyte) or a single larger one, and
    /// returns how many they are; 0 at the end. Each holds one operation that took effect, with the index and term of its entry. A key may
    /// come several times: the highest index counts, and of several with the same index the last. Damage names file and offset.
    pub fn read(&mut self, budget: usize, out: &mut Vec<u8>) -> Result<u32> {
        let start = out.len();
        let mut count = 0;
        // What comes next may be larger than what is left, so the last half is not filled by force.
        while out.len() - start <= budget / 2 {
            if let Some(snapshot) = &mut self.snapshot {
                match snapshot.read(budget - (out.len() - start), out)? {
                    Some((_, records)) => count += records,
                    None => self.snapshot = None,
                }
            } else if let Some(piece) = self.pieces.next() {
                count += self.take_effects(&piece, out)?;
            } else {
                break;
            }
        }
        Ok(count)
    }

    fn take_effects(&mut self, piece: &Piece, out: &mut Vec<u8>) -> Result<u32> {
        self.entries.clear();
        piece.write_to(&mut self.entries)?;
        let (mut rest, mut count) = (&self.entries[..], 0);
        while !rest.is_empty() {
            let (entry, bytes) = record::view(rest);
            rest = &rest[bytes..];
            let took = self.effects.next().unwrap_or_else(|| panic!("nothing says whether {} took effect", entry.id));
            if !took {
                continue;
            }
            for operation in record::operations(entry.payload).flatten() {
                let value = match operation {
                    Operation::Set { value, .. } | Operation::CompareAndSet { value, .. } => Some(value),
                    Operation::Delete { .. } => None,
                };
                data_file::encode_record(out, entry.id, operation.key(), value);
                count += 1;
            }
        }
        Ok(count)
    }
}
