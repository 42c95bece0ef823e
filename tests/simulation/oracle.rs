//! What must hold, whatever happens: checked after every step against what all members have shown, and against a model that applies the
//! committed commands one by one. Sees the members only from outside; knows more than any of them.

use std::collections::BTreeMap;

use apexkv::raft::{EntryId, Envelope, HardState, Message, Node, NodeId};
use apexkv::server::event::Outcome;
use apexkv::storage::state_hash::StateHash;
use apexkv::storage::store::Store;

use super::model::{Effect, Model};
use super::node::{Found, number_of};
use super::operations::{Action, Learned, Operation, writer_of};

/// What a member has shown.
#[derive(Clone, Debug, Default)]
struct Ghost {
    /// The terms of its entries, those included that have left its log: they are in its files, and have been committed.
    terms: Vec<u64>,
    /// So many have left its log.
    base: u64,
    durable: u64,
    /// The terms of the entries that its disk holds, as its finished jobs have made them.
    on_disk: Vec<u64>,
    commit: u64,
    applied: u64,
    /// A snapshot up to this entry is taking the place of its log, or has: which of both a start finds is open.
    installing: Option<u64>,
    /// The highest entry that it has acknowledged, and the term in which it did.
    acknowledged: (u64, u64),
    /// Term and vote that its disk holds.
    hard_state: HardState,
    /// The highest term that it has told anyone.
    told: u64,
    /// The term that it leads.
    leads: Option<u64>,
    /// The term that it is in.
    term: u64,
    observations: u64,
    /// The last entry of the log that it has put aside for damage; zero if there is none.
    floor: EntryId,
    /// The terms of the entries that were durable there when it was put aside, as often as that was done: by its floor it stands for them
    /// as if it held them still.
    aside: Vec<Vec<u64>>,
}

impl Ghost {
    /// Whether it holds an entry durably, or stands for it.
    fn keeps(&self, id: EntryId) -> bool {
        let position = id.index as usize - 1;
        let held = self.durable >= id.index && self.terms.get(position) == Some(&id.term);
        held || self.aside.iter().any(|aside| aside.get(position) == Some(&id.term))
    }
}

/// How often a member's whole log and state are looked at, and not only what a step changed.
const WHOLE_EVERY: u64 = 64;

/// Where an entry came from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    operation: Option<usize>,
    /// The term of the entry before it, once it has been seen in a log.
    previous: Option<u64>,
}

/// See the module's doc.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    nodes: Vec<Ghost>,
    majority: usize,
    /// By index, from 1: every entry that some leader wrote there, with its term.
    entries: Vec<Vec<(u64, Origin)>>,
    leaders: BTreeMap<u64, usize>,
    votes: BTreeMap<(usize, u64), NodeId>,
    /// Terms of the committed entries.
    committed: Vec<u64>,
    /// In which term each was seen committed first: every leader of a later term must hold it.
    committed_in: Vec<u64>,
    /// The hash of the state behind each committed entry at which some member was seen.
    hashes: BTreeMap<u64, StateHash>,
    pub(crate) model: Model,
    pub(crate) operations: Vec<Operation>,
    /// The highest position in the log that any answer has relied on.
    pub(crate) high_water: u64,
    /// Moves on with every call and every answer.
    clock: u64,
}

impl Oracle {
    pub(crate) fn new(nodes: usize, keys: u64) -> Oracle {
        let ghosts = vec![Ghost::default(); nodes];
        Oracle { nodes: ghosts, majority: nodes / 2 + 1, model: Model::new(keys), ..Oracle::default() }
    }

    /// How many entries are committed.
    pub(crate) fn commit(&self) -> u64 {
        self.committed.len() as u64
    }

    // ---- terms and votes ----

    /// A job made this durable.
    pub(crate) fn stored(&mut self, node: usize, state: HardState) {
        let before = self.nodes[node].hard_state;
        let keeps = state.term > before.term || state.term == before.term && (before.vote.is_none() || state.vote == before.vote);
        assert!(keeps, "{node} replaces {before:?} on its disk by {state:?}");
        self.nodes[node].hard_state = state;
    }

