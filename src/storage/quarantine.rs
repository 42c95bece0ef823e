//! Quarantine: what a node does about damage that cannot be mended when other nodes have the data. Everything that it held is put aside,
//! untouched, and it starts with an empty log; the leader fills it again. What it had promised by holding those entries stands: it keeps
//! the position of its log as a *floor*. Until its log has reached the floor again it does not seek leadership, and it votes only for
//! candidates whose logs have. So an entry that it once acknowledged is in the log of whoever leads, as if it still held the entry.
//!
//! The manifest as it was is kept beside the new one, as `manifest.aside`: if no other node has the data, whoever can mend the files puts
//! it back in place of `manifest` while the node is stopped, and everything is as before.
//!
//! A node whose hard state, identity or manifest is damaged cannot know what it promised, and refuses to start; so does a cluster of one,
//! where nobody else has the data.

use super::batch;
use super::disk::Disk;
use super::manifest::{Manifest, State};
use super::recovery::open_listed;
use super::scan::header_at;
use super::segment::{HEADER_BLOCK, Segment};
use super::state_hash::StateHash;
use super::tail;
use super::writer::LogWriter;
use crate::error::{Error, Result};
use crate::raft::{EntryId, HardState};
use std::io;

/// The manifest as it was before everything was put aside.
pub(super) const ASIDE: &str = "manifest.aside";

/// Puts everything aside because of `damage`. From here on the log is empty, and this node stands for one that ended at `position`. Fails
/// with the damage itself if the manifest or the hard state is what is damaged.
pub(super) fn quarantine(writer: &mut LogWriter, position: EntryId, damage: Error) -> Result<()> {
    let Error::Corrupt { file, .. } = &damage else { return Err(damage) };
    if file == super::manifest::NAME || file == super::writer::HARD_STATE_NAME {
        return Err(damage);
    }
    let floor = position.max(writer.manifest.floor);
    log::error!("{damage}");
    log::error!("all of the log is put aside and fetched again from the other nodes; until it reaches {floor} this node does not lead");
    keep_manifest(&*writer.disk).map_err(Error::io(format!("keep {}/{} as {ASIDE}", writer.disk.path(), super::manifest::NAME)))?;
    for listed in &mut writer.manifest.segments {
        if listed.state != State::Dropped {
            listed.state = State::Quarantined;
        }
    }
    (writer.manifest.floor, writer.manifest.base, writer.manifest.base_hash) = (floor, EntryId::default(), StateHash::START);
    (writer.manifest.applied, writer.manifest.decided, writer.manifest.distrusted) = (0, 0, false);
    writer.write_manifest()
}

/// Copies the manifest's file, unless there is a copy from an earlier time, when it still said where everything is.
fn keep_manifest(disk: &dyn Disk) -> io::Result<()> {
    if disk.list()?.iter().any(|name| name == ASIDE) {
        return Ok(());
    }
    let file = disk.open(super::manifest::NAME)?;
    let mut bytes = vec![0; file.length()? as usize];
    file.read_at(&mut bytes, 0)?;
    let temporary = format!("{ASIDE}.tmp");
    let copy = disk.create(&temporary)?;
    copy.write_at(&[&bytes], 0)?;
    copy.sync()?;
    disk.rename(&temporary, ASIDE)?;
    disk.sync_directory()
}

/// The last entry that the log may have held, never an older one than it did. If the end of the log is what is damaged, that is the
/// greatest position of the newest term that this node knows.
pub(super) fn position(disk: &dyn Disk, manifest: &Manifest, cluster: u128, node: u128, hard_state: &HardState) -> EntryId {
    let unknown = EntryId { term: hard_state.term, index: super::bytes::NUMBER_MAX };
    let mut last = manifest.base;
    for listed in &manifest.segments {
        let end = match listed.state {
            State::Open => None,
            State::Sealed { last, .. } | State::Hinted { last, .. } => Some(last),
            State::Dropped | State::Quarantined | State::Retired { .. } | State::Data { .. } => continue,
        };
        let Ok(segment) = open_listed(disk, listed, cluster, node) else { return unknown };
        match (end, end_of(&segment, end.is_some())) {
            // A seal may lie in the middle of a batch, whose term is at least that of the entry before the seal.
            (Some(end), Ok(Some(found))) => last = last.max(EntryId { index: end, ..found }),
            (None, Ok(Some(found))) => last = last.max(found),
            (None, Ok(None)) => {}
            _ => return unknown,
        }
    }
    // A header that says more than this node can have promised is damaged, too.
    if last.term > hard_state.term || last.index > unknown.index { unknown } else { last }
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
