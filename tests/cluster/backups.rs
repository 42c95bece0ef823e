//! Backups of a cluster that goes on writing, and new clusters made of them: what was acknowledged before a backup began is in it, all of
//! it is one state, and no version is used twice.

use crate::harness::{Cluster, wait_for};
use crate::node::{Node, PATIENCE};
use crate::startup::flip_byte;
use apexkv_client::backup::{Header, Trailer};
use apexkv_client::protocol::{BACKUP_NEXT, BACKUP_OPEN, Command as Request, Status};
use apexkv_client::{Client, Error, ScanOptions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WRITERS: usize = 3;
const KEYS_PER_WRITER: usize = 10;

/// Key, version and value of everything that was acknowledged, in the order of the acknowledgements.
type Acknowledged = Vec<(Vec<u8>, u64, Vec<u8>)>;

fn restore(file: &Path, node: &Node) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apexkv"));
    command.env_clear().arg("restore").arg(file).arg("--data-dir").arg(&node.data).args(["--id", &node.id]);
    if !node.peers.is_empty() {
        command.args(["--peers", &node.peers.join(",")]);
    }
    command.output().expect("the binary can be started")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Writes a backup into a file. `between` is called after each part.
fn back_up(client: &mut Client, file: &Path, mut between: impl FnMut()) -> Result<Header, Error> {
    let mut backup = client.backup()?;
    let header = backup.header();
    let mut bytes = header.encode().to_vec();
    let mut trailer = Trailer::behind(&header.encode());
    let announced = backup.bytes();
    while let Some((count, records)) = backup.next_records()? {
        trailer.add(count, records);
        bytes.extend_from_slice(records);
        between();
    }
    assert!(trailer.record_bytes <= announced, "{} bytes came, {announced} were announced", trailer.record_bytes);
    bytes.extend_from_slice(&trailer.encode());
    std::fs::write(file, bytes).expect("the scratch directory is writable");
    Ok(header)
}

/// The whole state, page by page; nobody writes.
fn contents(client: &mut Client) -> BTreeMap<Vec<u8>, (u64, Vec<u8>)> {
    let pairs = client.scan(b"", ScanOptions::default()).collect::<Result<Vec<_>, _>>().expect("the cluster works");
    pairs.into_iter().map(|pair| (pair.key, (pair.version, pair.value))).collect()
}

/// Nodes of a new cluster beside the old one, not started.
fn new_nodes(cluster: &Cluster) -> Vec<Node> {
    let ids: Vec<String> = (0..3).map(|number| format!("127.0.0.1:{}", cluster.spare_port(number))).collect();
    let node = |number: usize| {
        let peers = ids.iter().filter(|id| **id != ids[number]).cloned().collect();
        let scratch = cluster.scratch();
        let (data, output) = (scratch.join(format!("new-{number}")), scratch.join(format!("new-{number}.stderr")));
        let mut node = Node::new(cluster.spare_port(number), peers, data, output);
        node.flags.clone_from(&cluster.nodes[0].flags);
        node
    };
    (0..3).map(node).collect()
}

fn client_of(nodes: &[Node]) -> Client {
    let endpoints = nodes.iter().map(|node| node.client_address.clone());
    Client::builder().endpoints(endpoints).timeout(PATIENCE).build().expect("the settings are valid")
}

/// Threads that write the same few keys again and again.
struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<parking_lot::Mutex<Acknowledged>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Writers {
    fn start(cluster: &Cluster) -> Writers {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::<parking_lot::Mutex<Acknowledged>>::default());
        let threads = (0..WRITERS).map(|writer| {
            let (stop, acknowledged, mut client) = (stop.clone(), acknowledged.clone(), cluster.client(PATIENCE));
            thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::SeqCst) {
                    let key = format!("busy {writer} {}", number % KEYS_PER_WRITER).into_bytes();
                    let value = format!("write {number} ").repeat(300).into_bytes();
                    let version = client.set(&key, &value).expect("nothing is broken in this test");
                    acknowledged.lock().push((key, version, value));
                    number += 1;
                }
            })
        });
        let threads = threads.collect();
        let writers = Writers { stop, acknowledged, threads };
        writers.wait_progress(1000);
        writers
    }

    fn wait_progress(&self, count: usize) {
        let before = self.acknowledged.lock().len();
        wait_for("writes are acknowledged", PATIENCE, || (self.acknowledged.lock().len() >= before + count).then_some(()));
    }

    /// The newest acknowledged version of each key.
    fn newest(&self) -> BTreeMap<Vec<u8>, u64> {
        self.acknowledged.lock().iter().map(|(key, version, _)| (key.clone(), *version)).collect()
    }

    fn finish(self) -> Acknowledged {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no writer panicked"));
        std::mem::take(&mut *self.acknowledged.lock())
    }
}

