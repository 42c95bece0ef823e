//! What members do about damage to their files, around the shipping code that decides it: old files are read in the background; damage
//! that a running process meets is remembered on disk; the next start puts everything aside, and the leader fills the log again. The
//! operator is played here, too: a process that says it should be restarted is restarted.
//!
//! What was done to the files of a member is kept in mind until nothing of it can matter any more: then the member counts as sound again,
//! must read everything that it holds, and another member may be hit.

use std::collections::BTreeSet;

use apexkv::error::Error;
use apexkv::raft::Message;
use apexkv::server::event::Event;
use apexkv::storage::disk::Disk;
use apexkv::storage::scrub::ScrubJob;
use apexkv::storage::writer::Job;

use super::node::{Found, Member};
use super::plan::{Death, MILLISECOND, SECOND, Time};
use super::world::{What, World};

/// A process that ends over damage waits no longer than this until the damage is remembered.
const REMEMBER_PATIENCE: Time = 2 * SECOND;
/// How long a process that ended by itself, or was ended by the operator, stays down.
const DOWN: Time = 200 * MILLISECOND;
/// Within this time the operator restarts a process that says it should be.
const OPERATOR: (Time, Time) = (10 * MILLISECOND, 2 * SECOND);
/// Damage to other files than these is put right without help: by the log of the leader.
const IRREPLACEABLE: [&str; 5] = ["identity", "cluster", "hardstate", "manifest", "marks"];

/// What was done to the files of a member behind its back, and how far it has come with that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Harm {
    /// The files that were changed and are still there.
    files: BTreeSet<String>,
    /// Something was changed since the log was last put aside, so that it may be put aside for it.
    untold: bool,
    /// The manifest says that there is damage.
    distrusted: bool,
    /// All of the log was put aside, and it has not been fetched again.
    aside: bool,
    /// The life in which that was done last.
    aside_since: u64,
    /// The disk went back to what it was, or is another one.
    pub(crate) older: bool,
}

impl Harm {
    pub(crate) fn is_any(&self) -> bool {
        self.older || self.aside || self.distrusted || !self.files.is_empty()
    }

    /// Whether all of the log was put aside, and has not been fetched again.
    pub(crate) fn is_aside(&self) -> bool {
        self.aside
    }

    /// A file is changed.
    pub(crate) fn hits(&mut self, file: &str) {
        self.files.insert(file.to_owned());
        self.untold = true;
    }

    /// Whether a start may be refused for it.
    pub(crate) fn is_irreplaceable(&self) -> bool {
        self.older || self.files.iter().any(|file| IRREPLACEABLE.contains(&file.as_str()))
    }
}

impl Member {
    /// Files that are gone hold no damage any more.
    fn forget_lost_files(&mut self) {
        let names = self.disk.list().unwrap_or_default();
        self.harm.files.retain(|file| names.contains(file));
        self.harm.untold &= self.harm.is_any();
    }
}

impl World {
    /// Whether the files of a node may be changed: a majority must always be sound.
    pub(crate) fn may_harm(&mut self, node: usize) -> bool {
        self.members.iter_mut().filter(|member| !member.gone && member.is_damaged()).for_each(Member::forget_lost_files);
        let others = self.members.iter().enumerate().filter(|(other, member)| *other != node && member.is_damaged()).count();
        let may = others + 1 + self.plan.majority() <= self.plan.nodes;
        self.counts.spared += u64::from(!may);
        if may && self.members[node].harm.aside {
            self.counts.harmed_while_aside += 1;
        }
        may
    }

    // ---- start ----

    /// A node has started. With `put_aside` it lacks what it had, and its floor stands for that. With `guessed` the floor is beyond all
    /// that it ever had.
    pub(crate) fn note_repair(&mut self, node: usize, found: &Found, put_aside: bool, guessed: bool) {
        let member = &mut self.members[node];
        let before = member.harm.aside;
        if put_aside {
            // An older copy of a log that was being fetched again ends earlier, and its floor stands for the rest, too.
            assert!(
                member.harm.untold || member.harm.older,
                "{node} puts its log aside up to {}, and nothing has happened to its files",
                found.floor
            );
            self.counts.quarantines += u64::from(member.harm.untold);
            self.counts.quarantines_again += u64::from(member.harm.untold && before);
            self.counts.floors_guessed += u64::from(guessed);
            (member.harm.untold, member.harm.distrusted, member.harm.aside_since) = (false, false, member.lives);
        }
        member.harm.aside = found.floor.term > 0;
        if before && !member.harm.aside {
            self.counts.heals += 1;
        }
        member.forget_lost_files();
    }

