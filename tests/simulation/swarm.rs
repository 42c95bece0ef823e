//! Many seeds: the tests themselves.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::plan::{Fault, Plan};
use super::report::Course;
use super::run::{Failure, kept, run, shrink};

/// Seeds of a test run that names no number.
const SEEDS: u64 = 2_000;
/// Most runs that cutting a failing schedule down may take.
const SHRINKING_RUNS: usize = 300;
/// After so many failing seeds the rest is not tried: they are likely to say the same.
const FAILURES_MAX: u64 = 3;
/// In so many seeds everything happens that clusters do for their files.
const SEEDS_WITH_ALL: u64 = 1_000;
const NOBODY_PANICS: &str = "nobody panics with the lock held";

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn explain(seed: u64, plan: &Plan, failure: &Failure) -> String {
    let command = format!("APEXKV_SEED={seed} cargo test --test simulation -- --nocapture");
    let small = shrink(plan, SHRINKING_RUNS);
    let message = run(&small).err().map_or_else(|| failure.message.clone(), |failure| failure.message);
    let faults: Vec<String> = small.faults.iter().map(|(at, fault)| format!("  {:>9} µs  {fault:?}", at)).collect();
    format!(
        "seed {seed} fails at {} µs: {}\nreplay: {command}\nwith {} of {} faults (APEXKV_FAULTS={}) it still fails: {message}\n{}",
        failure.now,
        failure.message,
        small.faults.len(),
        plan.faults.len(),
        kept(&plan.faults, &small.faults),
        faults.join("\n")
    )
}

/// The plan of one seed, with the faults that the environment leaves of it.
fn chosen(seed: u64) -> Plan {
    let mut plan = Plan::of(seed);
    if let Ok(kept) = std::env::var("APEXKV_FAULTS") {
        let kept: Vec<usize> = kept.split(',').filter_map(|position| position.parse().ok()).collect();
        let mut position = 0;
        plan.faults.retain(|_| {
            position += 1;
            kept.contains(&(position - 1))
        });
    }
    plan
}

fn replay(seed: u64) {
    let plan = chosen(seed);
    eprintln!("{plan:#?}");
    match run(&plan) {
        Ok(report) => eprintln!("seed {seed} holds: {report:#?}"),
        Err(failure) => panic!("seed {seed} fails at {} µs: {}", failure.now, failure.message),
    }
}

#[test]
fn no_seed_violates_anything() {
    if let Some(seed) = setting("APEXKV_SEED") {
        return on_its_own_thread(move || replay(seed));
    }
    let first = setting("APEXKV_FIRST").unwrap_or(0);
    let seeds = setting("APEXKV_SEEDS").unwrap_or(SEEDS);
    let failures_max = setting("APEXKV_FAILURES").unwrap_or(FAILURES_MAX);
    let threads = setting("APEXKV_THREADS").unwrap_or(std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64));
    let next = AtomicU64::new(first);
    let course = Mutex::new(Course::begin(first, seeds, setting("APEXKV_PROGRESS").is_some()));
    let failures = Mutex::new(Vec::new());
    let work = || loop {
        let failed = failures.lock().map_or(0, |failures| failures.len() as u64);
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= first + seeds || failed >= failures_max {
            break;
        }
        let plan = Plan::of(seed);
        match run(&plan) {
            Ok(report) => course.lock().expect(NOBODY_PANICS).add(&report),
            Err(failure) => {
                let text = explain(seed, &plan, &failure);
                course.lock().expect(NOBODY_PANICS).say(&text);
                failures.lock().expect(NOBODY_PANICS).push(text);
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 0..threads {
            let thread = std::thread::Builder::new().name(format!("seeds-{number}"));
            thread.spawn_scoped(scope, work).expect("the system gives the test its threads");
        }
    });
    let failures = failures.into_inner().expect(NOBODY_PANICS);
    let course = course.into_inner().expect(NOBODY_PANICS);
    let missing = if seeds >= SEEDS_WITH_ALL { course.missing() } else { Vec::new() };
    course.end(failures.len());
    assert!(failures.is_empty(), "{} schedules violate something:\n{}", failures.len(), failures.join("\n\n"));
    assert!(missing.is_empty(), "in {seeds} schedules there were none of these: {missing:?}");
}

fn on_its_own_thread(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("replay".to_owned());
        let replay = thread.spawn_scoped(scope, work).expect("the system gives the test its threads");
        assert!(replay.join().is_ok(), "the seed fails, see above");
    });
}

#[test]
fn the_same_seed_takes_the_same_course() {
    let damages = |fault: &Fault| matches!(fault, Fault::Restore { .. } | Fault::Wipe { .. } | Fault::LoseWrite { .. });
    let damaged = (0..).filter(|seed| Plan::of(*seed).faults.iter().any(|(_, fault)| damages(fault))).take(3);
    for seed in [3, 5, 8].into_iter().chain(damaged) {
        let trace = || run(&Plan::of(seed)).map(|report| (report.trace, report.committed)).map_err(|failure| failure.message);
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}
