//! The time between a start that met damage and the start that goes on without it: asks the other nodes for what is missing, and gives
//! them what they miss, until nothing is missing, or the others can do without this log, or nobody has what is missing. Until then this
//! node takes no part in the cluster: it votes for nobody, acknowledges nothing, and counts for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::acceptor::Acceptor;
use super::identity::{Mark, Standing, Verdict, ids_of, judge, numbered};
use super::inbound::{answer, read_hello};
use super::mend_decision::{Inquiry, Step};
use super::mend_link::{ask, limit_silence, serve};
use super::notices::{Notices, Throttle};
use super::shared::bare_hello;
use super::sockets::{Timing, connect, describe_error, greet};
use crate::error::{Error, Result};
use crate::protocol::handshake::{Greeting, Hello, LinkClass};
use crate::protocol::mend::{self, Said};
use crate::raft::NodeId;
use crate::storage::directory::{Attempt, Founding, Identity, Opened};
use crate::storage::mend::{Damaged, Found, Missing, Wanted};

/// Pause between two rounds of questions.
const ROUND: Duration = Duration::from_millis(100);
/// Pause once nothing has changed for a while.
const ROUND_IDLE: Duration = Duration::from_millis(500);
/// Rounds after which the pause grows.
const ROUNDS_BUSY: u32 = 50;
/// How often it is said what is waited for.
const SAID_AGAIN: Duration = Duration::from_secs(5);
/// A node that gives up answers the others for so long, so that they come to the same end instead of waiting for it.
const LINGER: Duration = Duration::from_secs(3);
/// A log that is damaged anew as often as this is not mended again.
const MENDED_MAX: u32 = 3;
/// What a node that is no part of the cluster yet tells those who want to work with it.
const NOT_YET: &str = "this node is mending its log and takes no part yet";

/// What a node knows when it meets damage at its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct MendConfig<'a> {
    /// The text of `--id`.
    pub(super) id: &'a str,
    /// This node's identity, durable.
    pub(super) identity: Identity,
    /// The founding record.
    pub(super) founding: &'a Founding,
    /// Other addresses under which members are dialed, by id.
    pub(super) dial: &'a BTreeMap<String, String>,
    /// Bound and listening on the peer port; to be given to the transport afterwards.
    pub(super) listeners: &'a [TcpListener],
    /// Where clients reach this node.
    pub(super) client_address: &'a str,
    /// What is remembered of the others.
    pub(super) marks: &'a BTreeMap<NodeId, Mark>,
    /// Time limits.
    pub(super) timing: Timing,
}

/// Opens a damaged log, whatever that takes. [`Error::Closed`] if `stop` is set before; [`Error::Corrupt`] if no node has an entry any
/// more.
pub(super) fn mend(config: &MendConfig<'_>, damaged: Box<Damaged>, stop: &AtomicBool) -> Result<Box<Opened>> {
    let mut damaged = damaged;
    for _ in 0..MENDED_MAX {
        log::error!("{}", damaged.cause());
        let (settled, step, came) = settle(config, damaged, stop)?;
        match step {
            Step::Mend => match settled.mend()? {
                Attempt::Opened(opened) => {
                    log::info!("the log has been mended with {came} entries from the other nodes");
                    return Ok(opened);
                }
                Attempt::Damaged(again) => damaged = again,
            },
            Step::PutAside => return settled.put_aside().map(Box::new),
            Step::Refuse { index } => {
                return Err(settled.loss_of(index, "and no node of the cluster has a good copy of it any more"));
            }
            Step::Wait(_) => return Err(Error::Closed),
        }
    }
    let reason =
        format!("after it has been mended {MENDED_MAX} times, there is still damage ({}): is the device failing?", damaged.cause());
    Err(Error::Corrupt { file: "the log".to_owned(), offset: 0, reason })
}

/// What is asked for: nothing that would be of no use.
fn wanted_of(damaged: &mut Damaged) -> Vec<Wanted> {
    if damaged.obstacle().is_some() { Vec::new() } else { damaged.wanted() }
}

/// What the threads that answer share with the one that asks.
struct Desk {
    hello: Hello,
    founding: Founding,
    marks: BTreeMap<NodeId, Mark>,
    timing: Timing,
    attempts: AtomicU64,
    damaged: Shelf,
    /// Who has asked since it was last emptied.
    askers: Mutex<BTreeSet<String>>,
    strangers: Throttle,
}

