//! A file system of a few megabytes for one node, and a way to fill it and to make room again. Where this process may not mount one, the
//! node's disk is as large as the machine's and only said to be full; with `APEXKV_SMALL_DISKS=mounted` that is a failure.

use crate::node::Node;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the file that bounds what a node takes for free.
const FREE_BYTES_VARIABLE: &str = "APEXKV_TEST_FREE_BYTES_FILE";
/// With the value `mounted`: only real file systems will do.
const DEMAND_VARIABLE: &str = "APEXKV_SMALL_DISKS";

/// Where a node's data directory lies. Dropped before the cluster that uses it.
pub(crate) enum SmallDisk {
    /// A file system of its own, mounted here.
    Mounted(PathBuf),
    /// This file says how many bytes are free.
    Told(PathBuf),
}

impl SmallDisk {
    /// Gives a node that has not been started a disk of `bytes` under `place`.
    pub(crate) fn new(node: &mut Node, place: &Path, bytes: u64) -> SmallDisk {
        std::fs::create_dir(place).expect("the scratch directory is writable");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "apexkv-test"]).arg(place);
        let mounted = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if mounted.is_ok_and(|status| status.success()) {
            node.data = place.join("data");
            return SmallDisk::Mounted(place.to_path_buf());
        }
        let demanded = std::env::var_os(DEMAND_VARIABLE).is_some_and(|value| value == "mounted");
        assert!(!demanded, "a file system cannot be mounted here: run this as root, or under `unshare --map-root-user --mount`");
        eprintln!("no file system can be mounted here: {} is only told that its disk is full", node.id);
        let file = place.join("free-bytes");
        std::fs::write(&file, bytes.to_string()).expect("the scratch directory is writable");
        node.environment.push((FREE_BYTES_VARIABLE.to_owned(), file.clone().into()));
        SmallDisk::Told(file)
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        match self {
            SmallDisk::Mounted(place) => {
                let mut ballast = File::create(place.join("ballast")).expect("a name needs no room");
                for part in [64 << 10, 4096, 1] {
                    let full = loop {
                        if let Err(error) = ballast.write_all(&vec![0; part]) {
                            break error;
                        }
                    };
                    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
                }
            }
            SmallDisk::Told(file) => std::fs::write(file, "0").expect("the file is ours"),
        }
    }

    /// Takes back what [`SmallDisk::fill`] did.
    pub(crate) fn make_room(&self) {
        match self {
            SmallDisk::Mounted(place) => std::fs::remove_file(place.join("ballast")).expect("it was filled"),
            SmallDisk::Told(file) => std::fs::write(file, (1_u64 << 30).to_string()).expect("the file is ours"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let SmallDisk::Mounted(place) = self {
            // The node may run still; what it has open goes with it.
            let _ = Command::new("umount").arg("--lazy").arg(place).status();
        }
    }
}
