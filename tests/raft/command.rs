//! The language of the scripts: one command a line, words separated by blanks, `#` begins a comment. Members are numbers from 1.
//! `quietly` before a command leaves its lines out of the transcript: for what only sets the scene.
//! Parses, never acts.

use std::str::FromStr;

use apexkv::raft::{Config, EntryId, NodeId};

use super::network::Link;

/// Which packets of which links a command is about.
#[derive(Clone, Debug)]
pub(crate) struct Which {
    pub(crate) links: Vec<Link>,
    /// Only the oldest (`Some(false)`) or the newest (`Some(true)`) packet; else all.
    pub(crate) one: Option<bool>,
}

/// What a script may say.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// `cluster N [learners=N]`: N voters with empty disks, then learners.
    Cluster { voters: u32, learners: u32 },
    /// `settings key=ticks …`: changes timeouts; before `cluster`.
    Settings(Vec<(String, u64)>),
    /// `hide heartbeats`: leaves heartbeats and their answers out of the transcript where they are not the point.
    HideHeartbeats,
    /// `state ID term=T [vote=ID] log=1,1,2 [commit=N] [config=INDEX:1,2,3/4]`: the member comes back from a stop with this on its disk;
    /// the entry at INDEX sets voters and, after the slash, learners.
    State { id: NodeId, term: u64, vote: Option<NodeId>, log: Vec<u64>, commit: u64, config: Option<(u64, Config)> },
    /// `elect ID`: its timeout runs out, everything is delivered.
    Elect(NodeId),
    /// `timeout ID …`: the next timer of each runs out. Nothing is delivered.
    Timeout(Vec<NodeId>),
    /// `tick ID N`: time passes for one member. Nothing is delivered.
    Tick(NodeId, u32),
    /// `ticks N`: N times, a tick for every member and everything delivered.
    Ticks(u32),
    /// `deliver`: everything until nothing is under way. `deliver FROM TO [control|bulk] [oldest|newest]`: what is under way there now.
    Deliver(Option<Which>),
    /// `lose FROM TO [control|bulk] [oldest|newest]`: it never arrives.
    Lose(Which),
    /// `repeat FROM TO [control|bulk] [oldest|newest]`: a second copy gets under way, behind all others.
    Repeat(Which),
    /// `hold FROM TO [control|bulk]`: `deliver` and `ticks` leave the link alone.
    Hold(Which),
    /// `release FROM TO [control|bulk]`: not any more.
    Release(Which),
    /// `cut ID …`: packets between these members and the others get lost, unnoticed.
    Cut(Vec<NodeId>),
    /// `cut-link FROM TO [control|bulk]`: packets of the link get lost, unnoticed.
    CutLink(Which),
    /// `join`: no packets get lost any more.
    Join,
    /// `break A B`: the connections between A and B break, and both notice.
    Break(NodeId, NodeId),
    /// `propose ID LABEL …`: the commands are handed to the member.
    Propose(NodeId, Vec<String>),
    /// `read ID NAME`: a read is handed to the member.
    Read(NodeId, String),
    /// `transfer ID [TO]`: the member is asked to hand leadership over.
    Transfer(NodeId, Option<NodeId>),
    /// `crash ID`: power is cut; the others notice nothing.
    Crash(NodeId),
    /// `kill ID`: the process ends; the others see its connections break.
    Kill(NodeId),
    /// `restart ID`.
    Restart(NodeId),
    /// `slow ID`: its disk finishes nothing by itself.
    Slow(NodeId),
    /// `fast ID`: its disk finishes everything at once again.
    Fast(NodeId),
    /// `sync ID [N]`: its disk finishes the oldest N writes of records (all).
    Sync(NodeId, usize),
    /// `store ID`: its disk finishes the hard state.
    Store(NodeId),
    /// `full ID`, `room ID`: it has no room for records, or has again.
    Room(NodeId, bool),
    /// `stalled ID`, `works ID`: its disk hangs and it says so to the core, or answers again.
    Stalled(NodeId, bool),
    /// `arriving ID PEER`: bytes of a message are arriving at ID on the bulk link from PEER.
    Arriving(NodeId, NodeId),
    /// `short ID`, `ample ID`: it refuses clients' records for lack of room and says so to the core, or takes them again.
    Short(NodeId, bool),
    /// `floor ID TERM INDEX`: its log once ended there, at the latest, and was lost.
    Floor(NodeId, EntryId),
    /// `compact ID INDEX`: the records up to there go into files.
    Compact(NodeId, u64),
    /// `show`: the state of all.
    Show,
    /// `expect …`: what a person says must be so; see [`Expect`].
    Expect(Expect),
}

