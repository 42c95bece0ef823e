//! What happened when, put into one: throughput, who led, what was broken, when nothing went through; and from that the availability.
//! Pure: made from what a finished run has recorded. [`terminal`] draws it with characters, [`page`] with lines on a page of its own.

pub(crate) mod page;
pub(crate) mod plot;
pub(crate) mod terminal;

use crate::faults::schedule::Kind;
use crate::load::session::Evidence;
use crate::load::throughput::SLICE;
use std::time::{Duration, Instant};

/// From when to when, from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Span {
    fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    fn overlaps(&self, other: &Span) -> bool {
        self.from < other.to && other.from < self.to
    }
}

/// A fault as it was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
    /// The nodes that it was aimed at, by position.
    pub(crate) victims: Vec<usize>,
    /// What was done, in words.
    pub(crate) what: String,
}

/// A run from its start to its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Timeline {
    pub(crate) length: Duration,
    /// Client addresses; a node's position is its place here.
    pub(crate) nodes: Vec<String>,
    /// Answers in each slice.
    pub(crate) slices: Vec<u32>,
    /// Who acknowledged, from when to when, by position. Gaps are outages and the time before the first.
    pub(crate) leaders: Vec<(Span, usize)>,
    pub(crate) faults: Vec<Strike>,
    pub(crate) outages: Vec<Span>,
}

/// Shares of the time in which writes went through, from 0 to 1; `None` where there was no such time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Availability {
    /// While nothing was broken.
    pub(crate) between: Option<f64>,
    /// While something was.
    pub(crate) during: Option<f64>,
}

impl Timeline {
    /// Puts a run into one; `nodes` are the client addresses by position.
    pub(crate) fn of(evidence: &Evidence, nodes: &[String], faults: Vec<Strike>) -> Timeline {
        let at = |instant: Instant| instant.saturating_duration_since(evidence.started);
        let length = at(evidence.ended).max(SLICE);
        let mut outages: Vec<Span> =
            evidence.outages.iter().map(|outage| Span { from: at(outage.since), to: at(outage.until).min(length) }).collect();
        // How long it was down by the time of the end.
        outages.extend(evidence.down_for.map(|time| Span { from: length.saturating_sub(time), to: length }));
        outages.retain(|outage| outage.from < outage.to);
        // A node that the cluster named and the user did not is numbered behind the others.
        let mut nodes = nodes.to_vec();
        let mut leaders = Vec::new();
        for (number, (since, endpoint)) in evidence.leaders.iter().enumerate() {
            let node = nodes.iter().position(|node| node == endpoint).unwrap_or_else(|| {
                nodes.push(endpoint.clone());
                nodes.len() - 1
            });
            let end = evidence.leaders.get(number + 1).map_or(length, |(next, _)| at(*next));
            leaders.extend(without(Span { from: at(*since), to: end.min(length) }, &outages).map(|span| (span, node)));
        }
        let slices = evidence.throughput.slices().to_vec();
        Timeline { length, nodes, slices, leaders, faults, outages }
    }

    /// Answers a second in each of `columns` equal parts of the run.
    pub(crate) fn rates(&self, columns: usize) -> Vec<f64> {
        let (slice, column) = (SLICE.as_secs_f64(), self.length.as_secs_f64() / columns as f64);
        let mut sums = vec![0.0; columns];
        for (number, count) in self.slices.iter().enumerate() {
            let (from, to) = (number as f64 * slice, (number + 1) as f64 * slice);
            let first = (from / column) as usize;
            // A slice that lies in several columns is shared out among them.
            for (position, sum) in sums.iter_mut().enumerate().skip(first).take_while(|(position, _)| (*position as f64) * column < to) {
                let overlap = to.min((position + 1) as f64 * column) - from.max(position as f64 * column);
                *sum += f64::from(*count) * (overlap / slice).max(0.0);
            }
        }
        sums.into_iter().map(|sum| sum / column).collect()
    }

    /// How much of the time writes went through.
    pub(crate) fn availability(&self) -> Availability {
        let whole = Span { from: Duration::ZERO, to: self.length };
        let faults: Vec<Span> = self.faults.iter().map(|fault| fault.span).collect();
        let quiet: Vec<Span> = without(whole, &faults).collect();
        let share = |spans: &[Span]| {
            let time: Duration = spans.iter().map(Span::length).sum();
            let up: Duration = spans.iter().flat_map(|span| without(*span, &self.outages)).map(|span| span.length()).sum();
            (!time.is_zero()).then(|| up.as_secs_f64() / time.as_secs_f64())
        };
        let broken: Vec<Span> = without(whole, &quiet).collect();
        Availability { between: share(&quiet), during: share(&broken) }
    }

    /// The kinds of faults that were made, each once.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| self.faults.iter().any(|fault| fault.kind == *kind)).collect()
    }
}

