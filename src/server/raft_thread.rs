//! The Raft thread: a thin loop around the [`Replica`]. Takes events from the inbox, lets time pass, and hands what the replica decided
//! to the threads that carry it. Never waits for anything but its inbox: every send from here leaves at once, queues or drops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::mailbox::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;

use crate::raft::{EntryId, RoleName};
use crate::storage::writer::Job;

use super::background::DiskWork;
use super::connection::Connection;
use super::disk_threads;
use super::event::{Event, LinkChange, Outcome, Reply};
use super::gate::ReadGate;
use super::log_sink;
use super::merge_thread::MergerWork;
use super::metrics::Metrics;
use super::peers::Peers;
use super::replica::{Actions, Position, Replica};
use super::responders::Responders;
use super::view::PeerView;

/// Most events taken in before what they caused is handed out.
const BURST: usize = 4096;
/// Longest time for which events are taken in before time passes and what they caused is handed out: heartbeats are due every few of
/// these, however much the clients send.
const BURST_TIME: Duration = Duration::from_millis(10);
/// How long a leader that is asked to stop waits for a successor.
const HANDOVER_PATIENCE: Duration = Duration::from_millis(1000);

/// Where a replica's decisions go.
pub(super) struct Outlets {
    pub(super) peers: Arc<Peers>,
    pub(super) view: Arc<PeerView>,
    pub(super) gate: Arc<ReadGate<Arc<Connection>>>,
    pub(super) disk: DiskWork,
    pub(super) responders: Responders,
    pub(super) metrics: Arc<Metrics>,
    pub(super) position: Arc<Mutex<Position>>,
    /// Printed once, when a leader is known for the first time.
    pub(super) ready: String,
}

