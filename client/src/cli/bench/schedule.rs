//! The open loop's timetable: when each request is due, whatever became of the ones before it. Latencies are counted from these moments,
//! so a request that had to wait for its turn behind a slow one shows the wait. Pure.

use super::Window;
use std::time::{Duration, Instant};

/// One connection's share of a fixed rate; the connections take turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start: Instant,
    /// Requests a second of all connections together.
    rate: f64,
    connections: u64,
    /// Number of the next request among those of all connections.
    next: u64,
}

impl Schedule {
    /// For connection `number` of `connections`; the first request of all is due at `start`.
    pub(crate) fn new(start: Instant, rate: f64, connections: u32, number: u32) -> Schedule {
        assert!(rate > 0.0 && number < connections, "connection {number} of {connections} at {rate} requests a second");
        Schedule { start, rate, connections: u64::from(connections), next: u64::from(number) }
    }

    /// When the next request is due.
    pub(crate) fn due(&self) -> Instant {
        self.moment(self.next)
    }

    /// The next request has been sent.
    pub(crate) fn advance(&mut self) {
        self.next += self.connections;
    }

    /// How many requests of this connection are due within the window and have not been sent.
    pub(crate) fn unsent(&self, window: &Window) -> u64 {
        // From the end backwards, the count of turns by division, then set right for rounding.
        let Some(span) = window.end.checked_duration_since(self.due()) else { return 0 };
        let mut turns = (span.as_secs_f64() * self.rate / self.connections as f64) as u64 + 2;
        while turns > 0 && self.moment(self.next + (turns - 1) * self.connections) >= window.end {
            turns -= 1;
        }
        let before = (0..turns).take_while(|turn| self.moment(self.next + turn * self.connections) < window.begin).count();
        turns - before as u64
    }

    fn moment(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn all_connections_together_keep_the_rate_evenly() {
        let start = Instant::now();
        let mut moments = Vec::new();
        for number in 0..3 {
            let mut schedule = Schedule::new(start, 100.0, 3, number);
            while schedule.due() < start + SECOND {
                moments.push(schedule.due() - start);
                schedule.advance();
            }
        }
        moments.sort();
        let expected: Vec<Duration> = (0..100).map(|number| Duration::from_millis(10 * number)).collect();
        assert_eq!(moments, expected);
    }

    #[test]
    fn the_timetable_does_not_drift() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 3.0, 1, 0);
        (0..3 * 86_400).for_each(|_| schedule.advance());
        assert_eq!(schedule.due() - start, Duration::from_secs(86_400));
    }

    #[test]
    fn what_was_due_in_the_window_and_not_sent_is_counted() {
        let start = Instant::now();
        let window = Window { begin: start + SECOND, end: start + 3 * SECOND };
        let mut schedule = Schedule::new(start, 100.0, 2, 1);
        assert_eq!(schedule.unsent(&window), 100);
        (0..75).for_each(|_| schedule.advance());
        assert_eq!(schedule.unsent(&window), 75);
        (0..75).for_each(|_| schedule.advance());
        assert_eq!(schedule.unsent(&window), 0);
        assert_eq!(Schedule::new(start, 0.1, 1, 0).unsent(&window), 0, "due before the window");
    }
}