    /// A job wrote these entries and synced them.
    pub(crate) fn written(&mut self, node: usize, entries: &[EntryId]) {
        let Some(first) = entries.first() else { return };
        let on_disk = &mut self.nodes[node].on_disk;
        assert!(on_disk.len() as u64 + 1 >= first.index, "{node} writes {first} behind {} entries", on_disk.len());
        on_disk.truncate(first.index as usize - 1);
        on_disk.extend(entries.iter().map(|entry| entry.term));
    }

    /// A message is about to leave.
    pub(crate) fn sent(&mut self, node: usize, envelope: &Envelope) {
        let Envelope { to, term, message, .. } = envelope;
        let stored = self.nodes[node].hard_state;
        assert!(stored.term >= *term, "{message:?} of term {term} leaves {node} whose disk holds {stored:?}");
        self.nodes[node].told = self.nodes[node].told.max(*term);
        if let Message::Appended { matched, .. } | Message::SnapshotReply { matched } = message {
            let ghost = &mut self.nodes[node];
            ghost.acknowledged = ghost.acknowledged.max((*term, *matched));
            let held = ghost.on_disk.get(..*matched as usize);
            // In the round in which a newer leader took over, what the disk still holds and was acknowledged to the older one may differ.
            let same = held.is_some_and(|held| ghost.term > *term || held.last() == ghost.terms[..*matched as usize].last());
            assert!(same, "{message:?} of term {term} leaves {node} for {to}, whose disk holds {} entries", ghost.on_disk.len());
        }
        let vote = match message {
            Message::VoteReply { granted: true } => *to,
            Message::Vote { .. } => number_of(node),
            _ => return,
        };
        assert!(stored.term > *term || stored.vote == Some(vote), "{message:?} to {to} leaves {node} whose disk holds {stored:?}");
        let before = *self.votes.entry((node, *term)).or_insert(vote);
        assert!(before == vote, "{node} votes for {before} and for {vote} in term {term}");
    }

    /// A process started: what it found is held against what it had shown before. Returns whether it has put its log aside.
    pub(crate) fn started(&mut self, node: usize, found: &Found) -> bool {
        let ghost = &self.nodes[node];
        let term = found.hard_state.term;
        assert!(term >= ghost.told, "{node} comes back in term {term} and has spoken in {}", ghost.told);
        let terms = self.whole(node, found.base, &found.terms);
        let ghost = &self.nodes[node];
        let (kept, last) = (in_common(&terms, &ghost.terms), terms.len());
        let durable = self.promised(node);
        let stands = found.floor >= self.position(node, durable);
        assert!(kept >= durable || stands, "{node} comes back with {last} entries of which {kept} are as before; {durable} were durable");
        let lost = self.lost_for_good(node, found.floor, &terms);
        assert!(lost.is_none(), "{node} was put aside up to {} and comes back with {}, and without {lost:?}", ghost.floor, found.floor);
        let aside = (kept < durable).then(|| ghost.terms[..durable as usize].to_vec());
        if let Some(vote) = self.votes.get(&(node, term)) {
            assert!(found.hard_state.vote == Some(*vote), "{node} comes back with {:?} and has voted for {vote}", found.hard_state);
        }
        let (told, floor) = (ghost.told, found.floor);
        let (on_disk, base) = (terms.clone(), found.base.index);
        let acknowledged = self.nodes[node].acknowledged;
        let hard_state = found.hard_state;
        let put_aside = aside.is_some();
        let mut all_aside = std::mem::take(&mut self.nodes[node].aside);
        all_aside.extend(aside);
        if floor.term == 0 {
            all_aside.clear();
        }
        let ghost = Ghost { durable: last as u64, on_disk, base, hard_state, told, acknowledged, floor, ..Ghost::default() };
        self.nodes[node] = Ghost { aside: all_aside, ..ghost };
        for (position, entry) in terms.iter().enumerate() {
            self.append(node, position as u64 + 1, *entry);
        }
        self.keeps_acknowledged(node, term);
        put_aside
    }

