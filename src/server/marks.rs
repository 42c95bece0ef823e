//! The marks of all peers, durable. A peer's identity and term are on disk before anything it says is counted; newer terms and
//! acknowledgements follow at most a second later, or when its link ends. That suffices: they are needed to convict a peer that was
//! rolled back, and one witness that lives and counted the acknowledgement remembers it in memory.
//!
//! Payload of the slot file, little-endian: version (2 bytes, 1), count (2), then for each peer: node (4), uuid (16), boot (8), nonce
//! (8), term seen (8), acknowledged term and index (8 + 8). Empty while no peer was ever heard.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::identity::{Mark, Standing, Verdict, judge, numbered};
use super::view::PeerView;
use crate::error::{Error, Result};
use crate::protocol::fields::{Fields, put_entry_id};
use crate::protocol::handshake::Hello;
use crate::raft::NodeId;
use crate::storage::directory::Founding;
use crate::storage::slots::SlotFile;

const VERSION: u16 = 1;

/// What is remembered of every peer. The table's lock is never held over I/O, so that a stalled disk holds up only those handshakes
/// that must write.
#[derive(Debug)]
pub struct Marks {
    table: Mutex<Table>,
    file: Mutex<SlotFile>,
}

#[derive(Debug)]
struct Table {
    now: BTreeMap<NodeId, Mark>,
    stored: BTreeMap<NodeId, Mark>,
}

impl Marks {
    /// Takes over the slot file and its newest payload.
    pub fn open(file: SlotFile, payload: &[u8], founding: &Founding, own_id: &str) -> Result<Marks> {
        let (stored, now) = (decode_stored(payload)?, remembered(payload, founding, own_id)?);
        Ok(Marks { table: Mutex::new(Table { now, stored }), file: Mutex::new(file) })
    }

    /// What is remembered of a peer now; `None` if it is no member.
    pub fn of(&self, peer: Option<NodeId>, view: &PeerView) -> Option<Mark> {
        self.table.lock().current(peer, view).copied()
    }

    /// Judges a peer whose words are to count from now on. When it is accepted, its identity and term are durable at return. An error
    /// is one of the disk, and nothing of the peer may be counted.
    pub fn admit(&self, ours: Standing<'_>, peer: Option<NodeId>, hello: &Hello, view: &PeerView) -> Result<Verdict> {
        let verdict = {
            let mut table = self.table.lock();
            let verdict = judge(ours, table.current(peer, view), hello);
            if let (Verdict::Accept { .. }, Some(mark)) = (&verdict, peer.and_then(|peer| table.now.get_mut(&peer))) {
                (mark.boot, mark.nonce) = (hello.boot, hello.nonce);
                mark.term_seen = mark.term_seen.max(hello.term);
            }
            verdict
        };
        if let (Verdict::Accept { .. }, Some(peer)) = (&verdict, peer) {
            self.store_unless(|table| {
                let known =
                    |marks: &BTreeMap<NodeId, Mark>| marks.get(&peer).map(|mark| (mark.uuid, mark.boot, mark.nonce, mark.term_seen));
                known(&table.now) == known(&table.stored)
            })?;
        }
        Ok(verdict)
    }

    /// Remembers that `peer` has said, under an identity that was admitted, that this term is durable with it.
    pub fn note_term(&self, peer: NodeId, term: u64) {
        if let Some(mark) = self.table.lock().now.get_mut(&peer) {
            mark.term_seen = mark.term_seen.max(term);
        }
    }

    /// Makes everything durable that has changed. An error is one of the disk.
    pub fn flush(&self, view: &PeerView) -> Result<()> {
        {
            let mut table = self.table.lock();
            for (peer, mark) in &mut table.now {
                mark.acknowledged = mark.acknowledged.max(view.acknowledged(*peer));
            }
        }
        self.store_unless(|table| table.now == table.stored)
    }

    fn store_unless(&self, clean: impl Fn(&Table) -> bool) -> Result<()> {
        if clean(&self.table.lock()) {
            return Ok(());
        }
        let mut file = self.file.lock();
        // Whoever held the file may have stored the same.
        if clean(&self.table.lock()) {
            return Ok(());
        }
        let marks = self.table.lock().now.clone();
        file.write(&encode(&marks))?;
        self.table.lock().stored = marks;
        Ok(())
    }
}

