//! Lost entries, as frames. The node that mends its log asks, any other answers, also one that mends its own; one answer to each question,
//! on a connection that carries nothing else.
//!
//! | kind | frame | said by | fields |
//! |---|---|---|---|
//! | 64 | `Look` | asker | none |
//! | 65 | `Want` | asker | first, last, and committed index (8 bytes each), terms: how many (1 byte), then 8 bytes each |
//! | 66 | `Standing` | answerer | flags (1 byte: 1 running, 2 whole), last entry |
//! | 67 | `Records` | answerer | first index (8); the records follow the head |
//! | 68 | `Missing` | answerer | through (8), reason (1 byte: 0 damaged, 1 other, 2 compacted, 3 unsure) |
//!
//! `Look` is answered by `Standing`, `Want` by one of the others, about the first of the wanted entries and as many behind it as the
//! answerer likes. An entry's position is term, then index; both 0 for an empty log. What is in the records is not looked at here:
//! whoever wants them checks each one.

use super::fields::{Fields, put_entry_id};
use super::frame::{self, Frame};
use crate::error::{Error, Result};
use crate::raft::EntryId;
use crate::storage::mend::{Missing, PROOFS_MAX, Wanted};

const LOOK: u8 = 64;
const WANT: u8 = 65;
const STANDING: u8 = 66;
const RECORDS: u8 = 67;
const MISSING: u8 = 68;

const RUNNING: u8 = 1;
const WHOLE: u8 = 2;

/// How a node stands, as far as one that mends its log needs to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It takes part in the cluster.
    pub running: bool,
    /// Nothing of its log is lost, as far as it knows.
    pub whole: bool,
    /// The last entry of its log, lost ones counted as present.
    pub last: EntryId,
}

/// What a frame on such a connection says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// How do you stand?
    Look,
    /// What have you got of these entries?
    Want(Wanted),
    /// The answer to a look.
    Standing(Standing),
    /// The records of the first of the wanted entries.
    Records {
        /// Index of the first.
        first: u64,
        /// Their bytes; not checked.
        records: Vec<u8>,
    },
    /// There is no record of the first of the wanted entries.
    Missing {
        /// Index of the last one for which that is so.
        through: u64,
        /// Why.
        why: Missing,
    },
}

/// Appends a frame to `out`. On an error `out` is as before.
pub fn encode(out: &mut Vec<u8>, said: &Said) -> Result<()> {
    let put_records = |out: &mut Vec<u8>| {
        if let Said::Records { records, .. } = said {
            out.extend_from_slice(records);
        }
        Ok(())
    };
    frame::write(out, |head| put_head(head, said), put_records)
}

fn put_head(out: &mut Vec<u8>, said: &Said) {
    match said {
        Said::Look => out.push(LOOK),
        Said::Want(Wanted { first, last, terms, commit }) => {
            out.push(WANT);
            for number in [first, last, commit] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.push(terms.len().min(PROOFS_MAX) as u8);
            for term in terms.iter().take(PROOFS_MAX) {
                out.extend_from_slice(&term.to_le_bytes());
            }
        }
        Said::Standing(Standing { running, whole, last }) => {
            out.push(STANDING);
            out.push(if *running { RUNNING } else { 0 } | if *whole { WHOLE } else { 0 });
            put_entry_id(out, *last);
        }
        Said::Records { first, .. } => {
            out.push(RECORDS);
            out.extend_from_slice(&first.to_le_bytes());
        }
        Said::Missing { through, why } => {
            out.push(MISSING);
            out.extend_from_slice(&through.to_le_bytes());
            out.push(match why {
                Missing::Damaged => 0,
                Missing::Other => 1,
                Missing::Compacted => 2,
                Missing::Unsure => 3,
            });
        }
    }
}

