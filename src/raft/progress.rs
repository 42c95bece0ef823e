//! What a leader knows of one follower: how far it matches, what was sent to it, when it was last heard.
//! Decides what may be sent, never sends.

use std::collections::VecDeque;

/// Most bytes of entries that a probe carries beside its first one: as long as the position is not known they may be sent in vain.
pub(super) const PROBE_BYTES: u64 = 64 << 10;
/// Most appends under way to one follower. What is proposed meanwhile goes into fewer and larger ones, so that a host can hold all of
/// them in a queue of fixed length however slow the link is.
pub const APPENDS_UNDER_WAY_MAX: usize = 128;

/// For so many ticks after an append, small ones wait for an answer. Where answers take longer they do not: they would wait for two round
/// trips.
const GATHER_TICKS: u32 = 2;

/// How a follower is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    /// Its position is being sought: one append at a time, the next after an answer or a pause.
    Probe,
    /// Its position is known: appends are sent ahead of their answers, within a window of bytes.
    Replicate,
    /// What it needs is no longer in the log: it is sent files.
    Snapshot,
}

/// A leader's view of one follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    /// How it is fed.
    pub(super) mode: Mode,
    /// Highest index known durable there and equal to the leader's log.
    pub(super) matched: u64,
    /// The next index to send.
    pub(super) next: u64,
    /// The newest read round it has answered.
    pub(super) round: u64,
    /// Highest index it said it had verified, durable or not.
    pub(super) verified: u64,
    /// It said it had room and a working disk.
    pub(super) able: bool,
    /// Ticks since it was last heard in this term.
    pub(super) silent: u32,
    /// Ticks for which appends were under way and neither `matched` nor `verified` moved.
    stuck: u32,
    /// Ticks to wait before the next probe.
    pause: u32,
    /// Ticks for which bytes of entries count as still arriving there, since it said so.
    arriving: u32,
    /// Ticks for which small appends still wait for an answer.
    gathering: u32,
    /// Appends sent and not answered, as (last index, bytes).
    inflight: VecDeque<(u64, u64)>,
    inflight_bytes: u64,
}

impl Progress {
    /// A follower of which nothing is known; probing starts at `next`.
    pub(super) fn new(next: u64) -> Progress {
        Progress {
            mode: Mode::Probe,
            matched: 0,
            next,
            round: 0,
            verified: 0,
            able: true,
            silent: 0,
            stuck: 0,
            pause: 0,
            arriving: 0,
            gathering: 0,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
        }
    }

    /// Whether an append may leave now, given how many bytes may be under way and the leader's last index.
    pub(super) fn may_send(&self, last: u64, window: u64) -> bool {
        match self.mode {
            Mode::Probe | Mode::Snapshot => self.pause == 0 && self.arriving == 0,
            Mode::Replicate => self.next <= last && self.inflight_bytes < window && self.inflight.len() < APPENDS_UNDER_WAY_MAX,
        }
    }

    /// Whether an append that is small and the last waits, so that what is proposed meanwhile leaves with it: the follower has something
    /// to make durable, and is expected to answer soon.
    pub(super) fn gathers(&self) -> bool {
        !self.inflight.is_empty() && self.gathering > 0
    }

    /// Ticks until what waits leaves whatever happens; the log ends at `last`.
    pub(super) fn gathering_deadline(&self, last: u64) -> Option<u32> {
        (self.mode == Mode::Replicate && self.next <= last && self.gathering > 0).then_some(self.gathering)
    }

    /// Notes that `count` entries of about `bytes` left. A probe keeps its position and waits `pause` ticks.
    pub(super) fn sent(&mut self, count: u64, bytes: u64, pause: u32) {
        match self.mode {
            Mode::Replicate => {
                self.next += count;
                self.inflight.push_back((self.next - 1, bytes));
                self.inflight_bytes += bytes;
                self.gathering = GATHER_TICKS;
            }
            Mode::Probe | Mode::Snapshot => self.pause = pause,
        }
    }

