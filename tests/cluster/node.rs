//! One server process: its command line, its directory, its standard error, and what can be done to it.

use crate::harness::wait_for;
use apexkv_client::{Client, Connection};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to do what it does at once on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A node; its process is killed when this is dropped.
pub(crate) struct Node {
    /// The text of `--id`.
    pub(crate) id: String,
    /// The texts of `--peers`.
    pub(crate) peers: Vec<String>,
    /// Where clients reach it.
    pub(crate) client_address: String,
    /// Its data directory.
    pub(crate) data: PathBuf,
    /// Further flags.
    pub(crate) flags: Vec<String>,
    /// Its environment; nothing of this process's own is passed on.
    pub(crate) environment: Vec<(String, OsString)>,
    /// Limit of open files, if not the usual one.
    pub(crate) open_files: Option<u32>,
    /// The server binary.
    pub(crate) program: PathBuf,
    /// Where its standard error goes instead of the file that the tests read.
    pub(crate) sink: Option<File>,
    /// The user to run it as, if not this one.
    pub(crate) user: Option<u32>,
    output: PathBuf,
    /// Length of the output before the newest start.
    output_before: usize,
    child: Option<Child>,
}

impl Node {
    /// A node that has not been started. `output` is where its standard error goes.
    pub(crate) fn new(peer_port: u16, peers: Vec<String>, data: PathBuf, output: PathBuf) -> Node {
        Node {
            id: format!("127.0.0.1:{peer_port}"),
            peers,
            client_address: format!("127.0.0.1:{}", peer_port + 1000),
            data,
            flags: Vec::new(),
            environment: Vec::new(),
            open_files: None,
            program: PathBuf::from(env!("CARGO_BIN_EXE_apexkv")),
            sink: None,
            user: None,
            output,
            output_before: 0,
            child: None,
        }
    }

    /// Starts the process and returns at once.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.id);
        self.output_before = self.all_output().len();
        let stderr = match &self.sink {
            Some(sink) => sink.try_clone().expect("a descriptor is free"),
            None => OpenOptions::new().create(true).append(true).open(&self.output).expect("the scratch directory is writable"),
        };
        let mut command = self.command();
        // The mistake that is planted in this process, if any, is one of the server's.
        let planted = std::env::var_os("APEXKV_BUG").map(|number| ("APEXKV_BUG", number));
        command.env_clear().envs(planted).envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(user) = self.user {
            std::os::unix::process::CommandExt::uid(&mut command, user);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        self.child = Some(command.spawn().expect("the server binary can be started"));
    }

    fn command(&self) -> Command {
        let mut command = match self.open_files {
            None => Command::new(&self.program),
            Some(limit) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\"")).arg(&self.program);
                shell
            }
        };
        command.arg("--id").arg(&self.id).arg("--data-dir").arg(&self.data);
        if !self.peers.is_empty() {
            command.arg("--peers").arg(self.peers.join(","));
        }
        command.args(&self.flags);
        command
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.id)))
    }

    /// Whether it was started and has not ended by itself.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("a child can be waited for").is_none())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is ours and not waited for yet");
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap_or_else(|| panic!("{} does not run", self.id));
        let ended = child.try_wait().expect("a child can be waited for");
        assert!(ended.is_none(), "{} ended by itself: {ended:?}\n{}", self.id, self.output());
        child.kill().expect("the process is ours");
        child.wait().expect("a child can be waited for");
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap_or_else(|| panic!("{} does not run", self.id));
        let status = wait_for("the process ends", PATIENCE, || child.try_wait().expect("a child can be waited for"));
        self.child = None;
        status
    }

    /// Asks it to stop and expects that it does so cleanly.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit();
        assert!(status.success(), "{} stopped with {status}\n{}", self.id, self.output());
    }

    /// Starts it and waits for the end that must follow: its exit code, and what it said.
    pub(crate) fn start_in_vain(&mut self) -> (Option<i32>, String) {
        self.start();
        let status = self.wait_exit();
        (status.code(), self.output())
    }

    /// Standard error of all starts.
    pub(crate) fn all_output(&self) -> String {
        std::fs::read(&self.output).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Standard error since the newest start.
    pub(crate) fn output(&self) -> String {
        self.all_output().split_off(self.output_before)
    }

    /// Waits until standard error holds `text` since the newest start.
    pub(crate) fn wait_says(&self, text: &str) {
        wait_for(&format!("{} says \"{text}\"", self.id), PATIENCE, || self.output().contains(text).then_some(()));
    }

    /// How often standard error holds `text` since the newest start.
    pub(crate) fn count_said(&self, text: &str) -> usize {
        self.output().matches(text).count()
    }

    /// A client that knows this node only.
    pub(crate) fn client(&self, timeout: Duration) -> Client {
        Client::builder().endpoints([self.client_address.clone()]).timeout(timeout).build().expect("the settings are valid")
    }

    /// Its STATUS, if it answers.
    pub(crate) fn status(&self) -> Option<Status> {
        let text = self.client(Duration::from_millis(500)).status(&self.client_address).ok()?;
        Some(Status(serde_json::from_str(&text).expect("STATUS is JSON")))
    }

    /// Waits until its STATUS is as `wanted`.
    pub(crate) fn wait_status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        wait_for(&format!("{}: {what}", self.id), PATIENCE, || self.status().filter(&wanted))
    }

    /// A connection for raw requests.
    pub(crate) fn connect(&self) -> Connection {
        let deadline = Instant::now() + PATIENCE;
        Connection::open(&self.client_address, PATIENCE, deadline).expect("the client port is open")
    }

    /// Processor time that it has used, in clock ticks of a hundredth of a second.
    pub(crate) fn processor_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid().as_raw_nonzero())).expect("the process lives");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // Fields 14 and 15 of the line; the first two stand before the parenthesis.
        [11, 12].iter().map(|at| fields[*at].parse::<u64>().expect("a number of ticks")).sum()
    }

    /// Memory that belongs to it alone, in bytes; files that it maps do not count.
    pub(crate) fn anonymous_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero())).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux tells");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kilobytes") << 10
    }

    /// The log segments in its directory, oldest first.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.data).expect("the data directory is readable");
        let paths = entries.map(|entry| entry.expect("the data directory is readable").path());
        let mut found: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
        found.sort();
        found
    }

    /// Creates or removes the file that stalls the syncs of this node's log, whose name is in its environment.
    pub(crate) fn stall_syncs(&self, stalled: bool) {
        let (_, name) = self.environment.iter().find(|(name, _)| name == STALL_VARIABLE).expect("the node was given a stall file");
        if stalled {
            File::create(name).expect("the scratch directory is writable");
        } else {
            std::fs::remove_file(name).expect("the stall file was created");
        }
    }
}

/// Names the file whose existence stalls syncs.
pub(crate) const STALL_VARIABLE: &str = "APEXKV_TEST_SYNC_STALL_FILE";

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already; either way it is gone afterwards.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A STATUS object.
#[derive(Debug)]
pub(crate) struct Status(pub(crate) Value);

impl Status {
    /// A field that is a number.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("STATUS has no number {name}: {}", self.0))
    }

    /// A field that is text; empty for null.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// Whether the node leads.
    pub(crate) fn leads(&self) -> bool {
        self.text("role") == "leader"
    }
}
