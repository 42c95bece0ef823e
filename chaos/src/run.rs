//! The command `run`: a scratch cluster under load, struck by a seeded schedule of faults, then healed, read back and judged. On a
//! cluster of somebody else the same without faults.

use crate::arguments::{AttachArguments, EndpointArguments, LoadArguments, RunArguments};
use crate::attach;
use crate::cluster::scratch::Scratch;
use crate::conclude::{self, command_line};
use crate::error::{EXIT_INTERRUPTED, EXIT_OK, Error};
use crate::faults::nemesis::Nemesis;
use crate::faults::schedule::{Fault, Kind, schedule};
use crate::load::session::Load;
use crate::screen::Screen;
use crate::stop::Stop;
use crate::timeline::page::Heading;
use std::sync::Arc;

/// Clients that mix all operations on few keys, unless set otherwise.
const MIXED_CLIENTS: u16 = 4;

/// Runs the command; the number is the exit code.
pub(crate) fn run(arguments: &RunArguments) -> Result<u8, Error> {
    let seed = arguments.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let load = LoadArguments { mixed: Some(arguments.load.mixed.unwrap_or(MIXED_CLIENTS)), ..arguments.load.clone() };
    if !arguments.endpoints.is_empty() {
        let endpoints = EndpointArguments { endpoints: arguments.endpoints.clone() };
        return attach::attach(&AttachArguments { endpoints, duration: Some(arguments.duration), keep: false, load }, seed);
    }
    let kinds = arguments.kinds()?;
    conclude::check_files(&load)?;
    let stop = Stop::install()?;
    let screen = Arc::new(Screen::new(Arc::clone(&stop), load.verbose).with_progress());
    let faults = schedule(seed, usize::from(arguments.scratch.nodes), arguments.duration, &kinds);
    let start = if kinds.iter().any(|kind| kind.strikes_links()) { Scratch::start_with_network } else { Scratch::start };
    let mut scratch = start(&arguments.scratch, &stop)?;
    let plan = Plan { arguments, load, seed, kinds, faults };
    let (nodes, folder, time) = (scratch.len(), scratch.folder().display(), humantime::format_duration(arguments.duration));
    screen.line(format_args!("Seed {seed}: {} faults in {time} on {nodes} nodes", plan.faults.len()));
    screen.line(format_args!("Scratch folder {folder}"));
    let result = break_and_judge(&plan, &mut scratch, &stop, &screen);
    if !matches!(result, Ok(EXIT_OK | EXIT_INTERRUPTED)) {
        scratch.keep_folder();
        screen.line(format_args!("The scratch folder stays: {}", scratch.folder().display()));
        screen.line(format_args!("Repeat the schedule with: {}", command_line(Some(seed))));
    }
    result
}

/// What is to be done.
struct Plan<'a> {
    arguments: &'a RunArguments,
    load: LoadArguments,
    seed: u64,
    kinds: Vec<Kind>,
    faults: Vec<Fault>,
}

impl Plan<'_> {
    fn heading(&self) -> Heading {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        let facts = vec![
            conclude::now(),
            format!("seed {}", self.seed),
            format!("{} nodes", self.arguments.scratch.nodes),
            conclude::clients(&self.load),
            format!("{} faults: {}", self.faults.len(), kinds.join(", ")),
        ];
        let subject = format!("ApexKV under faults for {}", humantime::format_duration(self.arguments.duration));
        Heading { subject, facts, command: command_line(Some(self.seed)) }
    }
}

fn break_and_judge(plan: &Plan<'_>, scratch: &mut Scratch, stop: &Stop, screen: &Arc<Screen>) -> Result<u8, Error> {
    if !scratch.wait_ready(stop)? {
        return Ok(EXIT_INTERRUPTED);
    }
    let settings = plan.load.settings(scratch.endpoints(), plan.seed);
    let mut load = Load::start(settings.clone(), screen)?;
    let (strikes, struck) = Nemesis::new(scratch, &mut load, stop, screen).carry_out(&plan.faults, plan.arguments.duration);
    let mut evidence = load.finish();
    // A node that died by itself is the finding; what can still be read says how bad it is.
    let settled = struck.and_then(|()| scratch.wait_ready(stop).map(drop));
    let verdict = conclude::conclude(screen, &plan.load, &settings, &mut evidence, strikes, &plan.heading())?;
    settled.and_then(|()| scratch.shut_down())?;
    Ok(verdict.exit_code())
}
