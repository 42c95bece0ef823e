//! Disks whose content changes behind their owners' backs: bits rot, writes go astray or are lost, a disk is wiped or put back to an old
//! copy. Only a minority is ever damaged at a time, so that one good copy of everything committed stays with the others; a node that was
//! repaired is no longer damaged.
//!
//! What rots or goes astray must be noticed by its owner. A wiped node must learn from the others that it may not take part. A node that
//! came back without something that it had promised cannot know that; its peers must convict it. One whose disk went back within its
//! present promises is known only to those who counted them, and so such a node meets, before anybody else, those that have the
//! evidence now; without any it stays down. From then on nothing it says may count. Who is convicted stays down.

use apexkv::protocol::handshake::LinkClass;
use apexkv::server::founding::{Answer, Candidate, Step};
use apexkv::server::identity::{Refusal, Verdict, ids_of, judge};
use apexkv::server::shared::bare_hello;
use apexkv::storage::directory::{Directory, FoundingMember};
use apexkv::storage::disk::Disk;
use apexkv::storage::simulated::{DiskImage, SECTOR, SimulatedDisk};

use super::node::{Found, name_of, number_of, standing};
use super::plan::{Death, Fault, MILLISECOND, Time};
use super::world::{What, World};

/// After this time a node that nobody has told where it belongs asks again.
const ASK_AGAIN: Time = 200 * MILLISECOND;

/// Who can convict a node that came back without something that it had promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct RolledBack {
    /// From this life on its words are those of a node that forgot.
    since: u64,
    /// Nodes that had the evidence when it came back, and the lives in which they remember it.
    witnesses: Vec<(usize, u64)>,
}

impl World {
    pub(crate) fn strike_content(&mut self, fault: Fault) {
        let harms = !matches!(fault, Fault::Copy { .. });
        if fault.hits_content().is_none_or(|node| harms && !self.may_harm(node)) {
            return;
        }
        match fault {
            Fault::Rot { node, pick } => self.rot(node, pick),
            Fault::Decay { node, pick } => self.decay(node, pick),
            Fault::Astray { node, pick } => self.write_astray(node, pick),
            Fault::LoseWrite { node, pick } => self.lose_write(node, pick),
            Fault::Copy { node } if !self.members[node].wiped => self.members[node].copy = Some(self.members[node].disk.snapshot()),
            Fault::Restore { node, down } => {
                if let Some(copy) = self.members[node].copy.clone() {
                    self.replace_disk(node, copy, down);
                    self.members[node].wiped = false;
                    self.members[node].older = true;
                }
            }
            Fault::Wipe { node, down } => {
                self.replace_disk(node, DiskImage::default(), down);
                self.members[node].wiped = true;
            }
            _ => {}
        }
    }

    /// Another disk is put into the machine.
    fn replace_disk(&mut self, node: usize, image: DiskImage, down: Time) {
        self.die(node, Death::LoseAll, None);
        self.interrupted.remove(&node);
        self.failing.remove(&node);
        let member = &mut self.members[node];
        member.harm.older = true;
        member.full_until = 0;
        member.disk.clear_faults();
        member.disk.restore(image);
        member.disk.set_free_bytes(None);
        self.end_disk(node, Death::KeepAll);
        self.schedule(self.now + down, What::Start(node));
    }

    /// One of a disk's files, as it is durable.
    fn some_file(&self, node: usize, pick: u64) -> Option<(String, Vec<u8>)> {
        let disk = &self.members[node].disk;
        let mut names = disk.list().unwrap_or_default();
        names.retain(|name| name != "lock");
        let name = names.get((pick % names.len().max(1) as u64) as usize)?.clone();
        let content = disk.durable(&name).ok().filter(|content| !content.is_empty())?;
        Some((name, content))
    }

    /// One bit changes, anywhere on one disk.
    fn rot(&mut self, node: usize, pick: u64) {
        let Some((name, content)) = self.some_file(node, pick) else { return };
        self.members[node].harm.hits(&name);
        let length = content.len() as u64;
        // Slots and headers stand in front, and most of a large file is never used.
        let reach = if pick & 1 << 20 == 0 { length } else { length.min(8192) };
        let _ = self.members[node].disk.rot(&name, (pick >> 24) % reach, 1 << (pick >> 21 & 7));
    }

    /// One bit changes in what was written to one of the files that make up log and state.
    fn decay(&mut self, node: usize, pick: u64) {
        let disk = &self.members[node].disk;
        let mut names = disk.list().unwrap_or_default();
        names.retain(|name| name.starts_with(|first: char| first.is_ascii_digit()));
        if self.members[node].harm.is_aside() {
            // The older ones are what was put aside; what becomes of those does not matter any more.
            names.drain(..names.len().saturating_sub(3));
        }
        let Some(name) = names.get((pick % names.len().max(1) as u64) as usize).cloned() else { return };
        let Ok(content) = disk.durable(&name) else { return };
        // Most files are full; where one is not, the first part is what was written.
        let reach = if pick & 1 << 20 == 0 { content.len() } else { content.len().min(12 << 10) } as u64;
        if reach > 0 {
            self.members[node].harm.hits(&name);
            let _ = self.members[node].disk.rot(&name, (pick >> 24) % reach, 1 << (pick >> 21 & 7));
        }
    }

