//! The Raft core: a pure state machine. Messages and ticks go in; messages, work for the disk and facts come out. It imports nothing
//! of ours, and there is no I/O, thread, clock, lock, payload byte or hash-map order in it. The host (`server/replica.rs`) acts.
//!
//! # The protocol, and where each part of it stands
//!
//! * **One log, one leader a term.** Entries are named by [`EntryId`] (term, index). A leader never overwrites its own log; a
//!   follower's log is made equal to the leader's, `follower.rs` (Ongaro and Ousterhout, "In Search of an Understandable Consensus
//!   Algorithm", sections 5.1 to 5.4).
//! * **Elections**, `candidate.rs`: a silent leader is suspected after a randomised timeout; one whose link breaks, within
//!   milliseconds. A *pre-vote* asks first whether an election could be won, so that a node cut off does not raise terms (Ongaro's
//!   thesis, section 9.6). Who hears a live leader refuses votes (section 4.2.3).
//! * **Durability.** Term and vote are durable before any message says so, own entries count for the leader only once its own disk
//!   has them (section 10.2.1), and an acknowledgement covers `min(durable, verified)` and nothing else. Completions of the disk carry
//!   sequence numbers, so that a late one cannot vouch for entries that replaced those it wrote.
//! * **Commit**, `leader.rs`: the median of durable indexes, only for an entry of the leader's own term (section 5.4.2); a fresh leader
//!   appends a no-op for that.
//! * **Reads**, `rounds.rs` (section 6.4): a read is admitted with a [`ReadTicket`], and confirmed when a majority has answered a message
//!   that left after it was admitted. Rounds are numbered and never used again.
//! * **Check-quorum** (section 6.2): a leader that has not heard a majority for an election timeout steps down. One that is heard but
//!   cannot work hands leadership over. It works as long as a majority comes nearer to what it has not got, be it by single bytes.
//! * **Membership**: [`Config`] entries are in force as soon as they stand in the log and revert with it. Learners receive and do not
//!   count. No command changes the membership yet.
//!
//! # Messages
//!
//! | message | from → to | carries | answer | link |
//! |---|---|---|---|---|
//! | `PreVote` | candidate → voters | proposed term, last entry | `PreVoteReply` | control |
//! | `Vote` | candidate → voters | last entry, whether a leader ordered it | `VoteReply` | control |
//! | `Append` | leader → all | previous entry, entries, commit, read round | `Appended` or `AppendRejected` | bulk |
//! | `Heartbeat` | leader → all; for a read round, to as many as it takes | min(commit, matched), read round | `HeartbeatReply` | control |
//! | `Snapshot` | leader → follower | last entry included | `SnapshotReply` | bulk |
//! | `TimeoutNow` | leader → successor | nothing | none | control |
//! | `Arriving` | follower → leader | nothing | none | control |
//! | `LastIndex` | follower that lost its log → leader | a token | `LastIndexReply` | control |
//!
//! The two links of a pair are not ordered against each other: a heartbeat may overtake appends, which is why it carries no more of
//! the commit index than its receiver is known to match.
//!
//! # How a host drives it
//!
//! [`Node::step`], [`Node::tick`], [`Node::propose`], [`Node::read`], then once per burst [`Node::ready`]; the disk's completions come
//! back through [`Node::synced`] and [`Node::hard_state_stored`]. What [`Node::step`] returns ([`Take`]) and what [`Node::take_noop`]
//! gives must be staged before the next call.

mod candidate;
mod chance;
mod fitness;
mod follower;
mod invariants;
mod leader;
mod message;
mod node;
mod outline;
mod progress;
pub mod quorum;
mod ready;
mod rounds;
mod search;
mod settings;

pub use message::{Config, Entries, EntryId, Envelope, HardState, Message, NodeId, TermRun};
pub use node::{Node, Recovered, RoleName};
pub use outline::Outline;
pub use progress::APPENDS_UNDER_WAY_MAX;
pub use ready::{ReadTicket, Ready, Sizes, Take};
pub use settings::Settings;
