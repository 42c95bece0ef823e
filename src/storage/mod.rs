//! Storage: the log on disk, which is also the database. This page is the format document: every file byte by byte, what recovery
//! believes, and what is assumed of disks. Everything above works on the narrow interface of [`disk`]; nothing here knows of peers,
//! clients or elections.
//!
//! # The idea
//!
//! A command is written once. Its record is the log entry, the bytes sent to the other nodes, and the stored value; applying it is an
//! insert into an index in memory ([`store`]) that points into the log. Records are gathered into batches; a batch is one write and
//! one sync, and holds whatever arrived while the one before was on its way. Nothing that was written is ever overwritten, cut or
//! used again, so a reader of a memory map never sees bytes change.
//!
//! # Who does what
//!
//! | owner | has | may |
//! |---|---|---|
//! | Raft thread | [`log::Log`], [`applier::Applier`] | memory only: gives places, stages, applies |
//! | log writer | [`writer::LogWriter`] | write batches, hard state and manifest, one [`writer::Job`] at a time |
//! | preparer | [`preparer::Preparer`] | make segments that nobody else knows of yet, and the reserve |
//! | hinter | [`hinter::Hinter`] | read sealed segments, make hint files that do not count yet |
//! | merger | [`merge::Merger`] | make data files that do not count yet, remove files that do not count any more |
//! | scrubber | [`scrub::Scrubber`] | read files again |
//! | receiver of a snapshot | [`snapshot::SnapshotMaker`] | make data files that do not count yet |
//! | any thread | [`store::Store`], [`log::Piece`] | read |
//! | nobody, before the log is open | [`mend::Damaged`] | fill what is lost, put new segments in the place of damaged ones |
//! | nobody, while no node runs | [`inspect::Inspected`] | look at everything |
//!
//! # Files
//!
//! All in one directory, without subdirectories. Integers are little-endian; a CRC is CRC-32 (IEEE).
//!
//! | name | what | written |
//! |---|---|---|
//! | `lock` | locked by the process that uses the directory; holds its pid | at every start |
//! | `identity` | slots: who this node is | at every start |
//! | `cluster` | slots: the founding record | once; renamed into place as the last act of founding |
//! | `hardstate` | slots: term and vote | before any message of that term leaves |
//! | `marks` | slots: what is known of the peers; opaque here | by its owner |
//! | `manifest` | slots: which segments there are and where each ends | when one is listed, ends or gets a hint |
//! | `0000001a.log` | a segment, by its number in hexadecimal | batch after batch |
//! | `0000001a.hint` | the hint of the segment or the data file of that number | once: some time after the seal, or with the data file |
//! | `0000001b.data` | a data file: values that have left the log | once, by a merge, a snapshot or a restore |
//! | `manifest.aside` | the manifest from before all was put aside: its payload, and the CRC u32 of that | because of damage |
//! | `manifest.back` | the same, given this name by whoever wants it back | by a person |
//! | `reserve` | nothing: space held back, see below | once, and again after it was given away |
//! | `*.tmp` | half-made; removed at the next start | |
//!
//! Slot files are described in [`slots`]: their payload is replaced as a whole, in preallocated places, so that neither a restart
//! nor a vote needs new disk space. Payloads begin with their format version, `u32`: 3 for the manifest, 1 for all others. A higher one is
//! refused with a message; manifests of versions 1, which knows no hints, and 2, which knows no files outside the log, are read.
//!
//! ```text
//! identity    version u32, uuid u128, boot u64, nonce u64, id (length u16, UTF-8)
//! cluster     version u32, cluster id u128, members u32, for each: uuid u128, id (length u16, UTF-8); CRC u32 of all before
//! hardstate   version u32, vote u32 (0: none), term u64
//! manifest    version u32, segments u32, base term u64, base index u64, applied u64, last number u32,
//!               decided u64, floor term u64, floor index u64, base hash u64, distrusted u32, then for each segment:
//!               number u32, state u32 (0 open, 1 sealed, 2 dropped, 3 sealed and hinted, 4 the same and no longer in the log,
//!               5 a data file, 6 put aside because of damage), node uuid u128, length u64,
//!               first index u64, last index u64, offset u64 (the last three 0 for 0, 2 and 6)
//! ```
//!
//! *base* is the entry before the first one in any segment, zero as long as nothing is compacted. *applied* is min(applied, durable)
//! when the manifest was written. *last number* is the highest that was ever listed; numbers are not used again.
//! Of segments up to the entry *decided* the hints are needed, because a merge has left out what their conditions were decided against.
//! *floor* is the last entry of a log that was put aside, until the log has reached it again. *base hash* is the state hash behind
//! the base. *distrusted* is 1 when damage was found while the node ran.
//!
//! # Segment
//!
//! Made ahead of need: created as `NAME.tmp`, reserved, filled, synced, renamed, the directory synced, and then listed in the manifest
//! before the first batch goes there. At most 2 GiB; a record that is larger than the usual segment gets one of its own.
//!
//! ```text
//! offset size field
//!      0    8 magic          "ApexKVsg"
//!      8    4 version        1
//!     12    4 CRC            of the other 4092 bytes of the block
//!     16   16 cluster id
//!     32   16 node uuid      of the node that made it
//!     48    4 number         as in the file's name
//!     52    8 length         of the file
//!     60    8 seed           random; the fill is computed from it
//!     68    … zeros up to 4096
//!   4096    … batches, then the fill up to the end of the file
//! ```
//!
//! The *fill* at offset o is byte o mod 8 of splitmix64(seed, o div 8). Nobody outside knows the seed, and it is another one in every
//! segment.
//!
//! # Batch
//!
//! Begins at a multiple of 16, with this header; records follow back to back; padding, the complement of the fill, reaches up to the
//! next multiple of 16, where the next batch begins.
//!
//! ```text
//! offset size field
//!      0    4 magic          "AKVB"
//!      4    4 header CRC     of the segment's seed (8 bytes) and the other 92 bytes of the header
//!      8   16 cluster id
//!     24    4 segment        its number
//!     28    4 offset         where in the segment this header stands
//!     32    8 sequence       counts the batches of this node; consecutive within a segment
//!     40    4 previous CRC   header CRC of the batch before; of the first one: CRC of the segment's header block
//!     44    4 body CRC       of all records
//!     48    4 body length    0 in a closing batch
//!     52    4 zero
//!     56    8 first index    of the first record; one more than the last index in a closing batch
//!     64    8 last index
//!     72    8 last term
//!     80    8 commit         what the node knew to be committed, at most the last index
//!     88    8 boot           of the process that wrote it; for people
//! ```
//!
//! A batch takes no further record beyond 4 MiB; one larger record makes a batch of its own. No byte of a batch is written before the
//! sync of the one before has returned. So a valid batch proves that the one before was durable. When there is nothing to write for a
//! while, an empty *closing batch* proves the last one; every segment keeps room for it. Records are described in [`record`].
//!
//! # How a segment ends
//!
//! In one way only: the manifest seals it at an offset and a last index. What lies at or behind the seal does not exist. A segment that
//! is full is sealed behind its last batch; one whose last entries another leader has superseded, in front of the first of them, even
//! in the middle of a batch; one whose last write was interrupted, in front of that write. A segment that loses all its entries is
//! *dropped* and its file removed. Writing goes on in another segment, after the seal is durable. A seal waits for the sync of the
//! last batch below it. So at most one listed segment is open and holds batches.
//!
//! # Hints
//!
//! Whether a condition held is decided once, when its entry is applied, in log order. A hint file keeps that: of a sealed segment it names,
//! for each key, the newest record that took effect, a deletion too, and nothing that was refused; besides where each entry stands, their
//! terms and the memberships. The bytes are described in the file `hint.rs`. A start then reads the hint instead of the segment.
//!
//! * A segment gets its hint when its last seal is durable and all its entries are applied: nothing can shorten it any more.
//! * Hints are made one after another in log order, so hinted segments are a prefix of the log. What they name together is exactly the
//!   state behind their last entry; the rest of the log is read and applied in order, which decides its conditions against that state.
//! * The hinter checks each record of the segment as it reads it, and makes the file: temporary name, sync, rename, sync of the directory.
//!   Then the log writer puts the segment's state to *hinted* in the manifest. Only then does the hint count.
//! * A hint is a copy of what the segment says. One that is missing, unreadable, of another segment or length, or does not match its CRC is
//!   no loss: that segment and all behind it are read, and get their hints anew. Unless the segment begins at or before *decided*, or has
//!   left the log: then that is damage.
//! * Records of a hinted segment are not read at a start. Each is checked when its value is read, when it is sent to another node, when it
//!   is merged, and by the scrub; damage is refused there, with file and offset.
//!
//! # Leaving the log
//!
//! The log keeps as many bytes as it is told to, what a membership needs, and, up to four times those bytes, what followers lack. What
//! comes behind a snapshot on its way stays until the follower has caught up, as long as it makes progress and the disk has room, up to
//! sixteen times those bytes and the size of the snapshot. Hinted segments in front of that are *retired*: one change of the manifest
//! moves *base* behind them and says that they are no longer in the log. Nothing is copied. They go on as files that hold values, next to
//! data files, and their hints are needed from then on.
//!
//! A *data file* ([`merge`], [`snapshot`], [`restore`]) has the header block of a segment with another magic, "ApexKVdt", and seed 0;
//! behind it stand records, back to back, up to the end: one operation each, which sets or deletes, with the index and term of the entry
//! that the value came from; of each key at most one. Its hint is made with it.
//!
//! * A *merge* rewrites what is still needed of some files into data files, paced by a byte rate. A record is left out if a newer one of
//!   its key stands in another *hinted* file; one that deletes also if no file outside the log holds anything older. Newer records in the
//!   part of the log that a start replays do not count: conditions there are decided against what the hinted files make together.
//! * Files are picked when 40 % of them is garbage, or when there are many small ones, or when deletions in them have nothing left to
//!   delete.
//! * Outputs and their hints are durable before one change of the manifest names them in place of the inputs. That change also raises
//!   *decided* to the end of the hinted log as it is then: without those hints its conditions could not be decided again.
//! * Inputs are removed when nobody reads them any more: readers of values, snapshots and backups hold them.
//!
//! # Snapshots
//!
//! A snapshot is the state at the end of the hinted log: all files outside the log and the hinted segments, pinned. It costs nothing to
//! take. For another node, its records are read file by file and travel with their CRCs; there they become data files that do not count.
//! One change of the manifest then names them, with *base* at the last entry of the snapshot and an empty log behind it, in place of
//! everything that was listed. Before that change the old state stands, after it the new one.
//!
//! # Damage
//!
//! Damage is what a start, a read, a transfer, a merge or the scrub finds to differ from what was written. The *scrub* reads every file
//! once a day, from the disk as far as the system forgets its cached pages when it is asked to: those that readers have mapped it keeps. A
//! sector that cannot be read is damage, too; a file that this process cannot open now, for lack of descriptors perhaps, is not. Whoever
//! finds damage while the node runs sets *distrusted*.
//!
//! * In a cluster, a start that meets damage below the end of the log, or that finds *distrusted* set by the run before, reads every
//!   byte of the log. What is lost are runs of entries whose indexes are known: from seals, from the headers of batches, from hints.
//!   Records are looked for only where their places follow from something that was checked, never by their looks alone: a value may look
//!   like one.
//! * Lost records are the same bytes on every node. In one term one leader writes, and only appends; so any log that holds an entry of
//!   the same term as a known entry behind a hole, at or behind the place of a lost one, has the lost record there, committed or not; and
//!   as far as both logs are known to be committed, they are the same ([`mend`]). The other nodes are asked for the records, and the
//!   damaged ones among them give what they still have.
//! * When nothing is missing any more, each damaged segment is made anew, with a number of its own: the same entries in as few batches
//!   as they fit, and the same hint at other offsets. The batches that were there before were at least as many, so their numbers suffice.
//!   The new numbers are first listed as *dropped*, so that what a crash leaves is removed; then the files are made, as a segment is, but
//!   with their batches; then one change of the manifest names them in place of the old ones. Where the header of a batch is whole, its
//!   CRC must match what came from the others. The node goes on as if nothing had been.
//! * What is not mended so: the end of the log, if nothing tells which entries it held; files outside the log; segments whose hints are
//!   needed and damaged, too. And entries that no other node has, because they were never committed. When the other nodes can go on
//!   without this log, it is put aside.
//! * *Put aside* (the file `quarantine.rs`): one change of the manifest lists all files as such, empties the log, and sets *floor* to
//!   the last entry that the log held. The leader fills the log again. Until it has reached the floor, this node does not lead, and votes
//!   only for logs that have reached it: so it stands for what it acknowledged as if it had it. Then the files that were put aside are
//!   removed.
//! * Where damage hides how far the log went, the floor is the farthest that it can have gone: in the newest term, at the end that the
//!   manifest gives, or at as many entries as fit the file. The leader of that term lowers it: nobody holds more of the term than it has.
//!   One of two voters votes for the other all the same, which has whatever was committed.
//! * If a committed entry has no copy on any node, the nodes that lost it refuse to start, and change nothing.
//! * If no other node has the data, the way back (the file `aside.rs`) is to stop the node, to mend the files, and to rename
//!   `manifest.aside` to `manifest.back`, before the log has reached the floor. One change of the manifest then lists what it lists; what
//!   was fetched meanwhile is put aside in its turn, and its last entry becomes the floor.
//! * Damage in hard state, identity or manifest, a file that holds batches and is not listed, or damage in a cluster of one, refuses the
//!   start and changes nothing: what was promised, or the data, stands nowhere else.
//!
//! # State hash
//!
//! The applier keeps a rolling hash of what it applies ([`state_hash`]), so that nodes can find out whether their states are the same. It
//! must survive what takes entries out of sight: a hint holds the hash behind its segment's last entry, the manifest the one behind the
//! base, and a snapshot travels with the one behind its last entry. A start goes on from the last of these that it believes. A hint
//! without a hash is one of an older format: its segment is read once more, as long as that is possible, and gets another.
//!
//! # A full disk
//!
//! Whatever a node must write to take part is written in place, in space allocated before: term and vote, identity, marks, manifest, and
//! batches. Only new files need new space, and none of them is needed by a node that goes on as it is. So a disk without room stops no
//! node and no start; it stops the log where its last prepared segment ends, and it goes on when there is room for another.
//!
//! The file `reserve` ([`reserve`]) keeps some space from ever becoming segments. It is removed by work whose output lets other files go,
//! a hint or a merge, when that finds no room; a segment is prepared only if the reserve stands, or still fits beside it. Its content is
//! never looked at. A start removes one of another size than it is told to keep.
//!
//! # Recovery
//!
//! 1. Sync the directory; open the slot files (each syncs, drops the cache, reads, repairs). Remove half-made files. Without a cluster
//!    file: remove what an interrupted founding left, unless the node has been in a term or has segments: then refuse.
//! 2. Open every listed segment; check its header block and length. Sync the open ones and drop their cached pages, so that what is read
//!    from here on is what a power cut would leave: a process that was killed between write and sync, or whose sync failed, leaves
//!    bytes in the cache that the disk does not have.
//! 3. Load the hints of all files outside the log, and of the first segments, as many as can be believed without a gap; merge their keys,
//!    the newest record of each counts.
//!    Scan the other sealed segments in log order. Every byte below the seal must be as it was written, every index must follow the one
//!    before.
//! 4. Scan the open segment that holds batches, as far as batches are whole. What follows is one of three:
//!    * *untouched*: nothing but fill up to the end of the file. Writing goes on right there.
//!    * *torn*: no valid batch follows, and some unit of 16 bytes of this batch (of its header, if that is unreadable) still holds
//!      the fill. The write did not complete, so its sync did not return, so nothing in it was acknowledged. The segment is sealed in
//!      front of it; the bytes stay where they are.
//!    * everything else is damage, named with file and offset. Nothing is cut. What follows stands under *Damage*.
//! 5. Check that the log reaches as far as any batch or the manifest knew entries to be committed, and that its last term is not
//!    above the hard state's. Entries up to the known commit are applied; the rest waits for the leader.
//! 6. Only now write: seal what is torn, remove dropped and never listed segments, and hints that the manifest does not name or that were
//!    not believed. A file that is not listed and holds a batch is damage. One that cannot even be opened is left alone: what was ever
//!    listed leaves the list only after its file is gone, so nothing was written to it.
//!
//! Whoever only looks ([`inspect`]) takes the same steps and comes to the same judgements without any write or sync, and goes on behind
//! damage. So bytes that a system has not written out yet count for him as there; a start makes them durable first.
//!
//! # Crash cases
//!
//! * **While a batch is written.** Each sector is old (its part that belongs to the batch holds fill) or new. All new: the batch counts,
//!   though nobody was told; that is allowed, and it is durable because recovery syncs first. Some old: torn. The first and the last
//!   sector are shared with neighbours; the part that belongs to the batch is at least 16 bytes, because batches begin at multiples
//!   of 16, and never equals the fill when it was written: records cannot, since nobody knows the seed; padding differs in every
//!   bit. So a torn batch is never taken for damage, and damage never for torn: it would have to turn 16 bytes back into fill.
//! * **The last batch loses a whole sector after its sync** (a write the disk acknowledged and dropped): looks torn until the closing
//!   batch or the next one proves it. Afterwards it is damage.
//! * **Between a full segment's last batch and its seal.** It is open, holds batches, and writing goes on in it, or it is sealed later.
//! * **Between the seal and the first batch of the next segment.** All segments with batches are sealed; the log ends there.
//! * **A conflict, before its seal is durable.** The superseded entries are back. None behind them was acknowledged, since batches of the
//!   new entries wait for the seal, and the leader removes them again. After the seal they cannot return.
//! * **Two crashes in a row.** A torn write lies behind a seal and is never looked at again; the next segment begins clean.
//! * **A hint renamed, the manifest not yet written.** It does not count, and is removed; its segment is read, and gets another. As it
//!   would say the same, it does no harm if the removal is lost in another crash: the next one takes its name.
//! * **A hint's removal durable, the manifest still naming it** (it was not believed at the start before). It is missing: see above.
//! * **A segment renamed but not listed.** It holds no batch, because listing comes first. It is removed.
//! * **Data files made, the manifest not yet written.** They do not count, and are removed; what they hold stands in the inputs, or with
//!   the sender of the snapshot.
//! * **Inputs of a merge, or what a snapshot replaced, not yet removed.** They are *dropped*, and a start removes them.
//! * **A dropped segment's file removed, the manifest still naming it.** The name is all that is left, and it is taken out.
//! * **While a log is mended.** Before the change of the manifest that names the new segments, the old ones stand, and what was made is
//!   removed. After it the old ones are *dropped*. What was fetched stands in a half-made file until then, and is fetched again.
//! * **Founding.** Hard state, manifest and marks are made first; without the cluster file behind them they count for nothing.
//! * **A restore** ([`restore`]) makes hard state first, with a term above 0, and the cluster file last. With the one and without the
//!   other a start refuses; before the first there is nothing.
//!
//! # Assumptions about the disk
//!
//! * A power cut leaves each sector of 512 bytes old or new; larger atomic units are fine too. Order between sectors of one write is
//!   not assumed, nor that a file's writes reach the disk in order before a sync.
//! * After `fdatasync` returns without error, what was written survives. After an error nothing is assumed, and the process ends.
//! * Creating, renaming and removing survive a sync of the directory; before that each may or may not have happened.
//! * Overwriting preallocated bytes needs no new space. (File systems that copy on write may break this; then the process ends.)
//! * Bytes that were synced may change (rot), become unreadable, or be written to a wrong place. That is noticed, at the start, when
//!   the value is read or sent, or by the scrub, and never passed on.

