//! The report as one HTML page that needs nothing else: no scripts, no fonts, no pictures from elsewhere. It is well-formed XML, too.
//! Follows the reader's preference for light or dark, and fits a phone.

use super::plot::{self, NODE_COLOURS, escape};
use super::{Timeline, availability_text};
use crate::load::report::Report;
use crate::screen::{short_endpoint, short_time};
use std::fmt::Write;

/// Width of the plot for wide screens and for narrow ones; each is shown where the other would be too small or too large.
const WIDE: f64 = 960.0;
const NARROW: f64 = 380.0;

const STYLE: &str = include_str!("page.css");

/// What the page says of the run besides its report.
pub(crate) struct Heading {
    /// What was run, in a few words.
    pub(crate) subject: String,
    /// When, with which seed, on what.
    pub(crate) facts: Vec<String>,
    /// The command that repeats it.
    pub(crate) command: String,
}

/// Writes the page.
pub(crate) fn render(heading: &Heading, report: &Report, timeline: &Timeline) -> String {
    let outcome = if report.verdict.is_good() {
        "good"
    } else if report.verdict.is_violation() {
        "bad"
    } else {
        "open"
    };
    let mut page = String::new();
    let mut add = |text: &str| {
        page += text;
        page.push('\n');
    };
    let subject = escape(&heading.subject);
    add("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>");
    add("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<meta name=\"color-scheme\" content=\"light dark\"/>");
    add(&format!("<title>{subject}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>"));
    add(&format!("<h1>{subject}</h1>\n<p class=\"facts\">{}</p>", escape(&heading.facts.join(" · "))));
    add(&format!("<p class=\"verdict {outcome}\">{}</p>", escape(&report.headline)));
    if !report.details.is_empty() {
        add(&format!("<pre>{}</pre>", escape(&report.details.join("\n"))));
    }
    add(&format!("<p><strong>Available</strong> {}</p>", escape(&availability_text(timeline.availability()))));
    add("<figure>\n<figcaption>Answers a second, and what happened meanwhile</figcaption>");
    add(&plot::draw(timeline, WIDE, "wide"));
    add(&plot::draw(timeline, NARROW, "narrow"));
    add(&format!("{}\n</figure>", legend(timeline)));
    add("<h2>Numbers</h2>\n<dl>");
    for row in &report.rows {
        let wrong = if row.is_bad { " class=\"wrong\"" } else { "" };
        add(&format!("<dt>{}</dt><dd{wrong}>{}</dd>", escape(row.label), escape(&row.lines.join("\n"))));
    }
    add("</dl>");
    add(&faults(timeline));
    add(&format!("<h2>Once more</h2>\n<pre>{}</pre>", escape(&heading.command)));
    add("<p class=\"facts\">The seed decides what strikes when; what that meets differs from run to run.</p>\n</main>\n</body>\n</html>");
    page
}

fn legend(timeline: &Timeline) -> String {
    let node = |(number, endpoint): (usize, &String)| {
        let name = escape(short_endpoint(endpoint));
        format!("<span><i class=\"n{}\"></i>{} is {name}</span>", number % NODE_COLOURS, number + 1)
    };
    let mut entries: Vec<String> = timeline.nodes.iter().enumerate().map(node).collect();
    entries.push("<span><i class=\"fault-mark\"></i>fault</span>".to_owned());
    entries.push("<span><i class=\"outage-mark\"></i>outage</span>".to_owned());
    format!("<p class=\"legend\">{}</p>", entries.join(" "))
}

fn faults(timeline: &Timeline) -> String {
    if timeline.faults.is_empty() {
        return "<p>Nothing was broken on purpose.</p>".to_owned();
    }
    let mut text = format!("<h2>Faults</h2>\n<details>\n<summary>All {}</summary>\n<table>\n", timeline.faults.len());
    text += "<tr><th>at</th><th>for</th><th>what</th></tr>\n";
    for fault in &timeline.faults {
        let (at, time, what) = (fault.span.from.as_secs_f64(), short_time(fault.span.length()), escape(&fault.what));
        writeln!(text, "<tr><td>{at:.1} s</td><td>{time}</td><td>{what}</td></tr>").expect("writing to a string does not fail");
    }
    text + "</table>\n</details>"
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;
    use crate::load::report::{Row, Verdict};

    fn page(verdict: Verdict) -> String {
        let rows = vec![Row { label: "Writes", lines: vec!["900 acknowledged".to_owned(), "and <none> lost".to_owned()], is_bad: false }];
        let report = Report { verdict, headline: "lost = 0".to_owned(), details: vec!["a & b".to_owned()], rows };
        let heading =
            Heading { subject: "A <run>".to_owned(), facts: vec!["seed 7".to_owned()], command: "apexkv-chaos run --seed 7".to_owned() };
        render(&heading, &report, &example())
    }

    /// Fails unless every element is closed in its turn and every attribute quoted.
    fn check_well_formed(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a document type");
        while let Some(start) = rest.find('<') {
            assert!(!rest[..start].contains('>'), "a > outside of a tag: {}", &rest[..start]);
            let end = start + rest[start..].find('>').expect("a tag that ends");
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            assert!(tag.matches('"').count().is_multiple_of(2) && !tag.contains('<'), "{tag}");
            let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().expect("a name");
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "closed out of turn");
            } else if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "never closed: {open:?}");
    }

    #[test]
    fn the_page_is_well_formed_and_shows_what_there_is() {
        let page = page(Verdict::Kept);
        check_well_formed(&page);
        for expected in ["A &lt;run&gt;", "seed 7", "verdict good", "lost = 0", "a &amp; b", "and &lt;none&gt; lost", "--seed 7", ":9002"] {
            assert!(page.contains(expected), "{expected} is missing");
        }
        assert!(page.contains("slow &lt;everything&gt; &amp; &quot;all&quot;"), "the faults, escaped");
        assert!(page.contains("100 % of the time between faults, 75 % during them"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = page(Verdict::Kept);
        for foreign in ["http", "//", "<script", "<link", "<img", "src=", "href=", "url(", "@import", "@font-face"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("name=\"viewport\""));
    }

    #[test]
    fn the_colour_of_the_verdict_is_that_of_its_meaning() {
        assert!(page(Verdict::NotLinearizable).contains("verdict bad"));
        assert!(page(Verdict::Violated { keys: 1 }).contains("verdict bad"));
        assert!(page(Verdict::Undecided).contains("verdict open"));
    }
}