    /// Whether a log never went as far as a floor says, so that the floor is a guess.
    pub(crate) fn never_reached(&self, node: usize, floor: EntryId) -> bool {
        floor.index > self.nodes[node].terms.len() as u64
    }

    /// The entry that a node has shown at an index; zero before the first.
    fn position(&self, node: usize, index: u64) -> EntryId {
        let term = index.checked_sub(1).map_or(0, |position| self.nodes[node].terms[position as usize]);
        EntryId { term, index }
    }

    /// What a node stood for before and does not any more: its floor has fallen, or it is gone before everything of what was put aside that
    /// is committed stands in its log again, whose durable entries have these terms.
    fn lost_for_good(&self, node: usize, floor: EntryId, terms: &[u64]) -> Option<EntryId> {
        let ghost = &self.nodes[node];
        if floor.term > 0 {
            return (floor < ghost.floor).then_some(ghost.floor);
        }
        let entries = |aside: &[u64]| {
            let committed = aside.iter().zip(&self.committed).enumerate().filter(|(_, (aside, committed))| aside == committed);
            let lost = committed
                .filter(|(position, (term, _))| terms.get(*position) != Some(term))
                .map(|(position, (term, _))| (position, *term))
                .next();
            lost.map(|(position, term)| EntryId { term, index: position as u64 + 1 })
        };
        ghost.aside.iter().find_map(|aside| entries(aside))
    }

    /// The terms of all entries of a log that begins behind `base`: what is not in it any more has been committed.
    fn whole(&self, node: usize, base: EntryId, terms: &[u64]) -> Vec<u64> {
        let gone = self.gone(node, base);
        gone.iter().chain(terms).copied().collect()
    }

    /// The terms of the entries up to `base`, behind which a log begins.
    fn gone(&self, node: usize, base: EntryId) -> &[u64] {
        let gone = self.committed.get(..base.index as usize);
        let known = gone.is_some_and(|gone| gone.last().copied().unwrap_or(0) == base.term);
        assert!(known, "the log of {node} begins behind {base}, which was never committed");
        gone.unwrap_or(&[])
    }

    /// Up to which entry a node must come back as it was. What a snapshot replaces could never have been committed.
    fn promised(&self, node: usize) -> u64 {
        let ghost = &self.nodes[node];
        let installing = ghost.installing.map(|last| in_common(&self.committed[..last as usize], &ghost.terms));
        installing.map_or(ghost.durable, |common| common.min(ghost.durable))
    }

    /// Within the term in which it acknowledged entries a node keeps them.
    fn keeps_acknowledged(&self, node: usize, term: u64) {
        let ghost = &self.nodes[node];
        if ghost.floor.term > 0 {
            return;
        }
        let (said, matched) = ghost.acknowledged;
        let last = ghost.terms.len() as u64;
        assert!(said != term || last >= matched, "{node} ends with entry {last} in term {term}, in which it acknowledged {matched}");
    }

    /// A snapshot up to `last` is about to take the place of a node's log.
    pub(crate) fn installs(&mut self, node: usize, last: EntryId) {
        self.gone(node, last);
        self.nodes[node].installing = Some(last.index);
    }

    /// A job has put a snapshot up to `last` in the place of a node's log.
    pub(crate) fn replaced(&mut self, node: usize, last: EntryId) {
        self.nodes[node].on_disk = self.committed[..last.index as usize].to_vec();
    }

    /// A process ended: nothing it knows lasts.
    pub(crate) fn ended(&mut self, node: usize) {
        self.nodes[node].commit = 0;
        self.nodes[node].applied = 0;
        self.nodes[node].leads = None;
    }

