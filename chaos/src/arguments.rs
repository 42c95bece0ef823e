//! Flags and help texts. What can be judged without touching the machine is judged here, and refused with exit code 2.

use crate::error::Error;
use crate::faults::schedule::Kind;
use crate::load::session::{Settings, random_prefix};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Each node takes its peer port, and the ports this much above it.
pub(crate) const CLIENT_PORT_OFFSET: u16 = 1000;
/// See [`CLIENT_PORT_OFFSET`].
pub(crate) const ADMIN_PORT_OFFSET: u16 = 2000;

/// Loops writes on an ApexKV cluster across failovers and proves that nothing acknowledged was lost.
///
/// Without a command it writes to a running cluster until --duration is over or Ctrl-C, then reads every key back and prints the
/// verdict. A second Ctrl-C ends it at once.
///
/// Exit codes: 0 everything acknowledged is there; 1 violation found; 2 usage; 4 cluster unreachable, nothing proved; 7 local I/O; 130
/// second Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "apexkv-chaos", version, max_term_width = 110, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) attach: AttachArguments,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Of the default command.
#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    #[command(flatten)]
    pub(crate) endpoints: EndpointArguments,
    /// How long to write, with a unit (30s, 5m) [default: until Ctrl-C]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Leave the keys in the cluster instead of removing them at the end
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
}

/// Where a running cluster is.
#[derive(Debug, Args)]
pub(crate) struct EndpointArguments {
    /// Client addresses of the nodes, separated by commas
    #[arg(long, env = "APEXKV_ENDPOINTS", value_name = "HOST:PORT,...", value_delimiter = ',', value_parser = endpoint)]
    #[arg(default_value = "localhost:9001,localhost:9002,localhost:9003")]
    pub(crate) endpoints: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster of its own in a scratch folder, break it, verify, clean up
    Run(RunArguments),
    /// Start a local cluster in this terminal and keep it running until Ctrl-C
    Cluster(ClusterArguments),
    /// Kill the leader of a running cluster of this machine with SIGKILL
    KillLeader(EndpointArguments),
    /// Show in half a minute what this is about: a cluster, a few commands, three killed leaders, the verdict
    Demo(ScratchArguments),
    /// Run a command against a scratch cluster; it finds the nodes in APEXKV_ENDPOINTS
    WithCluster(WithClusterArguments),
    /// Measure how long writes stop when the leader dies or falls silent, on a scratch cluster
    Failover(FailoverArguments),
    /// Become another program that dies with the process that started it
    #[command(hide = true)]
    Leash(LeashArguments),
}

/// How writes are made and verified.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArguments {
    /// Threads that write, each to keys of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) writers: u16,
    /// Clients that mix SET, GET, DEL and CAS on a few shared keys, every second of them at nodes chosen at random; whether their answers
    /// are linearizable is checked at the end [default: 4 for run, otherwise 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub(crate) mixed: Option<u16>,
    /// Write all that the mixed clients did to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// Write a report to this file: one HTML page with the timeline as a plot, which needs nothing else
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Keys of all writers together
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) keys: u64,
    /// Most writes a second, of all writers together [default: as fast as it goes]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// After this time without an answer a write counts as unknown, and the writer goes on at another node
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = duration)]
    pub(crate) attempt_timeout: Duration,
    /// How long reading back may go without any success before it gives up
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) patience: Duration,
    /// Show every write instead of one a second
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

impl LoadArguments {
    /// The load that these flags describe; each writer gets at least one key.
    pub(crate) fn settings(&self, endpoints: Vec<String>, seed: u64) -> Settings {
        Settings {
            endpoints,
            prefix: random_prefix(),
            writers: usize::from(self.writers),
            mixed: usize::from(self.mixed.unwrap_or(0)),
            keys: self.keys.max(u64::from(self.writers)),
            rate: self.rate,
            attempt_timeout: self.attempt_timeout,
            seed,
            show_events: true,
        }
    }
}

/// A cluster of its own in a scratch folder.
#[derive(Debug, Args)]
pub(crate) struct ScratchArguments {
    /// Number of nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// The server's binary [default: apexkv beside this program]
    #[arg(long, env = "APEXKV_SERVER", value_name = "PATH")]
    pub(crate) server: Option<PathBuf>,
    /// Use this folder, empty or not there yet, as the scratch folder, and keep it
    #[arg(long, value_name = "DIR", conflicts_with = "scratch_in")]
    pub(crate) keep: Option<PathBuf>,
    /// Make the scratch folder in this one [default: the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch_in: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) scratch: ScratchArguments,
    /// How long to write and to break, with a unit (30s, 5m)
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Repeats the schedule of faults of an earlier run [default: random, and printed]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// What to break: kill (SIGKILL and restart), pause (SIGSTOP and SIGCONT), partition, one-way (a node hears nobody, or is not heard),
    /// bridge (two groups meet in one node only), slow (links), break (connections), or all
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', default_value = "kill", value_parser = fault)]
    pub(crate) faults: Vec<FaultChoice>,
    /// Load and judge this running cluster instead of one of its own, and break nothing
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', value_parser = endpoint)]
    #[arg(conflicts_with_all = ["nodes", "keep", "scratch_in", "faults"])]
    pub(crate) endpoints: Vec<String>,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
}

