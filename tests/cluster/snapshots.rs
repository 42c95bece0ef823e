//! Followers that were away for longer than the log is kept: they get the state as files, however often the connection breaks and whoever
//! leads, and end up with exactly what the others have.

use crate::harness::{Cluster, wait_for};
use crate::node::{Node, PATIENCE};
use crate::proxy::{Links, between_all};
use apexkv_client::protocol::{Command as Request, Status};
use apexkv_client::{Connection, Pipeline};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

/// How many rounds of absence and return, unless the environment says otherwise.
const ROUNDS: usize = 3;
const ROUNDS_VARIABLE: &str = "APEXKV_SNAPSHOT_ROUNDS";
/// A log that a follower needs is kept up to four times this long.
const RETAINED: usize = 1 << 20;
/// Different keys, so that what is live is large enough for a transfer to be caught in the middle.
const KEYS: u32 = 500;
const VALUE_BYTES: usize = 12 << 10;
/// Written while a follower is away.
const WRITES: usize = 12 * RETAINED / VALUE_BYTES;
/// Requests that are under way at a time.
const DEPTH: usize = 32;
/// Bytes a second of a link while a transfer is to be caught in the middle.
const SLOW: u64 = 3 << 20;
/// A transfer that has got this far is in the middle.
const MIDDLE: u64 = 1 << 20;

/// Written last, and not compared.
const LAST_KEY: &str = "last";

/// A machine that is busy with other things must not look like a dead leader: these tests count on who leads.
const FLAGS: [&str; 4] = ["--retain-log-bytes", "1MiB", "--election-timeout", "2s"];

/// What every node must hold in the end: each key with its value.
type Expected = BTreeMap<String, String>;

fn cluster() -> (Cluster, Links) {
    let mut cluster = Cluster::new(3).with_flags(&FLAGS);
    let links = between_all(&mut cluster);
    cluster.start_all();
    (cluster, links)
}

/// Sets, overwrites and deletes keys on the leader, until enough of it has succeeded.
fn write(leader: &Node, random: &mut StdRng, round: usize, expected: &mut Expected) {
    let deadline = Instant::now() + 3 * PATIENCE;
    let mut pipeline = Pipeline::new(Connection::open(&leader.client_address, PATIENCE, deadline).expect("the client port is open"));
    let mut done = 0;
    while done < WRITES {
        let writes: Vec<(String, Option<String>)> = (0..DEPTH).map(|number| draw(random, round, done + number)).collect();
        for (key, value) in &writes {
            match value {
                Some(value) => pipeline.push(Request::Set, key.as_bytes(), &[value.as_bytes()]),
                None => pipeline.push(Request::Del, key.as_bytes(), &[]),
            }
        }
        pipeline.flush(deadline).expect("the socket takes it");
        for (key, value) in writes {
            match (pipeline.receive(deadline).expect("an answer").status, value) {
                (Status::Ok, Some(value)) => drop(expected.insert(key, value)),
                (Status::Ok | Status::NotFound, None) => drop(expected.remove(&key)),
                // On a busy machine the next segment may not be ready in time; nothing happened.
                (Status::Busy, _) => continue,
                (status, _) => panic!("a write ended with {status:?}"),
            }
            done += 1;
        }
    }
}

/// A key and its new value; `None` to delete it.
fn draw(random: &mut StdRng, round: usize, number: usize) -> (String, Option<String>) {
    let value = (!random.random_ratio(1, 5)).then(|| format!("{round} {number} ").repeat(VALUE_BYTES / 8));
    (format!("key {}", random.random_range(0..KEYS)), value)
}

fn counter(node: &Node, name: &str) -> u64 {
    node.status().map_or(0, |status| status.0["counters"][name].as_u64().unwrap_or_else(|| panic!("there is no counter {name}")))
}

