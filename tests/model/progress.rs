//! How far a long search is, on standard error: rewritten in place on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Shows nothing within this time, so that short searches stay quiet.
const QUIET: Duration = Duration::from_secs(5);

/// When something was shown last.
pub(crate) struct Progress {
    began: Instant,
    shown: Mutex<Instant>,
    terminal: bool,
}

impl Progress {
    /// Of a search that begins now.
    pub(crate) fn new() -> Progress {
        Progress { began: Instant::now(), shown: Mutex::new(Instant::now()), terminal: std::io::stderr().is_terminal() }
    }

    /// Shows the numbers if it is time to.
    pub(crate) fn show(&self, name: &str, depth: usize, states: u64) {
        let pause = if self.terminal { Duration::from_millis(500) } else { Duration::from_secs(30) };
        let Ok(mut shown) = self.shown.try_lock() else { return };
        if shown.elapsed() < pause || self.began.elapsed() < QUIET {
            return;
        }
        *shown = Instant::now();
        let rate = states as f64 / self.began.elapsed().as_secs_f64();
        let line = format!("  {name}: depth {depth}, {} states, {} a second", grouped(states), grouped(rate as u64));
        let _ = if self.terminal { write!(std::io::stderr(), "\r\x1b[K{line}") } else { writeln!(std::io::stderr(), "{line}") };
    }

    /// Takes the line away again.
    pub(crate) fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// A number with commas between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The most memory that this process ever had, in MiB, where the system says so.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok().map(|kib: u64| kib >> 10)
}
