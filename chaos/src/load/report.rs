//! The report at the end: what was written, what broke, and the verdict. Text only, at most 80 columns unless a violation needs more.

use super::mixed;
use super::session::{Evidence, Settings};
use super::verify::ReadBack;
use crate::error::{EXIT_OK, EXIT_UNREACHABLE, EXIT_VIOLATION};
use crate::screen::{Colour, Screen, grouped, short_endpoint, short_time};
use apexkv_chaos::linearizability;
use std::collections::BTreeSet;
use std::time::Duration;

/// Outages and violations that are listed one by one.
const LISTED_MAX: usize = 25;

/// What the run has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every key agrees with its history.
    Kept,
    /// So many keys do not.
    Violated { keys: usize },
    /// The answers to the mixed clients contradict each other.
    NotLinearizable,
    /// So many keys could not be read; the others agree.
    Unproved { unread: u64 },
    /// Whether the answers to the mixed clients contradict each other could not be decided.
    Undecided,
    /// No write was ever acknowledged.
    NothingWritten,
}

impl Verdict {
    /// Judges a run whose keys have been read back.
    pub(crate) fn of(evidence: &Evidence, read_back: &ReadBack, mixed: &linearizability::Verdict) -> Verdict {
        let wrong: BTreeSet<u64> = evidence.findings.violations.iter().map(|(key, _)| *key).collect();
        match (wrong.len(), read_back.unread) {
            (0, _) if matches!(mixed, linearizability::Verdict::Violation { .. }) => Verdict::NotLinearizable,
            (0, 0) if matches!(mixed, linearizability::Verdict::Undecided { .. }) => Verdict::Undecided,
            (0, 0) if evidence.findings.latencies.is_empty() => Verdict::NothingWritten,
            (0, 0) => Verdict::Kept,
            (0, unread) => Verdict::Unproved { unread },
            (keys, _) => Verdict::Violated { keys },
        }
    }

    /// The number that the process ends with.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Verdict::Kept => EXIT_OK,
            Verdict::Violated { .. } | Verdict::NotLinearizable => EXIT_VIOLATION,
            Verdict::Unproved { .. } | Verdict::Undecided | Verdict::NothingWritten => EXIT_UNREACHABLE,
        }
    }
}

/// Prints the report and returns the verdict.
pub(crate) fn print(screen: &Screen, settings: &Settings, evidence: &Evidence, read_back: &ReadBack) -> Verdict {
    let mixed = linearizability::check(&evidence.history);
    let verdict = Verdict::of(evidence, read_back, &mixed);
    print_numbers(screen, evidence);
    print_outages(screen, evidence);
    let late: u64 = evidence.findings.histories.iter().map(|(_, history)| history.late()).sum();
    let late = if late > 0 { format!("; {late} unknown writes took effect late") } else { String::new() };
    screen.line(format_args!("Read back {} keys in {}{late}", grouped(read_back.read), short_time(read_back.took)));
    print_mixed(screen, settings, &evidence.history, &mixed);
    let (colour, text) = match verdict {
        Verdict::Kept => (Colour::Green, "VERDICT   lost = 0: every acknowledged write is there".to_owned()),
        Verdict::Violated { keys } => (Colour::Red, format!("VERDICT   VIOLATED: lost = {keys} (keys that contradict their history)")),
        Verdict::Unproved { unread } => (Colour::Yellow, format!("VERDICT   UNPROVED: {} keys could not be read", grouped(unread))),
        Verdict::NotLinearizable => (Colour::Red, "VERDICT   VIOLATED: the answers on a shared key contradict each other".to_owned()),
        Verdict::Undecided => (Colour::Yellow, "VERDICT   UNPROVED: a shared key's history is too tangled to judge".to_owned()),
        Verdict::NothingWritten => (Colour::Yellow, "VERDICT   UNPROVED: no write was acknowledged".to_owned()),
    };
    screen.line(screen.paint(colour, text));
    for (key, violation) in evidence.findings.violations.iter().take(LISTED_MAX) {
        screen.line(format_args!("          {}: {violation}", settings.key(*key)));
    }
    let reason = read_back.last_failure.as_ref().filter(|_| read_back.unread > 0);
    if let Some(reason) = reason.or(evidence.findings.last_refusal.as_ref().filter(|_| verdict == Verdict::NothingWritten)) {
        screen.line(format_args!("          last failure: {reason}"));
    }
    verdict
}