/// Kills a follower, and writes until the log of nobody goes back to where it was.
fn leave_behind(cluster: &mut Cluster, behind: usize, random: &mut StdRng, round: usize, expected: &mut Expected) {
    let (leader, _) = cluster.wait_leader();
    assert_ne!(leader, behind, "only a follower is left behind");
    cluster.wait_caught_up(leader);
    let last = cluster.nodes[behind].wait_status("answers", |_| true).number("last_index");
    cluster.nodes[behind].kill();
    write(&cluster.nodes[leader], random, round, expected);
    for (number, node) in cluster.nodes.iter().enumerate().filter(|(number, _)| *number != behind) {
        node.wait_status(&format!("node {number} has given up the log to {last}"), |status| status.number("first_index") > last + 1);
    }
}

/// Waits until a snapshot has arrived in part.
fn wait_middle(node: &Node, what: &str) {
    wait_for(what, PATIENCE, || (counter(node, "snapshot_bytes_in") >= MIDDLE).then_some(()));
    assert_eq!(counter(node, "snapshots_received"), 0, "the transfer was too fast to be caught in the middle");
}

fn wait_equal(cluster: &Cluster, behind: usize) {
    wait_for("the follower has applied what the leader has", PATIENCE, || {
        let (_, leader) = cluster.wait_leader();
        let status = cluster.nodes[behind].status()?;
        (status.number("applied_index") == leader.number("applied_index")).then_some(())
    });
    assert!(counter(&cluster.nodes[behind], "snapshots_received") > 0, "the log alone cannot have brought it here");
}

/// Keys, versions and values in the directory of a node that does not run.
fn dump(node: &Node) -> BTreeMap<String, (u64, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_apexkv")).arg("dump").arg(&node.data).args(["--keys", "-o", "json"]).output();
    let output = output.expect("the binary can be started");
    assert!(output.status.success(), "{}: {}", node.id, String::from_utf8_lossy(&output.stderr));
    let lines = std::str::from_utf8(&output.stdout).expect("JSON is UTF-8").lines();
    let pairs = lines.map(|line| {
        let pair: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |name: &str| pair[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}")).to_owned();
        (text("key"), (pair["version"].as_u64().expect("a version"), text("value")))
    });
    pairs.collect()
}

/// Stops all nodes, compares what they hold key by key, and starts them again.
fn compare(cluster: &mut Cluster, expected: &Expected) {
    // A directory knows that an entry is committed by what was written behind it, so two more writes prove everything else.
    for _ in 0..2 {
        cluster.client(PATIENCE).set(LAST_KEY.as_bytes(), b"").expect("the cluster works");
    }
    let (leader, _) = cluster.wait_leader();
    cluster.wait_caught_up(leader);
    cluster.stop_all();
    let mut dumps: Vec<_> = cluster.nodes.iter().map(dump).collect();
    dumps.iter_mut().for_each(|dump| drop(dump.remove(LAST_KEY)));
    for (node, dump) in cluster.nodes.iter().zip(&dumps) {
        let same = |(key, value): (&String, &String)| dump.get(key).is_some_and(|(_, found)| found == value);
        let wrong = expected.iter().find(|pair| !same(*pair)).map(|(key, _)| key);
        let found = wrong.and_then(|key| dump.get(key)).map(|(version, value)| (version, &value[..value.len().min(20)]));
        assert!(wrong.is_none(), "{} holds {found:?} under {wrong:?}", node.id);
        let extra = dump.keys().find(|key| !expected.contains_key(*key));
        assert!(extra.is_none(), "{} holds {extra:?}, which was deleted", node.id);
        let versions = |dump: &BTreeMap<String, (u64, String)>| dump.iter().map(|(key, (version, _))| (key.clone(), *version)).collect();
        let (here, there): (Vec<_>, Vec<_>) = (versions(dump), versions(&dumps[0]));
        assert_eq!(here, there, "{} and {} give the same values different versions", node.id, cluster.nodes[0].id);
    }
    cluster.start_all();
}

