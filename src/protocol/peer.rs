//! The core's messages as frames. An append's records are parsed one by one, and its outline is taken from the records themselves, so
//! what the core is told is what will be stored. Whatever does not follow the format is an error, and the link is to be closed.
//!
//! ```text
//! size field
//!    1 kind            16 keepalive (nothing follows), 30 and 31 notes (their fields follow), otherwise see the table
//!  4+4 from, to
//!    8 term
//!    … fields of the kind, in the order in which the message declares them
//! ```
//!
//! | kind | message | fields |
//! |---|---|---|
//! | 17 | `PreVote` | proposed term, last |
//! | 18 | `PreVoteReply` | proposed term, granted |
//! | 19 | `Vote` | last, transfer |
//! | 20 | `VoteReply` | granted |
//! | 21 | `Append` | prev, number of entries, commit, round; the records follow the head |
//! | 22 | `Appended` | matched, round |
//! | 23 | `AppendRejected` | prev index, hint, round |
//! | 24 | `Heartbeat` | commit, round |
//! | 25 | `HeartbeatReply` | round, verified, able |
//! | 26 | `Snapshot` | last, length of the membership, membership as in a record |
//! | 27 | `SnapshotReply` | matched |
//! | 28 | `TimeoutNow` | none |
//! | 29 | `Arriving` | none |
//! | 32 | `LastIndex` | token |
//! | 33 | `LastIndexReply` | token, index |
//!
//! Notes are said beside the core's messages, on the control link, and belong to no term: what they say of applied entries is true in all.
//!
//! | kind | note | fields |
//! |---|---|---|
//! | 30 | `StateHash` | index, hash |
//! | 31 | `Diverged` | index, expected hash, found hash |
//!
//! Positions are term, then index; flags one byte; all other numbers eight.

use super::fields::{Fields, put_blob, put_entry_id};
use super::frame::{self, Frame};
use crate::error::{Error, Result};
use crate::raft::{Entries, EntryId, Envelope, Message, NodeId};
use crate::storage::applier::is_well_formed;
use crate::storage::record::{self, Kind, MAX_MEMBERS};
use crate::storage::state_hash::{Checkpoint, StateHash};

const KEEPALIVE: u8 = 16;
const PRE_VOTE: u8 = 17;
const PRE_VOTE_REPLY: u8 = 18;
const VOTE: u8 = 19;
const VOTE_REPLY: u8 = 20;
const APPEND: u8 = 21;
const APPENDED: u8 = 22;
const APPEND_REJECTED: u8 = 23;
const HEARTBEAT: u8 = 24;
const HEARTBEAT_REPLY: u8 = 25;
const SNAPSHOT: u8 = 26;
const SNAPSHOT_REPLY: u8 = 27;
const TIMEOUT_NOW: u8 = 28;
const ARRIVING: u8 = 29;
const STATE_HASH: u8 = 30;
const DIVERGED: u8 = 31;
const LAST_INDEX: u8 = 32;
const LAST_INDEX_REPLY: u8 = 33;

/// Longest membership within a message.
const CONFIG_MAX: usize = 8 + 2 * 4 * MAX_MEMBERS;

/// What a frame on an established link says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The sender lives and has nothing to say.
    Keepalive,
    /// Something about the states of the nodes.
    Note(Note),
    /// A message, and the records of an append: sealed, contiguous, each checked.
    Message {
        /// The message.
        envelope: Envelope,
        /// Empty unless it is an append.
        records: Vec<u8>,
    },
}

/// What nodes tell each other about their applied states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The hash of the sender's state.
    StateHash(Checkpoint),
    /// The receiver's state is not that of a majority.
    Diverged {
        /// Behind which entry.
        index: u64,
        /// What a majority has there.
        expected: StateHash,
        /// What the receiver has told.
        found: StateHash,
    },
}

/// Appends a note to `out`.
pub fn encode_note(out: &mut Vec<u8>, note: &Note) -> Result<()> {
    let put_head = |head: &mut Vec<u8>| match note {
        Note::StateHash(Checkpoint { index, hash }) => {
            head.push(STATE_HASH);
            put_u64s(head, &[*index, hash.number()]);
        }
        Note::Diverged { index, expected, found } => {
            head.push(DIVERGED);
            put_u64s(head, &[*index, expected.number(), found.number()]);
        }
    };
    frame::write(out, put_head, |_| Ok(()))
}

