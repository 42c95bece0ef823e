//! The search for an order of one key's operations that explains all answers. Depth first, with a memory of where it has been.
//!
//! Some observations keep it short without changing its result:
//!
//! * An operation that may come next and changes nothing can always be taken at once.
//! * Writes whose versions are known can only be taken in the order of their versions.
//! * A write of unknown outcome need be taken only right before an operation that sees it: taken earlier, and overwritten or unseen,
//!   it might as well have been left out or taken later.
//! * Of several writes of unknown outcome that do the same, it does not matter which is taken.
//! * Where one state was reached with fewer of them taken, nothing is gained by reaching it with more.

use super::model::{Compiled, Register, Step};
use std::collections::{BTreeMap, HashMap};

/// What the search has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Linearizable,
    Violation,
    Undecided,
}

/// Searches with at most `steps` steps. `operations` are in the order of their calls. Also tells how far it came: the time by which an
/// operation must have been called to be tried next.
pub(super) fn search(operations: &[Compiled], steps: u64) -> (Outcome, u64) {
    let mut search = Search::new(operations);
    (search.run(steps), search.furthest)
}

/// An operation that was taken or may be: one with an answer, or the next of those without one that do the same.
#[derive(Clone, Copy)]
enum Move {
    Answered(usize),
    Open(usize),
}

/// A decision that may have to be taken back.
struct Frame {
    moves: std::vec::IntoIter<Move>,
    /// What this frame took: operations that change nothing, and before them the move that led here.
    taken: Vec<Move>,
    /// The state in which the moves are made.
    register: Register,
    unseen: Option<Register>,
}

struct Answered {
    invoked: u64,
    returned: u64,
    step: Step,
}

/// Open operations that do the same, in the order of their calls, so that the first `taken` of them are taken.
struct Open {
    step: Step,
    invoked: Vec<u64>,
    taken: usize,
}

impl Open {
    /// Whether one of them is left that was called by then.
    fn has_one(&self, called_by: u64) -> bool {
        self.invoked.get(self.taken).is_some_and(|invoked| *invoked <= called_by)
    }
}

/// Which answered operations are taken, the state, and the state before an open operation that is to be seen.
type Place = (u128, Register, Option<Register>);

struct Search {
    answered: Vec<Answered>,
    open: Vec<Open>,
    /// The answered operations not taken yet, as a doubly linked list in the order of their calls. Position n is operation n - 1;
    /// position 0 is both ends.
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The answered writes, by the version they made, and how many of them are taken.
    by_version: Vec<usize>,
    versions_taken: usize,
    /// Sum (exclusive or) of a random-looking word for each answered operation taken: stands for the set of them. With 128 bits two
    /// sets that share one do not occur in practice.
    taken: u128,
    /// How many open operations of each sort are taken, where any are.
    open_taken: BTreeMap<usize, usize>,
    register: Register,
    /// The last operation taken is an open one, which the next one must see; the state before it.
    unseen: Option<Register>,
    /// Where the search has been, and with which open operations taken.
    been: HashMap<Place, Vec<BTreeMap<usize, usize>>>,
    furthest: u64,
}

impl Search {
    fn new(operations: &[Compiled]) -> Search {
        let (mut answered, mut open): (Vec<Answered>, Vec<Open>) = (Vec::new(), Vec::new());
        let mut alike: HashMap<Step, usize> = HashMap::new();
        for Compiled { invoked, returned, step } in operations.iter().copied() {
            match returned {
                Some(returned) => answered.push(Answered { invoked, returned: returned.max(invoked), step }),
                None => {
                    let at = *alike.entry(step).or_insert(open.len());
                    if at == open.len() {
                        open.push(Open { step, invoked: Vec::new(), taken: 0 });
                    }
                    open[at].invoked.push(invoked);
                }
            }
        }
        let mut by_version: Vec<usize> = (0..answered.len()).filter(|at| answered[*at].step.made().is_some()).collect();
        by_version.sort_by_key(|at| answered[*at].step.made());
        let places = answered.len() + 1;
        Search {
            next: (0..places).map(|place| (place + 1) % places).collect(),
            previous: (0..places).map(|place| (place + places - 1) % places).collect(),
            answered,
            open,
            by_version,
            versions_taken: 0,
            taken: 0,
            register: Register::EMPTY,
            open_taken: BTreeMap::new(),
            unseen: None,
            been: HashMap::new(),
            furthest: 0,
        }
    }

    fn run(&mut self, steps: u64) -> Outcome {
        let mut stack = Vec::new();
        let mut left = steps;
        let mut lead: Option<Move> = None;
        loop {
            if left == 0 {
                return Outcome::Undecided;
            }
            left -= 1;
            let mut taken: Vec<Move> = lead.take().into_iter().collect();
            self.take_what_changes_nothing(&mut taken);
            if self.next[0] == 0 {
                return Outcome::Linearizable;
            }
            let moves = if self.is_new_here() { self.moves() } else { Vec::new() };
            stack.push(Frame { moves: moves.into_iter(), taken, register: self.register, unseen: self.unseen });
            loop {
                let Some(frame) = stack.last_mut() else { return Outcome::Violation };
                if let Some(chosen) = frame.moves.next() {
                    let (register, unseen) = (frame.register, frame.unseen);
                    self.register = register;
                    self.unseen = unseen;
                    self.take(chosen);
                    lead = Some(chosen);
                    break;
                }
                let frame = stack.pop();
                frame.into_iter().flat_map(|frame| frame.taken).rev().for_each(|taken| self.put_back(taken));
            }
        }
    }

