//! Snapshots on their way from one member to another: read from the sender's disk and written to the receiver's chunk by chunk, with the
//! shipping reader and writer. A connection breaks with the link between the two and with either of them; the sender may try again, and
//! then goes on behind what has arrived, or begins anew if nobody remembers that. What arrived whole may be offered a second time.

use apexkv::protocol::handshake::LinkClass;
use apexkv::server::event::OutgoingSnapshot;
use apexkv::server::identity::{Refusal, Verdict, judge};
use apexkv::storage::snapshot::{Position, Snapshot, SnapshotError, SnapshotReader};

use super::network::SILENCE;
use super::node::{Arriving, name_of, number_of, position_of, standing};
use super::plan::{MILLISECOND, SECOND, Time};
use super::world::{What, World};

/// How often a sender tries again.
const TRIES: u64 = 4;
/// So many broken connections in a thousand end the whole transfer.
const GIVEN_UP: u64 = 300;
/// After so many broken connections in a thousand the receiver has forgotten what had arrived.
const FORGOTTEN: u64 = 300;
/// So many snapshots in a thousand that have arrived are offered again, because the sender was not told.
const REPEATED: u64 = 150;
/// A sender dials within this time.
const DIALING: Time = 3 * MILLISECOND;

/// One step of a transfer.
pub(crate) enum Leg {
    /// The sender dials.
    Dial,
    /// The receiver is asked where to go on.
    Begin,
    /// The sender is told.
    Resume(Position),
    /// Records from this place arrive.
    Chunk(Position, Vec<u8>),
    /// There are no more.
    End,
    /// The sender is told that all is done.
    Done,
    /// The sender gives up, or is told to.
    Failed,
}

/// A snapshot on its way.
pub(crate) struct Transfer {
    from: usize,
    to: usize,
    sender_life: u64,
    receiver_life: u64,
    term: u64,
    /// Gone when the transfer has ended.
    snapshot: Option<Snapshot>,
    reader: Option<SnapshotReader>,
    /// Only what belongs to the connection with this number goes on.
    connection: u64,
    /// It arrived whole.
    arrived: bool,
}

impl Transfer {
    /// Whose threads a step needs.
    pub(crate) fn actor(&self, leg: &Leg) -> usize {
        match leg {
            Leg::Dial | Leg::Resume(_) | Leg::Done | Leg::Failed => self.from,
            Leg::Begin | Leg::Chunk(..) | Leg::End => self.to,
        }
    }
}

impl World {
    /// A member sends a snapshot.
    pub(crate) fn send_snapshot(&mut self, from: usize, outgoing: OutgoingSnapshot) {
        let OutgoingSnapshot { to, term, snapshot } = outgoing;
        let to = position_of(to);
        let Some(process) = &self.members[from].process else { return };
        let sender_life = process.life;
        let under_way = |other: &Transfer| (other.from, other.to, other.sender_life) == (from, to, sender_life) && other.snapshot.is_some();
        assert!(!self.transfers.iter().any(under_way), "{from} sends {to} a snapshot while it sends it another");
        self.counts.snapshots_begun += 1;
        let number = self.transfers.len();
        let snapshot = Some(snapshot);
        self.transfers.push(Transfer {
            from,
            to,
            sender_life,
            receiver_life: 0,
            term,
            snapshot,
            reader: None,
            connection: 0,
            arrived: false,
        });
        let pause = self.random.below(DIALING);
        self.step_later(number, pause, Leg::Dial);
    }

    fn step_later(&mut self, number: usize, pause: Time, leg: Leg) {
        let connection = self.transfers[number].connection;
        self.schedule(self.now + pause, What::Transfer { number, connection, leg });
    }

