//! Flags, environment and help texts. Everything that can be judged without a connection is judged here, and refused with exit code 2.

use super::bench::BenchOptions;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// Reads and writes keys of an ApexKV cluster.
///
/// Any endpoint will do: the client finds the leader, and finds it again after a failover.
///
/// Exit codes: 0 ok; 1 the operation failed; 2 usage; 3 key not found; 4 no connection, no leader or only BUSY until the deadline;
/// 6 outcome unknown (a write that may have taken effect); 7 local I/O; 130 Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "apexkv-client", version, max_term_width = 110, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Client addresses of the nodes, separated by commas
    #[arg(long, env = "APEXKV_ENDPOINTS", global = true, value_name = "HOST:PORT,...", value_delimiter = ',', value_parser = endpoint)]
    #[arg(default_value = "localhost:9001,localhost:9002,localhost:9003")]
    pub(crate) endpoints: Vec<String>,

    /// Total time of one operation, over all attempts, with a unit (250ms, 5s)
    #[arg(long, env = "APEXKV_TIMEOUT", global = true, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub(crate) timeout: Duration,

    /// How results and errors are printed
    #[arg(short, long, env = "APEXKV_OUTPUT", global = true, value_name = "FORMAT", value_enum, default_value = "text")]
    pub(crate) output: Format,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people and pipes
    Text,
    /// One object per result, errors too
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Test the cluster: SET, GET, compare, DEL with a key of its own
    Check,
    /// Store a value; prints its version
    Set {
        /// The key, as it is
        key: OsString,
        /// The value, as it is; - reads standard input
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// Print the value of a key, byte for byte (a newline follows on a terminal only)
    Get {
        /// The key, as it is
        key: OsString,
    },
    /// Print version, TAB and value of a key
    Getv {
        /// The key, as it is
        key: OsString,
    },
    /// Remove a key; prints the version of the deletion
    Del {
        /// The key, as it is
        key: OsString,
    },
    /// Store a value if the key still has VERSION (0: if it is absent); prints the new version
    Cas {
        /// The key, as it is
        key: OsString,
        /// The version that getv, set or cas printed
        version: u64,
        /// The value, as it is; - reads standard input
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// List keys in byte order: KEY, TAB, VERSION, TAB, VALUE a line, escaped with backslashes
    Scan(ScanArguments),
    /// Show every endpoint's view of itself and the cluster
    Status(StatusArguments),
    /// Measure the round trip to the first endpoint that answers
    Ping,
    /// Type commands one after the other, with history and completion; reads them from standard input if that is no terminal
    Shell,
    /// Print a completion script, for example: apexkv-client completions bash > /etc/bash_completion.d/apexkv-client
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Write one consistent state of the whole cluster into a file, while it goes on
    ///
    /// The file holds every write that was acknowledged before the command began. It gets its name when it is whole and durable; until then
    /// it is FILE.tmp. When the node that it is read from goes away, it starts over at the next leader, up to five times; each step has the
    /// time of --timeout. `apexkv restore` makes a new cluster of it.
    Backup(BackupArguments),
    /// Load the leader and report operations per second and latencies
    Bench(BenchOptions),
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// First wait until a leader serves reads, at most this long
    #[arg(long, env = "APEXKV_WAIT_LEADER", value_name = "DURATION", value_parser = duration)]
    pub(crate) wait_leader: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArguments {
    /// The file to write; must not exist
    pub(crate) file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScanArguments {
    /// Only keys that start with this
    #[arg(default_value = "")]
    pub(crate) prefix: OsString,
    /// Stop after this many keys [default: all of them]
    #[arg(long, env = "APEXKV_LIMIT", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Leave the values out: KEY, TAB, VERSION
    #[arg(long, env = "APEXKV_KEYS_ONLY", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) keys_only: bool,
}

impl Command {
    /// The key that the command is about, if there is exactly one.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        match self {
            Command::Set { key, .. } | Command::Get { key } | Command::Getv { key } | Command::Del { key } | Command::Cas { key, .. } => {
                Some(bytes(key))
            }
            Command::Check | Command::Scan(_) | Command::Status(_) | Command::Ping | Command::Bench(_) | Command::Backup(_) => None,
            Command::Shell | Command::Completions { .. } => None,
        }
    }
}

/// An argument byte for byte, UTF-8 or not.
pub(crate) fn bytes(argument: &OsStr) -> &[u8] {
    argument.as_bytes()
}

fn endpoint(text: &str) -> Result<String, String> {
    apexkv_client::check_endpoint(text.trim()).map(|()| text.trim().to_owned())
}

/// A duration above zero, with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; give a number and a unit, for example 250ms or 5s"))?;
    if duration.is_zero() { Err("it must be longer than zero, for example 250ms".to_owned()) } else { Ok(duration) }
}

/// A duration that may be zero, with its unit.
pub(crate) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" || text.trim() == "0s" { Ok(Duration::ZERO) } else { duration(text) }
}

/// A size in bytes, plain or with a unit.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    parse_size::parse_size(text).map_err(|error| format!("{error}; give bytes, or a number and a unit, for example 4KiB"))
}

/// Events a second, plain or with k (a thousand) or M (a million).
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let (digits, unit) = match text.char_indices().last() {
        Some((end, 'k' | 'K')) => (&text[..end], 1e3),
        Some((end, 'M')) => (&text[..end], 1e6),
        _ => (text, 1.0),
    };
    match digits.parse::<f64>().map(|number| number * unit) {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err("give a number a second from 0.001 to 1000M, for example 500 or 10k".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("5").is_err_and(|reason| reason.contains("unit")));
        assert!(duration("0s").is_err());
    }

    #[test]
    fn rates_may_have_a_unit() {
        for (text, expected) in [("500", 500.0), ("10k", 10_000.0), ("2.5K", 2_500.0), ("1M", 1e6), (" 3 ", 3.0)] {
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        for text in ["", "k", "0", "-1", "10q", "NaN", "inf", "2000M", "1e3é"] {
            assert!(rate(text).is_err_and(|reason| reason.contains("10k")), "{text}");
        }
    }
}
