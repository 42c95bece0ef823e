//! A client that shares no line with ours: the one page of Python in `tests/python`, and with it the wire protocol byte by byte.

use crate::harness::Cluster;
use std::path::Path;
use std::process::Command;

#[test]
fn the_wire_protocol_holds_byte_by_byte_for_a_client_in_python() {
    // Two paused followers must not cost the leader its role before it has answered.
    let mut cluster = Cluster::new(3).with_flags(&["--election-timeout", "2s"]);
    cluster.start_all();
    let (leader, _) = cluster.wait_leader();
    cluster.wait_caught_up(leader);
    let (leader, follower) = (&cluster.nodes[leader], &cluster.nodes[(leader + 1) % 3]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/conformance.py");
    let run =
        Command::new("python3").arg("-B").arg(script).args([&leader.client_address, &follower.client_address]).arg(&leader.data).output();
    let run = run.unwrap_or_else(|error| panic!("this test needs python3 (3.8 or later, no packages) on the PATH: {error}"));
    let (told, complaint) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{}\n{told}{complaint}", run.status);
    assert_eq!(told.lines().filter(|line| line.starts_with("ok ")).count(), told.lines().count(), "{told}");
}
