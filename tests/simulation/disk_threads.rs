//! The disk's threads besides the log writer: preparer, hinter and merger. Each does one thing at a time; what comes of it goes through the
//! log writer. A merge lets the Raft thread work between its steps, as the real one does.

use apexkv::error::Error;
use apexkv::server::event::Event;
use apexkv::storage::merge::MergeJob;
use apexkv::storage::preparer::PrepareError;
use apexkv::storage::retire::Discarded;
use apexkv::storage::writer::Job;

use super::node::Chore;
use super::world::{What, World};

/// So many steps of a merge in a thousand are followed by a round of the Raft thread.
const DISTURBED: u64 = 150;

impl World {
    pub(crate) fn begin_preparing(&mut self, node: usize) {
        let time = self.disk_time(node, self.plan.prepare);
        let Some(process) = &mut self.members[node].process else { return };
        if process.preparing.is_some() {
            return;
        }
        if let Some(bytes) = process.requests.pop_front() {
            process.preparing = Some(bytes);
            let life = process.life;
            self.schedule(self.now + time, What::Prepared { node, life });
        }
    }

    /// The preparer is done.
    pub(crate) fn prepared(&mut self, node: usize, life: u64) {
        let hung = self.members[node].hung_until;
        let full = self.members[node].full_until > self.now;
        if self.now < hung {
            return self.schedule(hung, What::Prepared { node, life });
        }
        let Some(process) = self.members[node].process.as_mut().filter(|process| process.life == life) else { return };
        let Some(bytes) = process.preparing.take() else { return };
        let prepared = process.preparer.prepare(bytes);
        let reserved = process.preparer.keep_reserve();
        match prepared {
            Ok(segment) => {
                process.jobs.push_back(Job::List(segment));
                self.begin_job(node);
            }
            Err(PrepareError::Full(reason)) => {
                assert!(full, "{node} has no room on an empty disk: {reason}");
                self.counts.full += 1;
                process.inbox.push(Event::NotPrepared(reason));
                self.rouse(node);
            }
            Err(PrepareError::Fatal(error)) => return self.fatal(node, &error),
        }
        if let Err(PrepareError::Fatal(error)) = reserved {
            return self.fatal(node, &error);
        }
        self.begin_preparing(node);
    }

    /// The hinter is done.
    pub(crate) fn hinted(&mut self, node: usize, life: u64) {
        let member = &mut self.members[node];
        if self.now < member.hung_until {
            let hung = member.hung_until;
            return self.schedule(hung, What::Hinted { node, life });
        }
        let Some(process) = member.process.as_mut().filter(|process| process.life == life) else { return };
        let Some(job) = process.hinting.take() else { return };
        match process.hinter.make(&job) {
            Ok(hinted) => {
                self.counts.hints += 1;
                process.jobs.push_back(Job::Hint(hinted));
                self.begin_job(node);
            }
            Err(PrepareError::Full(reason)) => {
                assert!(member.full_until > self.now, "{node} has no room on an empty disk: {reason}");
                process.inbox.push(Event::NotHinted { retry: true });
                self.rouse(node);
            }
            Err(PrepareError::Fatal(error @ Error::Corrupt { .. })) => {
                assert!(member.harm.is_any(), "{node} finds damage on a sound disk: {error}");
                process.inbox.push(Event::NotHinted { retry: false });
                self.rouse(node);
            }
            Err(PrepareError::Fatal(error)) => self.fatal(node, &error),
        }
    }

    /// Asks the merger for something.
    pub(crate) fn ask_merger(&mut self, node: usize, chore: Chore) {
        let Some(process) = &mut self.members[node].process else { return };
        process.chores.push_back(chore);
        if process.chores.len() == 1 && process.merger.is_some() {
            self.begin_chore(node);
        }
    }

    fn begin_chore(&mut self, node: usize) {
        let time = self.disk_time(node, self.plan.prepare);
        let Some(process) = &self.members[node].process else { return };
        let life = process.life;
        if !process.chores.is_empty() {
            self.schedule(self.now + time, What::Chore { node, life });
        }
    }

    /// The merger has come to the end of what it was asked for.
    pub(crate) fn chore_done(&mut self, node: usize, life: u64) {
        let hung = self.members[node].hung_until;
        if self.now < hung {
            return self.schedule(hung, What::Chore { node, life });
        }
        let Some(process) = self.members[node].process.as_mut().filter(|process| process.life == life) else { return };
        match process.chores.pop_front() {
            Some(Chore::Merge(job)) => self.merge(node, life, &job),
            Some(Chore::Discard(files)) => self.discard(node, files),
            None => panic!("the merger of {node} has done nothing that it was asked for"),
        }
        if self.alive(node, life) {
            self.begin_chore(node);
        }
    }

    fn merge(&mut self, node: usize, life: u64, job: &MergeJob) {
        let Some(merger) = self.members[node].process.as_mut().and_then(|process| process.merger.take()) else { return };
        let rounds = self.counts.merge_rounds;
        let merged = merger.merge(job, &mut |_| {
            if self.random.per_mille(DISTURBED) && self.alive(node, life) {
                self.counts.merge_rounds += 1;
                self.round(node);
            }
        });
        if rounds != self.counts.merge_rounds {
            self.counts.merges_disturbed += 1;
        }
        let member = &mut self.members[node];
        let Some(process) = member.process.as_mut().filter(|process| process.life == life) else { return };
        process.merger = Some(merger);
        match merged {
            Ok(merged) => {
                self.counts.merges += 1;
                process.jobs.push_back(Job::Merge(merged));
                self.begin_job(node);
            }
            Err(PrepareError::Full(reason)) => {
                assert!(member.full_until > self.now, "{node} has no room on an empty disk: {reason}");
                process.inbox.push(Event::NotMerged { retry: true });
                self.rouse(node);
            }
            Err(PrepareError::Fatal(error @ Error::Corrupt { .. })) => {
                assert!(member.harm.is_any(), "{node} finds damage on a sound disk: {error}");
                process.inbox.push(Event::NotMerged { retry: false });
                self.rouse(node);
            }
            Err(PrepareError::Fatal(error)) => self.fatal(node, &error),
        }
    }

    fn discard(&mut self, node: usize, files: Discarded) {
        let Some(process) = &mut self.members[node].process else { return };
        match process.merger.as_ref().map(|merger| merger.discard(files)) {
            None => {}
            Some(Err(error)) => self.fatal(node, &error),
            Some(Ok(ids)) => {
                self.counts.discarded += ids.len() as u64;
                process.jobs.push_back(Job::Forget(ids));
                self.begin_job(node);
            }
        }
    }
}