/// Appends a keepalive frame to `out`.
pub fn encode_keepalive(out: &mut Vec<u8>) -> Result<()> {
    frame::write(out, |head| head.push(KEEPALIVE), |_| Ok(()))
}

/// Appends a message to `out`; `records` appends the records of an append. On an error `out` is as before.
pub fn encode(out: &mut Vec<u8>, envelope: &Envelope, records: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    frame::write(out, |head| put_head(head, envelope), records)
}

fn put_head(out: &mut Vec<u8>, envelope: &Envelope) {
    out.push(kind_of(&envelope.message));
    out.extend_from_slice(&envelope.from.0.to_le_bytes());
    out.extend_from_slice(&envelope.to.0.to_le_bytes());
    put_u64s(out, &[envelope.term]);
    match &envelope.message {
        Message::PreVote { proposed_term, last } => {
            put_u64s(out, &[*proposed_term]);
            put_entry_id(out, *last);
        }
        Message::PreVoteReply { proposed_term, granted } => {
            put_u64s(out, &[*proposed_term]);
            out.push(u8::from(*granted));
        }
        Message::Vote { last, transfer } => {
            put_entry_id(out, *last);
            out.push(u8::from(*transfer));
        }
        Message::VoteReply { granted } => out.push(u8::from(*granted)),
        Message::Append { prev, entries, commit, round } => {
            put_entry_id(out, *prev);
            put_u64s(out, &[entries.count(), *commit, *round]);
        }
        Message::Appended { matched, round } => put_u64s(out, &[*matched, *round]),
        Message::AppendRejected { prev_index, hint, round } => {
            put_u64s(out, &[*prev_index]);
            put_entry_id(out, *hint);
            put_u64s(out, &[*round]);
        }
        Message::Heartbeat { commit, round } => put_u64s(out, &[*commit, *round]),
        Message::HeartbeatReply { round, verified, able } => {
            put_u64s(out, &[*round, *verified]);
            out.push(u8::from(*able));
        }
        Message::Snapshot { last, config } => {
            put_entry_id(out, *last);
            put_blob(out, &record::encode_config(config));
        }
        Message::SnapshotReply { matched } => put_u64s(out, &[*matched]),
        Message::TimeoutNow | Message::Arriving => {}
        Message::LastIndex { token } => put_u64s(out, &[*token]),
        Message::LastIndexReply { token, index } => put_u64s(out, &[*token, *index]),
    }
}

fn kind_of(message: &Message) -> u8 {
    match message {
        Message::PreVote { .. } => PRE_VOTE,
        Message::PreVoteReply { .. } => PRE_VOTE_REPLY,
        Message::Vote { .. } => VOTE,
        Message::VoteReply { .. } => VOTE_REPLY,
        Message::Append { .. } => APPEND,
        Message::Appended { .. } => APPENDED,
        Message::AppendRejected { .. } => APPEND_REJECTED,
        Message::Heartbeat { .. } => HEARTBEAT,
        Message::HeartbeatReply { .. } => HEARTBEAT_REPLY,
        Message::Snapshot { .. } => SNAPSHOT,
        Message::SnapshotReply { .. } => SNAPSHOT_REPLY,
        Message::TimeoutNow => TIMEOUT_NOW,
        Message::Arriving => ARRIVING,
        Message::LastIndex { .. } => LAST_INDEX,
        Message::LastIndexReply { .. } => LAST_INDEX_REPLY,
    }
}

