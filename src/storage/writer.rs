//! The log writer: carries out one job at a time, each with one write and one sync (two for a manifest), and reports it. It owns the
//! hard state, the manifest and the write position of the active segment. It decides nothing about the log: places, order and
//! limits come from the log, and no other thread may write any of these files.

use super::batch::{self, BatchHeader};
use super::disk::Disk;
use super::hinter::Hinted;
use super::manifest::{self, Listed, Manifest, State};
use super::merge::{File, Merged};
use super::record;
use super::retire::Retirement;
use super::segment::{Chunk, Segment, file_name};
use super::slots::SlotFile;
use super::snapshot::Installation;
use crate::bugbank::planted;
use crate::error::{Error, Result};
use crate::raft::{EntryId, HardState, NodeId};
use std::sync::Arc;

/// Most payload bytes of the hard state: with the slot's header it stays within one sector.
pub(super) const HARD_STATE_CAPACITY: usize = 64;
/// The hard state's file.
pub(super) const HARD_STATE_NAME: &str = "hardstate";

/// One unit of work. Jobs of the log come from [`super::log::Log::next_job`]; the others are made by the host.
#[derive(Debug)]
pub enum Job {
    /// Make term and vote durable.
    HardState {
        /// Comes back in the completion.
        ticket: u64,
        /// What to remember.
        state: HardState,
    },
    /// Write and sync records.
    Batch(Batch),
    /// End segments in the manifest.
    Seal(Seal),
    /// List a prepared segment in the manifest, so that batches may go there.
    List(Arc<Segment>),
    /// Name a hint file in the manifest, so that a start believes it.
    Hint(Hinted),
    /// Take segments out of the log; see [`super::log::Log::next_retirement`].
    Retire(Retirement),
    /// Name the outputs of a merge in the manifest, and its inputs no longer.
    Merge(Merged),
    /// Put a received snapshot in the place of everything.
    Install(Installation),
    /// Nothing: the thread that runs jobs is to end, though others may still have some.
    Stop,
    /// Damage was found: the next start is not to go on with these files.
    Distrust,
    /// The log has reached the floor: what was put aside is not needed any more.
    Heal,
    /// Files that the manifest no longer needs have been removed for good.
    Forget(Vec<u32>),
}

/// What a job did; everything it names is durable.
#[derive(Debug)]
pub enum Completion {
    /// Term and vote are durable.
    HardState {
        /// As in the job.
        ticket: u64,
    },
    /// The batch's records are durable.
    Batch {
        /// Number of the job.
        sequence: u64,
    },
    /// The segments are ended.
    Sealed {
        /// Number of the job.
        sequence: u64,
        /// The segments: the number of each, and its last entry.
        ends: Vec<(u32, u64)>,
        /// Number of the last batch written so far.
        last_batch: u64,
    },
    /// The segment's hint is part of the state.
    Hinted(Hinted),
    /// The segments are no longer part of the log.
    Retired(Retirement),
    /// The outputs are part of what the state consists of, the inputs are not.
    Merged(Merged),
    /// The snapshot is what the state consists of.
    Installed,
    /// The next start will not go on with these files.
    Distrusted,
    /// There is no floor any more, and nothing is put aside: these files, by their numbers, may be removed.
    Healed(Vec<u32>),
    /// Taken note of.
    Forgotten,
    /// Nothing was done.
    Stopped,
    /// The segment may be given to the log.
    Listed(Arc<Segment>),
    /// A segment could not be listed and has been removed again; text for a person. Nothing was lost, and it can be tried later.
    NoRoom(String),
}

/// Records for one write, in their final place.
#[derive(Debug)]
pub struct Batch {
    pub(super) sequence: u64,
    pub(super) segment: Arc<Segment>,
    /// Where its header goes.
    pub(super) offset: u64,
    pub(super) first: u64,
    /// The last entry; in a closing batch the one before `first`.
    pub(super) last: EntryId,
    pub(super) commit: u64,
    /// Contiguous from behind the header on.
    pub(super) chunks: Vec<Arc<Chunk>>,
}

