//! Carries out a schedule on a scratch cluster that is under load, and writes down what it did to whom.

use super::links;
use super::schedule::{Action, Fault, Victim};
use crate::cluster::scratch::Scratch;
use crate::error::Error;
use crate::load::session::Load;
use crate::screen::{Colour, Screen, short_endpoint};
use crate::stop::Stop;
use crate::timeline::{Span, Strike};
use std::time::{Duration, Instant};

/// How often the nodes are looked at and the progress line is renewed.
const TICK: Duration = Duration::from_millis(100);

/// What all nodes together are called.
const ALL: &str = "all nodes";

/// Who strikes.
pub(crate) struct Nemesis<'a> {
    scratch: &'a mut Scratch,
    load: &'a mut Load,
    stop: &'a Stop,
    screen: &'a Screen,
    started: Instant,
    strikes: Vec<Strike>,
    /// Faults that are not over: their numbers in the schedule, and in `strikes`.
    active: Vec<(usize, usize)>,
}

/// A moment of the schedule, with the number of the fault. At the same time one is over before another begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Heal(usize),
    Strike(usize),
}

impl Nemesis<'_> {
    /// For a cluster and a load that have started.
    pub(crate) fn new<'a>(scratch: &'a mut Scratch, load: &'a mut Load, stop: &'a Stop, screen: &'a Screen) -> Nemesis<'a> {
        let started = load.session().started;
        Nemesis { scratch, load, stop, screen, started, strikes: Vec::new(), active: Vec::new() }
    }

    /// Strikes and heals, then waits for the end of the run; what was done comes back in any case. After an early end nothing is broken
    /// any more, either. The error is a node that died without having been struck.
    pub(crate) fn carry_out(mut self, faults: &[Fault], duration: Duration) -> (Vec<Strike>, Result<(), Error>) {
        let mut outcome = self.follow(faults, duration);
        while let Some((fault, _)) = self.active.first().copied() {
            outcome = outcome.and(self.heal(&faults[fault], fault));
        }
        (self.strikes, outcome)
    }

    fn follow(&mut self, faults: &[Fault], duration: Duration) -> Result<(), Error> {
        let ends = faults.iter().enumerate().map(|(number, fault)| (fault.end(), Moment::Heal(number)));
        let begins = faults.iter().enumerate().map(|(number, fault)| (fault.at, Moment::Strike(number)));
        let mut moments: Vec<(Duration, Moment)> = begins.chain(ends).collect();
        moments.sort();
        for (at, moment) in moments {
            if self.wait_until(self.started + at)? {
                return Ok(());
            }
            match moment {
                Moment::Strike(number) => self.strike(&faults[number], number),
                Moment::Heal(number) => self.heal(&faults[number], number)?,
            }
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

    fn strike(&mut self, fault: &Fault, number: usize) {
        let nodes = self.scratch.len();
        let leader = self.scratch.leader();
        let aimed_at = match fault.victim {
            // During an election nobody leads; the first node is as good as any.
            Victim::Leader => Some(leader.unwrap_or(0)),
            Victim::Node(node) => Some(node),
            Victim::Everyone => None,
        };
        let victims: Vec<usize> = match (aimed_at, fault.action) {
            (None, _) => (0..nodes).collect(),
            (Some(node), Action::Partition { size, .. }) => (node..node + size).map(|node| node % nodes).collect(),
            (Some(node), Action::Bridge) => vec![links::bridge(node, nodes)],
            (Some(node), _) => vec![node],
        };
        let what = describe(fault.action, &self.names(&victims, leader));
        let from = self.started.elapsed();
        self.screen.line(self.screen.paint(Colour::Yellow, format!("{:>5.1} s  {what}", from.as_secs_f64())));
        match fault.action {
            Action::Kill => self.scratch.kill(&victims),
            Action::Pause => self.scratch.pause(&victims),
            action => {
                let ways = links::ways(action, aimed_at, nodes);
                self.scratch.set_links(&ways);
                if let Action::Partition { abrupt: true, .. } = action {
                    self.scratch.break_links(&ways);
                }
            }
        }
        self.active.push((number, self.strikes.len()));
        self.strikes.push(Strike { span: Span { from, to: from }, kind: fault.action.kind(), victims, what });
    }

    /// Ends the fault of this number, if it has begun.
    fn heal(&mut self, fault: &Fault, number: usize) -> Result<(), Error> {
        let Some(place) = self.active.iter().position(|(active, _)| *active == number) else { return Ok(()) };
        let (_, strike) = self.active.remove(place);
        let victims = self.strikes[strike].victims.clone();
        let done = match fault.action {
            Action::Kill => "restart",
            Action::Pause => "wake",
            _ => "mend the links of",
        };
        let to = self.started.elapsed();
        self.screen.line(format_args!("{:>5.1} s  {done} {}", to.as_secs_f64(), self.names(&victims, None)));
        self.strikes[strike].span.to = to;
        match fault.action {
            Action::Kill => victims.iter().try_for_each(|node| self.scratch.restart(*node)),
            Action::Pause => {
                self.scratch.resume(&victims);
                Ok(())
            }
            // Of faults of links there is one at a time.
            _ => {
                self.scratch.set_links(&[]);
                Ok(())
            }
        }
    }

    /// Nodes for people, with the one that leads.
    fn names(&self, nodes: &[usize], leader: Option<usize>) -> String {
        if nodes.len() == self.scratch.len() && nodes.len() > 1 {
            return ALL.to_owned();
        }
        let name = |node: &usize| {
            let client = self.scratch.client(*node);
            format!("{}{}", short_endpoint(&client), if leader == Some(*node) { " (leader)" } else { "" })
        };
        nodes.iter().map(name).collect::<Vec<_>>().join(" ")
    }
}

/// What is done to whom, in words.
fn describe(action: Action, names: &str) -> String {
    match action {
        Action::Kill => format!("kill -9 {names}"),
        Action::Pause => format!("pause {names}"),
        Action::Partition { abrupt, .. } => {
            let between = if names == ALL { "any two nodes".to_owned() } else { format!("{names} and others") };
            if abrupt {
                format!("partition: the links between {between} break")
            } else {
                format!("partition: nothing passes between {between}")
            }
        }
        Action::OneWay { deaf: true } => format!("one-way: {names} does not hear the others"),
        Action::OneWay { deaf: false } => format!("one-way: {names} is not heard by the others"),
        Action::Bridge => format!("bridge: the others reach each other only through {names}"),
        Action::Slow { delay } => format!("slow: the links of {names} hold everything for {} ms", delay.as_millis()),
        Action::Break { life } => format!("break: connections of {names} break after {} ms", life.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_described_within_the_width_of_a_terminal() {
        let delay = Duration::from_millis(249);
        let actions = [
            Action::Kill,
            Action::Pause,
            Action::Partition { size: 2, abrupt: false },
            Action::Partition { size: 2, abrupt: true },
            Action::OneWay { deaf: true },
            Action::OneWay { deaf: false },
            Action::Bridge,
            Action::Slow { delay },
            Action::Break { life: delay },
        ];
        for action in actions {
            let text = describe(action, ":29001 (leader) :29002");
            assert!(text.contains(":29001 (leader)") && text.len() <= 80 - "100.0 s  ".len(), "{text}");
        }
        assert!(!describe(Action::Partition { size: 1, abrupt: true }, ALL).contains("others"));
    }

    #[test]
    fn one_fault_is_over_before_the_next_begins_at_the_same_moment() {
        assert!(Moment::Heal(7) < Moment::Strike(0));
    }
}
