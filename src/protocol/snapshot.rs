//! A snapshot on its way, as frames. It has a connection of its own, so that nothing else ever waits behind it, and this one is spoken in
//! both directions: the sender waits for answers, so that neither side holds more than a few chunks, and after a break the receiver names
//! the place from which to go on.
//!
//! | kind | frame | said by | fields |
//! |---|---|---|---|
//! | 48 | `Begin` | sender | term, last, state hash behind it (8 bytes), transfer (8), files (4), bytes (8) |
//! | 49 | `Resume` | receiver | position |
//! | 50 | `Chunk` | sender | position, count (4); as many records follow the head |
//! | 51 | `Ack` | receiver | position |
//! | 52 | `End` | sender | none |
//! | 53 | `Done` | receiver | none |
//! | 54 | `Failed` | receiver | text behind two bytes of length |
//!
//! A position is the number of a file (4 bytes), then the number of a record within it (4). Terms are eight bytes; `last` is term, then
//! index. The order is `Begin`, `Resume`, then chunks, each answered by an `Ack` that names the place behind it, then `End` and `Done`.
//! While the receiver is busy it repeats its last `Ack`, to show that it lives. In place of any answer it may say `Failed` and why; the
//! transfer is over then. What is in the records is not looked at here: whoever stores them checks each one.

use super::fields::{Fields, put_blob, put_entry_id};
use super::frame::{self, Frame};
use super::handshake::REASON_MAX;
use crate::error::{Error, Result};
use crate::raft::EntryId;
use crate::storage::snapshot::Position;
use crate::storage::state_hash::StateHash;

const BEGIN: u8 = 48;
const RESUME: u8 = 49;
const CHUNK: u8 = 50;
const ACK: u8 = 51;
const END: u8 = 52;
const DONE: u8 = 53;
const FAILED: u8 = 54;

/// Names a transfer, to whoever takes it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The term in which the sender leads.
    pub term: u64,
    /// The last entry that the snapshot includes.
    pub last: EntryId,
    /// The hash of the state behind it.
    pub hash: StateHash,
    /// Drawn for each transfer; the same again when a broken one goes on.
    pub transfer: u64,
    /// How many files the sender reads; for people.
    pub files: u32,
    /// Bytes of records that will come at least: without room for them the receiver need not begin.
    pub bytes: u64,
}

/// What a frame on such a connection says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A transfer begins or goes on.
    Begin(Begin),
    /// The next record wanted.
    Resume(Position),
    /// Records, all from one file.
    Chunk {
        /// Where the first one comes from.
        from: Position,
        /// How many they are, at least one.
        count: u32,
        /// Their bytes; not checked.
        records: Vec<u8>,
    },
    /// Everything before this place has been taken over.
    Ack(Position),
    /// That was the last record.
    End,
    /// The snapshot is durable, and the receiver's log knows of it.
    Done,
    /// It cannot be taken over; text for a person.
    Failed(String),
}

/// The place behind `count` records from `from` on; `None` if there is no such place.
pub fn behind(from: Position, count: u32) -> Option<Position> {
    Some(Position { file: from.file, record: from.record.checked_add(count)? })
}

/// Appends a frame to `out`. On an error `out` is as before.
pub fn encode(out: &mut Vec<u8>, said: &Said) -> Result<()> {
    let put_records = |out: &mut Vec<u8>| {
        if let Said::Chunk { records, .. } = said {
            out.extend_from_slice(records);
        }
        Ok(())
    };
    frame::write(out, |head| put_head(head, said), put_records)
}

fn put_head(out: &mut Vec<u8>, said: &Said) {
    match said {
        Said::Begin(Begin { term, last, hash, transfer, files, bytes }) => {
            out.push(BEGIN);
            out.extend_from_slice(&term.to_le_bytes());
            put_entry_id(out, *last);
            out.extend_from_slice(&hash.number().to_le_bytes());
            out.extend_from_slice(&transfer.to_le_bytes());
            out.extend_from_slice(&files.to_le_bytes());
            out.extend_from_slice(&bytes.to_le_bytes());
        }
        Said::Resume(position) => {
            out.push(RESUME);
            put_position(out, *position);
        }
        Said::Chunk { from, count, .. } => {
            out.push(CHUNK);
            put_position(out, *from);
            out.extend_from_slice(&count.to_le_bytes());
        }
        Said::Ack(position) => {
            out.push(ACK);
            put_position(out, *position);
        }
        Said::End => out.push(END),
        Said::Done => out.push(DONE),
        Said::Failed(reason) => {
            out.push(FAILED);
            put_blob(out, &reason.as_bytes()[..reason.floor_char_boundary(REASON_MAX)]);
        }
    }
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(&position.file.to_le_bytes());
    out.extend_from_slice(&position.record.to_le_bytes());
}

