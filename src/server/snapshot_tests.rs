//! What becomes of a snapshot that arrives in pieces, on connections that break, from senders that misbehave.

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use super::fixture::*;
use super::*;
use crate::protocol::frame;
use crate::protocol::snapshot::{self, Begin, Said, behind};
use crate::raft::EntryId;
use crate::storage::record::{self, Operation};
use crate::storage::snapshot::{Position, Received};
use crate::storage::state_hash::StateHash;

const LAST: EntryId = EntryId { term: 1, index: 9 };
const BEGIN: Begin = Begin { term: 1, last: LAST, transfer: 5, files: 2, bytes: 100, hash: StateHash::START };
const START: Position = Position { file: 0, record: 0 };

/// Node 1, which receives, and the control link of node 2, which sends.
struct Pair {
    sites: Vec<Site>,
    founding: Founding,
    node: Running,
    attempt: u64,
    _control: TcpStream,
}

impl Pair {
    fn new() -> Pair {
        let (sites, founding) = sites(2);
        let node = sites[0].start(1, &founding);
        let control = welcomed(&sites[0], sites[1].hello(&founding, LinkClass::Control, 1, 1));
        node.wait_up(NodeId(2));
        Pair { sites, founding, node, attempt: 1, _control: control }
    }

    /// A new connection for a snapshot.
    fn open(&mut self) -> TcpStream {
        self.attempt += 1;
        welcomed(&self.sites[0], self.sites[1].hello(&self.founding, LinkClass::Snapshot, 1, self.attempt))
    }

    /// A new connection on which `begin` was said, and the answer.
    fn begin(&mut self, begin: Begin) -> (TcpStream, Said) {
        let stream = self.open();
        say(&stream, &Said::Begin(begin));
        let answer = hear(&stream);
        (stream, answer)
    }

    fn wait_received(&self) -> (Box<Received>, u64) {
        self.node.wait("snapshot", |event| match event {
            Event::Received { received, term } => Some((received, term)),
            Event::Link(_, LinkChange::Down) => panic!("a snapshot's connection is no leader's link"),
            _ => None,
        })
    }
}

fn say(mut stream: &TcpStream, said: &Said) {
    let mut bytes = Vec::new();
    snapshot::encode(&mut bytes, said).expect("within the limits");
    stream.write_all(&bytes).expect("the connection is open");
}

/// The next answer; a busy receiver repeats its last one.
fn hear(stream: &TcpStream) -> Said {
    let frame = frame::read(&mut &*stream).expect("an answer in time").expect("not the end");
    snapshot::decode(frame).expect("a good answer")
}

/// The next answer that is not a sign of life: on a slow machine the node gives one before it has read so far.
fn hear_behind(known: Position, stream: &TcpStream) -> Said {
    std::iter::repeat_with(|| hear(stream)).find(|answer| *answer != Said::Ack(known)).expect("it goes on until then")
}

/// A chunk of one record for each of these keys, whose versions rise from `first` on.
fn chunk(from: Position, first: u64, keys: &[&str]) -> Said {
    let mut records = Vec::new();
    for (key, index) in keys.iter().zip(first..) {
        let start = records.len();
        record::encode_operation(&mut records, &Operation::Set { key: key.as_bytes(), value: &[7; 100] });
        record::seal(&mut records[start..], EntryId { term: 1, index });
    }
    Said::Chunk { from, count: keys.len() as u32, records }
}

#[test]
fn a_transfer_goes_on_where_its_connection_broke() {
    let mut pair = Pair::new();
    let (stream, answer) = pair.begin(BEGIN);
    assert_eq!(answer, Said::Resume(START));
    say(&stream, &chunk(START, 1, &["a", "b"]));
    let taken = behind(START, 2).expect("small numbers");
    assert_eq!(hear_behind(START, &stream), Said::Ack(taken));
    // Half a frame, and the end.
    (&stream).write_all(&[1, 0, 0]).expect("the connection is open");
    drop(stream);

    let (stream, answer) = pair.begin(BEGIN);
    assert_eq!(answer, Said::Resume(taken), "what had arrived was kept");
    let next = Position { file: 1, record: 0 };
    say(&stream, &chunk(next, 5, &["c"]));
    assert_eq!(hear_behind(taken, &stream), Said::Ack(Position { file: 1, record: 1 }));
    say(&stream, &Said::End);
    let (received, term) = pair.wait_received();
    assert_eq!((received.last, term), (LAST, 1));
    // A position says nothing: what was lost to damage counts in it.
    pair.node.view.set_position(1, LAST);
    assert!(matches!(hear(&stream), Said::Ack(_)), "it is not installed yet");
    pair.node.view.set_commit(LAST.index);
    let until = Instant::now() + DEADLINE;
    while hear(&stream) != Said::Done {
        assert!(Instant::now() < until, "only signs of life");
    }
    assert!(matches!(pair.begin(Begin { transfer: 6, ..BEGIN }), (_, Said::Resume(START))), "nothing is left of it");
}

