//! Recovery: from files to a running log. Reads what the disk holds, and not what a cache claims, checks every byte below the end of
//! the log, rebuilds the index, and only then changes anything: seals off a write that was interrupted and sweeps what was never used.
//! It never cuts, overwrites or repairs.

use super::applier::Applier;
use super::aside;
use super::data_file::{Numbers, Owner};
use super::directory::{Lock, remove_all};
use super::disk::Disk;
use super::hint::{self, Hint, HintKey, HintLog};
use super::hinter::Hinter;
use super::keydir::Value;
use super::location::Location;
use super::log::{Log, LogSegment};
use super::manifest::{self, Listed, Manifest, State};
use super::merge::{File, Merger};
use super::preparer::Preparer;
use super::quarantine::{self, quarantine};
use super::reserve::Reserve;
use super::retire::MergeState;
use super::scan::{Scan, first_header};
use super::scrub::Scrubber;
use super::segment::{HEADER_BLOCK, Segment, data_id_of, data_name, file_name, id_of};
use super::snapshot::SnapshotMaker;
use super::stage::Stage;
use super::state::{Deleted, Expected, State as Index};
use super::store::Store;
use super::tail::{self, Tail};
use super::writer::{Edit, LogWriter};
use super::{Options, batch};
use crate::bugbank::planted;
use crate::error::{Error, Result};
use crate::raft::{EntryId, HardState, NodeId};
use std::collections::VecDeque;
use std::sync::Arc;

use super::founding::{Founding, Identity};

/// Hints are merged in memory until they take more than this; then come the next ones.
const HINT_BYTES_AT_ONCE: usize = 512 << 20;

/// One for each thread that waits for the disk.
#[derive(Debug)]
pub struct Workers {
    /// Writes the log, the hard state and the manifest.
    pub writer: LogWriter,
    /// Makes segments.
    pub preparer: Preparer,
    /// Makes hints.
    pub hinter: Hinter,
    /// Merges files, and removes them.
    pub merger: Merger,
    /// Reads files again.
    pub scrubber: Scrubber,
}

/// Everything that storage hands to a starting server.
#[derive(Debug)]
pub struct Opened {
    /// The directory's files.
    pub disk: Arc<dyn Disk>,
    /// To be kept as long as the process may write.
    pub lock: Lock,
    /// Who this node is.
    pub identity: Identity,
    /// The cluster it belongs to.
    pub founding: Founding,
    /// The core's number for this node.
    pub node: NodeId,
    /// Term and vote.
    pub hard_state: HardState,
    /// For the Raft thread.
    pub log: Log,
    /// For the Raft thread.
    pub applier: Applier,
    /// For the threads that wait for the disk.
    pub workers: Workers,
    /// For whoever receives snapshots.
    pub snapshots: SnapshotMaker,
    /// For everybody.
    pub store: Arc<Store>,
    /// The highest index known to be committed; applied already. Everything in the log is durable.
    pub commit: u64,
    /// The last entry of the log that was put aside because of damage, and that the log has not reached again; else zero.
    pub floor: EntryId,
}

/// What recovery makes.
pub(super) struct Recovered {
    pub(super) log: Log,
    pub(super) applier: Applier,
    pub(super) workers: Workers,
    pub(super) snapshots: SnapshotMaker,
    pub(super) store: Arc<Store>,
    pub(super) commit: u64,
    pub(super) floor: EntryId,
}

/// The listed segments by what becomes of them.
#[derive(Default)]
pub(super) struct Sorted {
    /// What has left the log.
    pub(super) files: Vec<File>,
    /// Sealed, in log order.
    pub(super) sealed: Vec<(Arc<Segment>, Listed)>,
    /// The open one that holds batches.
    pub(super) tail: Option<Arc<Segment>>,
    /// Open and untouched.
    pub(super) prepared: VecDeque<Arc<Segment>>,
    /// Open, holding nothing but an interrupted first write.
    pub(super) torn: Vec<u32>,
}

