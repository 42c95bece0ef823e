//! Quarantine: what a node does about damage that cannot be mended when other nodes have the data. Everything that it held is put aside,
//! untouched, and it starts with an empty log; the leader fills it again. What it had promised by holding those entries stands: it keeps
//! the position of its log as a *floor*. Until its log has reached the floor again it does not seek leadership, and it votes only for
//! candidates whose logs have. So an entry that it once acknowledged is in the log of whoever leads, as if it still held the entry.
//!
//! The manifest as it was is kept beside the new one ([`aside`]): if no other node has the data, whoever can mend the files has it put
//! back.
//!
//! A node whose hard state, identity or manifest is damaged cannot know what it promised, and refuses to start; so does one with a batch
//! in a file of the log that the manifest does not list, and a cluster of one, where nobody else has the data. Then nothing is changed.

use super::aside;
use super::batch;
use super::bytes::NUMBER_MAX;
use super::disk::Disk;
use super::manifest::{Manifest, State};
use super::record;
use super::recovery::{check_term, open_listed};
use super::scan::header_at;
use super::segment::{HEADER_BLOCK, Segment};
use super::state_hash::StateHash;
use super::tail;
use super::writer::{HARD_STATE_NAME, LogWriter};
use crate::bugbank::planted;
use crate::error::{Error, Result};
use crate::raft::{EntryId, HardState};

/// Puts everything aside because of `damage`. From here on the log is empty, and this node stands for one that ended at `position`. Fails
/// with the damage itself if the manifest or the hard state is what is damaged.
pub(super) fn quarantine(writer: &mut LogWriter, position: EntryId, damage: Error) -> Result<()> {
    let Error::Corrupt { file, .. } = &damage else { return Err(damage) };
    if file == super::manifest::NAME || file == HARD_STATE_NAME {
        return Err(damage);
    }
    let floor = position.max(writer.manifest.floor);
    log::error!("{}", super::without_remedy(&damage));
    log::error!("all of the log is put aside and fetched again from the other nodes; until it reaches {floor} this node does not lead");
    aside::keep(&*writer.disk, &writer.manifest)?;
    for listed in &mut writer.manifest.segments {
        if listed.state != State::Dropped {
            listed.state = State::Quarantined;
        }
    }
    let floor = if planted(116) { EntryId::default() } else { floor };
    (writer.manifest.floor, writer.manifest.base, writer.manifest.base_hash) = (floor, EntryId::default(), StateHash::START);
    (writer.manifest.applied, writer.manifest.decided, writer.manifest.distrusted) = (0, 0, false);
    writer.write_manifest()
}

/// The last entry that the log may have held, never an older one than it did. Where batch headers do not tell, it is a position that this
/// node cannot have passed: the newest term that it knows, at the end that the manifest gives, or at as many entries as fit the file.
///
/// Errors: the hard state is behind the log, so that there is no telling what was promised.
pub(super) fn position(disk: &dyn Disk, manifest: &Manifest, cluster: u128, node: u128, hard_state: &HardState) -> Result<EntryId> {
    let (mut last, mut untold) = (manifest.base, 0);
    for listed in &manifest.segments {
        let end = match listed.state {
            State::Open => None,
            State::Sealed { last, .. } | State::Hinted { last, .. } => Some(last),
            State::Dropped | State::Quarantined | State::Retired { .. } | State::Data { .. } => continue,
        };
        let found = open_listed(disk, listed, cluster, node).and_then(|segment| end_of(&segment, end.is_some()));
        match (end, found) {
            // A seal may lie in the middle of a batch, whose term is at least that of the entry before the seal.
            (Some(end), Ok(Some(found))) if found.index >= end => last = last.max(EntryId { index: end, ..found }),
            (Some(end), _) => last = last.max(EntryId { term: hard_state.term, index: end }),
            // A header that counts further than anything can is damaged, too.
            (None, Ok(Some(found))) if found.index > NUMBER_MAX => untold += listed.length / record::HEADER_BYTES as u64,
            (None, Ok(Some(found))) => last = last.max(found),
            (None, Ok(None)) => {}
            (None, Err(_)) => untold += listed.length / record::HEADER_BYTES as u64,
        }
    }
    check_term(last, hard_state)?;
    if untold == 0 {
        return Ok(last);
    }
    // What the headers did not tell follows the greatest index that the manifest or they do.
    let index = last_index(manifest).max(last.index).saturating_add(untold);
    Ok(EntryId { term: hard_state.term, index: index.min(NUMBER_MAX) })
}

/// The greatest index that the manifest names.
fn last_index(manifest: &Manifest) -> u64 {
    let ends = manifest.segments.iter().map(|listed| match listed.state {
        State::Sealed { last, .. } | State::Hinted { last, .. } => last,
        _ => 0,
    });
    ends.fold(manifest.base.index, u64::max)
}

/// The last entry of a segment by the headers of its batches; `None` if it holds none. An error if what follows the last one could have
/// been another. Below a seal nothing that follows counts.
fn end_of(segment: &Segment, sealed: bool) -> Result<Option<EntryId>> {
    let (mut at, mut last) = (HEADER_BLOCK, None);
    loop {
        if let Some(header) = header_at(segment, at)? {
            last = Some(EntryId { term: header.last_term, index: header.last_index }).max(last);
            at = batch::align(at + batch::HEADER_BYTES + u64::from(header.body));
        } else if let Some(next) = tail::find_batch(segment, at)? {
            at = next;
        } else {
            break;
        }
    }
    if !sealed {
        tail::judge(segment, at.min(segment.length()), None)?;
    }
    Ok(last)
}
