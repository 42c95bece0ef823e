//! Who a peer is, and whether it may be believed. A pure judgement: what is remembered of a peer against what it says now. No socket,
//! no file, no clock.
//!
//! A node that forgot what it promised must not count for any quorum: a wiped disk, an old copy of a data directory, a second process
//! on a copied one, a directory that was rolled back. Its peers remember it by a [`Mark`] and recognise each case. A mark's identity
//! and term are durable before anything of that peer is counted. Its newest acknowledgement is kept in memory and written later: it is
//! needed only while this witness lives, and another quorum's witnesses stand in when it does not.

use crate::bugbank::planted;
use std::fmt;

use crate::protocol::handshake::{Hello, PEER_PROTOCOL};
use crate::raft::{EntryId, NodeId};
use crate::storage::directory::{Founding, FoundingMember};

/// What is remembered of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The uuid under which it belongs to the cluster.
    pub uuid: u128,
    /// The newest boot seen; 0 before the first.
    pub boot: u64,
    /// The process nonce of that boot.
    pub nonce: u64,
    /// The newest durable term seen from this uuid.
    pub term_seen: u64,
    /// The newest entry whose durability it has acknowledged: term and index of the entry itself, not the leader's term, because an
    /// older entry may be acknowledged in a newer term.
    pub acknowledged: EntryId,
}

impl Mark {
    /// What is remembered of a founding member before it was ever heard.
    pub fn of_member(member: &FoundingMember) -> Mark {
        Mark { uuid: member.uuid, ..Mark::default() }
    }
}

/// What this node holds a peer's words against.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The text of the own `--id`.
    pub id: &'a str,
    /// The founding record.
    pub founding: &'a Founding,
}

/// The outcome of a judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is who it should be; `fresh` when it has been started anew since it was last heard.
    Accept {
        /// Another boot or process than the remembered one.
        fresh: bool,
    },
    /// Nothing it says may count.
    Refuse(Refusal),
}

/// Why a peer is refused. Each names both values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No common version of the peer protocol.
    Version {
        /// Oldest and newest that it speaks.
        theirs: (u16, u16),
    },
    /// It calls itself by this node's id.
    OurId {
        /// That id.
        id: String,
    },
    /// The cluster has no such member.
    Stranger {
        /// What it calls itself.
        id: String,
        /// The members' ids.
        members: String,
    },
    /// It belongs to another cluster.
    WrongCluster {
        /// Its name.
        id: String,
        /// Its cluster.
        theirs: u128,
        /// Ours.
        ours: u128,
    },
    /// It names other founding members.
    WrongMembers {
        /// Its name.
        id: String,
        /// Those it names.
        theirs: String,
        /// Those we know.
        ours: String,
    },
    /// Its data directory is not the one that joined.
    LostDisk {
        /// Its name.
        id: String,
        /// The uuid it has now.
        now: u128,
        /// The uuid it joined with.
        joined: u128,
    },
    /// It waits for its founding record; harmless, and over soon.
    Unfounded {
        /// Its name.
        id: String,
    },
    /// An old copy of its data directory, or a second process on a copy.
    OldCopy {
        /// Its name.
        id: String,
        /// Boot and nonce that it has.
        now: (u64, u64),
        /// Boot and nonce that were seen.
        seen: (u64, u64),
    },
    /// Its durable term or its log is older than what it has said before.
    RolledBack {
        /// Its name.
        id: String,
        /// Durable term and last entry that it has.
        now: (u64, EntryId),
        /// Durable term seen and entry acknowledged.
        seen: (u64, EntryId),
    },
}

/// Judges a peer's hello. `mark` is what is remembered of the peer of that id, `None` if there is no such member.
pub fn judge(ours: Standing<'_>, mark: Option<&Mark>, hello: &Hello) -> Verdict {
    match find_fault(ours, mark, hello) {
        Err(refusal) => Verdict::Refuse(refusal),
        Ok(mark) => Verdict::Accept { fresh: (hello.boot, hello.nonce) != (mark.boot, mark.nonce) },
    }
}

