//! Arbitrary inputs to one member, sound and unsound ones: nothing that arrives from a peer, in whatever order, makes it panic. The one
//! exception is documented: two leaders of one term, which only a broken quorum can bring about. So in each term one and the same peer
//! speaks as leader here, and not while the member itself leads that term. Used by the core's property test and by fuzzing.

use apexkv::raft::{Config, EntryId, Envelope, Message, NodeId, Settings};

use super::host::{Entry, Host, OneByte, Packet, small_settings};

const OWN: NodeId = NodeId(2);

/// One input.
#[derive(Clone, Debug)]
pub(crate) enum Input {
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

/// Hands all inputs to a fresh member of three; returns its last entry. Panics if a promise is broken.
pub(crate) fn run(inputs: Vec<Input>) -> Option<EntryId> {
    let settings = Settings { append_bytes: 2, window_bytes: 4, ..small_settings() };
    let founders = Config { voters: vec![NodeId(1), OWN, NodeId(3)], learners: Vec::new() };
    let mut host = Host::new(OWN, settings, founders);
    host.start(1);
    for input in inputs {
        apply(&mut host, input);
        let node = host.node.as_ref().expect("only a crash stops a member, and it is started again at once");
        assert_eq!(node.last(), host.id_at(host.log.len() as u64), "core and host disagree on the log");
    }
    host.node.as_ref().map(|node| node.last())
}