    /// Whether a node comes back with everything that it has shown to anyone before.
    pub(crate) fn is_intact(&self, node: usize, found: &Found) -> bool {
        let ghost = &self.nodes[node];
        let term = found.hard_state.term;
        let terms = self.whole(node, found.base, &found.terms);
        let (kept, promised) = (in_common(&terms, &ghost.terms), self.promised(node));
        let stands = kept >= promised || found.floor >= self.position(node, promised);
        let stands = stands && self.lost_for_good(node, found.floor, &terms).is_none();
        let vote = self.votes.get(&(node, term));
        term >= ghost.told && stands && vote.is_none_or(|vote| found.hard_state.vote == Some(*vote))
    }

    /// A node no longer leads.
    pub(crate) fn follows(&mut self, node: usize) {
        self.nodes[node].leads = None;
    }

    /// A node leads: once for each node and term.
    pub(crate) fn leads(&mut self, node: usize, core: &Node) {
        let term = core.term();
        self.nodes[node].leads = Some(term);
        let other = *self.leaders.entry(term).or_insert(node);
        assert!(other == node, "{other} and {node} both lead term {term}");
        let base = core.outline().base();
        let behind = self.committed.iter().enumerate().skip(self.gone(node, base).len());
        for (position, committed) in behind.filter(|(position, _)| self.committed_in[*position] < term) {
            let index = position as u64 + 1;
            let held = core.outline().term_of(index);
            assert!(held == Some(*committed), "{node} leads term {term} with {held:?} at {index}, where {committed} is committed");
        }
        let noop = core.last();
        assert!(self.create(noop, None), "{node} begins term {term} with an entry {noop} that exists already");
    }

    fn origin(&mut self, id: EntryId) -> Option<&mut Origin> {
        let entries = self.entries.get_mut(id.index as usize)?;
        entries.iter_mut().find(|(term, _)| *term == id.term).map(|(_, origin)| origin)
    }

    /// Notes a new entry; false if there is one of that term and index.
    fn create(&mut self, id: EntryId, operation: Option<usize>) -> bool {
        let new = self.origin(id).is_none();
        if self.entries.len() <= id.index as usize {
            self.entries.resize(id.index as usize + 1, Vec::new());
        }
        self.entries[id.index as usize].push((id.term, Origin { operation, previous: None }));
        new
    }

    /// A leader has put an operation into its log.
    pub(crate) fn proposed(&mut self, id: EntryId, operation: usize) {
        assert!(self.create(id, Some(operation)), "the entry {id} is proposed twice");
        let before = self.operations[operation].entry.replace(id);
        assert!(before.is_none(), "{:?} is proposed a second time, as {id}", self.operations[operation]);
    }

    // ---- logs ----

    fn append(&mut self, node: usize, index: u64, term: u64) {
        let ghost = &mut self.nodes[node];
        assert!(ghost.terms.len() as u64 + 1 == index, "{node} appends {index} behind {}", ghost.terms.len());
        let previous = ghost.terms.last().copied().unwrap_or(0);
        let origin = self.origin(EntryId { term, index });
        let origin = origin.unwrap_or_else(|| panic!("{node} holds the entry {term}:{index}, which no leader has written"));
        let expected = *origin.previous.get_or_insert(previous);
        assert!(expected == previous, "{node} holds {term}:{index} behind term {previous}, others behind {expected}");
        self.nodes[node].terms.push(term);
    }

