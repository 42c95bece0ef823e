//! Disks that are full: writes are refused with what is missing, reads go on, leadership goes where there is room, and everything goes on
//! by itself as soon as there is room again.

use crate::harness::{Cluster, wait_for};
use crate::ledger::Ledger;
use crate::node::{Node, PATIENCE};
use crate::small_disk::SmallDisk;
use apexkv_client::protocol::{Command, Status};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Room for some twenty segments of this cluster.
const DISK: u64 = 24 << 20;
const MIB: u64 = 1 << 20;
const VALUE: usize = 20_000;

/// Three nodes on disks of their own.
fn cluster_on_small_disks() -> (Cluster, Vec<SmallDisk>) {
    // A busy machine is not to be taken for a dead leader.
    let mut cluster = Cluster::new(3).with_flags(&["--election-timeout", "2s"]);
    let scratch = cluster.scratch().to_path_buf();
    let nodes = cluster.nodes.iter_mut().enumerate();
    let disks = nodes.map(|(number, node)| SmallDisk::new(node, &scratch.join(format!("disk-{number}")), DISK)).collect();
    cluster.start_all();
    (cluster, disks)
}

/// Waits for the reserve, which is made in the background.
fn assert_reserve(node: &Node) {
    let reserve = node.data.join("reserve");
    let held = || std::fs::metadata(&reserve).ok().filter(|file| file.len() == MIB && file.blocks() * 512 >= MIB);
    wait_for(&format!("the reserve of {} is made, with its blocks", node.id), PATIENCE, held);
    node.wait_status("tells of its reserve", |status| status.0["counters"]["reserve_bytes"] == MIB);
}

/// Writes to one node until it has no place for more, and returns what it says then. What was written before goes to the ledger.
fn write_until_refused(node: &Node, ledger: &mut Ledger) -> String {
    let (mut connection, deadline) = (node.connect(), Instant::now() + PATIENCE);
    for number in 0_u64.. {
        let key = format!("until full {}", number % 50).into_bytes();
        let value = vec![number as u8; VALUE];
        connection.request(Command::Set, &key, &[&value], deadline).expect("the connection stands");
        let response = connection.receive(deadline).expect("an answer");
        let text = String::from_utf8_lossy(response.payload).into_owned();
        match response.status {
            Status::Ok => {
                let version = response.payload.try_into().map(u64::from_le_bytes).expect("a version");
                ledger.acknowledge(&key, value, version);
            }
            // Until the preparer has found out, the disk might only be slow.
            Status::Busy if !text.contains("needs") => std::thread::sleep(Duration::from_millis(5)),
            Status::Busy => return text,
            other => panic!("{} answers {other:?}: {text}", node.id),
        }
    }
    unreachable!("numbers do not end before the deadline")
}

fn no_room(node: &Node) -> String {
    node.wait_status("lacks room", |status| !status.0["no_room"].is_null()).text("no_room").to_owned()
}

/// Writes `count` values through any of these nodes; all must be taken.
fn write(cluster: &Cluster, numbers: &[usize], ledger: &mut Ledger, prefix: &str, count: u64) {
    let mut client = cluster.client_of(numbers, PATIENCE);
    for number in 0..count {
        let key = format!("{prefix} {}", number % 50);
        assert!(ledger.set(&mut client, key.as_bytes(), vec![number as u8; VALUE]), "{key} was not taken");
    }
}

