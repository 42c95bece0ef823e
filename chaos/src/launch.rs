//! The command `cluster`: nodes on fixed ports in one terminal, their output line by line with a prefix, until Ctrl-C. It watches and
//! reports; it never restarts a node by itself, so that a killed node stays killed until the user says otherwise.

use crate::arguments::{ADMIN_PORT_OFFSET, ClusterArguments};
use crate::cluster::status::{self, Status};
use crate::cluster::{Cluster, Death, check_free, describe, members, server_binary};
use crate::error::{EXIT_OK, EXIT_VIOLATION, Error};
use crate::screen::{Colour, Screen};
use crate::stop::Stop;
use std::fmt::Display;
use std::io::{BufRead, BufReader, PipeReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How often the nodes are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Time for an orderly end, before what is left is killed.
const SHUT_DOWN_MAX: Duration = Duration::from_secs(4);
const NODE_COLOURS: [Colour; 5] = [Colour::Cyan, Colour::Yellow, Colour::Magenta, Colour::Blue, Colour::Green];

/// Runs the command; the number is the exit code.
pub(crate) fn launch(arguments: &ClusterArguments) -> Result<u8, Error> {
    let server = server_binary(arguments.server.as_deref())?;
    let highest = arguments.base_port.saturating_add(arguments.nodes - 1).saturating_add(ADMIN_PORT_OFFSET);
    if highest == u16::MAX {
        return Err(Error::Usage(format!("--base-port {} leaves no room for the admin ports: use at most 63000", arguments.base_port)));
    }
    let ports: Vec<u16> = (0..arguments.nodes).map(|node| arguments.base_port + node).collect();
    let members = members("localhost", &ports, &arguments.data_dir);
    let other = if arguments.base_port < 50_000 { arguments.base_port + 10_000 } else { 8_001 };
    check_free(&members, &format!("choose other ports, for example with --base-port {other}"))?;
    let stop = Stop::install()?;
    let screen = Arc::new(Screen::new(Arc::clone(&stop), false));
    let cluster = Cluster::new(server, members);
    let running = cluster.running();
    stop.at_abort(move || running.kill_all());
    let mut launcher =
        Launcher { watched: vec![Watched::default(); cluster.members().len()], cluster, screen, leader: None, greeted: false };
    launcher.start_all(&arguments.data_dir)?;
    let outcome = launcher.watch(&stop);
    launcher.stop_all(&arguments.data_dir);
    Ok(outcome)
}

/// What is known of a node.
#[derive(Clone, Debug, Default)]
struct Watched {
    /// It answers.
    up: bool,
    /// It has ended by itself once.
    died: bool,
}

struct Launcher {
    cluster: Cluster,
    screen: Arc<Screen>,
    watched: Vec<Watched>,
    /// Position and term of the newest leader.
    leader: Option<(usize, u64)>,
    greeted: bool,
}

impl Launcher {
    fn say(&self, text: impl Display) {
        self.screen.line(format_args!("{:<7} | {text}", "cluster"));
    }

    fn id(&self, node: usize) -> String {
        self.cluster.members()[node].id()
    }

    fn start_all(&mut self, data_dir: &Path) -> Result<(), Error> {
        self.say(format_args!(
            "starting {} nodes of {}, files in {}",
            self.watched.len(),
            self.cluster.server().display(),
            data_dir.display()
        ));
        for node in 0..self.watched.len() {
            let output = self.cluster.start_with_pipe(node)?;
            let prefix =
                self.screen.paint(NODE_COLOURS[node % NODE_COLOURS.len()], format_args!("{:<7} |", self.cluster.members()[node].port));
            let screen = Arc::clone(&self.screen);
            let spawned = thread::Builder::new().name(format!("output-{node}")).spawn(move || pass_on(output, &prefix, &screen));
            spawned.map_err(|error| Error::local("start a thread for a node's output", error))?;
        }
        Ok(())
    }

    /// Reports what happens until Ctrl-C, or until no node is left.
    fn watch(&mut self, stop: &Stop) -> u8 {
        while !stop.wait(TICK) {
            for death in self.cluster.deaths() {
                self.report_death(&death);
            }
            if !self.cluster.any_running() && !self.any_answers() {
                self.say(self.screen.paint(Colour::Red, "no node is left; the reasons stand above"));
                return EXIT_VIOLATION;
            }
            for node in 0..self.watched.len() {
                if let Ok(status) = status::ask(&self.cluster.members()[node].client()) {
                    self.report_status(node, &status);
                } else if self.watched[node].died {
                    self.watched[node].up = false;
                }
            }
            self.greet();
        }
        EXIT_OK
    }

    /// Whether a node that died has been started again by hand, in another terminal.
    fn any_answers(&self) -> bool {
        self.cluster.endpoints().iter().any(|endpoint| status::ask(endpoint).is_ok())
    }

    fn report_death(&mut self, death: &Death) {
        self.watched[death.node] = Watched { up: false, died: true };
        let how = describe(death.status);
        let text = format!("{} ended by itself: {how}; the others go on", self.id(death.node));
        self.say(self.screen.paint(Colour::Red, text));
        let left = self.watched.iter().filter(|watched| !watched.died || watched.up).count();
        if 2 * left <= self.watched.len() {
            self.say(format_args!("{left} of {} nodes are left: no majority, so nothing can be read or written", self.watched.len()));
        }
        let command = self.cluster.members()[death.node].command_line(&shown_path(self.cluster.server()));
        self.say(format_args!("start it again in another terminal with: {command}"));
    }

    fn report_status(&mut self, node: usize, status: &Status) {
        if !self.watched[node].up {
            let again = if self.watched[node].died { " again" } else { "" };
            self.watched[node].up = true;
            let pid = status.pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
            self.say(format_args!("{} is up{again}: pid {pid}, clients at {}", self.id(node), self.cluster.members()[node].client()));
        }
        if status.leads() && self.leader.is_none_or(|(_, term)| term < status.term) {
            self.leader = Some((node, status.term));
            let pid = status.pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            let text = format!("{}{pid} leads in term {}; the others follow", self.id(node), status.term);
            self.say(self.screen.paint(Colour::Green, text));
        }
    }

    /// Once all is well, what to do next.
    fn greet(&mut self) {
        if self.greeted || self.leader.is_none() || !self.watched.iter().all(|watched| watched.up) {
            return;
        }
        self.greeted = true;
        let client = shown_path(&self.cluster.server().with_file_name("apexkv-client"));
        let mut endpoints = String::new();
        if self.cluster.members()[0].port != 8001 {
            endpoints = format!(" --endpoints {}", self.cluster.endpoints().join(","));
        }
        self.say("ready; Ctrl-C stops all nodes. In another terminal:");
        self.say(format_args!("    {}{endpoints} set greeting hello", client.display()));
        self.say(format_args!("    {}{endpoints} get greeting", client.display()));
    }

    fn stop_all(&mut self, data_dir: &Path) {
        if !self.cluster.any_running() {
            return;
        }
        self.say("stopping all nodes");
        let (stubborn, failed) = self.cluster.shut_down(SHUT_DOWN_MAX);
        for death in failed {
            self.say(format_args!("{} did not end well: {}", self.id(death.node), describe(death.status)));
        }
        for node in stubborn {
            self.say(format_args!("{} did not end within {SHUT_DOWN_MAX:?} and was killed", self.id(node)));
        }
        self.say(format_args!("all nodes have ended; the data stays in {}", data_dir.display()));
    }
}

/// A path as one would type it here.
fn shown_path(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_owned()
}

/// Copies a node's output to the screen, line by line, until the node ends.
fn pass_on(output: PipeReader, prefix: &str, screen: &Screen) {
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        screen.line(format_args!("{prefix} {}", String::from_utf8_lossy(&line).trim_end()));
        line.clear();
    }
}