/// Runs until the inbox closes or a shutdown has been carried out.
pub(super) fn run(mut replica: Replica<Arc<Connection>>, inbox: Receiver<Event<Arc<Connection>>>, outlets: &Outlets) {
    let mut last_tick = Instant::now();
    let mut stopping: Option<Instant> = None;
    let mut published = Position::default();
    let mut more = false;
    let mut ready = false;
    loop {
        let wait = if more { Duration::ZERO } else { Duration::from_millis(replica.ms_to_deadline()) };
        match inbox.recv_timeout(wait.saturating_sub(last_tick.elapsed())) {
            Ok(event) => {
                outlets.metrics.inbox_depth.set(inbox.len() as u64);
                let stop = take_burst(&mut replica, event, &inbox, &outlets.metrics);
                stopping = stopping.or(stop.then(Instant::now));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let elapsed = last_tick.elapsed().as_millis() as u64;
        if elapsed > 0 {
            last_tick += Duration::from_millis(elapsed);
            replica.tick(elapsed);
        }
        let actions = replica.flush();
        more = actions.more;
        publish(&replica, outlets, &mut published);
        if !ready && published.leader.is_some() {
            ready = true;
            log_sink::say(&outlets.ready);
        }
        carry_out(actions, outlets);
        if let Some(since) = stopping
            && (!replica.is_leader() || replica.node().config().voters.len() < 2 || since.elapsed() > HANDOVER_PATIENCE)
        {
            return close(replica, inbox, outlets);
        }
    }
}

/// Answers everyone who waits. Whoever asks from now on finds the inbox closed.
fn close(mut replica: Replica<Arc<Connection>>, inbox: Receiver<Event<Arc<Connection>>>, outlets: &Outlets) {
    let mut replies = replica.close(inbox.try_iter());
    drop(inbox);
    // Reads that have gathered behind one whose message was not taken any more.
    let outcome = Outcome::NotLeader { leader: replica.node().leader() };
    let gathered = outlets.gate.take().into_iter();
    replies.extend(gathered.map(|read| Reply { client: read.client, slot: read.slot, outcome: outcome.clone() }));
    outlets.responders.answer(replies);
}

/// Takes in what has arrived, and says whether the process is to stop.
fn take_burst(
    replica: &mut Replica<Arc<Connection>>,
    first: Event<Arc<Connection>>,
    inbox: &Receiver<Event<Arc<Connection>>>,
    metrics: &Metrics,
) -> bool {
    let mut stop = false;
    let begun = Instant::now();
    for event in std::iter::once(first).chain(inbox.try_iter().take(BURST)) {
        match &event {
            Event::Peer(_) => metrics.peer_messages_in.increment(),
            Event::Link(_, LinkChange::Dropped) => metrics.peer_messages_dropped.increment(),
            Event::Shutdown => stop = true,
            _ => {}
        }
        replica.handle(event);
        if stop || begun.elapsed() > BURST_TIME {
            break;
        }
    }
    stop
}

/// Shows STATUS and the peers' handshakes where the replica stands, before any message or answer that depends on it leaves.
fn publish(replica: &Replica<Arc<Connection>>, outlets: &Outlets, published: &mut Position) {
    if outlets.gate.serving() != replica.serving() {
        outlets.gate.set_serving(replica.serving());
    }
    let position = replica.position();
    if position == *published {
        return;
    }
    let view = &outlets.view;
    // What was lost to damage counts as present: it was promised.
    view.set_position(position.term, position.last.max(position.floor));
    view.set_commit(position.commit);
    for (peer, matched) in &position.matched {
        // What has left the log was committed without this acknowledgement, so nobody need remember it.
        if let Some(term) = replica.node().outline().term_of(*matched) {
            view.set_acknowledged(*peer, EntryId { term, index: *matched });
        }
    }
    if position.role != published.role || position.leader != published.leader || position.term != published.term {
        announce(published, &position, outlets);
    }
    outlets.metrics.entries_applied.add(position.applied - published.applied);
    outlets.metrics.state_hash_alarms.add(position.state_hash_alarms - published.state_hash_alarms);
    outlets.metrics.read_rounds.add(position.read_rounds - published.read_rounds);
    outlets.position.lock().clone_from(&position);
    *published = position;
}

fn announce(before: &Position, now: &Position, outlets: &Outlets) {
    let metrics = &outlets.metrics;
    if before.role == Some(RoleName::Leader) && now.role != before.role {
        metrics.step_downs.increment();
    }
    match (now.role, now.leader) {
        (Some(RoleName::Leader), _) => {
            metrics.elections_won.increment();
            log::info!("leads in term {}", now.term);
        }
        (Some(RoleName::Candidate), _) => {
            metrics.elections_started.increment();
            log::info!("seeks leadership after term {}", now.term);
        }
        (_, Some(leader)) => log::info!("follows {} in term {}", outlets.peers.id_of(leader), now.term),
        (_, None) => log::info!("knows no leader in term {}", now.term),
    }
}

fn carry_out(actions: Actions<Arc<Connection>>, outlets: &Outlets) {
    if let Some(error) = &actions.fatal {
        disk_threads::fatal(error);
    }
    // The disk first: it takes longest.
    for job in actions.jobs {
        if let Job::Batch(batch) = &job {
            outlets.metrics.log_bytes.add(batch.bytes());
        }
        // A closed channel means that the log writer has ended the process or the process is stopping.
        let _ = outlets.disk.writer.send(job);
    }
    outlets.metrics.peer_messages_out.add(actions.send.len() as u64);
    for outgoing in actions.send {
        outlets.peers.send(outgoing);
    }
    for (peer, note) in actions.notes {
        outlets.peers.send_note(peer, note);
    }
    if let Some(min_bytes) = actions.prepare {
        let _ = outlets.disk.preparer.send(min_bytes);
    }
    if let Some(job) = actions.hint {
        let _ = outlets.disk.hinter.send(job);
    }
    if let Some(job) = actions.merge {
        let _ = outlets.disk.merger.send(MergerWork::Merge(job));
    }
    if let Some(old) = actions.old_state {
        let _ = outlets.disk.merger.send(MergerWork::Drop(old));
    }
    if let Some(job) = actions.scrub {
        let _ = outlets.disk.scrubber.send(job);
    }
    for snapshot in actions.snapshots {
        outlets.peers.send_snapshot(snapshot);
    }
    if !actions.discard.is_empty() {
        let _ = outlets.disk.merger.send(MergerWork::Discard(actions.discard));
    }
    outlets.responders.answer(actions.replies);
}
