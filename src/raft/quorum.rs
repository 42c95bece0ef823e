//! Quorum arithmetic, in one place. Pure functions over lists of votes and positions.

use super::message::NodeId;

/// How many of `voters` make a majority: N/2 + 1.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether the voters for which `holds` is true make a majority. False for an empty configuration.
pub fn reached(voters: &[NodeId], holds: impl Fn(NodeId) -> bool) -> bool {
    !voters.is_empty() && voters.iter().filter(|voter| holds(**voter)).count() >= majority(voters.len())
}

/// The greatest value that a majority of the voters has reached. 0 for an empty configuration.
pub fn agreed(voters: &[NodeId], value: impl Fn(NodeId) -> u64) -> u64 {
    if voters.is_empty() {
        return 0;
    }
    let mut values: Vec<u64> = voters.iter().map(|voter| value(*voter)).collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[majority(values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(count: u32) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    #[test]
    fn any_two_majorities_of_up_to_seven_voters_meet() {
        for count in 1..=7_u32 {
            let all = voters(count);
            let majorities: Vec<u32> = (0..1_u32 << count).filter(|mask| reached(&all, |voter| mask >> (voter.0 - 1) & 1 == 1)).collect();
            for first in &majorities {
                assert!(majorities.iter().all(|second| first & second != 0), "{count} voters: disjoint majorities");
            }
            let smallest = majorities.iter().map(|mask| mask.count_ones()).min();
            assert_eq!(smallest, Some(count / 2 + 1));
        }
        assert!(!reached(&[], |_| true));
    }

    #[test]
    fn agreed_is_the_greatest_value_with_a_majority_by_brute_force() {
        for count in 1..=5_usize {
            let all = voters(count as u32);
            for code in 0..4_usize.pow(count as u32) {
                let value = |voter: NodeId| (code / 4_usize.pow(voter.0 - 1) % 4) as u64;
                let expected = (0..4).rev().find(|level| all.iter().filter(|v| value(**v) >= *level).count() > count / 2);
                assert_eq!(Some(agreed(&all, value)), expected);
            }
        }
    }
}
