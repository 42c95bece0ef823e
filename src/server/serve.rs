//! The thread of one client connection: receives, hands batches to the Raft thread, answers reads from the store. It holds the
//! reading side of the socket and the buffers; it never sends by itself but through the connection's output, and it never sleeps
//! without something that will wake it: bytes, a time limit, an answer, or the end of the connection.

use super::backups::{OpenBackup, answer_part};
use super::batch::{Batch, End};
use super::clients::{Attached, Port};
use super::connection::Connection;
use super::event::{BackupRequest, ClientBatch, Event, Outcome, Slot};
use super::gate::EarlyRead;
use super::input::Input;
use super::output::{Entry, Wait};
use super::reads::{answer_located, answer_now};
use super::request::BackupQuery;
use super::response::{Form, encode_outcome};
use super::stream::{Large, Piece};
use super::values::Values;
use crate::bugbank::planted;
use rustix::io::Errno;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

/// Responses of reads are handed to the output from this size on, and larger ones in pieces of it, so that a client that takes nothing
/// costs little memory.
const DELIVERY_BYTES: usize = 64 << 10;

/// Most reads of a batch that are looked up before they are confirmed.
const EARLY_READS_MAX: usize = 64;
/// Most bytes of responses that are held for one batch until they are confirmed.
const EARLY_BYTES_MAX: usize = 32 << 10;

/// What an idle connection may keep for building responses.
const IDLE_SCRATCH_BYTES: usize = 2 << 10;
/// Most batches in a row after which nobody looks whether there is room for more, because others are at the output.
const UNSEEN_MAX: u32 = 2;
/// For how many open requests an idle connection may keep memory.
const IDLE_ENTRIES: usize = 64;

/// Serves the connection until it ends. The calling thread becomes its thread.
pub(super) fn serve(connection: &Arc<Connection>, port: &Arc<Port>) {
    connection.adopt();
    let answers = Answers {
        connection: Arc::clone(connection),
        port: Arc::clone(port),
        next_slot: 0,
        scratch: Vec::new(),
        grown: false,
        writes_open: false,
        early_bytes: 0,
        unseen: 0,
        backup: None,
    };
    let mut conversation = Conversation { input: Input::default(), answers, frame_began: None, time_limit: None, receives: 0 };
    if conversation.run() == Ending::Fault {
        conversation.close_after_fault();
    }
    connection.cut();
}

/// Why a conversation is over.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// Nothing more to do: the stream ended and all is answered, or the connection is gone.
    Over,
    /// The client broke the protocol; its last response is in the output.
    Fault,
}

/// What a receive came to.
#[derive(Debug, PartialEq, Eq)]
enum Received {
    /// More bytes.
    Bytes,
    /// The client sends no more, or the server is stopping.
    End,
    /// The frame at the front was not completed in time.
    Late,
}

#[derive(Debug)]
struct Conversation {
    input: Input,
    answers: Answers,
    /// Since when the frame at the front waits for the rest of it.
    frame_began: Option<Instant>,
    /// The socket's present time limit for receiving.
    time_limit: Option<Duration>,
    receives: u8,
}

impl Conversation {
    fn run(&mut self) -> Ending {
        loop {
            let answers = &mut self.answers;
            let batch = Batch::build(
                self.input.bytes(),
                answers.next_slot,
                &answers.port.limits,
                answers.port.view.as_ref(),
                &answers.port.metrics,
            );
            let consumed = batch.consumed;
            let Some(end) = answers.process(batch) else { return Ending::Over };
            if consumed > 0 {
                self.input.consume(consumed);
                self.frame_began = None;
            }
            let End::Incomplete { frame_bytes, doomed } = end else {
                if end == End::Fault {
                    return Ending::Fault;
                }
                continue;
            };
            match self.receive(frame_bytes, doomed) {
                Ok(Received::Bytes) => {}
                Ok(Received::End | Received::Late) if doomed => return self.refuse_doomed(),
                Ok(other) => return self.finish(&other),
                Err(error) => {
                    log::debug!("{:?}: {error}", self.answers.connection);
                    return Ending::Over;
                }
            }
        }
    }

