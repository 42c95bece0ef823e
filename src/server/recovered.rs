//! From what storage recovered to what the core starts with. Pure; called once per start, by the server and by the simulator alike.

use crate::raft::{Config, HardState, Outline, Recovered};
use crate::storage::directory::Founding;
use crate::storage::log::Log;

use super::identity::numbered;

/// The core's state after a start: term and vote, the outline of the recovered log, and what of it is known to be committed.
pub fn recovered(founding: &Founding, hard_state: HardState, log: &Log, commit: u64) -> Recovered {
    let (base, runs, configs) = log.outline();
    let mut outline = Outline::new(base, initial_config(founding));
    runs.iter().for_each(|run| outline.extend(run.term, run.count));
    configs.into_iter().for_each(|(index, config)| outline.push_config(index, config));
    Recovered { hard_state, outline, commit }
}

/// The members of the founding record, all voters.
fn initial_config(founding: &Founding) -> Config {
    let voters = numbered(founding).into_iter().map(|(node, _)| node).collect();
    Config { voters, learners: Vec::new() }
}
