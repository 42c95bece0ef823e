//! The Raft core: bytes become a sequence of inputs to one member.

use apexkv::raft::{Config, Entries, EntryId, Message, NodeId, TermRun};

use super::inputs::{Input, run};
use super::memory::bounded;

/// Each input takes a byte for its kind and one for each of its numbers; bytes that are missing count as zero.
pub(crate) fn core_messages(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut inputs = Vec::new();
    while !bytes.0.is_empty() {
        inputs.push(input(&mut bytes));
    }
    bounded((1 << 20) + 2048 * data.len(), || run(inputs));
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn flag(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// A small number, or one beyond all bounds.
    fn small(&mut self) -> u64 {
        match self.next() {
            255 => u64::MAX,
            254 => 1 << 62,
            byte => u64::from(byte % 12),
        }
    }

    fn node(&mut self) -> u32 {
        u32::from(self.next() % 4) + 1
    }

    fn entry_id(&mut self) -> EntryId {
        EntryId { term: self.small(), index: self.small() }
    }

    fn config(&mut self) -> Config {
        let (voters, learners) = (self.next(), self.next());
        let of = |bits: u8| (0..4u32).filter(|bit| bits >> bit & 1 == 1).map(|bit| NodeId(bit + 1)).collect();
        Config { voters: of(voters), learners: of(learners & !voters) }
    }

    fn entries(&mut self) -> Entries {
        let (runs, configs) = (self.next() % 4, self.next());
        let runs = (0..runs).map(|_| TermRun { term: u64::from(self.next() % 8), count: u64::from(self.next() % 5) }).collect();
        let configs = if configs < 8 { configs % 3 } else { 0 };
        Entries { runs, configs: (0..configs).map(|_| (self.small(), self.config())).collect() }
    }

    fn message(&mut self) -> Message {
        match self.next() % 21 {
            0 => Message::PreVote { proposed_term: self.small(), last: self.entry_id() },
            1 => Message::PreVoteReply { proposed_term: self.small(), granted: self.flag() },
            2 => Message::Vote { last: self.entry_id(), transfer: self.flag() },
            3 | 4 => Message::VoteReply { granted: self.flag() },
            5 => Message::Heartbeat { commit: self.small(), round: self.small() },
            6 | 7 => Message::Appended { matched: self.small(), round: self.small() },
            8 => Message::AppendRejected { prev_index: self.small(), hint: self.entry_id(), round: self.small() },
            9 => Message::HeartbeatReply { round: self.small(), verified: self.small(), able: self.flag() },
            10 => {
                let last = EntryId { term: u64::from(self.next() % 8), index: u64::from(self.next() % 9) + 1 };
                Message::Snapshot { last, config: self.config() }
            }
            11 => Message::SnapshotReply { matched: self.small() },
            12 => Message::TimeoutNow,
            13 => Message::Arriving,
            19 => Message::LastIndex { token: self.small() },
            20 => Message::LastIndexReply { token: self.small(), index: self.small() },
            _ => Message::Append { prev: self.entry_id(), entries: self.entries(), commit: self.small(), round: self.small() },
        }
    }
}

fn input(bytes: &mut Bytes<'_>) -> Input {
    match bytes.next() % 32 {
        0 | 1 => Input::Tick(u32::from(bytes.next() % 16) + 1),
        2 => Input::Propose(u64::from(bytes.next() % 3) + 1),
        3 => Input::Read,
        4 => Input::Transfer(bytes.node()),
        5 | 6 => Input::Ready,
        7 => Input::FinishWrites(usize::from(bytes.next() % 2) + 1),
        8 | 9 => Input::FinishHardState,
        10 => Input::FinishInstall,
        11 => Input::LinkUp(bytes.node(), bytes.flag()),
        12 => Input::LinkDown(bytes.node()),
        13 => Input::Dropped(bytes.node()),
        14 => Input::Disk(bytes.flag(), bytes.flag()),
        15 => Input::Compact(u64::from(bytes.next() % 10)),
        16 => Input::Restart,
        _ => {
            let (term, from) = (u64::from(bytes.next() % 8), bytes.node());
            Input::Message { term, from, message: bytes.message(), room: bytes.flag() }
        }
    }
}
