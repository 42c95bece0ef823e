//! Many seeds: the tests themselves, and what is said about them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::plan::Plan;
use super::run::{Failure, Report, kept, run, shrink};
use super::world::Counts;

/// Seeds of a test run that names no number.
const SEEDS: u64 = 200;
/// Most runs that cutting a failing schedule down may take.
const SHRINKING_RUNS: usize = 300;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Sums over all seeds.
#[derive(Default)]
struct Total {
    counts: Counts,
    seeds: u64,
    committed: u64,
    served_after: Vec<u64>,
    agreed_after: Vec<u64>,
}

impl Total {
    fn add(&mut self, report: &Report) {
        let (sum, new) = (&mut self.counts, &report.counts);
        let mut added = new.clone();
        for (to, from) in sum.numbers().into_iter().zip(added.numbers()) {
            *to += *from;
        }
        for (kind, count) in &new.faults {
            *sum.faults.entry(kind).or_default() += count;
        }
        self.seeds += 1;
        self.committed += report.committed;
        self.served_after.push(report.served_after / 1000);
        self.agreed_after.push(report.agreed_after / 1000);
    }

    fn say(&mut self, seconds: f64) {
        let Counts { events, messages, syncs, elections, starts, .. } = self.counts;
        let rate = self.counts.events as f64 / seconds;
        eprintln!(
            "{} seeds in {seconds:.1} s: {events} core events ({rate:.0} per second), {messages} messages, {syncs} disk jobs",
            self.seeds
        );
        eprintln!("{elections} elections, {starts} starts, {} entries committed; {:?}", self.committed, self.counts);
        for (what, times) in [("served", &mut self.served_after), ("agreed", &mut self.agreed_after)] {
            times.sort_unstable();
            let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied().unwrap_or(0);
            eprintln!("{what} after healing, ms: median {}, 99 % {}, worst {}", at(50), at(99), at(100));
        }
    }
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
        return on_a_quiet_thread(move || replay(seed));
    }
    let first = setting("APEXKV_FIRST").unwrap_or(0);
    let seeds = setting("APEXKV_SEEDS").unwrap_or(SEEDS);
    let progress = setting("APEXKV_PROGRESS").is_some();
    let failures_max = setting("APEXKV_FAILURES").unwrap_or(3);
    let next = AtomicU64::new(first);
    let begun = Instant::now();
    let total = Mutex::new(Total::default());
    let failures = Mutex::new(Vec::new());
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let failed = failures.lock().map_or(0, |failures| failures.len() as u64);
        if seed >= first + seeds || failed >= failures_max {
            break;
        }
        let plan = Plan::of(seed);
        match run(&plan) {
            Ok(report) => add(&total, &report, seeds, begun, progress),
            Err(failure) => {
                let text = explain(seed, &plan, &failure);
                eprintln!("{text}");
                failures.lock().expect("nobody panics with the lock held").push(text);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for number in 0..threads {
            let thread = std::thread::Builder::new().name(format!("seeds-{number}"));
            thread.spawn_scoped(scope, work).expect("the system gives the test its threads");
        }
    });
    total.lock().expect("nobody panics with the lock held").say(begun.elapsed().as_secs_f64());
    let failures = failures.into_inner().expect("nobody panics with the lock held");
    assert!(failures.is_empty(), "{} seeds fail:\n{}", failures.len(), failures.join("\n\n"));
}

fn add(total: &Mutex<Total>, report: &Report, seeds: u64, begun: Instant, progress: bool) {
    let mut total = total.lock().expect("nobody panics with the lock held");
    total.add(report);
    if progress && total.seeds.is_multiple_of(100) {
        let seconds = begun.elapsed().as_secs_f64();
        let (done, events) = (total.seeds, total.counts.events as f64 / seconds);
        eprint!("\r{done} of {seeds} seeds, {:.0} seeds/s, {events:.0} core events/s ", done as f64 / seconds);
    }
}

fn on_a_quiet_thread(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(work).join().expect("the replay holds");
    });
}

#[test]
fn the_same_seed_takes_the_same_course() {
    for seed in [3, 5, 8] {
        let trace = || run(&Plan::of(seed)).map(|report| (report.trace, report.committed)).map_err(|failure| failure.message);
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}
