//! The first exchange on a link. The dialer says hello; the acceptor answers with its own hello as a welcome, or with a refusal that
//! names both values. The hello's beginning (kind, magic, versions) keeps its place in every version, so that two versions can
//! at least tell each other so.
//!
//! ```text
//! size field
//!    1 kind                    1 hello, 2 welcome, 3 refusal
//!    8 magic                   "ApexPeer"
//!  2+2 versions                oldest and newest peer protocol that the sender speaks
//!    8 features                bits; none is defined yet
//!   16 cluster                 0 while the sender belongs to none
//!    … id, client address      texts behind two bytes of length
//!   16 uuid                    drawn when the data directory was made
//!  8+8 boot, nonce             counted up and drawn at every start
//!    8 attempt                 counts the sender's connection attempts since its start
//!    8 term                    durable
//! 8+8 last                     term and index of the last entry of the log
//!    1 link                    0 founding, 1 control, 2 bulk, 3 snapshot, 4 mending
//!    … members                 two bytes of count, then the sorted ids of the founding members
//!    … record                  1 byte: 0 none, 1 the founding record: cluster, count, id and uuid of each member
//!    … credential              behind two bytes of length; empty today
//! ```
//!
//! A refusal is its kind and a text. The member ids travel themselves and not as a hash, so that both sides can name what differs.

use super::fields::{Fields, put_blob, put_entry_id};
use super::frame::{self, Frame};
use crate::error::{Error, Result};
use crate::raft::EntryId;
use crate::storage::directory::{Founding, FoundingMember};
use crate::storage::record::MAX_MEMBERS;

/// The only version of the peer protocol so far.
pub const PEER_PROTOCOL: u16 = 1;
/// Longest node id or address, in bytes.
pub const TEXT_MAX: usize = 300;
/// Longest credential, in bytes.
pub const CREDENTIAL_MAX: usize = 4096;
/// Longest text of a refusal, in bytes.
pub const REASON_MAX: usize = 4096;

const MAGIC: &[u8; 8] = b"ApexPeer";
const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSAL: u8 = 3;

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkClass {
    /// One exchange of hellos, while the dialer belongs to no cluster.
    Founding,
    /// Votes, heartbeats, read rounds and all answers.
    Control,
    /// Entries.
    Bulk,
    /// The files of one snapshot; the acceptor answers.
    Snapshot,
    /// Questions of a node that mends its log; the acceptor answers.
    Mend,
}

/// Who a node is and where it stands; said by both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest and newest version of the peer protocol that it speaks.
    pub versions: (u16, u16),
    /// Feature bits.
    pub features: u64,
    /// The cluster it belongs to, 0 for none.
    pub cluster: u128,
    /// The text of its `--id`.
    pub id: String,
    /// The address at which clients reach it.
    pub client_address: String,
    /// Drawn when its data directory was made.
    pub uuid: u128,
    /// Counted up at every start, durable.
    pub boot: u64,
    /// Drawn at every start.
    pub nonce: u64,
    /// Number of this connection attempt since the start: of two links, the one with the higher number is the newer.
    pub attempt: u64,
    /// Its durable term.
    pub term: u64,
    /// Last entry of its log, damaged ones counted as present.
    pub last: EntryId,
    /// What the link is for; in a welcome the echo of it.
    pub link: LinkClass,
    /// Ids of the founding members (before the founding: of `--id` and `--peers`), sorted.
    pub members: Vec<String>,
    /// The founding record, if it has one.
    pub founding: Option<Founding>,
    /// Proof of being allowed to speak; empty today.
    pub credential: Vec<u8>,
}

/// A frame of the first exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The dialer's opening.
    Hello(Box<Hello>),
    /// The acceptor agrees.
    Welcome(Box<Hello>),
    /// The acceptor does not; text for a person.
    Refusal(String),
}

impl Greeting {
    /// The greeting as a frame. Fails if a text or list of ours exceeds the format's limits.
    pub fn encode(&self) -> Result<Vec<u8>> {
        match self {
            Greeting::Hello(hello) | Greeting::Welcome(hello) => check_limits(hello)?,
            Greeting::Refusal(_) => {}
        }
        frame::head_only(|out| match self {
            Greeting::Hello(hello) => put_hello(out, HELLO, hello),
            Greeting::Welcome(hello) => put_hello(out, WELCOME, hello),
            Greeting::Refusal(reason) => {
                out.push(REFUSAL);
                put_blob(out, &reason.as_bytes()[..reason.floor_char_boundary(REASON_MAX)]);
            }
        })
    }

    /// Reads a greeting out of a frame.
    pub fn decode(frame: &Frame) -> Result<Greeting> {
        if !frame.records.is_empty() {
            return Err(Error::Protocol("a greeting with records".to_owned()));
        }
        let mut fields = Fields::new(&frame.head);
        let greeting = match fields.u8()? {
            HELLO => Greeting::Hello(Box::new(get_hello(&mut fields)?)),
            WELCOME => Greeting::Welcome(Box::new(get_hello(&mut fields)?)),
            REFUSAL => Greeting::Refusal(fields.text(REASON_MAX)?),
            other => return Err(Error::Protocol(format!("a first frame of kind {other}, which is no greeting"))),
        };
        fields.end()?;
        Ok(greeting)
    }
}

