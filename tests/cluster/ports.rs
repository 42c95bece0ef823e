//! Port numbers for nodes that do not collide: not within a node's three ports, not between tests of this process, not with another
//! process that runs the same tests. And a bound on how many clusters run at a time, because a starved node looks like a dead one.

use parking_lot::{Condvar, Mutex};
use std::net::{TcpListener, UdpSocket};

/// Clusters at a time.
const CLUSTERS_MAX: usize = 2;
/// Peer ports of one cluster.
const BLOCK: u16 = 10;
/// Below the range from which the system takes the local ports of outgoing connections, and above the well-known ones.
const REGIONS: std::ops::Range<u16> = 4..10;
/// A region holds peer ports, then client ports, then admin ports, 1,000 each: the distances between a node's ports.
const REGION: u16 = 3000;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run a cluster; given back when it is dropped.
pub(crate) struct Permit(());

impl Permit {
    /// Waits for its turn.
    pub(crate) fn acquire() -> Permit {
        let mut running = RUNNING.lock();
        while *running >= CLUSTERS_MAX {
            ENDED.wait(&mut running);
        }
        *running += 1;
        Permit(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.lock() -= 1;
        ENDED.notify_one();
    }
}

/// Ten peer ports with the client and admin ports that follow from them.
pub(crate) struct Ports {
    first: u16,
    /// Nobody listens on a UDP port of these numbers, so holding one tells other processes that the block is taken, also while the
    /// nodes on it are down.
    _claim: UdpSocket,
}

impl Ports {
    /// A block on which nobody listens.
    pub(crate) fn claim() -> Ports {
        for _ in 0..1000 {
            let first = rand::random_range(REGIONS) * REGION + rand::random_range(0..1000 / BLOCK) * BLOCK;
            let Ok(claim) = UdpSocket::bind(("127.0.0.1", first)) else { continue };
            let ports = Ports { first, _claim: claim };
            if (0..usize::from(BLOCK)).all(|number| ports.is_free(number)) {
                return ports;
            }
        }
        panic!("no free block of ports was found");
    }

    /// The peer port of a node of the block.
    pub(crate) fn peer(&self, number: usize) -> u16 {
        assert!(number < usize::from(BLOCK), "a block has ports for {BLOCK} nodes");
        self.first + number as u16
    }

    fn is_free(&self, number: usize) -> bool {
        [0, 1000, 2000].into_iter().all(|offset| TcpListener::bind(("127.0.0.1", self.peer(number) + offset)).is_ok())
    }
}