    /// Looks at a node after each of its steps. What a damaged one cannot read it need not show.
    pub(crate) fn observe(&mut self, node: usize, core: &Node, store: &Store, damaged: bool) {
        let outline = core.outline();
        let last = core.last().index;
        self.nodes[node].observations += 1;
        let replaced = self.observe_base(node, outline.base());
        let ghost = &mut self.nodes[node];
        let mut kept = replaced.unwrap_or(u64::MAX).min(last).min(ghost.terms.len() as u64);
        let same = |index: u64, terms: &[u64]| outline.term_of(index) == Some(terms[index as usize - 1]);
        while kept > ghost.base && !same(kept, &ghost.terms) {
            kept -= 1;
        }
        assert!(core.term() >= ghost.term, "{node} was in term {} and is in {}", ghost.term, core.term());
        ghost.term = core.term();
        if ghost.observations.is_multiple_of(WHOLE_EVERY) {
            let wrong = (ghost.base + 1..=kept).find(|index| !same(*index, &ghost.terms));
            assert!(wrong.is_none(), "{node} holds another entry at {wrong:?} than before, below an equal one");
        }
        let (lost, committed) = (ghost.terms.get(kept as usize), self.committed.get(kept as usize));
        assert!(lost.is_none() || lost != committed, "{node} no longer holds {}, which is committed in term {lost:?}", kept + 1);
        ghost.terms.truncate(kept as usize);
        for index in kept + 1..=last {
            let gone = self.committed.get(index as usize - 1).filter(|_| index < outline.base().index);
            self.append(node, index, gone.copied().or(outline.term_of(index)).unwrap_or(0));
        }
        self.observe_durable(node, kept, core.durable());
        self.observe_floor(node, core.floor());
        self.keeps_acknowledged(node, core.term());
        self.observe_commit(node, core);
        let applied = store.applied();
        assert!(applied <= core.commit(), "{node} has applied {applied} with commit {}", core.commit());
        let before = std::mem::replace(&mut self.nodes[node].applied, applied);
        if applied != before {
            assert!(applied > before, "{node} has applied {before} and then {applied}");
            self.model.compare_changes(node, before, applied, store);
        }
        let fresh = applied != before && (before == 0 || replaced.is_some());
        if fresh || self.nodes[node].observations.is_multiple_of(WHOLE_EVERY) {
            self.model.compare(node, applied, store);
            self.compare_values(node, store, damaged);
        }
    }

    /// Holds the hash of a node's state against that of all who were seen at the same entry.
    pub(crate) fn observe_hash(&mut self, node: usize, applied: u64, hash: StateHash) {
        let known = *self.hashes.entry(applied).or_insert(hash);
        assert!(hash.is_known() && known == hash, "{node} has the state hash {hash} behind {applied}, others {known}");
    }

    /// Holds the values behind all keys of a node against what was written.
    fn compare_values(&mut self, node: usize, store: &Store, damaged: bool) {
        let mut value = Vec::new();
        for (key, located) in store.scan(b"", b"", usize::MAX, usize::MAX, true).entries {
            value.clear();
            match store.read(&key, &located, &mut value) {
                Ok(()) => {
                    let number = self.writer(located.version);
                    let same = value == self.operations[number].value(number);
                    assert!(same, "{node} holds {} bytes as version {}, which were not written", value.len(), located.version);
                }
                Err(error) => assert!(damaged, "{node} cannot read version {}: {error}", located.version),
            }
        }
    }

    /// Looks at where a node's log begins. If another log has been put there, says up to where it is as before.
    fn observe_base(&mut self, node: usize, base: EntryId) -> Option<u64> {
        let before = self.nodes[node].base;
        assert!(before <= base.index, "the log of {node} began behind {before} and begins behind {base}");
        if before == base.index {
            return None;
        }
        let kept = in_common(self.gone(node, base), &self.nodes[node].terms);
        let ghost = &mut self.nodes[node];
        let installed = ghost.installing.take_if(|last| *last <= base.index).is_some();
        assert!(kept == base.index || installed, "the log of {node} begins behind {base} and was as committed up to {kept} before");
        ghost.base = base.index;
        installed.then_some(kept)
    }

    /// What a node says to be durable must be on its disk; up to `kept` it was looked at before, as far as it was durable then.
    fn observe_durable(&mut self, node: usize, kept: u64, durable: u64) {
        let ghost = &mut self.nodes[node];
        for index in ghost.durable.min(kept) as usize..durable as usize {
            let (said, held) = (ghost.terms[index], ghost.on_disk.get(index));
            assert!(held == Some(&said), "{node} takes {said}:{} for durable, and its disk holds {held:?} there", index + 1);
        }
        ghost.durable = durable;
    }