/// What is left of a span when others are taken out of it.
fn without(span: Span, others: &[Span]) -> impl Iterator<Item = Span> + use<> {
    let mut others: Vec<Span> = others.iter().filter(|other| other.overlaps(&span)).copied().collect();
    others.sort_by_key(|other| other.from);
    let mut left = Vec::new();
    let mut from = span.from;
    for other in others {
        left.push(Span { from, to: other.from });
        from = from.max(other.to);
    }
    left.push(Span { from, to: span.to });
    left.into_iter().filter(|span| span.from < span.to)
}

/// A share as a percentage. What is not quite all is not shown as all.
pub(crate) fn percent(share: f64) -> String {
    let hundredths = (share * 10_000.0).floor() / 100.0;
    if hundredths == hundredths.trunc() { format!("{hundredths:.0} %") } else { format!("{hundredths:.2} %") }
}

/// The availability in words.
pub(crate) fn availability_text(availability: Availability) -> String {
    match (availability.between.map(percent), availability.during.map(percent)) {
        (Some(between), None) => format!("{between} of the time"),
        (Some(between), Some(during)) => format!("{between} of the time between faults, {during} during them"),
        (None, Some(during)) => format!("{during} of the time, all of it during faults"),
        (None, None) => "unknown".to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn seconds(from: f64, to: f64) -> Span {
        Span { from: Duration::from_secs_f64(from), to: Duration::from_secs_f64(to) }
    }

    /// Ten seconds; 100 answers a second, none in the outage from 2 to 3, in which the leader 0 is killed and 1 takes over; from 6 to 8
    /// everyone's links are slow.
    pub(crate) fn example() -> Timeline {
        let slices = (0..100).map(|slice| if (20..30).contains(&slice) { 0 } else { 10 }).collect();
        let kill = Strike { span: seconds(2.0, 4.0), kind: Kind::Kill, victims: vec![0], what: "kill -9 :9001 (leader)".to_owned() };
        let slow =
            Strike { span: seconds(6.0, 8.0), kind: Kind::Slow, victims: vec![0, 1, 2], what: "slow <everything> & \"all\"".to_owned() };
        Timeline {
            length: Duration::from_secs(10),
            nodes: ["localhost:9001", "localhost:9002", "localhost:9003"].map(str::to_owned).to_vec(),
            slices,
            leaders: vec![(seconds(0.0, 2.0), 0), (seconds(3.0, 10.0), 1)],
            faults: vec![kill, slow],
            outages: vec![seconds(2.0, 3.0)],
        }
    }

    #[test]
    fn rates_are_answers_a_second_whatever_the_columns() {
        let timeline = example();
        assert_eq!(
            timeline.rates(10).iter().map(|rate| rate.round() as u64).collect::<Vec<_>>(),
            [100, 100, 0, 100, 100, 100, 100, 100, 100, 100]
        );
        for columns in [1, 3, 7, 10, 64, 250, 999] {
            let answers: f64 = timeline.rates(columns).iter().sum::<f64>() * 10.0 / columns as f64;
            assert!((answers - 900.0).abs() < 1e-6, "{columns} columns: {answers} answers");
        }
    }

    #[test]
    fn availability_counts_the_time_between_faults_and_during_them() {
        let mut timeline = example();
        assert_eq!(timeline.availability(), Availability { between: Some(1.0), during: Some(0.75) });
        timeline.outages.push(seconds(3.5, 4.6));
        assert_eq!(availability_text(timeline.availability()), "90 % of the time between faults, 62.50 % during them");
        timeline.faults.clear();
        assert_eq!(availability_text(timeline.availability()), "79 % of the time");
    }

    #[test]
    fn overlapping_faults_are_counted_once() {
        let mut timeline = example();
        timeline.faults[1].span = seconds(3.0, 5.0);
        assert_eq!(timeline.availability(), Availability { between: Some(1.0), during: Some(2.0 / 3.0) });
    }

    #[test]
    fn what_is_not_quite_all_is_not_shown_as_all() {
        assert_eq!([1.0, 0.99999, 0.5, 0.0].map(percent), ["100 %", "99.99 %", "50 %", "0 %"]);
    }

    #[test]
    fn spans_are_taken_out_of_spans() {
        let left = |others: &[Span]| without(seconds(1.0, 5.0), others).collect::<Vec<_>>();
        assert_eq!(left(&[]), [seconds(1.0, 5.0)]);
        assert_eq!(left(&[seconds(0.0, 9.0)]), []);
        assert_eq!(left(&[seconds(4.0, 6.0), seconds(0.0, 2.0), seconds(1.5, 3.0), seconds(7.0, 8.0)]), [seconds(3.0, 4.0)]);
    }
}
