//! The timeline with characters, on 80 columns. Knows no terminal: it returns lines, and which of them deserve a colour.

use super::{Span, Timeline};
use crate::screen::{Colour, grouped, short_endpoint};
use std::time::Duration;

/// Columns of the names of lines.
const LABEL: usize = 10;
/// Columns of the time.
const COLUMNS: usize = 68;
/// Columns of a line at most.
const WIDTH: usize = LABEL + COLUMNS;
/// Lines of the bars.
const BAR_LINES: usize = 3;
/// Parts of a column of a bar, from none to all of a line.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const NOTHING: char = '·';
/// Marks of nodes by position.
const MARKS: &[u8] = b"123456789abcdefghijklmnopqrstuvwxyz";

/// A line, and the colour it deserves.
pub(crate) type Line = (Option<Colour>, String);

/// Draws a timeline.
pub(crate) fn draw(timeline: &Timeline) -> Vec<Line> {
    let mut lines = vec![(None, axis(timeline.length))];
    lines.extend(bars(&timeline.rates(COLUMNS)).into_iter().map(|line| (None, line)));
    lines.push((Some(Colour::Cyan), line("leader", timeline, |column| leader_in(timeline, column))));
    for kind in timeline.kinds() {
        let mark = |column: Span| {
            let fault = timeline.faults.iter().find(|fault| fault.kind == kind && fault.span.overlaps(&column))?;
            Some(if let [node] = fault.victims[..] { mark_of(node) } else { '*' })
        };
        lines.push((Some(Colour::Yellow), line(kind.name(), timeline, mark)));
    }
    let down = |column: Span| timeline.outages.iter().any(|outage| outage.overlaps(&column)).then_some('!');
    let colour = (!timeline.outages.is_empty()).then_some(Colour::Red);
    lines.push((colour, line("outages", timeline, down)));
    lines.extend(legend(timeline).into_iter().map(|line| (None, line)));
    lines
}

/// One line: a character for every column, chosen by the time that the column stands for.
fn line(label: &str, timeline: &Timeline, character: impl Fn(Span) -> Option<char>) -> String {
    let part = timeline.length / COLUMNS as u32;
    let column = |number: u32| Span { from: part * number, to: part * (number + 1) };
    let text: String = (0..COLUMNS as u32).map(|number| character(column(number)).unwrap_or(NOTHING)).collect();
    format!("{label:<LABEL$}{text}")
}

/// Who led for the most part of a column.
fn leader_in(timeline: &Timeline, column: Span) -> Option<char> {
    let common = |span: &Span| span.to.min(column.to).saturating_sub(span.from.max(column.from));
    let inside = timeline.leaders.iter().filter(|(span, _)| span.overlaps(&column));
    inside.max_by_key(|(span, _)| common(span)).map(|(_, node)| mark_of(*node))
}

fn mark_of(node: usize) -> char {
    MARKS.get(node).map_or('?', |mark| char::from(*mark))
}

/// Times above the columns.
fn axis(length: Duration) -> String {
    let mut text = format!("{:<LABEL$}", "Timeline");
    for (at, label) in ticks(length, 7) {
        let column = LABEL + (at.as_secs_f64() / length.as_secs_f64() * COLUMNS as f64).round() as usize;
        // The end of the run has its mark to the left of where it is.
        let column = column.min(WIDTH - label.len());
        if column >= text.len() {
            text = format!("{text:<column$}{label}");
        }
    }
    text
}

/// Bars of several lines, with the scale in front of them.
fn bars(rates: &[f64]) -> Vec<String> {
    let top = rates.iter().copied().fold(0.0, f64::max);
    // Little is shown as little, and only nothing as nothing; sums of fractions miss by a hair.
    let scale = |rate: f64| if top > 0.0 { (rate / top * (BAR_LINES * 8) as f64 - 1e-6).ceil() as usize } else { 0 };
    let labels = [grouped(top.round() as u64), "answers".to_owned(), "a second".to_owned()];
    let line = |number: usize| {
        let below = (BAR_LINES - 1 - number) * 8;
        let text: String = rates.iter().map(|rate| EIGHTHS[scale(*rate).saturating_sub(below).min(8)]).collect();
        format!("{:<LABEL$}{}", labels[number], text).trim_end().to_owned()
    };
    (0..BAR_LINES).map(line).collect()
}