#[test]
fn another_transfer_takes_the_place_of_one_that_is_under_way() {
    let mut pair = Pair::new();
    let (mut old, _) = pair.begin(BEGIN);
    say(&old, &chunk(START, 1, &["a"]));
    assert_eq!(hear_behind(START, &old), Said::Ack(behind(START, 1).expect("small numbers")));
    let (_new, answer) = pair.begin(Begin { transfer: 6, ..BEGIN });
    assert_eq!(answer, Said::Resume(START));
    assert_closed(&mut old);
}

#[test]
fn a_transfer_whose_older_connection_waits_for_the_disk_goes_on_when_that_is_done() {
    let mut pair = Pair::new();
    let stalled = Arc::new(pair.open());
    let shared = pair.node.peers.shared.clone();
    let make = || Ok(shared.snapshots.begin(LAST, BEGIN.hash));
    let mut half = shared.intake.claim(NodeId(2), BEGIN, &stalled, Duration::ZERO, make).expect("nobody else receives");
    let mut again = pair.open();
    say(&again, &Said::Begin(BEGIN));
    assert_closed(&mut again);
    let other = pair.begin(Begin { transfer: 6, ..BEGIN }).1;
    assert!(matches!(&other, Said::Failed(reason) if reason.contains("up to 1:9")), "{other:?}");
    let Said::Chunk { records, .. } = chunk(START, 1, &["a"]) else { panic!("a chunk") };
    half.writer.take(START, &records).expect("taken");
    shared.intake.release(Some(half));
    assert_eq!(pair.begin(BEGIN).1, Said::Resume(behind(START, 1).expect("small numbers")), "nothing is lost");
}

#[test]
fn a_snapshot_that_there_is_no_room_for_is_refused_before_it_is_sent() {
    let mut pair = Pair::new();
    let answer = pair.begin(Begin { bytes: u64::MAX, ..BEGIN }).1;
    assert!(matches!(&answer, Said::Failed(reason) if reason.contains("18446744073709551615 bytes")), "{answer:?}");
    assert_eq!(pair.begin(BEGIN).1, Said::Resume(START), "the place is free");
}

#[test]
fn a_snapshot_of_a_term_that_is_over_is_refused() {
    let mut pair = Pair::new();
    pair.node.view.set_position(4, EntryId::default());
    let (mut stream, answer) = pair.begin(BEGIN);
    assert!(matches!(&answer, Said::Failed(reason) if reason.contains("in term 4")), "{answer:?}");
    assert_closed(&mut stream);
}

#[test]
fn records_that_belong_to_no_snapshot_end_it_with_a_reason() {
    let damaged = |mut said: Said| {
        if let Said::Chunk { records, .. } = &mut said {
            records[40] ^= 1;
        }
        said
    };
    let mut pair = Pair::new();
    let later = Position { file: 0, record: 3 };
    let miscounted = |said: Said| match said {
        Said::Chunk { from, records, .. } => Said::Chunk { from, count: 2, records },
        other => other,
    };
    for (said, word) in [
        (damaged(chunk(START, 1, &["a"])), "a bad record"),
        (chunk(later, 1, &["a"]), "records from"),
        (chunk(START, 10, &["a"]), "1:10 in a snapshot up to 1:9"),
        (miscounted(chunk(START, 1, &["a"])), "2 records"),
    ] {
        let (stream, answer) = pair.begin(BEGIN);
        assert_eq!(answer, Said::Resume(START), "nothing is kept of what is of no use");
        say(&stream, &said);
        let answer = hear_behind(START, &stream);
        assert!(matches!(&answer, Said::Failed(reason) if reason.contains(word)), "{said:?}: {answer:?}");
    }
}

#[test]
fn the_same_key_twice_in_a_file_is_found_at_the_end() {
    let mut pair = Pair::new();
    let (stream, _) = pair.begin(BEGIN);
    say(&stream, &chunk(START, 1, &["a", "a"]));
    let taken = behind(START, 2).expect("small numbers");
    assert_eq!(hear_behind(START, &stream), Said::Ack(taken));
    say(&stream, &Said::End);
    let answer = hear_behind(taken, &stream);
    assert!(matches!(answer, Said::Failed(_)), "{answer:?}");
}

#[test]
fn whoever_begins_with_anything_else_is_closed_on() {
    let mut pair = Pair::new();
    for said in [Said::End, chunk(START, 1, &["a"]), Said::Begin(Begin { term: 2, ..BEGIN })] {
        let mut stream = pair.open();
        say(&stream, &said);
        assert_closed(&mut stream);
    }
    assert!(matches!(pair.begin(BEGIN), (_, Said::Resume(START))), "the place is free");
}

#[test]
fn a_node_that_stops_waits_for_no_transfer() {
    let mut pair = Pair::new();
    let (mut stream, _) = pair.begin(BEGIN);
    let began = Instant::now();
    pair.node.peers.stop();
    assert!(began.elapsed() < timing().silence, "a stop took {:?}", began.elapsed());
    assert_closed(&mut stream);
}
