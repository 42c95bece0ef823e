//! The commands about nodes: what each says of itself, and how far away it is.

use super::args::StatusArguments;
use super::escape::escape;
use super::exit::{Exit, Trouble};
use super::json;
use super::output::Output;
use anstyle::{AnsiColor, Style};
use apexkv_client::{Client, Error};
use serde_json::{Value, json};
use std::time::Duration;

/// Column heads, the field of the node's own object that belongs below each, and which column goes first (1) when a terminal is too
/// narrow for all of them; 0 for those that stay.
const COLUMNS: [(&str, &str, u8); 10] = [
    ("ROLE", "role", 0),
    ("TERM", "term", 0),
    ("LEADER", "leader", 0),
    ("COMMIT", "commit_index", 0),
    ("APPLIED", "applied_index", 4),
    ("DURABLE", "durable_index", 3),
    ("KEYS", "keys", 0),
    ("DISK", "disk_bytes", 0),
    ("UPTIME", "uptime_ms", 2),
    ("VERSION", "version", 1),
];

/// Shows all endpoints, also those that do not answer. Succeeds if one answers, and there is a leader if that was asked for.
pub(crate) fn run(client: &Client, output: &mut Output, arguments: &StatusArguments) -> Result<Exit, Trouble> {
    if let Some(limit) = arguments.wait_leader {
        wait_leader(client, limit)?;
    }
    let nodes: Vec<(String, Result<Value, Error>)> = client
        .status_all()
        .into_iter()
        .map(|(endpoint, status)| (endpoint, status.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)))))
        .collect();
    if output.is_json() {
        nodes.iter().try_for_each(|(endpoint, status)| print_object(output, endpoint, status))?;
    } else {
        print_table(output, &nodes)?;
    }
    if nodes.iter().any(|(_, status)| status.is_ok()) { Ok(Exit::Success) } else { Ok(Exit::Unavailable) }
}

/// A read that is answered was confirmed by a majority, which is more than a node that says of itself that it leads.
fn wait_leader(client: &Client, limit: Duration) -> Result<(), Error> {
    let mut patient = Client::builder().endpoints(client.endpoints()).timeout(limit).build()?;
    patient.get(b"any key will do").map(|_| ())
}

fn print_object(output: &mut Output, endpoint: &str, status: &Result<Value, Error>) -> Result<(), Trouble> {
    let mut object = match status {
        Ok(_) => json::object(true, "OK"),
        Err(error) => json::object(false, Trouble::Client(error.clone()).status()),
    };
    object.insert("endpoint".to_owned(), json!(endpoint));
    match status {
        Ok(node) => object.insert("node".to_owned(), node.clone()),
        Err(error) => object.insert("error".to_owned(), json!(error.to_string())),
    };
    output.object(object)
}

fn print_table(output: &mut Output, nodes: &[(String, Result<Value, Error>)]) -> Result<(), Trouble> {
    for row in table(nodes, output.columns()) {
        let style = match row.role {
            Some("leader") => Style::new().bold(),
            None => AnsiColor::Red.on_default(),
            _ => Style::new(),
        };
        output.styled_line(style, &row.text)?;
    }
    Ok(())
}

/// A line of the table; no role if the node did not answer.
struct Row<'a> {
    role: Option<&'a str>,
    text: String,
}

/// The lines of the table, at most `width` columns wide as far as leaving out columns can do it.
fn table(nodes: &[(String, Result<Value, Error>)], width: usize) -> Vec<Row<'_>> {
    let mut columns = COLUMNS.to_vec();
    loop {
        let rows = lines(nodes, &columns);
        // Failures may run on: their text is the one thing that matters in their row.
        let widest = rows.iter().filter(|row| row.role.is_some()).map(|row| row.text.chars().count()).max().unwrap_or(0);
        let least_wanted = columns.iter().filter(|(.., order)| *order > 0).map(|(.., order)| *order).min();
        match least_wanted {
            Some(order) if widest > width => columns.retain(|(.., candidate)| *candidate != order),
            _ => return rows,
        }
    }
}