fn find_fault<'a>(ours: Standing<'_>, mark: Option<&'a Mark>, hello: &Hello) -> Result<&'a Mark, Refusal> {
    let id = hello.id.clone();
    if hello.versions.0 > PEER_PROTOCOL || hello.versions.1 < PEER_PROTOCOL {
        return Err(Refusal::Version { theirs: hello.versions });
    }
    if hello.id == ours.id {
        return Err(Refusal::OurId { id });
    }
    let Some(mark) = mark else {
        return Err(Refusal::Stranger { id, members: ids_of(ours.founding).join(",") });
    };
    if hello.cluster != 0 && hello.cluster != ours.founding.cluster && !planted(76) {
        return Err(Refusal::WrongCluster { id, theirs: hello.cluster, ours: ours.founding.cluster });
    }
    let members = ids_of(ours.founding);
    if hello.members != members {
        return Err(Refusal::WrongMembers { id, theirs: hello.members.join(","), ours: members.join(",") });
    }
    if hello.uuid != mark.uuid && !planted(74) {
        return Err(Refusal::LostDisk { id, now: hello.uuid, joined: mark.uuid });
    }
    if hello.cluster == 0 {
        return Err(Refusal::Unfounded { id });
    }
    let older = hello.boot < mark.boot || hello.boot == mark.boot && hello.nonce != mark.nonce;
    if older && !planted(75) {
        return Err(Refusal::OldCopy { id, now: (hello.boot, hello.nonce), seen: (mark.boot, mark.nonce) });
    }
    // Within the term of an acknowledged entry only its own leader writes, and it never takes back what it has; in a later term a new
    // leader may. So the log is held to the acknowledgement only while the term stands still.
    let shorter = (hello.term == mark.acknowledged.term || planted(113)) && hello.last < mark.acknowledged;
    if hello.term < mark.term_seen || shorter {
        return Err(Refusal::RolledBack { id, now: (hello.term, hello.last), seen: (mark.term_seen, mark.acknowledged) });
    }
    Ok(mark)
}

/// The ids of the founding members, sorted as they stand in the record.
pub fn ids_of(founding: &Founding) -> Vec<String> {
    founding.members.iter().map(|member| member.id.clone()).collect()
}

/// The founding members as the core knows them: the rank of the id, from 1.
pub fn numbered(founding: &Founding) -> Vec<(NodeId, String)> {
    (1..).map(NodeId).zip(ids_of(founding)).collect()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Version { theirs: (oldest, newest) } => write!(
                f,
                "it speaks peer protocol {oldest} to {newest} and this node speaks {PEER_PROTOCOL}: \
                 run one version on all nodes, or two that follow each other"
            ),
            Refusal::OurId { id } => {
                write!(f, "`{}` is this node's own id: give each node its own --id, and point --dial at the others only", id.escape_debug())
            }
            Refusal::Stranger { id, members } => {
                write!(f, "`{}` is not a member of this cluster, whose members are {members}: check --id and --peers", id.escape_debug())
            }
            Refusal::WrongCluster { id, theirs, ours } => {
                write!(f, "{id} belongs to cluster {theirs:032x} and this node to {ours:032x}: check --peers, or the data directory")
            }
            Refusal::WrongMembers { id, theirs, ours } => {
                write!(f, "{id} names the members {} and this node {ours}: give all nodes the same set", theirs.escape_debug())
            }
            Refusal::LostDisk { id, now, joined } => write!(
                f,
                "{id} lost its disk: it has uuid {now:032x} and joined with {joined:032x}; \
                 it does not count for any quorum. Restore its own newest data directory"
            ),
            Refusal::Unfounded { id } => write!(f, "{id} has not stored its founding record yet"),
            Refusal::OldCopy { id, now, seen } => write!(
                f,
                "{id} runs on an old copy of its data directory, or as a second process: boot {} (process {:016x}) \
                 where boot {} (process {:016x}) was seen. Stop it and start it on its newest data directory",
                now.0, now.1, seen.0, seen.1
            ),
            Refusal::RolledBack { id, now, seen } => write!(
                f,
                "{id} was rolled back: durable term {} and last entry {} where term {} was seen \
                 and entry {} acknowledged; it does not count for any quorum. Restore its own newest data directory",
                now.0, now.1, seen.0, seen.1
            ),
        }
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