    /// Whether the search was never here with these open operations taken, or some of them; remembers that it is now.
    fn is_new_here(&mut self) -> bool {
        let earlier = self.been.entry((self.taken, self.register, self.unseen)).or_default();
        let now = &self.open_taken;
        let no_more = |taken: &BTreeMap<usize, usize>| taken.iter().all(|(at, count)| now.get(at).is_some_and(|more| more >= count));
        let new = !earlier.iter().any(no_more);
        if new {
            earlier.push(self.open_taken.clone());
        }
        new
    }

    fn step_of(&self, operation: Move) -> Step {
        match operation {
            Move::Answered(at) => self.answered[at].step,
            Move::Open(at) => self.open[at].step,
        }
    }

    /// Takes an operation that [`Search::moves`] has found to be possible.
    fn take(&mut self, operation: Move) {
        let (step, before) = (self.step_of(operation), self.register);
        self.register = before.after(step).expect("only steps that come out in this state are taken");
        match operation {
            Move::Answered(at) => {
                self.taken ^= word(at);
                let (before, behind) = (self.previous[at + 1], self.next[at + 1]);
                self.next[before] = behind;
                self.previous[behind] = before;
                self.versions_taken += usize::from(step.made().is_some());
            }
            Move::Open(at) => {
                self.open[at].taken += 1;
                self.open_taken.insert(at, self.open[at].taken);
            }
        }
        self.unseen = matches!(operation, Move::Open(_)).then_some(before);
    }

    /// Undoes [`Search::take`], newest first; the register is the caller's.
    fn put_back(&mut self, operation: Move) {
        match operation {
            Move::Answered(at) => {
                self.taken ^= word(at);
                let (before, behind) = (self.previous[at + 1], self.next[at + 1]);
                self.next[before] = at + 1;
                self.previous[behind] = at + 1;
                self.versions_taken -= usize::from(self.answered[at].step.made().is_some());
            }
            Move::Open(at) => {
                self.open[at].taken -= 1;
                match self.open[at].taken {
                    0 => self.open_taken.remove(&at),
                    taken => self.open_taken.insert(at, taken),
                };
            }
        }
    }

    /// The answered operations that may come next, which are those that no other one precedes, and the time up to which an operation
    /// must have been called to be among them.
    fn candidates(&self) -> (Vec<usize>, u64) {
        let (mut found, mut place, mut first_return) = (Vec::new(), self.next[0], u64::MAX);
        while place != 0 && self.answered[place - 1].invoked <= first_return {
            found.push(place - 1);
            first_return = first_return.min(self.answered[place - 1].returned);
            place = self.next[place];
        }
        (found, first_return)
    }

    fn take_what_changes_nothing(&mut self, taken: &mut Vec<Move>) {
        loop {
            let (candidates, _) = self.candidates();
            let unchanged = |at: &usize| self.register.after(self.answered[*at].step) == Some(self.register);
            let found: Vec<usize> = candidates.into_iter().filter(unchanged).collect();
            if found.is_empty() {
                return;
            }
            for at in found {
                self.take(Move::Answered(at));
                taken.push(Move::Answered(at));
            }
        }
    }

    /// What may be taken now, the likely first.
    fn moves(&mut self) -> Vec<Move> {
        let (mut candidates, called_by) = self.candidates();
        self.furthest = self.furthest.max(called_by);
        if candidates.iter().any(|at| self.register.has_missed(self.answered[*at].step)) {
            return Vec::new();
        }
        candidates.sort_by_key(|at| self.answered[*at].returned);
        let next_version = self.by_version.get(self.versions_taken).copied();
        let allowed = |at: &usize| {
            let step = self.answered[*at].step;
            let in_order = step.made().is_none() || next_version == Some(*at);
            in_order && sees(step, self.register, self.unseen)
        };
        let mut moves: Vec<Move> = candidates.iter().copied().filter(allowed).map(Move::Answered).collect();
        moves.extend(self.open_moves(&candidates, called_by).into_iter().map(Move::Open));
        moves
    }

    /// The open operations that something could see right away.
    fn open_moves(&self, candidates: &[usize], called_by: u64) -> Vec<usize> {
        let may_be_taken = |at: &usize| {
            let Open { step, .. } = self.open[*at];
            // Of the open operations only compare-and-sets need to see another one.
            let useless = self.unseen.is_some() && !matches!(step, Step::CompareAndSet { .. });
            if useless || !self.open[*at].has_one(called_by) || !sees(step, self.register, self.unseen) {
                return false;
            }
            let (register, before) = (self.register.after(step).unwrap_or(self.register), Some(self.register));
            candidates.iter().any(|candidate| sees(self.answered[*candidate].step, register, before))
                || self.open.iter().any(|other| {
                    let compares = matches!(other.step, Step::CompareAndSet { .. });
                    compares && other.has_one(called_by) && sees(other.step, register, before)
                })
        };
        (0..self.open.len()).filter(may_be_taken).collect()
    }
}

/// Whether a step comes out in `register`, and, if an open operation led there from `before`, differently than without it.
fn sees(step: Step, register: Register, before: Option<Register>) -> bool {
    let after = register.after(step);
    after.is_some() && before.is_none_or(|before| !step.is_blind() && before.after(step) != after)
}

/// A word for each operation, as different as those of a good generator (SplitMix64's finisher, twice).
fn word(at: usize) -> u128 {
    let mix = |salt: u64| {
        let mut word = (at as u64).wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    };
    u128::from(mix(0x1234_5678_9abc_def1)) << 64 | u128::from(mix(0xfedc_ba98_7654_3211))
}