impl Batch {
    /// How many bytes of records it writes.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes().len() as u64).sum()
    }

    /// The entries it writes, in log order.
    pub fn entries(&self) -> Vec<EntryId> {
        let mut entries = Vec::new();
        for chunk in &self.chunks {
            let mut rest = chunk.bytes();
            while let Ok((bytes, id)) = record::parse_header(rest) {
                entries.push(id);
                rest = &rest[bytes..];
            }
        }
        entries
    }
}

/// Changes to the manifest, made in one step.
#[derive(Debug)]
pub struct Seal {
    pub(super) sequence: u64,
    pub(super) edits: Vec<Edit>,
    /// Applied and durable; remembered beside the list.
    pub(super) applied: u64,
}

/// How one segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// At `offset`, with the entries `first ..= last` before it.
    Seal { id: u32, first: u64, last: u64, offset: u64 },
    /// Without any entry.
    Drop { id: u32 },
}

/// Where the chain of batches stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    /// Number of the last batch written.
    pub(super) sequence: u64,
    /// The segment it is in, and the CRC of its header.
    pub(super) previous: Option<(u32, u32)>,
}

/// Owner of everything that is written in the course of normal work.
#[derive(Debug)]
pub struct LogWriter {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) cluster: u128,
    pub(super) boot: u64,
    pub(super) hard_state: SlotFile,
    pub(super) manifest_file: SlotFile,
    pub(super) manifest: Manifest,
    pub(super) chain: Chain,
}

impl LogWriter {
    /// Carries out a job. An error is fatal: memory and disk no longer agree, the process must end, and no sync may be tried again.
    pub fn run(&mut self, job: Job) -> Result<Completion> {
        match job {
            Job::HardState { ticket, state } => {
                self.hard_state.write(&encode_hard_state(&state))?;
                Ok(Completion::HardState { ticket })
            }
            Job::Batch(batch) => {
                self.write_batch(&batch)?;
                Ok(Completion::Batch { sequence: batch.sequence })
            }
            Job::Seal(seal) => {
                self.edit(&seal.edits, seal.applied)?;
                self.give_back(&seal.edits);
                let end_of = |edit: &Edit| if let Edit::Seal { id, last, .. } = *edit { Some((id, last)) } else { None };
                let ends = seal.edits.iter().filter_map(end_of).collect();
                Ok(Completion::Sealed { sequence: seal.sequence, ends, last_batch: self.chain.sequence })
            }
            Job::List(segment) => self.list(segment),
            Job::Hint(hinted) => {
                self.hint(hinted)?;
                Ok(Completion::Hinted(hinted))
            }
            Job::Retire(retirement) => {
                self.retire(&retirement)?;
                Ok(Completion::Retired(retirement))
            }
            Job::Merge(merged) => {
                self.merge(&merged)?;
                Ok(Completion::Merged(merged))
            }
            Job::Install(installation) => {
                self.install(&installation)?;
                Ok(Completion::Installed)
            }
            Job::Stop => Ok(Completion::Stopped),
            Job::Distrust => {
                // Whoever meets the damage says so, again and again; it is remembered once.
                if !std::mem::replace(&mut self.manifest.distrusted, true) {
                    self.write_manifest()?;
                }
                Ok(Completion::Distrusted)
            }
            Job::Heal => Ok(Completion::Healed(self.heal()?)),
            Job::Forget(ids) => {
                self.manifest.segments.retain(|listed| !ids.contains(&listed.id));
                Ok(Completion::Forgotten)
            }
        }
    }

