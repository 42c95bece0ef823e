//! One seed from beginning to end: faults, healing, and what must be true after it. A failure is a message; how to see it again is
//! printed with it.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::counts::Counts;
use super::plan::{Death, Fault, MILLISECOND, Plan, Time};
use super::world::{What, World};

/// Within so many ticks a healed majority must elect and serve, and within as many more all must agree: a few of the longest election
/// timeouts, and the time for which a leader that could not work does not campaign. Healed clocks tick once a millisecond.
const HEALING_TICKS: u64 = 40_000;
/// So many more for each entry of the longest log: the smallest window carries one entry in a round trip and a sync.
const TICKS_PER_ENTRY: u64 = 50;
const STEP: Time = 50 * MILLISECOND;

/// How a run ended that violated nothing.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) counts: Counts,
    pub(crate) trace: u64,
    /// How long after healing an operation was committed, and how long until all agreed.
    pub(crate) served_after: Time,
    pub(crate) agreed_after: Time,
    pub(crate) committed: u64,
}

/// What was violated, and when.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) now: Time,
}

/// Runs a plan.
pub(crate) fn run(plan: &Plan) -> Result<Report, Failure> {
    listen_to_panics();
    let mut world = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| play(world.insert(World::new(plan.clone())))));
    let now = world.as_ref().map_or(0, |world| world.now);
    outcome.map_err(|_| Failure { message: LAST_PANIC.take(), now })
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps a violation's message in place of printing it: the shrinker meets the same one many times.
fn listen_to_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let name = std::thread::current().name().unwrap_or("").to_owned();
            if name.starts_with("seeds") {
                let place = info.location().map_or(String::new(), |place| format!("{}:{}", place.file(), place.line()));
                let text = info.payload_as_str().unwrap_or("a panic without words");
                // A second one before the first was dealt with ends the process: then all must be said now.
                let before = LAST_PANIC.replace(format!("{text} ({place})"));
                if !before.is_empty() {
                    eprintln!("{before}; and then");
                    usual(info);
                }
            } else {
                usual(info);
            }
        }));
    });
}

fn play(world: &mut World) -> Report {
    world.run_until(world.plan.time);
    let apart = choose_apart(world);
    world.heal(|node| apart >> node & 1 == 1);
    let healed = world.now;
    let mark = world.oracle.operations.len();
    let served_after =
        wait_for(world, healed, "serves nothing", |world| world.oracle.operations[mark..].iter().any(|operation| operation.committed));
    world.quiet = true;
    let agreed_after = wait_for(world, world.now, "does not agree", |world| {
        let commit = world.oracle.commit();
        let here = |node: &usize| apart >> node & 1 == 0 && !world.members[*node].gone;
        (0..world.plan.nodes).filter(here).all(|node| {
            let process = world.members[node].process.as_ref();
            process.is_some_and(|process| {
                let core = process.replica.node();
                process.store.applied() == commit && core.last().index == commit && core.floor().term == 0
            })
        })
    });
    for node in 0..world.plan.nodes {
        let process = world.members[node].process.as_ref();
        if process.is_some_and(|process| process.store.applied() == world.oracle.commit()) {
            world.read_back(node);
        }
    }
    world.judge_history();
    lose_power(world);
    let (counts, trace) = (world.counts.clone(), world.trace.0);
    Report { counts, trace, served_after, agreed_after, committed: world.oracle.commit() }
}

/// The nodes that stay cut off: as many as a majority can do without, those that are damaged first.
fn choose_apart(world: &mut World) -> u64 {
    if world.plan.heal_all {
        return 0;
    }
    let spare = world.plan.nodes - world.plan.majority();
    let first = world.random.below(world.plan.nodes as u64) as usize;
    let mut order: Vec<usize> = (0..world.plan.nodes).map(|node| (first + node) % world.plan.nodes).collect();
    order.sort_by_key(|node| !world.members[*node].is_damaged());
    order[..spare].iter().fold(0, |mask, node| mask | 1 << node)
}

fn wait_for(world: &mut World, since: Time, what: &str, done: impl Fn(&World) -> bool) -> Time {
    let longest =
        world.members.iter().filter_map(|member| member.process.as_ref()).map(|process| process.replica.node().last().index).max();
    let ticks = HEALING_TICKS + TICKS_PER_ENTRY * longest.unwrap_or(0);
    while !done(world) {
        assert!(world.now < since + ticks * MILLISECOND, "a healed cluster {what} within {ticks} ticks: {}", describe(world));
        world.run_until(world.now + STEP);
    }
    world.now - since
}

/// Everybody's power fails, and nothing that was not synced is left: what was acknowledged must be there again.
fn lose_power(world: &mut World) {
    for node in 0..world.plan.nodes {
        world.die(node, Death::LoseAll, None);
        let at = world.now;
        world.schedule(at, What::Start(node));
    }
    world.run_until(world.now + 1);
}

/// Where everybody stands.
pub(crate) fn describe(world: &World) -> String {
    let mut text = format!("{} committed", world.oracle.commit());
    for (node, member) in world.members.iter().enumerate() {
        let state = match &member.process {
            Some(process) => {
                let position = process.replica.position();
                format!("{position:?}")
            }
            None => "down".to_owned(),
        };
        text += &format!("\n  {node}: {state}");
    }
    text
}

/// Cuts a failing plan's schedule down to faults that are all needed, by leaving out ever smaller parts.
pub(crate) fn shrink(plan: &Plan, budget: usize) -> Plan {
    let mut best = plan.clone();
    let mut part = best.faults.len().div_ceil(2);
    let mut runs = 0;
    while part > 0 && runs < budget {
        let mut start = 0;
        while start < best.faults.len() && runs < budget {
            let mut smaller = best.clone();
            let end = (start + part).min(smaller.faults.len());
            smaller.faults.drain(start..end);
            runs += 1;
            if run(&smaller).is_err() {
                best = smaller;
            } else {
                start = end;
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    best
}

/// Which faults of the whole plan a shrunk one keeps, as they are given to `APEXKV_FAULTS`.
pub(crate) fn kept(whole: &[(Time, Fault)], part: &[(Time, Fault)]) -> String {
    let mut next = 0;
    let mut positions = Vec::new();
    for (position, fault) in whole.iter().enumerate() {
        if part.get(next) == Some(fault) {
            positions.push(position.to_string());
            next += 1;
        }
    }
    if positions.is_empty() { "none".to_owned() } else { positions.join(",") }
}
