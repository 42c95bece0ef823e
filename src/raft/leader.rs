//! The leader's rules: feeding followers, counting acknowledgements, stepping down, handing over.

use crate::bugbank::planted;
use std::collections::BTreeMap;

use super::message::{Config, EntryId, Message, NodeId};
use super::node::{Node, Role};
use super::progress::{Mode, PROBE_BYTES, Progress};
use super::quorum;
use super::ready::Sizes;
use super::rounds::Rounds;

/// How many times a leader that cannot work tries to hand over before it steps down.
const HANDOVER_ATTEMPTS: u32 = 3;

/// What only a leader keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leadership {
    /// Index of the no-op that opened the term; reads wait for it.
    pub(super) noop: u64,
    pub(super) progress: BTreeMap<NodeId, Progress>,
    pub(super) rounds: Rounds,
    heartbeat: u32,
    transfer: Option<Transfer>,
    /// The greatest index that a majority had durably in this term, of whatever term the entry is.
    agreed: u64,
    /// Ticks for which there was something to commit and no majority came nearer to having it.
    uncommitted_ticks: u32,
    handovers: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Transfer {
    to: NodeId,
    ticks_left: u32,
    /// Order the target to campaign although it lacks entries: this leader cannot bring them to it.
    forced: bool,
    ordered: bool,
}

impl Leadership {
    pub(super) fn new(noop: u64, next: u64, round: u64, config: &Config, own: NodeId) -> Leadership {
        let peers = config.voters.iter().chain(&config.learners).filter(|peer| **peer != own);
        Leadership {
            noop,
            progress: peers.map(|peer| (*peer, Progress::new(next))).collect(),
            rounds: Rounds::new(round),
            heartbeat: 0,
            transfer: None,
            agreed: 0,
            uncommitted_ticks: 0,
            handovers: 0,
        }
    }

    /// As if every follower had just been heard and the next heartbeat were a whole interval away.
    pub(super) fn normalise_for_search(&mut self, heartbeat: u32) {
        self.heartbeat = heartbeat;
        self.agreed = 0;
        self.uncommitted_ticks = 0;
        self.handovers = 0;
        self.rounds.normalise_for_search();
        self.progress.values_mut().for_each(|progress| progress.normalise_for_search(heartbeat));
    }

    /// The log ends at `last`.
    pub(super) fn next_deadline(&self, last: u64) -> u32 {
        let gathering = self.progress.values().filter_map(|progress| progress.gathering_deadline(last));
        let others = self.transfer.map(|transfer| transfer.ticks_left).into_iter().chain(self.rounds.next_deadline()).chain(gathering);
        others.fold(self.heartbeat, u32::min)
    }
}

impl Node {
    pub(super) fn leadership(&self) -> Option<&Leadership> {
        match &self.role {
            Role::Leader(leadership) => Some(leadership),
            _ => None,
        }
    }

    pub(super) fn leadership_mut(&mut self) -> Option<&mut Leadership> {
        match &mut self.role {
            Role::Leader(leadership) => Some(leadership),
            _ => None,
        }
    }

    pub(super) fn progress_mut(&mut self, peer: NodeId) -> Option<&mut Progress> {
        self.leadership_mut().and_then(|leadership| leadership.progress.get_mut(&peer))
    }

    pub(super) fn accepts_proposals(&self) -> bool {
        self.leadership().is_some_and(|leadership| leadership.transfer.is_none())
    }

    /// The first entry of the term that this node leads; `None` when it does not lead. A state that includes it includes everything that
    /// was ever acknowledged before this term.
    pub fn leads_from(&self) -> Option<u64> {
        self.leadership().map(|leadership| leadership.noop)
    }

    /// Begins to hand leadership to `to`, or to the follower that is furthest and able. False when there is none.
    pub fn transfer(&mut self, to: Option<NodeId>) -> bool {
        self.begin_transfer(to, false)
    }