    /// From here on a start believes the hint instead of the segment, so it must describe exactly what the manifest says is there.
    fn hint(&mut self, hinted: Hinted) -> Result<()> {
        let listed = self.manifest.find(hinted.id);
        match listed.state {
            State::Sealed { first, last, offset } if (last, offset) == (hinted.last, hinted.end) => {
                listed.state = State::Hinted { first, last, offset };
            }
            _ => panic!("{hinted:?} is not the end of {listed:?}"),
        }
        self.write_manifest()
    }

    /// From here on the log begins behind these segments.
    fn retire(&mut self, retirement: &Retirement) -> Result<()> {
        for id in &retirement.ids {
            let listed = self.manifest.find(*id);
            let State::Hinted { first, last, offset } = listed.state else { panic!("{listed:?} leaves the log without a hint") };
            listed.state = State::Retired { first, last, offset };
        }
        (self.manifest.base, self.manifest.base_hash) = (retirement.base, retirement.base_hash);
        self.write_manifest()
    }

    /// From here on a start reads the outputs instead of the inputs. What they leave out was judged while further segments got hints, and
    /// records of keys that are deleted in these may have been left out, too: all hints of now are needed from here on.
    fn merge(&mut self, merged: &Merged) -> Result<()> {
        self.replace(&merged.inputs, &merged.outputs)?;
        self.manifest.decided = self.manifest.decided.max(merged.hinted).max(self.manifest.hinted());
        self.write_manifest()
    }

    /// From here on a start reads these files and nothing else.
    fn install(&mut self, installation: &Installation) -> Result<()> {
        self.replace(&installation.dropped, &installation.files)?;
        (self.manifest.base, self.manifest.base_hash) = (installation.last, installation.hash);
        self.manifest.applied = self.manifest.applied.max(installation.last.index);
        self.write_manifest()
    }

    /// Gives up what was put aside. The files, which are many, are removed elsewhere.
    fn heal(&mut self) -> Result<Vec<u32>> {
        let aside: Vec<u32> =
            self.manifest.segments.iter().filter(|listed| listed.state == State::Quarantined).map(|listed| listed.id).collect();
        self.manifest.floor = EntryId::default();
        aside.iter().for_each(|id| self.manifest.find(*id).state = State::Dropped);
        self.write_manifest()?;
        Ok(aside)
    }

    /// Drops some files and lists data files.
    fn replace(&mut self, dropped: &[u32], listed: &[File]) -> Result<()> {
        for id in dropped {
            self.manifest.find(*id).state = State::Dropped;
        }
        if !self.manifest.fits(listed.len()) {
            let limit = format!("{}/{} is full: {} files", self.disk.path(), manifest::NAME, self.manifest.segments.len());
            return Err(Error::Directory(format!("{limit}; start with a larger --segment-bytes")));
        }
        for output in listed {
            let header = output.segment.header();
            let state = State::Data { first: output.first, last: output.last, offset: output.end };
            self.manifest.last_id = self.manifest.last_id.max(header.id);
            self.manifest.segments.push(Listed { id: header.id, node: header.node, length: header.length, state });
        }
        Ok(())
    }

