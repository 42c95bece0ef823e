//! The list of what was put aside because of damage: the manifest as it was, kept as `manifest.aside`, and the way back. Whoever has mended
//! the files renames it to `manifest.back` while the node is stopped, and the next start goes on with what it lists. What the node has
//! fetched meanwhile is put aside in its turn, and what it acknowledged with that stays promised: its position becomes the floor, which the
//! mended log has reached unless it was fetched beyond it.
//!
//! It never removes what was put aside, and never lists a file that is gone.

use super::disk::Disk;
use super::manifest::{self, Listed, Manifest, State};
use super::quarantine;
use super::reserve;
use super::writer::LogWriter;
use crate::error::{Error, Result};
use crate::raft::{EntryId, HardState};
use std::io;

/// The manifest as it was before everything was put aside: its payload, and the CRC-32 of that.
pub(super) const NAME: &str = "manifest.aside";
/// The same, to be put back.
pub(super) const BACK: &str = "manifest.back";

fn is_put_aside(listed: &&Listed) -> bool {
    listed.state == State::Quarantined
}

/// Keeps what `manifest` says, unless an earlier copy still says where things are that were put aside before. Without room for it, the
/// reserve is given up.
pub(super) fn keep(disk: &dyn Disk, manifest: &Manifest) -> Result<()> {
    let failed = Error::io(format!("keep {}/{} as {NAME}", disk.path(), manifest::NAME));
    let names = disk.list().map_err(Error::io(format!("list {}", disk.path())))?;
    let has = |name: &str| names.iter().any(|other| other == name);
    if has(NAME) && manifest.segments.iter().any(|listed| is_put_aside(&listed)) {
        return Ok(());
    }
    // Why everything is put aside is no reason to do so again once it is mended.
    let payload = Manifest { distrusted: false, ..manifest.clone() }.encode();
    let written = match write(disk, &payload) {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) && has(reserve::NAME) => {
            disk.remove(reserve::NAME).and_then(|()| disk.sync_directory()).and_then(|()| write(disk, &payload))
        }
        written => written,
    };
    written.map_err(failed)
}

fn write(disk: &dyn Disk, payload: &[u8]) -> io::Result<()> {
    let temporary = format!("{NAME}.tmp");
    let written = (|| {
        let file = disk.create(&temporary)?;
        file.write_at(&[payload, &crc32fast::hash(payload).to_le_bytes()], 0)?;
        file.sync()?;
        disk.rename(&temporary, NAME)?;
        disk.sync_directory()
    })();
    if written.is_err() {
        // The next start removes what is left of it.
        let _ = disk.remove(&temporary);
    }
    written
}

/// Goes on with what was put aside, if there is a list to be put back. A crash in between is no harm: the list goes last.
pub(super) fn put_back(writer: &mut LogWriter, node: u128, hard_state: &HardState) -> Result<()> {
    let path = writer.disk.path();
    let names = writer.disk.list().map_err(Error::io(format!("list {path}")))?;
    if !names.iter().any(|name| name == BACK) {
        return Ok(());
    }
    let before = read(&*writer.disk)?;
    let state_of = |id| writer.manifest.segments.iter().find(|listed| listed.id == id).map_or(State::Dropped, |listed| listed.state);
    let mut missing = before.segments.iter().filter(|listed| listed.state != State::Dropped && state_of(listed.id) == State::Dropped);
    if let Some(listed) = missing.next() {
        let gone = format!("it lists file number {:x}, which the node has given up", listed.id);
        return Err(Error::Directory(format!("{path}/{BACK} cannot be put back: {gone}; remove {BACK} to go on without it")));
    }
    // Otherwise an earlier start was interrupted right before it could remove the list.
    if before.segments.iter().any(|listed| state_of(listed.id) == State::Quarantined && listed.state != State::Quarantined) {
        writer.manifest = merged(writer, before, node, hard_state)?;
        writer.write_manifest()?;
        log::warn!("what was put aside because of damage is back, as {BACK} lists it; {} is the floor", writer.manifest.floor);
    }
    super::directory::remove_all(&*writer.disk, &[BACK])
}

/// What was put aside, and in its place what was there instead. The node stands for what it acknowledged with either.
fn merged(writer: &LogWriter, mut manifest: Manifest, node: u128, hard_state: &HardState) -> Result<Manifest> {
    let present = &writer.manifest;
    let position = quarantine::position(&*writer.disk, present, writer.cluster, node, hard_state)?;
    let is_back = |listed: &Listed| manifest.segments.iter().any(|back| back.id == listed.id);
    // The floor of now is the end of the log that comes back, unless more was put aside later.
    let more = present.segments.iter().filter(is_put_aside).any(|listed| !is_back(listed));
    let floor = position.max(if more { present.floor } else { manifest.floor });
    // A log in which nothing was acknowledged is of no use to anybody.
    let fate = if floor == EntryId::default() { State::Dropped } else { State::Quarantined };
    let others = present.segments.iter().filter(|listed| !is_back(listed));
    let others: Vec<Listed> =
        others.map(|listed| Listed { state: if listed.state == State::Dropped { listed.state } else { fate }, ..*listed }).collect();
    manifest.segments.extend(others);
    manifest.last_id = manifest.last_id.max(present.last_id);
    manifest.floor = floor;
    Ok(manifest)
}

fn read(disk: &dyn Disk) -> Result<Manifest> {
    let doing = || format!("read {}/{BACK}", disk.path());
    let file = disk.open(BACK).map_err(Error::io(doing()))?;
    let length = file.length().map_err(Error::io(doing()))?;
    let damaged = |reason: &str| super::corrupt(BACK, 0, reason);
    if !(4..=manifest::CAPACITY as u64 + 4).contains(&length) {
        return Err(damaged("its length is not that of a list"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, 0).map_err(Error::io(doing()))?;
    let (payload, crc) = bytes.split_at(bytes.len() - 4);
    if crc != crc32fast::hash(payload).to_le_bytes() {
        return Err(damaged("its CRC does not match"));
    }
    Manifest::decode(payload).map_err(|_| damaged("its list of segments does not follow the format"))
}
