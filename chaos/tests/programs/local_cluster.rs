//! Nodes as processes: started, watched, and above all ended. A shell script stands in for the server: what it would say over the network
//! does not matter here.

use crate::program::{Program, eventually, is_alive, run, signal};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A script in the place of the server, and a folder for the data. `$2` is the id; the pid goes into a file of that name.
struct Server {
    folder: tempfile::TempDir,
    base_port: u16,
}

impl Server {
    fn new(script: &str) -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("server");
        std::fs::write(&path, format!("#!/bin/sh\necho $$ > '{}'/\"pid-$2\"\n{script}\n", folder.path().display())).expect("a script");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
        Server { folder, base_port: free_base_port() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("temporary folders have plain names").to_owned()
    }

    fn id(&self, node: u16) -> String {
        format!("localhost:{}", self.base_port + node)
    }

    /// The command `cluster` with three nodes, all of which have started.
    fn start_cluster(&self) -> Program {
        let (server, data, port) = (self.path("server"), self.path("data"), self.base_port.to_string());
        let program = Program::start(&["cluster", "--server", &server, "--data-dir", &data, "--base-port", &port]);
        for node in 0..3 {
            self.pid(node);
        }
        program
    }

    /// The process id that a node wrote, once it has.
    fn pid(&self, node: u16) -> u32 {
        let file = self.path(&format!("pid-{}", self.id(node)));
        let mut pid = None;
        eventually("the node wrote its pid", || {
            pid = std::fs::read_to_string(Path::new(&file)).ok().and_then(|text| text.trim().parse().ok());
            pid.is_some()
        });
        pid.expect("it was read")
    }
}

/// Three ports in a row that are free together with their client and admin ports.
fn free_base_port() -> u16 {
    let seed = std::process::id() as u16 ^ Instant::now().elapsed().subsec_nanos() as u16;
    let all_free = |base: &u16| {
        let ports = (0..3).flat_map(|node| [base + node, base + node + 1000, base + node + 2000]);
        let bound: Vec<_> = ports.map(|port| TcpListener::bind(("localhost", port))).collect();
        bound.iter().all(Result::is_ok)
    };
    let candidates = (0..2_000).map(|step| 10_000 + (seed % 1_000 + step * 3) % 7_000);
    candidates.into_iter().find(all_free).expect("three free ports in a row")
}

/// Waits in a way that SIGTERM ends at once.
const WAITS: &str = "echo \"ready id=$2\"\nexec sleep 600";
/// Does not hear SIGTERM.
const STUBBORN: &str = "trap '' TERM\nwhile true; do sleep 0.1; done";

#[test]
fn ctrl_c_ends_all_nodes_and_their_output_has_a_prefix() {
    let server = Server::new(WAITS);
    let mut program = server.start_cluster();
    program.wait_for(&format!("{}   | ready id=", server.base_port));
    let pids = [0, 1, 2].map(|node| server.pid(node));
    program.signal("INT");
    let output = program.wait().expect_code(0);
    assert!(output.contains("the data stays in"), "{output}");
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
}

#[test]
fn nodes_that_do_not_hear_are_killed_within_five_seconds() {
    let server = Server::new(STUBBORN);
    let program = server.start_cluster();
    let pids = [0, 1, 2].map(|node| server.pid(node));
    let asked = Instant::now();
    program.signal("TERM");
    let output = program.wait().expect_code(0);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(output.contains("was killed"), "{output}");
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
}

#[test]
fn a_second_ctrl_c_does_not_wait() {
    let server = Server::new(STUBBORN);
    let mut program = server.start_cluster();
    let pids = [0, 1, 2].map(|node| server.pid(node));
    program.signal("INT");
    program.wait_for("stopping all nodes");
    program.signal("INT");
    program.wait().expect_code(130);
    eventually("the nodes are gone", || pids.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn a_killed_node_is_reported_with_the_way_back_and_the_others_go_on() {
    let server = Server::new(WAITS);
    let mut program = server.start_cluster();
    signal(server.pid(1), "KILL");
    program.wait_for(&format!("{} ended by itself: signal 9 (SIGKILL); the others go on", server.id(1)));
    let again = program.wait_for("start it again");
    assert!(again.contains(&format!("--id {} --peers {},{}", server.id(1), server.id(0), server.id(2))), "{again}");
    assert!(is_alive(server.pid(0)) && is_alive(server.pid(2)));
    program.signal("INT");
    program.wait().expect_code(0);
}

#[test]
fn when_all_nodes_end_by_themselves_the_command_ends_with_their_words() {
    let server = Server::new("echo 'apexkv: the folder is locked' >&2\nexit 7");
    let output = server.start_cluster().wait().expect_code(1);
    assert!(output.contains("exit code 7") && output.contains("| apexkv: the folder is locked"), "{output}");
    assert!(output.contains("no node is left"), "{output}");
}

#[test]
fn nodes_die_with_the_program_even_if_it_is_killed() {
    let server = Server::new(WAITS);
    let program = server.start_cluster();
    let pids = [0, 1, 2].map(|node| server.pid(node));
    program.signal("KILL");
    eventually("the nodes are gone", || pids.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn a_busy_port_is_named_before_anything_is_started() {
    let server = Server::new(WAITS);
    let busy = server.base_port + 1 + 2000;
    let _listener = TcpListener::bind(("localhost", busy)).expect("it was free");
    let (path, data, port) = (server.path("server"), server.path("data"), server.base_port.to_string());
    let output = run(&["cluster", "--server", &path, "--data-dir", &data, "--base-port", &port]).expect_code(2);
    let sentence = format!("port {busy}, the admin port of node {}, is in use", server.id(1));
    assert!(output.contains(&sentence) && output.contains("--base-port"), "{output}");
    assert!(!Path::new(&server.path(&format!("pid-{}", server.id(0)))).exists(), "nothing was started");
}

#[test]
fn a_scratch_cluster_whose_node_dies_says_why_and_keeps_the_folder() {
    let server = Server::new("echo 'apexkv: out of luck' >&2\nexit 7");
    let folder = server.path("scratch");
    let output = run(&["run", "--server", &server.path("server"), "--scratch-in", &folder, "--duration", "2s"]).expect_code(1);
    assert!(output.contains("exit code 7") && output.contains("apexkv: out of luck"), "{output}");
    let kept: Vec<_> = std::fs::read_dir(&folder).expect("the parent is there").collect();
    assert_eq!(kept.len(), 1, "the scratch folder was kept");
}

#[test]
fn a_scratch_cluster_that_is_not_wanted_any_more_leaves_nothing_behind() {
    let server = Server::new(WAITS);
    let folder = server.path("scratch");
    let mut program = Program::start(&["run", "--server", &server.path("server"), "--scratch-in", &folder]);
    program.wait_for("Scratch folder");
    // The script never answers, so there is nothing to verify.
    program.signal("INT");
    program.wait().expect_code(130);
    assert_eq!(std::fs::read_dir(&folder).expect("the parent is there").count(), 0);
}