/// Recovers the log that the manifest of `writer` lists. `node` is this directory's uuid.
/// `alone` is a node that is a cluster of its own: nobody else has its data.
pub(super) fn recover(mut writer: LogWriter, node: u128, hard_state: &HardState, options: &Options, alone: bool) -> Result<Recovered> {
    // Not damage that is put right by putting everything aside: the file would still be in the way, and may hold what was acknowledged.
    let unlisted = find_unlisted(&writer)?;
    let found = match read_trusted(&mut writer, node, hard_state, options, alone) {
        Err(damage @ Error::Corrupt { .. }) if !alone && !planted(46) => {
            let position = quarantine::position(&*writer.disk, &writer.manifest, writer.cluster, node, hard_state)?;
            quarantine(&mut writer, position, damage)?;
            read(&mut writer, node, hard_state, options)?
        }
        found => found?,
    };
    assemble(writer, node, options, found, &unlisted)
}

/// The same for a node that is not alone; but damage, and the writer, are handed back, and nothing is changed.
pub(super) fn recover_whole(
    mut writer: LogWriter,
    node: u128,
    hard_state: &HardState,
    options: &Options,
) -> Result<std::result::Result<Recovered, (LogWriter, Error)>> {
    let unlisted = find_unlisted(&writer)?;
    let manifest = writer.manifest.clone();
    match read_trusted(&mut writer, node, hard_state, options, false) {
        Err(damage @ Error::Corrupt { .. }) if !planted(46) => Ok(Err((LogWriter { manifest, ..writer }, damage))),
        found => assemble(writer, node, options, found?, &unlisted).map(Ok),
    }
}

/// Recovers what the manifest lists after everything that was damaged has been put aside.
pub(super) fn recover_rest(mut writer: LogWriter, node: u128, hard_state: &HardState, options: &Options) -> Result<Recovered> {
    let unlisted = find_unlisted(&writer)?;
    let found = read(&mut writer, node, hard_state, options)?;
    assemble(writer, node, options, found, &unlisted)
}

/// As [`read`], unless damage was found while the node ran the last time: much of it stands where a start does not look.
fn read_trusted(writer: &mut LogWriter, node: u128, hard_state: &HardState, options: &Options, alone: bool) -> Result<Found> {
    if writer.manifest.distrusted && !alone {
        let reason = "damage was found while this node ran".to_owned();
        return Err(Error::Corrupt { file: "the log".to_owned(), offset: 0, reason });
    }
    read(writer, node, hard_state, options)
}

/// What the files say, before anything is changed.
struct Found {
    sorted: Sorted,
    scan: Scan,
    /// What becomes of interrupted writes.
    edits: Vec<Edit>,
    /// Whether writing goes on in the last segment.
    active: bool,
}

/// Reads everything and judges it.
fn read(writer: &mut LogWriter, node: u128, hard_state: &HardState, options: &Options) -> Result<Found> {
    let mut sorted = sort(writer, node)?;
    if planted(100) {
        refuse_longer_segments(&sorted, options)?;
    }
    let (mut scan, believed) = scan_sealed(&*writer.disk, writer.cluster, &writer.manifest, &mut sorted)?;
    for (segment, listed) in &sorted.sealed[believed..] {
        if let State::Hinted { first, last, offset } = listed.state {
            writer.manifest.find(segment.id()).state = State::Sealed { first, last, offset };
        }
    }
    let mut edits: Vec<Edit> = sorted.torn.iter().map(|id| Edit::Drop { id: *id }).collect();
    let mut active = false;
    if let Some(segment) = &sorted.tail {
        match scan.tail(segment)? {
            Tail::Untouched => active = true,
            Tail::Torn if planted(90) => active = true,
            Tail::Torn => {
                edits.push(end_of(scan.segments.back(), segment));
                let last_batch = scan.chain.sequence;
                if let Some(torn) = scan.segments.back_mut().filter(|last| last.segment.id() == segment.id()) {
                    torn.sealed = Some(last_batch);
                }
            }
        }
    }
    active &= scan.segments.back().is_some();
    check_commit(&scan, &writer.manifest)?;
    check_term(scan.last, hard_state)?;
    Ok(Found { sorted, scan, edits, active })
}