    fn begin_transfer(&mut self, to: Option<NodeId>, forced: bool) -> bool {
        let patience = self.settings.election_ticks;
        let target = to.or_else(|| self.best_successor());
        let voter = target.is_some_and(|target| target != self.id && self.config().voters.contains(&target));
        match (target, self.leadership_mut()) {
            (Some(to), Some(leadership)) if voter => {
                leadership.transfer = Some(Transfer { to, ticks_left: patience, forced, ordered: false });
                self.order_transfer();
                true
            }
            _ => false,
        }
    }

    /// The able voter, heard of late, with the longest log.
    fn best_successor(&self) -> Option<NodeId> {
        let leadership = self.leadership()?;
        let voters = &self.config().voters;
        let alive = leadership
            .progress
            .iter()
            .filter(|(peer, progress)| voters.contains(peer) && progress.able && progress.silent < self.settings.election_ticks);
        alive.max_by_key(|(_, progress)| (progress.matched, progress.verified)).map(|(peer, _)| *peer)
    }

    /// Sends the order to campaign once the successor has the whole log and this term has committed, or at once when it is forced.
    fn order_transfer(&mut self) {
        let (last, commit) = (self.outline.last().index, self.commit);
        let Some(leadership) = self.leadership_mut() else { return };
        let Some(transfer) = leadership.transfer else { return };
        let complete = commit >= leadership.noop
            && leadership.progress.get(&transfer.to).is_some_and(|progress| progress.matched == last || planted(24));
        if !transfer.ordered && (complete || transfer.forced) {
            leadership.transfer = Some(Transfer { ordered: true, ..transfer });
            self.send(transfer.to, Message::TimeoutNow);
        }
    }

    pub(super) fn tick_leader(&mut self, ticks: u32) {
        let resend = self.settings.resend_ticks;
        let waits = self.commit < self.outline.last().index && !self.majority_is_fed();
        let Some(leadership) = self.leadership_mut() else { return };
        leadership.progress.values_mut().for_each(|progress| progress.tick(ticks, resend));
        leadership.uncommitted_ticks = if waits { leadership.uncommitted_ticks.saturating_add(ticks) } else { 0 };
        leadership.heartbeat = leadership.heartbeat.saturating_sub(ticks);
        if let Some(transfer) = &mut leadership.transfer {
            transfer.ticks_left = transfer.ticks_left.saturating_sub(ticks);
            if transfer.ticks_left == 0 {
                leadership.transfer = None;
            }
        }
        if leadership.rounds.tick(ticks) || leadership.heartbeat == 0 {
            self.broadcast_heartbeat();
        }
        if self.hears_majority(true) || planted(14) {
            self.hand_over_if_useless();
        } else {
            self.step_down();
        }
    }

    /// Whether a majority of the voters, with or without this node, was heard within an election timeout.
    fn hears_majority(&self, with_self: bool) -> bool {
        let Some(leadership) = self.leadership() else { return false };
        let patience = self.settings.election_ticks;
        quorum::reached(&self.config().voters, |voter| match leadership.progress.get(&voter) {
            Some(progress) => progress.silent < patience,
            None => with_self && voter == self.id,
        })
    }

    /// Whether the entries after those that a majority has are on their way into a majority: each of its members has more of them already,
    /// or bytes of them are arriving there. One large entry may take minutes on a slow link, and another leader would begin it anew.
    fn majority_is_fed(&self) -> bool {
        let Some(leadership) = self.leadership() else { return false };
        let patience = self.settings.election_ticks;
        quorum::reached(&self.config().voters, |voter| match leadership.progress.get(&voter) {
            Some(progress) => {
                let arriving = progress.is_receiving() && progress.able && progress.silent < patience;
                arriving || progress.matched > leadership.agreed
            }
            None => voter == self.id && self.durable > leadership.agreed,
        })
    }

    /// Gives leadership up in the present term.
    pub(super) fn step_down(&mut self) {
        self.retire();
    }