    /// The next step of a transfer.
    pub(crate) fn transfer(&mut self, number: usize, connection: u64, leg: Leg) {
        let Transfer { from, to, sender_life, receiver_life, connection: present, .. } = self.transfers[number];
        if present != connection || self.transfers[number].snapshot.is_none() {
            return;
        }
        if !self.lives(from, sender_life) {
            return self.forget_transfer(number);
        }
        match leg {
            Leg::Dial => return self.dial_transfer(number),
            Leg::Failed => return self.end_transfer(number),
            _ => {}
        }
        let blocked = self.blocked_until(from, to);
        if blocked > self.now && blocked < self.now + SILENCE && self.random.per_mille(500) {
            return self.schedule(blocked, What::Transfer { number, connection, leg });
        }
        let breaks = matches!(leg, Leg::Chunk(..)) && self.random.per_mille(self.plan.chunk_breaks);
        if breaks || blocked > self.now || !self.lives(to, receiver_life) || self.lacks_evidence(from, to) {
            return self.break_transfer(number);
        }
        let busy = self.members[self.transfers[number].actor(&leg)].hung_until;
        if busy > self.now {
            return self.schedule(busy, What::Transfer { number, connection, leg });
        }
        self.check_rest(number);
        match leg {
            Leg::Begin => self.begin_taking(number),
            Leg::Resume(position) => self.read_on(number, position),
            Leg::Chunk(position, records) => self.take_in(number, position, &records),
            Leg::End => self.finish_taking(number),
            Leg::Done | Leg::Failed | Leg::Dial => self.end_transfer(number),
        }
    }

    /// What comes behind a snapshot on its way stays in the log of the leader that sends it, unless its disk was full: else the next one
    /// would be needed at once.
    fn check_rest(&self, number: usize) {
        let Transfer { from, term, snapshot, .. } = &self.transfers[number];
        let (Some(process), Some(snapshot)) = (&self.members[*from].process, snapshot) else { return };
        let core = process.replica.node();
        let base = core.outline().base().index;
        let full = self.members[*from].full_until > 0;
        let kept = full || !core.is_leader() || core.term() != *term || base <= snapshot.last.index;
        assert!(kept, "the log of {from} begins behind {base} while a snapshot up to {} is on its way", snapshot.last);
    }

    fn dial_transfer(&mut self, number: usize) {
        let Transfer { from, to, term, .. } = self.transfers[number];
        let founding = self.founding.clone();
        let Some(process) = &mut self.members[from].process else { return };
        if process.view.position().0 != term {
            return self.end_transfer(number);
        }
        let hello = process.hello(from, &founding, LinkClass::Bulk);
        let mark = process.marks.of(Some(number_of(to)), &process.view);
        if self.blocked_until(from, to) > self.now || self.lacks_evidence(from, to) {
            return self.break_transfer(number);
        }
        let Some(receiver) = &mut self.members[to].process else { return self.break_transfer(number) };
        self.transfers[number].receiver_life = receiver.life;
        let welcome = receiver.hello(to, &founding, LinkClass::Bulk);
        let name = name_of(to);
        match receiver.marks.admit(standing(&name, &founding), Some(number_of(from)), &hello, &receiver.view) {
            Ok(Verdict::Accept { .. }) => self.check_belief(to, from),
            Ok(Verdict::Refuse(refusal)) => return self.refuse_transfer(number, from, &refusal),
            Err(error) => {
                self.fatal_link(to, &error);
                return self.break_transfer(number);
            }
        }
        if let Verdict::Refuse(refusal) = judge(standing(&name_of(from), &founding), mark.as_ref(), &welcome) {
            return self.refuse_transfer(number, to, &refusal);
        }
        self.check_belief(from, to);
        let pause = 3 * self.latency(from, to);
        self.step_later(number, pause, Leg::Begin);
    }

    fn refuse_transfer(&mut self, number: usize, refused: usize, refusal: &Refusal) {
        self.note_refusal(refused, refusal);
        self.break_transfer(number);
    }

    /// The receiver is told what is coming, and says where to go on.
    fn begin_taking(&mut self, number: usize) {
        let Transfer { from, to, term, .. } = self.transfers[number];
        let Some(snapshot) = &self.transfers[number].snapshot else { return };
        let (last, hash) = (snapshot.last, snapshot.hash);
        let pause = self.latency(to, from);
        let Some(process) = &mut self.members[to].process else { return };
        if process.view.position().0 > term {
            return self.step_later(number, pause, Leg::Failed);
        }
        let known = process.arriving.take_if(|arriving| arriving.number == number);
        // What was begun for another transfer is dropped, and its files go.
        let arriving = known.unwrap_or_else(|| Arriving { number, writer: process.snapshots.begin(last, hash) });
        let position = arriving.writer.position();
        process.arriving = Some(arriving);
        self.counts.snapshots_resumed += u64::from(position != Position::default());
        self.step_later(number, pause, Leg::Resume(position));
    }

