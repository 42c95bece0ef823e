//! The listing of keys: page after page until the limit or the end, a line or an object for each.

use super::args::{ScanArguments, bytes};
use super::exit::{Exit, Trouble};
use super::json;
use super::output::Output;
use apexkv_client::protocol::SCAN_DEFAULT_LIMIT;
use apexkv_client::text::escape_into;
use apexkv_client::{Client, Pair, ScanOptions};
use serde_json::json;

pub(crate) fn run(client: &mut Client, output: &mut Output, arguments: &ScanArguments) -> Result<Exit, Trouble> {
    let limit = arguments.limit.unwrap_or(u64::MAX);
    // A page larger than what is still wanted would be fetched for nothing.
    let page_limit = u32::try_from(limit).unwrap_or(u32::MAX).min(SCAN_DEFAULT_LIMIT);
    let options = ScanOptions { page_limit, keys_only: arguments.keys_only };
    let mut printed = 0;
    for pair in client.scan(bytes(&arguments.prefix), options) {
        print(output, &pair?, arguments.keys_only)?;
        printed += 1;
        if printed == limit {
            break;
        }
    }
    Ok(Exit::Success)
}

fn print(output: &mut Output, pair: &Pair, keys_only: bool) -> Result<(), Trouble> {
    if output.is_json() {
        let mut object = json::object(true, "OK");
        json::put_bytes(&mut object, "key", &pair.key);
        object.insert("version".to_owned(), json!(pair.version));
        if !keys_only {
            json::put_bytes(&mut object, "value", &pair.value);
        }
        return output.object(object);
    }
    let mut line = String::with_capacity(pair.key.len() + pair.value.len() + 24);
    escape_into(&mut line, &pair.key);
    line.push_str(&format!("\t{}", pair.version));
    if !keys_only {
        line.push('\t');
        escape_into(&mut line, &pair.value);
    }
    output.line(&line)
}
