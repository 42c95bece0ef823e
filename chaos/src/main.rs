//! The chaos tool: loads an ApexKV cluster, breaks it, and proves that nothing acknowledged was lost; and the small helpers around it
//! (a local cluster in one terminal, the demo). This file turns the command line into one call and its result into the exit code.
//!
//! The rooms: [`load`] writes and judges and knows no processes; [`cluster`] starts and strikes processes, and the links
//! between them, and knows no load; [`faults`] has the schedule and carries it out; [`timeline`] draws what happened. Each command is a
//! file beside this one that joins them. Everything that decides (histories, outages, schedules, timelines) is pure.

mod arguments;
mod attach;
mod cluster;
mod conclude;
mod demo;
mod error;
mod failover;
mod faults;
mod kill_leader;
mod launch;
mod load;
mod run;
mod screen;
mod stop;
mod timeline;
mod with_cluster;

use arguments::{Arguments, Command};
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        None => attach::attach(&arguments.attach, rand::random()),
        Some(Command::Run(arguments)) => run::run(arguments),
        Some(Command::Cluster(arguments)) => launch::launch(arguments),
        Some(Command::KillLeader(arguments)) => kill_leader::kill_leader(&arguments.endpoints),
        Some(Command::Demo(arguments)) => demo::demo(arguments),
        Some(Command::WithCluster(arguments)) => with_cluster::with_cluster(arguments),
        Some(Command::Failover(arguments)) => failover::failover(arguments),
        Some(Command::Leash(arguments)) => Err(cluster::leash(arguments)),
    };
    let code = result.unwrap_or_else(|error| {
        // Standard error may be gone; the exit code says it too.
        let _ = writeln!(std::io::stderr(), "apexkv-chaos: {error}");
        error.exit_code()
    });
    ExitCode::from(code)
}