fn put_u64s(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Reads what a frame says, and checks all of it.
pub fn decode(frame: Frame) -> Result<Said> {
    let Frame { head, records } = frame;
    let mut fields = Fields::new(&head);
    let kind = fields.u8()?;
    if kind != APPEND && !records.is_empty() {
        return Err(Error::Protocol(format!("a frame of kind {kind} with records, which belong to appends only")));
    }
    if kind == KEEPALIVE {
        fields.end()?;
        return Ok(Said::Keepalive);
    }
    if let STATE_HASH | DIVERGED = kind {
        let note = get_note(kind, &mut fields)?;
        fields.end()?;
        return Ok(Said::Note(note));
    }
    let (from, to) = (NodeId(fields.u32()?), NodeId(fields.u32()?));
    let term = fields.number()?;
    let message = get_message(kind, &mut fields, term, &records)?;
    fields.end()?;
    Ok(Said::Message { envelope: Envelope { from, to, term, message }, records })
}

fn get_note(kind: u8, fields: &mut Fields<'_>) -> Result<Note> {
    let index = fields.number()?;
    if index == 0 {
        return Err(bad("a state hash before the first entry"));
    }
    let mut hash = || match StateHash::from_number(fields.u64()?) {
        hash if hash.is_known() => Ok(hash),
        _ => Err(bad("an unknown state hash, which is not told")),
    };
    Ok(match kind {
        STATE_HASH => Note::StateHash(Checkpoint { index, hash: hash()? }),
        _ => Note::Diverged { index, expected: hash()?, found: hash()? },
    })
}

fn get_message(kind: u8, fields: &mut Fields<'_>, term: u64, records: &[u8]) -> Result<Message> {
    Ok(match kind {
        PRE_VOTE => Message::PreVote { proposed_term: fields.number()?, last: fields.entry_id()? },
        PRE_VOTE_REPLY => Message::PreVoteReply { proposed_term: fields.number()?, granted: fields.flag()? },
        VOTE => Message::Vote { last: fields.entry_id()?, transfer: fields.flag()? },
        VOTE_REPLY => Message::VoteReply { granted: fields.flag()? },
        APPEND => get_append(fields, term, records)?,
        APPENDED => Message::Appended { matched: fields.number()?, round: fields.number()? },
        APPEND_REJECTED => Message::AppendRejected { prev_index: fields.number()?, hint: fields.entry_id()?, round: fields.number()? },
        HEARTBEAT => Message::Heartbeat { commit: fields.number()?, round: fields.number()? },
        HEARTBEAT_REPLY => Message::HeartbeatReply { round: fields.number()?, verified: fields.number()?, able: fields.flag()? },
        SNAPSHOT => {
            let last = fields.entry_id()?;
            let config = record::decode_config(fields.blob(CONFIG_MAX)?);
            Message::Snapshot { last, config: config.ok_or_else(|| bad("a snapshot with a membership that is none"))? }
        }
        SNAPSHOT_REPLY => Message::SnapshotReply { matched: fields.number()? },
        TIMEOUT_NOW => Message::TimeoutNow,
        ARRIVING => Message::Arriving,
        LAST_INDEX => Message::LastIndex { token: fields.number()? },
        LAST_INDEX_REPLY => Message::LastIndexReply { token: fields.number()?, index: fields.number()? },
        other => return Err(bad(format!("a message of unknown kind {other}"))),
    })
}

fn get_append(fields: &mut Fields<'_>, term: u64, records: &[u8]) -> Result<Message> {
    let prev = fields.entry_id()?;
    let (count, commit, round) = (fields.number()?, fields.number()?, fields.number()?);
    let entries = outline(prev, term, records)?;
    if entries.count() != count {
        return Err(bad(format!("an append that announces {count} entries and carries {}", entries.count())));
    }
    Ok(Message::Append { prev, entries, commit, round })
}

/// The outline of an append's records. Each is checked: both CRCs, indexes that follow `prev` without a gap, terms that never fall
/// and never exceed the leader's.
fn outline(prev: EntryId, term: u64, records: &[u8]) -> Result<Entries> {
    let mut entries = Entries::default();
    let (mut rest, mut before) = (records, prev);
    while !rest.is_empty() {
        let at = records.len() - rest.len();
        let (entry, length) = record::parse(rest).map_err(|reason| bad(format!("a bad record {at} bytes into an append: {reason:?}")))?;
        let EntryId { term: entry_term, index } = entry.id;
        if before.index.checked_add(1) != Some(index) || entry_term == 0 || entry_term < before.term || entry_term > term {
            return Err(bad(format!("the entry {} behind {before} in an append of term {term}", entry.id)));
        }
        if !is_well_formed(&entry) {
            return Err(bad(format!("the entry {} whose operations do not follow the format", entry.id)));
        }
        entries.push(entry_term);
        if entry.kind == Kind::Config {
            let config = record::decode_config(entry.payload);
            entries.configs.push((index, config.ok_or_else(|| bad(format!("a bad membership in entry {}", entry.id)))?));
        }
        before = entry.id;
        rest = &rest[length..];
    }
    Ok(entries)
}

fn bad(reason: impl Into<String>) -> Error {
    Error::Protocol(reason.into())
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