/// Asks and answers until it is settled what is to be done. Also says how many entries came from others.
fn settle(config: &MendConfig<'_>, damaged: Box<Damaged>, stop: &AtomicBool) -> Result<(Box<Damaged>, Step, u64)> {
    let missed = missing(&damaged);
    match damaged.obstacle() {
        None if missed == 0 => return Ok((damaged, Step::Mend, 0)),
        None => log::warn!("{missed} entries of the log cannot be read here: the other nodes are asked for them"),
        Some(obstacle) => {
            log::warn!("the log cannot be mended from entries of the others, and waits until they can do without it: {obstacle}")
        }
    }
    let hello = Hello {
        cluster: config.founding.cluster,
        term: damaged.term(),
        last: damaged.position(),
        founding: Some(config.founding.clone()),
        ..bare_hello(config.id, config.client_address, config.identity, ids_of(config.founding), LinkClass::Mend)
    };
    let desk = Arc::new(Desk {
        hello,
        founding: config.founding.clone(),
        marks: config.marks.clone(),
        timing: config.timing,
        attempts: AtomicU64::new(0),
        damaged: Mutex::new(Some(damaged)),
        askers: Mutex::default(),
        strangers: Throttle::new(Duration::from_secs(1)),
    });
    let answering = Arc::clone(&desk);
    // All of its connections count among the few that are not trusted yet: nothing bounds them otherwise.
    let mut acceptor = Acceptor::start(config.listeners, Arc::new(move |stream: &Arc<TcpStream>, _: &mut _| answering.serve(stream)))?;
    let settled = desk.ask_until_settled(config, stop);
    acceptor.stop();
    let damaged = desk.damaged.lock().take().expect("only this function takes it");
    let came = missed.saturating_sub(missing(&damaged));
    Ok((damaged, settled?, came))
}

/// How many entries are wanted.
fn missing(damaged: &Damaged) -> u64 {
    damaged.wanted().iter().map(|wanted| wanted.last + 1 - wanted.first).sum()
}

impl Desk {
    fn ask_until_settled(&self, config: &MendConfig<'_>, stop: &AtomicBool) -> Result<Step> {
        let others: Vec<(NodeId, String)> = numbered(config.founding).into_iter().filter(|(_, id)| id != config.id).collect();
        let (mut inquiry, notices) = (Inquiry::new(&others), Notices::default());
        let mut said = Instant::now();
        for round in 0.. {
            inquiry.begin();
            for (peer, id) in &others {
                if stop.load(Ordering::SeqCst) {
                    return Err(Error::Closed);
                }
                let address = config.dial.get(id).unwrap_or(id);
                match self.ask_peer(*peer, id, address, &mut inquiry, stop)? {
                    Err(reason) if notices.changed(id, &reason) => log::info!("{id} cannot be asked for lost entries: {reason}"),
                    Err(_) => {}
                    Ok(()) => {
                        notices.settled(id);
                    }
                }
            }
            let step = self.with(|damaged| inquiry.step(damaged.last(), &wanted_of(damaged), damaged.is_complete()))?;
            match step {
                Step::Wait(text) => {
                    if notices.changed("mending", &text) || said.elapsed() > SAID_AGAIN {
                        log::warn!("the log waits to be mended, for {text}");
                        said = Instant::now();
                    }
                }
                Step::Refuse { .. } => {
                    self.linger(&others, stop);
                    return Ok(step);
                }
                Step::Mend | Step::PutAside => return Ok(step),
            }
            thread::sleep(if round < ROUNDS_BUSY { ROUND } else { ROUND_IDLE });
        }
        Err(Error::Closed)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Damaged) -> T) -> Result<T> {
        with(&self.damaged, look)
    }

    /// Asks one node for everything. The outer error is one of this node's disk.
    fn ask_peer(&self, peer: NodeId, id: &str, address: &str, inquiry: &mut Inquiry, stop: &AtomicBool) -> Result<Heard> {
        let stream = match self.dial(peer, id, address) {
            Ok(stream) => stream,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut said = Instant::now();
        inquire(peer, &self.damaged, inquiry, &mut |question| {
            if stop.load(Ordering::SeqCst) {
                return Err("shutting down".to_owned());
            }
            if said.elapsed() > SAID_AGAIN {
                let left = self.with(|damaged| missing(damaged)).unwrap_or(0);
                log::info!("{id} is asked for lost entries; {left} are still missing");
                said = Instant::now();
            }
            ask(&stream, question).map_err(|error| describe_error(&error))
        })
    }

    /// A connection to a peer that is who it should be.
    fn dial(&self, peer: NodeId, id: &str, address: &str) -> std::result::Result<TcpStream, String> {
        let stream = connect(address, &self.timing)?;
        let hello = Hello { attempt: self.attempts.fetch_add(1, Ordering::Relaxed) + 1, ..self.hello.clone() };
        match greet(&stream, hello, self.timing.handshake).map_err(|error| describe_error(&error))? {
            Greeting::Welcome(welcome) if welcome.id != id => return Err(format!("`{}` answers at {address}", welcome.id.escape_debug())),
            Greeting::Welcome(welcome) => self.check(self.marks.get(&peer), &welcome)?,
            Greeting::Refusal(reason) => return Err(format!("it refuses this node: {}", reason.escape_debug())),
            Greeting::Hello(_) => return Err("it answers with a hello instead of a welcome".to_owned()),
        }
        limit_silence(&stream, &self.timing).map_err(|error| describe_error(&error))?;
        Ok(stream)
    }

    fn check(&self, mark: Option<&Mark>, hello: &Hello) -> std::result::Result<(), String> {
        let standing = Standing { id: &self.hello.id, founding: &self.founding };
        match judge(standing, mark, hello) {
            Verdict::Accept { .. } => Ok(()),
            Verdict::Refuse(refusal) => Err(refusal.to_string()),
        }
    }

    /// Gives the others time to learn what this node does not have.
    fn linger(&self, others: &[(NodeId, String)], stop: &AtomicBool) {
        self.askers.lock().clear();
        let until = Instant::now() + LINGER;
        while Instant::now() < until && !stop.load(Ordering::SeqCst) && self.askers.lock().len() < others.len() {
            thread::sleep(ROUND);
        }
        // The last answer may still be on its way.
        thread::sleep(ROUND);
    }

    /// Serves one inbound connection until it ends.
    fn serve(&self, stream: &TcpStream) {
        let outcome = read_hello(stream, &self.timing).and_then(|hello| self.receive(stream, &hello));
        if let Err(error) = outcome
            && let Some(left_out) = self.strangers.allow()
        {
            log::debug!("a connection on the peer port ended: {} ({left_out} like this left out)", describe_error(&error));
        }
    }

    fn receive(&self, stream: &TcpStream, hello: &Hello) -> Result<()> {
        let welcome = Greeting::Welcome(Box::new(Hello { link: hello.link, ..self.hello.clone() }));
        if hello.link == LinkClass::Founding {
            return answer(stream, &self.timing, &welcome);
        }
        let peer = numbered(&self.founding).into_iter().find(|(_, id)| *id == hello.id).map(|(node, _)| node);
        let refusal = match self.check(peer.and_then(|peer| self.marks.get(&peer)), hello) {
            Err(reason) => Some(reason),
            Ok(()) => (hello.link != LinkClass::Mend).then(|| NOT_YET.to_owned()),
        };
        if let Some(reason) = refusal {
            answer(stream, &self.timing, &Greeting::Refusal(reason))?;
            let _ = stream.shutdown(Shutdown::Write);
            return Ok(());
        }
        answer(stream, &self.timing, &welcome)?;
        serve(stream, &self.timing, &mut |wanted| self.respond(wanted))?;
        self.askers.lock().insert(hello.id.clone());
        Ok(())
    }

    fn respond(&self, wanted: Option<Wanted>) -> Result<Said> {
        self.with(|damaged| respond(damaged, wanted))?
    }
}

