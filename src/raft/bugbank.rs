//! Known mistakes of Raft implementations, planted one at a time to show that the tests notice them. Only in builds with
//! `--cfg bugbank`, where `APEXKV_BUG` names the one by its number; in all others no mistake is ever planted, and the compiler drops the
//! places where one would stand.
//!
//! | number | mistake |
//! |---|---|
//! | 2 | an entry of an older term is committed by counting its copies |
//! | 3 | a vote is told before it is durable |
//! | 5 | logs are compared by term and by index, each for itself |
//! | 6 | a follower drops everything behind the previous entry, then appends |
//! | 11 | a vote for an earlier term counts for the present one |
//! | 22 | the leader counts its own copy before it is durable |
//! | 23 | the completion of an old write vouches for the entries that replaced those it wrote |
//! | 28 | a new leader's read does not wait for an entry of its own term |
//! | 30 | a read is confirmed by one answer too few |
//! | 87 | a candidate asks for votes before its own term and vote are durable |

/// Whether the mistake of this number is planted.
#[cfg(bugbank)]
pub(super) fn planted(number: u32) -> bool {
    static PLANTED: std::sync::OnceLock<Option<u32>> = std::sync::OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var("APEXKV_BUG").ok().and_then(|text| text.parse().ok())) == Some(number)
}

/// No mistake is planted in this build.
#[cfg(not(bugbank))]
pub(super) const fn planted(_number: u32) -> bool {
    false
}
