//! The open loop on one connection: requests go out when they are due, and answers are taken whenever they come. What cannot go out
//! because `--depth` requests are in flight stays due, and goes out as soon as there is room.

use super::worker::{Broken, Worker};
use apexkv_client::Pipeline;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

impl Worker<'_> {
    /// Ends when all that is due before the end of the window was answered, or early when the connection is of no more use. What is due
    /// and has no room at the end of the window is not sent any more.
    pub(super) fn drive_open(&mut self, pipeline: &mut Pipeline) -> Result<(), Broken> {
        let _ = wake_in_time();
        let depth = self.options.depth as usize;
        let mut now = Instant::now();
        loop {
            let mut next = self.next_due(now);
            while let Some(due) = next
                && due <= now
                && pipeline.outstanding() < depth
            {
                self.push(pipeline, due);
                self.advance();
                next = self.next_due(now);
            }
            now = match next {
                Some(due) if due > now && !pipeline.has_response() => {
                    self.flush(pipeline, now)?;
                    match wait(pipeline, due - now)? {
                        true => self.collect_if_any(pipeline, now)?,
                        false => Instant::now(),
                    }
                }
                None if pipeline.outstanding() == 0 => return self.ended(),
                // There is no room for what is due, or nothing more to send: only answers can change that.
                _ => self.collect(pipeline, now)?,
            };
        }
    }

    /// The next request's moment, unless nothing more is to be sent here.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.moved || now >= self.window.end {
            return None;
        }
        self.schedule.as_ref().map(|schedule| schedule.due()).filter(|due| *due < self.window.end)
    }

    fn advance(&mut self) {
        if let Some(schedule) = &mut self.schedule {
            schedule.advance();
        }
    }

    /// A socket that has something to read although nothing is outstanding has been closed.
    fn collect_if_any(&mut self, pipeline: &mut Pipeline, now: Instant) -> Result<Instant, Broken> {
        if pipeline.outstanding() == 0 { Err(Broken("connection")) } else { self.collect(pipeline, now) }
    }
}

/// Waits until the socket has something to read, at most for `time`; returns whether it has.
fn wait(pipeline: &Pipeline, time: Duration) -> Result<bool, Broken> {
    let time = Timespec::try_from(time).map_err(|_| Broken("connection"))?;
    let mut sockets = [PollFd::from_borrowed_fd(pipeline.as_fd(), PollFlags::IN)];
    match poll(&mut sockets, Some(&time)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(_) => Err(Broken("connection")),
    }
}

/// Linux may wake a thread 50 microseconds late to spare itself a timer, which would count as latency here. Where it cannot be told not to,
/// nothing is lost but that.
fn wake_in_time() -> Result<(), rustix::io::Errno> {
    #[cfg(target_os = "linux")]
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    Ok(())
}
