//! What is said about many seeds: how far it is while they run, and the sums at the end.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::counts::Counts;
use super::run::Report;

/// Where there is no terminal, a line says how far it is after so much time.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How often the bar is drawn in a second at most.
const DRAWN_PER_SECOND: u8 = 4;
/// Tables have so many columns of a name and a number.
const COLUMNS: usize = 3;

/// Seeds under way.
pub(crate) struct Course {
    first: u64,
    seeds: u64,
    begun: Instant,
    shown: Option<ProgressBar>,
    said: Instant,
    done: u64,
    counts: Counts,
    committed: u64,
    /// Milliseconds after healing.
    served_after: Vec<u64>,
    agreed_after: Vec<u64>,
}

impl Course {
    /// A course of so many seeds, from the first on.
    pub(crate) fn begin(first: u64, seeds: u64, progress: bool) -> Course {
        let style = "{bar:30} {pos} of {len} schedules  {elapsed_precise}, {eta_precise} left  {msg}";
        let style = ProgressStyle::with_template(style).expect("the template is one").progress_chars("=> ");
        let shown = progress.then(|| {
            let bar = ProgressBar::with_draw_target(Some(seeds), ProgressDrawTarget::stderr_with_hz(DRAWN_PER_SECOND));
            bar.set_style(style);
            bar
        });
        Course {
            first,
            seeds,
            begun: Instant::now(),
            shown,
            said: Instant::now(),
            done: 0,
            counts: Counts::default(),
            committed: 0,
            served_after: Vec::new(),
            agreed_after: Vec::new(),
        }
    }

    /// A seed has ended and violated nothing.
    pub(crate) fn add(&mut self, report: &Report) {
        self.counts.add(&report.counts);
        self.done += 1;
        self.committed += report.committed;
        self.served_after.push(report.served_after / 1000);
        self.agreed_after.push(report.agreed_after / 1000);
        let seconds = self.begun.elapsed().as_secs_f64();
        let speed = format!("{:.0} schedules/s, {:.0} core events/s", self.done as f64 / seconds, self.counts.events as f64 / seconds);
        let Some(bar) = &self.shown else { return };
        bar.set_message(speed.clone());
        bar.inc(1);
        if bar.is_hidden() && self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            let left = seconds / self.done as f64 * (self.seeds - self.done) as f64;
            eprintln!("{} of {} schedules after {seconds:.0} s, {left:.0} s left, {speed}", self.done, self.seeds);
        }
    }

    /// Prints a text without tearing the bar.
    pub(crate) fn say(&self, text: &str) {
        match &self.shown {
            Some(bar) if !bar.is_hidden() => bar.suspend(|| eprintln!("{text}")),
            _ => eprintln!("{text}"),
        }
    }

    /// What never happened, of all that clusters do for their files.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        self.counts.upkeep().into_iter().filter(|(_, count)| *count == 0).map(|(what, _)| what).collect()
    }

    /// Says what there was in all, and the verdict as the last line.
    pub(crate) fn end(mut self, violations: usize) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut sums: Vec<(&str, u64)> = self.counts.numbers().into_iter().map(|(what, number)| (what, *number)).collect();
        sums.push(("entries committed", self.committed));
        eprintln!("\nwhat happened\n{}", table(&sums));
        let mut faults: Vec<(&str, u64)> = self.counts.faults.iter().map(|(kind, count)| (*kind, *count)).collect();
        faults.push(("in all", faults.iter().map(|(_, count)| count).sum()));
        eprintln!("faults\n{}", table(&faults));
        for (what, times) in [("served", &mut self.served_after), ("agreed", &mut self.agreed_after)] {
            times.sort_unstable();
            let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied().unwrap_or(0);
            eprintln!("{what} after healing, ms: median {}, 99 % {}, worst {}", at(50), at(99), at(100));
        }
        let (ended, rate) = (self.done + violations as u64, self.counts.events as f64 / seconds);
        let last = self.first + self.seeds.saturating_sub(1);
        eprintln!("{violations} violations in {ended} schedules (seeds {} to {last}, {seconds:.0} s, {rate:.0} events/s)", self.first);
    }
}

/// Names and numbers, side by side, column by column.
fn table(cells: &[(&str, u64)]) -> String {
    let rows = cells.len().div_ceil(COLUMNS);
    let mut text = String::new();
    for row in 0..rows {
        for (name, number) in cells.iter().skip(row).step_by(rows) {
            text += &format!("  {name:<28}{number:>11}");
        }
        text.push('\n');
    }
    text
}

#[test]
fn a_table_is_read_column_by_column() {
    let text = table(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [vec!["a", "1", "c", "3"], vec!["b", "2", "d", "4"]]);
}
