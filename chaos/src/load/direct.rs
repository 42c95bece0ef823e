//! A client that asks the very node it is told to ask and goes nowhere else. Clients that look for the leader all leave a deposed one at
//! about the same time; this one still asks it, and asks the next one before the others have found it. So it sees what they hardly ever
//! see: an answer of a node that only believes it leads.

use apexkv_chaos::linearizability::{Answer, Call};
use apexkv_client::Connection;
use apexkv_client::protocol::{Command, Status};
use std::time::{Duration, Instant};

/// Time for an answer. Short, as a node that does not answer has nothing to show, and a deposed leader does not believe in itself for long.
const ANSWER_MAX: Duration = Duration::from_millis(100);
/// For this long no write goes to a node that did not answer one: a second one would only have an open end, too.
const SILENCE: Duration = Duration::from_millis(500);

/// One connection to each node, made when it is needed.
pub(super) struct Direct {
    endpoints: Vec<String>,
    connections: Vec<Option<Connection>>,
    /// When a node did not answer last.
    silent: Vec<Option<Instant>>,
}

impl Direct {
    /// For nodes with these client addresses.
    pub(super) fn new(endpoints: &[String]) -> Direct {
        let connections = endpoints.iter().map(|_| None).collect();
        Direct { endpoints: endpoints.to_vec(), connections, silent: vec![None; endpoints.len()] }
    }

    /// Whether a write to a node is likely to get an answer.
    pub(super) fn expects_answer(&self, node: usize) -> bool {
        self.silent[node].is_none_or(|since| since.elapsed() >= SILENCE)
    }

    /// Carries one operation to an end at one node. `None`: its outcome was not learned.
    pub(super) fn perform(&mut self, node: usize, key: &[u8], call: &Call) -> Option<Answer> {
        let deadline = Instant::now() + ANSWER_MAX;
        let connection = match self.connections[node].take() {
            Some(connection) => Ok(connection),
            None => Connection::open(&self.endpoints[node], ANSWER_MAX, deadline),
        };
        let Ok(mut connection) = connection else { return Some(Answer::Refused) };
        // A read without an answer has no outcome that anybody would miss.
        let open = if *call == Call::Get { Some(Answer::Refused) } else { None };
        match ask(&mut connection, key, call, deadline) {
            Ok((status, payload)) => {
                self.connections[node] = Some(connection);
                decode(call, status, &payload).unwrap_or(open)
            }
            Err(Failure::Unsent) => Some(Answer::Refused),
            Err(Failure::Unanswered) => {
                self.silent[node] = Some(Instant::now());
                open
            }
        }
    }
}

/// Why there is no answer.
enum Failure {
    /// The node has seen nothing of it.
    Unsent,
    /// Anything may have happened.
    Unanswered,
}

fn ask(connection: &mut Connection, key: &[u8], call: &Call, deadline: Instant) -> Result<(Status, Vec<u8>), Failure> {
    let sent = match call {
        Call::Put { value } => connection.request(Command::Set, key, &[value], deadline),
        Call::Get => connection.request(Command::Getv, key, &[], deadline),
        Call::Delete => connection.request(Command::Del, key, &[], deadline),
        Call::CompareAndSet { expected, value } => connection.request(Command::Cas, key, &[&expected.to_le_bytes(), value], deadline),
    };
    sent.map_err(|error| if error.accepted == 0 { Failure::Unsent } else { Failure::Unanswered })?;
    let response = connection.receive(deadline).map_err(|_| Failure::Unanswered)?;
    Ok((response.status, response.payload.to_vec()))
}

/// What an answer says. The inner `None`: the outcome is open; the outer one: the answer is outside the protocol.
fn decode(call: &Call, status: Status, payload: &[u8]) -> Option<Option<Answer>> {
    let number = || payload.split_first_chunk().map(|(version, rest)| (u64::from_le_bytes(*version), rest));
    let answer = match (status, call) {
        (Status::Ok, Call::Put { .. } | Call::CompareAndSet { .. }) => Answer::Written { version: number()?.0 },
        (Status::Ok, Call::Delete) => Answer::Deleted { version: number()?.0 },
        (Status::Ok, Call::Get) => number().map(|(version, value)| Answer::Found { version: Some(version), value: value.to_vec() })?,
        (Status::NotFound, Call::Get | Call::Delete) => Answer::Absent,
        (Status::Conflict, Call::CompareAndSet { .. }) => Answer::Conflict { current: number()?.0 },
        (Status::NotLeader | Status::Busy | Status::Error | Status::BadRequest, _) => Answer::Refused,
        (Status::Unknown, _) if *call != Call::Get => return Some(None),
        _ => return None,
    };
    Some(Some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_for_what_they_say() {
        let put = Call::Put { value: b"v".to_vec() };
        let seven = 7u64.to_le_bytes();
        let found = [&seven[..], b"text"].concat();
        assert_eq!(decode(&put, Status::Ok, &seven), Some(Some(Answer::Written { version: 7 })));
        assert_eq!(decode(&Call::Delete, Status::Ok, &seven), Some(Some(Answer::Deleted { version: 7 })));
        let expected = Answer::Found { version: Some(7), value: b"text".to_vec() };
        assert_eq!(decode(&Call::Get, Status::Ok, &found), Some(Some(expected)));
        assert_eq!(decode(&Call::Get, Status::NotFound, &[]), Some(Some(Answer::Absent)));
        assert_eq!(decode(&put, Status::NotLeader, b"a:1"), Some(Some(Answer::Refused)));
        assert_eq!(decode(&put, Status::Unknown, &[]), Some(None), "the outcome is open");
    }

    #[test]
    fn what_is_outside_the_protocol_says_nothing() {
        let put = Call::Put { value: b"v".to_vec() };
        assert_eq!(decode(&put, Status::Ok, &[1, 2, 3]), None);
        assert_eq!(decode(&put, Status::NotFound, &[]), None);
        assert_eq!(decode(&Call::Get, Status::Unknown, &[]), None);
    }

    #[test]
    fn a_node_that_is_not_there_refuses() {
        let mut direct = Direct::new(&["127.0.0.1:1".to_owned()]);
        assert_eq!(direct.perform(0, b"k", &Call::Delete), Some(Answer::Refused));
    }
}