/// What the payload of the file says of the others. Peers that were never heard are known by the founding record.
pub fn remembered(payload: &[u8], founding: &Founding, own_id: &str) -> Result<BTreeMap<NodeId, Mark>> {
    let known = numbered(founding).into_iter().zip(&founding.members).filter(|((_, id), _)| id != own_id);
    let mut now: BTreeMap<NodeId, Mark> = known.map(|((node, _), member)| (node, Mark::of_member(member))).collect();
    now.extend(decode_stored(payload)?);
    Ok(now)
}

/// Whether the payload of a file of marks can be read.
pub fn check(payload: &[u8]) -> Result<()> {
    decode_stored(payload).map(drop)
}

fn decode_stored(payload: &[u8]) -> Result<BTreeMap<NodeId, Mark>> {
    decode(payload).map_err(|error| Error::Corrupt {
        file: "marks".to_owned(),
        offset: 0,
        reason: format!("the slot is whole and its payload is not what this version writes: {error}"),
    })
}

impl Table {
    fn current(&mut self, peer: Option<NodeId>, view: &PeerView) -> Option<&Mark> {
        let peer = peer?;
        let mark = self.now.get_mut(&peer)?;
        mark.acknowledged = mark.acknowledged.max(view.acknowledged(peer));
        Some(mark)
    }
}

fn encode(marks: &BTreeMap<NodeId, Mark>) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    out.extend_from_slice(&(marks.len() as u16).to_le_bytes());
    for (node, mark) in marks {
        out.extend_from_slice(&node.0.to_le_bytes());
        out.extend_from_slice(&mark.uuid.to_le_bytes());
        for number in [mark.boot, mark.nonce, mark.term_seen] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_entry_id(&mut out, mark.acknowledged);
    }
    out
}

fn decode(payload: &[u8]) -> Result<BTreeMap<NodeId, Mark>> {
    let mut marks = BTreeMap::new();
    if payload.is_empty() {
        return Ok(marks);
    }
    let mut fields = Fields::new(payload);
    let version = fields.u16()?;
    if version != VERSION {
        return Err(Error::Protocol(format!("version {version}, where this program knows {VERSION}")));
    }
    for _ in 0..fields.u16()? {
        let node = NodeId(fields.u32()?);
        let mark = Mark {
            uuid: fields.u128()?,
            boot: fields.u64()?,
            nonce: fields.u64()?,
            term_seen: fields.u64()?,
            acknowledged: fields.entry_id()?,
        };
        marks.insert(node, mark);
    }
    fields.end()?;
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::EntryId;

    fn marks() -> BTreeMap<NodeId, Mark> {
        let mark = |uuid| Mark { uuid, boot: 2, nonce: 3, term_seen: 4, acknowledged: EntryId { term: 4, index: 9 } };
        BTreeMap::from([(NodeId(1), mark(10)), (NodeId(3), Mark { acknowledged: EntryId::default(), ..mark(30) })])
    }

    #[test]
    fn marks_survive_their_bytes() {
        assert_eq!(decode(&encode(&marks())).expect("just encoded"), marks());
        assert_eq!(decode(&[]).expect("nobody was heard"), BTreeMap::new());
    }

    #[test]
    fn bytes_that_are_no_marks_are_refused() {
        let good = encode(&marks());
        for end in 1..good.len() {
            assert!(decode(&good[..end]).is_err(), "cut at {end}");
        }
        assert!(decode(&[&good[..], &[0]].concat()).is_err(), "a byte too many");
        assert!(decode(&[&[2], &good[1..]].concat()).is_err(), "a newer version");
    }

    #[test]
    fn the_marks_of_the_largest_cluster_fit_the_file() {
        let all: BTreeMap<NodeId, Mark> =
            (0..crate::storage::record::MAX_MEMBERS as u32).map(|node| (NodeId(node), marks()[&NodeId(1)])).collect();
        assert!(encode(&all).len() <= 16 << 10, "{} bytes", encode(&all).len());
    }
}
