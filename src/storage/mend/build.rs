//! Puts damaged segments together again, in new files beside the old ones: the same entries in batches of their own, and the same hint at
//! other offsets. Nothing that exists is changed. The numbers of the new files are listed first, as of segments that hold nothing, so that
//! whatever a crash leaves of them is removed; then the files are made; then one change of the manifest puts each in the place of the old
//! one.

use super::part::Part;
use super::{Entries, Survey, with_room};
use crate::error::{Error, Result};
use crate::raft::EntryId;
use crate::storage::batch::{self, BatchHeader, HEADER_BYTES};
use crate::storage::disk::DiskFile;
use crate::storage::hint::{self, HintKey, HintLog};
use crate::storage::manifest::{self, Listed, State};
use crate::storage::record;
use crate::storage::segment::{HEADER_BLOCK, SegmentHeader, data_id_of, file_name, id_of};
use crate::storage::stage;
use crate::storage::writer::LogWriter;
use crate::storage::{fill, segment};
use std::io;
use std::sync::Arc;

/// The fill behind the last batch is written in parts of this size.
const PART: usize = 1 << 20;

/// Where a batch goes and what it holds.
struct Batch {
    offset: u64,
    first: u64,
    last: u64,
    body: u64,
}

/// Where everything of a segment goes.
struct Layout {
    batches: Vec<Batch>,
    /// Where each entry's record starts.
    offsets: Vec<u32>,
    /// Where the last batch ends.
    end: u64,
}

/// Replaces all damaged parts, none of whose entries is missing any more.
pub(super) fn replace(writer: &mut LogWriter, node: u128, survey: &Survey, entries: &Entries<'_>) -> Result<()> {
    let damaged: Vec<&Part> = survey.parts.iter().filter(|part| part.damage.is_some()).collect();
    let (filled, empty): (Vec<&Part>, Vec<&Part>) = damaged.into_iter().partition(|part| !part.places.is_empty());
    for part in &filled {
        check_bodies(part, entries)?;
    }
    let first_id = reserve_numbers(writer, node, &filled)?;
    let mut last_batch = survey.last_batch;
    let mut made = Vec::new();
    for part in &survey.parts {
        let position = filled.iter().position(|other| other.listed.id == part.listed.id);
        last_batch = match position {
            None => last_batch.max(part.last_batch),
            Some(position) => {
                let id = first_id + position as u32;
                let make = || {
                    let made = make(writer, node, id, part, entries, last_batch);
                    if made.is_err() {
                        // In the way of another attempt; what cannot be removed now, the next start removes.
                        [file_name(id), hint::hint_name(id)].iter().for_each(|name| drop(writer.disk.remove(&format!("{name}.tmp"))));
                    }
                    made
                };
                let (listed, sequence) = with_room(&*writer.disk, make)?;
                made.push((part.listed.id, listed));
                sequence
            }
        };
    }
    let path = writer.disk.path();
    writer.disk.sync_directory().map_err(Error::io(format!("sync directory {path}")))?;
    for id in made.iter().map(|(old, _)| *old).chain(empty.iter().map(|part| part.listed.id)).chain(survey.useless.iter().copied()) {
        writer.manifest.find(id).state = State::Dropped;
    }
    for (_, listed) in made {
        *writer.manifest.find(listed.id) = listed;
    }
    writer.manifest.distrusted = false;
    writer.write_manifest()
}

/// Batches whose headers are whole say what their records were: what came from others must be the very same bytes.
fn check_bodies(part: &Part, entries: &Entries<'_>) -> Result<()> {
    for body in &part.bodies {
        let (mut crc, mut bytes) = (crc32fast::Hasher::new(), 0);
        let mut record = Vec::new();
        for index in body.first..=body.last {
            record.clear();
            entries.read(part, index, &mut record)?;
            crc.update(&record);
            bytes += record.len();
        }
        if (bytes, crc.finalize()) != (body.bytes as usize, body.crc) {
            let reason = format!("what the other nodes hold of entries {}..={} is not what was written here", body.first, body.last);
            return Err(part.corrupt(&reason));
        }
    }
    Ok(())
}

/// Lists numbers that no file has had, as many as there are parts.
fn reserve_numbers(writer: &mut LogWriter, node: u128, parts: &[&Part]) -> Result<u32> {
    let names = writer.disk.list().map_err(Error::io(format!("list {}", writer.disk.path())))?;
    let highest = names.iter().filter_map(|name| id_of(name).or(data_id_of(name))).fold(writer.manifest.last_id, u32::max);
    let first = highest + 1;
    if !writer.manifest.fits(parts.len()) || u64::from(first) + parts.len() as u64 > u64::from(manifest::ID_MAX) {
        return Err(Error::Directory(format!("{} has no room for {} more segments", manifest::NAME, parts.len())));
    }
    for (id, part) in (first..).zip(parts) {
        let Listed { length, .. } = part.listed;
        writer.manifest.segments.push(Listed { id, node, length, state: State::Dropped });
        writer.manifest.last_id = id;
    }
    if !parts.is_empty() {
        writer.write_manifest()?;
    }
    Ok(first)
}

