//! Standard output and standard error: the only file that writes there. Results go out as text or as JSON, never both.

use super::args::Format;
use super::escape::escape;
use super::exit::Trouble;
use super::json::{self, Object};
use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use apexkv_client::Error;
use serde_json::{Value, json};
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

/// Locked and buffered standard output.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    stdout: BufWriter<StdoutLock<'static>>,
    always_end_lines: bool,
}

impl Output {
    pub(crate) fn new(format: Format) -> Output {
        Output { format, stdout: BufWriter::new(io::stdout().lock()), always_end_lines: false }
    }

    /// Values end with a newline for every reader: other results follow.
    pub(crate) fn ending_lines(self, always: bool) -> Output {
        Output { always_end_lines: always, ..self }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Exactly these bytes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.stdout.write_all(bytes).map_err(Trouble::from_output)
    }

    /// One line of text.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Trouble> {
        writeln!(self.stdout, "{line}").map_err(Trouble::from_output)
    }

    /// One line of text, in colours if the reader has eyes and has not asked for none (NO_COLOR).
    pub(crate) fn styled_line(&mut self, style: Style, line: &str) -> Result<(), Trouble> {
        if style.is_plain() || !coloured(self.stdout.get_ref()) {
            return self.line(line);
        }
        self.line(&format!("{style}{line}{style:#}"))
    }

    /// How wide a table may be: as the terminal is; without one, as it likes.
    pub(crate) fn columns(&self) -> usize {
        terminal_size::terminal_size_of(self.stdout.get_ref()).map_or(usize::MAX, |(width, _)| usize::from(width.0))
    }

    /// Ends a value for a reader with eyes; a pipe gets the value and nothing else.
    pub(crate) fn newline_on_terminal(&mut self) -> Result<(), Trouble> {
        if self.always_end_lines || self.stdout.get_ref().is_terminal() { self.line("") } else { Ok(()) }
    }

    /// One JSON object, on a line of its own.
    pub(crate) fn object(&mut self, object: Object) -> Result<(), Trouble> {
        self.line(&Value::Object(object).to_string())
    }

    /// A word to whoever sits there, which is no result.
    pub(crate) fn note(&mut self, text: &str) -> Result<(), Trouble> {
        writeln!(io::stderr(), "{text}").map_err(Trouble::from_output)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Trouble> {
        self.stdout.flush().map_err(Trouble::from_output)
    }

    /// Says what went wrong: text on standard error, JSON as a result like any other while standard output takes it. `key` is what it
    /// was about.
    pub(crate) fn trouble(&mut self, trouble: &Trouble, key: Option<&[u8]>) {
        if matches!(trouble, Trouble::ReaderGone) {
            return;
        }
        if self.is_json() && self.object(describe(trouble, key)).and_then(|()| self.flush()).is_ok() {
            return;
        }
        // Results before the trouble come first. If they cannot be written, the trouble that counts is still the one at hand.
        let _ = self.flush();
        // A node's own words may hold anything; a terminal is not to be driven by them.
        let message = escape(trouble.message().as_bytes());
        let absent = key.filter(|_| matches!(trouble, Trouble::NotFound)).map(|key| format!(": {}", escape(key))).unwrap_or_default();
        let style = if coloured(&io::stderr()) { AnsiColor::Red.on_default().bold() } else { Style::new() };
        let _ = writeln!(io::stderr(), "{style}apexkv-client:{style:#} {message}{absent}");
    }
}

fn coloured(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

fn describe(trouble: &Trouble, key: Option<&[u8]>) -> Object {
    let mut object = json::object(false, trouble.status());
    if let Some(key) = key {
        json::put_bytes(&mut object, "key", key);
    }
    match trouble {
        Trouble::NotFound => return object,
        Trouble::Client(Error::Conflict { current }) => {
            object.insert("current".to_owned(), json!(current));
        }
        Trouble::Client(Error::Refused { endpoint, .. } | Error::Unknown { endpoint, .. }) => {
            object.insert("endpoint".to_owned(), json!(endpoint));
        }
        Trouble::Client(Error::Unavailable { attempts, .. }) => {
            let tried = attempts.iter().map(|attempt| json!({"endpoint": attempt.endpoint, "error": attempt.failure.to_string()}));
            object.insert("tried".to_owned(), tried.collect());
        }
        _ => {}
    }
    object.insert("error".to_owned(), json!(trouble.message()));
    object
}
