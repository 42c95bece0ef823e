//! The command `failover`: how long writes stop when the leader dies or falls silent. A scratch cluster of its own, round after round the
//! same: wait until all is well, strike whoever leads, and take the time from the signal to the first acknowledged write that was sent
//! after it. [`probe`] writes and takes the time, [`summary`] reckons and is pure; this file has the rounds.

mod probe;
mod summary;

use crate::arguments::{FailoverArguments, Format, How};
use crate::cluster::scratch::Scratch;
use crate::cluster::status::{self, Status};
use crate::error::{EXIT_INTERRUPTED, EXIT_OK, Error};
use crate::load::session::random_prefix;
use crate::screen::{Screen, short_endpoint, short_time};
use crate::stop::Stop;
use probe::{Acknowledged, Probe};
use rand::RngExt;
use rustix::process::Signal;
use std::sync::Arc;
use std::time::{Duration, Instant};
use summary::{Round, Summary};

/// The longest wait for the next acknowledged write.
const OUTAGE_MAX: Duration = Duration::from_secs(30);
/// Waits between two looks at the probe. It takes its times itself, so this costs no precision.
const TICK: Duration = Duration::from_millis(2);
/// The signal comes at a random moment within this time after the cluster is ready, so that rounds do not keep step with its heartbeats.
const JITTER: Duration = Duration::from_millis(200);

/// Runs the command; the number is the exit code.
pub(crate) fn failover(arguments: &FailoverArguments) -> Result<u8, Error> {
    if arguments.scratch.nodes < 3 {
        let nodes = arguments.scratch.nodes;
        return Err(Error::Usage(format!("with --nodes {nodes} writes cannot go on without the leader: use at least 3")));
    }
    let stop = Stop::install()?;
    let screen = Screen::new(Arc::clone(&stop), false);
    let mut scratch = Scratch::start(&arguments.scratch, &stop)?;
    let rounds = run(arguments, &mut scratch, &stop, &screen).inspect_err(|_| scratch.keep_folder())?;
    if let Some(summary) = Summary::of(&rounds) {
        screen.line(match arguments.output {
            Format::Text => summary.text(arguments.how),
            Format::Json => summary.json(arguments.how, usize::from(arguments.scratch.nodes)).to_string(),
        });
    }
    scratch.shut_down().inspect_err(|_| scratch.keep_folder())?;
    Ok(if stop.is_requested() { EXIT_INTERRUPTED } else { EXIT_OK })
}

/// All rounds, or those that were over when the user had seen enough.
fn run(arguments: &FailoverArguments, scratch: &mut Scratch, stop: &Stop, screen: &Screen) -> Result<Vec<Round>, Error> {
    let mut rounds = Vec::new();
    if !scratch.wait_ready(stop)? {
        return Ok(rounds);
    }
    let probe = Probe::start(&scratch.endpoints(), &random_prefix())?;
    let mut chance = rand::rng();
    for number in 1..=arguments.rounds {
        let quiet = arguments.settle + chance.random_range(Duration::ZERO..JITTER);
        if stop.wait(quiet) {
            break;
        }
        let Some(round) = strike(arguments.how, scratch, &probe, stop)? else { break };
        if arguments.output == Format::Text {
            let (from, to) = (short_endpoint(&round.old_leader), short_endpoint(&round.acknowledged_by));
            let terms = if round.elections == 1 { "1 election".to_owned() } else { format!("{} elections", round.elections) };
            screen.line(format_args!("{number:>4}. leader {from} {}: {} via {to}, {terms}", arguments.how, short_time(round.outage)));
        }
        rounds.push(round);
        if !scratch.wait_ready(stop)? {
            break;
        }
    }
    Ok(rounds)
}

/// One round: strikes the leader, waits for the next acknowledged write, and brings the node back. `None`: an end was asked for.
fn strike(how: How, scratch: &mut Scratch, probe: &Probe, stop: &Stop) -> Result<Option<Round>, Error> {
    let (leader, before) = leader(scratch)?;
    let old_leader = scratch.client(leader);
    probe.arm();
    let struck = Instant::now();
    scratch.signal(leader, if how == How::Kill { Signal::KILL } else { Signal::STOP });
    probe.count_from(Instant::now());
    let acknowledged = wait(scratch, (how == How::Pause).then_some(leader), probe, struck, stop);
    // Whatever came of it, the node goes on.
    match how {
        How::Kill => {
            scratch.kill(&[leader]);
            scratch.restart(leader)?;
        }
        How::Pause => scratch.resume(&[leader]),
    }
    let Some(acknowledged) = acknowledged? else { return Ok(None) };
    if !scratch.wait_ready(stop)? {
        return Ok(None);
    }
    let (_, after) = self::leader(scratch)?;
    Ok(Some(Round {
        outage: acknowledged.at.saturating_duration_since(struck),
        elections: after.term.saturating_sub(before.term),
        old_leader,
        acknowledged_by: acknowledged.endpoint,
    }))
}

fn leader(scratch: &Scratch) -> Result<(usize, Status), Error> {
    let found = status::find_leader(&scratch.endpoints());
    found.ok_or_else(|| Error::Failed("no node leads, although none was struck".to_owned()))
}

/// The first acknowledgement that counts, or `None` when an end was asked for.
fn wait(scratch: &Scratch, paused: Option<usize>, probe: &Probe, struck: Instant, stop: &Stop) -> Result<Option<Acknowledged>, Error> {
    loop {
        if let Some(acknowledged) = probe.first() {
            return Ok(Some(acknowledged));
        }
        if struck.elapsed() > OUTAGE_MAX {
            let what = if paused.is_some() { "silenced" } else { "killed" };
            let folder = scratch.folder().display();
            return Err(Error::Failed(format!(
                "no write was acknowledged within {OUTAGE_MAX:?} after the leader was {what}; the nodes' output is in {folder}"
            )));
        }
        if stop.wait(TICK) {
            return Ok(None);
        }
    }
}
