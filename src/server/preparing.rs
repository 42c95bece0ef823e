//! Which log segments to ask the preparer for, and what is known when there is no room for one. Part of the replica: plain data, which
//! neither reads a clock nor waits.
//!
//! A segment of the usual size is asked for whenever none is left, so that rotation never waits. One of its own size, for a record that
//! fits no usual segment, is asked for as long as somebody comes with such a record; where there is no room for it, the usual ones must
//! not wait behind it.

use std::sync::Arc;

use crate::storage::log::Room;

use super::event::Text;

/// A segment of its own size that there was no room for is forgotten when nobody asked again for this long.
const FORGOTTEN_MS: u64 = 10_000;

/// What is asked of the preparer. Times are milliseconds since the start.
#[derive(Debug, Default)]
pub(super) struct Preparing {
    /// For how large a record it makes a segment now; 0 is one of the usual size.
    asked: Option<u64>,
    usual: Attempt,
    oversized: Attempt,
    /// The largest record that waits for a segment of its own size; 0 is none.
    wanted: u64,
    /// A client's write was refused since a usual segment could not be made.
    refused: bool,
}

/// How the last attempt at a kind of segment ended.
#[derive(Debug, Default)]
struct Attempt {
    shortage: Option<Shortage>,
    failed_at: u64,
    retry_at: u64,
}

/// Why there is no segment.
#[derive(Debug)]
struct Shortage {
    /// What is missing.
    reason: Arc<str>,
    /// What clients are told.
    refusal: Arc<str>,
}

impl Attempt {
    fn fail(&mut self, reason: String, now: u64, retry_ms: u64) {
        (self.failed_at, self.retry_at) = (now, now + retry_ms);
        if self.shortage.as_ref().is_none_or(|shortage| *shortage.reason != *reason) {
            let refusal = format!("no room for the next log segment: {reason}; this node takes such writes again as soon as there is");
            self.shortage = Some(Shortage { reason: reason.into(), refusal: refusal.into() });
        }
    }
}

impl Preparing {
    /// A record takes so many bytes that no usual segment holds it.
    pub(super) fn want(&mut self, record_bytes: u64) {
        self.wanted = self.wanted.max(record_bytes);
    }

    /// What to ask the preparer for now, if anything: the least bytes of a record, 0 for a usual segment. `prepared` segments are left.
    pub(super) fn ask(&mut self, now: u64, prepared: usize) -> Option<u64> {
        if self.asked.is_some() {
            return None;
        }
        self.asked = if prepared == 0 && now >= self.usual.retry_at {
            Some(0)
        } else {
            Some(self.wanted).filter(|wanted| *wanted > 0 && now >= self.oversized.retry_at)
        };
        self.asked
    }

    /// What was asked for is there.
    pub(super) fn made(&mut self) {
        let asked = self.asked.take().unwrap_or(0);
        if asked > 0 {
            self.oversized = Attempt::default();
        }
        if asked >= self.wanted {
            self.wanted = 0;
        }
        self.usual = Attempt::default();
        self.refused = false;
    }

    /// What was asked for could not be made, for this reason; it is asked for again after `retry_ms` if it is still needed then.
    pub(super) fn failed(&mut self, reason: String, now: u64, retry_ms: u64) {
        match self.asked.take().unwrap_or(0) {
            0 => self.usual.fail(reason, now, retry_ms),
            _ => {
                // Whoever needs it comes again.
                self.wanted = 0;
                self.oversized.fail(reason, now, retry_ms);
            }
        }
    }

    /// Whether there is no room for a usual segment, so that the log will end where the last one does.
    pub(super) fn is_short(&self) -> bool {
        self.usual.shortage.is_some()
    }

    /// Whether a client's write was refused for that.
    pub(super) fn has_refused(&self) -> bool {
        self.refused
    }

    /// What is missing for the next segment, if it is known that there is no room.
    pub(super) fn reason(&self, now: u64) -> Option<Arc<str>> {
        let oversized = self.oversized.shortage.as_ref().filter(|_| now < self.oversized.failed_at + FORGOTTEN_MS);
        self.usual.shortage.as_ref().or(oversized).map(|shortage| Arc::clone(&shortage.reason))
    }

    /// What to tell a client whose write has no place, `room` being what the log said of it.
    pub(super) fn refuse(&mut self, room: Room) -> Text {
        let (attempt, unknown) = match room {
            Room::Oversized(_) => (&self.oversized, "a larger log segment is being prepared for this value; try again"),
            Room::NoSegment | Room::Yes => (&self.usual, "no log segment is ready: the disk is slow; try again"),
        };
        self.refused |= self.usual.shortage.is_some();
        attempt.shortage.as_ref().map_or(Text::Fixed(unknown), |shortage| Text::Shared(Arc::clone(&shortage.refusal)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: u64 = 1_000;

    #[test]
    fn usual_segments_do_not_wait_behind_one_that_there_is_no_room_for() {
        let mut preparing = Preparing::default();
        preparing.want(70);
        assert_eq!(preparing.ask(0, 1), Some(70));
        preparing.failed("too large".to_owned(), 0, RETRY);
        preparing.want(70);
        assert_eq!(preparing.ask(1, 0), Some(0), "none of the usual ones is left");
        assert_eq!(preparing.ask(1, 0), None, "one at a time");
        preparing.made();
        assert!(!preparing.is_short());
        assert_eq!(
            &*preparing.refuse(Room::Oversized(70)),
            "no room for the next log segment: too large; this node takes such writes again as soon as there is"
        );
        assert!(!preparing.has_refused(), "there is room for others");
        assert_eq!(preparing.ask(RETRY - 1, 1), None);
        assert_eq!(preparing.ask(RETRY, 1), Some(70), "it was asked for again");
        preparing.made();
        assert_eq!((preparing.ask(5 * RETRY, 1), preparing.reason(5 * RETRY)), (None, None));
    }

    #[test]
    fn what_nobody_asks_for_again_is_forgotten() {
        let mut preparing = Preparing::default();
        preparing.want(70);
        preparing.ask(0, 1);
        preparing.failed("too large".to_owned(), 0, RETRY);
        assert_eq!(preparing.ask(RETRY, 1), None);
        assert_eq!(preparing.reason(RETRY).as_deref(), Some("too large"));
        assert_eq!(preparing.reason(FORGOTTEN_MS), None);
    }

    #[test]
    fn a_refusal_counts_until_there_is_room() {
        let mut preparing = Preparing::default();
        preparing.refuse(Room::NoSegment);
        assert!(!preparing.has_refused(), "the disk may only be slow");
        preparing.ask(0, 0);
        preparing.failed("full".to_owned(), 0, RETRY);
        assert!(preparing.is_short() && !preparing.has_refused(), "nobody was refused yet");
        assert!(preparing.refuse(Room::NoSegment).contains("full"));
        assert_eq!((preparing.has_refused(), preparing.ask(RETRY, 0)), (true, Some(0)));
        preparing.failed("full still".to_owned(), RETRY, RETRY);
        assert!(preparing.has_refused() && preparing.refuse(Room::Yes).contains("full still"));
        assert_eq!(preparing.ask(2 * RETRY, 0), Some(0));
        preparing.made();
        assert!(!preparing.has_refused() && preparing.reason(2 * RETRY).is_none());
    }
}
