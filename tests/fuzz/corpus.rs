//! The corpus: files under `corpus/TARGET/`, each an input. Those named `sound-…` are made here, so that they follow the format when it
//! grows: `APEXKV_BLESS=1` writes them anew. All others were found by fuzzing, are kept as small as they can be, and have a test.

use std::path::{Path, PathBuf};

use apexkv::protocol::frame;
use apexkv::protocol::handshake::{Greeting, Hello, LinkClass};
use apexkv::protocol::mend::{self, Said as Asked, Standing};
use apexkv::protocol::peer::{self, Note};
use apexkv::protocol::snapshot::{self, Begin, Said as Carried};
use apexkv::raft::{Config, Entries, EntryId, Envelope, Message, NodeId};
use apexkv::storage::directory::{Founding, FoundingMember};
use apexkv::storage::mend::{Missing, Wanted};
use apexkv::storage::record::{self, Operation};
use apexkv::storage::snapshot::Position;
use apexkv::storage::state_hash::{Checkpoint, StateHash};
use apexkv_client::protocol::{Command, Extension, SCAN_KEYS_ONLY, Status, encode_extended_request, encode_request, encode_response};

use super::properties::alone;
use super::targets::{TARGETS, directory};

/// Most bytes of all files together.
const CORPUS_BYTES_MAX: u64 = 200 << 10;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// All inputs of a target, with their names.
pub(crate) fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder(target)).expect("each target has a corpus") {
        let path = entry.expect("the corpus is readable").path();
        found.push((path.display().to_string(), std::fs::read(&path).expect("the corpus is readable")));
    }
    found.sort();
    found
}

fn client_frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut plain = vec![0];
    encode_request(&mut plain, Command::Set, b"key", &[b"value"]);
    encode_request(&mut plain, Command::Cas, b"key", &[&3u64.to_le_bytes(), b"new"]);
    encode_request(&mut plain, Command::Get, b"key", &[]);
    encode_request(&mut plain, Command::Del, b"key", &[]);
    encode_request(&mut plain, Command::Getv, b"k", &[]);
    encode_request(&mut plain, Command::Ping, b"", &[b"are you there"]);
    encode_request(&mut plain, Command::Status, b"", &[]);
    encode_request(&mut plain, Command::Scan, b"k", &[&7u32.to_le_bytes(), &[SCAN_KEYS_ONLY], b"key"]);
    let mut extended = vec![1];
    for (command, key, value) in [(Command::Set, &b"key"[..], &b"value"[..]), (Command::Get, b"key", b""), (Command::Ping, b"", b"ping")] {
        let extension = Extension { request_id: 5, deadline_ms: 100, ..Extension::default() };
        encode_extended_request(&mut extended, command, key, &[value], extension);
    }
    let mut answer = vec![0];
    encode_response(&mut answer, Status::Conflict, &[&9u64.to_le_bytes()], Some(4));
    let mut page = vec![0, 1, b'k', 1];
    for key in [b"k1", b"k2"] {
        page.extend_from_slice(&[&2u32.to_le_bytes()[..], &5u32.to_le_bytes(), &6u64.to_le_bytes(), key, b"value"].concat());
    }
    page.remove(1);
    vec![("sound-requests", plain), ("sound-extended", extended), ("sound-response", answer), ("sound-page", page)]
}

fn envelope(message: Message) -> Envelope {
    Envelope { from: NodeId(1), to: NodeId(2), term: 3, message }
}

