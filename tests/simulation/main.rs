//! The cluster simulator: whole clusters of the shipping replica, log, store and recovery in one thread, with simulated disks, links,
//! clients and clocks. The seed draws the cluster, the faults and the order in which all work completes.
//!
//! | module | what is in it |
//! |---|---|
//! | `plan` | what a seed draws before anything runs: settings, surroundings, the schedule of faults |
//! | `world` | the queue of what happens next, and everything it happens to |
//! | `node`, `process` | a member: its disk, and the life of its process |
//! | `disk_threads` | preparer, hinter and merger of a member |
//! | `network` | links between members |
//! | `transfers` | snapshots on their way from one member to another |
//! | `clients`, `operations` | connections, pipelined batches, what was asked |
//! | `faults` | faults strike, and are healed |
//! | `damage` | disks that rot, are mixed up, wiped or put back to an old copy, and who may believe their owners |
//! | `repair` | damage is found, the log put aside and fetched again |
//! | `oracle`, `model` | what must hold after every step |
//! | `history` | what the clients saw, for the judge of linearizability |
//! | `counts` | how much of what happened |
//! | `run` | one seed from beginning to end; cutting a failing schedule down |
//! | `swarm`, `report` | many seeds, and what is said about them |
//!
//! Mending record by record, with which the server tries to get by without putting a damaged log aside, is not played here: it runs over
//! connections, before there is a Raft thread. So damage always leads to what the server does where mending fails.
//!
//! `APEXKV_SEED=n` replays one seed and says what happened; `APEXKV_FAULTS=1,4` keeps only these of its faults. `APEXKV_SEEDS=n` runs so
//! many from `APEXKV_FIRST` on, in `APEXKV_THREADS` threads, until `APEXKV_FAILURES` of them have failed; `APEXKV_PROGRESS=1` shows how
//! far it is, as a bar on a terminal and as a line now and then elsewhere.

mod clients;
mod counts;
mod damage;
mod disk_threads;
mod faults;
mod history;
mod model;
mod network;
mod node;
mod operations;
mod oracle;
mod plan;
mod process;
mod random;
mod repair;
mod report;
mod run;
mod swarm;
mod transfers;
mod world;