/// A word of `--faults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultChoice {
    /// Whatever a cluster of that size can have.
    All,
    /// This kind.
    One(Kind),
}

impl RunArguments {
    /// The kinds of faults to make; refused if the cluster is too small for one that was named.
    pub(crate) fn kinds(&self) -> Result<Vec<Kind>, Error> {
        let nodes = usize::from(self.scratch.nodes);
        if self.faults.contains(&FaultChoice::All) {
            return Ok(Kind::ALL.into_iter().filter(|kind| kind.nodes_min() <= nodes).collect());
        }
        let kind = |choice: &FaultChoice| match choice {
            FaultChoice::One(kind) if kind.nodes_min() > nodes => {
                let least = kind.nodes_min();
                Err(Error::Usage(format!("--faults {kind} takes at least {least} nodes: use --nodes {least} or more, or leave it out")))
            }
            FaultChoice::One(kind) => Ok(Some(*kind)),
            FaultChoice::All => Ok(None),
        };
        self.faults.iter().filter_map(|choice| kind(choice).transpose()).collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {
    /// Number of nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// Peer port of the first node; clients connect to port + 1000
    #[arg(long, value_name = "PORT", default_value_t = 8001, value_parser = clap::value_parser!(u16).range(1..=63_000))]
    pub(crate) base_port: u16,
    /// Folder with one folder for each node; what is in it is used again
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub(crate) data_dir: PathBuf,
    /// The server's binary [default: apexkv beside this program]
    #[arg(long, env = "APEXKV_SERVER", value_name = "PATH")]
    pub(crate) server: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct WithClusterArguments {
    #[command(flatten)]
    pub(crate) scratch: ScratchArguments,
    /// The command with its arguments, behind --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct FailoverArguments {
    #[command(flatten)]
    pub(crate) scratch: ScratchArguments,
    /// How many leaders are struck, one after the other
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rounds: u32,
    /// What strikes them
    #[arg(long, value_enum, default_value = "kill")]
    pub(crate) how: How,
    /// Pause between rounds, after all nodes are back and agree on a leader
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = duration)]
    pub(crate) settle: Duration,
    /// How the result is printed
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub(crate) output: Format,
}

/// What becomes of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum How {
    /// SIGKILL: its connections break at once
    Kill,
    /// SIGSTOP, and SIGCONT when writes go on: its connections stay open and silent
    Pause,
}

impl How {
    /// The word on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            How::Kill => "kill",
            How::Pause => "pause",
        }
    }
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            How::Kill => "killed",
            How::Pause => "silenced",
        })
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A line for each round and one for all
    Text,
    /// One object
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct LeashArguments {
    /// Process id of the one to die with
    pub(crate) parent: u32,
    /// The program with its arguments, behind --
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

fn endpoint(text: &str) -> Result<String, String> {
    apexkv_client::check_endpoint(text.trim()).map(|()| text.trim().to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; give a number and a unit, for example 500ms or 30s"))?;
    if duration.is_zero() { Err("it must be longer than zero, for example 30s".to_owned()) } else { Ok(duration) }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err("give writes a second as a number from 0.001 to 1000000000, for example 100".to_owned()),
    }
}

fn fault(text: &str) -> Result<FaultChoice, String> {
    if text == "all" {
        return Ok(FaultChoice::All);
    }
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
    let names = || Kind::ALL.map(Kind::name).join(", ");
    found.map(FaultChoice::One).ok_or_else(|| format!("there are {}, and all; separate several with a comma", names()))
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
    fn every_writer_has_a_key() {
        let arguments = Arguments::try_parse_from(["apexkv-chaos", "--writers", "8", "--keys", "3"]).expect("good flags");
        assert_eq!(arguments.attach.load.settings(vec!["localhost:1".to_owned()], 1).keys, 8);
    }
    fn kinds(arguments: &[&str]) -> Result<Vec<Kind>, Error> {
        let words = ["apexkv-chaos", "run"].iter().chain(arguments);
        match Arguments::try_parse_from(words).expect("good flags").command {
            Some(Command::Run(run)) => run.kinds(),
            other => panic!("{other:?} is not what was given"),
        }
    }

    #[test]
    fn faults_are_those_that_were_named_and_that_the_cluster_can_have() {
        assert_eq!(kinds(&[]).expect("the default"), [Kind::Kill]);
        assert_eq!(kinds(&["--faults", "one-way,kill"]).expect("good kinds"), [Kind::OneWay, Kind::Kill]);
        assert_eq!(kinds(&["--faults", "all"]).expect("good kinds"), Kind::ALL);
        assert_eq!(kinds(&["--faults", "all", "--nodes", "1"]).expect("good kinds"), [Kind::Kill, Kind::Pause]);
        assert!(!kinds(&["--faults", "kill,all", "--nodes", "2"]).expect("good kinds").contains(&Kind::Bridge));
        for (fault, nodes, least) in [("bridge", "2", "at least 3"), ("slow", "1", "at least 2")] {
            let error = kinds(&["--faults", fault, "--nodes", nodes]).expect_err("too few nodes");
            assert!(error.exit_code() == 2 && error.to_string().contains(least), "{error}");
        }
    }
}
