//! One attempt of one operation at one node, and what its end means. The rule of the house: a write whose bytes may have left is never
//! sent again unless the answer says that it did not take effect.

use crate::connection::{Connection, Response};
use crate::error::{Error, Failure};
use crate::protocol::{Command, Status};
use std::time::{Duration, Instant};

/// An early refusal of a request that is still being sent arrives within this time or not at all.
const EARLY_ANSWER: Duration = Duration::from_millis(200);

/// A request as it is sent, with what its answers mean.
pub(crate) struct Request<'a> {
    pub(crate) command: Command,
    pub(crate) frame: &'a [u8],
    /// When the whole operation ends.
    pub(crate) deadline: Instant,
    /// How long a read waits for the next byte of its answer.
    pub(crate) silence: Duration,
}

/// How an attempt ended.
pub(crate) enum Ending<T> {
    /// The operation is done.
    Done(T),
    /// The operation is over, with an error that another node would not change or must not be asked about.
    Over(Error),
    /// Nothing took effect; another attempt may follow.
    Again(Failure),
}

/// Turns the payload of an answer into the operation's result. Called for `OK` and `NOT_FOUND` only; the error says what is wrong.
pub(crate) trait Decode<T>: Fn(Status, &[u8]) -> Result<T, String> {}
impl<T, F: Fn(Status, &[u8]) -> Result<T, String>> Decode<T> for F {}

/// Sends the request on `connection` and waits for its answer. Also returns whether the connection is in step and may be kept.
pub(crate) fn attempt<T>(connection: &mut Connection, request: &Request<'_>, decode: impl Decode<T>) -> (Ending<T>, bool) {
    let endpoint = connection.endpoint().to_owned();
    let lost = |reason: String| match request.command.is_write() {
        true => Ending::Over(Error::Unknown { endpoint: endpoint.clone(), reason }),
        false => Ending::Again(Failure::NoAnswer(reason)),
    };
    if let Err(broken) = connection.send(request.frame, request.deadline) {
        let reason = broken.to_string();
        if broken.accepted == 0 {
            return (Ending::Again(Failure::NoAnswer(reason)), false);
        }
        // A node that refuses a frame for its lengths says so and closes while the rest is still on its way.
        let early = connection.receive(Instant::now() + EARLY_ANSWER).ok().filter(|response| refuses(response.status));
        return (early.map_or_else(|| lost(reason), |response| judge(&endpoint, request.command, &response, decode)), false);
    }
    let silence = if request.command.is_write() { Duration::MAX } else { request.silence };
    match connection.receive_while_alive(request.deadline, silence) {
        Err(error) => (lost(format!("but the answer did not arrive: {error}")), false),
        Ok(response) if response.request_id.is_some() => (lost("but the answer belongs to an extended request".to_owned()), false),
        Ok(response) => {
            let ending = judge(&endpoint, request.command, &response, decode);
            // A node that refuses a frame for its lengths is about to close, and reads nothing more.
            let closes = response.status == Status::BadRequest;
            let in_step = !matches!(ending, Ending::Again(Failure::Malformed(_)) | Ending::Over(Error::Unknown { .. }));
            (ending, in_step && !closes)
        }
    }
}

/// Whether a status promises that the command had no effect.
fn refuses(status: Status) -> bool {
    !matches!(status, Status::Ok | Status::Unknown)
}

fn judge<T>(endpoint: &str, command: Command, response: &Response<'_>, decode: impl Decode<T>) -> Ending<T> {
    let text = || String::from_utf8_lossy(response.payload).into_owned();
    let unknown = |reason| Ending::Over(Error::Unknown { endpoint: endpoint.to_owned(), reason });
    match response.status {
        Status::Ok | Status::NotFound => match decode(response.status, response.payload) {
            Ok(result) => Ending::Done(result),
            Err(reason) if response.status == Status::Ok && command.is_write() => unknown(format!("which answered {reason}")),
            Err(reason) => Ending::Again(Failure::Malformed(reason)),
        },
        Status::Conflict => match decode_u64(response.payload) {
            Some(current) if command == Command::Cas => Ending::Over(Error::Conflict { current }),
            _ => Ending::Again(Failure::Malformed(format!("CONFLICT with {} bytes to {command:?}", response.payload.len()))),
        },
        Status::NotLeader => {
            let leader = std::str::from_utf8(response.payload).ok().filter(|name| crate::check_endpoint(name).is_ok());
            Ending::Again(Failure::NotLeader { leader: leader.map(str::to_owned) })
        }
        Status::Busy => Ending::Again(Failure::Busy(text())),
        Status::Error | Status::BadRequest => {
            Ending::Over(Error::Refused { status: response.status, endpoint: endpoint.to_owned(), message: text() })
        }
        Status::Unknown if response.status_byte == Status::Unknown as u8 => unknown(format!("which answered UNKNOWN: {}", text())),
        Status::Unknown => unknown(format!("which answered with status {}, which this client does not know", response.status_byte)),
    }
}

/// A payload that is one little-endian integer.
pub(crate) fn decode_u64(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_le_bytes)
}

/// The version that an `OK` to a write carries.
pub(crate) fn decode_version(status: Status, payload: &[u8]) -> Result<u64, String> {
    match (status, decode_u64(payload)) {
        (Status::Ok, Some(version)) => Ok(version),
        _ => Err(format!("{} with a payload of {} bytes where a version of 8 belongs", status.name(), payload.len())),
    }
}

/// Lets `decode` see the payload of `OK`; `NOT_FOUND` is `None`.
pub(crate) fn optional<T>(decode: impl Decode<T>) -> impl Decode<Option<T>> {
    move |status, payload| match status {
        Status::NotFound => Ok(None),
        _ => decode(status, payload).map(Some),
    }
}