pub mod applier;
mod aside;
mod batch;
mod bytes;
mod data_file;
pub mod directory;
pub mod disk;
mod fill;
mod founding;
mod hint;
pub mod hinter;
pub mod inspect;
mod keydir;
mod keys;
mod location;
pub mod log;
mod manifest;
pub mod mapping;
pub mod mend;
pub mod merge;
mod ordered;
mod piece;
pub mod preparer;
mod quarantine;
mod read_only;
pub mod real;
pub mod record;
mod recovery;
pub mod reserve;
pub mod restore;
pub mod retire;
mod scan;
pub mod scrub;
mod segment;
pub mod simulated;
pub mod slots;
pub mod snapshot;
mod stage;
mod state;
pub mod state_at;
pub mod state_hash;
pub mod store;
mod tail;
pub mod writer;

use crate::error::Error;
use rustix::io::Errno;
use std::io;

/// Settings of the storage engine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size at which a segment is left for the next one, in bytes.
    pub segment_bytes: u64,
    /// Size of the [`reserve`], in bytes; 0 for none.
    pub reserve_bytes: u64,
}

/// What to do about damage; the end of every message about it.
const REMEDY: &str = "restore the file from a copy, or the cluster from a backup";

/// What an error says, for a caller who knows what to do about it.
fn without_remedy(error: &Error) -> String {
    error.to_string().trim_end_matches(REMEDY).trim_end_matches("; ").to_owned()
}

fn corrupt(file: &str, offset: u64, reason: impl std::fmt::Display) -> Error {
    Error::Corrupt { file: file.to_owned(), offset, reason: format!("{reason}; {REMEDY}") }
}

/// Whether a failed read says that the disk no longer has the bytes, or has them and knows that they are wrong. Every other error says
/// something about this process or this moment, and nothing about the file.
fn is_lost(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::NODATA, Errno::BADMSG, Errno::UCLEAN, Errno::ILSEQ];
    let code = error.raw_os_error();
    error.kind() == io::ErrorKind::UnexpectedEof || lost.iter().any(|errno| Some(errno.raw_os_error()) == code)
}

/// What a failed read of a file at `offset` comes to.
fn unread(file: &str, offset: u64, source: io::Error) -> Error {
    if is_lost(&source) {
        return corrupt(file, offset, format!("it cannot be read: {source}"));
    }
    Error::Io { doing: format!("read {file} at {offset}"), source }
}

fn newer(file: &str, found: u32, known: u32) -> Error {
    Error::Directory(format!("{file} has format version {found}, this program knows versions up to {known}: start a newer apexkv"))
}

#[cfg(test)]
mod tests;
