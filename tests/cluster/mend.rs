//! The corruption matrix of Protocol-Aware Recovery with real processes: four entries on three nodes, each copy whole or not. Where a
//! copy of each is left the cluster answers all of them, where none is all nodes refuse. `APEXKV_MASKS` says how many of the 4,096
//! cases are drawn (8 if it is not set); the whole matrix is in `src/server/mending_tests.rs`, without processes.

use crate::harness::Cluster;
use crate::node::{Node, PATIENCE};
use crate::repair::{stopped_with_values, value, wait_healed};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::os::unix::fs::FileExt;
use std::path::Path;

const ENTRIES: usize = 4;

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// Puts the files of one directory, which are all that is in it, in the place of another's.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).expect("the scratch directory is writable");
    for entry in std::fs::read_dir(from).expect("the directory is ours").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("the scratch directory is writable");
    }
}

/// Spoils the copy of one value on one node: one byte of it, or all.
fn spoil(node: &Node, number: usize, whole: bool) {
    let needle = value(number);
    let found = node.segments().into_iter().find_map(|segment| {
        let bytes = std::fs::read(&segment).expect("the file is ours");
        let at = bytes.windows(needle.len()).position(|window| window == needle)?;
        Some((segment, at as u64))
    });
    let (segment, at) = found.expect("the value stands in the log");
    let noise = vec![0xA5; if whole { needle.len() } else { 1 }];
    let file = std::fs::OpenOptions::new().write(true).open(segment).expect("the file is ours");
    file.write_all_at(&noise, at).expect("the file is ours");
}

/// Whether some entry has no whole copy.
fn is_lost(mask: u32) -> bool {
    (0..ENTRIES).any(|entry| (0..3).all(|node| mask & 1 << (ENTRIES * node + entry) != 0))
}

fn check(cluster: &mut Cluster, mask: u32) {
    cluster.nodes.iter_mut().for_each(Node::start);
    if is_lost(mask) {
        for node in &mut cluster.nodes {
            let (status, said) = (node.wait_exit(), node.output());
            assert_eq!(status.code(), Some(7), "mask {mask:012b}: {said}");
            assert!(said.contains("no node of the cluster has a good copy"), "mask {mask:012b}: {said}");
        }
        return;
    }
    cluster.wait_leader();
    (0..3).for_each(|node| wait_healed(cluster, node));
    let mut client = cluster.client(PATIENCE);
    for number in 0..ENTRIES {
        let found = client.get(format!("key {number}").as_bytes()).expect("the cluster works");
        assert!(found == Some(value(number)), "mask {mask:012b}: key {number}");
    }
    cluster.stop_all();
}

#[test]
fn four_entries_on_three_nodes_recover_where_a_copy_of_each_is_left_and_are_refused_where_none_is() {
    let seed = number_of("APEXKV_SEED").unwrap_or_else(rand::random);
    let count = number_of("APEXKV_MASKS").unwrap_or(8);
    eprintln!("APEXKV_SEED={seed} APEXKV_MASKS={count}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut masks: Vec<u32> = (1..1 << (3 * ENTRIES)).collect();
    masks.shuffle(&mut random);
    let mut cluster = stopped_with_values(ENTRIES);
    let kept: Vec<_> = cluster.nodes.iter().map(|node| node.data.with_extension("kept")).collect();
    cluster.nodes.iter().zip(&kept).for_each(|(node, kept)| copy(&node.data, kept));
    for mask in masks.into_iter().take(count as usize) {
        for (number, kept) in kept.iter().enumerate() {
            let node = &cluster.nodes[number];
            copy(kept, &node.data);
            for entry in (0..ENTRIES).filter(|entry| mask & 1 << (ENTRIES * number + entry) != 0) {
                spoil(node, entry, random.random_bool(0.5));
            }
        }
        check(&mut cluster, mask);
    }
}