#[test]
fn a_follower_that_was_away_for_long_gets_files_though_its_connection_breaks() {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let (mut random, mut expected) = (StdRng::seed_from_u64(seed), Expected::new());
    let (mut cluster, links) = cluster();
    for round in 0..rounds {
        let (leader, _) = cluster.wait_leader();
        let behind = (leader + 1 + round % 2) % 3;
        leave_behind(&mut cluster, behind, &mut random, round, &mut expected);
        links.values().for_each(|link| link.set_rate(SLOW));
        cluster.nodes[behind].start();
        wait_middle(&cluster.nodes[behind], "a snapshot arrives");
        let link = &links[&(leader, behind)];
        link.set_cut(true);
        cluster.nodes[behind].wait_says("breaks off");
        links.values().for_each(|link| link.set_rate(0));
        // Meanwhile the files that the snapshot consists of are merged, and go.
        let merges = counter(&cluster.nodes[leader], "merges");
        write(&cluster.nodes[leader], &mut random, round, &mut expected);
        wait_for("files are merged", PATIENCE, || (counter(&cluster.nodes[leader], "merges") > merges).then_some(()));
        let began = Instant::now();
        link.set_cut(false);
        wait_equal(&cluster, behind);
        eprintln!("round {round}: {:?} from the break on", began.elapsed());
        assert!(cluster.nodes[behind].count_said("goes on with the snapshot") > 0, "what had arrived was sent again");
        assert_eq!(cluster.nodes[leader].count_said("cannot be read"), 0, "the snapshot's files went while it was under way");
        compare(&mut cluster, &expected);
    }
}

#[test]
fn a_new_leader_offers_its_own_snapshot_when_the_old_one_dies_in_the_middle() {
    let (mut random, mut expected) = (StdRng::seed_from_u64(1), Expected::new());
    let (mut cluster, links) = cluster();
    let (leader, _) = cluster.wait_leader();
    let behind = (leader + 1) % 3;
    leave_behind(&mut cluster, behind, &mut random, 0, &mut expected);
    links.values().for_each(|link| link.set_rate(SLOW));
    cluster.nodes[behind].start();
    wait_middle(&cluster.nodes[behind], "a snapshot arrives");
    cluster.nodes[leader].kill();
    links.values().for_each(|link| link.set_rate(0));
    wait_equal(&cluster, behind);
    let said = cluster.nodes[behind].output();
    let new = &cluster.nodes[3 - leader - behind];
    assert!(said.contains(&format!("received a snapshot from {}", new.id)), "the new leader sent none");
    let left = std::fs::read_dir(&cluster.nodes[behind].data).expect("the data directory is readable");
    let left: Vec<String> = left.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    assert!(left.iter().all(|name| !name.ends_with(".data.tmp")), "half files stay behind: {left:?}");
    cluster.nodes[leader].start();
    cluster.client(PATIENCE).set(b"key 0", b"after").expect("the cluster works");
    expected.insert("key 0".to_owned(), "after".to_owned());
    compare(&mut cluster, &expected);
}

#[test]
fn an_empty_node_of_a_cluster_that_was_founded_long_ago_gets_everything() {
    let (mut random, mut expected) = (StdRng::seed_from_u64(2), Expected::new());
    let mut cluster = Cluster::new(3).with_flags(&FLAGS);
    cluster.start_all();
    let (leader, _) = cluster.wait_leader();
    let behind = (leader + 1) % 3;
    leave_behind(&mut cluster, behind, &mut random, 0, &mut expected);
    cluster.nodes[behind].start();
    let began = Instant::now();
    wait_equal(&cluster, behind);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "a few megabytes took {took:?}");
    eprintln!("{} bytes in {took:?}, its start included", counter(&cluster.nodes[behind], "snapshot_bytes_in"));
    compare(&mut cluster, &expected);
}
