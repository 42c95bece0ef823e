//! What the user sees: lines on standard output and, on a terminal, one progress line below them. Knows nothing of what the lines mean.

use crate::stop::Stop;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of lines that come by the thousand, one in this time is shown.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// A colour of a terminal, as its number in the escape sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Magenta = 35,
    Cyan = 36,
}

/// The one place that writes to standard output.
pub(crate) struct Screen {
    stop: Arc<Stop>,
    verbose: bool,
    colours: bool,
    progress: Option<ProgressBar>,
    last_sample: Mutex<Option<Instant>>,
}

impl Screen {
    /// `verbose` shows every line, also those that come by the thousand. When standard output goes away, `stop` is told: there is nobody
    /// left to work for.
    pub(crate) fn new(stop: Arc<Stop>, verbose: bool) -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Screen { stop, verbose, colours, progress: None, last_sample: Mutex::new(None) }
    }

    /// The same, with a progress line while it works; only on a terminal.
    pub(crate) fn with_progress(mut self) -> Screen {
        if std::io::stdout().is_terminal() && std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
            self.progress = Some(bar);
        }
        self
    }

    /// Shows a line.
    pub(crate) fn line(&self, text: impl Display) {
        let write = || {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{text}").and_then(|()| out.flush())
        };
        let written = match &self.progress {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        if written.is_err() {
            self.stop.request();
        }
    }

    /// Shows one of very many lines now and then. The text is made only if it is shown.
    pub(crate) fn sample(&self, text: impl FnOnce() -> String) {
        if !self.verbose {
            let now = Instant::now();
            let mut last = self.last_sample.lock();
            if last.is_some_and(|last| now - last < SAMPLE_EVERY) {
                return;
            }
            *last = Some(now);
        }
        self.line(text());
    }

    /// Puts a new text into the progress line.
    pub(crate) fn progress(&self, text: impl FnOnce() -> String) {
        if let Some(bar) = &self.progress {
            bar.set_message(text());
            bar.tick();
        }
    }

    /// Takes the progress line away.
    pub(crate) fn end_progress(&self) {
        if let Some(bar) = &self.progress {
            bar.finish_and_clear();
        }
    }

    /// The text in a colour, if there are colours here.
    pub(crate) fn paint(&self, colour: Colour, text: impl Display) -> String {
        if self.colours { format!("\x1b[{}m{text}\x1b[0m", colour as u8) } else { text.to_string() }
    }
}

/// A number with a comma between each three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in the unit that suits it, three digits or so.
pub(crate) fn short_time(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    match milliseconds {
        ..10.0 => format!("{milliseconds:.2} ms"),
        10.0..1_000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.1} s", milliseconds / 1e3),
    }
}

/// An endpoint for people: on this machine the port says it all.
pub(crate) fn short_endpoint(endpoint: &str) -> &str {
    match endpoint.rsplit_once(':') {
        Some(("localhost" | "127.0.0.1" | "[::1]", port)) => &endpoint[endpoint.len() - port.len() - 1..],
        _ => endpoint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_times_and_endpoints_are_shown_short() {
        let numbers: Vec<String> = [0, 999, 1_000, 1_234_567].into_iter().map(grouped).collect();
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
        let times: Vec<String> = [412, 182_000, 12_340_000].into_iter().map(|us| short_time(Duration::from_micros(us))).collect();
        assert_eq!(times, ["0.41 ms", "182 ms", "12.3 s"]);
        let endpoints = ["localhost:9001", "[::1]:9001", "db1.example.org:9001", "10.0.0.1:9001"].map(short_endpoint);
        assert_eq!(endpoints, [":9001", ":9001", "db1.example.org:9001", "10.0.0.1:9001"]);
    }
}