    /// The sender reads what comes next.
    fn read_on(&mut self, number: usize, position: Position) {
        let pause = self.disk_time_of(number, true);
        let Transfer { from, snapshot, reader, .. } = &mut self.transfers[number];
        let (from, Some(snapshot)) = (*from, snapshot) else { return };
        let Some(process) = &self.members[from].process else { return };
        let goes_on = reader.take_if(|reader| reader.position() == position);
        let reader = reader.insert(goes_on.unwrap_or_else(|| process.snapshots.read(snapshot.clone(), position)));
        let mut records = Vec::new();
        match reader.read(self.plan.chunk_bytes as usize, &mut records) {
            Ok(Some((at, count))) => {
                assert!(count > 0 && !records.is_empty(), "{from} reads {count} records in {} bytes", records.len());
                self.step_later(number, pause, Leg::Chunk(at, records));
            }
            Ok(None) => self.step_later(number, pause, Leg::End),
            Err(error) => {
                assert!(self.members[from].is_damaged(), "{from} cannot read its snapshot: {error}");
                self.end_transfer(number);
            }
        }
    }

    /// How long a step takes at a disk, and from there to the other side.
    fn disk_time_of(&mut self, number: usize, at_sender: bool) -> Time {
        let Transfer { from, to, .. } = self.transfers[number];
        let (here, there) = if at_sender { (from, to) } else { (to, from) };
        let pause = if at_sender { self.random.between(self.plan.chunk_pause) } else { 0 };
        pause + self.disk_time(here, self.plan.sync) + self.latency(here, there)
    }

    /// Records arrive.
    fn take_in(&mut self, number: usize, position: Position, records: &[u8]) {
        let Transfer { from, to, sender_life, .. } = self.transfers[number];
        self.check_words(from, sender_life);
        let pause = self.disk_time_of(number, false);
        let Some(process) = &mut self.members[to].process else { return };
        // Another sender's snapshot has taken its place.
        let Some(arriving) = process.arriving.as_mut().filter(|arriving| arriving.number == number) else {
            return self.step_later(number, pause, Leg::Failed);
        };
        match arriving.writer.take(position, records) {
            Ok(()) => {
                let position = arriving.writer.position();
                self.step_later(number, pause, Leg::Resume(position));
            }
            Err(error) => {
                process.arriving = None;
                self.not_taken(number, error);
            }
        }
    }

    fn not_taken(&mut self, number: usize, error: SnapshotError) {
        let Transfer { from, to, .. } = self.transfers[number];
        match error {
            SnapshotError::Full(reason) => {
                assert!(self.members[to].full_until > self.now, "{to} has no room on an empty disk: {reason}");
                self.counts.snapshots_full += 1;
            }
            SnapshotError::Bad(reason) => {
                let damaged = self.members[from].is_damaged() || self.members[to].is_damaged();
                assert!(damaged, "{to} cannot use what {from} sends of its snapshot: {reason}");
            }
            SnapshotError::Fatal(error) => {
                self.fatal_link(to, &error);
                return self.break_transfer(number);
            }
        }
        let pause = self.latency(to, from);
        self.step_later(number, pause, Leg::Failed);
    }

    /// The last record has arrived.
    fn finish_taking(&mut self, number: usize) {
        let Transfer { to, term, sender_life, from, .. } = self.transfers[number];
        self.check_words(from, sender_life);
        let pause = self.disk_time_of(number, false);
        let repeated = self.random.per_mille(REPEATED);
        let Some(process) = &mut self.members[to].process else { return };
        let Some(arriving) = process.arriving.take_if(|arriving| arriving.number == number) else {
            return self.step_later(number, pause, Leg::Failed);
        };
        match arriving.writer.finish() {
            Ok(received) => {
                process.registry.inbox().received(received, term);
                self.counts.snapshots_received += 1;
                self.counts.snapshots_repeated += u64::from(self.transfers[number].arrived);
                self.transfers[number].arrived = true;
                self.trace.note(&[7, number as u64, to as u64]);
                self.rouse(to);
                if repeated {
                    self.try_again(number);
                } else {
                    self.step_later(number, pause, Leg::Done);
                }
            }
            Err(error) => self.not_taken(number, error),
        }
    }

