//! The end of a run, the same for all of them: reads everything back, judges, shows the timeline and the report, and writes the files
//! that were asked for.

use crate::arguments::LoadArguments;
use crate::error::Error;
use crate::load::report::{self, Row, Verdict};
use crate::load::session::{Evidence, Settings};
use crate::load::{mixed, verify};
use crate::screen::Screen;
use crate::timeline::page::{self, Heading};
use crate::timeline::{Strike, Timeline, availability_text, terminal};
use std::fs::OpenOptions;
use std::path::Path;

/// Finds out before the run whether the files that are to be written at its end can be.
pub(crate) fn check_files(arguments: &LoadArguments) -> Result<(), Error> {
    for path in [&arguments.history, &arguments.report].into_iter().flatten() {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|error| Error::local(format!("write {}", path.display()), error))?;
    }
    Ok(())
}

/// Judges a run whose load has stopped. `strikes` is what was broken meanwhile.
pub(crate) fn conclude(
    screen: &Screen,
    arguments: &LoadArguments,
    settings: &Settings,
    evidence: &mut Evidence,
    strikes: Vec<Strike>,
    heading: &Heading,
) -> Result<Verdict, Error> {
    let timeline = Timeline::of(evidence, &settings.endpoints, strikes);
    let read_back = verify::read_back(evidence, settings, arguments.patience);
    let report = report::compose(settings, evidence, &read_back);
    for (colour, line) in terminal::draw(&timeline) {
        screen.line(colour.map_or(line.clone(), |colour| screen.paint(colour, line)));
    }
    let available = Row::new("Available", availability_text(timeline.availability()));
    report::print_rows(screen, &[available]);
    report::print(screen, &report);
    let written = write_files(screen, arguments, evidence, || page::render(heading, &report, &timeline));
    match written {
        // What the run has found weighs more than a file.
        Err(error) if report.verdict.is_violation() => screen.line(format_args!("{error}")),
        written => written?,
    }
    Ok(report.verdict)
}

fn write_files(screen: &Screen, arguments: &LoadArguments, evidence: &Evidence, page: impl FnOnce() -> String) -> Result<(), Error> {
    if let Some(path) = &arguments.history {
        mixed::write_history(&evidence.history, path)?;
    }
    if let Some(path) = &arguments.report {
        std::fs::write(path, page()).map_err(|error| Error::local(format!("write the report to {}", path.display()), error))?;
        screen.line(format_args!("Report    {}", path.display()));
    }
    Ok(())
}

/// The present time for people, in UTC.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string().replace('T', " ").replace('Z', " UTC")
}

/// Who made the load, in words.
pub(crate) fn clients(arguments: &LoadArguments) -> String {
    let count = |count: u16, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!("{} and {}", count(arguments.writers, "writer"), count(arguments.mixed.unwrap_or(0), "mixed client"))
}

/// The command that repeats a run: this process's own, with the seed if it was drawn by chance.
pub(crate) fn command_line(seed: Option<u64>) -> String {
    repeat(std::env::args().collect(), seed)
}

fn repeat(mut words: Vec<String>, seed: Option<u64>) -> String {
    if let Some(program) = words.first_mut() {
        *program = Path::new(program.as_str()).file_name().map_or("apexkv-chaos".into(), |name| name.to_string_lossy()).into_owned();
    }
    if let Some(seed) = seed.filter(|_| !words.iter().any(|word| word == "--seed" || word.starts_with("--seed="))) {
        words.extend(["--seed".to_owned(), seed.to_string()]);
    }
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a shell takes it.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./,:=+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_repeats_a_run_names_the_seed_once() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(repeat(words("/opt/bin/apexkv-chaos run"), Some(7)), "apexkv-chaos run --seed 7");
        assert_eq!(repeat(words("apexkv-chaos run --seed=9 --nodes 5"), Some(9)), "apexkv-chaos run --seed=9 --nodes 5");
        assert_eq!(repeat(words("apexkv-chaos"), None), "apexkv-chaos");
        assert_eq!(repeat(vec!["apexkv-chaos".to_owned(), "my file's".to_owned()], None), r"apexkv-chaos 'my file'\''s'");
    }
}
