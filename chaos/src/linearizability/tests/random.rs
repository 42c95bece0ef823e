//! Random histories: the judgement agrees with brute force on small ones, accepts every history of a real register, and notices most
//! exchanged answers.

use super::simulated::{Shape, history};
use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::time::{Duration, Instant};

/// Small histories that are good as made, and then with some parts changed at random, so that about half of them are bad.
#[test]
fn small_histories_are_judged_as_by_brute_force() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..6_000 {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut below = |bound: u32| chance.next_u32() % bound;
        let shape = Shape {
            operations: 3 + below(4) as usize,
            processes: 1 + below(4),
            values: 1 + below(4),
            unknown_every: 3 + below(20),
            bare_every: 1 + below(4),
        };
        let mut operations = history(seed, shape);
        operations.truncate(6);
        for _ in 0..below(6) {
            let (one, other) = (below(operations.len() as u32) as usize, below(operations.len() as u32) as usize);
            let answer = operations[other].returned.as_ref().map(|returned| returned.answer.clone());
            match (below(5), &mut operations[one].returned, answer) {
                (0, Some(returned), Some(answer)) => returned.answer = answer,
                (1, returned, _) if seed % 4 == 0 => *returned = None,
                (2, Some(returned), _) => shift_version(&mut returned.answer, below(3)),
                _ => operations[one].invoked = operations[one].invoked.saturating_sub(u64::from(below(5))),
            }
        }
        let expected = super::brute_force::is_linearizable(&operations);
        let verdict = judge(&operations);
        assert_eq!(verdict == Verdict::Linearizable, expected, "seed {seed}: {verdict:?}\n{operations:#?}");
        if let Verdict::Violation { piece, .. } = verdict {
            bad += 1;
            assert!(!piece.is_empty(), "seed {seed}: a violation without a piece");
        } else {
            good += 1;
        }
    }
    assert!(good > 1_000 && bad > 1_000, "{good} good, {bad} bad: the sample says little");
}

fn shift_version(answer: &mut Answer, by: u32) {
    match answer {
        Answer::Written { version }
        | Answer::Deleted { version }
        | Answer::Conflict { current: version }
        | Answer::Found { version: Some(version), .. } => *version = (*version + u64::from(by)).saturating_sub(1),
        _ => {}
    }
}

const SHAPES: [Shape; 4] = [
    Shape { operations: 300, processes: 5, values: 0, unknown_every: 20, bare_every: 4 },
    Shape { operations: 300, processes: 10, values: 0, unknown_every: 200, bare_every: 1000 },
    Shape { operations: 200, processes: 4, values: 3, unknown_every: 30, bare_every: 3 },
    Shape { operations: 150, processes: 8, values: 40, unknown_every: 10, bare_every: 2 },
];

#[test]
fn no_history_of_a_register_is_refused() {
    for seed in 0..300 {
        for (number, shape) in SHAPES.into_iter().enumerate() {
            let verdict = judge(&history(seed, shape));
            assert_eq!(verdict, Verdict::Linearizable, "seed {seed}, shape {number}");
        }
    }
}

#[test]
fn exchanged_answers_are_mostly_noticed_and_never_undecided() {
    for (number, shape) in SHAPES.into_iter().enumerate() {
        let (mut noticed, mut tried, mut short) = (0, 0, 0);
        for seed in 0..60 {
            let mut operations = history(seed, shape);
            let Some((one, other)) = two_of_a_kind(&operations, seed) else { continue };
            let answers = [one, other].map(|at| operations[at].returned.as_ref().map(|returned| returned.answer.clone()));
            for (at, answer) in [(one, answers[1].clone()), (other, answers[0].clone())] {
                if let (Some(returned), Some(answer)) = (&mut operations[at].returned, answer) {
                    returned.answer = answer;
                }
            }
            tried += 1;
            match judge(&operations) {
                Verdict::Violation { piece, .. } => {
                    noticed += 1;
                    short += u32::from(piece.len() <= 8);
                }
                Verdict::Linearizable => {}
                undecided => panic!("seed {seed}, shape {number}: {undecided:?}"),
            }
        }
        assert!(tried > 40 && noticed * 10 >= tried * 8, "shape {number}: noticed {noticed} of {tried}");
        // The rest are contradictions of many answers, such as more deletions than there can have been writes.
        let shown = shape.values > 0 || short * 10 >= noticed * 6;
        assert!(shown, "shape {number}: {short} of {noticed} are shown by few operations");
    }
}

/// Two reads, or two writes, far apart, with different answers.
fn two_of_a_kind(operations: &[Operation], seed: u64) -> Option<(usize, usize)> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed ^ 0xe0);
    let answer = |at: usize| operations[at].returned.as_ref().map(|returned| &returned.answer);
    (0..2_000).find_map(|_| {
        let mut any = || chance.next_u32() as usize % operations.len();
        let (one, other) = (any(), any());
        let kind = std::mem::discriminant(&operations[one].call) == std::mem::discriminant(&operations[other].call);
        let fits = kind && one + 40 < other && answer(one)? != answer(other)?;
        fits.then_some((one, other))
    })
}

/// A cluster under test makes such histories: unique values, ten at a time, some unknown outcomes.
#[test]
fn ten_thousand_operations_of_ten_processes_are_judged_within_seconds() {
    let shape = Shape { operations: 10_000, processes: 10, values: 0, unknown_every: 50, bare_every: 1000 };
    let mut operations = history(7, shape);
    let started = Instant::now();
    assert_eq!(judge(&operations), Verdict::Linearizable);
    let late = operations.len() - 200;
    let position =
        (late..operations.len()).find(|at| matches!(&operations[*at].returned, Some(Returned { answer: Answer::Found { .. }, .. })));
    let position = position.expect("some of the last operations are reads");
    let earlier = operations[position - 300..position].iter().filter_map(|earlier| earlier.returned.as_ref());
    let stale = earlier.map(|returned| returned.answer.clone()).find(|answer| matches!(answer, Answer::Found { .. }));
    if let (Some(returned), Some(stale)) = (&mut operations[position].returned, stale) {
        returned.answer = stale;
    }
    assert!(matches!(judge(&operations), Verdict::Violation { .. }));
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
}
