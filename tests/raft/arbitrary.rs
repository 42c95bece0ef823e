//! Arbitrary inputs to one member, sound and unsound ones: nothing that arrives from a peer, in whatever order, makes it panic. The one
//! exception is documented: two leaders of one term, which only a broken quorum can bring about. So in each term one and the same peer
//! speaks as leader here, and not while the member itself leads that term.

use apexkv::raft::{Config, Entries, EntryId, Envelope, Message, NodeId, Settings, TermRun};
use proptest::collection::vec;
use proptest::prelude::*;

use super::host::{Entry, Host, OneByte, Packet};

const OWN: NodeId = NodeId(2);

/// One input.
#[derive(Clone, Debug)]
enum Input {
    Message { term: u64, from: u32, message: Message, room: bool },
    Tick(u32),
    Propose(u64),
    Read,
    Transfer(u32),
    Ready,
    FinishWrites(usize),
    FinishHardState,
    FinishInstall,
    LinkUp(u32, bool),
    LinkDown(u32),
    Dropped(u32),
    Disk(bool, bool),
    Compact(u64),
    Restart,
}

/// Small numbers, so that things meet, and now and then one that is beyond all bounds.
fn small(greatest: u64) -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0..=greatest, 1 => Just(u64::MAX)]
}

fn entry_id() -> impl Strategy<Value = EntryId> {
    (small(6), small(9)).prop_map(|(term, index)| EntryId { term, index })
}

fn config() -> impl Strategy<Value = Config> {
    let ids = || vec(1..=4_u32, 0..4).prop_map(|ids| ids.into_iter().collect::<std::collections::BTreeSet<u32>>());
    (ids(), ids()).prop_map(|(voters, learners)| Config {
        voters: voters.iter().copied().map(NodeId).collect(),
        learners: learners.difference(&voters).copied().map(NodeId).collect(),
    })
}

fn entries() -> impl Strategy<Value = Entries> {
    let run = (1..=6_u64, 0..=3_u64).prop_map(|(term, count)| TermRun { term, count });
    let configs = prop_oneof![6 => Just(Vec::new()), 1 => vec((small(9), config()), 1..3)];
    (vec(run, 0..3), configs).prop_map(|(runs, configs)| Entries { runs, configs })
}

fn message() -> impl Strategy<Value = Message> {
    let append = (entry_id(), entries(), small(9), small(4)).prop_map(|(prev, entries, commit, round)| Message::Append {
        prev,
        entries,
        commit,
        round,
    });
    let heartbeat = (small(9), small(4)).prop_map(|(commit, round)| Message::Heartbeat { commit, round });
    prop_oneof![
        1 => (small(6), entry_id()).prop_map(|(proposed_term, last)| Message::PreVote { proposed_term, last }),
        1 => (small(6), any::<bool>()).prop_map(|(proposed_term, granted)| Message::PreVoteReply { proposed_term, granted }),
        1 => (entry_id(), any::<bool>()).prop_map(|(last, transfer)| Message::Vote { last, transfer }),
        4 => any::<bool>().prop_map(|granted| Message::VoteReply { granted }),
        6 => append,
        1 => heartbeat,
        2 => (small(9), small(4)).prop_map(|(matched, round)| Message::Appended { matched, round }),
        2 => (small(9), entry_id(), small(4)).prop_map(|(prev_index, hint, round)| Message::AppendRejected { prev_index, hint, round }),
        2 => (small(4), small(9), any::<bool>()).prop_map(|(round, verified, able)| Message::HeartbeatReply { round, verified, able }),
        1 => (0..=6_u64, 1..=9_u64, config()).prop_map(|(term, index, config)| Message::Snapshot { last: EntryId { term, index }, config }),
        1 => small(9).prop_map(|matched| Message::SnapshotReply { matched }),
        1 => Just(Message::TimeoutNow),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let from_peer = (0..=6_u64, 1..=4_u32, message(), any::<bool>());
    prop_oneof![
        30 => from_peer.prop_map(|(term, from, message, room)| Input::Message { term, from, message, room }),
        4 => (1..=15_u32).prop_map(Input::Tick),
        3 => (1..=3_u64).prop_map(Input::Propose),
        1 => Just(Input::Read),
        1 => (1..=4_u32).prop_map(Input::Transfer),
        8 => Just(Input::Ready),
        4 => (1..=2_usize).prop_map(Input::FinishWrites),
        8 => Just(Input::FinishHardState),
        1 => Just(Input::FinishInstall),
        1 => (1..=4_u32, any::<bool>()).prop_map(|(peer, fresh)| Input::LinkUp(peer, fresh)),
        1 => (1..=4_u32).prop_map(Input::LinkDown),
        1 => (1..=4_u32).prop_map(Input::Dropped),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(able, stalled)| Input::Disk(able, stalled)),
        1 => (1..=9_u64).prop_map(Input::Compact),
        1 => Just(Input::Restart),
    ]
}