    /// The log has been fetched again, as far as it went before.
    pub(crate) fn healed(&mut self, node: usize) {
        let member = &mut self.members[node];
        let Some(process) = &mut member.process else { return };
        self.counts.heals += 1;
        let by_snapshot = std::mem::take(&mut process.filled_by_snapshot);
        self.counts.healed_by_snapshot += u64::from(by_snapshot);
        self.counts.healed_by_log += u64::from(!by_snapshot);
        member.harm.aside = false;
        member.forget_lost_files();
    }

    /// Whether a message is repeated too late. Real links never deliver what a process has said after it has been replaced: an
    /// acknowledgement would name entries that have been put aside since, and a log put aside relies on who leads.
    pub(crate) fn is_outdated(&self, from: usize, to: usize, life: u64) -> bool {
        life < self.members[from].harm.aside_since || self.members[to].harm.aside && life != self.members[from].lives
    }

    // ---- damage met while running ----

    /// The Raft thread wants a file read again.
    pub(crate) fn begin_scrub(&mut self, node: usize, job: ScrubJob) {
        let time = self.disk_time(node, self.plan.prepare);
        let Some(process) = &mut self.members[node].process else { return };
        assert!(process.scrubbing.is_none(), "{node} wants {:?} read while another file is", job.file());
        process.scrubbing = Some(job);
        let life = process.life;
        self.schedule(self.now + time, What::Scrubbed { node, life });
    }

    /// A file has been read again.
    pub(crate) fn scrubbed(&mut self, node: usize, life: u64) {
        let hung = self.members[node].hung_until;
        if self.now < hung {
            return self.schedule(hung, What::Scrubbed { node, life });
        }
        let member = &mut self.members[node];
        let Some(process) = member.process.as_mut().filter(|process| process.life == life) else { return };
        let Some(job) = process.scrubbing.take() else { return };
        let damage = process.scrubber.scrub(&job, &mut |_| {}).err();
        self.counts.scrubs += 1;
        process.inbox.push(Event::Scrubbed);
        if let Some(error @ Error::Corrupt { .. }) = &damage {
            process.inbox.push(Event::Damaged(error.to_string()));
        }
        self.rouse(node);
        if let Some(error) = damage {
            assert!(self.members[node].is_damaged(), "{node} finds damage on a sound disk: {error}");
            self.counts.scrub_finds += 1;
            self.distrust(node);
            let at = self.now + self.random.spread(OPERATOR);
            self.schedule(at, What::Ended { node, life });
        }
    }

    fn distrust(&mut self, node: usize) {
        let member = &mut self.members[node];
        member.harm.distrusted = true;
        if let Some(process) = &mut member.process {
            process.jobs.push_back(Job::Distrust);
        }
        self.begin_job(node);
    }

    /// A process ends over an error that one of its links has met. Damage is remembered first, as long as that does not take too long.
    pub(crate) fn fatal_link(&mut self, node: usize, error: &Error) {
        if !matches!(error, Error::Corrupt { .. }) {
            return self.fatal(node, error);
        }
        assert!(self.members[node].is_damaged(), "{node} meets damage on a sound disk: {error}");
        let Some(process) = self.members[node].process.as_mut().filter(|process| !process.ending) else { return };
        process.ending = true;
        let life = process.life;
        self.counts.damage_met += 1;
        self.distrust(node);
        self.schedule(self.now + REMEMBER_PATIENCE, What::Ended { node, life });
    }

    /// The manifest says now that there is damage.
    pub(crate) fn distrusted(&mut self, node: usize) {
        if let Some(process) = self.members[node].process.as_ref().filter(|process| process.ending) {
            let life = process.life;
            self.schedule(self.now, What::Ended { node, life });
        }
    }

    /// A process has been ended over damage.
    pub(crate) fn ended_over_damage(&mut self, node: usize, life: u64) {
        if self.alive(node, life) {
            self.die(node, Death::Kill, Some(DOWN));
        }
    }

    // ---- votes ----

    /// Counts what a node whose log was put aside says to candidates.
    pub(crate) fn count_vote(&mut self, node: usize, message: &Message) {
        if self.members[node].harm.aside && matches!(message, Message::VoteReply { granted: true }) {
            self.counts.votes_aside += 1;
        }
    }

    /// Counts candidates that the present log of a node would do for, and the one that was put aside does not.
    pub(crate) fn count_refusal(&mut self, node: usize, message: &Message) {
        let Some(process) = &self.members[node].process else { return };
        let core = process.replica.node();
        if let Message::PreVote { last, .. } | Message::Vote { last, .. } = message
            && *last >= core.last()
            && *last < core.floor()
        {
            self.counts.refused_for_floor += 1;
        }
    }
}
