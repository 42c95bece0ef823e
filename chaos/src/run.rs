//! The command `run`: a scratch cluster under load, struck by a seeded schedule of faults, then healed, read back and judged.

use crate::arguments::RunArguments;
use crate::cluster::scratch::Scratch;
use crate::error::{EXIT_INTERRUPTED, EXIT_OK, Error};
use crate::load::session::Load;
use crate::load::{mixed, report, verify};
use crate::schedule::{Fault, Kind, Victim, schedule};
use crate::screen::{Colour, Screen, short_endpoint, short_time};
use crate::stop::Stop;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the nodes are looked at and the progress line is renewed.
const TICK: Duration = Duration::from_millis(100);
/// Clients that mix all operations on few keys, unless set otherwise.
const MIXED_CLIENTS: usize = 4;

/// Runs the command; the number is the exit code.
pub(crate) fn run(arguments: &RunArguments) -> Result<u8, Error> {
    let stop = Stop::install()?;
    let screen = Arc::new(Screen::new(Arc::clone(&stop), arguments.load.verbose).with_progress());
    let seed = arguments.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let faults = schedule(seed, usize::from(arguments.scratch.nodes), arguments.duration, &arguments.faults);
    let mut scratch = Scratch::start(&arguments.scratch, &stop)?;
    let (nodes, folder) = (scratch.len(), scratch.folder().display());
    screen.line(format_args!("Seed {seed}: {} faults in {} on {nodes} nodes", faults.len(), short_time(arguments.duration)));
    screen.line(format_args!("Scratch folder {folder}"));
    let result = break_and_judge(arguments, seed, &faults, &mut scratch, &stop, &screen);
    if !matches!(result, Ok(EXIT_OK | EXIT_INTERRUPTED)) {
        scratch.keep_folder();
        screen.line(format_args!("The scratch folder stays: {}", scratch.folder().display()));
        screen.line(format_args!("Repeat the schedule with --seed {seed}"));
    }
    result
}

fn break_and_judge(
    arguments: &RunArguments,
    seed: u64,
    faults: &[Fault],
    scratch: &mut Scratch,
    stop: &Stop,
    screen: &Arc<Screen>,
) -> Result<u8, Error> {
    if !scratch.wait_ready(stop)? {
        return Ok(EXIT_INTERRUPTED);
    }
    let mut settings = arguments.load.settings(scratch.endpoints(), seed);
    settings.mixed = arguments.load.mixed.map_or(MIXED_CLIENTS, usize::from);
    let load = Load::start(settings.clone(), screen)?;
    let mut nemesis = Nemesis { scratch, load, stop, screen, started: Instant::now() };
    let struck = nemesis.carry_out(faults, arguments.duration);
    let mut evidence = nemesis.load.finish();
    // A node that died by itself is the finding; what can still be read says how bad it is.
    let settled = struck.and_then(|()| scratch.wait_ready(stop).map(drop));
    let read_back = verify::read_back(&mut evidence, &settings, arguments.load.patience);
    let verdict = report::print(screen, &settings, &evidence, &read_back);
    arguments.load.history.as_ref().map_or(Ok(()), |path| mixed::write_history(&evidence.history, path))?;
    settled.and_then(|()| scratch.shut_down())?;
    Ok(verdict.exit_code())
}

/// Who strikes.
struct Nemesis<'a> {
    scratch: &'a mut Scratch,
    load: Load,
    stop: &'a Stop,
    screen: &'a Screen,
    started: Instant,
}

impl Nemesis<'_> {
    /// Strikes and heals fault after fault, then waits for the end of the run. After an early end nothing is broken any more, either.
    fn carry_out(&mut self, faults: &[Fault], duration: Duration) -> Result<(), Error> {
        for fault in faults {
            if self.wait_until(self.started + fault.at)? {
                return Ok(());
            }
            let victims = self.victims(fault.victim);
            self.strike(fault.kind, &victims);
            let waited = self.wait_until(self.started + fault.at + fault.length);
            self.heal(fault.kind, &victims)?;
            waited?;
        }
        self.wait_until(self.started + duration).map(drop)
    }

    /// Waits; returns whether the user wants an end. An error if a node dies meanwhile that was not struck.
    fn wait_until(&mut self, instant: Instant) -> Result<bool, Error> {
        loop {
            self.scratch.check_alive()?;
            self.load.show_progress();
            let now = Instant::now();
            if self.stop.is_requested() || now >= instant {
                return Ok(self.stop.is_requested());
            }
            self.stop.wait_until(instant.min(now + TICK));
        }
    }

    fn victims(&self, victim: Victim) -> Vec<usize> {
        match victim {
            // During an election nobody leads; the first node is as good as any.
            Victim::Leader => vec![self.scratch.leader().unwrap_or(0)],
            Victim::Node(node) => vec![node],
            Victim::Everyone => (0..self.scratch.len()).collect(),
        }
    }

    fn strike(&mut self, kind: Kind, victims: &[usize]) {
        let leader = self.scratch.leader();
        for victim in victims {
            let what = match kind {
                Kind::Kill => "kill -9",
                Kind::Pause => "pause",
            };
            let role = if leader == Some(*victim) { " (leader)" } else { "" };
            let (client, pid) = (self.scratch.client(*victim), self.scratch.pid(*victim));
            let text = format!("{:>5.1} s  {what} {}{role}, pid {pid}", self.started.elapsed().as_secs_f64(), short_endpoint(&client));
            self.screen.line(self.screen.paint(Colour::Yellow, text));
        }
        match kind {
            Kind::Kill => self.scratch.kill(victims),
            Kind::Pause => self.scratch.pause(victims),
        }
    }

    fn heal(&mut self, kind: Kind, victims: &[usize]) -> Result<(), Error> {
        for victim in victims {
            let what = match kind {
                Kind::Kill => "restart",
                Kind::Pause => "wake",
            };
            let client = self.scratch.client(*victim);
            let text = format!("{:>5.1} s  {what} {}", self.started.elapsed().as_secs_f64(), short_endpoint(&client));
            self.screen.line(text);
            if kind == Kind::Kill {
                self.scratch.restart(*victim)?;
            }
        }
        if kind == Kind::Pause {
            self.scratch.resume(victims);
        }
        Ok(())
    }
}