#[test]
fn a_leader_without_room_refuses_by_name_hands_over_and_goes_on_when_there_is_room() {
    let (mut cluster, disks) = cluster_on_small_disks();
    cluster.nodes.iter().for_each(assert_reserve);
    let mut ledger = Ledger::default();
    let (full, before) = cluster.wait_leader();
    let others: Vec<usize> = (0..3).filter(|number| *number != full).collect();
    write(&cluster, &[full], &mut ledger, "before", 100);

    disks[full].fill();
    let refusal = write_until_refused(&cluster.nodes[full], &mut ledger);
    let missing = format!("needs {MIB} bytes");
    let path = cluster.nodes[full].data.display().to_string();
    for text in [&path, &missing, "the file system has", "as soon as there is"] {
        assert!(refusal.contains(text), "'{text}' is not in the refusal: {refusal}");
    }
    let reason = no_room(&cluster.nodes[full]);
    assert!(reason.contains(&path) && reason.contains(&missing), "{reason}");

    // Leadership goes to a node with room; reads and writes go on, also for a client that knows only the full node.
    let leads =
        |number: &usize| cluster.nodes[*number].status().filter(|status| status.leads() && status.number("term") > before.number("term"));
    wait_for("a node with room leads", PATIENCE, || others.iter().find_map(leads));
    write(&cluster, &[full], &mut ledger, "meanwhile", 150);
    ledger.verify(&mut cluster.client_of(&[full], PATIENCE));
    let commit = cluster.wait_leader().1.number("commit_index");
    assert!(cluster.nodes[full].wait_status("answers", |_| true).number("durable_index") < commit, "the disk was not full");

    // It starts without room, follows, and does not lead.
    cluster.nodes[full].kill();
    cluster.nodes[full].start();
    cluster.nodes[full].wait_status("knows a leader", |status| !status.0["leader"].is_null());
    no_room(&cluster.nodes[full]);
    ledger.verify(&mut cluster.client_of(&[full], PATIENCE));
    assert_ne!(cluster.wait_leader().0, full);

    // Its vote counts: without it there would be no new leader.
    let (old, before) = cluster.wait_leader();
    cluster.nodes[old].kill();
    let candidate = (0..3).find(|number| ![old, full].contains(number)).expect("one of three");
    let elected = |status: &crate::node::Status| status.leads() && status.number("term") > before.number("term");
    cluster.nodes[candidate].wait_status("is elected by the full node", elected);
    cluster.nodes[old].start();

    disks[full].make_room();
    let process = cluster.nodes[full].pid();
    cluster.wait_leader();
    write(&cluster, &others, &mut ledger, "after", 20);
    let (leader, _) = cluster.wait_leader();
    cluster.wait_caught_up(leader);
    cluster.nodes[full].wait_status("has room", |status| status.0["no_room"].is_null());
    // Its disk counts again: without it there would be no majority.
    let spare = others.iter().copied().find(|number| *number != leader).expect("two others");
    cluster.nodes[spare].stop();
    write(&cluster, &[leader], &mut ledger, "with it", 20);
    cluster.nodes[spare].start();
    ledger.verify(&mut cluster.client(PATIENCE));
    assert_eq!((cluster.nodes[full].pid(), ledger.unknown), (process, 0));
}

#[test]
fn a_cluster_without_room_anywhere_serves_reads_and_goes_on_when_there_is_room() {
    let (mut cluster, disks) = cluster_on_small_disks();
    let mut ledger = Ledger::default();
    write(&cluster, &[0, 1, 2], &mut ledger, "before", 100);
    disks.iter().for_each(SmallDisk::fill);

    // Leadership may go round once; in the end everyone refuses, and one of them leads and serves reads.
    let mut client = cluster.client(Duration::from_millis(1500));
    let refusal = wait_for("a refusal by all", PATIENCE, || match client.set(b"until full", &[1; VALUE]) {
        Ok(_) => None,
        Err(apexkv_client::Error::Unavailable { attempts, .. }) => {
            let texts: Vec<String> = attempts.iter().map(|attempt| attempt.failure.to_string()).collect();
            texts.into_iter().find(|text| text.starts_with("busy: "))
        }
        Err(apexkv_client::Error::Unknown { .. }) => None,
        Err(error) => panic!("a write without room ended with {error}"),
    });
    let named = refusal.contains(&format!("needs {MIB} bytes")) || refusal.contains("too few nodes have room");
    assert!(named, "{refusal}");
    let (_, before) = cluster.wait_leader();
    let began = Instant::now();
    let mut reader = cluster.client(PATIENCE);
    while began.elapsed() < Duration::from_secs(10) {
        ledger.verify(&mut reader);
        assert!(client.set(b"another", &[2; VALUE]).is_err(), "there is no room");
    }
    let (leader, after) = cluster.wait_leader();
    let elections = after.number("term") - before.number("term");
    assert!(elections <= 2, "{elections} elections: everyone refuses once, and then leadership goes round no more");

    // One that is started without room takes part.
    let follower = (leader + 1) % 3;
    cluster.nodes[follower].kill();
    cluster.nodes[follower].start();
    cluster.nodes[follower].wait_status("follows", |status| !status.0["leader"].is_null());
    ledger.verify(&mut cluster.client(PATIENCE));

    // Another one leads without room for clients, for the sake of reads.
    let (old, before) = cluster.wait_leader();
    cluster.nodes[old].kill();
    let later = |node: &Node| node.status().is_some_and(|status| status.leads() && status.number("term") > before.number("term"));
    wait_for("another leader without room", PATIENCE, || {
        (0..3).filter(|number| *number != old).find(|number| later(&cluster.nodes[*number]))
    });
    ledger.verify(&mut cluster.client(PATIENCE));
    assert!(client.set(b"another", &[2; VALUE]).is_err(), "there is no room");
    cluster.nodes[old].start();
    cluster.wait_leader();

    let processes: Vec<_> = cluster.nodes.iter().map(Node::pid).collect();
    disks.iter().for_each(SmallDisk::make_room);
    write(&cluster, &[0, 1, 2], &mut ledger, "after", 100);
    ledger.verify(&mut cluster.client(PATIENCE));
    assert_eq!(cluster.nodes.iter().map(Node::pid).collect::<Vec<_>>(), processes);
    cluster.nodes.iter().for_each(assert_reserve);
}