    /// A leader that is heard but cannot work must go: its followers hear it and would never replace it.
    fn hand_over_if_useless(&mut self) {
        let (fitness, limit) = (self.fitness, self.settings.stall_ticks);
        let Some(leadership) = self.leadership() else { return };
        let stuck = leadership.uncommitted_ticks >= limit;
        let useless = (fitness.should_yield() || stuck) && !planted(109);
        if !useless {
            if let Some(leadership) = self.leadership_mut() {
                leadership.handovers = 0;
            }
            return;
        }
        if leadership.transfer.is_some() || !self.hears_majority(false) || self.best_successor().is_none() {
            return;
        }
        if leadership.handovers < HANDOVER_ATTEMPTS {
            // Who can still commit finishes what is under way first, so that no write is left open.
            let forced = fitness.stalled || stuck || leadership.handovers > 0;
            if let Some(leadership) = self.leadership_mut() {
                leadership.handovers += 1;
            }
            self.begin_transfer(None, forced);
        } else {
            self.ban = self.settings.ban_ticks;
            self.step_down();
        }
    }

    /// Whether this node leads and what it proposes would wait: nothing has been committed for an election timeout although there is
    /// something to commit, and too few voters say that they have room and a working disk.
    pub fn is_obstructed(&self) -> bool {
        let Some(leadership) = self.leadership() else { return false };
        let able = |voter| leadership.progress.get(&voter).is_none_or(|progress| progress.able);
        leadership.uncommitted_ticks >= self.settings.election_ticks && !quorum::reached(&self.config().voters, able)
    }

    pub(super) fn broadcast_heartbeat(&mut self) {
        let heartbeat = self.settings.heartbeat_ticks;
        let Some(leadership) = self.leadership_mut() else { return };
        leadership.heartbeat = heartbeat;
        for peer in self.followers() {
            self.send_heartbeat(peer);
        }
    }

    fn followers(&self) -> Vec<NodeId> {
        self.leadership().map_or(Vec::new(), |leadership| leadership.progress.keys().copied().collect())
    }

    /// Begins a read round if reads wait, and sends every follower what it may be sent.
    pub(super) fn feed_followers(&mut self, sizes: &dyn Sizes) {
        self.begin_round();
        for peer in self.followers() {
            while self.feed(peer, sizes) {}
        }
    }

    /// Sends one append (or asks for a snapshot); false when nothing more may be sent to this follower now.
    fn feed(&mut self, peer: NodeId, sizes: &dyn Sizes) -> bool {
        let (last, window) = (self.outline.last().index, self.settings.window_bytes);
        let (commit, pause) = (self.commit, self.settings.heartbeat_ticks);
        let Some(leadership) = self.leadership() else { return false };
        let (round, Some(progress)) = (leadership.rounds.begun, leadership.progress.get(&peer)) else { return false };
        if !progress.may_send(last, window) {
            return false;
        }
        let (next, mode) = (progress.next, progress.mode);
        let known = self.outline.term_of(next - 1);
        assert!(known.is_some() || !planted(10), "the term of {} is not known", next - 1);
        let Some(term) = known else {
            self.snapshots.push(peer);
            if let Some(progress) = self.progress_mut(peer) {
                progress.snapshot();
                progress.sent(0, 0, pause);
            }
            return false;
        };
        let probes = mode != Mode::Replicate;
        let budget = if probes { self.settings.append_bytes.min(PROBE_BYTES) } else { self.settings.append_bytes };
        let (count, bytes) = if next <= last { sizes.fit(next, last, budget) } else { (0, 0) };
        if next + count > last && bytes < budget && progress.gathers() {
            // Sent now, these would cost a message and a turn of both nodes each.
            return false;
        }
        // A single entry may be so large that it is under way for long: then an answer is awaited for as long as for any append.
        let pause = if bytes > PROBE_BYTES { pause.max(self.settings.resend_ticks) } else { pause };
        assert!(next + count <= last + 1, "an append of {count} entries from {next} ends behind {last}");
        let entries = self.outline.entries(next, count);
        self.send(peer, Message::Append { prev: EntryId { term, index: next - 1 }, entries, commit, round });
        if let Some(progress) = self.progress_mut(peer) {
            progress.sent(count, bytes, pause);
        }
        !probes
    }