/// What must be so at this place of the script. Written by hand; recording never touches it.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// `expect ID key=value …`, the keys being those of the state line: role, term, vote, leader, last, commit, durable, voters, log.
    State(NodeId, Vec<String>),
    /// `expect leader ID|none`: it leads the newest term that anyone leads.
    Leader(Option<NodeId>),
    /// `expect committed N`: so many entries are known to be committed somewhere.
    Committed(u64),
    /// `expect read NAME waiting|confirmed|refused`.
    Read(String, String),
    /// `expect proposal LABEL taken|refused`.
    Proposal(String, bool),
    /// `expect deadline ID FROM..TO`: its next timer runs out in so many ticks, both included.
    Deadline(NodeId, u32, u32),
    /// `expect packet FROM TO TEXT`: a packet whose line contains TEXT is under way.
    Packet(Link, String),
    /// `expect no-packet FROM TO TEXT`.
    NoPacket(Link, String),
}

type Parsed<T> = Result<T, String>;

/// The words of a line that are still to be read.
struct Words<'line>(std::iter::Peekable<std::str::SplitWhitespace<'line>>);

impl<'line> Words<'line> {
    fn word(&mut self) -> Parsed<&'line str> {
        self.0.next().ok_or("a word is missing".to_string())
    }

    fn number<T: FromStr>(&mut self) -> Parsed<T> {
        number(self.word()?)
    }

    fn id(&mut self) -> Parsed<NodeId> {
        Ok(NodeId(self.number()?))
    }

    fn rest(&mut self) -> Vec<String> {
        self.0.by_ref().map(str::to_string).collect()
    }

    fn ids(&mut self) -> Parsed<Vec<NodeId>> {
        self.0.by_ref().map(|word| Ok(NodeId(number(word)?))).collect()
    }

    /// `key=value` words.
    fn pairs(&mut self) -> Parsed<Vec<(&'line str, &'line str)>> {
        self.0.by_ref().map(|word| word.split_once('=').ok_or(format!("{word:?} is not key=value"))).collect()
    }

    fn which(&mut self) -> Parsed<Which> {
        let (from, to) = (self.id()?, self.id()?);
        let mut which = Which { links: [false, true].map(|bulk| Link { from, to, bulk }).to_vec(), one: None };
        for word in self.0.by_ref() {
            match word {
                "control" => which.links.truncate(1),
                "bulk" => which.links = which.links.split_off(1),
                "oldest" => which.one = Some(false),
                "newest" => which.one = Some(true),
                _ => return Err(format!("{word:?} is none of control, bulk, oldest, newest")),
            }
        }
        Ok(which)
    }
}

fn number<T: FromStr>(word: &str) -> Parsed<T> {
    word.parse().map_err(|_| format!("{word:?} is not a number"))
}

fn numbers<T: FromStr>(text: &str) -> Parsed<Vec<T>> {
    text.split(',').filter(|part| !part.is_empty()).map(number).collect()
}

/// The command of a line; `None` for a line without one.
pub(crate) fn parse(line: &str) -> Parsed<Option<Command>> {
    let code = line.split('#').next().unwrap_or_default();
    let mut words = Words(code.split_whitespace().peekable());
    if words.0.peek().is_none() {
        return Ok(None);
    }
    let command = parse_command(&mut words)?;
    match words.0.next() {
        Some(extra) => Err(format!("{extra:?} is too much")),
        None => Ok(Some(command)),
    }
}