    /// A sector is written over another one.
    fn write_astray(&mut self, node: usize, pick: u64) {
        let from = self.some_file(node, pick >> 40);
        let (Some((_, source)), Some((name, target))) = (from, self.some_file(node, pick)) else { return };
        self.members[node].harm.hits(&name);
        let sector = |content: &[u8], pick: u64| (pick % (content.len() as u64).div_ceil(SECTOR) * SECTOR) as usize;
        let (from, to) = (sector(&source, pick >> 8), sector(&target, pick >> 20));
        let bytes = (source.len() - from).min(target.len() - to).min(SECTOR as usize);
        let _ = self.members[node].disk.overwrite(&name, to as u64, &source[from..from + bytes]);
    }

    /// A sector holds again what it held when the copy was made: nothing written since then has reached it.
    fn lose_write(&mut self, node: usize, pick: u64) {
        // A copy that was made before a wipe is of another disk.
        let member = &self.members[node];
        let Some(copy) = member.copy.clone().filter(|_| !member.wiped) else { return };
        let Some((name, now)) = self.some_file(node, pick) else { return };
        let old = SimulatedDisk::new(0);
        old.restore(copy);
        let Ok(before) = old.durable(&name) else { return };
        let sectors = before.chunks(SECTOR as usize).zip(now.chunks(SECTOR as usize)).enumerate();
        let changed: Vec<usize> = sectors.filter(|(_, (before, now))| before != now).map(|(sector, _)| sector).collect();
        let Some(sector) = changed.get((pick >> 16) as usize % changed.len().max(1)) else { return };
        let start = sector * SECTOR as usize;
        let bytes = (before.len() - start).min(SECTOR as usize);
        self.members[node].harm.hits(&name);
        self.members[node].older = true;
        self.members[node].harm.older = true;
        let _ = self.members[node].disk.overwrite(&name, start as u64, &before[start..start + bytes]);
    }

    // ---- a wiped node ----

    /// An empty node starts and asks where it belongs. Nobody may count it, and it must not found or join anything.
    pub(crate) fn join(&mut self, node: usize) {
        let disk = self.members[node].disk.clone();
        let identity = match Directory::open(disk.boot(), &name_of(node)) {
            Ok(directory) => directory.identity(),
            Err(error) => return self.not_started(node, &error),
        };
        disk.kill();
        let (founding, members) = (self.founding.clone(), ids_of(&self.founding));
        let own = FoundingMember { id: name_of(node), uuid: identity.uuid };
        let mut candidate = Candidate::new(own, members.clone(), founding.cluster + 1);
        let hello = bare_hello(&name_of(node), "", identity, members.clone(), LinkClass::Control);
        for peer in (0..self.plan.nodes).filter(|peer| *peer != node) {
            let name = name_of(peer);
            let reached = !self.is_blocked(node, peer) && !self.is_blocked(peer, node);
            let member = &mut self.members[peer];
            let answer = match &mut member.process {
                Some(process) if reached => {
                    let verdict = process.marks.admit(standing(&name, &founding), Some(number_of(node)), &hello, &process.view);
                    let refused = matches!(verdict, Ok(Verdict::Refuse(Refusal::LostDisk { .. })));
                    assert!(refused, "{peer} is asked by {node}, whose disk was wiped, and says {verdict:?}");
                    process.hello(peer, &founding, LinkClass::Founding).founding.map(Answer::Member)
                }
                None if member.wiped => Some(Answer::Empty { uuid: peer as u128 + 1, members: members.clone() }),
                _ => None,
            };
            candidate.answered(&name, answer.unwrap_or_else(|| Answer::Silent("it is down".to_owned())));
        }
        self.trace.note(&[6, node as u64]);
        match candidate.step() {
            Step::LostDisk(_) => self.convict(node),
            Step::Wait(_) => self.schedule(self.now + ASK_AGAIN, What::Start(node)),
            other => panic!("{node}, whose disk was wiped, is about to act: {other:?}"),
        }
    }

    // ---- a node that forgot ----

    /// A node has started on a disk that may be older than what it has said. Returns whether it forgot something.
    pub(crate) fn has_forgotten(&mut self, node: usize, found: &Found) -> bool {
        let member = &mut self.members[node];
        let older = std::mem::take(&mut member.older);
        let forgot = member.rolled_back.is_some() || older && !self.oracle.is_intact(node, found);
        if older && !forgot {
            self.counts.intact += 1;
        }
        forgot
    }

