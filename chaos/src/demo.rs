//! The command `demo`: half a minute without questions. A scratch cluster, a few commands, a load, three killed leaders, the verdict; on
//! 80 columns.

use crate::arguments::{LoadArguments, ScratchArguments};
use crate::cluster::scratch::Scratch;
use crate::error::{EXIT_INTERRUPTED, EXIT_OK, Error};
use crate::load::session::{Load, Settings, client, random_prefix};
use crate::load::{report, verify};
use crate::screen::{Colour, Screen, short_endpoint, short_time};
use crate::stop::Stop;
use std::sync::Arc;
use std::time::{Duration, Instant};

const KILLS: usize = 3;
/// Writing between two kills.
const QUIET: Duration = Duration::from_millis(1_500);
/// The longest wait for the next acknowledged write after a kill.
const FAILOVER_MAX: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command; the number is the exit code.
pub(crate) fn demo(arguments: &ScratchArguments) -> Result<u8, Error> {
    if arguments.nodes < 3 {
        return Err(Error::Usage(format!("with --nodes {} no node can be killed and survived: use at least 3", arguments.nodes)));
    }
    let stop = Stop::install()?;
    let screen = Arc::new(Screen::new(Arc::clone(&stop), false));
    let started = Instant::now();
    let mut scratch = Scratch::start(arguments, &stop)?;
    let result = show(&mut scratch, &stop, &screen, started);
    if !matches!(result, Ok(EXIT_OK | EXIT_INTERRUPTED)) {
        scratch.keep_folder();
        screen.line(format_args!("The scratch folder stays: {}", scratch.folder().display()));
    }
    result
}

fn show(scratch: &mut Scratch, stop: &Stop, screen: &Arc<Screen>, started: Instant) -> Result<u8, Error> {
    if !scratch.wait_ready(stop)? {
        return Ok(EXIT_INTERRUPTED);
    }
    let leader = scratch.leader().map_or_else(|| "a node".to_owned(), |node| short_endpoint(&scratch.client(node)).to_owned());
    screen.line(format_args!("{} nodes are up after {}; {leader} leads", scratch.len(), short_time(started.elapsed())));
    show_commands(scratch, screen)?;
    let settings = settings(scratch.endpoints());
    screen.line(format_args!("Now {} writers loop over {} keys while leaders are killed:", settings.writers, settings.keys));
    let load = Load::start(settings.clone(), screen)?;
    for kill in 1..=KILLS {
        if stop.wait(QUIET) {
            break;
        }
        kill_one_leader(kill, scratch, &load, screen, stop)?;
    }
    stop.wait(QUIET);
    let mut evidence = load.finish();
    scratch.wait_ready(stop)?;
    let read_back = verify::read_back(&mut evidence, &settings, PATIENCE);
    let report = report::compose(&settings, &evidence, &read_back);
    report::print(screen, &report);
    scratch.shut_down()?;
    screen.line(format_args!("Done in {}; nothing is left behind", short_time(started.elapsed())));
    Ok(report.verdict.exit_code())
}

fn settings(endpoints: Vec<String>) -> Settings {
    let load = LoadArguments {
        writers: 4,
        mixed: None,
        history: None,
        report: None,
        keys: 1_000,
        rate: None,
        attempt_timeout: Duration::from_millis(500),
        patience: PATIENCE,
        verbose: false,
    };
    Settings { prefix: random_prefix(), show_events: false, ..load.settings(endpoints, rand::random()) }
}

/// A few commands as a user would give them, each checked.
fn show_commands(scratch: &Scratch, screen: &Screen) -> Result<(), Error> {
    let failed = |error: apexkv_client::Error| Error::Failed(format!("the first commands failed: {error}"));
    let mut client = client(&scratch.endpoints(), Duration::from_secs(5)).build().map_err(failed)?;
    let version = client.set(b"greeting", b"hello").map_err(failed)?;
    screen.line(format_args!("  SET greeting hello      version {version}: on the disks of a majority"));
    let value = client.get(b"greeting").map_err(failed)?;
    if value.as_deref() != Some(b"hello") {
        return Err(Error::Failed(format!("GET greeting returned {value:?} where hello was written")));
    }
    screen.line("  GET greeting            hello");
    let next = client.compare_and_set(b"greeting", version, b"good morning").map_err(failed)?;
    screen.line(format_args!("  CAS greeting {version:<10} version {next}: only because nobody was faster"));
    client.delete(b"greeting").map_err(failed)?;
    if client.get(b"greeting").map_err(failed)?.is_some() {
        return Err(Error::Failed("GET greeting finds the key after it was removed".to_owned()));
    }
    screen.line("  DEL greeting            gone");
    Ok(())
}

/// Kills whoever leads, shows how long writes took to go on, and brings the node back.
fn kill_one_leader(kill: usize, scratch: &mut Scratch, load: &Load, screen: &Screen, stop: &Stop) -> Result<(), Error> {
    let Some(victim) = scratch.leader() else {
        return Err(Error::Failed("no node leads, although none was struck".to_owned()));
    };
    let (client, pid) = (scratch.client(victim), scratch.pid(victim));
    let killed = Instant::now();
    scratch.kill(&[victim]);
    let outage = loop {
        if let Some(outage) = load.session().outage_ended_after(killed) {
            break outage;
        }
        if killed.elapsed() > FAILOVER_MAX {
            return Err(Error::Failed(format!("no write was acknowledged within {FAILOVER_MAX:?} of the kill of {}", scratch.id(victim))));
        }
        scratch.check_alive()?;
        if stop.wait(TICK) {
            return scratch.restart(victim);
        }
    };
    let (old, new) = (short_endpoint(&client), short_endpoint(&outage.new_leader));
    let after = short_time(outage.until.saturating_duration_since(killed));
    let text = screen.paint(Colour::Green, format_args!("writes go on via {new} after {after}"));
    screen.line(format_args!("  {kill}. kill -9 {pid:<7} (leader {old})   {text}"));
    scratch.restart(victim)?;
    scratch.wait_ready(stop).map(drop)
}