fn lines<'a>(nodes: &'a [(String, Result<Value, Error>)], columns: &[(&str, &str, u8)]) -> Vec<Row<'a>> {
    let head = ["ENDPOINT"].into_iter().chain(columns.iter().map(|(head, ..)| *head)).map(str::to_owned).collect();
    let mut cells: Vec<Vec<String>> = vec![head];
    let mut roles = vec![Some("head")];
    for (endpoint, status) in nodes {
        let mut row = vec![endpoint.clone()];
        match status {
            Ok(node) => row.extend(columns.iter().map(|(_, field, _)| cell(field, &node[*field]))),
            Err(error) => row.push(reason(error)),
        }
        cells.push(row);
        roles.push(status.as_ref().ok().map(|node| node["role"].as_str().unwrap_or("-")));
    }
    let width = |column: usize| {
        let in_step = cells.iter().filter(|row| column == 0 || row.len() > 2);
        in_step.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..=columns.len()).map(width).collect();
    let text = |row: &Vec<String>| {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    cells.iter().zip(roles).map(|(row, role)| Row { role, text: text(row) }).collect()
}

fn reason(error: &Error) -> String {
    let text = match error {
        Error::Unavailable { attempts, .. } => {
            attempts.first().map_or_else(|| error.to_string(), |attempt| format!("unreachable ({})", attempt.failure))
        }
        _ => error.to_string(),
    };
    escape(text.as_bytes())
}

/// One field for people; a dash where the node does not say.
fn cell(field: &str, value: &Value) -> String {
    match (field, value) {
        (_, Value::Null) => "-".to_owned(),
        ("disk_bytes", Value::Number(number)) => number.as_u64().map_or_else(|| number.to_string(), megabytes),
        ("uptime_ms", Value::Number(number)) => {
            number.as_u64().map_or_else(|| number.to_string(), |milliseconds| format!("{}s", milliseconds / 1_000))
        }
        (_, Value::String(text)) => escape(text.as_bytes()),
        (_, other) => escape(other.to_string().as_bytes()),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{}MiB", bytes >> 20, ((bytes & ((1 << 20) - 1)) * 10) >> 20)
}

/// The round trip to the first endpoint that answers.
pub(crate) fn ping(client: &Client, output: &mut Output) -> Result<Exit, Trouble> {
    let mut attempts = Vec::new();
    let mut waited_total = Duration::ZERO;
    for endpoint in client.endpoints() {
        match client.ping(endpoint, b"apexkv") {
            Ok(round_trip) => {
                let microseconds = round_trip.as_micros();
                if output.is_json() {
                    let mut object = json::object(true, "OK");
                    object.insert("endpoint".to_owned(), json!(endpoint));
                    object.insert("round_trip_us".to_owned(), json!(microseconds as u64));
                    output.object(object)?;
                } else {
                    output.line(&format!("{microseconds}us"))?;
                }
                return Ok(Exit::Success);
            }
            Err(Error::Unavailable { waited, attempts: failed }) => {
                waited_total += waited;
                attempts.extend(failed);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Unavailable { waited: waited_total, attempts }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_table_leaves_out_the_least_wanted_columns() {
        let node =
            json!({"role": "leader", "term": 7, "leader": "localhost:9001", "commit_index": 123456, "keys": 9000, "version": "0.1.0"});
        let refused = Error::Usage("refused for a reason that is longer than any column of the table would ever be".to_owned());
        let nodes = [("localhost:9001".to_owned(), Ok(node)), ("localhost:9002".to_owned(), Err(refused))];
        let heads = |width: usize| table(&nodes, width)[0].text.clone();
        assert!(heads(usize::MAX).ends_with("UPTIME  VERSION"), "{}", heads(usize::MAX));
        assert!(heads(80).contains("COMMIT") && !heads(80).contains("VERSION") && heads(80).len() <= 80, "{}", heads(80));
        assert_eq!(heads(1), "ENDPOINT        ROLE    TERM  LEADER          COMMIT  KEYS  DISK");
        assert!(table(&nodes, 1)[2].text.ends_with("would ever be"), "a reason is never cut");
    }

    #[test]
    fn sizes_read_in_mebibytes() {
        assert_eq!(megabytes(0), "0.0MiB");
        assert_eq!(megabytes(3 << 19), "1.5MiB");
        assert_eq!(cell("term", &json!(7)), "7");
        assert_eq!(cell("leader", &Value::Null), "-");
    }
}
