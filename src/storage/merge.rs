//! Merge: rewrites what is still needed of some files into new data files, so that the rest can be given up (Bitcask's merge; here the
//! inputs are files whose hints say what took effect, and nothing is replayed). Works in the background on files that nobody changes.
//! It never removes a file: its inputs go when the manifest has dropped them.
//!
//! Of each key the newest record among the inputs is looked at, and it is left out in two cases only:
//!
//! * A newer record of the key stands in another file that has a hint. One in the part of the log that is replayed at a start is not
//!   enough: conditions there are decided against the state that the hinted files make together.
//! * It deletes the key, and no other file that has left the log holds an older record of it. The hinted part of the log cannot: all its
//!   entries are newer than what has left it.

use super::aside;
use super::data_file::{self, DataFile, DataWriter, Owner};
use super::hint::{self, Hint, HintKey};
use super::location::Location;
use super::preparer::{PrepareError, is_shortage};
use super::record;
use super::reserve::Reserve;
use super::retire::Discarded;
use super::scan::Window;
use super::segment::{Segment, data_name, file_name};
use super::store::{Store, value_in};
use crate::bugbank::planted;
use crate::error::{Error, Result};
use std::io;
use std::sync::Arc;

/// Hints of inputs are held in memory up to here, and of two inputs at least: fewer than two could go on for ever with nothing gained.
const HINT_BYTES_AT_ONCE: usize = 64 << 20;
/// Keys that are judged under one lock of the index.
const JUDGED_AT_ONCE: usize = 256;

/// A file that has left the log: a retired segment or a data file.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) segment: Arc<Segment>,
    /// The lowest index of its records.
    pub(super) first: u64,
    /// The highest.
    pub(super) last: u64,
    /// Where it ends.
    pub(super) end: u64,
    /// Bytes of records that a merge has kept although they delete a key.
    pub(super) deletions: u64,
    /// For the output of a merge: hints covered the log up to here, and what was newer has kept records in it. Merging it again before
    /// hints have moved on would change nothing.
    pub(super) hinted: u64,
}

impl File {
    /// Reads what its hint says. That of a data file can be made again from the file; that of a segment cannot.
    pub(super) fn hint(&self, disk: &dyn super::disk::Disk) -> Result<Hint> {
        let segment = &self.segment;
        let reason = match hint::read(disk, segment.header())? {
            Ok(hint) if hint.log.end == self.end => return Ok(hint),
            Ok(hint) => format!("its hint ends at {}, the manifest at {}", hint.log.end, self.end),
            Err(reason) => reason,
        };
        if segment.header().data {
            log::warn!("{} is read in full: {reason}", segment.name());
            return data_file::scan(segment);
        }
        let needed = "conditions cannot be decided again, because what they were decided against is gone";
        Err(super::corrupt(&hint::hint_name(segment.id()), 0, format!("{reason}; {needed}")))
    }

    /// Reads and checks what a start and a merge rely on: the hint, and every record that it names.
    pub(super) fn check(&self, disk: &dyn super::disk::Disk) -> Result<()> {
        if self.segment.header().data {
            data_file::scan(&self.segment)?;
        }
        let hint = self.hint(disk)?;
        let mut keys: Vec<HintKey<'_>> = hint.keys().collect();
        keys.sort_unstable_by_key(|key| key.offset);
        let (mut window, mut value) = (Window::new(&self.segment), Vec::new());
        for found in &keys {
            value.clear();
            read(&self.segment, &mut window, found, &mut value)?;
        }
        Ok(())
    }
}

/// Files to be merged; see [`super::log::Log::next_merge`].
#[derive(Debug)]
pub struct MergeJob {
    pub(super) inputs: Vec<File>,
    /// All other files that have left the log.
    pub(super) others: Vec<File>,
    /// Hints cover the log up to this entry.
    pub(super) hinted: u64,
    /// An output takes no further record beyond this size.
    pub(super) output_bytes: u64,
}

impl MergeJob {
    /// The same with the first `count` inputs only.
    fn cut_to(&self, count: usize) -> MergeJob {
        let (inputs, left) = self.inputs.split_at(count);
        let others = self.others.iter().chain(left).cloned().collect();
        MergeJob { inputs: inputs.to_vec(), others, hinted: self.hinted, output_bytes: self.output_bytes }
    }

    /// The inputs: how many, and their length in bytes.
    pub fn size(&self) -> (usize, u64) {
        (self.inputs.len(), self.inputs.iter().map(|input| input.end).sum())
    }
}

/// A merge whose outputs are durable, to be named in the manifest. The index points to them already.
#[derive(Debug)]
pub struct Merged {
    pub(super) inputs: Vec<u32>,
    pub(super) outputs: Vec<File>,
    pub(super) hinted: u64,
}

impl Merged {
    /// Bytes that were written.
    pub fn bytes(&self) -> u64 {
        self.outputs.iter().map(|output| output.end).sum()
    }
}

/// Merges files.
#[derive(Debug)]
pub struct Merger {
    pub(super) owner: Owner,
    pub(super) store: Arc<Store>,
    pub(super) reserve: Arc<Reserve>,
}