/// What the mixed clients have shown; times of operations in microseconds.
fn print_mixed(screen: &Screen, settings: &Settings, history: &linearizability::History, verdict: &linearizability::Verdict) {
    if settings.mixed == 0 {
        return;
    }
    let operations = history.operations();
    let unknown = operations.iter().filter(|operation| operation.returned.is_none()).count();
    let (count, keys) = (grouped(operations.len() as u64), mixed::keys(history).len());
    let text = match verdict {
        linearizability::Verdict::Linearizable => "linearizable".to_owned(),
        linearizability::Verdict::Violation { .. } => screen.paint(Colour::Red, "NOT LINEARIZABLE"),
        linearizability::Verdict::Undecided { steps, .. } => format!("undecided after {} steps", grouped(*steps)),
    };
    screen.line(format_args!("Mixed     {count} operations by {} clients on {keys} keys, {unknown} unknown: {text}", settings.mixed));
    if let linearizability::Verdict::Violation { key, piece } = verdict {
        screen.line(format_args!("          key {}; these cannot all be true (times in microseconds):", key.escape_ascii()));
        piece.iter().for_each(|operation| screen.line(format_args!("          {operation}")));
    }
}

fn print_numbers(screen: &Screen, evidence: &Evidence) {
    let findings = &evidence.findings;
    let acknowledged = findings.latencies.len();
    screen.line(format_args!(
        "Writes    {} acknowledged, {} unknown, {} refused and repeated",
        grouped(acknowledged),
        grouped(findings.unknown),
        grouped(findings.refused)
    ));
    if acknowledged > 0 {
        let quantile = |quantile| short_time(Duration::from_micros(findings.latencies.value_at_quantile(quantile)));
        screen.line(format_args!("Latency   p50 {}, p99 {}, max {}", quantile(0.5), quantile(0.99), quantile(1.0)));
    }
}

fn print_outages(screen: &Screen, evidence: &Evidence) {
    let longest = evidence.outages.iter().map(|outage| outage.length()).max();
    let longest = longest.map_or_else(|| "none".to_owned(), short_time);
    screen.line(format_args!("Failovers {}, outages {}, longest {longest}", evidence.failovers, evidence.outages.len()));
    for outage in evidence.outages.iter().take(LISTED_MAX) {
        let at = outage.since.saturating_duration_since(evidence.started).as_secs_f64();
        let (old, new) = (short_endpoint(&outage.old_leader), short_endpoint(&outage.new_leader));
        screen.line(format_args!("          at {at:.1} s for {}: {old} -> {new}", short_time(outage.length())));
    }
    if evidence.outages.len() > LISTED_MAX {
        screen.line(format_args!("          and {} more", evidence.outages.len() - LISTED_MAX));
    }
    if let Some(down) = evidence.down_for {
        screen.line(format_args!("          and still down, for {}", short_time(down)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::history::Violation;
    use crate::load::session::Findings;
    use std::time::Instant;

    fn verdict(writes: u64, unread: u64, wrong_keys: &[u64]) -> Verdict {
        let mut findings = Findings::new();
        (0..writes).for_each(|_| findings.record_latency(Duration::from_millis(1)));
        let violation = Violation::VersionNotGrown { acknowledged: 1, certain: 2 };
        findings.violations = wrong_keys.iter().map(|key| (*key, violation.clone())).collect();
        let history = linearizability::History::default();
        let evidence = Evidence { findings, history, outages: Vec::new(), failovers: 0, down_for: None, started: Instant::now() };
        let read_back = ReadBack { read: 1, unread, took: Duration::ZERO, last_failure: None };
        Verdict::of(&evidence, &read_back, &linearizability::Verdict::Linearizable)
    }

    #[test]
    fn the_verdict_is_good_only_if_everything_was_read_and_nothing_is_wrong() {
        assert_eq!(verdict(5, 0, &[]).exit_code(), 0);
        assert_eq!(verdict(5, 0, &[3, 3, 4]), Verdict::Violated { keys: 2 });
        assert_eq!(verdict(5, 7, &[3]).exit_code(), 1, "what is known to be wrong weighs more than what is not known");
        assert_eq!(verdict(5, 7, &[]), Verdict::Unproved { unread: 7 });
        assert_eq!(verdict(5, 7, &[]).exit_code(), 4);
        assert_eq!(verdict(0, 0, &[]), Verdict::NothingWritten);
        assert_eq!(verdict(0, 0, &[]).exit_code(), 4, "an empty run proves nothing");
    }
}
