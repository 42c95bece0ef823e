//! Runs the built program as a user would. The cluster is a fake: nodes of this process that speak the client protocol and can be told
//! to lose, to lie and to go away; or shell scripts in the place of the server where only processes matter.
//!
//! `attach` has the load and its verdict, `local_cluster` the processes, `kill_leader` that command, `usage` the refusals.

mod attach;
mod fake;
mod kill_leader;
mod local_cluster;
mod program;
mod usage;
