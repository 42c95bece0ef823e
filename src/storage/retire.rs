//! How entries leave the log: hinted segments at its front are retired where they lie and become files that only hold values; which of
//! those are merged is picked by how much of them is still needed. Part of the log; pure memory, like all of it.

use super::log::Log;
use super::merge::{File, MergeJob, Merged};
use super::segment::{HEADER_BLOCK, Segment};
use super::snapshot::OldState;
use super::state_hash::StateHash;
use crate::raft::EntryId;
use std::sync::Arc;

/// A file is merged when at least this part of it is not needed: in percent.
const GARBAGE_PERCENT: u64 = 40;
/// Most inputs of a merge.
const INPUTS_MAX: usize = 32;
/// So many files that are each smaller than an eighth of an output are merged into one.
const SMALL_FILES: usize = 8;
/// What a merge may write is halved so often at most: then it takes one file.
const SHORT_MAX: u32 = 16;
/// Records that delete are looked at again when so many files have come or gone since the last time.
const CHANGES_BETWEEN: u64 = 4;

/// Segments that leave the log, oldest first; the log then begins behind `base`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    pub(super) ids: Vec<u32>,
    pub(super) base: EntryId,
    /// The hash of the state behind it.
    pub(super) base_hash: StateHash,
}

impl Retirement {
    /// The last entry that leaves.
    pub fn last(&self) -> u64 {
        self.base.index
    }
}

/// What nobody needs any more, to be closed, removed and given back where somebody may wait for it.
#[derive(Debug, Default)]
pub struct Discarded {
    pub(super) files: Vec<Arc<Segment>>,
    pub(super) states: Vec<OldState>,
    /// Numbers of files that were put aside because of damage, and that nobody has open.
    pub(super) put_aside: Vec<u32>,
}