/// A record that is kept.
struct Kept<'a> {
    /// Position among the inputs.
    input: usize,
    found: HintKey<'a>,
}

/// Where values went: each key with the segment and offset of its old record, and its new place.
type Moves<'a> = Vec<(&'a [u8], (u32, u32), Location)>;

impl Merger {
    /// Merges: when it returns, the outputs are durable and the index points to them. `pace` is told how many bytes were read or written
    /// since the last call, and may wait.
    pub fn merge(&self, job: &MergeJob, pace: &mut dyn FnMut(u64)) -> std::result::Result<Merged, PrepareError> {
        let hints = self.hints(&job.inputs, pace)?;
        let job = &job.cut_to(hints.len());
        let kept = self.kept(job, &hints, pace)?;
        let copied = self.reserve.with_room(|| {
            let (mut outputs, mut moves) = (Vec::new(), Moves::new());
            match self.copy(job, &kept, &mut outputs, &mut moves, pace) {
                Ok(Ok(())) => Ok(Ok((outputs, moves))),
                Ok(Err(error)) => Ok(Err(self.give_up(&outputs, error))),
                Err(error) => Err(self.give_up(&outputs, error)),
            }
        });
        let (outputs, moves) = match copied {
            Ok(Ok(copied)) => copied,
            Ok(Err(error)) => return Err(error.into()),
            Err(error) => {
                let doing = format!("write a merged file in {}", self.owner.disk.path());
                let shortage = is_shortage(&error);
                let full = || PrepareError::Full(format!("cannot {doing}: {error}"));
                return Err(if shortage { full() } else { PrepareError::Fatal(Error::Io { doing, source: error }) });
            }
        };
        outputs.iter().for_each(|output| self.store.register_segment(Arc::clone(&output.segment)));
        self.store.relocate(&moves);
        let inputs = job.inputs.iter().map(|input| input.segment.id()).collect();
        let outputs = outputs.into_iter().map(|output| File { hinted: job.hinted, ..File::from(output) }).collect();
        Ok(Merged { inputs, outputs, hinted: job.hinted })
    }

    /// Removes what was made in vain, and passes the reason on.
    fn give_up<E>(&self, outputs: &[DataFile], error: E) -> E {
        outputs.iter().for_each(|output| data_file::remove_made(&*self.owner.disk, output.segment.id()));
        error
    }

