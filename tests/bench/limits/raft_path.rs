//! The shape of a Raft write path with nothing else in it, in three processes: what a cluster with a thread for each connection and group
//! commit can reach here at best. No terms, elections, index, recovery or limits.

use super::process::Part;
use super::{LoadArguments, load, print};
use serde_json::json;
use std::ffi::OsString;
use std::io;

pub(crate) fn run(arguments: &LoadArguments) -> io::Result<()> {
    let mut followers = Vec::new();
    let mut command: Vec<OsString> = vec!["leader".into(), arguments.dir.join("raft-path-leader").into()];
    for number in 1..=2 {
        let mut follower = Part::start(&["follower".into(), arguments.dir.join(format!("raft-path-{number}")).into_os_string()])?;
        command.push(follower.numbers::<u16>()?[0].to_string().into());
        followers.push(follower);
    }
    let mut leader = Part::start(&command)?;
    let port = leader.numbers::<u16>()?[0];
    let processor_seconds = || followers.iter().chain([&leader]).map(Part::processor_seconds).sum::<io::Result<f64>>();
    let before = processor_seconds()?;
    let measured = load::over_tcp(arguments, port)?;
    let mut object = measured.object(arguments.depth);
    let operations = measured.rounds() as f64 * f64::from(arguments.depth);
    object["limit"] = json!("raft-path");
    object["connections"] = json!(arguments.connections);
    object["depth"] = json!(arguments.depth);
    object["server_cpu_us"] = json!((processor_seconds()? - before) * 1e6 / operations.max(1.0));
    print(&object)
}