fn peer_frames() -> Vec<(&'static str, Vec<u8>)> {
    let id = |term, index| EntryId { term, index };
    let config = Config { voters: vec![NodeId(1), NodeId(2)], learners: vec![NodeId(5)] };
    let messages = [
        Message::PreVote { proposed_term: 4, last: id(3, 9) },
        Message::PreVoteReply { proposed_term: 4, granted: true },
        Message::Vote { last: id(3, 9), transfer: false },
        Message::VoteReply { granted: true },
        Message::Appended { matched: 9, round: 2 },
        Message::AppendRejected { prev_index: 9, hint: id(2, 4), round: 2 },
        Message::Heartbeat { commit: 7, round: 2 },
        Message::HeartbeatReply { round: 2, verified: 9, able: true },
        Message::Snapshot { last: id(3, 9), config: config.clone() },
        Message::SnapshotReply { matched: 9 },
        Message::TimeoutNow,
        Message::Arriving,
        Message::LastIndex { token: 6 },
        Message::LastIndexReply { token: 6, index: 9 },
    ];
    let mut small = vec![0];
    peer::encode_keepalive(&mut small).expect("within limits");
    let hash = StateHash::START;
    for note in [Note::StateHash(Checkpoint { index: 1024, hash }), Note::Diverged { index: 1024, expected: hash, found: hash }] {
        peer::encode_note(&mut small, &note).expect("within limits");
    }
    for message in messages {
        peer::encode(&mut small, &envelope(message), |_| Ok(())).expect("within limits");
    }
    let mut records = Vec::new();
    let operations = [Operation::Set { key: b"a", value: b"1" }, Operation::Delete { key: b"b" }];
    let set = |out: &mut Vec<u8>, index| {
        let start = out.len();
        record::encode_operation(out, &operations[index as usize % 2]);
        record::seal(&mut out[start..], id(3, index));
    };
    (5..8).for_each(|index| set(&mut records, index));
    let start = records.len();
    record::encode(&mut records, record::Kind::Config, &record::encode_config(&config));
    record::seal(&mut records[start..], id(3, 8));
    let mut entries = Entries { runs: Vec::new(), configs: vec![(8, config)] };
    (5..9).for_each(|_| entries.push(3));
    let append = Message::Append { prev: id(2, 4), entries, commit: 4, round: 1 };
    let mut bulk = vec![0];
    let put = |out: &mut Vec<u8>| {
        out.extend_from_slice(&records);
        Ok(())
    };
    peer::encode(&mut bulk, &envelope(append), put).expect("within limits");
    let listed = as_list(&bulk[1..]);
    let transfer = transfer(&records);
    vec![
        ("sound-messages", small),
        ("sound-append", bulk),
        ("sound-append-listed", listed),
        ("sound-snapshot", transfer),
        ("sound-mending", mending(&records)),
    ]
}

/// All that is said while a log is mended.
fn mending(records: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    for said in [
        Asked::Look,
        Asked::Standing(Standing { running: true, whole: true, last: EntryId { term: 3, index: 9 } }),
        Asked::Want(Wanted { first: 4, last: 9, terms: vec![3, 5], commit: 7 }),
        Asked::Records { first: 4, records: records.to_vec() },
        Asked::Missing { through: 6, why: Missing::Damaged },
        Asked::Missing { through: 8, why: Missing::Other },
        Asked::Missing { through: 9, why: Missing::Compacted },
        Asked::Missing { through: 9, why: Missing::Unsure },
    ] {
        mend::encode(&mut frames, &said).expect("within limits");
    }
    as_list(&frames)
}

/// All that is said while a snapshot is sent.
fn transfer(records: &[u8]) -> Vec<u8> {
    let begin = Begin { term: 3, last: EntryId { term: 3, index: 9 }, transfer: 5, files: 2, bytes: 400, hash: StateHash::START };
    let (from, behind) = (Position { file: 1, record: 2 }, Position { file: 1, record: 6 });
    let mut frames = Vec::new();
    for said in [
        Carried::Begin(begin),
        Carried::Resume(from),
        Carried::Chunk { from, count: 4, records: records.to_vec() },
        Carried::Ack(behind),
        Carried::End,
        Carried::Done,
        Carried::Failed("no room".to_owned()),
    ] {
        snapshot::encode(&mut frames, &said).expect("within limits");
    }
    as_list(&frames)
}

/// The form in which checksums are set right later.
fn as_list(frames: &[u8]) -> Vec<u8> {
    let mut list = vec![1];
    let mut rest = frames;
    while let Ok(Some(frame)) = frame::read(&mut rest) {
        list.extend_from_slice(&(frame.head.len() as u16).to_le_bytes());
        list.extend_from_slice(&(frame.records.len() as u16).to_le_bytes());
        list.extend_from_slice(&frame.head);
        list.extend_from_slice(&frame.records);
    }
    list
}

fn handshake() -> Vec<(&'static str, Vec<u8>)> {
    let members: Vec<FoundingMember> = [("a:1", 1), ("b:1", 2)].map(|(id, uuid)| FoundingMember { id: id.to_owned(), uuid }).into();
    let hello = Hello {
        versions: (1, 1),
        features: 0,
        cluster: 9,
        id: "b:1".to_owned(),
        client_address: "b:1001".to_owned(),
        uuid: 2,
        boot: 5,
        nonce: 6,
        attempt: 1,
        term: 7,
        last: EntryId { term: 7, index: 9 },
        link: LinkClass::Control,
        members: members.iter().map(|member| member.id.clone()).collect(),
        founding: Some(Founding { cluster: 9, members }),
        credential: Vec::new(),
    };
    let frame = |greeting: Greeting| greeting.encode().expect("within limits");
    let (hello, refusal) = (frame(Greeting::Hello(Box::new(hello))), frame(Greeting::Refusal("no".to_owned())));
    vec![("sound-hello", [&[0], &hello[..]].concat()), ("sound-hello-listed", as_list(&hello)), ("sound-refusal", as_list(&refusal))]
}

