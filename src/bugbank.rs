//! Known mistakes of systems of this kind, planted one at a time to show that the tests notice them. Only in builds with
//! `--cfg bugbank`, where `APEXKV_BUG` names the one by its number; in all others no mistake is ever planted, and the compiler drops the
//! places where one would stand. Every room may import this one; it imports nothing.
//!
//! `tests/bugbank.sh` reads this table. The suite is the one that is tried first, because it is likely to notice soon.
//!
//! | number | suite | mistake |
//! |---|---|---|
//! | 2 | random | an entry of an older term is committed by counting its copies |
//! | 3 | random | a vote is told before it is durable |
//! | 4 | random | a new term is made durable only together with a vote |
//! | 5 | scripts | logs are compared by term and by index, each for itself |
//! | 6 | random | a follower drops everything behind the previous entry, then appends |
//! | 7 | random | an append that matches shortens a longer log |
//! | 8 | random | a follower commits as far as its log goes, verified or not |
//! | 9 | random | entries that went into files are taken for a conflict |
//! | 10 | random | the term of an entry that has left the log is looked up there |
//! | 11 | model | a vote for an earlier term counts for the present one |
//! | 12 | scripts | a pre-vote is granted while the leader lives |
//! | 13 | scripts | a vote is granted while the leader lives |
//! | 14 | scripts | a leader that hears no majority goes on |
//! | 22 | random | the leader counts its own copy before it is durable |
//! | 23 | random | the completion of an old write vouches for the entries that replaced those it wrote |
//! | 24 | scripts | leadership is handed to a node that lacks entries |
//! | 27 | random | a leader serves reads without asking anybody |
//! | 28 | random | a new leader's read does not wait for an entry of its own term |
//! | 29 | scripts | a read joins the round under way, whose messages left before it arrived |
//! | 30 | random | a read is confirmed by one answer too few |
//! | 36 | simulation | a write in the log is answered as refused when leadership is lost |
//! | 39 | simulation | a condition is decided against what happens to be applied when the entry arrives |
//! | 41 | random | a follower acknowledges what it has not synced |
//! | 42 | units | a sync that failed is tried again |
//! | 44 | units | an interrupted batch is taken for a whole one |
//! | 45 | units | an interrupted batch is recognised by its end alone |
//! | 46 | units | damage to what was committed is taken for an interrupted write and cut off |
//! | 47 | units | zeros are taken for bytes that were never written |
//! | 48 | units | a record's header is believed without a look at its CRC |
//! | 49 | units | a slot is believed wherever it stands |
//! | 50 | units | a prepared segment holds whatever its blocks held before |
//! | 51 | units | the keys of entries that were dropped stay to be applied |
//! | 54 | units | a new segment is used before its name is durable |
//! | 55 | units | a file is renamed into place before its content is durable |
//! | 56 | units | a listed segment whose file is missing is passed over |
//! | 60 | units | a hint is believed without a look at its CRC |
//! | 61 | units | a value is served without a look at its CRC |
//! | 62 | units | a merge drops a deletion whatever other files hold |
//! | 63 | simulation | a merge points a key to its copy although the key has changed |
//! | 70 | simulation | entries leave the log although a snapshot that is under way does not cover them |
//! | 74 | units | a node that lost its disk counts |
//! | 75 | units | an old copy of a node counts |
//! | 76 | units | a node of another cluster counts |
//! | 77 | units | memory is reserved for any length that a peer names |
//! | 86 | units | nothing is done about nodes whose states differ |
//! | 87 | random | a candidate asks for votes before its own term and vote are durable |
//! | 88 | units | when the newer hard state is damaged, the older one is believed |
//! | 89 | units | recovery believes the cache |
//! | 90 | units | an interrupted write is not sealed off: writing goes on in its place |
//! | 92 | units | a hint names operations that were refused |
//! | 93 | units | every empty node founds a cluster |
//! | 94 | random | a heartbeat commits whatever stands in the follower's log |
//! | 95 | units | a value is read from the map before it is written |
//! | 96 | simulation | a read in a pipeline sees the write behind it |
//! | 98 | simulation | a write is answered for the entry that replaced its own |
//! | 100 | units | a lowered limit makes what is stored bad |
//! | 101 | units | a page of a scan is as large as the client likes |
//! | 102 | clients | a connection is closed with unread input, which destroys the last answers |
//! | 103 | simulation | a snapshot that is not needed resets the log |
//! | 105 | random | an acknowledgement leaves before the term it carries is durable |
//! | 106 | units | the manifest names an applied index that is not durable |
//! | 108 | units | the cluster file is written before what it vouches for |
//! | 109 | scripts | a leader that is heard but cannot commit stays |
//! | 110 | scripts | failed elections do not lengthen the timeout |
//! | 111 | units | only a whole sector that was not written marks an interrupted write |
//! | 112 | units | a full disk ends the process |
//! | 113 | units | a log that a newer leader rightly shortened is taken for an old copy |
//! | 114 | units | everything committed is applied in one go, however long ticks wait |
//! | 115 | scripts | a follower answers with the read round of an earlier leader |
//! | 116 | units | a node that puts its log aside forgets how far it went |
//! | 117 | scripts | a node whose log was put aside votes as if it had never held it |
//! | 118 | simulation | a log counts as fetched again before it reaches what was put aside |
//! | 119 | scripts | a node that does not lead says how far a log went whose end was lost |

/// Whether the mistake of this number is planted.
#[cfg(bugbank)]
pub(crate) fn planted(number: u32) -> bool {
    static PLANTED: std::sync::OnceLock<Option<u32>> = std::sync::OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var("APEXKV_BUG").ok().and_then(|text| text.parse().ok())) == Some(number)
}

/// No mistake is planted in this build.
#[cfg(not(bugbank))]
pub(crate) const fn planted(_number: u32) -> bool {
    false
}
