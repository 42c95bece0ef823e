//! Quarantine: what a node does about damage in its log or its files when other nodes have the data. Everything that it held is put aside,
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
use super::manifest::{self, Listed, Manifest, State};
use super::preparer::is_shortage;
use super::recovery::open_listed;
use super::reserve;
use super::scan::header_at;
use super::segment::{self, HEADER_BLOCK, Segment};
use super::state_hash::StateHash;
use super::tail;
use super::writer::LogWriter;
use crate::bugbank::planted;
use crate::error::{Error, Result};
use crate::raft::{EntryId, HardState};
use std::io;

/// The index of a floor of which only the term is known: the end of the log is what was damaged. No log gets as far.
pub const END_UNKNOWN: u64 = super::bytes::NUMBER_MAX;
/// The manifest as it was before everything was put aside.
pub(super) const ASIDE: &str = "manifest.aside";

/// Puts everything aside because of `damage`. From here on the log is empty. Fails with the damage itself if the manifest or the hard state
/// is what is damaged.
pub(super) fn quarantine(writer: &mut LogWriter, node: u128, hard_state: &HardState, damage: Error) -> Result<()> {
    let Error::Corrupt { file, .. } = &damage else { return Err(damage) };
    if file == super::manifest::NAME || file == super::writer::HARD_STATE_NAME {
        return Err(damage);
    }
    let floor = position(&*writer.disk, &writer.manifest, writer.cluster, node, hard_state).max(writer.manifest.floor);
    log::error!("{damage}");
    log::error!("all of the log is put aside and fetched again from the other nodes; until it reaches {floor} this node does not lead");
    let doing = format!("keep {}/{} as {ASIDE}", writer.disk.path(), super::manifest::NAME);
    keep_manifest(&*writer.disk).map_err(Error::io(doing))?;
    for listed in &mut writer.manifest.segments {
        if listed.state != State::Dropped {
            listed.state = State::Quarantined;
        }
    }
    list_unreadable(writer)?;
    let floor = if planted(116) { EntryId::default() } else { floor };
    (writer.manifest.floor, writer.manifest.base, writer.manifest.base_hash) = (floor, EntryId::default(), StateHash::START);
    (writer.manifest.applied, writer.manifest.decided, writer.manifest.distrusted) = (0, 0, false);
    writer.write_manifest()
}

/// Lists segments that were never listed, so that nothing was written to them, and whose headers are damaged, so that they cannot show it:
/// they are put aside with the others.
fn list_unreadable(writer: &mut LogWriter) -> Result<()> {
    let names = writer.disk.list().map_err(Error::io(format!("list {}", writer.disk.path())))?;
    for id in names.iter().filter_map(|name| segment::id_of(name)).filter(|id| *id <= manifest::ID_MAX) {
        let listed = writer.manifest.segments.iter().any(|listed| listed.id == id);
        let opened = Segment::open(&*writer.disk, id, writer.cluster);
        if !listed && writer.manifest.fits(1) && matches!(opened, Err(Error::Corrupt { .. })) {
            writer.manifest.segments.push(Listed { id, node: 0, length: 0, state: State::Quarantined });
            writer.manifest.last_id = writer.manifest.last_id.max(id);
        }
    }
    Ok(())
}

/// Copies the manifest's file, unless there is a copy from an earlier time, when it still said where everything is.
fn keep_manifest(disk: &dyn Disk) -> io::Result<()> {
    if disk.list()?.iter().any(|name| name == ASIDE) {
        return Ok(());
    }
    let file = disk.open(super::manifest::NAME)?;
    let mut bytes = vec![0; file.length()? as usize];
    file.read_at(&mut bytes, 0)?;
    match write_copy(disk, &bytes) {
        // The reserve is made again as soon as there is room for it.
        Err(error) if is_shortage(&error) && disk.remove(reserve::NAME).is_ok() => write_copy(disk, &bytes),
        written => written,
    }
}

fn write_copy(disk: &dyn Disk, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{ASIDE}.tmp");
    let written = (|| {
        let copy = disk.create(&temporary)?;
        copy.write_at(&[bytes], 0)?;
        copy.sync()?;
        disk.rename(&temporary, ASIDE)?;
        disk.sync_directory()
    })();
    if written.is_err() {
        let _ = disk.remove(&temporary);
    }
    written
}

/// The last entry that the log may have held, never an older one than it did. If the end of the log is what is damaged, that is the
/// greatest position of the newest term that this node knows.
fn position(disk: &dyn Disk, manifest: &Manifest, cluster: u128, node: u128, hard_state: &HardState) -> EntryId {
    let unknown = EntryId { term: hard_state.term, index: END_UNKNOWN };
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