fn check_limits(hello: &Hello) -> Result<()> {
    let texts = [&hello.id, &hello.client_address].into_iter().chain(&hello.members);
    if let Some(long) = texts.into_iter().find(|text| text.len() > TEXT_MAX) {
        return Err(Error::Config(format!("`{long}` is longer than the {TEXT_MAX} bytes that an id or address may have")));
    }
    if hello.members.len() > MAX_MEMBERS {
        return Err(Error::Config(format!("{} members are more than the {MAX_MEMBERS} of a cluster", hello.members.len())));
    }
    Ok(())
}

fn put_hello(out: &mut Vec<u8>, kind: u8, hello: &Hello) {
    out.push(kind);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&hello.versions.0.to_le_bytes());
    out.extend_from_slice(&hello.versions.1.to_le_bytes());
    out.extend_from_slice(&hello.features.to_le_bytes());
    out.extend_from_slice(&hello.cluster.to_le_bytes());
    put_blob(out, hello.id.as_bytes());
    put_blob(out, hello.client_address.as_bytes());
    out.extend_from_slice(&hello.uuid.to_le_bytes());
    for number in [hello.boot, hello.nonce, hello.attempt, hello.term] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    put_entry_id(out, hello.last);
    out.push(hello.link as u8);
    out.extend_from_slice(&(hello.members.len() as u16).to_le_bytes());
    for member in &hello.members {
        put_blob(out, member.as_bytes());
    }
    match &hello.founding {
        None => out.push(0),
        Some(founding) => {
            out.push(1);
            put_founding(out, founding);
        }
    }
    put_blob(out, &hello.credential);
}

fn get_hello(fields: &mut Fields<'_>) -> Result<Hello> {
    let magic = fields.bytes(MAGIC.len())?;
    if magic != MAGIC {
        return Err(Error::Protocol(format!("a greeting that starts with {magic:02x?} instead of {MAGIC:02x?}")));
    }
    Ok(Hello {
        versions: (fields.u16()?, fields.u16()?),
        features: fields.u64()?,
        cluster: fields.u128()?,
        id: fields.text(TEXT_MAX)?,
        client_address: fields.text(TEXT_MAX)?,
        uuid: fields.u128()?,
        boot: fields.u64()?,
        nonce: fields.u64()?,
        attempt: fields.u64()?,
        term: fields.number()?,
        last: fields.entry_id()?,
        link: match fields.u8()? {
            0 => LinkClass::Founding,
            1 => LinkClass::Control,
            2 => LinkClass::Bulk,
            3 => LinkClass::Snapshot,
            4 => LinkClass::Mend,
            other => return Err(Error::Protocol(format!("a link of unknown class {other}"))),
        },
        members: get_members(fields)?,
        founding: match fields.flag()? {
            false => None,
            true => Some(get_founding(fields)?),
        },
        credential: fields.blob(CREDENTIAL_MAX)?.to_vec(),
    })
}

fn get_members(fields: &mut Fields<'_>) -> Result<Vec<String>> {
    let count = get_count(fields)?;
    let members = (0..count).map(|_| fields.text(TEXT_MAX)).collect::<Result<Vec<_>>>()?;
    if !members.is_sorted_by(|a, b| a < b) {
        return Err(Error::Protocol(format!("members that are not sorted and distinct: {}", members.join(","))));
    }
    Ok(members)
}

fn get_count(fields: &mut Fields<'_>) -> Result<usize> {
    match usize::from(fields.u16()?) {
        0 => Err(Error::Protocol("a list without members".to_owned())),
        count if count > MAX_MEMBERS => Err(Error::Protocol(format!("{count} members, more than {MAX_MEMBERS}"))),
        count => Ok(count),
    }
}

fn put_founding(out: &mut Vec<u8>, founding: &Founding) {
    out.extend_from_slice(&founding.cluster.to_le_bytes());
    out.extend_from_slice(&(founding.members.len() as u16).to_le_bytes());
    for member in &founding.members {
        put_blob(out, member.id.as_bytes());
        out.extend_from_slice(&member.uuid.to_le_bytes());
    }
}

fn get_founding(fields: &mut Fields<'_>) -> Result<Founding> {
    let cluster = fields.u128()?;
    let count = get_count(fields)?;
    let members =
        (0..count).map(|_| Ok(FoundingMember { id: fields.text(TEXT_MAX)?, uuid: fields.u128()? })).collect::<Result<Vec<_>>>()?;
    if cluster == 0 || !members.is_sorted_by(|a, b| a.id < b.id) {
        return Err(Error::Protocol("a founding record without a cluster id, or with members out of order".to_owned()));
    }
    Ok(Founding { cluster, members })
}