    // ---- ending ----

    /// The connections of the pairs that are hit break.
    pub(crate) fn break_transfers(&mut self, hit: impl Fn(usize, usize) -> bool) {
        for number in 0..self.transfers.len() {
            let Transfer { from, to, .. } = self.transfers[number];
            if self.transfers[number].snapshot.is_some() && (hit(from, to) || hit(to, from)) {
                self.break_transfer(number);
            }
        }
    }

    fn break_transfer(&mut self, number: usize) {
        self.counts.snapshots_cut += 1;
        let to = self.transfers[number].to;
        let forgotten = self.random.per_mille(FORGOTTEN);
        if let Some(process) = self.members[to].process.as_mut().filter(|_| forgotten) {
            process.arriving.take_if(|arriving| arriving.number == number);
        }
        if self.transfers[number].connection >= TRIES || self.random.per_mille(GIVEN_UP) {
            self.transfers[number].connection += 1;
            let pause = self.random.spread((MILLISECOND, 2 * SECOND));
            return self.step_later(number, pause, Leg::Failed);
        }
        self.try_again(number);
    }

    fn try_again(&mut self, number: usize) {
        self.transfers[number].connection += 1;
        let pause = self.random.spread((MILLISECOND, SECOND));
        self.step_later(number, pause, Leg::Dial);
    }

    /// The sender says that it has come to an end with it.
    fn end_transfer(&mut self, number: usize) {
        let Transfer { from, to, .. } = self.transfers[number];
        self.forget_transfer(number);
        if let Some(process) = &self.members[from].process {
            process.registry.inbox().snapshot_ended(number_of(to));
            self.rouse(from);
        }
    }

    fn forget_transfer(&mut self, number: usize) {
        let transfer = &mut self.transfers[number];
        (transfer.snapshot, transfer.reader) = (None, None);
    }

    /// A member's process has died, and with it what it was sending.
    pub(crate) fn end_transfers_of(&mut self, node: usize) {
        for number in 0..self.transfers.len() {
            if self.transfers[number].from == node {
                self.forget_transfer(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use apexkv::server::replica::Limits;

    use crate::plan::{Death, Fault, MILLISECOND, Plan, SECOND};
    use crate::run::run;

    /// Three nodes that write much and keep little log; the second is away for a while.
    fn plan() -> Plan {
        let plan = (0..).map(Plan::of).find(|plan| plan.nodes == 3 && plan.sync.1 < 5 * MILLISECOND && plan.silent_loss == 0);
        let plan = plan.expect("every third seed is like this");
        let limits = Limits { retain_log_bytes: 0, merge_look_ms: 10, ..plan.limits.clone() };
        let away = Fault::Die { node: 1, death: Death::Kill, down: 3 * SECOND };
        let (segment_bytes, value_bytes, think) = (3 * 4096, (100, 400), (100, 2 * MILLISECOND));
        let mix = crate::plan::Mix { set: 10, delete: 2, compare_and_set: 2, get: 1, scan: 0 };
        let faults = vec![(SECOND, away)];
        Plan { time: 5 * SECOND, heal_all: true, clients: 4, segment_bytes, value_bytes, think, mix, limits, faults, ..plan }
    }

    #[test]
    fn a_node_that_was_away_for_longer_than_the_log_is_kept_gets_a_snapshot() {
        let report = run(&plan()).unwrap_or_else(|failure| panic!("at {} µs: {}", failure.now, failure.message));
        let counts = &report.counts;
        assert!(counts.installations > 0 && counts.retirements > 0 && counts.merges > 0, "{report:?}");
    }

    #[test]
    fn logs_of_which_all_is_kept_never_need_one() {
        let mut plan = plan();
        plan.limits.retain_log_bytes = u64::MAX;
        let report = run(&plan).unwrap_or_else(|failure| panic!("at {} µs: {}", failure.now, failure.message));
        let counts = &report.counts;
        assert_eq!((counts.installations, counts.retirements, counts.snapshots_begun), (0, 0, 0), "{report:?}");
    }
}
