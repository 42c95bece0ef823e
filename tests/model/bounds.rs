//! How far a search goes. Each set of bounds opens some dimensions wide and keeps the others shut, because their product could not be
//! searched: what needs several dimensions at once is left to the seeded runs.

use std::fmt;

/// The limits of one search, and which parts of the disk take their time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) name: &'static str,
    /// Highest term in which anyone stands for election.
    pub(crate) terms: u64,
    /// Members that ever stand for election, from the first one on.
    pub(crate) candidates: usize,
    /// Entries proposed, besides each leader's no-op.
    pub(crate) proposals: u8,
    /// Crashes, each followed by a restart from what is durable.
    pub(crate) crashes: u8,
    /// Messages delivered twice.
    pub(crate) duplicates: u8,
    /// Times that a leader's heartbeat timer runs out.
    pub(crate) beats: u8,
    /// Reads asked for.
    pub(crate) reads: u8,
    /// Messages under way from one member to another; one more, and the oldest is lost.
    pub(crate) link: usize,
    /// The first two members never reach each other.
    pub(crate) cut: bool,
    /// Heartbeats and their answers are delivered; otherwise all of them are lost.
    pub(crate) heartbeats: bool,
    /// Term and vote are durable only some time after they are issued.
    pub(crate) slow_votes: bool,
    /// Entries are durable only some time after they are issued.
    pub(crate) slow_writes: bool,
}

/// The smallest, for the others to start from.
const CORE: Bounds = Bounds {
    name: "",
    terms: 2,
    candidates: 3,
    proposals: 0,
    crashes: 0,
    duplicates: 0,
    beats: 0,
    reads: 0,
    link: 1,
    cut: false,
    heartbeats: false,
    slow_votes: false,
    slow_writes: false,
};

/// An old append taken again cuts off what came after it and has been acknowledged.
fn old_ones() -> Bounds {
    Bounds { name: "old ones", terms: 1, candidates: 1, slow_writes: true, proposals: 1, duplicates: 1, link: 2, ..CORE }
}

/// An entry of an older term is committed by counting its copies (paper, figure 8): two candidates in turn, with one voter between them.
fn figure_8() -> Bounds {
    Bounds { name: "figure 8", terms: 4, candidates: 2, cut: true, ..CORE }
}

/// For every test run: all states, in some seconds.
pub(crate) fn small() -> Vec<Bounds> {
    vec![
        Bounds { name: "terms", ..CORE },
        Bounds { name: "votes", candidates: 2, slow_votes: true, ..CORE },
        Bounds { name: "crashes", terms: 1, crashes: 1, slow_votes: true, ..CORE },
        Bounds { name: "writes", candidates: 2, slow_writes: true, ..CORE },
        Bounds { name: "losses", terms: 1, slow_writes: true, proposals: 1, crashes: 1, ..CORE },
        Bounds { name: "appends", terms: 1, proposals: 1, duplicates: 1, link: 2, ..CORE },
        Bounds { name: "reads", reads: 1, ..CORE },
        old_ones(),
        figure_8(),
    ]
}

/// For up to an hour of a release build. Each set is aimed at a class of mistakes; the comment names one that it was seen to find.
pub(crate) fn large() -> Vec<Bounds> {
    vec![
        // A vote told, or asked for, before it is durable.
        Bounds { name: "votes", crashes: 1, slow_votes: true, ..CORE },
        old_ones(),
        Bounds { name: "beats", terms: 1, proposals: 1, duplicates: 1, beats: 1, link: 2, ..CORE },
        // A leader that counts its own copy too early; a write that vouches for entries it did not write; logs compared wrongly.
        Bounds { name: "writes", slow_writes: true, proposals: 1, ..CORE },
        Bounds { name: "losses", slow_writes: true, crashes: 1, ..CORE },
        Bounds { name: "appends", proposals: 1, duplicates: 1, ..CORE },
        // Reads of a leader that is new, or none any more.
        Bounds { name: "reads", reads: 1, heartbeats: true, proposals: 1, ..CORE },
        // Votes of other terms that count.
        Bounds { name: "terms", terms: 3, ..CORE },
        figure_8(),
    ]
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds { name, terms, candidates, proposals, crashes, duplicates, beats, reads, link, .. } = self;
        write!(f, "{name:<8} 3 nodes, {candidates} of them stand, {terms} terms, {proposals} proposals, {crashes} crashes, ")?;
        write!(f, "{duplicates} duplicates, {beats} beats, ")?;
        write!(f, "{reads} reads, {link} messages a link")?;
        for (flag, text) in [
            (self.cut, "two cut off from each other"),
            (self.heartbeats, "heartbeats"),
            (self.slow_votes, "slow votes"),
            (self.slow_writes, "slow writes"),
        ] {
            if flag {
                write!(f, ", {text}")?;
            }
        }
        Ok(())
    }
}
