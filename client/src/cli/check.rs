//! The functional test: a key of its own goes through SET, GET, compare and DEL, each step printed as it succeeds.

use super::exit::{Exit, Trouble};
use super::json;
use super::output::Output;
use apexkv_client::Client;
use serde_json::json;
use std::time::{Duration, Instant, SystemTime};

pub(crate) fn run(client: &mut Client, output: &mut Output) -> Result<Exit, Trouble> {
    // Unique among runs on all machines for all that matters; the clock serves as a name, not as a time.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let key = format!("apexkv-check-{}-{}", std::process::id(), now.as_nanos());
    let value = format!("checked at {}", now.as_nanos());
    let began = Instant::now();
    let result = steps(client, output, &key, &value);
    if result.is_err() {
        // Whatever went wrong, the key should not stay behind; the first trouble is the one to report.
        let _ = client.delete(key.as_bytes());
    }
    result?;
    if output.is_json() {
        let mut object = json::object(true, "OK");
        object.insert("step".to_owned(), json!("check"));
        object.insert("milliseconds".to_owned(), json!(began.elapsed().as_millis() as u64));
        output.object(object)?;
    } else {
        output.line(&format!("check passed in {} ms", began.elapsed().as_millis()))?;
    }
    Ok(Exit::Success)
}

fn steps(client: &mut Client, output: &mut Output, key: &str, value: &str) -> Result<(), Trouble> {
    let written = client.set(key.as_bytes(), value.as_bytes())?;
    print(client, output, "SET", key, &format!("version {written}"))?;
    let found = client.get_versioned(key.as_bytes())?;
    print(client, output, "GET", key, "answered")?;
    match found {
        Some((version, bytes)) if version == written && bytes == value.as_bytes() => {}
        Some((version, bytes)) if bytes == value.as_bytes() => {
            return Err(Trouble::Wrong(format!("GET after SET: version {version} instead of {written} of key {key}")));
        }
        Some((version, bytes)) => {
            let reason = format!("GET after SET: {} bytes of version {version} that were never written to key {key}", bytes.len());
            return Err(Trouble::Wrong(reason));
        }
        None => return Err(Trouble::Wrong(format!("GET after SET: key {key} is absent although its write was acknowledged"))),
    }
    print(client, output, "compare", key, "the same bytes, the same version")?;
    let Some(deleted) = client.delete(key.as_bytes())? else {
        return Err(Trouble::Wrong(format!("DEL: key {key} is absent although it was just read")));
    };
    if deleted <= written {
        return Err(Trouble::Wrong(format!("DEL: version {deleted} is not above {written}, the version of the value of key {key}")));
    }
    print(client, output, "DEL", key, &format!("version {deleted}"))?;
    if client.get(key.as_bytes())?.is_some() {
        return Err(Trouble::Wrong(format!("GET after DEL: key {key} is still there")));
    }
    print(client, output, "GET", key, "absent, as it should be")
}

fn print(client: &Client, output: &mut Output, step: &str, key: &str, result: &str) -> Result<(), Trouble> {
    let via = client.endpoint().unwrap_or("nobody");
    if output.is_json() {
        let mut object = json::object(true, "OK");
        object.insert("step".to_owned(), json!(step));
        object.insert("key".to_owned(), json!(key));
        object.insert("result".to_owned(), json!(result));
        object.insert("endpoint".to_owned(), json!(via));
        output.object(object)?;
    } else {
        output.line(&format!("{step:7}  {key}: {result} (via {via})"))?;
    }
    // Each step shows as soon as it is done: the next one may take the whole time limit.
    output.flush()
}
