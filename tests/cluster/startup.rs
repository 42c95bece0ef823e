//! Starts that must fail, and how: the exit code that a supervisor looks at, and one sentence that a person can act on.

use crate::harness::Cluster;
use crate::node::{Node, PATIENCE};
use rustix::process::geteuid;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

/// Expects a start to fail with this code, saying all of these on standard error.
fn assert_refused(node: &mut Node, code: i32, says: &[&str]) {
    let (found, said) = node.start_in_vain();
    assert_eq!(found, Some(code), "{said}");
    for text in says {
        assert!(said.contains(text), "'{text}' is not in what {} said:\n{said}", node.id);
    }
}

#[test]
fn wrong_flags_end_with_exit_code_2_and_the_flag_s_name() {
    let mut cluster = Cluster::new(1);
    let node = &mut cluster.nodes[0];
    let id = node.id.clone();
    let wrong: &[(&[&str], &[&str])] = &[
        (&["--pears", "a:1"], &["--pears"]),
        (&["--peers", &id], &["--peers", "itself"]),
        (&["--peers", "localhost"], &["--peers", "localhost", "no port"]),
        (&["--election-timeout", "150"], &["--election-timeout", "unit"]),
        (&["--election-timeout", "10ms"], &["--election-timeout"]),
        (&["--heartbeat-interval", "100ms"], &["--election-timeout", "--heartbeat-interval"]),
        (&["--max-value-bytes", "1GiB"], &["--max-value-bytes"]),
        (&["--max-connections", "0"], &["--max-connections"]),
        (&["--listen-client", &id], &["--listen-client"]),
        (&["--listen-peer", "no-such-host.invalid:1"], &["--listen-peer", "no-such-host.invalid:1"]),
        (&["--listen-client", "192.0.2.1:9001"], &["--listen-client", "192.0.2.1:9001"]),
        (&["--dial", "a:1=b:2"], &["--dial", "--peers"]),
        (&["--log-level", "loud"], &["--log-level", "loud"]),
    ];
    let usual = ["--segment-bytes".to_owned(), "1MiB".to_owned()];
    for (flags, says) in wrong {
        node.flags = usual.iter().cloned().chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
        assert_refused(node, 2, says);
    }
    // The environment counts as a flag that the command line may override.
    node.flags = usual.to_vec();
    node.environment = vec![("APEXKV_REQUEST_TIMEOUT".to_owned(), "5".into())];
    assert_refused(node, 2, &["unit"]);
    node.flags.extend(["--request-timeout".to_owned(), "5s".to_owned()]);
    cluster.start_all();
}

#[test]
fn a_port_in_use_ends_with_exit_code_2_and_its_number() {
    let mut cluster = Cluster::new(1);
    let node = &mut cluster.nodes[0];
    for (address, flag) in [(node.id.clone(), "peers"), (node.client_address.clone(), "clients")] {
        let taken = TcpListener::bind(&address).expect("the port is free");
        assert_refused(node, 2, &[&address, flag, "in use"]);
        drop(taken);
    }
    cluster.start_all();
}

#[test]
fn a_directory_that_another_process_uses_ends_with_exit_code_7_and_leaves_the_first_alone() {
    let cluster = Cluster::started(1);
    let first = &cluster.nodes[0];
    cluster.client(PATIENCE).set(b"key", b"value").expect("the node works");
    let mut second = Node::new(cluster.spare_port(0), Vec::new(), first.data.clone(), cluster.scratch().join("second.stderr"));
    let directory = first.data.display().to_string();
    assert_refused(&mut second, 7, &[&directory, "in use by another process", "--data-dir"]);
    assert_eq!(cluster.client(PATIENCE).get(b"key").expect("the node works"), Some(b"value".to_vec()));
}

#[test]
fn a_directory_of_another_node_ends_with_exit_code_7_and_both_names() {
    let mut cluster = Cluster::started(1);
    cluster.stop_all();
    let first = &cluster.nodes[0];
    let mut second = Node::new(cluster.spare_port(0), Vec::new(), first.data.clone(), cluster.scratch().join("second.stderr"));
    assert_refused(&mut second, 7, &[&first.id, &cluster.nodes[0].data.display().to_string(), "--data-dir"]);
    cluster.start_all();
}

