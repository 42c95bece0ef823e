//! The timeline as an inline SVG: bars of throughput, and below them a lane for the leaders, for each kind of fault, and for outages. Its
//! colours are classes, which the page that holds it gives their values. Made twice, for wide and for narrow screens, as text in an SVG
//! shrinks with it.

use super::terminal::ticks;
use super::{Span, Timeline};
use crate::screen::{grouped, short_endpoint, short_time};
use std::fmt::{Display, Write};
use std::time::Duration;

/// Height of the bars.
const BARS: f64 = 150.0;
/// Height of a lane.
const LANE: f64 = 24.0;
/// Room above the bars, and below the lanes for the times.
const ABOVE: f64 = 12.0;
const BELOW: f64 = 26.0;
/// Room for the names of lanes.
const LEFT: f64 = 78.0;
const RIGHT: f64 = 14.0;
/// The least width of a bar.
const BAR_MIN: f64 = 3.0;
/// About the width of a character.
const CHARACTER: f64 = 7.5;
/// Colours of nodes that the page defines; more nodes share them.
pub(super) const NODE_COLOURS: usize = 6;

/// The size of a plot, in units that are pixels where it is shown at its own size.
struct Plot<'a> {
    timeline: &'a Timeline,
    width: f64,
    height: f64,
    svg: String,
}

/// Draws a plot of this width; `class` is its class on the page.
pub(super) fn draw(timeline: &Timeline, width: f64, class: &str) -> String {
    let lanes = 2 + timeline.kinds().len();
    let height = ABOVE + BARS + lanes as f64 * LANE + BELOW;
    let mut plot = Plot { timeline, width, height, svg: String::new() };
    plot.add(format_args!(
        r#"<svg class="{class}" viewBox="0 0 {width} {height}" role="img" aria-label="Answers, leaders, faults and outages over time">"#
    ));
    plot.times();
    plot.background();
    plot.bars();
    plot.lanes();
    plot.add("</svg>");
    plot.svg
}

