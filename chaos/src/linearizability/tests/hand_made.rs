//! Histories made by hand, each with what it shows.

use super::*;

#[track_caller]
fn good(operations: &[Operation]) {
    assert_eq!(judge(operations), Verdict::Linearizable);
}

/// The history is bad; returns the operations shown.
#[track_caller]
fn bad(operations: &[Operation]) -> Vec<Operation> {
    match judge(operations) {
        Verdict::Violation { key, piece } => {
            assert_eq!(key, b"k");
            piece
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_and_one_write_are_good() {
    good(&[]);
    good(&[operation(1, (1, 2), put("a"), written(5))]);
    good(&[operation(1, (1, 2), Call::Get, Answer::Absent)]);
}

#[test]
fn a_read_sees_the_write_before_it() {
    let write = operation(1, (1, 2), put("a"), written(5));
    good(&[write.clone(), operation(2, (3, 4), Call::Get, found(5, "a"))]);
    good(&[write.clone(), operation(2, (3, 4), Call::Get, found_value("a"))]);
    bad(&[write.clone(), operation(2, (3, 4), Call::Get, Answer::Absent)]);
    bad(&[write.clone(), operation(2, (3, 4), Call::Get, found(6, "a"))]);
    bad(&[write, operation(2, (3, 4), Call::Get, found(5, "b"))]);
}

#[test]
fn a_read_at_the_same_time_may_see_the_write_or_not() {
    let write = operation(1, (1, 10), put("a"), written(5));
    good(&[write.clone(), operation(2, (2, 3), Call::Get, found(5, "a"))]);
    good(&[write.clone(), operation(2, (2, 3), Call::Get, Answer::Absent)]);
    let saw = operation(2, (2, 3), Call::Get, found(5, "a"));
    bad(&[write, saw, operation(3, (4, 5), Call::Get, Answer::Absent)]);
}

#[test]
fn a_stale_read_is_shown_with_the_writes_it_speaks_of_and_no_more() {
    let mut operations: Vec<Operation> = Vec::new();
    for number in 1..=200_u64 {
        operations.push(operation(1, (10 * number, 10 * number + 2), put(&format!("v{number}")), written(number)));
        operations.push(operation(2, (10 * number + 3, 10 * number + 5), Call::Get, found(number, &format!("v{number}"))));
    }
    let stale = operation(3, (1507, 1508), Call::Get, found(149, "v149"));
    operations.push(stale.clone());
    let piece = bad(&operations);
    assert!(piece.contains(&stale) && piece.len() <= 4, "{piece:#?}");
    assert!(
        piece.iter().any(|shown| shown.returned.as_ref().is_some_and(|returned| returned.at < 1507 && returned.answer != written(149)))
    );
}

#[test]
fn a_lost_update_is_found() {
    bad(&[
        operation(1, (1, 2), put("a"), written(1)),
        operation(1, (3, 8), cas(1, "b"), written(2)),
        operation(2, (3, 8), cas(1, "c"), written(3)),
    ]);
    good(&[
        operation(1, (1, 2), put("a"), written(1)),
        operation(1, (3, 8), cas(1, "b"), written(2)),
        operation(2, (3, 8), cas(1, "c"), Answer::Conflict { current: 2 }),
    ]);
}

#[test]
fn versions_grow_in_the_order_of_the_writes() {
    bad(&[operation(1, (1, 2), put("a"), written(5)), operation(1, (3, 4), put("b"), written(4))]);
    bad(&[operation(1, (1, 9), put("a"), written(5)), operation(2, (1, 9), put("b"), written(5))]);
    good(&[operation(1, (1, 4), put("a"), written(5)), operation(1, (3, 4), put("b"), written(4))]);
}

#[test]
fn a_deletion_needs_something_to_delete() {
    let deleted = Answer::Deleted { version: 6 };
    bad(&[operation(1, (1, 2), Call::Delete, deleted.clone())]);
    let write = operation(1, (1, 2), put("a"), written(5));
    good(&[write.clone(), operation(1, (3, 4), Call::Delete, deleted.clone()), operation(1, (5, 6), Call::Delete, Answer::Absent)]);
    bad(&[write.clone(), operation(1, (3, 4), Call::Delete, Answer::Absent)]);
    good(&[write.clone(), operation(1, (3, 4), Call::Delete, deleted.clone()), operation(1, (5, 6), cas(0, "b"), written(7))]);
    bad(&[write, operation(1, (3, 4), Call::Delete, deleted), operation(1, (5, 6), cas(0, "b"), written(6))]);
}

#[test]
fn a_conflict_tells_the_version_that_stands() {
    let write = operation(1, (1, 2), put("a"), written(5));
    good(&[write.clone(), operation(1, (3, 4), cas(4, "b"), Answer::Conflict { current: 5 })]);
    bad(&[write.clone(), operation(1, (3, 4), cas(4, "b"), Answer::Conflict { current: 6 })]);
    bad(&[write.clone(), operation(1, (3, 4), cas(5, "b"), Answer::Conflict { current: 5 })]);
    bad(&[write, operation(1, (3, 4), cas(5, "b"), Answer::Conflict { current: 0 })]);
    good(&[operation(1, (3, 4), cas(5, "b"), Answer::Conflict { current: 0 })]);
}

#[test]
fn a_write_of_unknown_outcome_may_come_late_or_never_but_not_before_its_call() {
    let write = operation(1, (1, 2), put("a"), written(5));
    let lost = unknown(2, 3, put("b"));
    good(&[write.clone(), lost.clone(), operation(1, (4, 5), Call::Get, found(5, "a"))]);
    good(&[write.clone(), lost.clone(), operation(1, (4, 5), Call::Get, found(6, "b"))]);
    let late = [operation(1, (4, 5), Call::Get, found(5, "a")), operation(1, (60, 70), Call::Get, found(9, "b"))];
    good(&[&[write.clone(), lost.clone()][..], &late].concat());
    let back = [operation(1, (4, 5), Call::Get, found(9, "b")), operation(1, (60, 70), Call::Get, found(5, "a"))];
    bad(&[&[write.clone(), lost][..], &back].concat());
    bad(&[write, operation(1, (4, 5), Call::Get, found(6, "b")), unknown(2, 6, put("b"))]);
}

#[test]
fn a_write_of_unknown_outcome_takes_effect_once() {
    let shown = |time, version, value| operation(2, (time, time + 1), Call::Get, found(version, value));
    let lost = unknown(1, 1, put("a"));
    good(&[lost.clone(), shown(2, 4, "a"), operation(3, (5, 6), put("b"), written(8)), shown(7, 8, "b")]);
    bad(&[lost, shown(2, 4, "a"), operation(3, (5, 6), put("b"), written(8)), shown(9, 10, "a")]);
}

#[test]
fn writes_of_unknown_outcome_need_room_for_their_versions() {
    let writes = [operation(1, (1, 2), put("a"), written(5)), unknown(2, 3, put("b")), unknown(3, 3, put("c"))];
    let reads = [operation(4, (4, 5), Call::Get, found_value("b")), operation(4, (6, 7), Call::Get, found_value("c"))];
    let end = |version| operation(1, (8, 9), put("d"), written(version));
    good(&[&writes[..], &reads, &[end(8)]].concat());
    bad(&[&writes[..], &reads, &[end(7)]].concat());
}

#[test]
fn an_unknown_compare_and_set_is_bound_to_its_version() {
    let write = operation(1, (1, 2), put("a"), written(5));
    let fits = unknown(2, 3, cas(5, "b"));
    let fails = unknown(2, 3, cas(4, "b"));
    let read = operation(1, (4, 5), Call::Get, found(6, "b"));
    good(&[write.clone(), fits, read.clone()]);
    bad(&[write.clone(), fails, read]);
    let chain = [unknown(2, 3, put("x")), unknown(3, 3, cas(7, "y")), operation(1, (9, 10), Call::Get, found(8, "y"))];
    good(&[&[write], &chain[..]].concat());
}

#[test]
fn a_refused_operation_had_no_effect() {
    let refused = operation(1, (1, 2), put("a"), Answer::Refused);
    good(&[refused.clone(), operation(2, (3, 4), Call::Get, Answer::Absent)]);
    bad(&[refused, operation(2, (3, 4), Call::Get, found(1, "a"))]);
}

#[test]
fn an_answer_that_does_not_belong_to_its_call_is_bad() {
    bad(&[operation(1, (1, 2), Call::Get, written(1))]);
}

#[test]
fn keys_are_judged_each_for_itself() {
    let mut other = operation(1, (1, 2), put("a"), written(5));
    other.key = b"j".to_vec();
    good(&[other.clone(), operation(2, (3, 4), Call::Get, Answer::Absent)]);
    let mut wrong = operation(2, (3, 4), Call::Get, Answer::Absent);
    wrong.key = b"j".to_vec();
    let history: History = [other, wrong, operation(2, (3, 4), Call::Get, Answer::Absent)].into_iter().collect();
    assert!(matches!(check(&history), Verdict::Violation { key, .. } if key == b"j"));
}

#[test]
fn what_is_not_decided_is_said() {
    let operations: Vec<Operation> = (1..50).map(|number| operation(1, (number * 2, number * 2 + 1), put("a"), written(number))).collect();
    let history: History = operations.into_iter().collect();
    assert_eq!(super::super::check_within(&history, 10), Verdict::Undecided { key: b"k".to_vec(), steps: 10 });
}