/// Writes keys that nobody touches afterwards, some of them deleted; returns what stands.
fn write_still(client: &mut Client) -> BTreeMap<Vec<u8>, (u64, Vec<u8>)> {
    let mut still = BTreeMap::new();
    for number in 0..200_u32 {
        let key = format!("still {number:03}").into_bytes();
        let value = vec![number as u8; 20 * number as usize];
        still.insert(key.clone(), (client.set(&key, &value).expect("the cluster works"), value));
    }
    for number in (0..200_u32).step_by(3) {
        let key = format!("still {number:03}").into_bytes();
        client.delete(&key).expect("the cluster works");
        still.remove(&key);
    }
    still
}

#[test]
fn a_backup_under_load_becomes_a_new_cluster_that_holds_all_that_was_acknowledged_before() {
    let mut cluster = Cluster::new(3).with_flags(&["--retain-log-bytes", "1MiB"]);
    cluster.start_all();
    let mut client = cluster.client(PATIENCE);
    let still = write_still(&mut client);
    let writers = Writers::start(&cluster);
    let old_cluster = cluster.wait_leader().1.text("cluster_id").to_owned();
    let file = cluster.scratch().join("backup");
    let before = writers.newest();
    let header = back_up(&mut client, &file, || writers.wait_progress(20)).expect("nothing is broken in this test");
    let acknowledged = writers.finish();
    assert!(acknowledged.iter().any(|(_, version, _)| *version > header.index), "writes went on meanwhile");
    cluster.stop_all();

    let mut nodes = new_nodes(&cluster);
    for node in &nodes {
        let output = restore(&file, node);
        assert!(output.status.success(), "{}", said(&output));
        let check = Command::new(env!("CARGO_BIN_EXE_apexkv")).arg("check").arg(&node.data).output().expect("it can be started");
        assert!(check.status.success(), "{}", said(&check));
    }
    nodes.iter_mut().for_each(Node::start);
    let mut client = client_of(&nodes);
    let state = contents(&mut client);
    for (key, expected) in &still {
        assert_eq!(state.get(key), Some(expected), "{}", key.escape_ascii());
    }
    assert_eq!(state.len(), still.len() + WRITERS * KEYS_PER_WRITER, "what was deleted is gone");
    for (key, version) in &before {
        let (found, value) = &state[key];
        assert!((*version..=header.index).contains(found), "{}: {found}, {version} was acknowledged before", key.escape_ascii());
        let newest = acknowledged.iter().filter(|(other, version, _)| other == key && *version <= header.index).max_by_key(|write| write.1);
        let expected = newest.map(|(_, version, value)| (*version, value)).expect("it was acknowledged before");
        assert_eq!((*found, value), expected, "{}: one state at {}", key.escape_ascii(), header.index);
    }
    check_versions(&mut client, &still, header.index);
    let new_cluster = nodes[0].wait_status("knows its cluster", |status| status.number("commit_index") > header.index);
    assert_ne!(new_cluster.text("cluster_id"), old_cluster);
    let state = contents(&mut client);
    nodes.iter_mut().for_each(Node::kill);
    nodes.iter_mut().for_each(Node::start);
    assert!(contents(&mut client_of(&nodes)) == state, "the same after a restart");
}

