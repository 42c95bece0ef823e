//! A cluster that lives for one run: free ports, a folder of its own, and nothing left of it afterwards unless something went wrong or
//! the user wants to keep it.

use super::members::Member;
use super::network::{Flow, Network, Way};
use super::{Cluster, Death, describe, members, ports, server_binary, status};
use crate::arguments::ScratchArguments;
use crate::error::Error;
use crate::stop::Stop;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time for nodes to be up, know each other and have a leader.
const READY_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Time for an orderly end.
const SHUT_DOWN_MAX: Duration = Duration::from_secs(4);
/// Lines of a dead node's output that are shown.
const LAST_LINES: usize = 8;

/// A scratch cluster. Dropping it kills the nodes and removes the folder, unless it is to be kept.
pub(crate) struct Scratch {
    cluster: Cluster,
    /// If the nodes reach each other through proxies.
    network: Option<Network>,
    folder: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Finds ports, makes the folder, and starts all nodes; a second Ctrl-C kills them and removes the folder.
    pub(crate) fn start(arguments: &ScratchArguments, stop: &Stop) -> Result<Scratch, Error> {
        Scratch::start_over(false, arguments, stop)
    }

    /// The same, with links between the nodes that can be broken.
    pub(crate) fn start_with_network(arguments: &ScratchArguments, stop: &Stop) -> Result<Scratch, Error> {
        Scratch::start_over(true, arguments, stop)
    }

    fn start_over(with_network: bool, arguments: &ScratchArguments, stop: &Stop) -> Result<Scratch, Error> {
        let server = server_binary(arguments.server.as_deref())?;
        let ports = ports::find_free(usize::from(arguments.nodes))?;
        let folder = make_folder(arguments)?;
        let keep = arguments.keep.is_some();
        let mut members = members("127.0.0.1", &ports, &folder);
        let network = if with_network { Some(connect_through_network(&mut members)?) } else { None };
        let mut scratch = Scratch { cluster: Cluster::new(server, members), network, folder, keep };
        let (running, folder) = (scratch.cluster.running(), scratch.folder.clone());
        stop.at_abort(move || {
            running.kill_all();
            if !keep {
                remove(&folder);
            }
        });
        for node in 0..scratch.len() {
            scratch.restart(node)?;
        }
        Ok(scratch)
    }

    /// Number of nodes.
    pub(crate) fn len(&self) -> usize {
        self.cluster.members().len()
    }