    /// Finds who can convict a node that forgot; without anybody it stays down.
    pub(crate) fn look_for_witnesses(&mut self, node: usize) {
        self.counts.forgot += 1;
        let founding = self.founding.clone();
        let member = &mut self.members[node];
        let Some(process) = &mut member.process else { return };
        let since = member.rolled_back.as_ref().map_or(process.life, |rolled_back| rolled_back.since);
        let hello = process.hello(node, &founding, LinkClass::Control);
        let mut witnesses = Vec::new();
        for (peer, member) in self.members.iter().enumerate().filter(|(peer, _)| *peer != node) {
            let Some(process) = &member.process else { continue };
            let mark = process.marks.of(Some(number_of(node)), &process.view);
            if let Verdict::Refuse(_) = judge(standing(&name_of(peer), &founding), mark.as_ref(), &hello) {
                witnesses.push((peer, process.life));
            }
        }
        let alone = witnesses.is_empty();
        self.members[node].rolled_back = Some(RolledBack { since, witnesses });
        if alone {
            self.counts.without_witness += 1;
            self.die(node, Death::Kill, None);
            self.members[node].gone = true;
        }
    }

    /// Whether a pair is kept from each other because one of them forgot and the other has no evidence.
    pub(crate) fn lacks_evidence(&self, one: usize, other: usize) -> bool {
        let lacks = |forgetful: usize, peer: usize| {
            let life = self.members[peer].process.as_ref().map(|process| process.life);
            let rolled_back = self.members[forgetful].rolled_back.as_ref();
            rolled_back.is_some_and(|rolled_back| !rolled_back.witnesses.iter().any(|witness| (witness.0, Some(witness.1)) == (peer, life)))
        };
        lacks(one, other) || lacks(other, one)
    }

    /// A node has believed another one: never one that it could have convicted.
    pub(crate) fn check_belief(&self, believer: usize, peer: usize) {
        let rolled_back = &self.members[peer].rolled_back;
        assert!(rolled_back.is_none(), "{believer} believes {peer}, which forgot what it had promised: {rolled_back:?}");
    }

    /// Words have arrived: never those of a node that forgot.
    pub(crate) fn check_words(&self, from: usize, life: u64) {
        let forgot = self.members[from].rolled_back.as_ref().is_some_and(|rolled_back| life >= rolled_back.since);
        assert!(!forgot, "words of {from} count, which forgot what it had promised");
    }

    /// A peer is refused: only one that is damaged may be, or for a moment one whose words overtook its hello.
    pub(crate) fn note_refusal(&mut self, peer: usize, refusal: &Refusal) {
        self.counts.refusals += 1;
        let passing = matches!(refusal, Refusal::RolledBack { .. } | Refusal::OldCopy { .. });
        assert!(passing || self.members[peer].is_damaged(), "{} is refused: {refusal}", number_of(peer));
        if self.members[peer].harm.older {
            self.convict(peer);
        }
    }

    /// A node whose disk is not its own newest one is taken out of service.
    fn convict(&mut self, node: usize) {
        self.counts.convicted += 1;
        self.die(node, Death::Kill, None);
        self.members[node].gone = true;
    }

    /// Those that forgot and have not been heard by anybody yet end with the faults.
    pub(crate) fn end_the_forgetful(&mut self) {
        for node in 0..self.plan.nodes {
            if self.members[node].rolled_back.is_some() {
                self.die(node, Death::Kill, None);
                self.members[node].gone = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, SECOND};
    use crate::run::{Report, run};

    /// Three nodes of which only the second is hit, by these faults.
    fn hit(faults: &[(Time, Fault)]) -> Report {
        let plan = (0..).map(Plan::of).find(|plan| plan.nodes == 3 && plan.sync.1 < 5 * MILLISECOND && plan.silent_loss == 0);
        let plan = Plan { time: 5 * SECOND, heal_all: true, faults: faults.to_vec(), ..plan.expect("every third seed is like this") };
        run(&plan).unwrap_or_else(|failure| panic!("at {} µs: {}", failure.now, failure.message))
    }

    #[test]
    fn a_wiped_node_is_told_so_and_stays_out() {
        let report = hit(&[(SECOND, Fault::Wipe { node: 1, down: 100 * MILLISECOND })]);
        assert_eq!((report.counts.convicted, report.counts.starts), (1, 5), "{report:?}");
    }

    #[test]
    fn a_node_on_an_old_copy_is_convicted_and_its_words_do_not_count() {
        let down = 100 * MILLISECOND;
        let death = Death::Kill;
        let faults = [
            (SECOND, Fault::Copy { node: 1 }),
            (2 * SECOND, Fault::Die { node: 1, death, down }),
            (4 * SECOND, Fault::Restore { node: 1, down }),
        ];
        let report = hit(&faults);
        assert_eq!((report.counts.forgot, report.counts.convicted), (1, 1), "{report:?}");
    }

    #[test]
    fn a_copy_that_lost_nothing_may_take_part_or_is_refused_as_a_whole() {
        let down = 10 * MILLISECOND;
        let report = hit(&[(SECOND, Fault::Copy { node: 1 }), (SECOND, Fault::Restore { node: 1, down })]);
        assert_eq!((report.counts.intact, report.counts.forgot), (1, 0), "{report:?}");
    }
}