    /// A floor is given up only when the log holds what it stood for.
    fn observe_floor(&mut self, node: usize, floor: EntryId) {
        let ghost = &self.nodes[node];
        if floor == ghost.floor {
            return;
        }
        if floor.term > 0 {
            let stood = self.stood_for(node);
            assert!(floor < ghost.floor && floor >= stood, "{node} put {stood} aside, its floor was {} and is {floor}", ghost.floor);
            self.nodes[node].floor = floor;
            return;
        }
        let lost = self.lost_for_good(node, floor, &ghost.terms[..ghost.durable as usize]);
        assert!(lost.is_none(), "{node} takes its log for fetched again, and lacks {lost:?} of what it had put aside");
        let ghost = &mut self.nodes[node];
        ghost.floor = floor;
        ghost.aside.clear();
    }

    /// The newest entry of all that a node has put aside.
    fn stood_for(&self, node: usize) -> EntryId {
        let last = |aside: &Vec<u64>| EntryId { term: aside.last().copied().unwrap_or(0), index: aside.len() as u64 };
        self.nodes[node].aside.iter().map(last).max().unwrap_or_default()
    }

    fn observe_commit(&mut self, node: usize, core: &Node) {
        let before = self.nodes[node].commit;
        let commit = core.commit();
        assert!(commit >= before, "the commit index of {node} fell from {before} to {commit}");
        self.nodes[node].commit = commit;
        for index in before + 1..=commit {
            let term = self.nodes[node].terms[index as usize - 1];
            match self.committed.get(index as usize - 1) {
                Some(known) => assert!(*known == term, "{node} commits {term}:{index}, others {known}:{index}"),
                None => self.commit_next(node, EntryId { term, index }, core.term()),
            }
        }
    }

    /// An entry is seen committed for the first time.
    fn commit_next(&mut self, node: usize, id: EntryId, term: u64) {
        let copies = self.nodes.iter().filter(|ghost| ghost.keeps(id)).count();
        assert!(copies >= self.majority, "{node} commits {id}, which {copies} of {} nodes hold durably", self.nodes.len());
        for (other, ghost) in self.nodes.iter().enumerate().filter(|(_, ghost)| ghost.leads.is_some_and(|leads| leads > term)) {
            let held = ghost.terms.get(id.index as usize - 1);
            assert!(held == Some(&id.term), "{node} commits {id} in term {term}; {other} leads {:?} with {held:?} there", ghost.leads);
        }
        self.committed.push(id.term);
        self.committed_in.push(term);
        let operation = self.origin(id).and_then(|origin| origin.operation);
        if let Some(number) = operation {
            let operation = &mut self.operations[number];
            operation.committed = true;
            assert!(!operation.refused, "{id} commits {operation:?}, which was refused");
            self.model.apply(number, operation);
        } else {
            self.model.skip();
        }
    }

    // ---- answers ----

    /// A new operation is about to be handed in; returns its number.
    pub(crate) fn invoke(&mut self, key: u64, action: Action, value_bytes: u64) -> usize {
        self.clock += 1;
        let operation = Operation {
            invoked: self.clock,
            learned: None,
            key,
            action,
            value_bytes,
            floor: self.high_water,
            entry: None,
            committed: false,
            refused: false,
        };
        self.operations.push(operation);
        self.operations.len() - 1
    }

    fn learned(&mut self, number: usize, learned: Learned) {
        self.clock += 1;
        let before = self.operations[number].learned.replace((self.clock, learned));
        assert!(before.is_none(), "{:?} is answered a second time", self.operations[number]);
    }