    pub(super) fn on_appended(&mut self, from: NodeId, matched: u64, round: u64) {
        let last = self.outline.last().index;
        if matched > last {
            // Only a peer whose log is not this one could say so; it does not count.
            return;
        }
        self.hear_follower(from, round);
        let Some(progress) = self.progress_mut(from) else { return };
        if progress.acknowledge(matched, last) {
            progress.note_verified(matched);
            self.advance_commit();
        }
        self.order_transfer();
    }

    pub(super) fn on_append_rejected(&mut self, from: NodeId, prev_index: u64, hint: EntryId, round: u64) {
        self.hear_follower(from, round);
        let (common, heartbeat) = (self.outline.hint(hint).index, self.settings.heartbeat_ticks);
        let Some(progress) = self.progress_mut(from) else { return };
        if progress.mode == Mode::Probe && prev_index == progress.next {
            progress.note_refused(heartbeat);
            return;
        }
        let stale = prev_index <= progress.matched || (progress.mode == Mode::Probe && prev_index != progress.next - 1);
        if !stale {
            // A follower that was in step and stands still has lost appends or has no room: going on at once would send a window of
            // bytes with every round trip until it has.
            let still = progress.mode == Mode::Replicate && common <= progress.matched;
            progress.probe((common + 1).min(prev_index), if still { heartbeat } else { 0 });
        }
    }

    pub(super) fn on_arriving(&mut self, from: NodeId) {
        let patience = self.settings.resend_ticks;
        self.hear_follower(from, 0);
        if let Some(progress) = self.progress_mut(from) {
            progress.note_arriving(patience);
        }
    }

    pub(super) fn on_heartbeat_reply(&mut self, from: NodeId, round: u64, verified: u64, able: bool) {
        self.hear_follower(from, round);
        let last = self.outline.last().index;
        if let Some(progress) = self.progress_mut(from) {
            progress.able = able;
            progress.note_verified(verified.min(last));
        }
    }