    /// Receives once. Costs one system call as long as the time limit need not change.
    fn receive(&mut self, frame_bytes: usize, doomed: bool) -> std::io::Result<Received> {
        loop {
            self.answers.backup.take_if(|backup| backup.is_stale());
            if self.input.bytes().is_empty() {
                self.frame_began = None;
                // An open backup is looked at now and then, because it must not stay open for ever.
                let keeps = self.input.is_grown() || self.answers.grown || self.answers.backup.is_some();
                if self.time_limit.is_none() && keeps {
                    self.limit_time(Some(self.answers.port.limits.frame_time))?;
                }
            } else if !self.limit_frame(doomed)? {
                return Ok(Received::Late);
            }
            let received = self.input.receive(self.answers.connection.socket(), frame_bytes);
            self.receives = self.receives.wrapping_add(1);
            if self.receives % 16 == 1 {
                self.answers.connection.note_processor();
            }
            if self.answers.port.stopping.load(SeqCst) {
                return Ok(Received::End);
            }
            match received {
                Ok(0) => return Ok(Received::End),
                Ok(bytes) => {
                    self.answers.port.metrics.client_bytes_in.add(bytes as u64);
                    return Ok(Received::Bytes);
                }
                Err(Errno::AGAIN) if self.input.bytes().is_empty() => self.rest()?,
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sets the receive time limit to what the frame at the front has left; false when that is nothing. Counting from the frame's
    /// first byte, so that a byte now and then extends nothing.
    fn limit_frame(&mut self, doomed: bool) -> std::io::Result<bool> {
        let limits = &self.answers.port.limits;
        let allowed = if doomed { limits.doomed_time } else { limits.frame_time };
        let began = *self.frame_began.get_or_insert_with(Instant::now);
        let left = allowed.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(false);
        }
        // An eighth more or half as much is near enough: a large frame arrives in many receives, and each change is a system call.
        if self.time_limit.is_none_or(|set| set > left + left / 8 || set < left / 2) {
            self.limit_time(Some(left))?;
        }
        Ok(true)
    }

    fn limit_time(&mut self, limit: Option<Duration>) -> std::io::Result<()> {
        // The system counts in microseconds and takes zero for "no limit".
        let limit = limit.map(|limit| limit.max(Duration::from_millis(1)));
        self.answers.connection.socket().set_read_timeout(limit)?;
        self.time_limit = limit;
        Ok(())
    }

    /// Idle for a while: gives memory back and sleeps without a limit from now on.
    fn rest(&mut self) -> std::io::Result<()> {
        self.input.shrink();
        self.answers.scratch = Vec::new();
        (self.answers.grown, self.answers.early_bytes) = (false, 0);
        self.answers.connection.with_output(|output| output.shrink());
        self.limit_time(None)
    }

    /// The client sends no more: everything asked so far is still answered.
    fn finish(&mut self, why: &Received) -> Ending {
        if *why == Received::Late {
            let Answers { connection, port, .. } = &self.answers;
            log::info!("client connection {}: cut, a frame was not complete in {:?}", connection.number(), port.limits.frame_time);
            port.metrics.connections_cut.increment();
        }
        self.answers.connection.wait(Wait::Drained);
        Ending::Over
    }

    /// The lengths are too large, and the request id to address the refusal with did not come.
    fn refuse_doomed(&mut self) -> Ending {
        let answers = &mut self.answers;
        let port = Arc::clone(&answers.port);
        let batch = Batch::doomed(self.input.bytes(), answers.next_slot, &port.limits, port.view.as_ref(), &port.metrics);
        match answers.process(batch) {
            Some(_) => Ending::Fault,
            None => Ending::Over,
        }
    }

    /// Sends everything, says that no more will come, and discards input for a bounded time: closing a socket with unread input
    /// would reset the connection and destroy responses that are still on their way.
    fn close_after_fault(&mut self) {
        let Answers { connection, port, .. } = &self.answers;
        if !connection.wait(Wait::Drained) || connection.socket().shutdown(Shutdown::Write).is_err() {
            return;
        }
        if planted(102) {
            return;
        }
        let (began, mut discarded) = (Instant::now(), 0);
        let mut rubbish = [0; 8 << 10];
        while discarded < port.limits.drain_bytes {
            let left = port.limits.drain_time.saturating_sub(began.elapsed());
            if left.is_zero() || connection.socket().set_read_timeout(Some(left)).is_err() {
                return;
            }
            match rustix::net::recv(connection.socket(), &mut rubbish, rustix::net::RecvFlags::empty()) {
                Ok((0, _)) => return,
                Ok((bytes, _)) => discarded += bytes,
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// Everything but the receiving.
#[derive(Debug)]
struct Answers {
    connection: Arc<Connection>,
    port: Arc<Port>,
    next_slot: Slot,
    /// Where responses of reads are built; changes places with the output's buffer.
    scratch: Vec<u8>,
    /// There were responses or batches whose memory an idle connection should not keep.
    grown: bool,
    /// Writes were sent, and it is not known that all of them have been answered.
    writes_open: bool,
    /// Size of the last responses that were built early.
    early_bytes: usize,
    /// Batches in a row that were pushed while others were at the output.
    unseen: u32,
    /// What is being read.
    backup: Option<OpenBackup>,
}

impl Answers {
    /// Brings a batch on its way and answers its reads; returns where the batch ended, or `None` when the connection is gone. A batch
    /// of writes alone is not waited for.
    fn process(&mut self, mut batch: Batch<'_>) -> Option<End> {
        if batch.entries.is_empty() {
            return Some(batch.end);
        }
        // A backup holds all earlier writes of the connection that succeed.
        if batch.backup().is_some() && !self.connection.wait(Wait::Reads { writes: true }) {
            return None;
        }
        self.grown |= batch.entries.len() > IDLE_ENTRIES;
        if let Some(open) = self.answer_early(&mut batch) {
            return open.then_some(batch.end);
        }
        self.next_slot += batch.entries.len() as u64;
        self.writes_open |= !batch.records.is_empty();
        let room = self.connection.push(std::mem::take(&mut batch.entries), self.room());
        if let Some((read, query)) = batch.backup() {
            let (slot, form) = (read.slot, read.form);
            if !self.answer_backup(&mut batch, slot, form, query) {
                return None;
            }
            batch.reads.clear();
        } else if batch.needs_raft() {
            self.submit(&mut batch);
        }
        if batch.reads.is_empty() {
            return self.goes_on(room).then_some(batch.end);
        }
        (self.answer_reads(&batch) && self.connection.wait(self.room())).then_some(batch.end)
    }

    /// Waits for room for another batch, unless there is some: `room` is what was seen of it when the last one was pushed. While others are
    /// at the output its answers leave, so that nothing of it need be seen for a few batches. False when the connection is gone.
    fn goes_on(&mut self, room: Option<bool>) -> bool {
        self.unseen = if room.is_none() { self.unseen + 1 } else { 0 };
        if room.unwrap_or(self.unseen <= UNSEEN_MAX) {
            return true;
        }
        self.unseen = 0;
        self.connection.wait(self.room())
    }

    fn room(&self) -> Wait {
        let limits = &self.port.limits;
        Wait::Room { unsent: limits.unsent_bytes, unanswered: limits.unanswered_requests, cost: limits.unanswered_bytes }
    }

    /// Answers a batch of a few small reads without waiting: looks them up now, and leaves the responses to be sent when a read round has
    /// shown that this node led. `None` if that is not possible and nothing has been done; else whether the connection is open.
    fn answer_early(&mut self, batch: &mut Batch<'_>) -> Option<bool> {
        let port = Arc::clone(&self.port);
        let attached = port.attached.get().filter(|_| batch.gets_only() && batch.reads.len() <= EARLY_READS_MAX)?;
        // A read sees the writes before it on its connection, so they must have been applied.
        self.writes_open = self.writes_open && self.connection.with_output(|output| output.has_unanswered_writes());
        let term = attached.gate.serving();
        if term == 0 || self.writes_open || port.unsent.load(Relaxed) > port.limits.unsent_bytes_total {
            return None;
        }
        let bytes = self.look_up(batch, &attached.values)?;
        let slot = self.next_slot;
        self.next_slot += batch.entries.len() as u64;
        let forms = batch.reads.iter().map(|read| read.form).collect();
        let looked = Entry::Looked { bytes, forms, cost: batch.cost as u32 };
        let others = (1..batch.entries.len()).map(|_| Entry::Encoded(Vec::new()));
        let entries = std::iter::once(looked).chain(others);
        let room = self.connection.push(entries, self.room());
        self.confirm(attached, batch, EarlyRead { client: Arc::clone(&self.connection), slot, term, deadline_ms: self.deadline_ms(batch) });
        Some(self.goes_on(room))
    }

    /// Builds the responses to all reads of a batch; `None` if they are too large to be held.
    fn look_up(&mut self, batch: &Batch<'_>, values: &Values) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.early_bytes);
        for read in &batch.reads {
            if answer_now(&mut bytes, read.form, &read.query, values).is_some() || bytes.len() > EARLY_BYTES_MAX {
                return None;
            }
        }
        self.early_bytes = bytes.len();
        self.grown |= bytes.capacity() > IDLE_SCRATCH_BYTES;
        Some(bytes)
    }

    fn confirm(&self, attached: &Attached, batch: &Batch<'_>, read: EarlyRead<Arc<Connection>>) {
        if let Some(busy) = self.enter(batch) {
            return self.connection.complete([(read.slot, busy)]);
        }
        if attached.gate.enter(read) && attached.reads.send(Event::Reads(Arc::clone(&attached.gate))).is_err() {
            // The Raft thread is gone: the process is stopping.
            for read in attached.gate.take() {
                read.client.complete([(read.slot, Outcome::NotLeader { leader: None })]);
            }
        }
    }

    /// Counts a batch as waiting for the Raft thread. Returns the refusal if too much does.
    fn enter(&self, batch: &Batch<'_>) -> Option<Outcome> {
        let waiting = self.port.in_flight.enter(batch.cost);
        if waiting > self.port.limits.in_flight_bytes && waiting > batch.cost {
            self.port.metrics.client_batches_busy.increment();
            return Some(Outcome::Busy("too many requests are waiting on this node; try again later".into()));
        }
        self.port.metrics.client_batches.increment();
        None
    }

    /// Hands the batch to the Raft thread, or refuses all of it.
    fn submit(&self, batch: &mut Batch<'_>) {
        let busy = self.enter(batch);
        let Some(attached) = self.port.attached.get() else {
            return self.refuse(batch, &Outcome::NotLeader { leader: None });
        };
        if let Some(busy) = busy {
            return self.refuse(batch, &busy);
        }
        let event = Event::Client(ClientBatch {
            client: Arc::clone(&self.connection),
            requests: std::mem::take(&mut batch.requests),
            records: std::mem::take(&mut batch.records),
            barrier: batch.barrier,
            deadline_ms: self.deadline_ms(batch),
        });
        if let Err(unsent) = attached.inbox.send(event)
            && let Event::Client(returned) = unsent.0
        {
            // The Raft thread is gone: the process is stopping, and nothing of the batch entered the log.
            batch.requests = returned.requests;
            self.refuse(batch, &Outcome::NotLeader { leader: None });
        }
    }

    /// The time limit of a batch.
    fn deadline_ms(&self, batch: &Batch<'_>) -> u32 {
        let default = u32::try_from(self.port.limits.request_timeout.as_millis()).unwrap_or(u32::MAX);
        if batch.deadline_ms == 0 { default } else { batch.deadline_ms }
    }

    /// Answers the one request of a batch, which is about a backup; false when the connection is gone.
    fn answer_backup(&mut self, batch: &mut Batch<'_>, slot: Slot, form: Form, query: BackupQuery) -> bool {
        match query {
            BackupQuery::Next { id, position } => answer_part(&mut self.backup, id, position, &mut self.scratch, form),
            BackupQuery::Open => {
                if !self.open_backup(batch, slot, form) {
                    return false;
                }
            }
        }
        self.deliver(slot, 1)
    }

    /// Has the state pinned and builds the answer; false when the connection is gone.
    fn open_backup(&mut self, batch: &Batch<'_>, slot: Slot, form: Form) -> bool {
        self.backup = None;
        self.port.in_flight.enter(batch.cost);
        let (sender, state) = crate::server::mailbox::bounded(1);
        let permit = self.port.backups.permit();
        match (&permit, self.port.attached.get()) {
            (_, None) => self.refuse(batch, &Outcome::NotLeader { leader: None }),
            (Err(busy), _) => self.refuse(batch, busy),
            (Ok(_), Some(attached)) => {
                let (client, deadline_ms) = (Arc::clone(&self.connection), self.deadline_ms(batch));
                let request = BackupRequest { client, slot, deadline_ms, state: sender };
                if attached.inbox.send(Event::Backup(request)).is_err() {
                    // As for a batch: the process is stopping.
                    self.refuse(batch, &Outcome::NotLeader { leader: None });
                }
            }
        }
        if !self.connection.wait(Wait::Reads { writes: false }) {
            return false;
        }
        let outcomes = self.connection.with_output(|output| output.take_read_outcomes());
        match (outcome_of(&outcomes, Some(slot)), permit) {
            (Outcome::Proceed, Ok(permit)) => {
                let state = state.try_recv().expect("the state was pinned before the connection was let go");
                self.backup = Some(OpenBackup::open(state, permit, &mut self.scratch, form));
            }
            (outcome, _) => encode_outcome(&mut self.scratch, form, outcome, self.port.view.as_ref()),
        }
        true
    }

    fn refuse(&self, batch: &Batch<'_>, outcome: &Outcome) {
        self.connection.complete(batch.slots().map(|slot| (slot, outcome.clone())));
    }

    /// Waits for the outcomes of the batch's reads and answers them; false when the connection is gone.
    fn answer_reads(&mut self, batch: &Batch<'_>) -> bool {
        if batch.awaited_reads() > 0 && !self.connection.wait(Wait::Reads { writes: batch.barrier.is_some() }) {
            return false;
        }
        let outcomes = self.connection.with_output(|output| output.take_read_outcomes());
        let port = Arc::clone(&self.port);
        let values = port.attached.get().map(|attached| &attached.values);
        let (mut first, mut count) = (0, 0);
        for read in &batch.reads {
            if first + count as u64 != read.slot || self.scratch.len() >= DELIVERY_BYTES {
                if !self.deliver(first, count) {
                    return false;
                }
                (first, count) = (read.slot, 0);
            }
            let decisive = if read.located_in_order { Some(read.slot) } else { batch.barrier };
            if let Some(large) = self.answer_read(read, outcome_of(&outcomes, decisive), values) {
                if !self.deliver(first, count) || !self.stream(read.slot, large) {
                    return false;
                }
                (first, count) = (read.slot + 1, 0);
                continue;
            }
            count += 1;
        }
        self.deliver(first, count)
    }

    /// Builds the response to a read; one that is large comes back, to be built piece by piece.
    fn answer_read(&mut self, read: &super::batch::PlannedRead<'_>, outcome: &Outcome, values: Option<&Values>) -> Option<Large> {
        let view = self.port.view.as_ref();
        let busy = Outcome::Busy("too many responses wait for clients that do not take them; try again later".into());
        let crowded = self.port.unsent.load(Relaxed) > self.port.limits.unsent_bytes_total;
        let outcome = if crowded { &busy } else { outcome };
        match (outcome, values) {
            (Outcome::Proceed, Some(values)) => answer_now(&mut self.scratch, read.form, &read.query, values),
            (outcome, Some(values)) => answer_located(&mut self.scratch, read.form, &read.query, outcome, values, view),
            (outcome, None) => {
                encode_outcome(&mut self.scratch, read.form, outcome, view);
                None
            }
        }
    }

    /// Hands a large response to the output piece by piece, each when the client has taken most of what came before.
    fn stream(&mut self, slot: Slot, mut large: Large) -> bool {
        if !self.connection.wait(Wait::Front { slot }) {
            return false;
        }
        self.grown = true;
        let port = Arc::clone(&self.port);
        let held = large.memory_bytes();
        port.unsent.fetch_add(held, Relaxed);
        let delivered = self.stream_pieces(slot, &mut large);
        port.unsent.fetch_sub(held, Relaxed);
        delivered
    }

    fn stream_pieces(&mut self, slot: Slot, large: &mut Large) -> bool {
        loop {
            match large.next_piece(&mut self.scratch, DELIVERY_BYTES) {
                Piece::More => {
                    let scratch = &mut self.scratch;
                    self.connection.with_output(|output| output.fill_part(slot, scratch));
                    if !self.connection.wait(Wait::Taken { unsent: self.port.limits.unsent_bytes }) {
                        return false;
                    }
                }
                Piece::Last => return self.deliver(slot, 1),
                Piece::Changed(error) => {
                    log::error!("{:?}: cut, a stored value changed while it was being sent: {error}", self.connection);
                    if let Some(attached) = self.port.attached.get() {
                        (attached.values.on_damage)(&error);
                    }
                    self.connection.cut();
                    return false;
                }
            }
        }
    }

    /// Hands the built responses of `count` reads to the output, and waits while the client takes nothing.
    fn deliver(&mut self, first: Slot, count: usize) -> bool {
        if count == 0 {
            return true;
        }
        self.grown |= self.scratch.len() > IDLE_SCRATCH_BYTES;
        let scratch = &mut self.scratch;
        self.connection.with_output(|output| output.fill(first, count, scratch));
        if scratch.capacity() > DELIVERY_BYTES {
            *scratch = Vec::new();
        }
        self.connection.wait(Wait::Taken { unsent: self.port.limits.unsent_bytes })
    }
}

/// The outcome for a slot among outcomes sorted by slot.
fn outcome_of(outcomes: &[(Slot, Outcome)], slot: Option<Slot>) -> &Outcome {
    let found = slot.and_then(|slot| outcomes.binary_search_by_key(&slot, |(slot, _)| *slot).ok());
    let at = found.unwrap_or_else(|| panic!("all reads were answered, but not slot {slot:?}: {outcomes:?}"));
    &outcomes[at].1
}