impl Plot<'_> {
    fn add(&mut self, text: impl Display) {
        writeln!(self.svg, "{text}").expect("writing to a string does not fail");
    }

    /// Where a moment is.
    fn x(&self, at: Duration) -> f64 {
        LEFT + at.as_secs_f64() / self.timeline.length.as_secs_f64() * (self.width - LEFT - RIGHT)
    }

    /// A rectangle over a span of time that tells what it is when pointed at.
    fn block(&mut self, class: &str, span: Span, y: f64, height: f64, title: &str) {
        let x = self.x(span.from);
        // What is over at once is to be seen, too.
        let width = (self.x(span.to) - x).max(1.5);
        let title = escape(title);
        self.add(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"><title>{title}</title></rect>"#
        ));
    }

    /// Faults and outages behind the bars.
    fn background(&mut self) {
        let timeline = self.timeline;
        for fault in &timeline.faults {
            self.block("shade", fault.span, ABOVE, BARS, &fault.what);
        }
        for outage in &timeline.outages {
            self.block("dark", *outage, ABOVE, BARS, &outage_title(*outage));
        }
    }

    fn bars(&mut self) {
        let room = self.width - LEFT - RIGHT;
        let columns = self.timeline.slices.len().clamp(1, (room / BAR_MIN) as usize);
        let rates = self.timeline.rates(columns);
        let top = round_up(rates.iter().copied().fold(1.0, f64::max));
        for part in [0.0, 0.5, 1.0] {
            let (y, label) = (ABOVE + BARS * (1.0 - part), grouped((top * part) as u64));
            let end = self.width - RIGHT;
            self.add(format_args!(r#"<line class="grid" x1="{LEFT}" x2="{end}" y1="{y}" y2="{y}"/>"#));
            self.add(format_args!(r#"<text class="scale" x="{}" y="{}">{label}</text>"#, LEFT - 6.0, y + 4.0));
        }
        for (number, rate) in rates.iter().enumerate() {
            let (width, height) = (room / columns as f64, rate / top * BARS);
            let at = self.timeline.length.mul_f64(number as f64 / columns as f64).as_secs_f64();
            let (x, y) = (LEFT + number as f64 * width, ABOVE + BARS - height);
            let title = format!("{} a second at {at:.1} s", grouped(rate.round() as u64));
            // A little wider than its place, so that no light shines through between two.
            let width = width + 0.3;
            self.add(format_args!(
                r#"<rect class="bar" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"><title>{title}</title></rect>"#
            ));
        }
    }

    fn lanes(&mut self) {
        let timeline = self.timeline;
        let mut y = ABOVE + BARS + 6.0;
        self.name_lane("leader", y);
        for (span, node) in &timeline.leaders {
            let name = short_endpoint(&timeline.nodes[*node]);
            let title = format!("{name} led from {:.1} s for {}", span.from.as_secs_f64(), short_time(span.length()));
            self.block(&format!("node n{}", node % NODE_COLOURS), *span, y, LANE - 6.0, &title);
            let (x, room) = (self.x(span.from), self.x(span.to) - self.x(span.from));
            if room > CHARACTER * (name.chars().count() as f64 + 1.0) {
                self.add(format_args!(
                    r#"<text class="name" x="{:.1}" y="{:.1}">{}</text>"#,
                    x + room / 2.0,
                    y + LANE / 2.0 + 1.0,
                    escape(name)
                ));
            }
        }
        for kind in timeline.kinds() {
            y += LANE;
            self.name_lane(kind.name(), y);
            for fault in timeline.faults.iter().filter(|fault| fault.kind == kind) {
                let from = fault.span.from.as_secs_f64();
                let title = format!("{} at {from:.1} s for {}", fault.what, short_time(fault.span.length()));
                self.block("fault", fault.span, y, LANE - 6.0, &title);
            }
        }
        y += LANE;
        self.name_lane("outages", y);
        for outage in &timeline.outages {
            self.block("outage", *outage, y, LANE - 6.0, &outage_title(*outage));
        }
    }

    fn name_lane(&mut self, name: &str, y: f64) {
        let end = self.width - RIGHT - LEFT;
        self.add(format_args!(r#"<rect class="lane" x="{LEFT}" y="{y}" width="{end}" height="{}"/>"#, LANE - 6.0));
        self.add(format_args!(r#"<text class="scale" x="{}" y="{}">{name}</text>"#, LEFT - 6.0, y + LANE / 2.0 + 1.0));
    }

    fn times(&mut self) {
        let count = if self.width < 600.0 { 4 } else { 10 };
        for (at, label) in ticks(self.timeline.length, count) {
            let (x, bottom) = (self.x(at), self.height - BELOW + 6.0);
            self.add(format_args!(r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{ABOVE}" y2="{bottom}"/>"#));
            self.add(format_args!(r#"<text class="time" x="{x:.1}" y="{}">{label}</text>"#, bottom + 14.0));
        }
    }
}

fn outage_title(outage: Span) -> String {
    format!("nothing acknowledged from {:.2} s for {}", outage.from.as_secs_f64(), short_time(outage.length()))
}

/// The next number above that is round and whose half is, too.
fn round_up(number: f64) -> f64 {
    let power = 10f64.powf(number.log10().floor());
    let round = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].into_iter().map(|digit| digit * power);
    // Sums of fractions miss a round number by a hair.
    round.into_iter().find(|round| *round >= number * (1.0 - 1e-9)).unwrap_or(number).max(2.0)
}

/// Text as it has to stand in HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    fn attribute(element: &str, name: &str) -> f64 {
        let start = element.find(&format!(" {name}=\"")).unwrap_or_else(|| panic!("{name} in {element}")) + name.len() + 3;
        let value = element[start..].split('"').next().expect("a closing quote");
        value.parse().unwrap_or_else(|_| panic!("a number in {element}"))
    }

    fn of_class<'a>(svg: &'a str, class: &str) -> Vec<&'a str> {
        svg.lines().filter(|line| line.contains(&format!("class=\"{class}"))).collect()
    }

    #[test]
    fn bars_lanes_and_shades_stand_where_the_time_says() {
        let svg = draw(&example(), 960.0, "wide");
        let second = (960.0 - LEFT - RIGHT) / 10.0;
        let outage = of_class(&svg, "outage")[0];
        assert!((attribute(outage, "x") - (LEFT + 2.0 * second)).abs() < 0.1, "{outage}");
        assert!((attribute(outage, "width") - second).abs() < 0.1, "{outage}");
        assert_eq!((of_class(&svg, "fault").len(), of_class(&svg, "shade").len()), (2, 2));
        assert_eq!((of_class(&svg, "node n0").len(), of_class(&svg, "node n1").len()), (1, 1));
        let bars = of_class(&svg, "bar");
        assert_eq!(bars.len(), 100, "one for each slice, as there is room");
        assert_eq!(attribute(bars[25], "height"), 0.0, "{}", bars[25]);
        assert_eq!(attribute(bars[50], "height"), BARS, "{}", bars[50]);
    }

    #[test]
    fn nothing_lies_outside_the_picture() {
        for width in [380.0, 960.0] {
            let svg = draw(&example(), width, "x");
            let rectangles: Vec<&str> = svg.lines().filter(|line| line.starts_with("<rect")).collect();
            assert!(rectangles.len() > 100);
            let height = ABOVE + BARS + 4.0 * LANE + BELOW;
            for line in rectangles {
                assert!(attribute(line, "x") >= LEFT && attribute(line, "x") + attribute(line, "width") <= width, "{line}");
                assert!(attribute(line, "y") >= ABOVE && attribute(line, "y") + attribute(line, "height") <= height, "{line}");
            }
        }
    }

    #[test]
    fn the_scale_ends_at_a_round_number() {
        let rounded: Vec<f64> = [0.3, 1.0, 3.0, 100.0, 101.0, 2_345.0, 8_001.0].into_iter().map(round_up).collect();
        assert_eq!(rounded, [2.0, 2.0, 4.0, 100.0, 200.0, 4_000.0, 10_000.0]);
    }

    #[test]
    fn an_empty_run_has_an_empty_plot() {
        let empty = Timeline {
            length: Duration::from_millis(100),
            nodes: vec![],
            slices: vec![],
            leaders: vec![],
            faults: vec![],
            outages: vec![],
        };
        assert!(!draw(&empty, 960.0, "wide").contains("NaN"));
    }
}
