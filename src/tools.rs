//! The tools for the data directory of a node that does not run: command lines, output and exit codes. Two only look, and what they see is
//! found out in [`apexkv::storage::inspect`]; one makes such a directory of a backup.

mod check;
mod dump;
mod restore;

use apexkv::error::{Error, Result};
use apexkv::server::marks;
use apexkv::storage::inspect::{Caller, Inspected, inspect};
use apexkv::storage::real::RealDisk;
use apexkv_client::text::base64;
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Map, Value, json};
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NAMES: [&str; 3] = ["check", "dump", "restore"];

#[derive(Debug, Parser)]
#[command(name = "apexkv", version, max_term_width = 110)]
struct CommandLine {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Read every byte of a data directory and name all damage
    ///
    /// Finds damage exactly where a start would refuse, goes on behind it, and tells what a start would do about the rest: seal off a write
    /// that was interrupted, rewrite a bad copy, remove what is half-made. Changes nothing, and keeps nodes from starting meanwhile. The
    /// directory of a running node is refused.
    ///
    /// Exit codes: 0 a start would work; 2 usage; 7 damaged, in use, unreadable, or written by a newer version.
    Check(CheckArguments),
    /// Print what a data directory holds: its keys, or its log entry by entry
    ///
    /// A damaged log is printed up to the damage; the keys of a damaged directory are not printed at all. Changes nothing, and keeps nodes
    /// from starting meanwhile. The directory of a running node is refused.
    ///
    /// Keys, one a line: KEY, TAB, VERSION, TAB, VALUE, escaped with backslashes. They are those after the entries that this directory
    /// alone proves to be committed; the cluster may know of more.
    ///
    /// Log, one operation a line: INDEX, TERM, KIND, OPERATION, KEY, LENGTH of the value, its first bytes, FILE:OFFSET of the record, and
    /// `committed` or `open`, separated by TABs.
    ///
    /// Exit codes: 0 everything was printed; 2 usage; 7 damaged, in use, unreadable, without a log, or written by a newer version.
    Dump(DumpArguments),
    /// Make the data directory of a member of a new cluster of a backup
    ///
    /// FILE is what `apexkv-client backup FILE` wrote. Run this for each member with the same FILE and the same members, each with its own
    /// --id and an empty directory, then start each as usual with the same --id, --peers and --data-dir. The new cluster has an id of its
    /// own that follows from the file and the members, so that nothing has to pass between the nodes before. Keys keep their versions; new
    /// versions are above all of them.
    ///
    /// The whole file is checked before anything is made. A directory that holds anything is refused. One whose restore was interrupted
    /// holds either nothing or what a start refuses: empty it and restore again.
    ///
    /// Never restore one node of a cluster that has served since: restore all of them, or let it catch up from the others.
    ///
    /// Exit codes: 0 restored; 2 usage; 7 a damaged file, a directory that is not empty or in use, or an error of the disk.
    Restore(RestoreArguments),
}

#[derive(Debug, Args)]
struct CheckArguments {
    /// The data directory
    dir: PathBuf,
    /// How the report is printed
    #[arg(short, long, env = "APEXKV_OUTPUT", value_name = "FORMAT", value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Args)]
struct DumpArguments {
    /// The data directory
    dir: PathBuf,
    /// Every key with its version and value (the default)
    #[arg(long, conflicts_with = "log")]
    keys: bool,
    /// Every entry of the log
    #[arg(long)]
    log: bool,
    /// Lines of text, or one JSON object a line; there, what is not UTF-8 is in base64 under another name (value_base64)
    #[arg(short, long, env = "APEXKV_OUTPUT", value_name = "FORMAT", value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Args)]
struct RestoreArguments {
    /// The backup
    file: PathBuf,
    /// The directory to make; created if missing
    #[arg(long, value_name = "DIR", env = "APEXKV_DATA_DIR")]
    data_dir: PathBuf,
    /// The member's name and peer address, as for the server
    #[arg(long, value_name = "HOST:PORT", env = "APEXKV_ID")]
    id: String,
    /// The other members; leave out for a cluster of one
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', env = "APEXKV_PEERS")]
    peers: Vec<String>,
    /// How the result is printed
    #[arg(short, long, env = "APEXKV_OUTPUT", value_name = "FORMAT", value_enum, default_value = "text")]
    output: Format,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people and pipes
    Text,
    /// One object a line
    Json,
}

/// Why a tool ends early.
enum Stop {
    /// Whoever read the output has seen enough.
    ReaderGone,
    /// It cannot go on.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

/// Standard output, locked and buffered.
struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    fn new() -> Output {
        Output(BufWriter::new(io::stdout().lock()))
    }

    fn line(&mut self, line: &str) -> std::result::Result<(), Stop> {
        writeln!(self.0, "{line}").map_err(stopped)
    }

    fn object(&mut self, object: Map<String, Value>) -> std::result::Result<(), Stop> {
        self.line(&Value::Object(object).to_string())
    }

    fn flush(&mut self) -> std::result::Result<(), Stop> {
        self.0.flush().map_err(stopped)
    }
}

fn stopped(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Stop::ReaderGone,
        _ => Stop::Failed(Error::Io { doing: "write to standard output".to_owned(), source: error }),
    }
}

/// Runs the tool that the first argument names; returns its exit code, or `None` if it names none.
pub(crate) fn run_if_named() -> Option<i32> {
    let named = std::env::args_os().nth(1).is_some_and(|first| NAMES.iter().any(|name| first == *name));
    named.then(|| run(&CommandLine::parse().tool))
}

fn run(tool: &Tool) -> i32 {
    let mut output = Output::new();
    let result = match tool {
        Tool::Check(arguments) => check::run(arguments, &mut output),
        Tool::Dump(arguments) => dump::run(arguments, &mut output),
        Tool::Restore(arguments) => restore::run(arguments, &mut output),
    };
    // What was found before the trouble comes first.
    let flushed = output.flush();
    match result.and(flushed) {
        Ok(()) | Err(Stop::ReaderGone) => 0,
        Err(Stop::Failed(error)) => {
            // Standard error may be gone; the exit code says it too.
            let _ = writeln!(io::stderr(), "apexkv: {error}");
            error.exit_code()
        }
    }
}

/// Every segment is held open while a directory is looked at, and there may be thousands.
fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Refused, the present limit counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// A bar on a terminal, and nothing elsewhere.
fn terminal_bar() -> ProgressBar {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{msg} {bar:40} {bytes} of {total_bytes}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Looks at a directory, with a bar on a terminal while it takes time.
fn look(dir: &Path) -> Result<Inspected> {
    let disk = RealDisk::open_read_only(dir)?;
    raise_descriptor_limit();
    let bar = terminal_bar();
    let progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let inspected = inspect(Arc::new(disk), &Caller { marks: &marks::check, progress: &progress });
    bar.finish_and_clear();
    inspected
}

/// Puts bytes under `name` as text, or under `name_base64` where they are not UTF-8.
fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => object.insert(format!("{name}_base64"), json!(base64(bytes))),
    };
}
