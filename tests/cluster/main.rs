//! The server as its users run it: real processes, real sockets, real files, and the faults that real machines have. Everything is
//! observed from outside, through the client port, the exit code and standard error.
//!
//! | file | what |
//! |---|---|
//! | `ports` | port numbers that nobody else uses, and how many clusters may run at a time |
//! | `node` | one process: start, kill, pause, look at it |
//! | `harness` | a cluster of nodes in a scratch directory, and waiting for conditions |
//! | `proxy` | links between nodes that a test can cut or slow down |
//! | `ledger` | what was acknowledged, and whether it is still there |
//! | `border` | everything that strangers do to the ports, at once |
//! | `failover` | leaders killed, paused and asked to stop, under load |
//! | `partitions` | nodes that live and do not reach each other |
//! | `slow_links` | links that take seconds for a value |
//! | `stalls` | disks that hang for seconds |
//! | `divergence` | nodes whose memory does not hold what their log says |
//! | `sizes` | large values, lowered limits, pipelines |
//! | `founding` | every order of starting, and nodes that must not take part |
//! | `impostors` | wiped, foreign, copied and rolled-back directories |
//! | `startup` | wrong flags, unusable directories, ports in use, damage |
//! | `repair` | damaged logs that come back from the other nodes, or are refused |
//! | `mend` | which copies of which entries are lost, case by case |
//! | `limits` | file descriptors that run out |
//! | `full_disk` | disks that are full, on file systems of a few megabytes |
//! | `snapshots` | followers that need what the log has given up |
//! | `small_disk` | such a file system |
//! | `stopping` | signals |
//! | `strangers` | a client in another language |
//! | `backups` | backups of a cluster under load, and clusters made of them |
//! | `tools` | looking at the directory of a node that does not run |

mod backups;
mod border;
mod divergence;
mod failover;
mod founding;
mod full_disk;
mod harness;
mod impostors;
mod ledger;
mod limits;
mod mend;
mod node;
mod partitions;
mod ports;
mod proxy;
mod repair;
mod sizes;
mod slow_links;
mod small_disk;
mod snapshots;
mod stalls;
mod startup;
mod stopping;
mod strangers;
mod tools;
