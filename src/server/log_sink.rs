//! Where log lines go: a bounded queue and a thread that writes it to standard error. A sink that blocks (a stopped pipe, a hung
//! terminal) fills the queue and loses lines; it never holds up the thread that logs, least of all the Raft thread.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::error::{Error, Result};

/// Lines that may wait for standard error.
const QUEUE_LINES: usize = 4096;

static QUEUE: OnceLock<Sender<Vec<u8>>> = OnceLock::new();

struct Sink {
    queue: Sender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(line.to_vec()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the `log` macros write here from now on.
pub fn install(level: log::LevelFilter) -> Result<()> {
    let (sender, receiver) = crossbeam_channel::bounded(QUEUE_LINES);
    let lost = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&lost);
    let writer = std::thread::Builder::new().name("log".into()).spawn(move || write_lines(&receiver, &counter));
    writer.map_err(Error::io("start the log thread"))?;
    let style = if io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
        env_logger::WriteStyle::Always
    } else {
        env_logger::WriteStyle::Never
    };
    let _ = QUEUE.set(sender.clone());
    env_logger::Builder::new()
        .filter_level(level)
        .format_target(false)
        .format_timestamp_millis()
        .write_style(style)
        .target(env_logger::Target::Pipe(Box::new(Sink { queue: sender, lost })))
        .init();
    Ok(())
}

fn write_lines(lines: &Receiver<Vec<u8>>, lost: &AtomicU64) {
    for line in lines {
        // Standard error may be closed; there is nowhere to say so.
        let _ = io::stderr().write_all(&line);
        let missing = lost.swap(0, Ordering::Relaxed);
        if missing > 0 {
            let _ = writeln!(io::stderr(), "{missing} log lines were lost: standard error did not take them in time");
        }
    }
}

/// Prints a line at every log level, through the same queue.
pub fn say(line: &str) {
    if let Some(queue) = QUEUE.get() {
        let _ = queue.try_send(format!("{line}\n").into_bytes());
    } else {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Prints a line right before the process ends, behind what was logged before. Gives up after a short while: a standard error that
/// takes nothing must not keep a process alive that has to end.
pub fn say_now(line: &str) {
    drain();
    let line = line.to_owned();
    let (done, finished) = crossbeam_channel::bounded(1);
    let printing = std::thread::Builder::new().spawn(move || {
        // Standard error may be closed; the exit code says it too.
        let _ = writeln!(io::stderr(), "{line}");
        let _ = done.send(());
    });
    if printing.is_ok() {
        let _ = finished.recv_timeout(Duration::from_millis(300));
    }
}

/// Makes a panic in any thread, which ends the process, say so in one line. `RUST_BACKTRACE=1` adds the backtrace.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::capture();
        let trace = if trace.status() == std::backtrace::BacktraceStatus::Captured { format!("\n{trace}") } else { String::new() };
        let thread = std::thread::current();
        say_now(&format!("fatal: a promise inside the program was broken in thread {}: {panic}{trace}", thread.name().unwrap_or("?")));
    }));
}

/// Waits, for a short while at most, until what was logged has been written. For the end of the process.
pub fn drain() {
    let deadline = Instant::now() + Duration::from_millis(300);
    while QUEUE.get().is_some_and(|queue| !queue.is_empty()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}