/// Old versions still count for conditions, and new ones are above all of them.
fn check_versions(client: &mut Client, still: &BTreeMap<Vec<u8>, (u64, Vec<u8>)>, index: u64) {
    let (key, (version, _)) = still.first_key_value().expect("some keys stand");
    let refused = client.compare_and_set(key, version + 1, b"x").expect_err("another version");
    assert_eq!(refused, Error::Conflict { current: *version });
    let new = client.compare_and_set(key, *version, b"new").expect("the version that was backed up");
    assert!(new > index, "version {new} is not above {index}");
    let refused = client.compare_and_set(b"still 000", index, b"x").expect_err("a deleted key");
    assert_eq!(refused, Error::Conflict { current: 0 });
    assert!(client.set(b"still 000", b"again").expect("the cluster works") > new);
}

#[test]
fn a_restore_makes_nothing_of_a_damaged_file_and_nothing_in_a_directory_that_is_not_empty() {
    let cluster = Cluster::started(1);
    let mut client = cluster.client(PATIENCE);
    client.set(b"key", &[7; 5000]).expect("the node works");
    let file = cluster.scratch().join("backup");
    back_up(&mut client, &file, || {}).expect("the node works");
    let nodes = new_nodes(&cluster);
    flip_byte(&file, 1000);
    let refused = restore(&file, &nodes[0]);
    assert_eq!(refused.status.code(), Some(7));
    let text = said(&refused);
    assert!(text.contains("backup is damaged at offset 48") && text.lines().count() == 1, "{text}");
    assert!(!nodes[0].data.exists(), "nothing was made");
    flip_byte(&file, 1000);
    assert_eq!(restore(&file, &nodes[0]).status.code(), Some(0));
    for (occupied, reason) in [(&nodes[0], "not empty"), (&cluster.nodes[0], "in use by another process")] {
        let refused = restore(&file, occupied);
        let text = said(&refused);
        assert!(refused.status.code() == Some(7) && text.contains(reason) && text.lines().count() == 1, "{text}");
    }
    let missing = restore(&PathBuf::from("/missing/backup"), &nodes[1]);
    assert!(missing.status.code() == Some(7) && said(&missing).contains("/missing/backup"), "{}", said(&missing));
    for wrong in [&["restore"][..], &["restore", "x", "--id", "a:1"], &["restore", "x", "--data-dir", "/x", "--id", "nonsense"]] {
        let refused = Command::new(env!("CARGO_BIN_EXE_apexkv")).env_clear().args(wrong).output().expect("it can be started");
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    }
}

/// A request on a connection of its own: the status and the payload.
fn ask(connection: &mut apexkv_client::Connection, value: &[&[u8]]) -> (Status, Vec<u8>) {
    let deadline = Instant::now() + PATIENCE;
    connection.request(Request::Backup, &[], value, deadline).expect("the node is up");
    let response = connection.receive(deadline).expect("the node is up");
    (response.status, response.payload.to_vec())
}

