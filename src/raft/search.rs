//! What an exhaustive search over nodes needs: to treat as one state what differs only in clocks, chance and running numbers. Changes
//! nothing that decides which answers are right, only when things are due.

use super::chance::Chance;
use super::node::{Node, Role};

impl Node {
    /// Puts timers, chance and sequence numbers into a normal form: an election is due after twice the shortest timeout, a leader that
    /// was heard of at all is heard for a whole timeout, a leader has just heard everyone. Outstanding writes are numbered from 1 in
    /// their order, an outstanding hard state has ticket 1; the host must number them alike.
    #[doc(hidden)]
    pub fn normalise_for_search(&mut self) {
        let (election, heartbeat) = (self.settings.election_ticks, self.settings.heartbeat_ticks);
        self.chance = Chance::new(0);
        self.election = self.election.map(|_| 2 * election);
        self.heard = if self.heard > 0 { election } else { 0 };
        self.suspicion = None;
        self.failed_elections = 0;
        self.ban = 0;
        self.storing = self.storing.map(|(_, state)| (1, state));
        self.next_ticket = 1 + u64::from(self.storing.is_some());
        self.writes.iter_mut().zip(1..).for_each(|(write, number)| write.sequence = number);
        self.next_write = self.writes.len() as u64 + 1;
        if let Role::Leader(leadership) = &mut self.role {
            leadership.normalise_for_search(heartbeat);
        }
    }
}
