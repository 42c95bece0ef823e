//! The peer port: the first exchange of a link and the frames behind it, read from a stream as a receiver reads them.

use apexkv::protocol::frame::{self, Frame};
use apexkv::protocol::handshake::{Greeting, Hello};
use apexkv::protocol::mend;
use apexkv::protocol::peer::{self, Said};
use apexkv::protocol::snapshot;
use apexkv::raft::EntryId;
use apexkv::server::identity::{Mark, Standing, Verdict, judge};
use apexkv::storage::directory::{Founding, FoundingMember};

use super::memory::bounded;
use super::seal;

/// First byte: lowest bit, whether the rest are frames as [`seal::frames`] has them, or arrives as it is.
fn stream(data: &[u8]) -> Option<Vec<u8>> {
    let (mode, bytes) = data.split_first()?;
    Some(if mode & 1 == 1 { seal::frames(bytes) } else { bytes.to_vec() })
}

/// Frames on an established link. What is understood encodes to the bytes it was read from.
pub(crate) fn peer_frames(data: &[u8]) {
    let Some(bytes) = stream(data) else { return };
    bounded((192 << 10) + 32 * bytes.len(), || {
        let mut rest = &bytes[..];
        loop {
            let before = rest;
            let Ok(Some(frame)) = frame::read(&mut rest) else { return };
            let whole = &before[..before.len() - rest.len()];
            let Ok(said) = peer::decode(frame) else {
                carry(whole);
                continue;
            };
            let mut again = Vec::new();
            let encoded = match &said {
                Said::Keepalive => peer::encode_keepalive(&mut again),
                Said::Note(note) => peer::encode_note(&mut again, note),
                Said::Message { envelope, records } => peer::encode(&mut again, envelope, |out| {
                    out.extend_from_slice(records);
                    Ok(())
                }),
            };
            encoded.unwrap_or_else(|error| panic!("{said:?} was read and cannot be written: {error}"));
            assert_eq!(again, whole, "{said:?}");
        }
    });
}

/// A frame on a snapshot's connection.
fn carry(whole: &[u8]) {
    let Ok(Some(frame)) = frame::read(&mut &whole[..]) else { panic!("a frame that was read cannot be read again") };
    let Ok(said) = snapshot::decode(frame) else { return mend(whole) };
    let mut again = Vec::new();
    snapshot::encode(&mut again, &said).unwrap_or_else(|error| panic!("{said:?} was read and cannot be written: {error}"));
    assert_eq!(again, whole, "{said:?}");
}

/// A frame on a connection for mending.
fn mend(whole: &[u8]) {
    let Ok(Some(frame)) = frame::read(&mut &whole[..]) else { panic!("a frame that was read cannot be read again") };
    let Ok(said) = mend::decode(frame) else { return };
    let mut again = Vec::new();
    mend::encode(&mut again, &said).unwrap_or_else(|error| panic!("{said:?} was read and cannot be written: {error}"));
    assert_eq!(again, whole, "{said:?}");
}

/// The first frame of either side. A greeting that is understood encodes to the bytes it was read from, and can be judged.
pub(crate) fn handshake(data: &[u8]) {
    let Some(bytes) = stream(data) else { return };
    bounded((192 << 10) + 32 * bytes.len(), || {
        let mut rest = &bytes[..];
        let Ok(Some(frame)) = frame::read_head(&mut rest) else { return };
        greet(&frame, &bytes[..bytes.len() - rest.len()]);
    });
}

fn greet(frame: &Frame, whole: &[u8]) {
    let Ok(greeting) = Greeting::decode(frame) else { return };
    let again = greeting.encode().unwrap_or_else(|error| panic!("{greeting:?} was read and cannot be written: {error}"));
    assert_eq!(again, whole, "{greeting:?}");
    if let Greeting::Hello(hello) | Greeting::Welcome(hello) = greeting {
        judge_all(&hello);
    }
}

/// Judged by a cluster that has little, and one that has everything in common with it.
fn judge_all(hello: &Hello) {
    let members = hello.members.iter().zip(1..).map(|(id, uuid)| FoundingMember { id: id.clone(), uuid }).collect();
    let foundings = [
        Founding { cluster: 9, members: vec![FoundingMember { id: "a:1".to_owned(), uuid: 1 }] },
        Founding { cluster: hello.cluster.max(1), members },
    ];
    let newer = Mark { uuid: hello.uuid, boot: 5, nonce: 6, term_seen: 7, acknowledged: EntryId { term: 7, index: 9 } };
    let marks = [Mark { uuid: 1, ..Mark::default() }, Mark { uuid: hello.uuid, ..Mark::default() }, newer];
    for founding in &foundings {
        for mark in marks.iter().map(Some).chain([None]) {
            match judge(Standing { id: "a:1", founding }, mark, hello) {
                Verdict::Refuse(refusal) => assert!(!refusal.to_string().is_empty()),
                Verdict::Accept { .. } => {
                    let mark = mark.expect("only members are accepted");
                    assert!(hello.uuid == mark.uuid && hello.boot >= mark.boot && hello.term >= mark.term_seen, "{hello:?} as {mark:?}");
                }
            }
        }
    }
}
