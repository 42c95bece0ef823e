//! Frames survive the way there and back; frames that were cut, bent or made up are refused, and nothing panics.

use std::io::Cursor;

use proptest::prelude::*;

use super::super::handshake::{Greeting, Hello, LinkClass, PEER_PROTOCOL};
use super::*;
use crate::raft::Config;
use crate::storage::directory::{Founding, FoundingMember};
use crate::storage::record::{Operation, encode, encode_operation, seal};

/// Sealed records of the given terms behind `prev`; every third one changes the membership.
fn records(prev: EntryId, terms: &[u64]) -> Vec<u8> {
    let mut all = Vec::new();
    for (offset, &term) in terms.iter().enumerate() {
        let start = all.len();
        match offset % 3 {
            0 => encode_operation(&mut all, &Operation::Set { key: b"key", value: &vec![7; offset * 10] }),
            1 => encode(&mut all, Kind::Config, &record::encode_config(&membership(&[1, 2, 5]))),
            _ => encode(&mut all, Kind::NoOp, &[]),
        }
        seal(&mut all[start..], EntryId { term, index: prev.index + 1 + offset as u64 });
    }
    all
}

fn membership(voters: &[u32]) -> Config {
    Config { voters: voters.iter().copied().map(NodeId).collect(), learners: vec![NodeId(40)] }
}

fn append(term: u64, prev: EntryId, terms: &[u64]) -> (Envelope, Vec<u8>) {
    let mut entries = Entries::default();
    terms.iter().for_each(|&term| entries.push(term));
    let config_at = |offset: usize| (prev.index + 1 + offset as u64, membership(&[1, 2, 5]));
    entries.configs = (0..terms.len()).filter(|offset| offset % 3 == 1).map(config_at).collect();
    let message = Message::Append { prev, entries, commit: 3, round: 9 };
    (Envelope { from: NodeId(1), to: NodeId(2), term, message }, records(prev, terms))
}

fn bytes_of(envelope: &Envelope, records: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    super::encode(&mut out, envelope, |out| {
        out.extend_from_slice(records);
        Ok(())
    })
    .expect("the frame is within the limits");
    out
}

fn read_back(bytes: &[u8]) -> Result<Option<Said>> {
    frame::read(&mut Cursor::new(bytes))?.map(decode).transpose()
}

fn hello() -> Hello {
    let founding = Founding {
        cluster: 77,
        members: vec![FoundingMember { id: "a:1".into(), uuid: 5 }, FoundingMember { id: "b:2".into(), uuid: u128::MAX }],
    };
    Hello {
        versions: (PEER_PROTOCOL, PEER_PROTOCOL),
        features: 3,
        cluster: 77,
        id: "a:1".into(),
        client_address: "a:1001".into(),
        uuid: 5,
        boot: 2,
        nonce: 9,
        attempt: 4,
        term: 6,
        last: EntryId { term: 5, index: 10 },
        link: LinkClass::Bulk,
        members: vec!["a:1".into(), "b:2".into()],
        founding: Some(founding),
        credential: vec![1, 2, 3],
    }
}

fn entry_id() -> impl Strategy<Value = EntryId> {
    prop_oneof![Just(EntryId::default()), (1..=1_u64 << 62, 1..=1_u64 << 62).prop_map(|(term, index)| EntryId { term, index })]
}

fn message() -> impl Strategy<Value = Message> {
    let number = || 0..=1_u64 << 62;
    prop_oneof![
        (number(), entry_id()).prop_map(|(proposed_term, last)| Message::PreVote { proposed_term, last }),
        (number(), any::<bool>()).prop_map(|(proposed_term, granted)| Message::PreVoteReply { proposed_term, granted }),
        (entry_id(), any::<bool>()).prop_map(|(last, transfer)| Message::Vote { last, transfer }),
        any::<bool>().prop_map(|granted| Message::VoteReply { granted }),
        (number(), number()).prop_map(|(matched, round)| Message::Appended { matched, round }),
        (number(), entry_id(), number()).prop_map(|(prev_index, hint, round)| Message::AppendRejected { prev_index, hint, round }),
        (number(), number()).prop_map(|(commit, round)| Message::Heartbeat { commit, round }),
        (number(), number(), any::<bool>()).prop_map(|(round, verified, able)| Message::HeartbeatReply { round, verified, able }),
        entry_id().prop_map(|last| Message::Snapshot { last, config: membership(&[1, 2, 5]) }),
        number().prop_map(|matched| Message::SnapshotReply { matched }),
        Just(Message::TimeoutNow),
        Just(Message::Arriving),
        number().prop_map(|token| Message::LastIndex { token }),
        (number(), number()).prop_map(|(token, index)| Message::LastIndexReply { token, index }),
    ]
}

