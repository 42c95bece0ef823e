//! How much of what happened: plain sums, of one run or of many.

use std::collections::BTreeMap;

use apexkv::server::event::Outcome;

/// See the module's doc.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Inputs of all cores: events, passing time, and rounds.
    pub(crate) events: u64,
    pub(crate) messages: u64,
    /// Messages that vanished without anybody noticing.
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    /// Messages that the sender was told it could not send.
    pub(crate) dropped: u64,
    pub(crate) syncs: u64,
    /// Disk jobs that were under way when their process died.
    pub(crate) jobs_cut: u64,
    pub(crate) elections: u64,
    pub(crate) starts: u64,
    pub(crate) fatal: u64,
    pub(crate) full: u64,
    pub(crate) hints: u64,
    /// Times that segments have left a log.
    pub(crate) retirements: u64,
    pub(crate) merges: u64,
    /// Merges during which their node took something else in.
    pub(crate) merges_disturbed: u64,
    /// Rounds of Raft threads in the middle of a merge.
    pub(crate) merge_rounds: u64,
    /// Files that were removed because the manifest no longer names them.
    pub(crate) discarded: u64,
    /// Snapshots that began to be sent.
    pub(crate) snapshots_begun: u64,
    /// Connections that broke while one was sent.
    pub(crate) snapshots_cut: u64,
    /// Those that went on behind what had arrived.
    pub(crate) snapshots_resumed: u64,
    /// Snapshots for which the receiver had no room.
    pub(crate) snapshots_full: u64,
    /// Snapshots that arrived whole.
    pub(crate) snapshots_received: u64,
    /// Of these, such as had arrived before.
    pub(crate) snapshots_repeated: u64,
    /// Logs that were replaced.
    pub(crate) installations: u64,
    pub(crate) refusals: u64,
    /// Starts that were refused for damaged files.
    pub(crate) gone: u64,
    /// Nodes that were taken out of service because their disk was not their own newest one.
    pub(crate) convicted: u64,
    /// Starts on an older disk that had lost nothing.
    pub(crate) intact: u64,
    /// Starts on an older disk that had lost something.
    pub(crate) forgot: u64,
    /// Nodes that forgot while nobody lived who knew better.
    pub(crate) without_witness: u64,
    /// Faults that would have left less than a majority sound, and did not strike.
    pub(crate) spared: u64,
    /// Files that were read again.
    pub(crate) scrubs: u64,
    /// Damage that was found by it.
    pub(crate) scrub_finds: u64,
    /// Processes that ended because a link met damage.
    pub(crate) damage_met: u64,
    /// Logs that were put aside.
    pub(crate) quarantines: u64,
    /// Of these, before the one put aside earlier had been fetched again.
    pub(crate) quarantines_again: u64,
    /// The files did not say how far they had gone.
    pub(crate) floors_guessed: u64,
    /// A leader has said it.
    pub(crate) floors_lowered: u64,
    /// Files that were changed while the log was being fetched again.
    pub(crate) harmed_while_aside: u64,
    /// Logs that had been fetched again.
    pub(crate) heals: u64,
    pub(crate) healed_by_log: u64,
    pub(crate) healed_by_snapshot: u64,
    /// Votes given by nodes whose log was put aside.
    pub(crate) votes_aside: u64,
    /// Requests for votes that only the log put aside was ahead of.
    pub(crate) refused_for_floor: u64,
    pub(crate) batches: u64,
    pub(crate) written: u64,
    pub(crate) without_effect: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) reads: u64,
    /// Of these, looked up before they were confirmed.
    pub(crate) early_reads: u64,
    pub(crate) scans: u64,
    /// Operations in the histories that were judged.
    pub(crate) judged: u64,
    pub(crate) undecided: u64,
    /// Faults that struck, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// All plain numbers, with what they count.
    pub(crate) fn numbers(&mut self) -> [(&'static str, &mut u64); 54] {
        [
            ("core events", &mut self.events),
            ("messages sent", &mut self.messages),
            ("messages lost unnoticed", &mut self.lost),
            ("messages repeated", &mut self.repeated),
            ("messages dropped", &mut self.dropped),
            ("disk jobs", &mut self.syncs),
            ("disk jobs cut off", &mut self.jobs_cut),
            ("elections won", &mut self.elections),
            ("starts", &mut self.starts),
            ("ends by a failed disk", &mut self.fatal),
            ("segments without room", &mut self.full),
            ("hints made", &mut self.hints),
            ("retirements", &mut self.retirements),
            ("merges", &mut self.merges),
            ("of these disturbed", &mut self.merges_disturbed),
            ("rounds while merging", &mut self.merge_rounds),
            ("files discarded", &mut self.discarded),
            ("snapshots begun", &mut self.snapshots_begun),
            ("snapshots cut", &mut self.snapshots_cut),
            ("snapshots resumed", &mut self.snapshots_resumed),
            ("snapshots without room", &mut self.snapshots_full),
            ("snapshots received", &mut self.snapshots_received),
            ("snapshots repeated", &mut self.snapshots_repeated),
            ("snapshots installed", &mut self.installations),
            ("peers refused", &mut self.refusals),
            ("starts refused", &mut self.gone),
            ("nodes convicted", &mut self.convicted),
            ("older disks, nothing lost", &mut self.intact),
            ("older disks, promises lost", &mut self.forgot),
            ("of these without witness", &mut self.without_witness),
            ("damage spared", &mut self.spared),
            ("files scrubbed", &mut self.scrubs),
            ("damage found by it", &mut self.scrub_finds),
            ("damage met by links", &mut self.damage_met),
            ("logs put aside", &mut self.quarantines),
            ("of these again", &mut self.quarantines_again),
            ("of these of unknown end", &mut self.floors_guessed),
            ("ends told by the leader", &mut self.floors_lowered),
            ("damaged while aside", &mut self.harmed_while_aside),
            ("logs fetched again", &mut self.heals),
            ("of these from the log", &mut self.healed_by_log),
            ("of these with a snapshot", &mut self.healed_by_snapshot),
            ("votes with a log aside", &mut self.votes_aside),
            ("votes refused for it", &mut self.refused_for_floor),
            ("client batches", &mut self.batches),
            ("writes done", &mut self.written),
            ("writes without effect", &mut self.without_effect),
            ("requests refused", &mut self.refused),
            ("outcomes unknown", &mut self.unknown),
            ("reads", &mut self.reads),
            ("of these looked up early", &mut self.early_reads),
            ("pages", &mut self.scans),
            ("operations judged", &mut self.judged),
            ("histories undecided", &mut self.undecided),
        ]
    }

    /// How often clusters did each of the things that they do for their files.
    pub(crate) fn upkeep(&self) -> [(&'static str, u64); 19] {
        [
            ("hints", self.hints),
            ("retirements", self.retirements),
            ("merges", self.merges),
            ("changes during a merge", self.merges_disturbed),
            ("discarded files", self.discarded),
            ("snapshots that were cut", self.snapshots_cut),
            ("snapshots that went on", self.snapshots_resumed),
            ("snapshots that arrived twice", self.snapshots_repeated),
            ("installed snapshots", self.installations),
            ("finds of the scrubber", self.scrub_finds),
            ("logs put aside", self.quarantines),
            ("logs put aside once more", self.quarantines_again),
            ("logs put aside of unknown end", self.floors_guessed),
            ("ends of logs told by the leader", self.floors_lowered),
            ("damage while a log was aside", self.harmed_while_aside),
            ("logs fetched again from a log", self.healed_by_log),
            ("logs fetched again with a snapshot", self.healed_by_snapshot),
            ("votes with a log aside", self.votes_aside),
            ("votes refused for a log aside", self.refused_for_floor),
        ]
    }

    /// Adds another run's.
    pub(crate) fn add(&mut self, other: &Counts) {
        let mut other = other.clone();
        for ((_, sum), (_, more)) in self.numbers().into_iter().zip(other.numbers()) {
            *sum += *more;
        }
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }

    /// An answer to a write.
    pub(crate) fn answer(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Written { .. } => self.written += 1,
            Outcome::NotFound | Outcome::Conflict { .. } => self.without_effect += 1,
            Outcome::Unknown(_) => self.unknown += 1,
            _ => self.refused += 1,
        }
    }
}
