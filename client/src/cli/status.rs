//! The commands about nodes: what each says of itself, and how far away it is.

use super::escape::escape;
use super::exit::{Exit, Trouble};
use super::json;
use super::output::Output;
use apexkv_client::{Client, Error};
use serde_json::{Value, json};

/// Column heads, and the field of the node's own object that belongs below each.
const COLUMNS: [(&str, &str); 10] = [
    ("ROLE", "role"),
    ("TERM", "term"),
    ("LEADER", "leader"),
    ("COMMIT", "commit_index"),
    ("APPLIED", "applied_index"),
    ("DURABLE", "durable_index"),
    ("KEYS", "keys"),
    ("DISK", "disk_bytes"),
    ("UPTIME", "uptime_ms"),
    ("VERSION", "version"),
];

/// Shows all endpoints, also those that do not answer. Succeeds if one answers.
pub(crate) fn run(client: &Client, output: &mut Output) -> Result<Exit, Trouble> {
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
    let mut rows = vec![["ENDPOINT"].into_iter().chain(COLUMNS.iter().map(|(head, _)| *head)).map(str::to_owned).collect::<Vec<_>>()];
    for (endpoint, status) in nodes {
        let mut row = vec![endpoint.clone()];
        match status {
            Ok(node) => row.extend(COLUMNS.iter().map(|(_, field)| cell(field, &node[field]))),
            Err(error) => row.push(reason(error)),
        }
        rows.push(row);
    }
    // A failure's reason stands alone in its row and may run on beyond its column.
    let width =
        |column: usize| rows.iter().filter(|row| row.len() > 2).filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let endpoint_width = rows.iter().map(|row| row[0].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..=COLUMNS.len()).map(|column| if column == 0 { endpoint_width } else { width(column).unwrap_or(0) }).collect();
    for row in &rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        output.line(line.join("  ").trim_end())?;
    }
    Ok(())
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
    let mut waited_total = std::time::Duration::ZERO;
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
    fn sizes_read_in_mebibytes() {
        assert_eq!(megabytes(0), "0.0MiB");
        assert_eq!(megabytes(3 << 19), "1.5MiB");
        assert_eq!(cell("term", &json!(7)), "7");
        assert_eq!(cell("leader", &Value::Null), "-");
    }
}
