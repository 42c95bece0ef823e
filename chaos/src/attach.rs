//! The default command: loops writes on a cluster that somebody else runs, until its time is over or Ctrl-C; then reads everything back,
//! prints the verdict and removes its keys.

use crate::arguments::AttachArguments;
use crate::conclude::{self, command_line};
use crate::error::{EXIT_UNREACHABLE, Error};
use crate::load::report::Verdict;
use crate::load::session::{Evidence, Load, Settings};
use crate::load::verify;
use crate::screen::{Screen, grouped};
use crate::stop::Stop;
use crate::timeline::page::Heading;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the progress line is renewed and the end looked for.
const TICK: Duration = Duration::from_millis(200);
/// The longest wait for the first acknowledged write.
const FIRST_WRITE_MAX: Duration = Duration::from_secs(10);

/// Runs the command; the number is the exit code. `seed` decides the order of the operations.
pub(crate) fn attach(arguments: &AttachArguments, seed: u64) -> Result<u8, Error> {
    conclude::check_files(&arguments.load)?;
    let stop = Stop::install()?;
    let screen = Arc::new(Screen::new(Arc::clone(&stop), arguments.load.verbose).with_progress());
    let settings = arguments.load.settings(arguments.endpoints.endpoints.clone(), seed);
    let until = arguments.duration.map_or("until Ctrl-C".to_owned(), |time| format!("for {}", humantime::format_duration(time)));
    screen.line(format_args!("Writing {}-user_0..{} {until}", settings.prefix, grouped(settings.keys - 1)));
    let mut load = Load::start(settings.clone(), &screen)?;
    let patience = arguments.load.patience;
    let reached = write(&mut load, &stop, arguments.duration, patience.min(FIRST_WRITE_MAX));
    let mut evidence = load.finish();
    if !reached {
        let refusal = evidence.findings.last_refusal.as_deref().unwrap_or("no attempt has ended yet");
        let remedy = "start a cluster (make cluster), or name its nodes with --endpoints";
        screen.line(format_args!("No write was acknowledged: {refusal}; {remedy}"));
        return Ok(EXIT_UNREACHABLE);
    }
    let heading = heading(arguments, evidence.ended - evidence.started);
    let verdict = conclude::conclude(&screen, &arguments.load, &settings, &mut evidence, Vec::new(), &heading);
    if arguments.keep {
        screen.line(format_args!("The keys {}-* stay", settings.prefix));
    } else if !matches!(verdict, Ok(Verdict::NothingWritten)) {
        remove_keys(&evidence, &settings, &screen, patience);
    }
    verdict.map(Verdict::exit_code)
}

fn heading(arguments: &AttachArguments, time: Duration) -> Heading {
    let facts = vec![conclude::now(), arguments.endpoints.endpoints.join(", "), conclude::clients(&arguments.load)];
    let time = Duration::from_secs(time.as_secs().max(1));
    Heading { subject: format!("ApexKV under load for {}", humantime::format_duration(time)), facts, command: command_line(None) }
}

/// Lets the writers write. Returns false if none of their first writes was acknowledged in time.
fn write(load: &mut Load, stop: &Stop, duration: Option<Duration>, first_write: Duration) -> bool {
    let started = Instant::now();
    loop {
        let left = duration.map_or(TICK, |duration| duration.saturating_sub(started.elapsed()));
        if left.is_zero() || stop.wait(left.min(TICK)) {
            return true;
        }
        if load.session().acknowledged_so_far() == 0 && started.elapsed() > first_write {
            return false;
        }
        load.show_progress();
    }
}

/// Removes the keys of the run, and says so if some may be left.
fn remove_keys(evidence: &Evidence, settings: &Settings, screen: &Screen, patience: Duration) {
    let left = verify::remove_keys(evidence, settings, patience);
    if left > 0 {
        screen.line(format_args!("{left} keys {}-* could not be removed: no node took the deletions in time", settings.prefix));
    }
}
