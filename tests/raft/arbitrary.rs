//! Arbitrary inputs to one member, drawn so that they meet: small numbers, and now and then one beyond all bounds.

use apexkv::raft::{Config, Entries, EntryId, Message, NodeId, TermRun};
use proptest::collection::vec;
use proptest::prelude::*;

use super::inputs::{Input, run};

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
        1 => Just(Message::Arriving),
        1 => small(4).prop_map(|token| Message::LastIndex { token }),
        1 => (small(4), small(9)).prop_map(|(token, index)| Message::LastIndexReply { token, index }),
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

/// Such an append contradicts what is committed, so no leader sends it; still it must not end the process.
#[test]
fn an_append_whose_terms_fall_below_those_of_files_is_not_taken() {
    let runs = vec![TermRun { term: 1, count: 3 }];
    let installed = Message::Snapshot { last: EntryId { term: 6, index: 2 }, config: Config::default() };
    let append = Message::Append { prev: EntryId::default(), entries: Entries { runs, configs: Vec::new() }, commit: 0, round: 0 };
    let carried_out = || [Input::Ready, Input::FinishHardState, Input::FinishInstall];
    let inputs = [installed, append].into_iter().flat_map(|message| {
        let arrival = Input::Message { term: 6, from: 1, message, room: true };
        std::iter::once(arrival).chain(carried_out())
    });
    assert_eq!(run(inputs.collect()), Some(EntryId { term: 6, index: 2 }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_inputs_makes_a_member_panic(inputs in vec(input(), 1..120)) {
        run(inputs);
    }
}
