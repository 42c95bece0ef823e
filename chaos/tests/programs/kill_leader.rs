//! The command that kills the leader: only the leader, and only what is certainly a server of this machine.

use crate::fake::Fake;
use crate::program::{is_alive, run};
use std::process::{Child, Command};

/// A process that sleeps, under the name of this file.
struct Sleeper {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Sleeper {
    fn start(name: &str) -> Sleeper {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join(name);
        std::fs::copy("/bin/sleep", &program).expect("there is a sleep");
        let child = Command::new(&program).arg("600").spawn().expect("it starts");
        Sleeper { child, _folder: folder }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // Killed already if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_process_of_the_leader_is_killed_and_named() {
    let fake = Fake::start(3);
    let mut server = Sleeper::start("apexkv");
    fake.set_leader(Some(1));
    fake.set_pid(server.child.id());
    let output = run(&["kill-leader", "--endpoints", &fake.endpoints()]).expect_code(0);
    assert!(output.contains(fake.address(1)) && output.contains(&format!("pid {}", server.child.id())), "{output}");
    let status = server.child.wait().expect("a child can be waited for");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[test]
fn a_process_that_is_no_server_is_left_alone() {
    let fake = Fake::start(1);
    let other = Sleeper::start("database");
    fake.set_pid(other.child.id());
    let output = run(&["kill-leader", "--endpoints", &fake.endpoints()]).expect_code(2);
    assert!(output.contains("no apexkv") && output.contains("database"), "{output}");
    assert!(is_alive(other.child.id()));
}

#[test]
fn without_a_leader_nothing_is_killed() {
    let fake = Fake::start(2);
    fake.set_leader(None);
    let output = run(&["kill-leader", "--endpoints", &fake.endpoints()]).expect_code(4);
    assert!(output.contains("there is no leader"), "{output}");
}

#[test]
fn without_a_cluster_the_remedy_is_named() {
    let output = run(&["kill-leader", "--endpoints", "127.0.0.1:1"]).expect_code(4);
    assert!(output.contains("make cluster"), "{output}");
}
