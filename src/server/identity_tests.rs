//! Each way of having forgotten a promise is recognised, and nobody else is convicted.

use super::*;
use crate::protocol::handshake::LinkClass;
use crate::server::shared::bare_hello;
use crate::storage::directory::Identity;

fn founding() -> Founding {
    let member = |id: &str, uuid| FoundingMember { id: id.to_owned(), uuid };
    Founding { cluster: 7, members: vec![member("a:1", 11), member("b:1", 12), member("c:1", 13)] }
}

fn entry(term: u64, index: u64) -> EntryId {
    EntryId { term, index }
}

/// The peer `b:1` in boot 3, with durable term 5 and last entry 5:20.
fn hello() -> Hello {
    let identity = Identity { uuid: 12, boot: 3, nonce: 99 };
    let bare = bare_hello("b:1", "b:1001", identity, ids_of(&founding()), LinkClass::Control);
    Hello { cluster: 7, term: 5, last: entry(5, 20), founding: Some(founding()), ..bare }
}

/// What `a:1` remembers of it.
fn mark() -> Mark {
    Mark { uuid: 12, boot: 3, nonce: 99, term_seen: 5, acknowledged: entry(5, 20) }
}

fn verdict(mark: Mark, hello: &Hello) -> Verdict {
    judge(Standing { id: "a:1", founding: &founding() }, Some(&mark), hello)
}

#[test]
fn the_same_process_is_accepted_again() {
    assert_eq!(verdict(mark(), &hello()), Verdict::Accept { fresh: false });
}

#[test]
fn a_restarted_peer_is_fresh() {
    assert_eq!(verdict(mark(), &Hello { boot: 4, nonce: 5, ..hello() }), Verdict::Accept { fresh: true });
    assert_eq!(verdict(Mark::of_member(&founding().members[1]), &hello()), Verdict::Accept { fresh: true }, "first contact");
}

#[test]
fn another_uuid_is_a_lost_disk() {
    let wiped = Hello { uuid: 50, ..hello() };
    assert!(matches!(verdict(mark(), &wiped), Verdict::Refuse(Refusal::LostDisk { now: 50, joined: 12, .. })));
    let wiped_and_empty = Hello { cluster: 0, founding: None, ..wiped };
    assert!(matches!(verdict(mark(), &wiped_and_empty), Verdict::Refuse(Refusal::LostDisk { .. })), "not taken for one that only waits");
}

#[test]
fn a_lower_boot_or_another_process_of_the_same_boot_is_an_old_copy() {
    for hello in [Hello { boot: 2, ..hello() }, Hello { nonce: 98, ..hello() }] {
        assert!(matches!(verdict(mark(), &hello), Verdict::Refuse(Refusal::OldCopy { .. })), "{hello:?}");
    }
}

#[test]
fn a_durable_term_below_one_seen_is_a_rollback() {
    let back = Hello { boot: 9, term: 4, last: entry(4, 90), ..hello() };
    assert!(matches!(verdict(mark(), &back), Verdict::Refuse(Refusal::RolledBack { .. })));
}

#[test]
fn a_log_shorter_than_what_was_acknowledged_in_its_term_is_a_rollback() {
    for last in [entry(5, 19), entry(4, 30), entry(0, 0)] {
        let back = Hello { boot: 9, last, ..hello() };
        assert!(matches!(verdict(mark(), &back), Verdict::Refuse(Refusal::RolledBack { .. })), "last {last}");
    }
    let longer = Hello { boot: 9, last: entry(5, 21), ..hello() };
    assert_eq!(verdict(mark(), &longer), Verdict::Accept { fresh: true });
}

#[test]
fn a_follower_that_a_later_leader_truncated_is_no_rollback() {
    // It acknowledged 5:20 to us, then we were cut off and the leader of term 6 replaced its suffix.
    let truncated = Hello { term: 6, last: entry(4, 12), ..hello() };
    assert_eq!(verdict(mark(), &truncated), Verdict::Accept { fresh: false });
}

#[test]
fn an_old_entry_acknowledged_in_a_new_term_convicts_nobody() {
    // In term 6 it acknowledged the entry 5:20; its last entry is still that one.
    let mark = Mark { term_seen: 6, ..mark() };
    assert_eq!(verdict(mark, &Hello { term: 6, ..hello() }), Verdict::Accept { fresh: false });
}

#[test]
fn a_peer_that_has_not_stored_its_record_waits() {
    let waiting = Hello { cluster: 0, founding: None, term: 0, last: entry(0, 0), ..hello() };
    assert!(matches!(verdict(Mark::of_member(&founding().members[1]), &waiting), Verdict::Refuse(Refusal::Unfounded { .. })));
}

#[test]
fn foreigners_are_refused_and_both_values_named() {
    let ours = founding();
    let standing = Standing { id: "a:1", founding: &ours };
    let refusal = |mark: Option<&Mark>, hello: Hello| match judge(standing, mark, &hello) {
        Verdict::Refuse(refusal) => refusal.to_string(),
        accepted => panic!("{accepted:?} for {hello:?}"),
    };
    let names_both = |text: String, one: &str, two: &str| assert!(text.contains(one) && text.contains(two), "{text}");
    names_both(refusal(Some(&mark()), Hello { cluster: 0xbeef, ..hello() }), "beef", "0007");
    names_both(refusal(Some(&mark()), Hello { members: vec!["a:1".into(), "b:1".into()], ..hello() }), "a:1,b:1 ", "a:1,b:1,c:1");
    names_both(refusal(None, Hello { id: "x:1".into(), ..hello() }), "x:1", "a:1,b:1,c:1");
    names_both(refusal(Some(&mark()), Hello { versions: (2, 3), ..hello() }), "2 to 3", "speaks 1");
    names_both(refusal(None, Hello { id: "a:1".into(), uuid: 5, ..hello() }), "a:1", "own id");
    names_both(refusal(Some(&mark()), Hello { uuid: 0xabc, ..hello() }), "abc", "00c");
}

#[test]
fn members_are_numbered_by_the_rank_of_their_ids() {
    assert_eq!(numbered(&founding()), [(NodeId(1), "a:1".to_owned()), (NodeId(2), "b:1".to_owned()), (NodeId(3), "c:1".to_owned())]);
}