/// Makes the new file of a part, and its hint if it had one; everything but their names is durable. Returns the entry of the manifest, and
/// the number of the last batch.
fn make(writer: &LogWriter, node: u128, id: u32, part: &Part, entries: &Entries<'_>, last_batch: u64) -> Result<(Listed, u64)> {
    let layout = lay_out(part, entries)?;
    let length = (layout.end + HEADER_BYTES).next_multiple_of(HEADER_BLOCK);
    let header = SegmentHeader { cluster: writer.cluster, node, id, length, seed: rand::random(), data: false };
    let temporary = format!("{}.tmp", file_name(id));
    let doing = || format!("make {}/{}", writer.disk.path(), file_name(id));
    let file = writer.disk.create(&temporary).map_err(Error::io(doing()))?;
    file.allocate(length).map_err(Error::io(doing()))?;
    let (block, crc) = header.encode();
    file.write_at(&[&block], 0).map_err(Error::io(doing()))?;
    let sequence = write_batches(writer, &file, &header, crc, part, entries, &layout, last_batch)?;
    write_fill(&*file, header.seed, layout.end, length).map_err(Error::io(doing()))?;
    file.sync().map_err(Error::io(doing()))?;
    writer.disk.rename(&temporary, &file_name(id)).map_err(Error::io(doing()))?;
    let (first, last, offset) = (part.first, part.next() - 1, layout.end);
    let state = match (&part.hint, part.listed.state) {
        (Some(old), State::Hinted { .. }) => {
            let log = HintLog { end: layout.end, last_batch: sequence, offsets: layout.offsets.clone(), ..old.log.clone() };
            let place = |key: HintKey<'_>| layout.offsets[(key.version - first) as usize];
            let keys: Vec<HintKey<'_>> = old.keys().map(|key| HintKey { offset: place(key), ..key }).collect();
            hint::write(&*writer.disk, id, &hint::encode(&header, &log, &keys)).map_err(Error::io(doing()))?;
            State::Hinted { first, last, offset }
        }
        _ => State::Sealed { first, last, offset },
    };
    Ok((Listed { id, node, length, state }, sequence))
}

/// The same records in as few batches as they fit. They were in at least as many before, so neither the file nor the numbers of the batches
/// grow.
fn lay_out(part: &Part, entries: &Entries<'_>) -> Result<Layout> {
    let mut layout = Layout { batches: Vec::new(), offsets: Vec::with_capacity(part.places.len()), end: HEADER_BLOCK };
    let mut record = Vec::new();
    for index in part.first..part.next() {
        record.clear();
        let bytes = entries.read(part, index, &mut record)? as u64;
        let fits = layout.batches.last().is_some_and(|batch| stage::takes(batch.offset, batch.body, bytes, segment::LENGTH_MAX));
        if !fits {
            layout.batches.push(Batch { offset: layout.end, first: index, last: index, body: 0 });
        }
        let batch = layout.batches.last_mut().expect("one was just pushed, or took the record");
        layout.offsets.push((batch.offset + HEADER_BYTES + batch.body) as u32);
        (batch.last, batch.body) = (index, batch.body + bytes);
        layout.end = batch::align(batch.offset + HEADER_BYTES + batch.body);
        if layout.end > segment::LENGTH_MAX - HEADER_BLOCK {
            return Err(part.corrupt("its entries do not fit a segment"));
        }
    }
    Ok(layout)
}

#[expect(clippy::too_many_arguments, reason = "all of it describes the one file that is written")]
fn write_batches(
    writer: &LogWriter,
    file: &Arc<dyn DiskFile>,
    segment: &SegmentHeader,
    block_crc: u32,
    part: &Part,
    entries: &Entries<'_>,
    layout: &Layout,
    last_batch: u64,
) -> Result<u64> {
    let (mut previous, mut sequence) = (block_crc, last_batch);
    for batch in &layout.batches {
        sequence += 1;
        let (mut body, mut last) = (Vec::with_capacity(batch.body as usize), EntryId::default());
        for index in batch.first..=batch.last {
            let start = body.len();
            entries.read(part, index, &mut body)?;
            let (_, id) = record::parse_header(&body[start..]).map_err(|bad| part.corrupt(&format!("entry {index} changed: {bad:?}")))?;
            if id.term < last.term {
                return Err(part.corrupt(&format!("entry {id} follows {last}")));
            }
            last = id;
        }
        let header = BatchHeader {
            cluster: writer.cluster,
            segment: segment.id,
            offset: batch.offset as u32,
            sequence,
            previous,
            body_crc: crc32fast::hash(&body),
            body: body.len() as u32,
            first_index: batch.first,
            last_index: batch.last,
            last_term: last.term,
            commit: part.commit.min(batch.last),
            boot: writer.boot,
        };
        let (front, crc) = header.encode(segment.seed);
        let (padding, padded) = batch::padding(segment.seed, batch.offset + HEADER_BYTES + body.len() as u64);
        let doing = format!("write {} at {}", file_name(segment.id), batch.offset);
        file.write_at(&[&front, &body, &padding[..padded]], batch.offset).map_err(Error::io(doing))?;
        previous = crc;
    }
    Ok(sequence)
}

fn write_fill(file: &dyn DiskFile, seed: u64, from: u64, to: u64) -> io::Result<()> {
    let (mut at, mut part) = (from, vec![0; PART.min((to - from) as usize)]);
    while at < to {
        let length = part.len().min((to - at) as usize);
        fill::fill(seed, at, &mut part[..length]);
        file.write_at(&[&part[..length]], at)?;
        at += length as u64;
    }
    Ok(())
}