/// What the marks stand for.
fn legend(timeline: &Timeline) -> Vec<String> {
    let mut entries: Vec<String> =
        timeline.nodes.iter().enumerate().map(|(node, endpoint)| format!("{} {}", mark_of(node), short_endpoint(endpoint))).collect();
    if timeline.faults.iter().any(|fault| fault.victims.len() != 1) {
        entries.push("* several".to_owned());
    }
    let mut lines = Vec::new();
    let mut text = format!("{:<LABEL$}", "nodes");
    for entry in entries {
        if text.len() > LABEL && text.len() + 3 + entry.chars().count() > WIDTH {
            lines.push(std::mem::replace(&mut text, " ".repeat(LABEL)));
        }
        text += if text.len() > LABEL { "   " } else { "" };
        text += &entry;
    }
    lines.push(text);
    lines
}

/// Times worth a mark, at most so many behind the first, at round distances, with their texts.
pub(super) fn ticks(length: Duration, count: u32) -> Vec<(Duration, String)> {
    let rounds = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 86_400, 604_800];
    let step = rounds.into_iter().find(|step| length.as_secs() / step <= u64::from(count)).unwrap_or(length.as_secs().max(1));
    let label = |seconds: u64| match step {
        ..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    };
    (0..=length.as_secs() / step).map(|number| (Duration::from_secs(number * step), label(number * step))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{example, seconds};
    use super::*;

    fn drawn(timeline: &Timeline) -> Vec<String> {
        draw(timeline).into_iter().map(|(_, line)| line).collect()
    }

    #[test]
    fn an_example_looks_like_this() {
        let expected = "\
Timeline  0 s           2 s          4 s           6 s          8 s       10 s
100       █████████████        ███████████████████████████████████████████████
answers   █████████████▇      ▇███████████████████████████████████████████████
a second  ██████████████      ████████████████████████████████████████████████
leader    11111111111111······222222222222222222222222222222222222222222222222
kill      ·············111111111111111········································
slow      ········································***************·············
outages   ·············!!!!!!!!···············································
nodes     1 :9001   2 :9002   3 :9003   * several";
        assert_eq!(drawn(&example()).join("\n"), expected);
    }

    #[test]
    fn it_fits_on_80_columns_whatever_the_run() {
        for (length, nodes) in [(1, 1), (7, 3), (30, 9), (3_600, 40), (1_000_000, 3)] {
            let mut timeline = example();
            timeline.length = Duration::from_secs(length);
            timeline.nodes = (0..nodes).map(|node| format!("node-{node}.example.org:9001")).collect();
            timeline.slices = vec![100_000; 10];
            timeline.leaders = (0..nodes).map(|node| (seconds(node as f64, node as f64 + 1.0), node)).collect();
            for line in drawn(&timeline) {
                assert!(line.chars().count() <= 80, "{length} s, {nodes} nodes: {} columns: {line}", line.chars().count());
                assert!(!line.contains('\x1b'), "colours are the screen's: {line}");
            }
        }
    }

    #[test]
    fn an_empty_run_is_drawn_empty() {
        let empty = Timeline {
            length: Duration::from_millis(100),
            nodes: vec!["a:1".to_owned()],
            slices: vec![],
            leaders: vec![],
            faults: vec![],
            outages: vec![],
        };
        let lines = drawn(&empty);
        assert_eq!(lines[1], "0");
        assert!(lines[4].ends_with(&NOTHING.to_string().repeat(COLUMNS)), "{}", lines[4]);
    }

    #[test]
    fn a_short_event_is_not_lost_between_two_columns() {
        let mut timeline = example();
        timeline.length = Duration::from_secs(100_000);
        timeline.outages = vec![seconds(50_000.0, 50_000.01)];
        let outages = drawn(&timeline).into_iter().find(|line| line.starts_with("outages")).expect("a line of its own");
        assert_eq!(outages.matches('!').count(), 1, "{outages}");
    }

    #[test]
    fn ticks_are_round_and_few() {
        let texts = |seconds| ticks(Duration::from_secs(seconds), 7).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(texts(30), ["0 s", "5 s", "10 s", "15 s", "20 s", "25 s", "30 s"]);
        assert_eq!(texts(300), ["0 min", "1 min", "2 min", "3 min", "4 min", "5 min"]);
        assert_eq!(texts(1), ["0 s", "1 s"]);
        assert!(texts(100_000_000).len() <= 200);
    }
}
