//! The nodes' processes. Each has a process group of its own, so that a Ctrl-C in the terminal reaches only this program, which then
//! stops them in order. None outlives this program, however it ends: a node is started through this very binary, which first asks the
//! system for a SIGKILL at the death of its parent and then becomes the server.
//!
//! The system means the parent *thread*, so nodes are started by the main thread only.

use super::members::Member;
use crate::arguments::LeashArguments;
use crate::error::Error;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::io::{self, PipeReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Settings of a single node that must not reach all of them through the environment.
const OWN_SETTINGS: [&str; 6] =
    ["APEXKV_PEERS", "APEXKV_LISTEN_PEER", "APEXKV_LISTEN_CLIENT", "APEXKV_LISTEN_ADMIN", "APEXKV_ADVERTISE_CLIENT", "APEXKV_DIAL"];
/// How often an end is looked for.
const POLL: Duration = Duration::from_millis(10);

/// A node that ended although nobody had asked it to.
#[derive(Clone, Debug)]
pub(crate) struct Death {
    /// Its position.
    pub(crate) node: usize,
    /// How it ended.
    pub(crate) status: ExitStatus,
}

/// The process ids of the nodes that run, for whoever must kill them in a hurry.
#[derive(Clone, Default)]
pub(crate) struct Running(Arc<Mutex<Vec<Pid>>>);

impl Running {
    /// Kills them all, at once and for good.
    pub(crate) fn kill_all(&self) {
        for pid in self.0.lock().drain(..) {
            // It may have ended by itself in this moment.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The nodes of one local cluster; those that still run when this is dropped are killed.
pub(crate) struct Cluster {
    server: PathBuf,
    members: Vec<Member>,
    children: Vec<Option<Child>>,
    running: Running,
}

impl Cluster {
    /// A cluster of which no node runs yet.
    pub(crate) fn new(server: PathBuf, members: Vec<Member>) -> Cluster {
        let children = members.iter().map(|_| None).collect();
        Cluster { server, members, children, running: Running::default() }
    }

    /// The members, by position.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The server's binary.
    pub(crate) fn server(&self) -> &Path {
        &self.server
    }

    /// Client addresses of all nodes.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::client).collect()
    }

    /// The process ids that are alive, shared.
    pub(crate) fn running(&self) -> Running {
        self.running.clone()
    }

    /// Process id of a node that runs.
    pub(crate) fn pid(&self, node: usize) -> Option<u32> {
        self.children[node].as_ref().map(Child::id)
    }

    /// Starts a node whose output is appended to `file`.
    pub(crate) fn start_with_file(&mut self, node: usize, file: &Path) -> Result<(), Error> {
        let open = || {
            let out = OpenOptions::new().create(true).append(true).open(file)?;
            Ok((out.try_clone()?, out))
        };
        let (out, errors) = open().map_err(|error| Error::local(format!("open {}", file.display()), error))?;
        self.start(node, out.into(), errors.into())
    }

    /// Starts a node and returns the pipe that its output comes out of.
    pub(crate) fn start_with_pipe(&mut self, node: usize) -> Result<PipeReader, Error> {
        let open = || {
            let (reader, writer) = io::pipe()?;
            Ok((reader, writer.try_clone()?, writer))
        };
        let (reader, out, errors) = open().map_err(|error| Error::local("make a pipe", error))?;
        self.start(node, out.into(), errors.into())?;
        Ok(reader)
    }

    fn start(&mut self, node: usize, out: Stdio, errors: Stdio) -> Result<(), Error> {
        assert!(self.children[node].is_none(), "node {node} runs already");
        // The file that this process runs, also if a build has replaced it since.
        let mut command = Command::new("/proc/self/exe");
        command.arg("leash").arg(std::process::id().to_string()).arg("--").arg(&self.server).args(self.members[node].arguments());
        for name in OWN_SETTINGS {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(out).stderr(errors).process_group(0);
        let mut running = self.running.0.lock();
        let child = command.spawn().map_err(|error| Error::local(format!("start {}", self.server.display()), error))?;
        running.push(Pid::from_child(&child));
        self.children[node] = Some(child);
        Ok(())
    }

    /// Sends a signal to a node, if it runs.
    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        if let Some(child) = &self.children[node] {
            // Not yet waited for, so the id is still its own; it may have ended, which is found out elsewhere.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Kills nodes with SIGKILL, all before the first is waited for.
    pub(crate) fn kill(&mut self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.signal(*node, Signal::KILL));
        for node in nodes {
            if let Some(mut child) = self.children[*node].take() {
                self.running.0.lock().retain(|pid| *pid != Pid::from_child(&child));
                // A killed child can be waited for, whatever it was doing.
                let _ = child.wait();
            }
        }
    }

    /// The nodes that have ended by themselves since the last call.
    pub(crate) fn deaths(&mut self) -> Vec<Death> {
        let mut deaths = Vec::new();
        for (node, slot) in self.children.iter_mut().enumerate() {
            let Some(child) = slot else { continue };
            // Locked over the wait: once it is reaped, its id may belong to somebody else.
            let mut running = self.running.0.lock();
            let pid = Pid::from_child(child);
            if let Ok(Some(status)) = child.try_wait() {
                running.retain(|other| *other != pid);
                deaths.push(Death { node, status });
                *slot = None;
            }
        }
        deaths
    }

    /// Whether any node runs.
    pub(crate) fn any_running(&self) -> bool {
        self.children.iter().any(Option::is_some)
    }

    /// Asks all nodes to end (SIGTERM), and kills what is left after `patience`. Returns the nodes that had to be killed, and those that
    /// did not end with success.
    pub(crate) fn shut_down(&mut self, patience: Duration) -> (Vec<usize>, Vec<Death>) {
        for node in 0..self.children.len() {
            // A paused one would not hear of it.
            self.signal(node, Signal::CONT);
            self.signal(node, Signal::TERM);
        }
        let deadline = Instant::now() + patience;
        let mut failed = Vec::new();
        while self.any_running() && Instant::now() < deadline {
            failed.extend(self.deaths().into_iter().filter(|death| !death.status.success()));
            std::thread::sleep(POLL);
        }
        let stubborn: Vec<usize> = (0..self.children.len()).filter(|node| self.children[*node].is_some()).collect();
        self.kill(&stubborn);
        (stubborn, failed)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let all: Vec<usize> = (0..self.children.len()).collect();
        self.kill(&all);
    }
}

/// How a process ended, in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => match signal_name(number) {
            Some(name) => format!("signal {number} ({name})"),
            None => format!("signal {number}"),
        },
        (None, None) => "an unknown cause".to_owned(),
    }
}

fn signal_name(number: i32) -> Option<&'static str> {
    let known = [
        (Signal::INT, "SIGINT"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::TERM, "SIGTERM"),
    ];
    known.into_iter().find(|(signal, _)| signal.as_raw() == number).map(|(_, name)| name)
}

/// The hidden command `leash`: ties this process to the life of its parent and becomes the program. Returns only if that fails.
pub(crate) fn leash(arguments: &LeashArguments) -> Error {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return Error::local("tie the process to its parent", error.into());
    }
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_pid().unsigned_abs());
    if parent != Some(arguments.parent) {
        return Error::local("tie the process to its parent", io::Error::other("the parent has died already"));
    }
    let [program, rest @ ..] = arguments.command.as_slice() else {
        return Error::Usage("there is no program to become; name one behind --".to_owned());
    };
    let error = Command::new(program).args(rest).exec();
    Error::local(format!("start {}", Path::new(program).display()), error)
}
