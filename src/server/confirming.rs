//! How a replica has reads confirmed: those whose values were looked up already, and backups. Part of the replica: plain data and
//! decisions. It never looks a value up.

use super::event::{BackupRequest, Outcome, Reply};
use super::gate::EarlyRead;
use super::replica::Replica;
use crate::bugbank::planted;

impl<C: Clone> Replica<C> {
    /// Takes in the reads that have gathered, unless a round is under way, which cannot serve them: they are left where they are until it
    /// has ended, and nobody wakes this node for them. `anyway` takes them in all the same, so that their time limits hold while no
    /// round comes to an end.
    pub(super) fn gather_reads(&mut self, anyway: bool) {
        let confirming = self.node.is_confirming();
        if confirming && !anyway {
            return;
        }
        let Some(gate) = &self.gate else { return };
        let reads = gate.attend(confirming);
        if !reads.is_empty() {
            self.on_reads(reads);
        } else if !confirming {
            self.gate = None;
        }
    }

    /// Whether reads may have gathered for which nobody will wake this node.
    pub(super) fn has_reads_to_gather(&self) -> bool {
        self.gate.is_some() && !self.node.is_confirming()
    }

    /// Reads that were looked up already wait for one round together. One that was looked up when this node led another term cannot be
    /// confirmed: what it found may have been old.
    fn on_reads(&mut self, reads: Vec<EarlyRead<C>>) {
        if !self.node.is_leader() {
            let outcome = Outcome::NotLeader { leader: self.node.leader() };
            return self.refuse_reads(reads, &outcome);
        }
        let term = self.node.term();
        let (sound, old): (Vec<_>, Vec<_>) = reads.into_iter().partition(|read| read.term == term);
        for EarlyRead { client, slot, deadline_ms, .. } in sound {
            let ticket = self.node.read().expect("a leader admits reads");
            self.waiting.add_read(client, slot, ticket.round, 0, self.now + u64::from(deadline_ms));
        }
        self.refuse_reads(old, &Outcome::Busy("leadership changed while the value was read; try again".into()));
    }

    pub(super) fn refuse_reads(&mut self, reads: Vec<EarlyRead<C>>, outcome: &Outcome) {
        let refused = reads.into_iter().map(|EarlyRead { client, slot, .. }| Reply { client, slot, outcome: outcome.clone() });
        self.actions.replies.extend(refused);
    }

    /// The term in which lookups may come before their confirmation; 0 if there is none: this node leads it, and its state includes all
    /// that was acknowledged before it.
    pub fn serving(&self) -> u64 {
        let current = self.node.leads_from().is_some_and(|first| self.applier.applied() >= first || planted(28));
        if current { self.node.term() } else { 0 }
    }

    /// A backup is a read: confirmed by a round, and of a state that holds everything acknowledged before.
    pub(super) fn on_backup(&mut self, request: BackupRequest<C>) {
        let deadline = self.now + u64::from(request.deadline_ms);
        match self.node.read() {
            Some(ticket) => self.waiting.add_backup(request, ticket.round, ticket.index, deadline),
            None => {
                let outcome = Outcome::NotLeader { leader: self.node.leader() };
                self.actions.replies.push(Reply { client: request.client, slot: request.slot, outcome });
            }
        }
    }
}
