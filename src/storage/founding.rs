//! The payloads of the identity and cluster files: who this node is, and which cluster it was founded into. Pure encoding.

use super::bytes::{Fields, put_text};
use crate::error::Result;
use crate::raft::NodeId;

/// Most payload bytes of the identity file.
pub(super) const IDENTITY_CAPACITY: usize = 4000;
/// Most payload bytes of the cluster file.
pub(super) const FOUNDING_CAPACITY: usize = 64 << 10;

const VERSION: u32 = 1;

/// Who a process is: which data directory, which start of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn when the directory was first used.
    pub uuid: u128,
    /// Counts the starts, from 1.
    pub boot: u64,
    /// Drawn at every start.
    pub nonce: u64,
}

/// A member named by the founding record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundingMember {
    /// The text of its `--id`.
    pub id: String,
    /// Its directory.
    pub uuid: u128,
}

/// The record that founds a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// Drawn by the founder.
    pub cluster: u128,
    /// All members, sorted by id.
    pub members: Vec<FoundingMember>,
}

impl Founding {
    /// The number by which the core knows the member with this id: its rank, from 1.
    pub fn node(&self, id: &str) -> Option<NodeId> {
        let rank = self.members.iter().position(|member| member.id == id)?;
        u32::try_from(rank + 1).ok().map(NodeId)
    }

    /// The record as bytes, its CRC at the end.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&(self.members.len() as u32).to_le_bytes());
        for member in &self.members {
            out.extend_from_slice(&member.uuid.to_le_bytes());
            put_text(&mut out, &member.id);
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a record; `None` if the bytes are not one: wrong CRC or format, no members, members not sorted, ids or uuids repeated.
    pub fn decode(bytes: &[u8]) -> Option<Founding> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        let mut fields = Fields::new(content);
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) || fields.u32()? != VERSION {
            return None;
        }
        let mut founding = Founding { cluster: fields.u128()?, members: Vec::new() };
        for _ in 0..fields.u32()? {
            let uuid = fields.u128()?;
            founding.members.push(FoundingMember { id: fields.text()?, uuid });
        }
        let members = &founding.members;
        let repeated = |member: &FoundingMember| members.iter().filter(|other| other.uuid == member.uuid).count() > 1;
        let sorted = members.is_sorted_by(|a, b| a.id < b.id);
        let good = fields.is_empty() && !members.is_empty() && sorted && !members.iter().any(repeated);
        good.then_some(founding)
    }
}

/// The payload of the identity file; the node's id stands beside the identity.
pub(super) fn encode_identity(identity: &Identity, id: &str) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    out.extend_from_slice(&identity.uuid.to_le_bytes());
    out.extend_from_slice(&identity.boot.to_le_bytes());
    out.extend_from_slice(&identity.nonce.to_le_bytes());
    put_text(&mut out, id);
    out
}

/// Reads that payload back, for the file `name`.
pub(super) fn decode_identity(payload: &[u8], name: &str) -> Result<(Identity, String)> {
    let mut fields = Fields::new(payload);
    let version = fields.u32().unwrap_or(0);
    if version > VERSION {
        return Err(super::newer(name, version, VERSION));
    }
    let identity = (|| {
        let identity = Identity { uuid: fields.u128()?, boot: fields.number()?, nonce: fields.u64()? };
        let id = fields.text()?;
        (version == VERSION && fields.is_empty()).then_some((identity, id))
    })();
    identity.ok_or_else(|| super::corrupt(name, 0, "its payload does not follow the format"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founding() -> Founding {
        let member = |id: &str, uuid| FoundingMember { id: id.into(), uuid };
        Founding { cluster: 9, members: vec![member("a:1", 1), member("b:1", 2), member("c:1", 3)] }
    }

    #[test]
    fn a_founding_record_reads_back_and_nothing_else_does() {
        let bytes = founding().encode();
        assert_eq!(Founding::decode(&bytes), Some(founding()));
        for length in 0..bytes.len() {
            assert_eq!(Founding::decode(&bytes[..length]), None, "cut to {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Founding::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(founding().node("b:1"), Some(NodeId(2)));
        assert_eq!(founding().node("d:1"), None);
    }

    #[test]
    fn members_that_repeat_or_are_out_of_order_are_refused() {
        let mut repeated = founding();
        repeated.members[2].uuid = 1;
        assert_eq!(Founding::decode(&repeated.encode()), None);
        let mut unsorted = founding();
        unsorted.members.swap(0, 1);
        assert_eq!(Founding::decode(&unsorted.encode()), None);
    }

    #[test]
    fn an_identity_reads_back() {
        let identity = Identity { uuid: 1 << 100, boot: 7, nonce: 8 };
        let (read, id) = decode_identity(&encode_identity(&identity, "localhost:8001"), "identity").expect("just encoded");
        assert_eq!((read, id.as_str()), (identity, "localhost:8001"));
    }
}