fn envelope() -> impl Strategy<Value = Envelope> {
    (any::<u32>(), any::<u32>(), 0..=1_u64 << 62, message()).prop_map(|(from, to, term, message)| Envelope {
        from: NodeId(from),
        to: NodeId(to),
        term,
        message,
    })
}

proptest! {
    #[test]
    fn every_message_survives_its_bytes(envelope in envelope()) {
        let said = read_back(&bytes_of(&envelope, &[])).expect("a good frame").expect("not the end");
        prop_assert_eq!(said, Said::Message { envelope, records: Vec::new() });
    }

    #[test]
    fn every_note_survives_its_bytes(index in 1..=1u64 << 62, hashes in any::<(u64, u64)>(), is_hash in any::<bool>(), cut in 1..20usize) {
        let hash = |hash: u64| StateHash::from_number(hash.max(1));
        let note = if is_hash {
            Note::StateHash(Checkpoint { index, hash: hash(hashes.0) })
        } else {
            Note::Diverged { index, expected: hash(hashes.0), found: hash(hashes.1) }
        };
        let mut bytes = Vec::new();
        encode_note(&mut bytes, &note).expect("within the limits");
        prop_assert_eq!(read_back(&bytes).expect("a good frame"), Some(Said::Note(note)));
        prop_assert!(read_back(&bytes[..bytes.len() - cut.min(bytes.len() - 1)]).is_err());
    }

    #[test]
    fn every_append_survives_its_bytes(mut terms in proptest::collection::vec(1..9u64, 0..20), index in 1..99u64) {
        terms.sort_unstable();
        let (envelope, records) = append(9, EntryId { term: 1, index }, &terms);
        let said = read_back(&bytes_of(&envelope, &records)).expect("a good frame").expect("not the end");
        prop_assert_eq!(said, Said::Message { envelope, records });
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_back(&bytes);
        let frame = Frame { head: bytes.clone(), records: Vec::new() };
        let _ = Greeting::decode(&frame);
        let _ = decode(frame);
    }

    #[test]
    fn arbitrary_fields_never_panic(kind in 0..40u8, mut bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..200usize) {
        bytes.insert(0, kind);
        let _ = decode(Frame { head: bytes.clone(), records: Vec::new() });
        let records = bytes.split_off(cut.min(bytes.len()));
        let _ = decode(Frame { head: bytes, records });
    }

    #[test]
    fn a_bent_hello_never_panics(at in 0..200usize, value in any::<u8>()) {
        let bytes = Greeting::Hello(Box::new(hello())).encode().expect("within the limits");
        let mut frame = frame::read(&mut Cursor::new(&bytes)).expect("a good frame").expect("not the end");
        let at = at % frame.head.len();
        frame.head[at] = value;
        let _ = Greeting::decode(&frame);
    }
}

#[test]
fn a_flipped_bit_anywhere_in_an_append_is_refused() {
    let (envelope, records) = append(4, EntryId { term: 1, index: 8 }, &[1, 2, 2, 4]);
    let good = bytes_of(&envelope, &records);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read_back(&bad).is_err(), "bit {bit} of {} was flipped and the frame accepted", good.len() * 8);
    }
}

#[test]
fn a_cut_frame_is_refused_at_every_length() {
    let (envelope, records) = append(4, EntryId { term: 1, index: 8 }, &[1, 2, 2, 4]);
    let good = bytes_of(&envelope, &records);
    assert!(read_back(&[]).expect("the end between frames is no error").is_none());
    for end in 1..good.len() {
        assert!(read_back(&good[..end]).is_err(), "cut at {end} of {}", good.len());
    }
}

#[test]
fn an_announced_length_reserves_nothing() {
    for (head, records) in [(u32::MAX, 0), (0, 0), (1, u32::MAX), (frame::HEAD_MAX as u32 + 1, 0)] {
        let prefix = [head.to_le_bytes(), records.to_le_bytes(), [0; 4]].concat();
        assert!(matches!(read_back(&prefix), Err(Error::Protocol(_))), "head {head}, records {records}");
    }
}