    /// Notes that everything up to `matched` is durable and equal there; the leader's log ends at `last`. Returns whether that is news.
    /// A probe that was answered without news, while there is more to send, was refused for lack of room: it waits for its pause.
    pub(super) fn acknowledge(&mut self, matched: u64, last: u64) -> bool {
        let news = matched > self.matched;
        self.matched = self.matched.max(matched);
        while self.inflight.front().is_some_and(|(last, _)| *last <= self.matched) {
            self.inflight_bytes -= self.inflight.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        self.next = self.next.max(self.matched + 1);
        let settled = self.mode == Mode::Probe && matched + 1 >= self.next && self.next > last;
        if self.mode != Mode::Replicate && (news || settled) {
            self.mode = Mode::Replicate;
            self.next = self.matched + 1;
            self.pause = 0;
        }
        if news {
            self.stuck = 0;
        }
        news
    }

    /// Notes how far the follower has verified; resets the patience with it when that moved.
    pub(super) fn note_verified(&mut self, verified: u64) {
        if verified > self.verified {
            self.verified = verified;
            self.stuck = 0;
        }
    }

    /// Notes that bytes of entries are on their way in there: for `ticks` nothing under way is taken for lost.
    pub(super) fn note_arriving(&mut self, ticks: u32) {
        self.arriving = ticks;
        self.stuck = 0;
    }

    /// Whether bytes of entries were arriving there of late.
    pub(super) fn is_receiving(&self) -> bool {
        self.arriving > 0
    }

    /// Notes that what the probe carried arrived and found no room: the next one leaves after `pause` ticks at the latest.
    pub(super) fn note_refused(&mut self, pause: u32) {
        self.pause = self.pause.min(pause);
        self.arriving = 0;
    }

    /// Goes back to probing from `next`; the first probe leaves after `pause` ticks.
    pub(super) fn probe(&mut self, next: u64, pause: u32) {
        self.mode = Mode::Probe;
        self.next = next.max(self.matched + 1);
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.stuck = 0;
        self.pause = pause;
        self.arriving = 0;
    }

    /// Goes over to sending files.
    pub(super) fn snapshot(&mut self) {
        self.probe(self.next, 0);
        self.mode = Mode::Snapshot;
    }

    /// As if the follower had just been heard; a pause lasts `heartbeat` ticks.
    pub(super) fn normalise_for_search(&mut self, heartbeat: u32) {
        self.silent = 0;
        self.stuck = 0;
        self.arriving = 0;
        self.gathering = 0;
        self.pause = if self.pause > 0 { heartbeat } else { 0 };
    }

    /// A probe may leave at once.
    pub(super) fn resume(&mut self) {
        self.pause = 0;
        self.arriving = 0;
    }

    /// Lets `ticks` pass; appends that nobody verified within `resend` ticks are taken for lost, unless bytes are arriving there: then
    /// the link is slow, and sending them again would only keep it from what is to come.
    pub(super) fn tick(&mut self, ticks: u32, resend: u32) {
        self.silent = self.silent.saturating_add(ticks);
        self.pause = self.pause.saturating_sub(ticks);
        let receiving = self.is_receiving();
        self.arriving = self.arriving.saturating_sub(ticks);
        self.gathering = self.gathering.saturating_sub(ticks);
        let waiting = self.mode == Mode::Replicate && !self.inflight.is_empty() && self.verified + 1 < self.next && !receiving;
        self.stuck = if waiting { self.stuck.saturating_add(ticks) } else { 0 };
        if self.stuck >= resend {
            self.probe(self.matched + 1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_without_room_is_probed_once_a_pause_and_not_flooded() {
        let mut progress = Progress::new(11);
        progress.acknowledge(10, 10);
        assert_eq!(progress.mode, Mode::Replicate);
        progress.probe(11, 0);
        let (last, window) = (500, 1_000);
        assert!(progress.may_send(last, window));
        progress.sent(100, 900, 50);
        // The follower matches up to 10 and has no room for more: no news.
        assert!(!progress.acknowledge(10, last));
        assert!(progress.mode == Mode::Probe && !progress.may_send(last, window), "it would be sent a window with every answer");
        progress.tick(50, 600);
        assert!(progress.may_send(last, window));
        assert!(progress.acknowledge(110, last) && progress.mode == Mode::Replicate, "it has room again");
    }
    #[test]
    fn what_arrives_slowly_is_not_sent_again() {
        let mut progress = Progress::new(11);
        progress.acknowledge(10, 10);
        progress.sent(5, 5_000_000, 50);
        for _ in 0..100 {
            progress.note_arriving(600);
            progress.tick(500, 600);
            assert_eq!((progress.mode, progress.next), (Mode::Replicate, 16), "it was taken for lost while it arrived");
        }
        progress.tick(600, 600);
        progress.tick(600, 600);
        assert_eq!((progress.mode, progress.next), (Mode::Probe, 11), "nothing arrives any more");
        progress.sent(5, 5_000_000, 600);
        progress.note_arriving(600);
        progress.tick(599, 600);
        assert!(!progress.may_send(15, 16 << 20), "a probe that still arrives is sent again");
        progress.note_refused(50);
        progress.tick(50, 600);
        assert!(progress.may_send(15, 16 << 20), "a probe that found no room waits for more than its pause");
    }

    #[test]
    fn appends_under_way_are_bounded_in_number() {
        let mut progress = Progress::new(1);
        progress.acknowledge(0, 0);
        let mut sent = 0;
        while progress.may_send(10_000, u64::MAX) {
            progress.sent(1, 1, 50);
            sent += 1;
        }
        assert_eq!(sent, APPENDS_UNDER_WAY_MAX);
        assert!(progress.acknowledge(1, 10_000) && progress.may_send(10_000, u64::MAX), "an answer makes room for the next");
    }
}