/// Seals what was interrupted, sweeps what is not needed, and puts everything together.
fn assemble(mut writer: LogWriter, node: u128, options: &Options, found: Found, unlisted: &Unlisted) -> Result<Recovered> {
    let Found { sorted, scan, edits, active } = found;
    let (base, base_hash) = (writer.manifest.base, writer.manifest.base_hash);
    let (last, store) = (scan.last, Arc::clone(scan.store()));
    let Scan { segments, terms, configs, applier, chain, commit, unproved, .. } = scan;
    writer.chain = chain;
    if !edits.is_empty() {
        writer.edit(&edits, commit)?;
    }
    sweep(&mut writer, &unlisted.removable)?;
    let next_id = writer.manifest.last_id.max(unlisted.highest) + 1;
    let (disk, cluster, numbers) = (Arc::clone(&writer.disk), writer.cluster, Arc::new(Numbers::new(next_id)));
    let reserve = Reserve::open(Arc::clone(&disk), options.reserve_bytes)?;
    let hinter = Hinter { disk: Arc::clone(&disk), reserve: Arc::clone(&reserve) };
    let owner = Owner { disk: Arc::clone(&disk), cluster, node, numbers: Arc::clone(&numbers) };
    let scrubber = Scrubber { disk: Arc::clone(&disk) };
    let snapshots = SnapshotMaker { owner: owner.clone(), reserve: Arc::clone(&reserve) };
    let merger = Merger { owner, store: Arc::clone(&store), reserve: Arc::clone(&reserve) };
    let preparer = Preparer { disk, cluster, node, segment_bytes: options.segment_bytes, numbers, reserve };
    let mut log = Log {
        store: Arc::clone(&store),
        usual_capacity: options.segment_bytes.saturating_sub(HEADER_BLOCK + batch::HEADER_BYTES),
        base,
        base_hash,
        terms,
        configs,
        segments,
        files: sorted.files.into_iter().map(|file| (file.segment.id(), file)).collect(),
        merging: MergeState::default(),
        leaving: Vec::new(),
        active,
        unproved: unproved && active,
        durable: last.index,
        in_flight: 0,
        prepared: VecDeque::new(),
        stage: Stage::default(),
    };
    sorted.prepared.into_iter().for_each(|segment| log.add_prepared(segment));
    let floor = writer.manifest.floor;
    let workers = Workers { writer, preparer, hinter, merger, scrubber };
    Ok(Recovered { log, applier, workers, snapshots, store, commit, floor })
}

/// The state and the log up to the open segment: from hints as far as they go, from the segments behind. Also says how many segments'
/// hints were believed.
pub(super) fn scan_sealed(disk: &dyn Disk, cluster: u128, manifest: &Manifest, sorted: &mut Sorted) -> Result<(Scan, usize)> {
    let store = Arc::new(Store::default());
    let Loaded { logs, last_batch } = load_hints(disk, manifest, sorted, &store)?;
    let (hinted, hash) = logs.last().map_or((manifest.base.index, manifest.base_hash), |hint| (hint.last, hint.hash));
    let applier = Applier::new(Arc::clone(&store), hinted, hash);
    let mut scan = Scan::new(cluster, manifest.base, manifest.applied, store, applier);
    scan.chain.sequence = last_batch;
    let believed = logs.len();
    for (hint, (segment, _)) in logs.into_iter().zip(&sorted.sealed) {
        scan.hinted(segment, hint)?;
    }
    for (segment, listed) in &sorted.sealed[believed..] {
        scan.sealed(segment, &listed.state)?;
    }
    Ok((scan, believed))
}

/// What the hinted files say beside their keys.
struct Loaded {
    /// Of the hinted segments at the front of the log.
    logs: Vec<HintLog>,
    /// No batch of a segment that has left the log has a higher number.
    last_batch: u64,
}

/// Collects hints, and loads their keys in portions.
struct Loader<'a> {
    store: &'a Store,
    deleted: Deleted,
    hints: Vec<(u32, Hint)>,
    bytes: usize,
}