    fn write_batch(&mut self, batch: &Batch) -> Result<()> {
        let segment = &batch.segment;
        let previous = match self.chain.previous {
            Some((id, crc)) if id == segment.id() => crc,
            _ => segment.header_crc(),
        };
        assert!(segment.written() <= batch.offset, "{segment:?} is written beyond the batch at {}", batch.offset);
        let mut body = 0;
        let mut crc = crc32fast::Hasher::new();
        for chunk in &batch.chunks {
            assert_eq!(chunk.offset(), batch.offset + batch::HEADER_BYTES + body, "chunks of {batch:?} are contiguous");
            crc.update(chunk.bytes());
            body += chunk.bytes().len() as u64;
        }
        let header = BatchHeader {
            cluster: self.cluster,
            segment: segment.id(),
            offset: batch.offset as u32,
            sequence: self.chain.sequence + 1,
            previous,
            body_crc: crc.finalize(),
            body: body as u32,
            first_index: batch.first,
            last_index: batch.last.index,
            last_term: batch.last.term,
            commit: batch.commit,
            boot: self.boot,
        };
        let (front, header_crc) = header.encode(segment.seed());
        let end = batch.offset + batch::HEADER_BYTES + body;
        let (padding, padded) = batch::padding(segment.seed(), end);
        let mut parts: Vec<&[u8]> = Vec::with_capacity(batch.chunks.len() + 2);
        parts.push(&front);
        parts.extend(batch.chunks.iter().map(|chunk| chunk.bytes()));
        parts.push(&padding[..padded]);
        let doing = |what: &str| format!("{what} {} at {}", segment.name(), batch.offset);
        segment.file().write_at(&parts, batch.offset).map_err(Error::io(doing("write")))?;
        segment.publish_written(batch::align(end));
        let synced = segment.file().sync();
        let synced = if planted(42) { synced.or_else(|_| segment.file().sync()) } else { synced };
        synced.map_err(Error::io(doing("sync")))?;
        self.chain = Chain { sequence: header.sequence, previous: Some((segment.id(), header_crc)) };
        Ok(())
    }

    /// Ends segments; also used by recovery, before there are jobs.
    pub(super) fn edit(&mut self, edits: &[Edit], applied: u64) -> Result<()> {
        for edit in edits {
            match *edit {
                Edit::Seal { id, first, last, offset } => self.manifest.find(id).state = State::Sealed { first, last, offset },
                Edit::Drop { id } => self.manifest.find(id).state = State::Dropped,
            }
        }
        self.manifest.applied = self.manifest.applied.max(applied);
        self.write_manifest()
    }

    /// Unlinks dropped segments. Whether that works, or survives, does not matter: the next start sweeps what is left of them.
    fn give_back(&self, edits: &[Edit]) {
        for edit in edits {
            if let Edit::Drop { id } = edit {
                let _ = self.disk.remove(&file_name(*id));
            }
        }
    }

    /// Writes the manifest as it is in memory.
    pub(super) fn write_manifest(&mut self) -> Result<()> {
        self.manifest_file.write(&self.manifest.encode())
    }

    fn list(&mut self, segment: Arc<Segment>) -> Result<Completion> {
        if !self.manifest.has_room() {
            let name = segment.name();
            let directory = self.disk.path();
            self.disk.remove(name).map_err(Error::io(format!("remove {directory}/{name}")))?;
            let limit = format!("{directory}/{} is full: {} segments", manifest::NAME, self.manifest.segments.len());
            return Ok(Completion::NoRoom(format!("{limit}; start with a larger --segment-bytes")));
        }
        let header = segment.header();
        self.manifest.last_id = self.manifest.last_id.max(header.id);
        self.manifest.segments.push(Listed { id: header.id, node: header.node, length: header.length, state: State::Open });
        self.write_manifest()?;
        Ok(Completion::Listed(segment))
    }
}

/// The payload of the hard state's slot file.
pub(super) fn encode_hard_state(state: &HardState) -> Vec<u8> {
    let mut out = 1u32.to_le_bytes().to_vec();
    out.extend_from_slice(&state.vote.map_or(0, |node| node.0).to_le_bytes());
    out.extend_from_slice(&state.term.to_le_bytes());
    out
}

/// Reads that payload back.
pub(super) fn decode_hard_state(payload: &[u8]) -> Result<HardState> {
    let mut fields = super::bytes::Fields::new(payload);
    let version = fields.u32().unwrap_or(0);
    if version > 1 {
        return Err(super::newer(HARD_STATE_NAME, version, 1));
    }
    let state = (|| {
        let vote = fields.u32()?;
        let term = fields.number()?;
        (version == 1 && fields.is_empty()).then_some(HardState { term, vote: (vote != 0).then_some(NodeId(vote)) })
    })();
    state.ok_or_else(|| super::corrupt(HARD_STATE_NAME, 0, "term and vote do not follow the format"))
}
