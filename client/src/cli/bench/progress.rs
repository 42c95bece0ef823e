//! The line that shows what goes on, below the cursor of a terminal and nowhere else; and the counters that it is made of. A connection
//! writes its own counter once for each read of its socket, and nobody else writes there.

use super::{BenchOptions, Window};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often the line is drawn anew.
const REDRAW: Duration = Duration::from_millis(250);

/// Answers that one connection has got so far. Alone on its cache lines: its neighbours belong to other threads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Answers(AtomicU64);

impl Answers {
    pub(crate) fn add(&self, count: u64) {
        // One writer, so nothing can come in between.
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }
}

/// The line, and all counters by the connection's number.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    answers: Vec<Answers>,
}

impl Progress {
    pub(crate) fn new(options: &BenchOptions) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        Progress { bar, answers: (0..options.connections).map(|_| Answers::default()).collect() }
    }

    /// The counter of a connection.
    pub(crate) fn answers(&self, connection: u32) -> &Answers {
        &self.answers[connection as usize]
    }

    /// Shows how many keys have been written before the measurement.
    pub(crate) fn filling(&self, written: u64, keys: u64) {
        if let Some(bar) = &self.bar
            && written.is_multiple_of(1_024)
        {
            bar.set_message(format!("writing the keys: {written} of {keys}"));
            bar.tick();
        }
    }

    /// Shows the present rate until the window is over; returns at once where there is nobody to show it to.
    pub(crate) fn watch(&self, window: &Window) {
        let Some(bar) = &self.bar else { return };
        let (mut seen, mut at) = (self.total(), Instant::now());
        while at < window.end {
            thread::sleep(REDRAW.min(window.end - at));
            let (total, now) = (self.total(), Instant::now());
            bar.set_message(message(window, now, (total - seen) as f64 / (now - at).as_secs_f64()));
            bar.tick();
            (seen, at) = (total, now);
        }
        bar.finish_and_clear();
    }

    fn total(&self) -> u64 {
        self.answers.iter().map(|answers| answers.0.load(Ordering::Relaxed)).sum()
    }
}

fn message(window: &Window, now: Instant, rate: f64) -> String {
    let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
    match now < window.begin {
        true => format!("warming up, {:.1} s left: {rate:.0} answers/s", seconds(now, window.begin)),
        false => format!("{:.1} of {:.1} s: {rate:.0} answers/s", seconds(window.begin, now), seconds(window.begin, window.end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_warm_up_from_measurement() {
        let start = Instant::now();
        let window = Window { begin: start + Duration::from_secs(1), end: start + Duration::from_secs(6) };
        assert_eq!(message(&window, start, 1_234.4), "warming up, 1.0 s left: 1234 answers/s");
        assert_eq!(message(&window, start + Duration::from_secs(3), 0.0), "2.0 of 5.0 s: 0 answers/s");
    }
}
