//! The way of an empty node into a cluster: asks every peer again and again, answers those who ask, and returns the founding record that
//! is to be stored. It stores nothing itself, and shows a record to nobody before it has been stored.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::acceptor::{Acceptor, Pending};
use super::founding::{Answer, Candidate, Step};
use super::inbound::{answer, read_hello};
use super::notices::{Notices, Throttle};
use super::shared::bare_hello;
use super::sockets::{Timing, connect, describe_error, greet};
use crate::error::{Error, Result};
use crate::protocol::handshake::{Greeting, Hello, LinkClass};
use crate::storage::directory::{Founding, FoundingMember, Identity};

/// Pause between two rounds of questions.
const ROUND: Duration = Duration::from_millis(50);
/// Pause once nothing has changed for a while.
const ROUND_IDLE: Duration = Duration::from_millis(250);
/// Rounds without a change after which the pause grows.
const ROUNDS_BUSY: u32 = 100;
/// A peer that does not answer a question within this time counts as silent, so that one hung peer does not hold up the others.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Reasons to ask again at once that may wait; one suffices.
const SHOWN_MAX: usize = 1;

/// What an empty node knows when it starts.
#[derive(Clone, Copy, Debug)]
pub struct JoinConfig<'a> {
    /// The text of `--id`.
    pub id: &'a str,
    /// Ids of all members, this node's among them, sorted.
    pub members: &'a [String],
    /// This node's identity, durable.
    pub identity: Identity,
    /// Other addresses under which members are dialed, by id.
    pub dial: &'a BTreeMap<String, String>,
    /// Bound and listening on the peer port; to be given to the transport afterwards.
    pub listeners: &'a [TcpListener],
    /// Where clients reach this node.
    pub client_address: &'a str,
    /// Time limits.
    pub timing: Timing,
}

/// Waits until this node may found a cluster, or is shown the record of one in which it stands, and returns the record: the caller
/// stores it, then starts the transport. A node that has lost its disk, or whose command line contradicts the others', says so and
/// goes on waiting, until the cause is gone or `stop` is set ([`Error::Closed`]).
pub fn found_or_join(config: &JoinConfig<'_>, stop: &AtomicBool) -> Result<Founding> {
    let own = FoundingMember { id: config.id.to_owned(), uuid: config.identity.uuid };
    let mut candidate = Candidate::new(own, config.members.to_vec(), rand::random_range(1..=u128::MAX));
    let (sender, shown) = bounded(SHOWN_MAX);
    let reception = Reception {
        hello: empty_hello(config, LinkClass::Founding),
        timing: config.timing,
        shown: sender,
        strangers: Throttle::new(Duration::from_secs(1)),
    };
    let serve = Arc::new(move |stream: &Arc<TcpStream>, _: &mut Pending| reception.serve(stream));
    let mut acceptor = Acceptor::start(config.listeners, serve)?;
    let outcome = ask_until_settled(config, &mut candidate, &shown, stop);
    acceptor.stop();
    outcome
}

fn empty_hello(config: &JoinConfig<'_>, link: LinkClass) -> Hello {
    bare_hello(config.id, config.client_address, config.identity, config.members.to_vec(), link)
}

fn ask_until_settled(config: &JoinConfig<'_>, candidate: &mut Candidate, shown: &Receiver<()>, stop: &AtomicBool) -> Result<Founding> {
    let notices = Notices::default();
    let peers: Vec<String> = candidate.peers().cloned().collect();
    let mut unchanged = 0;
    loop {
        for peer in &peers {
            if stop.load(Ordering::SeqCst) {
                return Err(Error::Closed);
            }
            candidate.answered(peer, ask(config, peer));
        }
        while shown.try_recv().is_ok() {}
        match settle(candidate.step(), &notices) {
            Progress::Settled(record) => return Ok(record),
            Progress::Changed => unchanged = 0,
            Progress::Same => unchanged += 1,
        }
        let pause = if unchanged < ROUNDS_BUSY { ROUND } else { ROUND_IDLE };
        // Who shows a record is only asked again at once: believed is what a member says at the address this node dials, so that a second
        // process under a member's id cannot lead it into another cluster.
        let _ = shown.recv_timeout(pause);
    }
}

enum Progress {
    Settled(Founding),
    Changed,
    Same,
}

/// Says what is new about a step.
fn settle(step: Step, notices: &Notices) -> Progress {
    let (level, text) = match step {
        Step::Found(record) => {
            log::info!("founds cluster {:032x} with {} members", record.cluster, record.members.len());
            return Progress::Settled(record);
        }
        Step::Adopt(record) => {
            log::info!("joins cluster {:032x}", record.cluster);
            return Progress::Settled(record);
        }
        Step::Wait(whom) => (log::Level::Info, format!("not founded yet, waiting for {whom}")),
        Step::LostDisk(text) => (log::Level::Error, text),
        Step::Mismatch(text) => (log::Level::Error, text),
    };
    if !notices.changed("founding", &text) {
        return Progress::Same;
    }
    log::log!(level, "{text}");
    Progress::Changed
}

/// Asks one peer what it belongs to.
fn ask(config: &JoinConfig<'_>, peer: &str) -> Answer {
    let address = config.dial.get(peer).map_or(peer, String::as_str);
    let limit = ANSWER_LIMIT.min(config.timing.handshake);
    let answer = connect(address, &config.timing)
        .and_then(|stream| greet(&stream, empty_hello(config, LinkClass::Founding), limit).map_err(|error| describe_error(&error)));
    match answer {
        Ok(Greeting::Welcome(welcome)) if welcome.id != peer => {
            Answer::Silent(format!("`{}` answers at {address}", welcome.id.escape_debug()))
        }
        Ok(Greeting::Welcome(welcome)) => match welcome.founding {
            Some(record) => Answer::Member(record),
            None => Answer::Empty { uuid: welcome.uuid, members: welcome.members },
        },
        Ok(Greeting::Refusal(reason)) => Answer::Silent(reason.escape_debug().to_string()),
        Ok(Greeting::Hello(_)) => Answer::Silent("it answers with a hello instead of a welcome".to_owned()),
        Err(reason) => Answer::Silent(reason),
    }
}

/// Answers others while this node is empty.
struct Reception {
    hello: Hello,
    timing: Timing,
    shown: Sender<()>,
    strangers: Throttle,
}

impl Reception {
    fn serve(&self, stream: &TcpStream) {
        let outcome = read_hello(stream, &self.timing).and_then(|hello| {
            let welcome = Hello { link: hello.link, ..self.hello.clone() };
            answer(stream, &self.timing, &Greeting::Welcome(Box::new(welcome)))?;
            if hello.founding.is_some() {
                // Full means that everybody is about to be asked.
                let _ = self.shown.try_send(());
            }
            Ok(())
        });
        if let Err(error) = outcome
            && let Some(left_out) = self.strangers.allow()
        {
            log::warn!("a connection on the peer port is no peer: {} ({left_out} like this left out)", describe_error(&error));
        }
    }
}