    /// Client addresses of all nodes.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.cluster.endpoints()
    }

    /// Name of a node.
    pub(crate) fn id(&self, node: usize) -> String {
        self.cluster.members()[node].id()
    }

    /// Client address of a node.
    pub(crate) fn client(&self, node: usize) -> String {
        self.cluster.members()[node].client()
    }

    /// Process id of a node; 0 if it does not run.
    pub(crate) fn pid(&self, node: usize) -> u32 {
        self.cluster.pid(node).unwrap_or(0)
    }

    /// The scratch folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keep the folder: somebody has to look at it.
    pub(crate) fn keep_folder(&mut self) {
        self.keep = true;
    }

    /// Starts a node that does not run, on the data that it left.
    pub(crate) fn restart(&mut self, node: usize) -> Result<(), Error> {
        let file = self.log_file(node);
        self.cluster.start_with_file(node, &file)
    }

    /// Kills nodes with SIGKILL, all at once.
    pub(crate) fn kill(&mut self, nodes: &[usize]) {
        self.cluster.kill(nodes);
    }

    /// Sends a signal to a node and does not wait for what comes of it. A node that is killed so is still to be given to
    /// [`Scratch::kill`] before it can be started again.
    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        self.cluster.signal(node, signal);
    }

    /// Stops nodes where they stand, until [`Scratch::resume`].
    pub(crate) fn pause(&self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.cluster.signal(*node, Signal::STOP));
    }

    /// Lets paused nodes go on.
    pub(crate) fn resume(&self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.cluster.signal(*node, Signal::CONT));
    }

    /// Changes what links let through; all that are not named are open.
    pub(crate) fn set_links(&self, flows: &[(Way, Flow)]) {
        self.links().set(flows);
    }

    /// Breaks the connections that use one of these ways.
    pub(crate) fn break_links(&self, flows: &[(Way, Flow)]) {
        self.links().break_off(flows);
    }

    fn links(&self) -> &Network {
        self.network.as_ref().expect("only a cluster that was started with a network has links to change")
    }

    /// The node that leads now.
    pub(crate) fn leader(&self) -> Option<usize> {
        status::find_leader(&self.endpoints()).map(|(node, _)| node)
    }

    fn log_file(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{}.log", node + 1))
    }

    /// An error if a node has ended by itself since the last look, with its last words.
    pub(crate) fn check_alive(&mut self) -> Result<(), Error> {
        match self.cluster.deaths().first() {
            None => Ok(()),
            Some(death) => Err(self.death_notice(death)),
        }
    }

    fn death_notice(&self, death: &Death) -> Error {
        let file = self.log_file(death.node);
        let output = std::fs::read(&file).unwrap_or_default();
        let output = String::from_utf8_lossy(&output);
        let lines: Vec<&str> = output.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n    ");
        let how = describe(death.status);
        Error::Failed(format!("node {} ended by itself with {how}; it said in {}:\n    {last}", self.id(death.node), file.display()))
    }

    /// Waits until every node answers, one leads, and all agree on it. Returns whether they do: `stop` ends the wait.
    pub(crate) fn wait_ready(&mut self, stop: &Stop) -> Result<bool, Error> {
        let deadline = Instant::now() + READY_MAX;
        while !self.is_ready() {
            self.check_alive()?;
            if Instant::now() > deadline {
                let folder = self.folder.display();
                return Err(Error::Failed(format!(
                    "the nodes have not agreed on a leader within {READY_MAX:?}; their output is in {folder}"
                )));
            }
            if stop.wait(POLL) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_ready(&self) -> bool {
        let answers: Vec<_> = self.endpoints().iter().map_while(|endpoint| status::ask(endpoint).ok()).collect();
        let leader = answers.first().and_then(|status| status.leader.as_ref());
        answers.len() == self.len()
            && leader.is_some()
            && answers.iter().all(|status| status.leader.as_ref() == leader)
            && answers.iter().filter(|status| status.leads()).count() == 1
    }

    /// Stops all nodes in an orderly way; an error if one of them does not end well.
    pub(crate) fn shut_down(&mut self) -> Result<(), Error> {
        let (stubborn, failed) = self.cluster.shut_down(SHUT_DOWN_MAX);
        if let Some(death) = failed.first() {
            return Err(self.death_notice(death));
        }
        match stubborn.first() {
            None => Ok(()),
            Some(node) => {
                Err(Error::Failed(format!("node {} did not end within {SHUT_DOWN_MAX:?} of SIGTERM and was killed", self.id(*node))))
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let all: Vec<usize> = (0..self.len()).collect();
        self.cluster.kill(&all);
        if !self.keep {
            remove(&self.folder);
        }
    }
}

/// Lets every member dial every other one through a proxy.
fn connect_through_network(members: &mut [Member]) -> Result<Network, Error> {
    let ids: Vec<String> = members.iter().map(Member::id).collect();
    let network = Network::start(&ids)?;
    for (from, member) in members.iter_mut().enumerate() {
        let others = ids.iter().enumerate().filter(|(to, _)| *to != from);
        member.dial = others.map(|(to, id)| (id.clone(), network.address(from, to))).collect();
    }
    Ok(network)
}

/// Removes a folder of our own making. What cannot be removed stays: this is the end of the run, and its result is known.
fn remove(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
}

fn make_folder(arguments: &ScratchArguments) -> Result<PathBuf, Error> {
    if let Some(folder) = &arguments.keep {
        let doing = || format!("make the folder {}", folder.display());
        std::fs::create_dir_all(folder).map_err(|error| Error::local(doing(), error))?;
        let mut entries = std::fs::read_dir(folder).map_err(|error| Error::local(doing(), error))?;
        if entries.next().is_some() {
            return Err(Error::Usage(format!("the folder {} of --keep is not empty: empty it, or name another one", folder.display())));
        }
        return std::path::absolute(folder).map_err(|error| Error::local(doing(), error));
    }
    let parent = arguments.scratch_in.clone().unwrap_or_else(std::env::temp_dir);
    let made = std::fs::create_dir_all(&parent).and_then(|()| {
        let folder = tempfile::Builder::new().prefix("apexkv-scratch-").tempdir_in(&parent)?;
        std::path::absolute(folder.keep())
    });
    made.map_err(|error| Error::local(format!("make a scratch folder in {}", parent.display()), error))
}
