//! Exhaustive search over the shipping Raft core: every state that three nodes can reach within given bounds, whatever the order of
//! messages, losses, duplicates, timeouts, completions of disks and crashes, is visited and checked.
//!
//! | module | what is in it |
//! |---|---|
//! | `host` | one member: the core, and a disk that keeps only what was synced |
//! | `world` | members, messages under way, what may happen next |
//! | `check` | what must hold in every state, and the little that must be remembered for it |
//! | `search` | breadth first, on all processors, with a memory of the states visited |
//! | `progress` | how far a long search is |
//! | `bounds` | the sets of bounds, small for every test run and large for `make model` |
//!
//! A space is finite because terms, proposals, crashes, duplicates, heartbeats and reads are each limited, and a link holds few
//! messages (the oldest is lost when one more is sent). Within the limits nothing is left out. Two shortcuts keep it small: a pre-vote is
//! asked and answered in one move, for it changes nothing that lasts; and a crashed member restarts at once, for until then it would
//! only be one that takes no part.
//!
//! `APEXKV_MODEL=full` searches the large bounds, `APEXKV_MODEL_STATES=n` ends each search after so many states, `APEXKV_MODEL_SETS=a,b`
//! leaves out all sets of bounds but these.

mod bounds;
mod check;
mod host;
mod progress;
mod search;
mod world;

use progress::{Progress, grouped, peak_memory};
use search::{Found, search};
use std::io::Write;
use std::time::Instant;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which cannot be")))
}

/// Searches all sets of bounds and prints one line for each.
#[test]
fn no_reachable_state_breaks_a_promise() {
    let full = setting::<String>("APEXKV_MODEL").is_some_and(|value| value == "full");
    let most = setting("APEXKV_MODEL_STATES").unwrap_or(u64::MAX);
    let wanted = setting::<String>("APEXKV_MODEL_SETS");
    let wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| wanted.split(',').any(|one| one == name));
    let sets = if full { bounds::large() } else { bounds::small() };
    let (began, mut total, mut deepest) = (Instant::now(), 0, 0);
    for bounds in sets.iter().filter(|bounds| wanted(bounds.name)) {
        let progress = Progress::new();
        let Found { states, transitions, depth, complete, took, violation } = search(bounds, most, &progress);
        progress.clear();
        (total, deepest) = (total + states, deepest.max(depth));
        let end = if complete { "all of them" } else { "not all" };
        let (count, moves) = (grouped(states), grouped(transitions));
        let line = format!("{bounds}\n         {count} distinct states ({end}), {moves} transitions, depth {depth}, {took:.1?}");
        // Standard error is not captured line by line by the shell, so a long search shows how far it is.
        let _ = writeln!(std::io::stderr(), "{line}");
        if let Some(violation) = violation {
            panic!("{line}\n{violation}");
        }
    }
    let rate = grouped((total as f64 / began.elapsed().as_secs_f64() * 3600.0) as u64);
    let memory = peak_memory().map_or_else(String::new, |mib| format!(", at most {mib} MiB of memory"));
    let (total, took) = (grouped(total), began.elapsed());
    let _ =
        writeln!(std::io::stderr(), "model: {total} distinct states, depth {deepest}, {took:.1?} ({rate} an hour){memory}: no violation");
}
