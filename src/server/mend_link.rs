//! Connections for mending, from both ends: one question, one answer, as long as the asker likes. The answering side of a running node
//! hands each question to the Raft thread and reads the records itself. What is said here counts for no quorum, so nothing of a peer is
//! remembered; a peer that would be refused elsewhere is refused here, too.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crossbeam_channel::bounded;

use super::event::{Holding, MendAnswer, MendQuestion};
use super::identity::{Verdict, judge};
use super::inbound::{answer, complain};
use super::shared::{OnDamage, Shared};
use super::sockets::Timing;
use crate::error::{Error, Result};
use crate::protocol::frame;
use crate::protocol::handshake::{Greeting, Hello};
use crate::protocol::mend::{self, Said};
use crate::storage::mend::{Missing, Wanted};

/// The Raft thread answers at once. It is gone, or its inbox is very long, if it has not within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Limits how long either side of a connection may be silent.
pub(super) fn limit_silence(stream: &TcpStream, timing: &Timing) -> Result<()> {
    let silence = Some(timing.silence);
    let limited = stream.set_read_timeout(silence).and_then(|()| stream.set_write_timeout(silence));
    limited.map_err(Error::io("limit the silence of a link"))
}

/// Says something.
pub(super) fn say(stream: &TcpStream, said: &Said) -> Result<()> {
    let mut bytes = Vec::new();
    mend::encode(&mut bytes, said)?;
    (&mut &*stream).write_all(&bytes).map_err(Error::io("speak of lost entries"))
}

/// Asks, and waits for the answer.
pub(super) fn ask(stream: &TcpStream, question: &Said) -> Result<Said> {
    say(stream, question)?;
    mend::decode(frame::read(&mut &*stream)?.ok_or(Error::Closed)?)
}

/// Answers questions until the stream ends.
pub(super) fn serve(stream: &TcpStream, timing: &Timing, respond: &mut dyn FnMut(Option<Wanted>) -> Result<Said>) -> Result<()> {
    limit_silence(stream, timing)?;
    while let Some(frame) = frame::read_head(&mut &*stream)? {
        let wanted = match mend::decode(frame)? {
            Said::Look => None,
            Said::Want(wanted) => Some(wanted),
            other => return Err(Error::Protocol(format!("{other:?} in place of a question"))),
        };
        say(stream, &respond(wanted)?)?;
    }
    Ok(())
}

/// Serves one connection to a running node until it ends. It is never settled: a peer may open as many as it likes, and so they count among
/// the few connections that are not trusted yet.
pub(super) fn serve_running(shared: &Shared, stream: &TcpStream, hello: &Hello) {
    let mark = shared.marks.of(shared.peer_of(&hello.id), &shared.view);
    if let Verdict::Refuse(refusal) = judge(shared.standing(), mark.as_ref(), hello) {
        complain(shared, &refusal, hello);
        if let Err(error) = answer(stream, &shared.timing, &Greeting::Refusal(refusal.to_string())) {
            log::debug!("{} left before its refusal: {error}", hello.id.escape_debug());
        }
        let _ = stream.shutdown(Shutdown::Write);
        return;
    }
    let welcome = Greeting::Welcome(Box::new(shared.hello(hello.link)));
    let served =
        answer(stream, &shared.timing, &welcome).and_then(|()| serve(stream, &shared.timing, &mut |wanted| respond(shared, wanted)));
    if let Err(error) = served {
        log::debug!("{} asked for lost entries: {error}", hello.id);
    }
}

/// Puts a question to the Raft thread, and reads what it names.
fn respond(shared: &Shared, wanted: Option<Wanted>) -> Result<Said> {
    let ask = |wanted: Option<Wanted>| -> Result<MendAnswer> {
        let (sender, answers) = bounded(1);
        shared.registry.inbox().mend(MendQuestion { wanted, answer: sender });
        answers.recv_timeout(ANSWER_LIMIT).map_err(|_| Error::Closed)
    };
    let MendAnswer { standing, holding } = ask(wanted.clone())?;
    let (Some(wanted), Some(holding)) = (wanted, holding) else { return Ok(Said::Standing(standing)) };
    let first = wanted.first;
    if let Some(answer) = said(first, holding, &shared.on_damage)? {
        return Ok(answer);
    }
    // Damage in one record hides those around it: one by one they are there.
    let single = ask(Some(Wanted { last: first, ..wanted }))?.holding;
    let alone = single.map_or(Ok(None), |holding| said(first, holding, &shared.on_damage))?;
    Ok(alone.unwrap_or(Said::Missing { through: first, why: Missing::Damaged }))
}

/// The answer that these pieces make; `None` if one of them is damaged, of which `on_damage` is told.
///
/// Errors: they cannot be read now, which says nothing about what is there.
pub(super) fn said(first: u64, holding: Holding, on_damage: &OnDamage) -> Result<Option<Said>> {
    let pieces = match holding {
        Holding::Missing { through, why } => return Ok(Some(Said::Missing { through, why })),
        Holding::Pieces(pieces) => pieces,
    };
    let mut records = Vec::new();
    for piece in pieces {
        match piece.write_to(&mut records) {
            Ok(()) => {}
            Err(error @ Error::Corrupt { .. }) => {
                on_damage(&error);
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Said::Records { first, records }))
}