#[test]
fn backups_are_few_belong_to_their_connection_and_are_served_by_the_leader() {
    let cluster = Cluster::steady(3);
    let (leader, _) = cluster.wait_leader();
    cluster.client(PATIENCE).set(b"key", b"value").expect("the cluster works");
    let follower = &cluster.nodes[(leader + 1) % 3];
    let (status, address) = ask(&mut follower.connect(), &[&[BACKUP_OPEN]]);
    assert_eq!((status, &address[..]), (Status::NotLeader, cluster.nodes[leader].client_address.as_bytes()));

    let mut connections: Vec<_> = (0..5).map(|_| cluster.nodes[leader].connect()).collect();
    let opened: Vec<(Status, Vec<u8>)> = connections.iter_mut().map(|connection| ask(connection, &[&[BACKUP_OPEN]])).collect();
    assert!(opened[..4].iter().all(|(status, payload)| (*status, payload.len()) == (Status::Ok, 48)), "{opened:?}");
    assert_eq!(opened[4].0, Status::Busy);
    let id = |number: usize| opened[number].1[..8].to_vec();
    let next = |id: &[u8], position: u64| [&[BACKUP_NEXT], id, &position.to_le_bytes()].concat();
    for wrong in [next(&id(1), 0), next(&id(0), 1), next(&id(0), u64::MAX)] {
        assert_eq!(ask(&mut connections[0], &[&wrong]).0, Status::BadRequest, "another's, or out of order");
    }
    for shape in [&[][..], &[2], &[BACKUP_OPEN, 0], &[BACKUP_NEXT, 1, 2]] {
        assert_eq!(ask(&mut connections[0], &[shape]).0, Status::BadRequest, "{shape:?}");
    }
    let (status, part) = ask(&mut connections[0], &[&next(&id(0), 0)]);
    assert_eq!((status, part[0], u64::from_le_bytes(part[1..9].try_into().expect("8 bytes"))), (Status::Ok, 1, 1));
    assert!(part[13..].ends_with(b"keyvalue"), "{part:?}");
    let (status, end) = ask(&mut connections[0], &[&next(&id(0), 1)]);
    assert_eq!((status, end.len(), end[0]), (Status::Ok, 13, 0));
    assert_eq!(ask(&mut connections[0], &[&next(&id(0), 2)]).0, Status::BadRequest, "it is over");
    assert_eq!(ask(&mut connections[4], &[&[BACKUP_OPEN]]).0, Status::Ok, "one has ended");
    connections.clear();
    wait_for("those whose connections are gone are closed", PATIENCE, || {
        let mut others: Vec<_> = (0..4).map(|_| cluster.nodes[leader].connect()).collect();
        others.iter_mut().all(|connection| ask(connection, &[&[BACKUP_OPEN]]).0 == Status::Ok).then_some(())
    });
}

#[test]
fn a_backup_goes_on_where_its_node_no_longer_leads_and_ends_where_it_dies() {
    let mut cluster = Cluster::started(3);
    let mut client = cluster.client(PATIENCE);
    for number in 0..40 {
        client.set(format!("key {number}").as_bytes(), &vec![number; 100_000]).expect("the cluster works");
    }
    let (leader, _) = cluster.wait_leader();
    let mut backup = client.backup().expect("the cluster works");
    backup.next_records().expect("the leader is up").expect("there is more than a part");
    cluster.nodes[leader].signal(rustix::process::Signal::STOP);
    wait_for("another leads", PATIENCE, || {
        let leads = |number: usize| number != leader && cluster.nodes[number].status().is_some_and(|status| status.leads());
        (0..3).any(leads).then_some(())
    });
    cluster.nodes[leader].signal(rustix::process::Signal::CONT);
    cluster.nodes[leader].wait_status("follows", |status| !status.leads());
    let mut records = 0;
    backup.next_records().expect("the state stands still").expect("there is more than a part");
    while records < 10 {
        records += backup.next_records().expect("the state stands still").expect("there is more").0;
    }
    cluster.nodes[leader].kill();
    let ended = loop {
        match backup.next_records() {
            Ok(Some(_)) => {}
            ended => break ended.map(|part| part.is_some()),
        }
    };
    assert!(matches!(ended, Err(Error::Unavailable { .. })), "{ended:?}");
    let mut client = cluster.client_of(&[(leader + 1) % 3, (leader + 2) % 3], Duration::from_secs(10));
    back_up(&mut client, &cluster.scratch().join("backup"), || {}).expect("the others go on");
}