    /// Commits what a majority has durably, if it was written in the present term (paper, section 5.4.2).
    pub(super) fn advance_commit(&mut self) {
        let (own, durable) = (self.id, if planted(22) { self.outline.last().index } else { self.durable });
        let Some(leadership) = self.leadership() else { return };
        let agreed = quorum::agreed(&self.config().voters, |voter| match leadership.progress.get(&voter) {
            Some(progress) => progress.matched,
            None if voter == own => durable,
            None => 0,
        });
        if let Some(leadership) = self.leadership_mut()
            && agreed > leadership.agreed
        {
            leadership.agreed = agreed;
            leadership.uncommitted_ticks = 0;
        }
        let own_term = planted(2) || self.outline.term_of(agreed) == Some(self.state.term);
        if agreed > self.commit && own_term {
            self.commit = agreed;
            self.order_transfer();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Config, EntryId, Envelope, HardState};
    use super::super::node::Recovered;
    use super::super::outline::Outline;
    use super::*;
    use crate::raft::Settings;

    struct OneEach;

    impl Sizes for OneEach {
        fn fit(&self, from: u64, last: u64, budget: u64) -> (u64, u64) {
            let count = (last + 1 - from).min(budget.max(1));
            (count, count)
        }
    }

    /// Lets the node do what it wants to do, on a disk that takes no time.
    fn settle(node: &mut Node) {
        node.take_noop();
        if let Some((ticket, _)) = node.ready(&OneEach).hard_state {
            node.hard_state_stored(ticket);
        }
        if node.durable() < node.last().index && node.may_write() {
            let sequence = node.issue_write(node.last().index);
            node.synced(sequence);
        }
    }

    fn hear(node: &mut Node, peer: u32, message: Message) {
        node.step(Envelope { from: NodeId(peer), to: NodeId(1), term: node.durable_term(), message }, true);
    }

    /// Node 1 of three, leading term 1, its no-op durable.
    fn leader(append_bytes: u64, window_bytes: u64) -> Node {
        let config = Config { voters: vec![NodeId(1), NodeId(2), NodeId(3)], learners: vec![] };
        let outline = Outline::new(EntryId::default(), config);
        let settings = Settings { append_bytes, window_bytes, ..Settings::few_ticks() };
        let mut node = Node::new(NodeId(1), settings, 7, Recovered { hard_state: HardState::default(), outline, commit: 0 });
        node.tick(20);
        for message in [Message::PreVoteReply { proposed_term: 1, granted: true }, Message::VoteReply { granted: true }] {
            hear(&mut node, 2, message);
            settle(&mut node);
        }
        settle(&mut node);
        assert!(node.is_leader() && node.durable() == 1, "{node:?}");
        node
    }

    /// How many entries each append to node 2 carries that leaves now.
    fn appends(node: &mut Node) -> Vec<u64> {
        let counts = node.ready(&OneEach).send.into_iter().filter(|envelope| envelope.to == NodeId(2));
        let counts =
            counts.filter_map(|envelope| if let Message::Append { entries, .. } = envelope.message { Some(entries.count()) } else { None });
        counts.collect()
    }

    #[test]
    fn what_is_small_waits_while_an_append_is_under_way_but_not_for_long() {
        let mut node = leader(10, 1000);
        hear(&mut node, 2, Message::Appended { matched: 1, round: 0 });
        let propose = |node: &mut Node, count| {
            node.propose(count).expect("it leads");
            appends(node)
        };
        assert_eq!(propose(&mut node, 1), [1]);
        assert_eq!((propose(&mut node, 1), propose(&mut node, 2)), (vec![], vec![]));
        hear(&mut node, 2, Message::Appended { matched: 2, round: 0 });
        assert_eq!(appends(&mut node), [3], "an answer lets them go, together");
        // The own disk has nothing to do with it, however long it takes.
        node.issue_write(5);
        assert!(propose(&mut node, 1).is_empty());
        assert_eq!(node.ticks_to_deadline(), 2);
        node.tick(1);
        assert!(appends(&mut node).is_empty());
        node.tick(1);
        assert_eq!(appends(&mut node), [1], "so does time");
        assert_eq!(propose(&mut node, 25), [10, 10], "what fills an append does not wait");
    }

    #[test]
    fn a_leader_is_obstructed_when_nothing_commits_and_too_few_have_room() {
        let mut node = leader(10, 10);
        let hear = |node: &mut Node, peer, message| {
            hear(node, peer, message);
            settle(node);
        };
        let beat = |able| Message::HeartbeatReply { round: 0, verified: 0, able };
        let hear_both = |node: &mut Node, able: [bool; 2]| {
            node.tick(1);
            hear(node, 2, beat(able[0]));
            hear(node, 3, beat(able[1]));
            node.is_obstructed()
        };
        assert!((0..9).all(|_| !hear_both(&mut node, [false, false])), "it has not waited for long");
        assert!(hear_both(&mut node, [false, false]));
        assert!(!hear_both(&mut node, [false, true]), "one of two followers is enough");
        assert!(hear_both(&mut node, [false, false]));
        node.step(Envelope { from: NodeId(2), to: NodeId(1), term: 1, message: Message::Appended { matched: 1, round: 0 } }, true);
        settle(&mut node);
        assert_eq!(node.commit(), 1);
        assert!((0..30).all(|_| !hear_both(&mut node, [false, false])), "nothing waits to be committed");
    }
}
