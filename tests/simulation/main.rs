//! The cluster simulator: whole clusters of the shipping replica, log, store and recovery in one thread, with simulated disks, links,
//! clients and clocks. The seed draws the cluster, the faults and the order in which all work completes.
//!
//! | module | what is in it |
//! |---|---|
//! | `plan` | what a seed draws before anything runs: settings, surroundings, the schedule of faults |
//! | `world` | the queue of what happens next, and everything it happens to |
//! | `node`, `process` | a member: its disk, and the life of its process |
//! | `network` | links between members |
//! | `clients`, `operations` | connections, pipelined batches, what was asked |
//! | `faults` | faults strike, and are healed |
//! | `oracle`, `model` | what must hold after every step |
//! | `run` | one seed from beginning to end; cutting a failing schedule down |
//!
//! `APEXKV_SEED=n` replays one seed and says what happened; `APEXKV_FAULTS=1,4` keeps only these of its faults. `APEXKV_SEEDS=n` runs so
//! many from `APEXKV_FIRST` on, `APEXKV_PROGRESS=1` with a line that says how far it is.

mod clients;
mod faults;
mod model;
mod network;
mod node;
mod operations;
mod oracle;
mod plan;
mod process;
mod random;
mod run;
mod swarm;
mod world;