    /// Removes files that the manifest has dropped, for good. Returns their numbers, which the manifest may then forget.
    pub fn discard(&self, files: Discarded) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        drop(files.states);
        for segment in files.files {
            self.remove(segment.name())?;
            self.remove(&hint::hint_name(segment.id()))?;
            ids.push(segment.id());
        }
        if !files.put_aside.is_empty() {
            self.remove(aside::NAME)?;
        }
        for id in files.put_aside {
            for name in [file_name(id), data_name(id), hint::hint_name(id)] {
                self.remove(&name)?;
            }
            ids.push(id);
        }
        self.owner.disk.sync_directory().map_err(Error::io(format!("sync directory {}", self.owner.disk.path())))?;
        Ok(ids)
    }

    fn remove(&self, name: &str) -> Result<()> {
        match self.owner.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { doing: format!("remove {}/{name}", self.owner.disk.path()), source: error })
            }
            _ => Ok(()),
        }
    }

    /// The hints of the first of these files, as many as memory is given to.
    fn hints(&self, files: &[File], pace: &mut dyn FnMut(u64)) -> Result<Vec<(u32, Hint)>> {
        let (mut hints, mut bytes) = (Vec::new(), 0);
        for (position, file) in files.iter().enumerate() {
            if hints.len() >= 2 && bytes > HINT_BYTES_AT_ONCE {
                break;
            }
            let hint = file.hint(&*self.owner.disk)?;
            pace(hint.bytes() as u64);
            bytes += hint.bytes();
            hints.push((position as u32, hint));
        }
        Ok(hints)
    }

    /// What must be kept, in the order in which it stands in the inputs.
    fn kept<'a>(&self, job: &MergeJob, hints: &'a [(u32, Hint)], pace: &mut dyn FnMut(u64)) -> Result<Vec<Kept<'a>>> {
        let mut kept = Vec::new();
        let mut newest = hint::newest(hints);
        loop {
            let (inputs, keys): (Vec<u32>, Vec<HintKey<'_>>) = newest.by_ref().take(JUDGED_AT_ONCE).unzip();
            if keys.is_empty() {
                break;
            }
            let keeps = self.store.keeps(&keys, job.hinted);
            let judged = inputs.into_iter().zip(keys).zip(keeps).filter(|(_, keep)| *keep);
            kept.extend(judged.map(|((input, found), _)| Kept { input: input as usize, found }));
        }
        self.leave_out_deletions(job, &mut kept, pace)?;
        kept.sort_unstable_by_key(|kept| (kept.input, kept.found.offset));
        Ok(kept)
    }

    /// Of the records that delete, only those stay behind which another file holds an older record of the key. `kept` is in the order of
    /// the keys.
    fn leave_out_deletions(&self, job: &MergeJob, kept: &mut Vec<Kept<'_>>, pace: &mut dyn FnMut(u64)) -> Result<()> {
        let deletions: Vec<HintKey<'_>> = kept.iter().map(|kept| kept.found).filter(|found| found.value_bytes.is_none()).collect();
        let Some(newest) = deletions.iter().map(|found| found.version).max() else { return Ok(()) };
        let mut needed = vec![false; deletions.len()];
        for other in job.others.iter().filter(|other| other.first < newest && !planted(62)) {
            let hint = other.hint(&*self.owner.disk)?;
            pace(hint.bytes() as u64);
            let mut at = 0;
            for older in hint.keys() {
                at += deletions[at..].partition_point(|deletion| deletion.key < older.key);
                let Some(deletion) = deletions.get(at) else { break };
                needed[at] |= deletion.key == older.key && older.version < deletion.version;
            }
        }
        let mut needed = needed.into_iter();
        kept.retain(|kept| kept.found.value_bytes.is_some() || needed.next().unwrap_or(true));
        Ok(())
    }

    /// Writes what is kept, file by file.
    fn copy<'a>(
        &self,
        job: &MergeJob,
        kept: &[Kept<'a>],
        outputs: &mut Vec<DataFile>,
        moves: &mut Moves<'a>,
        pace: &mut dyn FnMut(u64),
    ) -> io::Result<Result<()>> {
        let mut writer: Option<DataWriter> = None;
        let mut value = Vec::new();
        let mut pending: Moves<'a> = Moves::new();
        for of_input in kept.chunk_by(|a, b| a.input == b.input) {
            let segment = &job.inputs[of_input[0].input].segment;
            let mut window = Window::new(segment);
            for Kept { found, .. } in of_input {
                let bytes = data_file::record_bytes(found.key.len(), found.value_bytes.unwrap_or(0) as usize);
                if writer.as_ref().is_some_and(|writer| !writer.takes(bytes, job.output_bytes)) {
                    match finish(&mut writer, outputs, &mut pending, moves) {
                        Ok(Ok(())) => {}
                        failed => return failed,
                    }
                }
                value.clear();
                let id = match read(segment, &mut window, found, &mut value) {
                    Ok(id) => id,
                    Err(error) => return Ok(Err(abandon(writer, error))),
                };
                let begun = match writer.take() {
                    Some(writer) => Ok(writer),
                    None => DataWriter::begin(&self.owner),
                };
                let begun = writer.insert(begun?);
                let kept = found.value_bytes.map(|_| &value[..]);
                match begun.append(id, found.key, kept) {
                    Ok(offset) if kept.is_some() => {
                        let to = Location { segment: 0, offset, bytes: bytes as u32 };
                        pending.push((found.key, (segment.id(), found.offset), to));
                    }
                    Ok(_) => {}
                    Err(error) => return Err(abandon(writer, error)),
                }
                pace(2 * bytes);
            }
        }
        finish(&mut writer, outputs, &mut pending, moves)
    }
}

/// Removes what a writer has begun, and passes the reason on.
fn abandon<E>(writer: Option<DataWriter>, error: E) -> E {
    if let Some(writer) = writer {
        writer.abandon();
    }
    error
}

/// Ends the output being written, if there is one. What went there has its place now.
fn finish<'a>(
    writer: &mut Option<DataWriter>,
    outputs: &mut Vec<DataFile>,
    pending: &mut Moves<'a>,
    moves: &mut Moves<'a>,
) -> io::Result<Result<()>> {
    let Some(writer) = writer.take() else { return Ok(Ok(())) };
    let output = match writer.finish()? {
        Ok(output) => output,
        Err(error) => return Ok(Err(error)),
    };
    let id = output.segment.id();
    moves.extend(pending.drain(..).map(|(key, from, to)| (key, from, Location { segment: id, ..to })));
    outputs.push(output);
    Ok(Ok(()))
}

/// Reads a record that a hint names, and checks it. Its value goes to `value`.
pub(super) fn read(segment: &Segment, window: &mut Window<'_>, found: &HintKey<'_>, value: &mut Vec<u8>) -> Result<crate::raft::EntryId> {
    let corrupt = |reason: String| super::corrupt(segment.name(), u64::from(found.offset), reason);
    let bytes = window.get(u64::from(found.offset), u64::from(found.record_bytes))?;
    match found.value_bytes {
        Some(_) => value.extend_from_slice(value_in(bytes, found.version, found.key).map_err(corrupt)?),
        None => {
            let (record, _) =
                record::parse(bytes).map_err(|bad| corrupt(format!("version {} should stand here, found {bad:?}", found.version)))?;
            if record.id.index != found.version {
                return Err(corrupt(format!("version {} should stand here, found entry {}", found.version, record.id)));
            }
        }
    }
    Ok(record::view(bytes).0.id)
}

impl From<DataFile> for File {
    fn from(file: DataFile) -> File {
        let DataFile { segment, first, last, deletions, .. } = file;
        let end = segment.length();
        File { segment, first, last, end, deletions, hinted: 0 }
    }
}
