//! Exhaustive search over the shipping Raft core: every state that three nodes can reach within given bounds, whatever the order of
//! messages, losses, duplicates, timeouts, completions of disks and crashes, is visited and checked.
//!
//! | module | what is in it |
//! |---|---|
//! | `host` | one member: the core, and a disk that keeps only what was synced |
//! | `world` | members, messages under way, what may happen next |
//! | `check` | what must hold in every state, and the little that must be remembered for it |
//! | `search` | depth first, with a memory of the states visited |
//! | `bounds` | the sets of bounds, small for every test run and large for `make model` |
//!
//! A space is finite because terms, proposals, crashes, duplicates, heartbeats and reads are each limited, and a link holds few
//! messages (the oldest is lost when one more is sent). Within the limits nothing is left out. Two shortcuts keep it small: a pre-vote is
//! asked and answered in one move, for it changes nothing that lasts; and a crashed member restarts at once, for until then it would
//! only be one that takes no part.
//!
//! `APEXKV_MODEL=full` searches the large bounds, `APEXKV_MODEL_STATES=n` ends each search after so many states.

mod bounds;
mod check;
mod host;
mod search;
mod world;

use search::{Found, search};
use std::io::Write;

/// Searches all sets of bounds and prints one line for each.
#[test]
fn no_reachable_state_breaks_a_promise() {
    let full = std::env::var("APEXKV_MODEL").is_ok_and(|value| value == "full");
    let most = std::env::var("APEXKV_MODEL_STATES").ok().map(|text| text.parse().expect("APEXKV_MODEL_STATES is a number"));
    let mut total = 0;
    for bounds in if full { bounds::large() } else { bounds::small() } {
        let found = search(&bounds, most.unwrap_or(u64::MAX));
        let Found { states, transitions, depth, complete, took, violation } = found;
        total += states;
        let end = if complete { "all" } else { "not all" };
        // Standard error is not captured line by line by the shell, so a long search shows how far it is.
        let line = format!("{bounds}: {states} distinct states ({end}), {transitions} transitions, depth {depth}, {took:.1?}");
        let _ = writeln!(std::io::stderr(), "{line}");
        if let Some(violation) = violation {
            panic!("{line}\n{violation}");
        }
    }
    let _ = writeln!(std::io::stderr(), "model: {total} distinct states, no violation");
}
