//! How an empty node comes to belong to a cluster: a pure state machine. In go the peers' answers, out comes what to do. It opens no
//! socket, writes no file and draws nothing; [`super::join`] does that.
//!
//! The same command line serves every boot. A cluster is founded only when every node of `--peers` says that it is empty and names the
//! same members; then the node with the lowest id, and no other, writes the founding record. Everybody else waits until somebody shows
//! that record, and adopts it if its own id and uuid stand in it. A node that stands there under another uuid has lost its disk: it
//! must not take part under the promises of the one that is gone.

use crate::bugbank::planted;
use std::collections::BTreeMap;

use super::identity::ids_of;
use crate::error::{Error, Result};
use crate::storage::directory::{Founding, FoundingMember};

/// What a peer said, or why it said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It belongs to no cluster.
    Empty {
        /// The uuid of its data directory.
        uuid: u128,
        /// The members that its command line names, sorted.
        members: Vec<String>,
    },
    /// It belongs to the cluster of this record.
    Member(Founding),
    /// It could not be asked, or would not say; text for a person.
    Silent(String),
}

/// What an empty node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask again; text names whom it waits for and why.
    Wait(String),
    /// Store this record, then show it to everybody.
    Found(Founding),
    /// Store this record, then take part.
    Adopt(Founding),
    /// This node stands in the record under another uuid; it may not take part. Text for a person.
    LostDisk(String),
    /// The command lines or the records contradict each other; nothing may be founded. Text for a person.
    Mismatch(String),
}

/// An empty node on its way into a cluster.
#[derive(Clone, Debug)]
pub struct Candidate {
    own: FoundingMember,
    members: Vec<String>,
    cluster: u128,
    answers: BTreeMap<String, Answer>,
}

impl Candidate {
    /// An empty node of this identity whose command line names `members` (its own id among them, sorted). `cluster` is the random id
    /// that the cluster gets if this node founds it.
    pub fn new(own: FoundingMember, members: Vec<String>, cluster: u128) -> Candidate {
        assert!(cluster != 0, "cluster id 0 means none");
        assert!(members.contains(&own.id), "{} stands among its own members {members:?}", own.id);
        assert!(members.is_sorted_by(|a, b| a < b), "members are sorted and distinct: {members:?}");
        Candidate { own, members, cluster, answers: BTreeMap::new() }
    }

    /// The ids of the others, sorted.
    pub fn peers(&self) -> impl Iterator<Item = &String> {
        self.members.iter().filter(|id| **id != self.own.id)
    }

    /// Takes down the newest answer of a peer. A record is kept until another one arrives: once shown, it stays true.
    pub fn answered(&mut self, peer: &str, answer: Answer) {
        let known = matches!(self.answers.get(peer), Some(Answer::Member(_)));
        if known && !matches!(answer, Answer::Member(_)) || !self.members.iter().any(|id| id == peer) || peer == self.own.id {
            return;
        }
        self.answers.insert(peer.to_owned(), answer);
    }

    /// What to do now.
    pub fn step(&self) -> Step {
        let mut records = self.answers.iter().filter_map(|(peer, answer)| match answer {
            Answer::Member(record) => Some((peer, record)),
            _ => None,
        });
        let Some((shower, record)) = records.next() else {
            return self.step_without_record();
        };
        if let Some((other, second)) = records.find(|(_, second)| *second != record) {
            return Step::Mismatch(format!(
                "{shower} belongs to cluster {:032x} and {other} to {:032x}: --peers mixes nodes of two clusters",
                record.cluster, second.cluster
            ));
        }
        self.step_with_record(shower, record)
    }

    fn step_with_record(&self, shower: &str, record: &Founding) -> Step {
        if let Err(error) = check_members(record, &self.members) {
            return Step::Mismatch(format!("{shower} shows a founding record, but {error}"));
        }
        match record.members.iter().find(|member| member.id == self.own.id) {
            Some(member) if member.uuid == self.own.uuid => Step::Adopt(record.clone()),
            Some(member) => Step::LostDisk(format!(
                "{} lost its disk: it joined cluster {:032x} with uuid {:032x} and has {:032x} now. \
                 It does not take part, because it may have promised what it no longer knows. \
                 Restore its own newest data directory",
                self.own.id, record.cluster, member.uuid, self.own.uuid
            )),
            None => unreachable!("the members of the record are the members of the command line, with {} among them", self.own.id),
        }
    }

    fn step_without_record(&self) -> Step {
        let mut founders = vec![self.own.clone()];
        let mut waiting = Vec::new();
        for peer in self.peers() {
            match self.answers.get(peer) {
                Some(Answer::Empty { members, .. }) if *members != self.members => {
                    return Step::Mismatch(format!(
                        "{peer} is started with the members {} and this node with {}: give all nodes the same set",
                        members.join(","),
                        self.members.join(",")
                    ));
                }
                Some(Answer::Empty { uuid, .. }) => founders.push(FoundingMember { id: peer.clone(), uuid: *uuid }),
                Some(Answer::Silent(reason)) => waiting.push(format!("{peer} ({reason})")),
                Some(Answer::Member(_)) => unreachable!("a shown record is looked at first"),
                None => waiting.push(format!("{peer} (not asked yet)")),
            }
        }
        founders.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(twins) = same_uuid(&founders) {
            return Step::Mismatch(format!("{twins} have the same uuid: a data directory was copied, remove the copy"));
        }
        if !waiting.is_empty() {
            return Step::Wait(waiting.join(", "));
        }
        match founders.first() {
            Some(first) if first.id != self.own.id && !planted(93) => Step::Wait(format!("{} (it founds the cluster)", first.id)),
            _ => Step::Found(Founding { cluster: self.cluster, members: founders }),
        }
    }
}

fn same_uuid(founders: &[FoundingMember]) -> Option<String> {
    let mut seen: BTreeMap<u128, &str> = BTreeMap::new();
    founders.iter().find_map(|member| {
        let twin = seen.insert(member.uuid, &member.id)?;
        Some(format!("{twin} and {}", member.id))
    })
}

/// Checks that the command line names the members of the record; `members` is sorted and holds the own id.
pub fn check_members(record: &Founding, members: &[String]) -> Result<()> {
    let founded = ids_of(record);
    if founded == members {
        return Ok(());
    }
    Err(Error::Config(format!(
        "cluster {:032x} was founded by {} and --id and --peers name {}: start every node with the founding members",
        record.cluster,
        founded.join(","),
        members.join(",")
    )))
}

#[cfg(test)]
#[path = "founding_tests.rs"]
mod tests;