impl Discarded {
    /// What was put aside because of damage and is not needed any more, by its numbers; and the list of it.
    pub fn put_aside(ids: Vec<u32>) -> Discarded {
        Discarded { put_aside: ids, ..Discarded::default() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.states.is_empty() && self.put_aside.is_empty()
    }

    /// Adds others.
    pub fn add(&mut self, others: Discarded) {
        self.files.extend(others.files);
        self.states.extend(others.states);
        self.put_aside.extend(others.put_aside);
    }
}

/// What is known for picking files to merge.
#[derive(Debug, Default)]
pub(super) struct MergeState {
    /// Counts files that came or went.
    changes: u64,
    /// What it was when records that delete were last looked at.
    looked: u64,
    /// How often in a row there was no room for what a merge would have written: each time less is picked.
    short: u32,
}

impl Log {
    /// Length of the log's segments in bytes, without prepared ones.
    pub fn log_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.segment.length()).sum()
    }

    /// About what a segment of the usual size takes, in bytes.
    pub fn usual_bytes(&self) -> u64 {
        self.usual_capacity
    }

    /// The oldest segments, if they may leave the log: they have hints, at least `retain` bytes of log stay, and so does every entry from
    /// `needed` on. A membership stays in the log, and so does the last segment.
    pub fn next_retirement(&self, retain: u64, needed: u64) -> Option<Retirement> {
        let keep_from = self.configs.first().map_or(needed, |(index, _)| needed.min(*index));
        let mut left = self.log_bytes();
        let mut retirement: Option<Retirement> = None;
        for (holder, _) in self.segments.iter().zip(self.segments.iter().skip(1)) {
            left -= holder.segment.length();
            let last = holder.next() - 1;
            if !holder.hinted || left < retain || last >= keep_from {
                break;
            }
            let base = EntryId { term: self.term_of(last), index: last };
            let retiring = retirement.get_or_insert_with(|| Retirement { ids: Vec::new(), base, base_hash: holder.hash });
            retiring.ids.push(holder.segment.id());
            (retiring.base, retiring.base_hash) = (base, holder.hash);
        }
        retirement
    }

    pub(super) fn term_of(&self, index: u64) -> u64 {
        let after = self.terms.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).map_or(self.base.term, |run| self.terms[run].1)
    }

    pub(super) fn retired(&mut self, retirement: &Retirement) {
        for id in &retirement.ids {
            let holder = self.segments.pop_front().filter(|holder| holder.segment.id() == *id);
            let holder = holder.unwrap_or_else(|| panic!("{retirement:?} is not the front of the log"));
            let (first, last) = (holder.first, holder.next() - 1);
            let file = File { segment: holder.segment, first, last, end: holder.end, deletions: 0, hinted: 0 };
            self.files.insert(*id, file);
        }
        self.merging.changes += retirement.ids.len() as u64;
        (self.base, self.base_hash) = (retirement.base, retirement.base_hash);
        let next = retirement.base.index + 1;
        let before = self.terms.partition_point(|(first, _)| *first <= next).saturating_sub(1);
        self.terms.drain(..before);
        if next > self.last_index() {
            self.terms.clear();
        } else if let Some((first, _)) = self.terms.first_mut() {
            *first = next.max(*first);
        }
    }

    pub(super) fn merged(&mut self, merged: &Merged) {
        for id in &merged.inputs {
            self.leaving.extend(self.files.remove(id).map(|file| file.segment).inspect(|segment| segment.give_up()));
            self.store.forget_segment(*id);
        }
        for output in &merged.outputs {
            self.files.insert(output.segment.id(), output.clone());
        }
        self.merging.changes += 1;
        self.merging.short = self.merging.short.saturating_sub(1);
    }

    /// Files that the manifest has dropped and nobody reads any more: they may be removed. Each is told once.
    pub fn take_discardable(&mut self) -> Discarded {
        // A snapshot that is being read holds its files, whose hints would be gone with them.
        let files = self.leaving.extract_if(.., |segment| Arc::strong_count(segment) == 1).collect();
        Discarded { files, ..Discarded::default() }
    }

    /// Bytes of files outside the log, and what a merge of all of them would leave of it.
    pub fn file_bytes(&self) -> (u64, u64) {
        let live = self.store.live_of(self.files.keys().copied());
        (self.files.values().map(|file| file.segment.length()).sum(), live.iter().sum())
    }

    /// The last merge that was picked has found no room for its outputs: the next ones are to write less, until there is more again.
    pub fn merge_had_no_room(&mut self) {
        self.merging.short = (self.merging.short + 1).min(SHORT_MAX);
    }

    /// Files that should be merged now, if there are any: those of which little is needed, or many small ones, or those that consist of
    /// deletions which nothing may need any more. One merge at a time.
    pub fn next_merge(&mut self) -> Option<MergeJob> {
        let output_bytes = 2 * self.usual_capacity;
        let (hinted, live) = (self.hinted(), self.store.live_of(self.files.keys().copied()));
        let ready = |(file, _): &(&File, u64)| file.hinted < hinted || file.hinted == 0;
        let files: Vec<(&File, u64)> = self.files.values().zip(live).filter(ready).collect();
        let changed = self.merging.changes >= self.merging.looked + CHANGES_BETWEEN;
        let (deletions, needed) =
            files.iter().fold((0, 0), |(deletions, needed), (file, live)| (deletions + file.deletions, needed + live));
        let deleted = changed && deletions > output_bytes.max(needed / 4);
        let budget = output_bytes >> self.merging.short;
        let mut picked = pick_by_garbage(&files, budget, deleted);
        if picked.is_empty() {
            picked = pick_small(&files, output_bytes, budget);
        } else if deleted {
            self.merging.looked = self.merging.changes;
        }
        if picked.is_empty() {
            return None;
        }
        let (inputs, others) = self.files.values().cloned().partition(|file| picked.contains(&file.segment.id()));
        Some(MergeJob { inputs, others, hinted, output_bytes })
    }
}

/// The files with the greatest part of garbage, as many as leave about `budget` bytes.
fn pick_by_garbage(files: &[(&File, u64)], budget: u64, deletions_too: bool) -> Vec<u32> {
    let mut picks: Vec<(u64, u64, u32)> = Vec::new();
    for (file, live) in files {
        let needed = live + if deletions_too { 0 } else { file.deletions };
        let body = (file.segment.length() - HEADER_BLOCK).max(1);
        let percent = body.saturating_sub(needed) * 100 / body;
        if percent >= GARBAGE_PERCENT {
            picks.push((percent, needed, file.segment.id()));
        }
    }
    picks.sort_unstable_by(|a, b| b.cmp(a));
    take_within(picks.into_iter().map(|(_, needed, id)| (needed, id)), budget)
}

fn pick_small(files: &[(&File, u64)], output_bytes: u64, budget: u64) -> Vec<u32> {
    let mut small: Vec<(u64, u32)> = Vec::new();
    for (file, live) in files.iter().filter(|(file, _)| file.segment.length() < output_bytes / 8) {
        small.push((live + file.deletions, file.segment.id()));
    }
    if small.len() < SMALL_FILES {
        return Vec::new();
    }
    small.sort_unstable();
    take_within(small.into_iter(), budget)
}

/// The first picks that leave no more than `budget` bytes between them, and at least one.
fn take_within(picks: impl Iterator<Item = (u64, u32)>, budget: u64) -> Vec<u32> {
    let mut left = budget;
    let mut ids = Vec::new();
    for (needed, id) in picks.take(INPUTS_MAX) {
        if needed > left && !ids.is_empty() {
            break;
        }
        left = left.saturating_sub(needed);
        ids.push(id);
    }
    ids
}
