//! What the machine itself can do, as seen by a durable store with a thread for each connection: programs with nothing else in them. Each
//! command prints one JSON object. Nothing here is part of ApexKV, or imports anything of it: it is what ApexKV is measured against.
//!
//! | command | what it does |
//! |---|---|
//! | `sync` | writes of one record into a file that was filled before, an fdatasync after each, by one process or several at once |
//! | `group` | threads that append to one log: what has gathered is written and synced in one go |
//! | `raft-path` | a replicated write path of three processes without elections, terms, an index or recovery |
//! | `echo` | requests and answers over TCP, without any work in between |

mod echo;
mod follower;
mod group;
mod leader;
mod load;
mod log;
mod process;
mod raft_path;
mod sync;

use clap::{Args, Parser, Subcommand};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Bytes of a request: about those of a SET with a key of 16 and a value of 256.
const REQUEST: usize = 281;
/// Bytes of an answer: a status, a length, and a version.
const ANSWER: usize = 13;

/// Measures what this machine can do: durable writes, group commit, a bare replicated write path, TCP round trips.
#[derive(Debug, Parser)]
#[command(name = "limits", max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One record, one fdatasync
    Sync(SyncArguments),
    /// One log, many threads
    Group(LoadArguments),
    /// Three processes, group commit, an acknowledgement when two of them hold a record durably
    RaftPath(LoadArguments),
    /// A server that answers at once
    Echo(LoadArguments),
    /// A part of one of the others, in a process of its own
    #[command(hide = true, subcommand)]
    Part(Part),
}

#[derive(Clone, Debug, Args)]
struct SyncArguments {
    /// Where the file is made
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Processes that do so at once, each in a file of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    processes: u8,
    /// How long is measured
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

#[derive(Clone, Debug, Args)]
struct LoadArguments {
    /// Where the logs are made
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Connections, or threads, each of which waits for its answer before it goes on
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Requests that leave together; the next ones follow when all of them were answered
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    depth: u16,
    /// How long is measured
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

impl LoadArguments {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Of `sync`
    Sync { file: PathBuf, seconds: u64 },
    /// Of `raft-path`
    Follower { file: PathBuf },
    /// Of `raft-path`
    Leader { file: PathBuf, followers: Vec<u16> },
    /// Of `echo`
    EchoServer,
}

fn main() -> ExitCode {
    let result = match &Arguments::parse().command {
        Command::Sync(arguments) => sync::run(arguments),
        Command::Group(arguments) => group::run(arguments),
        Command::RaftPath(arguments) => raft_path::run(arguments),
        Command::Echo(arguments) => echo::run(arguments),
        Command::Part(Part::Sync { file, seconds }) => sync::part(file, Duration::from_secs(*seconds)),
        Command::Part(Part::Follower { file }) => follower::run(file),
        Command::Part(Part::Leader { file, followers }) => leader::run(file, followers),
        Command::Part(Part::EchoServer) => echo::serve(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be gone; the exit code says it too.
            let _ = writeln!(io::stderr(), "limits: {error}");
            ExitCode::from(7)
        }
    }
}

/// One line on standard output.
fn print(line: &dyn std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
