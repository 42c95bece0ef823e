//! The command `kill-leader`: finds the node that leads and kills its process with SIGKILL. A process id means something on its own
//! machine only, and may belong to somebody else when the node lives in a container; so nothing is killed without looking at it first.

use crate::cluster::status::{self, STATUS_TIMEOUT, Status};
use crate::error::{EXIT_OK, Error};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::net::{TcpListener, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Time for an election that is going on.
const SEARCH_MAX: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);

/// Runs the command; the number is the exit code.
pub(crate) fn kill_leader(endpoints: &[String]) -> Result<u8, Error> {
    let (node, status) = search(endpoints)?;
    let endpoint = &endpoints[node];
    let pid = checked_pid(endpoint, &status)?;
    kill_process(pid, Signal::KILL).map_err(|error| Error::local(format!("kill process {}", pid.as_raw_pid()), error.into()))?;
    let text = format!("Killed the leader {} (clients at {endpoint}): pid {}, term {}", status.id, pid.as_raw_pid(), status.term);
    writeln!(std::io::stdout(), "{text}").map_err(|error| Error::local("write to standard output", error))?;
    Ok(EXIT_OK)
}

fn search(endpoints: &[String]) -> Result<(usize, Status), Error> {
    let deadline = Instant::now() + SEARCH_MAX;
    loop {
        if let Some(found) = status::find_leader(endpoints) {
            return Ok(found);
        }
        let answers: Vec<_> = endpoints.iter().map(|endpoint| status::ask(endpoint)).collect();
        if Instant::now() + STATUS_TIMEOUT > deadline || answers.iter().all(Result::is_err) {
            let reasons: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
            let silent = if reasons.is_empty() { "there is no leader".to_owned() } else { reasons.join("; ") };
            let remedy = "start a cluster (make cluster), or name its nodes with --endpoints";
            return Err(Error::Unreachable(format!("none of {} leads: {silent}; {remedy}", endpoints.join(", "))));
        }
        std::thread::sleep(POLL);
    }
}

/// The process id of the leader, if it can be nothing but the server's process on this machine.
fn checked_pid(endpoint: &str, status: &Status) -> Result<Pid, Error> {
    if !is_local(endpoint) {
        return Err(Error::Usage(format!("the leader {endpoint} is on another machine: kill it there")));
    }
    let pid = status.pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pid = pid.ok_or_else(|| Error::Failed(format!("the leader {endpoint} does not tell its process id: kill it by hand")))?;
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid()));
    match name {
        Ok(name) if name.starts_with("apexkv") => Ok(pid),
        Ok(name) => {
            let other = format!("process {} is {:?} and no apexkv", pid.as_raw_pid(), name.trim_end());
            Err(Error::Usage(format!("{other}; the leader {endpoint} seems to live in a container: kill it there")))
        }
        Err(_) => Err(Error::Usage(format!(
            "there is no process {} here; the leader {endpoint} seems to live in a container or on another machine: kill it there",
            pid.as_raw_pid()
        ))),
    }
}

/// Whether every address of the endpoint belongs to this machine: only those can be bound.
fn is_local(endpoint: &str) -> bool {
    let addresses: Vec<_> = endpoint.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    !addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback() || TcpListener::bind((address.ip(), 0)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_local() {
        assert!(is_local("localhost:9001"));
        assert!(is_local("127.0.0.1:9001"));
        // From the range that is kept for documentation, so that no machine has it.
        assert!(!is_local("192.0.2.1:9001"));
    }
}