    /// A write was answered. Returns the version that the client knows of its key now.
    pub(crate) fn answered(&mut self, number: usize, outcome: &Outcome) -> Option<u64> {
        let operation = self.operations[number].clone();
        let effect = match outcome {
            Outcome::Written { version } => {
                assert!(operation.entry.is_some_and(|entry| entry.index == *version), "{operation:?} is answered with {version}");
                Effect::Written
            }
            Outcome::NotFound => Effect::NotFound,
            Outcome::Conflict { current } => Effect::Conflict(*current),
            Outcome::NotLeader { .. } | Outcome::Busy(_) => {
                assert!(!operation.committed, "{operation:?} is committed and is answered with {outcome:?}");
                assert!(operation.entry.is_none(), "{operation:?} is in a log and is answered with {outcome:?}");
                self.operations[number].refused = true;
                self.learned(number, Learned::Refused);
                return None;
            }
            Outcome::Unknown(_) => return None,
            Outcome::Found(_) | Outcome::Proceed => panic!("the write {operation:?} is answered with {outcome:?}"),
        };
        let entry = operation.entry.unwrap_or_else(|| panic!("{operation:?} never entered a log and is answered with {outcome:?}"));
        let committed = self.committed.get(entry.index as usize - 1);
        assert!(committed == Some(&entry.term), "{operation:?} is answered with {outcome:?} and {committed:?} is committed there");
        let expected = self.model.effect(entry.index);
        assert!(expected == effect, "{operation:?} is answered with {outcome:?}, the model says {expected:?}");
        self.complete(number, entry.index);
        let (learned, known) = match outcome {
            Outcome::Written { version } if operation.action == Action::Delete => (Learned::Deleted(*version), 0),
            Outcome::Written { version } => (Learned::Written(*version), *version),
            Outcome::Conflict { current } => (Learned::Conflict(*current), *current),
            _ => (Learned::Absent, 0),
        };
        self.learned(number, learned);
        Some(known)
    }

    /// A read saw the state right after the entry at `position`.
    pub(crate) fn read(&mut self, number: usize, position: u64, version: u64) {
        let operation = &self.operations[number];
        assert!(position >= operation.floor, "{operation:?} reads at {position}, behind an answer that relied on {}", operation.floor);
        assert!(position <= self.commit(), "{operation:?} reads at {position} with {} committed", self.commit());
        let expected = self.model.version_at(operation.key, position);
        assert!(version == expected, "{operation:?} reads version {version} at {position}, the model says {expected}");
        self.high_water = self.high_water.max(position);
        self.learned(number, if version == 0 { Learned::Absent } else { Learned::Found { version, writer: None } });
    }

    fn complete(&mut self, number: usize, position: u64) {
        let operation = &self.operations[number];
        assert!(position > operation.floor, "{operation:?} stands at {position}, not behind {}", operation.floor);
        self.high_water = self.high_water.max(position);
    }

    /// The bytes behind a read have arrived: they must be those that were written.
    pub(crate) fn read_bytes(&mut self, read: usize, value: &[u8]) {
        let Some((_, Learned::Found { version, writer })) = &mut self.operations[read].learned else {
            panic!("{:?} has found nothing and gets {} bytes", self.operations[read], value.len());
        };
        *writer = Some(writer_of(value));
        let version = *version;
        let number = self.writer(version);
        let expected = self.operations[number].value(number);
        assert!(value == expected, "version {version} reads {} bytes that were not written", value.len());
    }

    /// A page told a version without its value.
    pub(crate) fn read_version(&mut self, read: usize) {
        if let Some((_, Learned::Found { version, .. })) = self.operations[read].learned {
            let number = self.writer(version) as u64;
            self.operations[read].learned =
                self.operations[read].learned.map(|(at, _)| (at, Learned::Found { version, writer: Some(number) }));
        }
    }

    fn writer(&mut self, version: u64) -> usize {
        let term = self.committed[version as usize - 1];
        let number = self.origin(EntryId { term, index: version }).and_then(|origin| origin.operation);
        number.unwrap_or_else(|| panic!("version {version} was written by no operation"))
    }
}

/// Up to which entry two logs are the same.
fn in_common(one: &[u64], other: &[u64]) -> u64 {
    one.iter().zip(other).take_while(|(one, other)| one == other).count() as u64
}
