//! The report at the end: what was written, what broke, and the verdict. Words only, at most 80 columns unless a violation needs more;
//! the pictures are drawn elsewhere.

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

    /// Whether everything is proved and well.
    pub(crate) fn is_good(self) -> bool {
        self.exit_code() == EXIT_OK
    }

    /// Whether something is proved to be wrong.
    pub(crate) fn is_violation(self) -> bool {
        self.exit_code() == EXIT_VIOLATION
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

/// A line of the report with what belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What it is about; nine characters at most.
    pub(crate) label: &'static str,
    /// The text, and lines below it.
    pub(crate) lines: Vec<String>,
    /// Whether it says that something is wrong.
    pub(crate) is_bad: bool,
}

/// What is said at the end.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    /// The verdict in words.
    pub(crate) headline: String,
    /// What proves the verdict, or stands in its way.
    pub(crate) details: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// Judges a run, and puts into words what it has shown.
pub(crate) fn compose(settings: &Settings, evidence: &Evidence, read_back: &ReadBack) -> Report {
    let mixed = linearizability::check(&evidence.history);
    let verdict = Verdict::of(evidence, read_back, &mixed);
    let mut rows = numbers(evidence);
    rows.push(outages(evidence));
    let late: u64 = evidence.findings.histories.iter().map(|(_, history)| history.late()).sum();
    let late = if late > 0 { format!("; {late} unknown writes took effect late") } else { String::new() };
    rows.push(Row::new("Read back", format!("{} keys in {}{late}", grouped(read_back.read), short_time(read_back.took))));
    rows.extend(mixed_row(settings, &evidence.history, &mixed));
    let headline = match verdict {
        Verdict::Kept => "lost = 0: every acknowledged write is there".to_owned(),
        Verdict::Violated { keys } => format!("VIOLATED: lost = {keys} (keys that contradict their history)"),
        Verdict::Unproved { unread } => format!("UNPROVED: {} keys could not be read", grouped(unread)),
        Verdict::NotLinearizable => "VIOLATED: the answers on a shared key contradict each other".to_owned(),
        Verdict::Undecided => "UNPROVED: a shared key's history is too tangled to judge".to_owned(),
        Verdict::NothingWritten => "UNPROVED: no write was acknowledged".to_owned(),
    };
    let violations = evidence.findings.violations.iter().take(LISTED_MAX);
    let mut details: Vec<String> = violations.map(|(key, violation)| format!("{}: {violation}", settings.key(*key))).collect();
    let reason = read_back.last_failure.as_ref().filter(|_| read_back.unread > 0);
    let refusal = evidence.findings.last_refusal.as_ref().filter(|_| verdict == Verdict::NothingWritten);
    details.extend(reason.or(refusal).map(|reason| format!("last failure: {reason}")));
    Report { verdict, headline, details, rows }
}

/// Shows the report.
pub(crate) fn print(screen: &Screen, report: &Report) {
    print_rows(screen, &report.rows);
    let colour = if report.verdict.is_good() {
        Colour::Green
    } else if report.verdict.is_violation() {
        Colour::Red
    } else {
        Colour::Yellow
    };
    screen.line(screen.paint(colour, format_args!("VERDICT   {}", report.headline)));
    report.details.iter().for_each(|line| screen.line(format_args!("          {line}")));
}

/// Shows some rows.
pub(crate) fn print_rows(screen: &Screen, rows: &[Row]) {
    for row in rows {
        for (number, line) in row.lines.iter().enumerate() {
            let text = format!("{:<10}{line}", if number == 0 { row.label } else { "" });
            screen.line(if row.is_bad { screen.paint(Colour::Red, text) } else { text });
        }
    }
}

impl Row {
    /// A row of one line about something that is as it should be.
    pub(crate) fn new(label: &'static str, text: String) -> Row {
        Row { label, lines: vec![text], is_bad: false }
    }
}

/// What the mixed clients have shown; times of operations in microseconds.
fn mixed_row(settings: &Settings, history: &linearizability::History, verdict: &linearizability::Verdict) -> Option<Row> {
    if settings.mixed == 0 {
        return None;
    }
    let operations = history.operations();
    let unknown = operations.iter().filter(|operation| operation.returned.is_none()).count();
    let (count, keys) = (grouped(operations.len() as u64), mixed::keys(history).len());
    let text = match verdict {
        linearizability::Verdict::Linearizable => "linearizable".to_owned(),
        linearizability::Verdict::Violation { .. } => "NOT LINEARIZABLE".to_owned(),
        linearizability::Verdict::Undecided { steps, .. } => format!("undecided after {} steps", grouped(*steps)),
    };
    let text = format!("{count} operations by {} clients on {keys} keys, {unknown} unknown: {text}", settings.mixed);
    let mut row = Row::new("Mixed", text);
    if let linearizability::Verdict::Violation { key, piece } = verdict {
        row.is_bad = true;
        row.lines.push(format!("key {}; these cannot all be true (times in microseconds):", key.escape_ascii()));
        row.lines.extend(piece.iter().map(ToString::to_string));
    }
    Some(row)
}

fn numbers(evidence: &Evidence) -> Vec<Row> {
    let findings = &evidence.findings;
    let acknowledged = findings.latencies.len();
    let (unknown, refused) = (grouped(findings.unknown), grouped(findings.refused));
    let writes = format!("{} acknowledged, {unknown} unknown, {refused} refused and repeated", grouped(acknowledged));
    let mut rows = vec![Row::new("Writes", writes)];
    if acknowledged > 0 {
        let quantile = |quantile| short_time(Duration::from_micros(findings.latencies.value_at_quantile(quantile)));
        rows.push(Row::new("Latency", format!("p50 {}, p99 {}, max {}", quantile(0.5), quantile(0.99), quantile(1.0))));
    }
    rows
}

fn outages(evidence: &Evidence) -> Row {
    let longest = evidence.outages.iter().map(|outage| outage.length()).max();
    let longest = longest.map_or_else(|| "none".to_owned(), short_time);
    let mut row = Row::new("Failovers", format!("{}, outages {}, longest {longest}", evidence.failovers, evidence.outages.len()));
    for outage in evidence.outages.iter().take(LISTED_MAX) {
        let at = outage.since.saturating_duration_since(evidence.started).as_secs_f64();
        let (old, new) = (short_endpoint(&outage.old_leader), short_endpoint(&outage.new_leader));
        row.lines.push(format!("at {at:.1} s for {}: {old} -> {new}", short_time(outage.length())));
    }
    if evidence.outages.len() > LISTED_MAX {
        row.lines.push(format!("and {} more", evidence.outages.len() - LISTED_MAX));
    }
    row.lines.extend(evidence.down_for.map(|down| format!("and still down, for {}", short_time(down))));
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::history::Violation;
    use crate::load::session::Findings;
    use crate::load::throughput::Throughput;
    use std::time::Instant;

    fn verdict(writes: u64, unread: u64, wrong_keys: &[u64]) -> Verdict {
        let mut findings = Findings::new();
        (0..writes).for_each(|_| findings.record_latency(Duration::from_millis(1)));
        let violation = Violation::VersionNotGrown { acknowledged: 1, certain: 2 };
        findings.violations = wrong_keys.iter().map(|key| (*key, violation.clone())).collect();
        let history = linearizability::History::default();
        let now = Instant::now();
        let evidence = Evidence {
            findings,
            history,
            outages: Vec::new(),
            failovers: 0,
            leaders: Vec::new(),
            throughput: Throughput::default(),
            down_for: None,
            started: now,
            ended: now,
        };
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