#[test]
fn a_directory_that_cannot_be_used_ends_with_exit_code_7_and_its_name() {
    let mut cluster = Cluster::new(1);
    let scratch = cluster.scratch().to_path_buf();
    let node = &mut cluster.nodes[0];
    node.data = scratch.join("file");
    std::fs::write(&node.data, "not a directory").expect("the scratch directory is writable");
    let name = node.data.display().to_string();
    assert_refused(node, 7, &[&name, "not a directory"]);
    node.data = node.data.join("below");
    assert_refused(node, 7, &[&name]);

    node.data = scratch.join("forbidden");
    std::fs::create_dir(&node.data).expect("the scratch directory is writable");
    let name = node.data.display().to_string();
    for mode in [0o000, 0o555] {
        set_mode(&node.data, mode);
        assert_refused(&mut with_few_rights(node, &scratch), 7, &[&name, "--data-dir"]);
    }
    set_mode(&node.data, 0o755);
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the path is ours");
}

/// The same node as a user for whom a directory's mode means something: nobody, where the tests run as root.
fn with_few_rights(node: &Node, scratch: &Path) -> Node {
    let mut limited = Node::new(1, Vec::new(), node.data.clone(), scratch.join("limited.stderr"));
    limited.id.clone_from(&node.id);
    limited.flags.clone_from(&node.flags);
    if geteuid().is_root() {
        set_mode(scratch, 0o755);
        limited.user = Some(65534);
        limited.program = scratch.join("apexkv");
        std::fs::copy(env!("CARGO_BIN_EXE_apexkv"), &limited.program).expect("the scratch directory is writable");
        set_mode(&limited.program, 0o755);
    }
    limited
}

/// A node with some values in its log, stopped.
pub(crate) fn stopped_with_values() -> Cluster {
    let mut cluster = Cluster::started(1);
    let mut client = cluster.client(PATIENCE);
    for number in 0..20 {
        client.set(format!("key {number}").as_bytes(), format!("needle {number} ").repeat(40).as_bytes()).expect("the node works");
    }
    cluster.stop_all();
    cluster
}

pub(crate) fn flip_byte(path: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the file is ours");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the file is that long");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("the file is ours");
}

#[test]
fn a_damaged_value_ends_with_exit_code_7_and_file_and_offset() {
    let mut cluster = stopped_with_values();
    let node = &mut cluster.nodes[0];
    let segment = node.segments().into_iter().next().expect("a log");
    let name = segment.file_name().expect("it has a name").to_string_lossy().into_owned();
    let bytes = std::fs::read(&segment).expect("the file is ours");
    let at = bytes.windows(9).position(|window| window == b"needle 3 ").expect("the value stands in the log") as u64;
    for offset in [at, at + 100] {
        flip_byte(&segment, offset);
        let (code, said) = node.start_in_vain();
        assert_eq!(code, Some(7), "{said}");
        let named = said.rsplit("offset ").next().and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        let named: u64 = named.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no offset in: {said}"));
        assert!(said.contains(&name), "the damaged file {name} is not named: {said}");
        assert!(named <= offset && offset - named < 64 << 10, "offset {named} is named, the damage is at {offset}: {said}");
        flip_byte(&segment, offset);
    }
    // Nothing was cut away by looking at it.
    cluster.start_all();
    let found = cluster.client(PATIENCE).get(b"key 3").expect("the node works");
    assert_eq!(found, Some(b"needle 3 ".repeat(40)));
}

#[test]
fn missing_and_damaged_files_end_with_exit_code_7_and_their_names() {
    let mut cluster = stopped_with_values();
    let node = &mut cluster.nodes[0];
    let segment = node.segments().into_iter().next().expect("a log");
    let small = ["hardstate", "manifest", "identity", "cluster"].map(|name| node.data.join(name));
    for path in small.iter().chain([&segment]) {
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        let kept = path.with_extension("kept");
        std::fs::rename(path, &kept).expect("the directory is ours");
        assert_refused(node, 7, &[&name]);
        std::fs::rename(&kept, path).expect("the directory is ours");
    }
    for path in &small {
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        let kept = std::fs::read(path).expect("the file is ours");
        std::fs::write(path, vec![0xA5; kept.len()]).expect("the file is ours");
        assert_refused(node, 7, &[&name]);
        std::fs::write(path, kept).expect("the file is ours");
    }
    cluster.start_all();
    assert_eq!(cluster.client(PATIENCE).get(b"key 19").expect("the node works"), Some(b"needle 19 ".repeat(40)));
}
