//! The vocabulary of the core: positions in the log, membership, and the messages that nodes exchange.
//! Nothing here holds payload bytes; the host carries a message's records beside it.

use std::fmt;

/// A node as the core knows it: a small number, given by the founding record (rank of the id, from 1) and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// A position in the log together with the term of the leader that wrote it. The derived order (term first, then index)
/// is the paper's "at least as up to date" (section 5.4.1). The zero value stands before the first entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Term of the leader that created the entry; 0 only before the first entry.
    pub term: u64,
    /// Log index, from 1; 0 only before the first entry.
    pub index: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.term, self.index)
    }
}

/// What must survive a crash besides the log: the newest term seen and the vote given in it (paper, figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The newest term this node has taken part in.
    pub term: u64,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
}

/// The members in force, each list sorted. Voters count for quorums; learners only receive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Config {
    /// Members whose votes and acknowledgements count.
    pub voters: Vec<NodeId>,
    /// Members that receive the log and count for nothing.
    pub learners: Vec<NodeId>,
}

/// A run of consecutive entries of one term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TermRun {
    /// The term of all of them.
    pub term: u64,
    /// How many there are, at least 1.
    pub count: u64,
}

/// The outline of a stretch of entries: which terms, and which of them change the membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entries {
    /// Terms in log order; never falling.
    pub runs: Vec<TermRun>,
    /// Configuration entries among them, as (index, members).
    pub configs: Vec<(u64, Config)>,
}

impl Entries {
    /// How many entries the stretch holds.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// Whether a leader of `term` could have sent these entries behind `prev`: terms never fall and none is newer than its own,
    /// configurations stand within, in order, and nothing overflows.
    pub fn may_follow(&self, prev: EntryId, term: u64) -> bool {
        let (mut end, mut newest) = (prev.index, prev.term);
        for run in &self.runs {
            let Some(next) = end.checked_add(run.count) else { return false };
            if run.term < newest || run.count == 0 {
                return false;
            }
            (end, newest) = (next, run.term);
        }
        let mut config_at = prev.index;
        for (index, _) in &self.configs {
            if *index <= config_at || *index > end {
                return false;
            }
            config_at = *index;
        }
        newest <= term
    }

    /// Adds one entry of `term` at the end.
    pub fn push(&mut self, term: u64) {
        match self.runs.last_mut() {
            Some(run) if run.term == term => run.count += 1,
            _ => self.runs.push(TermRun { term, count: 1 }),
        }
    }
}

/// A message with its addresses and the sender's term, which was durable at the sender before the message left.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The sender's durable term (for a pre-vote: its current one; the proposed one stands in the message).
    pub term: u64,
    /// What is said.
    pub message: Message,
}

/// What nodes say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Would you vote for me in `proposed_term`? Changes nothing at the receiver (thesis, section 9.6).
    PreVote {
        /// The term the sender would campaign in.
        proposed_term: u64,
        /// The sender's last entry.
        last: EntryId,
    },
    /// Answer to a pre-vote.
    PreVoteReply {
        /// Echo of the proposed term.
        proposed_term: u64,
        /// Whether the vote would be given.
        granted: bool,
    },
    /// `RequestVote` of the paper.
    Vote {
        /// The candidate's last entry.
        last: EntryId,
        /// Sent on a leader's order: overrides the receiver's loyalty to a leader it hears.
        transfer: bool,
    },
    /// Answer to a vote request.
    VoteReply {
        /// Whether the vote was given.
        granted: bool,
    },
    /// `AppendEntries` with or without entries, on the bulk link. The records travel beside the message.
    Append {
        /// The entry right before the first one sent.
        prev: EntryId,
        /// Outline of the entries sent.
        entries: Entries,
        /// The leader's commit index.
        commit: u64,
        /// The newest read round begun before this message left.
        round: u64,
    },
    /// Answer to an append: everything up to `matched` is durable here and equal to the leader's log.
    Appended {
        /// Highest index known durable and equal to the leader's log; cumulative.
        matched: u64,
        /// Echo of the append's read round, or of the newest one answered.
        round: u64,
    },
    /// Answer to an append whose `prev` does not stand in this log, or whose entries found no room.
    AppendRejected {
        /// The index of the refused `prev`; of the first entry behind a good one, when there was no room for the entries.
        prev_index: u64,
        /// The last entry of this log that may match: its index is at most `prev_index`.
        hint: EntryId,
        /// Echo of the append's read round.
        round: u64,
    },
    /// The leader lives; on the control link. Also confirms read rounds.
    Heartbeat {
        /// min(commit, what this follower is known to match), so that it may overtake appends.
        commit: u64,
        /// The newest read round begun before this message left.
        round: u64,
    },
    /// Answer to a heartbeat.
    HeartbeatReply {
        /// Echo of the round.
        round: u64,
        /// Highest index verified against this leader in this term, durable or not.
        verified: u64,
        /// Whether this node has room and a working disk, so that it could lead.
        able: bool,
    },
    /// The state up to `last` is offered as files; the host carries them.
    Snapshot {
        /// Last entry that the snapshot includes.
        last: EntryId,
        /// Members in force at `last`.
        config: Config,
    },
    /// Answer to a snapshot: everything up to `matched` is durable and equal.
    SnapshotReply {
        /// As in [`Message::Appended`].
        matched: u64,
    },
    /// Campaign at once (thesis, section 3.10).
    TimeoutNow,
    /// Where does your log end? From a node that does not know how far its own once reached in the present term.
    LastIndex {
        /// Drawn at random since the asking node started, so that the answer is newer than all that it had held before.
        token: u64,
    },
    /// Answer of the leader to that question.
    LastIndexReply {
        /// Echo of the token.
        token: u64,
        /// The leader's last index. No log holds an entry of its term beyond it yet.
        index: u64,
    },
    /// Bytes of an append are arriving from the leader, slowly: sent now and then until it is complete, so that the leader neither takes
    /// it for lost nor itself for useless.
    Arriving,
}

impl Message {
    /// Whether the message belongs on the bulk link; all others travel on the control link.
    pub fn is_bulk(&self) -> bool {
        matches!(self, Message::Append { .. } | Message::Snapshot { .. })
    }
}
