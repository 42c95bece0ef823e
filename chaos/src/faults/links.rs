//! What a fault means for the links between nodes: which way of which link is held up, slowed or broken. Pure.
//!
//! A link has two ways, and most faults touch both of them.

use super::schedule::Action;
use crate::cluster::network::{Flow, Way};

/// The ways that `action` changes among `nodes` nodes; all others stay open. `victim` is `None` for everyone. Nothing for actions that
/// strike processes.
pub(crate) fn ways(action: Action, victim: Option<usize>, nodes: usize) -> Vec<(Way, Flow)> {
    let all = (0..nodes).flat_map(|from| (0..nodes).filter(move |to| *to != from).map(move |to| (from, to)));
    let touches = |(from, to): Way| victim.is_none_or(|victim| from == victim || to == victim);
    let flow = |way: Way| match action {
        Action::Kill | Action::Pause => None,
        Action::Partition { size, .. } => is_cut(group(victim, size, nodes), way).then_some(Flow::Held),
        Action::OneWay { deaf } => {
            let struck = if deaf { way.1 } else { way.0 };
            (Some(struck) == victim).then_some(Flow::Held)
        }
        Action::Bridge => is_cut(halves(victim.unwrap_or(0), nodes), way).then_some(Flow::Held),
        Action::Slow { delay } => touches(way).then_some(Flow::Slow(delay)),
        Action::Break { life } => touches(way).then_some(Flow::Breaking(life)),
    };
    all.filter_map(|way| flow(way).map(|flow| (way, flow))).collect()
}

/// The bridge, when `victim` is struck: the node after it, so that a struck leader is at one end and not in the middle.
pub(crate) fn bridge(victim: usize, nodes: usize) -> usize {
    (victim + 1) % nodes
}

/// Whether two nodes of different groups are at the ends of `way`. Who is in no group reaches everyone.
fn is_cut(groups: impl Fn(usize) -> Option<usize>, (from, to): Way) -> bool {
    matches!((groups(from), groups(to)), (Some(from), Some(to)) if from != to)
}

/// The victim and those after it in one group, the others in another; everyone: each in its own.
fn group(victim: Option<usize>, size: usize, nodes: usize) -> impl Fn(usize) -> Option<usize> {
    move |node| Some(victim.map_or(node, |victim| usize::from((node + nodes - victim) % nodes < size)))
}

/// The bridge in no group, half of the others, from the victim on, in one, the rest in another.
fn halves(victim: usize, nodes: usize) -> impl Fn(usize) -> Option<usize> {
    move |node| {
        // Counted backwards from the victim, so that the bridge comes last.
        let place = (victim + nodes - node) % nodes;
        (node != bridge(victim, nodes)).then_some(usize::from(place < (nodes - 1) / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn held(action: Action, victim: Option<usize>, nodes: usize) -> Vec<Way> {
        let ways = ways(action, victim, nodes);
        assert!(ways.iter().all(|(_, flow)| *flow == Flow::Held), "{ways:?}");
        ways.into_iter().map(|(way, _)| way).collect()
    }

    #[test]
    fn a_partition_cuts_both_ways_between_the_group_and_the_others() {
        assert_eq!(held(Action::Partition { size: 1, abrupt: false }, Some(2), 3), [(0, 2), (1, 2), (2, 0), (2, 1)]);
        let of_five = held(Action::Partition { size: 2, abrupt: false }, Some(4), 5);
        assert_eq!(of_five.len(), 12, "two nodes times three others, both ways");
        assert!(!of_five.contains(&(4, 0)) && !of_five.contains(&(0, 4)), "the group is the victim and the node after it");
        assert_eq!(held(Action::Partition { size: 1, abrupt: false }, None, 3).len(), 6, "everyone: nobody reaches anybody");
    }

    #[test]
    fn one_way_cuts_what_a_node_says_or_what_it_hears() {
        assert_eq!(held(Action::OneWay { deaf: false }, Some(1), 3), [(1, 0), (1, 2)]);
        assert_eq!(held(Action::OneWay { deaf: true }, Some(1), 3), [(0, 1), (2, 1)]);
    }

    #[test]
    fn a_bridge_reaches_both_sides_that_do_not_reach_each_other() {
        assert_eq!(held(Action::Bridge, Some(0), 3), [(0, 2), (2, 0)]);
        let of_five = held(Action::Bridge, Some(2), 5);
        assert_eq!(of_five.len(), 8, "two nodes times two, both ways");
        assert!(of_five.iter().all(|(from, to)| *from != 3 && *to != 3), "node 3 is the bridge: {of_five:?}");
        assert!(of_five.iter().any(|(from, _)| *from == 2), "the victim is cut off from somebody");
    }

    #[test]
    fn slow_and_breaking_links_are_those_of_the_victim_or_all() {
        let delay = Duration::from_millis(7);
        let ways_of_one = ways(Action::Slow { delay }, Some(0), 3);
        assert_eq!(ways_of_one.len(), 4);
        assert!(ways_of_one.iter().all(|((from, to), flow)| (*from == 0 || *to == 0) && *flow == Flow::Slow(delay)));
        let all = ways(Action::Break { life: delay }, None, 3);
        assert!(all.len() == 6 && all.iter().all(|(_, flow)| *flow == Flow::Breaking(delay)), "{all:?}");
    }

    #[test]
    fn struck_processes_leave_the_links_alone() {
        assert_eq!(ways(Action::Kill, None, 3), []);
        assert_eq!(ways(Action::Pause, Some(1), 3), []);
    }
}