impl<'a> Loader<'a> {
    fn new(store: &'a Store) -> Loader<'a> {
        Loader { store, deleted: Deleted::default(), hints: Vec::new(), bytes: 0 }
    }

    fn add(&mut self, segment: &Arc<Segment>, hint: Hint) {
        self.store.register_segment(Arc::clone(segment));
        self.bytes += hint.bytes();
        self.hints.push((segment.id(), hint));
        if self.bytes > HINT_BYTES_AT_ONCE {
            self.load(Expected { hints: true, keys: 0 });
        }
    }

    fn load(&mut self, more: Expected) {
        self.store.load(hint::newest(&self.hints).map(placed), more, &mut self.deleted);
        (self.hints, self.bytes) = (Vec::new(), 0);
    }
}

/// The state that these files make up.
pub(super) fn load_files(disk: &dyn Disk, files: &[File]) -> Result<Index> {
    let store = Store::default();
    let mut loader = Loader::new(&store);
    for file in files {
        loader.add(&file.segment, file.hint(disk)?);
    }
    loader.load(Expected { hints: false, keys: 0 });
    Ok(store.into_state())
}

/// Loads the keys of what has left the log and of the hinted segments at its front: together they are the state at the end of the latter.
/// The hint of a segment in the log that cannot be believed is no loss, as long as the conditions of its entries can be decided again: it
/// and those behind it are read instead, and get another.
fn load_hints(disk: &dyn Disk, manifest: &Manifest, sorted: &mut Sorted, store: &Store) -> Result<Loaded> {
    let mut loader = Loader::new(store);
    let mut loaded = Loaded { logs: Vec::new(), last_batch: 0 };
    for file in &mut sorted.files {
        let hint = file.hint(disk)?;
        file.deletions = if file.segment.header().data { hint.deletion_bytes() } else { 0 };
        file.segment.publish_written(batch::align(file.end));
        loaded.last_batch = loaded.last_batch.max(hint.log.last_batch);
        loader.add(&file.segment, hint);
    }
    let mut hash_known = manifest.base_hash.is_known();
    for (segment, listed) in &sorted.sealed {
        let State::Hinted { first, last, offset } = listed.state else { break };
        let needed = first <= manifest.decided;
        let reason = match hint::read(disk, segment.header())? {
            // The hash can be computed again, if only this once.
            Ok(hint) if hash_known && !hint.log.hash.is_known() && !needed => "its hint does not know the state hash".to_owned(),
            Ok(mut hint) if (hint.log.first, hint.log.last, hint.log.end) == (first, last, offset) => {
                hash_known = hint.log.hash.is_known();
                loaded.logs.push(std::mem::take(&mut hint.log));
                loader.add(segment, hint);
                continue;
            }
            Ok(hint) => format!("its hint ends at {}, the manifest at {last}", hint.log.last),
            Err(reason) => reason,
        };
        if needed {
            let needed = "conditions cannot be decided again, because a merge has left out what they were decided against";
            return Err(super::corrupt(&hint::hint_name(segment.id()), 0, format!("{reason}; {needed}")));
        }
        log::warn!("{} is read in full: {reason}", segment.name());
        break;
    }
    let rest = sorted.sealed[loaded.logs.len()..].iter().map(|(segment, _)| segment).chain(&sorted.tail);
    let unread = rest.map(|segment| segment.length()).sum();
    loader.load(Expected { hints: false, keys: entries_in(unread, &loaded.logs) });
    Ok(loaded)
}

/// About how many entries so many bytes of the log hold, if they are as those of the hinted segments: at most so many keys come with them.
/// Tables that have room for them from the start need not hash all keys again when they come.
fn entries_in(bytes: u64, logs: &[HintLog]) -> usize {
    let (entries, taken) = logs.iter().fold((0, 0), |(entries, taken), log| (entries + log.offsets.len() as u64, taken + log.end));
    (bytes.saturating_mul(entries) / taken.max(1)) as usize
}

/// A key of a hint as the index keeps it; without a value if it was deleted.
fn placed((segment, key): (u32, HintKey<'_>)) -> (&[u8], u64, Option<Value>) {
    let location = Location { segment, offset: key.offset, bytes: key.record_bytes };
    (key.key, key.version, key.value_bytes.map(|value_bytes| Value { version: key.version, location, value_bytes }))
}

/// What stands in the files is held against a setting that bounds what is to come.
fn refuse_longer_segments(sorted: &Sorted, options: &Options) -> Result<()> {
    let longer = sorted.sealed.iter().map(|(segment, _)| segment).find(|segment| segment.length() > options.segment_bytes);
    longer.map_or(Ok(()), |segment| Err(super::corrupt(segment.name(), 0, "longer than --segment-bytes")))
}

/// Where a torn segment ends: behind its last valid batch, or without entries.
pub(super) fn end_of(scanned: Option<&LogSegment>, segment: &Segment) -> Edit {
    match scanned.filter(|scanned| scanned.segment.id() == segment.id()) {
        Some(scanned) => Edit::Seal { id: segment.id(), first: scanned.first, last: scanned.next() - 1, offset: scanned.end },
        None => Edit::Drop { id: segment.id() },
    }
}

/// Opens all listed segments, makes the open ones durable as they are, and tells them apart.
fn sort(writer: &LogWriter, node: u128) -> Result<Sorted> {
    let mut sorted = Sorted::default();
    for listed in &writer.manifest.segments {
        if let State::Dropped | State::Quarantined = listed.state {
            continue;
        }
        if let State::Retired { first, last, offset } | State::Data { first, last, offset } = listed.state {
            let segment = open_listed(&*writer.disk, listed, writer.cluster, node)?;
            sorted.files.push(File { segment, first, last, end: offset, deletions: 0, hinted: 0 });
            continue;
        }
        let segment = match open_listed(&*writer.disk, listed, writer.cluster, node) {
            Err(_) if planted(56) && listed.state == State::Open => continue,
            opened => opened?,
        };
        if let State::Sealed { .. } | State::Hinted { .. } = listed.state {
            sorted.sealed.push((segment, *listed));
            continue;
        }
        // A process that was killed before its sync, or whose sync failed, leaves bytes that only the cache holds. Nothing may be
        // concluded from them.
        let doing = |what: &str| format!("{what} {}/{}", writer.disk.path(), segment.name());
        if !planted(89) {
            segment.file().sync().map_err(Error::io(doing("sync")))?;
            segment.file().drop_cache(0).map_err(Error::io(doing("drop the cache of")))?;
        }
        sorted.add_open(segment)?;
    }
    sorted.sealed.sort_by_key(|(_, listed)| match listed.state {
        State::Sealed { first, .. } | State::Hinted { first, .. } => first,
        _ => 0,
    });
    Ok(sorted)
}

/// Opens a listed segment of this directory, whose uuid is `node`, and checks that it is the one that was listed.
pub(super) fn open_listed(disk: &dyn Disk, listed: &Listed, cluster: u128, node: u128) -> Result<Arc<Segment>> {
    let segment = Arc::new(match listed.state {
        State::Data { offset, .. } => Segment::open_data(disk, listed.id, cluster, offset)?,
        _ => Segment::open(disk, listed.id, cluster)?,
    });
    let header = segment.header();
    if header.node != listed.node || header.node != node || header.length != listed.length {
        let found = format!("{} bytes made by node {:032x}", header.length, header.node);
        let reason = format!("its header says {found}, the manifest {} bytes made by node {:032x}", listed.length, listed.node);
        return Err(super::corrupt(segment.name(), 0, reason));
    }
    Ok(segment)
}

impl Sorted {
    /// Puts a segment that is not sealed to its kind.
    pub(super) fn add_open(&mut self, segment: Arc<Segment>) -> Result<()> {
        if first_header(&segment)?.is_some() {
            if let Some(other) = &self.tail {
                let reason = format!("it holds a batch, although {} was never sealed", other.name());
                return Err(super::corrupt(segment.name(), HEADER_BLOCK, reason));
            }
            self.tail = Some(segment);
            return Ok(());
        }
        match tail::judge(&segment, HEADER_BLOCK, None)? {
            Tail::Untouched => self.prepared.push_back(segment),
            Tail::Torn => self.torn.push(segment.id()),
        }
        Ok(())
    }
}

/// Files that the manifest does not list.
#[derive(Default)]
struct Unlisted {
    /// Those that nobody needs.
    removable: Vec<String>,
    /// The highest number among all of them.
    highest: u32,
}

/// Segment files that the manifest does not know of: the preparer's process died before they were listed. None can hold a batch.
fn find_unlisted(writer: &LogWriter) -> Result<Unlisted> {
    let names = writer.disk.list().map_err(Error::io(format!("list {}", writer.disk.path())))?;
    let listed = |id| writer.manifest.segments.iter().any(|listed| listed.id == id);
    let mut unlisted = Unlisted::default();
    for name in names {
        if let Some(id) = data_id_of(&name).filter(|id| !listed(*id)) {
            // A merge that did not come to its end. What it copied stands in its inputs.
            unlisted.highest = unlisted.highest.max(id);
            unlisted.removable.push(name);
            continue;
        }
        let Some(id) = id_of(&name).filter(|id| !listed(*id)) else { continue };
        unlisted.highest = unlisted.highest.max(id);
        match may_be_removed(&*writer.disk, id, writer.cluster)? {
            Ok(()) => unlisted.removable.push(name),
            Err(reason) => log::warn!("{name} is left alone, {LEFT_ALONE}: {reason}"),
        }
    }
    Ok(unlisted)
}

/// Why a segment that nobody lists and that cannot be opened is no loss.
pub(super) const LEFT_ALONE: &str = "this node has never listed it and so never written to it";

/// Whether a segment that nobody lists may be removed, because it holds nothing; if it cannot be opened, why not. What was ever listed
/// leaves the list only after its file is gone, so this node has never written to such a file, and does not need it. Whatever else is
/// wrong with it is an error.
pub(super) fn may_be_removed(disk: &dyn Disk, id: u32, cluster: u128) -> Result<std::result::Result<(), String>> {
    let name = file_name(id);
    if id > manifest::ID_MAX {
        return Err(super::corrupt(&name, 0, format!("no segment has a number above {}", manifest::ID_MAX)));
    }
    let segment = match Segment::open(disk, id, cluster) {
        Err(error @ Error::Corrupt { .. }) => return Ok(Err(error.to_string())),
        opened => opened?,
    };
    match tail::find_batch(&segment, HEADER_BLOCK)? {
        Some(at) => Err(super::corrupt(&name, at, format!("it holds a batch, and {} does not list it", manifest::NAME))),
        None => Ok(Ok(())),
    }
}

/// Whether the log reaches as far as entries were known to be committed.
pub(super) fn check_commit(scan: &Scan, manifest: &Manifest) -> Result<()> {
    if scan.commit > scan.last.index {
        let known = format!("entry {} was known to be committed, {} applied", scan.commit, manifest.applied);
        return Err(super::corrupt(manifest::NAME, 0, format!("{known}, but the log ends at {}", scan.last)));
    }
    Ok(())
}

/// Whether the hard state has seen the terms that the log holds.
pub(super) fn check_term(last: EntryId, hard_state: &HardState) -> Result<()> {
    if last.term > hard_state.term {
        let reason = format!("it says term {}, but the log holds entry {last}", hard_state.term);
        return Err(super::corrupt(super::writer::HARD_STATE_NAME, 0, reason));
    }
    Ok(())
}

/// Removes files that nobody needs: dropped segments, then their entries in the manifest, unlisted ones, and the list of what is no longer
/// aside.
fn sweep(writer: &mut LogWriter, unlisted: &[String]) -> Result<()> {
    let names = writer.disk.list().map_err(Error::io(format!("list {}", writer.disk.path())))?;
    let dropped = writer.manifest.segments.iter().filter(|listed| listed.state == State::Dropped);
    let dropped: Vec<String> = dropped.flat_map(|listed| [file_name(listed.id), data_name(listed.id)]).collect();
    // A hint counts only once the manifest names it.
    let hinted = |id| writer.manifest.segments.iter().any(|listed| listed.id == id && listed.state.has_hint());
    let stray = |name: &String| hint::id_of(name).is_some_and(|id| !hinted(id));
    // A power cut may have brought the list back after what it lists was given up.
    let outdated = |name: &String| name == aside::NAME && writer.manifest.floor == EntryId::default();
    let present = names.iter().filter(|name| dropped.contains(name) || unlisted.contains(name) || stray(name) || outdated(name));
    remove_all(&*writer.disk, &present.map(String::as_str).collect::<Vec<_>>())?;
    if !dropped.is_empty() {
        writer.manifest.segments.retain(|listed| listed.state != State::Dropped);
        writer.write_manifest()?;
    }
    Ok(())
}