/// The records that an append's outline speaks of, or the state that a snapshot stands for.
fn records(message: &Message) -> Vec<Entry> {
    let entry = |term| Entry { term, label: String::new(), config: None };
    match message {
        Message::Append { prev, entries, .. } => {
            let terms = entries.runs.iter().flat_map(|run| vec![run.term; run.count as usize]);
            let mut records: Vec<Entry> = terms.map(entry).collect();
            for (index, config) in &entries.configs {
                let position = index.checked_sub(prev.index).and_then(|behind| behind.checked_sub(1));
                if let Some(record) = position.and_then(|at| records.get_mut(at as usize)) {
                    record.config = Some(config.clone());
                }
            }
            records
        }
        Message::Snapshot { last, .. } => vec![entry(last.term); last.index as usize],
        _ => Vec::new(),
    }
}

fn take_message(host: &mut Host, term: u64, from: u32, message: Message, room: bool) {
    let leads = matches!(message, Message::Append { .. } | Message::Heartbeat { .. } | Message::Snapshot { .. });
    let from = if leads { NodeId(if term.is_multiple_of(2) { 1 } else { 3 }) } else { NodeId(from) };
    let own_term = host.node.as_ref().is_some_and(|node| node.is_leader() && node.term() == term);
    let newest_below = |last: &EntryId| last.term <= term;
    let possible = match &message {
        Message::Snapshot { last, .. } => !own_term && newest_below(last),
        _ => !(leads && own_term),
    };
    if possible {
        host.room = room;
        let records = records(&message);
        host.step(Packet { envelope: Envelope { from, to: OWN, term, message }, boot: 1, records });
    }
}

fn apply(host: &mut Host, input: Input) {
    let Some(node) = &mut host.node else { return };
    match input {
        Input::Message { term, from, message, room } => take_message(host, term, from, message, room),
        Input::Tick(ticks) => node.tick(ticks),
        Input::Propose(count) => {
            if let Some(first) = node.propose(count) {
                (0..count).for_each(|_| host.stage(Entry { term: first.term, label: String::new(), config: None }));
            }
        }
        Input::Read => drop(node.read()),
        Input::Transfer(to) => drop(node.transfer(Some(NodeId(to)))),
        Input::Ready => {
            let ready = node.ready(&OneByte);
            host.storing = ready.hard_state.or(host.storing);
            ready.send.into_iter().for_each(|envelope| drop(host.pack(envelope)));
            host.issue_write();
        }
        Input::FinishWrites(count) => host.finish_writes(count),
        Input::FinishHardState => host.finish_hard_state(),
        Input::FinishInstall if !node.is_leader() => host.finish_install(),
        Input::FinishInstall => {}
        Input::LinkUp(peer, fresh) => node.link_up(NodeId(peer), fresh),
        Input::LinkDown(peer) => node.link_down(NodeId(peer)),
        Input::Dropped(peer) => node.dropped(NodeId(peer)),
        Input::Disk(able, stalled) => node.set_disk(able, stalled),
        Input::Compact(index) => host.compact(index),
        Input::Restart => {
            host.crash(0, false);
            host.start(7);
        }
    }
    host.stage_noop();
}

/// Such an append contradicts what is committed, so no leader sends it; still it must not end the process.
#[test]
fn an_append_whose_terms_fall_below_those_of_files_is_not_taken() {
    let mut host = member();
    let runs = vec![TermRun { term: 1, count: 3 }];
    let installed = Message::Snapshot { last: EntryId { term: 6, index: 2 }, config: Config::default() };
    let append = Message::Append { prev: EntryId::default(), entries: Entries { runs, configs: Vec::new() }, commit: 0, round: 0 };
    for message in [installed, append] {
        apply(&mut host, Input::Message { term: 6, from: 1, message, room: true });
        for input in [Input::Ready, Input::FinishHardState, Input::FinishInstall] {
            apply(&mut host, input);
        }
    }
    assert_eq!(host.node.as_ref().map(|node| node.last()), Some(EntryId { term: 6, index: 2 }));
}

fn member() -> Host {
    let settings = Settings {
        election_ticks: 10,
        heartbeat_ticks: 3,
        suspicion_ticks: 3,
        election_ticks_max: 80,
        resend_ticks: 8,
        stall_ticks: 40,
        ban_ticks: 60,
        append_bytes: 2,
        window_bytes: 4,
    };
    let founders = Config { voters: vec![NodeId(1), OWN, NodeId(3)], learners: Vec::new() };
    let mut host = Host::new(OWN, settings, founders);
    host.start(1);
    host
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_inputs_makes_a_member_panic(inputs in vec(input(), 1..120)) {
        let mut host = member();
        for input in inputs {
            apply(&mut host, input);
            let node = host.node.as_ref().expect("only a crash stops a member, and it is started again at once");
            prop_assert_eq!(node.last(), host.id_at(host.log.len() as u64));
        }
    }
}