fn parse_command(words: &mut Words<'_>) -> Parsed<Command> {
    Ok(match words.word()? {
        "cluster" => parse_cluster(words)?,
        "settings" => {
            let pairs = words.pairs()?;
            Command::Settings(pairs.into_iter().map(|(key, value)| Ok((key.to_string(), number(value)?))).collect::<Parsed<_>>()?)
        }
        "hide" => (words.word()? == "heartbeats").then_some(Command::HideHeartbeats).ok_or("only heartbeats can be hidden")?,
        "state" => parse_state(words)?,
        "elect" => Command::Elect(words.id()?),
        "timeout" => Command::Timeout(words.ids()?),
        "tick" => Command::Tick(words.id()?, words.number()?),
        "ticks" => Command::Ticks(words.number()?),
        "deliver" if words.0.peek().is_none() => Command::Deliver(None),
        "deliver" => Command::Deliver(Some(words.which()?)),
        "lose" => Command::Lose(words.which()?),
        "repeat" => Command::Repeat(words.which()?),
        "hold" => Command::Hold(words.which()?),
        "release" => Command::Release(words.which()?),
        "cut" => Command::Cut(words.ids()?),
        "cut-link" => Command::CutLink(words.which()?),
        "join" => Command::Join,
        "break" => Command::Break(words.id()?, words.id()?),
        "propose" => Command::Propose(words.id()?, words.rest()),
        "read" => Command::Read(words.id()?, words.word()?.to_string()),
        "transfer" => Command::Transfer(words.id()?, words.ids()?.first().copied()),
        "crash" => Command::Crash(words.id()?),
        "kill" => Command::Kill(words.id()?),
        "restart" => Command::Restart(words.id()?),
        "slow" => Command::Slow(words.id()?),
        "fast" => Command::Fast(words.id()?),
        "sync" => Command::Sync(words.id()?, if words.0.peek().is_some() { words.number()? } else { usize::MAX }),
        "store" => Command::Store(words.id()?),
        "full" => Command::Room(words.id()?, false),
        "room" => Command::Room(words.id()?, true),
        "stalled" => Command::Stalled(words.id()?, true),
        "works" => Command::Stalled(words.id()?, false),
        "arriving" => Command::Arriving(words.id()?, words.id()?),
        "short" => Command::Short(words.id()?, true),
        "floor" => Command::Floor(words.id()?, EntryId { term: words.number()?, index: words.number()? }),
        "ample" => Command::Short(words.id()?, false),
        "compact" => Command::Compact(words.id()?, words.number()?),
        "show" => Command::Show,
        "expect" => Command::Expect(parse_expect(words)?),
        other => return Err(format!("there is no command {other:?}")),
    })
}

fn parse_cluster(words: &mut Words<'_>) -> Parsed<Command> {
    let voters = words.number()?;
    let mut learners = 0;
    for (key, value) in words.pairs()? {
        match key {
            "learners" => learners = number(value)?,
            _ => return Err(format!("a cluster has no {key:?}")),
        }
    }
    Ok(Command::Cluster { voters, learners })
}

fn parse_state(words: &mut Words<'_>) -> Parsed<Command> {
    let id = words.id()?;
    let (mut term, mut vote, mut log, mut commit, mut config) = (0, None, Vec::new(), 0, None);
    for (key, value) in words.pairs()? {
        match key {
            "term" => term = number(value)?,
            "vote" => vote = Some(NodeId(number(value)?)),
            "log" => log = numbers(value)?,
            "commit" => commit = number(value)?,
            "config" => {
                let (index, members) = value.split_once(':').ok_or("a configuration is INDEX:VOTERS/LEARNERS")?;
                let (voters, learners) = members.split_once('/').unwrap_or((members, ""));
                let ids = |text| Ok::<_, String>(numbers(text)?.into_iter().map(NodeId).collect());
                config = Some((number(index)?, Config { voters: ids(voters)?, learners: ids(learners)? }));
            }
            _ => return Err(format!("a state has no {key:?}")),
        }
    }
    Ok(Command::State { id, term, vote, log, commit, config })
}

fn parse_expect(words: &mut Words<'_>) -> Parsed<Expect> {
    Ok(match words.word()? {
        "leader" => match words.word()? {
            "none" => Expect::Leader(None),
            id => Expect::Leader(Some(NodeId(number(id)?))),
        },
        "committed" => Expect::Committed(words.number()?),
        "read" => Expect::Read(words.word()?.to_string(), words.word()?.to_string()),
        "proposal" => Expect::Proposal(words.word()?.to_string(), words.word()? == "taken"),
        "deadline" => {
            let (id, range) = (words.id()?, words.word()?);
            let (from, to) = range.split_once("..").ok_or(format!("{range:?} is not FROM..TO"))?;
            Expect::Deadline(id, number(from)?, number(to)?)
        }
        "packet" => Expect::Packet(Link { from: words.id()?, to: words.id()?, bulk: false }, words.rest().join(" ")),
        "no-packet" => Expect::NoPacket(Link { from: words.id()?, to: words.id()?, bulk: false }, words.rest().join(" ")),
        id => Expect::State(NodeId(number(id)?), words.rest()),
    })
}