/// Reads what a frame says, and checks everything but the records.
pub fn decode(frame: Frame) -> Result<Said> {
    let Frame { head, records } = frame;
    let mut fields = Fields::new(&head);
    let kind = fields.u8()?;
    if (kind == RECORDS) == records.is_empty() {
        return Err(Error::Protocol(format!("a frame of kind {kind} with {} bytes of records", records.len())));
    }
    let said = match kind {
        LOOK => Said::Look,
        WANT => {
            let (first, last, commit) = (fields.number()?, fields.number()?, fields.number()?);
            let count = usize::from(fields.u8()?);
            let terms = (0..count).map(|_| fields.number()).collect::<Result<Vec<u64>>>()?;
            let proved = (1..=PROOFS_MAX).contains(&count) && terms[0] > 0 && terms.is_sorted_by(|a, b| a < b);
            if first == 0 || last < first || !proved {
                return Err(Error::Protocol(format!("entries {first}..={last} are wanted, proved by {count} terms")));
            }
            Said::Want(Wanted { first, last, terms, commit })
        }
        STANDING => match fields.u8()? {
            flags if flags & !(RUNNING | WHOLE) != 0 => return Err(Error::Protocol(format!("unknown flags {flags:#04x} of a standing"))),
            flags => Said::Standing(Standing { running: flags & RUNNING != 0, whole: flags & WHOLE != 0, last: fields.entry_id()? }),
        },
        RECORDS => Said::Records { first: fields.number()?, records },
        MISSING => {
            let (through, reason) = (fields.number()?, fields.u8()?);
            let why = match reason {
                0 => Missing::Damaged,
                1 => Missing::Other,
                2 => Missing::Compacted,
                3 => Missing::Unsure,
                other => return Err(Error::Protocol(format!("entries are missing for the unknown reason {other}"))),
            };
            Said::Missing { through, why }
        }
        other => return Err(Error::Protocol(format!("a frame of unknown kind {other} on a connection for mending"))),
    };
    fields.end()?;
    Ok(said)
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

    fn said() -> impl Strategy<Value = Said> {
        let number = || 1..=1_u64 << 62;
        let terms = proptest::collection::btree_set(number(), 1..=PROOFS_MAX);
        let want = (number(), 0..1000_u64, terms, number()).prop_map(|(first, more, terms, commit)| {
            Said::Want(Wanted { first, last: (first + more).min(1 << 62), terms: terms.into_iter().collect(), commit })
        });
        let standing = (any::<bool>(), any::<bool>(), number(), number())
            .prop_map(|(running, whole, term, index)| Said::Standing(Standing { running, whole, last: EntryId { term, index } }));
        let records =
            (number(), proptest::collection::vec(any::<u8>(), 1..99)).prop_map(|(first, records)| Said::Records { first, records });
        let why = prop_oneof![Just(Missing::Damaged), Just(Missing::Unsure), Just(Missing::Other), Just(Missing::Compacted)];
        let missing = (number(), why).prop_map(|(through, why)| Said::Missing { through, why });
        prop_oneof![Just(Said::Look), want, standing, records, missing]
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
        fn arbitrary_fields_never_panic(kind in 60..75_u8, fields in proptest::collection::vec(any::<u8>(), 0..80), more in any::<bool>()) {
            let head = [&[kind][..], &fields].concat();
            let _ = decode(Frame { head, records: vec![0; usize::from(more)] });
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let want = |first, last, terms: &[u64], commit| Said::Want(Wanted { first, last, terms: terms.to_vec(), commit });
        assert!(read_back(&bytes_of(&want(1, 5, &[1], 0))).is_ok());
        let wrong = [
            want(0, 5, &[1], 0),
            want(6, 5, &[1], 0),
            want(1, 5, &[0, 1], 0),
            want(1, 5, &[], 9),
            want(1, 5, &[2, 2], 0),
            want(1, 1 << 63, &[1], 0),
            want(1, 5, &[1], 1 << 63),
            Said::Standing(Standing { last: EntryId { term: 0, index: 1 }, ..Standing::default() }),
            Said::Records { first: 1, records: Vec::new() },
        ];
        for said in wrong {
            assert!(read_back(&bytes_of(&said)).is_err(), "{said:?}");
        }
        for head in [&[STANDING, 4, 0][..], &[MISSING, 1, 0, 0, 0, 0, 0, 0, 0, 4], &[LOOK, 0]] {
            assert!(decode(Frame { head: head.to_vec(), records: Vec::new() }).is_err(), "{head:?}");
        }
        assert!(decode(Frame { head: vec![LOOK], records: vec![0] }).is_err(), "records belong to `Records`");
    }
}