/// Gone when it has been settled what is done with it.
type Shelf = Mutex<Option<Box<Damaged>>>;

/// What a peer had to say; text for a person if it did not get that far.
type Heard = std::result::Result<(), String>;

fn with<T>(shelf: &Shelf, look: impl FnOnce(&mut Damaged) -> T) -> Result<T> {
    shelf.lock().as_mut().map(|damaged| look(damaged)).ok_or(Error::Closed)
}

/// What a log that waits to be mended answers others.
fn respond(damaged: &Damaged, wanted: Option<Wanted>) -> Result<Said> {
    let Some(wanted) = wanted else {
        return Ok(Said::Standing(mend::Standing { running: false, whole: false, last: damaged.position() }));
    };
    Ok(match damaged.look(&wanted)? {
        Found::Records(records) => Said::Records { first: wanted.first, records },
        Found::Missing { through, why } => Said::Missing { through, why },
    })
}

/// Asks a peer, of which `hear` gets the answers, how it stands and for everything that is missing. The outer error is one of this node's
/// disk.
fn inquire(
    peer: NodeId,
    shelf: &Shelf,
    inquiry: &mut Inquiry,
    hear: &mut dyn FnMut(&Said) -> std::result::Result<Said, String>,
) -> Result<Heard> {
    match hear(&Said::Look) {
        Ok(Said::Standing(standing)) => inquiry.stands(peer, standing),
        Ok(other) => return Ok(Err(format!("it answers with {other:?}"))),
        Err(reason) => return Ok(Err(reason)),
    }
    let mut useless = None;
    for wanted in with(shelf, wanted_of)? {
        let mut next = wanted.first;
        while next <= wanted.last {
            let question = Wanted { first: next, ..wanted.clone() };
            next = match hear(&Said::Want(question.clone())) {
                Ok(Said::Records { first, records }) if first == next => match with(shelf, |damaged| damaged.take(&question, &records))? {
                    Ok(behind) => behind,
                    Err(error @ Error::Protocol(_)) => {
                        // Whatever that is, it is of no use here, and no proof that nobody has the entries.
                        inquiry.lacks(peer, next, wanted.last, Missing::Unsure);
                        useless.get_or_insert(error.to_string());
                        wanted.last + 1
                    }
                    Err(error) => return Err(error),
                },
                Ok(Said::Missing { through, why }) if (next..=wanted.last).contains(&through) => {
                    inquiry.lacks(peer, next, through, why);
                    through + 1
                }
                Ok(other) => return Ok(Err(format!("it answers with {other:?}"))),
                Err(reason) => return Ok(Err(reason)),
            };
        }
    }
    Ok(useless.map_or(Ok(()), Err))
}

#[cfg(test)]
#[path = "mending_tests.rs"]
mod tests;
