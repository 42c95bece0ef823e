//! What nodes say of themselves: the STATUS object, read without trust, and the search for the node that leads.

use apexkv_client::Client;
use serde_json::Value;
use std::thread;
use std::time::Duration;

/// Time for one node's answer; a node that takes longer counts as silent.
pub(crate) const STATUS_TIMEOUT: Duration = Duration::from_millis(300);

/// The part of STATUS that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) id: String,
    pub(crate) role: String,
    pub(crate) term: u64,
    /// Client address of the leader as the node knows it.
    pub(crate) leader: Option<String>,
    pub(crate) applied_index: u64,
    /// Process id on the node's machine, if the server tells it.
    pub(crate) pid: Option<u32>,
}

impl Status {
    /// Whether the node says that it leads.
    pub(crate) fn leads(&self) -> bool {
        self.role == "leader"
    }

    fn parse(text: &str) -> Option<Status> {
        let value: Value = serde_json::from_str(text).ok()?;
        Some(Status {
            id: value.get("id")?.as_str()?.to_owned(),
            role: value.get("role")?.as_str()?.to_owned(),
            term: value.get("term")?.as_u64()?,
            leader: value.get("leader").and_then(Value::as_str).map(str::to_owned),
            applied_index: value.get("applied_index").and_then(Value::as_u64).unwrap_or(0),
            pid: value.get("pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok()),
        })
    }
}

/// Asks one node. The error says why there is no answer.
pub(crate) fn ask(endpoint: &str) -> Result<Status, String> {
    let builder = Client::builder().endpoints([endpoint]).timeout(STATUS_TIMEOUT).connect_timeout(STATUS_TIMEOUT);
    let client = builder.build().map_err(|error| error.to_string())?;
    let text = client.status(endpoint).map_err(|error| error.to_string())?;
    Status::parse(&text).ok_or_else(|| format!("{endpoint} answered with a STATUS that lacks id, role or term"))
}

/// The node that leads, by position and status: of several that say so the one with the highest term, as the others do not know yet.
pub(crate) fn find_leader(endpoints: &[String]) -> Option<(usize, Status)> {
    // All at once: nodes that are silent cost their time once and not each.
    let answers: Vec<Option<Status>> = thread::scope(|scope| {
        let asked: Vec<_> = endpoints.iter().map(|endpoint| scope.spawn(|| ask(endpoint).ok())).collect();
        asked.into_iter().map(|thread| thread.join().expect("a panic ends the process, so every question returns")).collect()
    });
    newest_leader(answers.into_iter().enumerate().filter_map(|(node, status)| Some((node, status?))))
}

fn newest_leader(answers: impl Iterator<Item = (usize, Status)>) -> Option<(usize, Status)> {
    answers.filter(|(_, status)| status.leads()).max_by_key(|(_, status)| status.term)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(role: &str, term: u64) -> Status {
        let text = format!(r#"{{"id":"localhost:8001","role":"{role}","term":{term},"leader":null,"applied_index":5,"pid":77,"new":[]}}"#);
        Status::parse(&text).expect("a good STATUS")
    }

    #[test]
    fn the_status_object_is_read_as_far_as_it_matters() {
        let status = status("leader", 3);
        assert!(status.leads());
        assert_eq!((status.id.as_str(), status.term, status.leader, status.pid), ("localhost:8001", 3, None, Some(77)));
    }

    #[test]
    fn an_object_that_lacks_what_matters_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"id":"a","role":"leader"}"#,
            r#"{"id":1,"role":"leader","term":1}"#,
            r#"{"id":"a","role":"leader","term":-1}"#,
        ] {
            assert_eq!(Status::parse(text), None, "{text}");
        }
    }

    #[test]
    fn of_two_that_claim_to_lead_the_newer_term_counts() {
        let answers = [status("leader", 3), status("follower", 4), status("leader", 4), status("candidate", 5)];
        let (node, found) = newest_leader(answers.into_iter().enumerate()).expect("there are leaders");
        assert_eq!((node, found.term), (2, 4));
        assert_eq!(newest_leader([status("follower", 9)].into_iter().enumerate()), None);
    }
}