fn segments() -> Vec<(&'static str, Vec<u8>)> {
    let (bytes, end) = directory::segment(2);
    let batches = [&[3], &bytes[4096..end as usize]].concat();
    // A bit of a value, a commit index, a length, a torn last batch.
    let changes = [&[0, 1, 0x50, 0x10, 0xFF][..], &[7, 0x50, 0x10, 4, 0, 0, 0, 0, 0, 0, 0], &[4, 0x30, 0x10, 0xFF, 0xFF, 0xFF, 0xFF]];
    let torn = [2, (end - 96) as u8, ((end - 96) >> 8) as u8, 200];
    vec![
        ("sound-unchanged", vec![0]),
        ("sound-batches", batches),
        ("changed", [&[1], &changes.concat()[1..]].concat()),
        ("torn", [&[1, 10], &torn[1..]].concat()),
    ]
}

fn state_files() -> Vec<(&'static str, Vec<u8>)> {
    let payload = |at: u8| [&[at | 0x80], &directory::payload(directory::STATE_FILES[usize::from(at)])[..]].concat();
    vec![
        ("sound-identity", payload(0)),
        ("sound-cluster", payload(1)),
        ("sound-hardstate", payload(2)),
        ("sound-manifest", payload(3)),
        ("sound-marks", payload(4)),
        ("sound-hint", [&[0xC0], &directory::hint()[..]].concat()),
    ]
}

fn made(target: &str) -> Vec<(&'static str, Vec<u8>)> {
    match target {
        "client_frames" => client_frames(),
        "peer_frames" => peer_frames(),
        "handshake" => handshake(),
        "segments" => segments(),
        "state_files" => state_files(),
        "slots" => {
            vec![("sound-unchanged", vec![2]), ("changed", vec![3, 1, 16, 0, 9, 3, 16, 0, 9]), ("short", [&[1][..], &[0; 600]].concat())]
        }
        // Times out, wins votes, leads, proposes, is answered, restarts; then follows and takes entries.
        "core_messages" => vec![
            (
                "sound-leader",
                vec![0, 15, 0, 15, 20, 0, 0, 1, 1, 1, 1, 5, 8, 5, 20, 1, 0, 3, 1, 1, 5, 2, 1, 5, 7, 1, 20, 1, 2, 6, 2, 0, 0, 5],
            ),
            ("sound-follower", vec![20, 1, 2, 13, 0, 0, 2, 9, 1, 2, 1, 1, 1, 0, 1, 5, 8, 5, 7, 1, 5, 16, 20, 3, 2, 5, 2, 1, 5, 8, 5]),
        ],
        other => panic!("{other} has no inputs to begin with"),
    }
}

#[test]
fn the_corpus_holds_the_sound_inputs_of_the_present_format() {
    alone(|| {
        for (target, _) in TARGETS {
            for (name, bytes) in made(target) {
                let path = folder(target).join(name);
                if std::env::var_os("APEXKV_BLESS").is_some() {
                    std::fs::create_dir_all(folder(target))
                        .and_then(|()| std::fs::write(&path, &bytes))
                        .expect("the corpus can be written");
                }
                let kept = std::fs::read(&path).unwrap_or_default();
                assert!(kept == bytes, "{} is not what the format says; write it anew with `make bless`", path.display());
            }
        }
    });
}

#[test]
fn every_input_of_the_corpus_keeps_its_promises() {
    alone(|| {
        let mut bytes = 0;
        for (target, run) in TARGETS {
            for (name, input) in inputs(target) {
                bytes += input.len() as u64;
                let outcome = std::panic::catch_unwind(|| run(&input));
                assert!(outcome.is_ok(), "{name} breaks a promise");
            }
        }
        assert!(bytes <= CORPUS_BYTES_MAX, "the corpus has {bytes} bytes, at most {CORPUS_BYTES_MAX} are kept");
    });
}

/// Names of kept inputs tell what they once did.
fn replay(target: &str, name: &str) {
    let input = std::fs::read(folder(target).join(name)).expect("the corpus holds it");
    let (_, run) = TARGETS.iter().find(|(other, _)| *other == target).expect("a target of this name");
    alone(|| run(&input));
}

#[test]
fn a_batch_number_at_the_end_of_all_numbers_is_refused() {
    replay("segments", "batch-number-overflow");
}

#[test]
fn a_count_of_starts_at_the_end_of_all_numbers_is_refused() {
    replay("state_files", "boot-overflow");
}
