//! What a node says of itself: the STATUS object, put together from what the Raft thread has published and from the counters. Reads
//! only; it answers without a quorum and without the Raft thread.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::raft::{NodeId, RoleName};
use crate::storage::store::Store;

use super::clients::NodeView;
use super::metrics::Metrics;
use super::peers::Peers;
use super::replica::Position;

/// What STATUS needs once the node belongs to a cluster.
pub(super) struct Member {
    pub(super) peers: Arc<Peers>,
    pub(super) store: Arc<Store>,
    pub(super) cluster: u128,
    pub(super) members: Vec<(NodeId, String)>,
}

/// The sources of the STATUS object; `member` is empty until the cluster has been founded.
pub(super) struct StatusView {
    pub(super) id: String,
    pub(super) started: Instant,
    pub(super) metrics: Arc<Metrics>,
    pub(super) position: Arc<Mutex<Position>>,
    pub(super) member: std::sync::OnceLock<Member>,
}

fn role_name(role: Option<RoleName>) -> &'static str {
    match role {
        Some(RoleName::Leader) => "leader",
        Some(RoleName::Candidate) => "candidate",
        Some(RoleName::Learner) => "learner",
        Some(RoleName::Follower) | None => "follower",
    }
}

impl StatusView {
    /// A view of a node that does not belong to a cluster yet.
    pub(super) fn new(id: &str, metrics: Arc<Metrics>) -> StatusView {
        StatusView { id: id.to_owned(), started: Instant::now(), metrics, position: Arc::default(), member: std::sync::OnceLock::new() }
    }

    /// Whether this node knows a leader, itself or another.
    pub(super) fn knows_leader(&self) -> bool {
        self.position.lock().leader.is_some()
    }

    fn peers(&self, position: &Position) -> Value {
        let Some(member) = self.member.get() else { return json!([]) };
        let leads = position.role == Some(RoleName::Leader);
        let others = member.members.iter().filter(|(_, id)| *id != self.id);
        let list = others.map(|(node, id)| {
            let matched = position.matched.iter().find(|(peer, _)| peer == node).map(|(_, matched)| *matched);
            json!({
                "id": id,
                "client_addr": member.peers.client_address(*node),
                "match_index": matched.filter(|_| leads),
                "alive": leads.then(|| member.peers.alive(*node)),
            })
        });
        Value::Array(list.collect())
    }

    fn counters(&self) -> Value {
        let mut counters = Map::new();
        self.metrics.each(&mut |name, value| {
            counters.insert(name.to_string(), json!(value));
        });
        Value::Object(counters)
    }
}

impl NodeView for StatusView {
    fn client_address(&self, node: NodeId) -> Option<String> {
        self.member.get().and_then(|member| member.peers.client_address(node))
    }

    fn status_json(&self) -> String {
        let position = self.position.lock().clone();
        let member = self.member.get();
        json!({
            "id": self.id,
            "role": role_name(position.role),
            "term": position.term,
            "leader": position.leader.and_then(|leader| self.client_address(leader)),
            "commit_index": position.commit,
            "applied_index": position.applied,
            "last_index": position.last.index,
            "durable_index": position.durable,
            "keys": member.map_or(0, |member| member.store.keys()),
            "disk_bytes": position.disk_bytes,
            "index_bytes": member.map_or(0, |member| member.store.index_bytes()),
            "hinted_index": position.hinted,
            "first_index": position.first,
            "damage": position.damage.as_deref(),
            "lost_to_damage": (position.floor.term > 0).then_some(position.floor.index),
            "file_bytes": position.file_bytes,
            "live_bytes": position.live_bytes,
            "requests_waiting": position.waiting,
            "staged_bytes": position.staged_bytes,
            "no_room": position.no_room.as_deref(),
            "state_hash": position.state_hash.map(|newest| json!({ "index": newest.index, "hash": newest.hash.to_string() })),
            "state_hash_alarm": position.state_hash_alarm.as_deref(),
            "uptime_ms": self.started.elapsed().as_millis() as u64,
            "version": env!("CARGO_PKG_VERSION"),
            "protocol": apexkv_client::protocol::PROTOCOL_VERSION,
            "cluster_id": member.map(|member| format!("{:032x}", member.cluster)),
            "pid": std::process::id(),
            "peers": self.peers(&position),
            "counters": self.counters(),
        })
        .to_string()
    }
}