#[test]
fn a_stranger_cannot_send_records() {
    let (envelope, records) = append(4, EntryId::default(), &[1]);
    let bytes = bytes_of(&envelope, &records);
    assert!(matches!(frame::read_head(&mut Cursor::new(&bytes[..frame::PREFIX_BYTES])), Err(Error::Protocol(_))));
}

#[test]
fn records_that_do_not_follow_are_refused() {
    let refused = |term: u64, prev: EntryId, records: &[u8], count: u64| {
        let mut entries = Entries::default();
        (0..count).for_each(|_| entries.push(1));
        let message = Message::Append { prev, entries, commit: 0, round: 0 };
        let envelope = Envelope { from: NodeId(1), to: NodeId(2), term, message };
        read_back(&bytes_of(&envelope, records)).is_err()
    };
    let prev = EntryId { term: 2, index: 8 };
    let good = records(prev, &[2, 3]);
    assert!(!refused(3, prev, &good, 2));
    assert!(refused(3, prev, &good, 3), "fewer entries than announced");
    assert!(refused(3, prev, &good, 1), "more entries than announced");
    assert!(refused(2, prev, &good, 2), "an entry above the leader's term");
    assert!(refused(3, EntryId { term: 2, index: 7 }, &good, 2), "a gap behind the previous entry");
    assert!(refused(3, EntryId { term: 3, index: 8 }, &good, 2), "a term below the previous entry's");
    assert!(refused(3, prev, &records(prev, &[3, 2]), 2), "terms that fall");
    assert!(refused(3, EntryId { term: 1, index: u64::MAX }, &good, 2), "no index is left");
    assert!(refused(3, EntryId::default(), &records(EntryId::default(), &[0]), 1), "an entry of term 0");
}

#[test]
fn a_record_with_good_checksums_and_operations_that_are_none_is_refused() {
    for (kind, payload) in [(Kind::Command, &b"not an operation"[..]), (Kind::Command, b""), (Kind::NoOp, b"payload")] {
        let mut record = Vec::new();
        encode(&mut record, kind, payload);
        seal(&mut record, EntryId { term: 1, index: 1 });
        let mut entries = Entries::default();
        entries.push(1);
        let message = Message::Append { prev: EntryId::default(), entries, commit: 0, round: 0 };
        let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: 1, message };
        assert!(matches!(read_back(&bytes_of(&envelope, &record)), Err(Error::Protocol(_))), "{kind:?} {payload:?}");
    }
}

#[test]
fn greetings_survive_their_bytes() {
    let refusal = Greeting::Refusal("we differ".into());
    for greeting in [Greeting::Hello(Box::new(hello())), Greeting::Welcome(Box::new(hello())), refusal] {
        let bytes = greeting.encode().expect("within the limits");
        let frame = frame::read(&mut Cursor::new(&bytes)).expect("a good frame").expect("not the end");
        assert_eq!(Greeting::decode(&frame).expect("a good greeting"), greeting);
    }
}

#[test]
fn a_failed_encoding_leaves_nothing_behind() {
    let (envelope, _) = append(4, EntryId::default(), &[]);
    let mut out = vec![1, 2, 3];
    let failed = super::encode(&mut out, &envelope, |out| {
        out.extend_from_slice(&[9; 100]);
        Err(Error::Closed)
    });
    assert!(failed.is_err());
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn a_state_hash_that_nobody_would_compare_is_refused() {
    let hash = StateHash::START;
    for (note, word) in [
        (Note::StateHash(Checkpoint { index: 0, hash }), "before the first"),
        (Note::StateHash(Checkpoint { index: 1 << 63, hash }), "where a term"),
        (Note::StateHash(Checkpoint { index: 9, hash: StateHash::UNKNOWN }), "unknown"),
        (Note::Diverged { index: 9, expected: hash, found: StateHash::UNKNOWN }, "unknown"),
    ] {
        let mut bytes = Vec::new();
        encode_note(&mut bytes, &note).expect("within the limits");
        let error = read_back(&bytes).expect_err("nobody would compare it").to_string();
        assert!(error.contains(word), "{note:?}: {error}");
    }
}