/// Reads what a frame says, and checks everything but the records.
pub fn decode(frame: Frame) -> Result<Said> {
    let Frame { head, records } = frame;
    let mut fields = Fields::new(&head);
    let kind = fields.u8()?;
    if (kind == CHUNK) == records.is_empty() {
        return Err(Error::Protocol(format!("a frame of kind {kind} with {} bytes of records", records.len())));
    }
    let said = match kind {
        BEGIN => Said::Begin(get_begin(&mut fields)?),
        RESUME => Said::Resume(get_position(&mut fields)?),
        CHUNK => {
            let (from, count) = (get_position(&mut fields)?, fields.u32()?);
            if count == 0 || behind(from, count).is_none() {
                return Err(Error::Protocol(format!("{count} records from {from:?} on")));
            }
            Said::Chunk { from, count, records }
        }
        ACK => Said::Ack(get_position(&mut fields)?),
        END => Said::End,
        DONE => Said::Done,
        FAILED => Said::Failed(fields.text(REASON_MAX)?),
        other => return Err(Error::Protocol(format!("a frame of unknown kind {other} on a snapshot's connection"))),
    };
    fields.end()?;
    Ok(said)
}

fn get_begin(fields: &mut Fields<'_>) -> Result<Begin> {
    let begin = Begin {
        term: fields.number()?,
        last: fields.entry_id()?,
        hash: StateHash::from_number(fields.u64()?),
        transfer: fields.u64()?,
        files: fields.u32()?,
        bytes: fields.u64()?,
    };
    if begin.last.index == 0 || begin.last.term > begin.term {
        return Err(Error::Protocol(format!("a snapshot up to {} in term {}", begin.last, begin.term)));
    }
    Ok(begin)
}

fn get_position(fields: &mut Fields<'_>) -> Result<Position> {
    Ok(Position { file: fields.u32()?, record: fields.u32()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_back(bytes: &[u8]) -> Result<Option<Said>> {
        frame::read(&mut &bytes[..])?.map(decode).transpose()
    }

    fn bytes_of(said: &Said) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, said).expect("within the limits");
        out
    }

    fn position() -> impl Strategy<Value = Position> {
        (any::<u32>(), any::<u32>()).prop_map(|(file, record)| Position { file, record })
    }

    fn said() -> impl Strategy<Value = Said> {
        let begin =
            (1..9_u64, 1..=1_u64 << 62, any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(term, index, transfer, files, bytes)| {
                let hash = StateHash::from_number(bytes ^ transfer);
                Said::Begin(Begin { term: term + 1, last: EntryId { term, index }, hash, transfer, files, bytes })
            });
        let chunk = (any::<u32>(), 0..1_u32 << 31, 1..1_u32 << 31, proptest::collection::vec(any::<u8>(), 1..99));
        let chunk = chunk.prop_map(|(file, record, count, records)| Said::Chunk { from: Position { file, record }, count, records });
        let end = prop_oneof![Just(Said::End), Just(Said::Done), ".{0,200}".prop_map(Said::Failed)];
        prop_oneof![begin, position().prop_map(Said::Resume), chunk, position().prop_map(Said::Ack), end]
    }

    proptest! {
        #[test]
        fn every_frame_survives_its_bytes(said in said()) {
            prop_assert_eq!(read_back(&bytes_of(&said)).expect("a good frame"), Some(said));
        }

        #[test]
        fn a_frame_that_was_cut_is_refused(said in said(), cut in 1..40_usize) {
            let bytes = bytes_of(&said);
            prop_assert!(read_back(&bytes[..bytes.len() - cut.min(bytes.len() - 1)]).is_err());
        }

        #[test]
        fn arbitrary_fields_never_panic(kind in 40..60_u8, fields in proptest::collection::vec(any::<u8>(), 0..80), more in any::<bool>()) {
            let head = [&[kind][..], &fields].concat();
            let _ = decode(Frame { head, records: vec![0; usize::from(more)] });
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let begin = Begin { term: 3, last: EntryId { term: 3, index: 9 }, hash: StateHash::START, transfer: 1, files: 1, bytes: 1 };
        let from = Position { file: 0, record: u32::MAX };
        let head = |said: &Said| frame::read(&mut &bytes_of(said)[..]).expect("a frame").expect("not the end");
        for (said, word) in [
            (Said::Begin(Begin { last: EntryId::default(), ..begin }), "up to 0:0"),
            (Said::Begin(Begin { last: EntryId { term: 4, index: 9 }, ..begin }), "in term 3"),
            (Said::Chunk { from, count: 1, records: vec![1] }, "1 records"),
            (Said::Chunk { from: Position::default(), count: 0, records: vec![1] }, "0 records"),
            (Said::Chunk { from: Position::default(), count: 1, records: Vec::new() }, "0 bytes of records"),
        ] {
            let error = decode(head(&said)).expect_err("it cannot be meant").to_string();
            assert!(error.contains(word), "{said:?}: {error}");
        }
        let end = Frame { records: vec![0], ..head(&Said::End) };
        assert!(decode(end).expect_err("records belong to chunks").to_string().contains("1 bytes of records"));
        let long = Frame { head: [&[END][..], &[0]].concat(), records: Vec::new() };
        assert!(decode(long).is_err(), "a byte too many");
        let reason = "ä".repeat(REASON_MAX);
        let Some(Said::Failed(cut)) = read_back(&bytes_of(&Said::Failed(reason.clone()))).expect("a good frame") else { panic!("Failed") };
        assert!(reason.starts_with(&cut) && cut.len() == REASON_MAX);
    }
}
