//! `apexkv check`: a summary of what is there, then what a start would do, then all damage.

use super::{CheckArguments, Format, Output, Stop, look};
use apexkv::error::Error;
use apexkv::storage::inspect::{Finding, Report};
use apexkv_client::text::escape;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Looks, prints, and fails if anything is damaged.
pub(super) fn run(arguments: &CheckArguments, output: &mut Output) -> Result<(), Stop> {
    let report = look(&arguments.dir)?.report;
    match arguments.output {
        Format::Text => print(&report, output)?,
        Format::Json => output.object(object(&report))?,
    }
    if report.damage.is_empty() { Ok(()) } else { Err(damaged(&arguments.dir, &report).into()) }
}

fn damaged(dir: &Path, report: &Report) -> Error {
    let count = match report.damage.len() {
        1 => "one place is damaged".to_owned(),
        count => format!("{count} places are damaged"),
    };
    Error::Directory(format!("{}: {count}, and a start would refuse; nothing was changed", dir.display()))
}

fn print(report: &Report, output: &mut Output) -> Result<(), Stop> {
    for (name, text) in summary(report) {
        output.line(&format!("{name:<9} {}", escape(text.as_bytes())))?;
    }
    for note in &report.notes {
        output.line(&format!("{:<9} {}", "note", escape(note.to_string().as_bytes())))?;
    }
    for damage in &report.damage {
        output.line(&format!("{:<9} {}", "DAMAGE", escape(damage.to_string().as_bytes())))?;
    }
    if report.damage.is_empty() { output.line("OK        a start would work") } else { Ok(()) }
}

fn summary(report: &Report) -> Vec<(&'static str, String)> {
    let mut lines = vec![("files", format!("{} of {} bytes in all", report.files, report.bytes))];
    match &report.node {
        Some((identity, id)) => lines.push(("node", format!("{id}, uuid {:032x}, started {} times", identity.uuid, identity.boot))),
        None if report.damage.is_empty() => lines.push(("node", "none: no node has used this directory".to_owned())),
        None => {}
    }
    match &report.founding {
        Some(founding) => {
            let members: Vec<&str> = founding.members.iter().map(|member| member.id.as_str()).collect();
            lines.push(("cluster", format!("{:032x} of {}", founding.cluster, members.join(", "))));
        }
        None if report.damage.is_empty() => lines.push(("cluster", "none: a start would found or join one".to_owned())),
        None => {}
    }
    if let Some(state) = report.hard_state {
        let voted = match (state.vote, &report.founding) {
            (None, _) => "no vote".to_owned(),
            (Some(node), founding) => {
                let member = founding.as_ref().and_then(|founding| founding.members.get((node.0 as usize).wrapping_sub(1)));
                format!("voted for {}", member.map_or(node.0.to_string(), |member| member.id.clone()))
            }
        };
        lines.push(("term", format!("{}, {voted}", state.term)));
    }
    lines.extend(log_lines(report));
    lines
}

fn log_lines(report: &Report) -> Vec<(&'static str, String)> {
    let Some(log) = &report.log else { return Vec::new() };
    let known = format!("the last one {}, up to {} known to be committed", log.last, log.commit);
    let mut lines = vec![
        ("log", format!("{} entries of {} terms, {known}", log.entries, log.terms)),
        ("segments", format!("{} with entries, {} prepared", log.segments, log.prepared)),
        ("keys", log.keys.map_or("not known, because of the damage".to_owned(), |keys| keys.to_string())),
    ];
    if report.damage.is_empty() {
        let going_on = log.open.as_ref().map(|(file, offset)| format!("goes on in {file} at offset {offset}"));
        lines.push(("start", going_on.unwrap_or_else(|| "goes on in a new segment".to_owned())));
    }
    lines
}

fn object(report: &Report) -> Map<String, Value> {
    let findings = |findings: &[Finding]| -> Value {
        findings.iter().map(|finding| json!({"file": finding.file, "offset": finding.offset, "text": finding.text})).collect()
    };
    let members =
        |members: &[apexkv::storage::directory::FoundingMember]| -> Value { members.iter().map(|member| json!(member.id)).collect() };
    let open = report.log.as_ref().and_then(|log| log.open.as_ref());
    let entries = [
        ("ok", json!(report.damage.is_empty())),
        ("files", json!(report.files)),
        ("bytes", json!(report.bytes)),
        ("id", json!(report.node.as_ref().map(|(_, id)| id))),
        ("uuid", json!(report.node.as_ref().map(|(identity, _)| format!("{:032x}", identity.uuid)))),
        ("boot", json!(report.node.as_ref().map(|(identity, _)| identity.boot))),
        ("cluster_id", json!(report.founding.as_ref().map(|founding| format!("{:032x}", founding.cluster)))),
        ("members", report.founding.as_ref().map_or(Value::Null, |founding| members(&founding.members))),
        ("term", json!(report.hard_state.map(|state| state.term))),
        ("vote", json!(report.hard_state.and_then(|state| state.vote).map(|node| node.0))),
        ("entries", json!(report.log.as_ref().map(|log| log.entries))),
        ("terms", json!(report.log.as_ref().map(|log| log.terms))),
        ("last_term", json!(report.log.as_ref().map(|log| log.last.term))),
        ("last_index", json!(report.log.as_ref().map(|log| log.last.index))),
        ("commit_index", json!(report.log.as_ref().map(|log| log.commit))),
        ("keys", json!(report.log.as_ref().and_then(|log| log.keys))),
        ("open_file", json!(open.map(|(file, _)| file))),
        ("open_offset", json!(open.map(|(_, offset)| offset))),
        ("damage", findings(&report.damage)),
        ("notes", findings(&report.notes)),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
