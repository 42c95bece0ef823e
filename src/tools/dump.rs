//! `apexkv dump`: the keys, or the log, as lines of text or of JSON.

use super::{DumpArguments, Format, Output, Stop, look, put_bytes};
use apexkv::raft::NodeId;
use apexkv::storage::inspect::Entry;
use apexkv::storage::record::{self, Kind, Operation};
use apexkv_client::text::{escape, escape_into};
use serde_json::{Map, Value, json};
use std::io::Write;

/// This much of a value is shown with the log.
const PREVIEW_BYTES: usize = 32;

/// Looks, then prints.
pub(super) fn run(arguments: &DumpArguments, output: &mut Output) -> Result<(), Stop> {
    let inspected = look(&arguments.dir)?;
    if !arguments.log
        && let Some(log) = &inspected.report.log
        && log.last.index > log.commit
    {
        let (open, what) =
            (log.last.index - log.commit, "entries at the end of the log are not known here to be committed, and are left out");
        // A word to whoever sits there; what is printed counts.
        let _ = writeln!(std::io::stderr(), "apexkv: note: {open} {what}; see --log");
    }
    match (arguments.log, arguments.output) {
        (false, Format::Text) => inspected.keys(|key, version, value| output.line(&key_line(key, version, value))),
        (false, Format::Json) => inspected.keys(|key, version, value| output.object(key_object(key, version, value))),
        (true, Format::Text) => inspected.entries(|entry| parts(entry).iter().try_for_each(|part| output.line(&entry_line(entry, part)))),
        (true, Format::Json) => {
            inspected.entries(|entry| parts(entry).iter().try_for_each(|part| output.object(entry_object(entry, part))))
        }
    }
}

fn key_line(key: &[u8], version: u64, value: &[u8]) -> String {
    let mut line = String::with_capacity(key.len() + value.len() + 24);
    escape_into(&mut line, key);
    line.push_str(&format!("\t{version}\t"));
    escape_into(&mut line, value);
    line
}

fn key_object(key: &[u8], version: u64, value: &[u8]) -> Map<String, Value> {
    let mut object = Map::new();
    put_bytes(&mut object, "key", key);
    object.insert("version".to_owned(), json!(version));
    put_bytes(&mut object, "value", value);
    object
}

/// What gets a line of its own.
enum Part<'a> {
    NoOp,
    Config { voters: Vec<NodeId>, learners: Vec<NodeId> },
    Operation(Operation<'a>),
}

fn parts<'a>(entry: &Entry<'a>) -> Vec<Part<'a>> {
    match entry.kind {
        Kind::NoOp => vec![Part::NoOp],
        Kind::Config => {
            let config = record::decode_config(entry.payload).into_iter();
            config.map(|config| Part::Config { voters: config.voters, learners: config.learners }).collect()
        }
        Kind::Command => record::operations(entry.payload).flatten().map(Part::Operation).collect(),
    }
}

impl Part<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Part::NoOp => "no-op",
            Part::Config { .. } => "config",
            Part::Operation(_) => "command",
        }
    }
}

/// An operation's name as the client calls it, the version it expects, and the value it stores.
fn taken_apart<'a>(operation: &Operation<'a>) -> (&'static str, Option<u64>, Option<&'a [u8]>) {
    match *operation {
        Operation::Set { value, .. } => ("set", None, Some(value)),
        Operation::Delete { .. } => ("del", None, None),
        Operation::CompareAndSet { expected, value, .. } => ("cas", Some(expected), Some(value)),
    }
}

/// The first bytes of a value, not cut inside a letter.
fn preview(value: &[u8]) -> &[u8] {
    let start = &value[..value.len().min(PREVIEW_BYTES)];
    match std::str::from_utf8(start) {
        Err(error) if error.error_len().is_none() && start.len() < value.len() => &start[..error.valid_up_to()],
        _ => start,
    }
}

fn entry_line(entry: &Entry<'_>, part: &Part<'_>) -> String {
    let about = match part {
        Part::NoOp => "-\t-\t-\t-".to_owned(),
        Part::Config { voters, learners } => format!("-\t-\t-\tvoters {}, learners {}", numbers(voters), numbers(learners)),
        Part::Operation(operation) => {
            let (name, expected, value) = taken_apart(operation);
            let expected = expected.map_or(String::new(), |expected| format!(" {expected}"));
            let key = escape(operation.key());
            match value {
                None => format!("{name}{expected}\t{key}\t-\t-"),
                Some(value) => {
                    let shown = preview(value);
                    let more = if shown.len() < value.len() { "…" } else { "" };
                    format!("{name}{expected}\t{key}\t{}\t{}{more}", value.len(), escape(shown))
                }
            }
        }
    };
    let committed = if entry.committed { "committed" } else { "open" };
    format!("{}\t{}\t{}\t{about}\t{}:{}\t{committed}", entry.id.index, entry.id.term, part.kind(), entry.file, entry.offset)
}

fn numbers(nodes: &[NodeId]) -> String {
    let numbers: Vec<String> = nodes.iter().map(|node| node.0.to_string()).collect();
    if numbers.is_empty() { "-".to_owned() } else { numbers.join(" ") }
}

fn entry_object(entry: &Entry<'_>, part: &Part<'_>) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| {
        object.insert(name.to_owned(), value);
    };
    put("index", json!(entry.id.index));
    put("term", json!(entry.id.term));
    put("kind", json!(part.kind()));
    match part {
        Part::NoOp => {}
        Part::Config { voters, learners } => {
            put("voters", voters.iter().map(|node| json!(node.0)).collect());
            put("learners", learners.iter().map(|node| json!(node.0)).collect());
        }
        Part::Operation(operation) => {
            let (name, expected, value) = taken_apart(operation);
            put("operation", json!(name));
            if let Some(expected) = expected {
                put("expected", json!(expected));
            }
            put_bytes(&mut object, "key", operation.key());
            if let Some(value) = value {
                object.insert("value_bytes".to_owned(), json!(value.len()));
                put_bytes(&mut object, "value_preview", preview(value));
            }
        }
    }
    object.insert("file".to_owned(), json!(entry.file));
    object.insert("offset".to_owned(), json!(entry.offset));
    object.insert("bytes".to_owned(), json!(entry.bytes));
    object.insert("committed".to_owned(), json!(entry.committed));
    object
}
