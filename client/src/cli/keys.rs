//! The commands about one key.

use super::args::bytes;
use super::exit::{Exit, Trouble};
use super::json::{self, Object};
use super::output::Output;
use apexkv_client::protocol::LARGEST_VALUE;
use apexkv_client::{Client, Error};
use serde_json::json;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, Read};

pub(crate) fn set(client: &mut Client, output: &mut Output, key: &OsStr, value: &OsStr) -> Result<Exit, Trouble> {
    let value = read_value(value)?;
    let version = client.set(bytes(key), &value)?;
    print_version(client, output, key, version)
}

pub(crate) fn compare_and_set(
    client: &mut Client,
    output: &mut Output,
    key: &OsStr,
    expected: u64,
    value: &OsStr,
) -> Result<Exit, Trouble> {
    let value = read_value(value)?;
    let version = client.compare_and_set(bytes(key), expected, &value)?;
    print_version(client, output, key, version)
}

pub(crate) fn delete(client: &mut Client, output: &mut Output, key: &OsStr) -> Result<Exit, Trouble> {
    let version = client.delete(bytes(key))?.ok_or(Trouble::NotFound)?;
    print_version(client, output, key, version)
}

pub(crate) fn get(client: &mut Client, output: &mut Output, key: &OsStr) -> Result<Exit, Trouble> {
    let value = client.get(bytes(key))?.ok_or(Trouble::NotFound)?;
    if output.is_json() {
        let mut object = about(client, key);
        json::put_bytes(&mut object, "value", &value);
        output.object(object)?;
    } else {
        output.raw(&value)?;
        output.newline_on_terminal()?;
    }
    Ok(Exit::Success)
}

pub(crate) fn get_versioned(client: &mut Client, output: &mut Output, key: &OsStr) -> Result<Exit, Trouble> {
    let (version, value) = client.get_versioned(bytes(key))?.ok_or(Trouble::NotFound)?;
    if output.is_json() {
        let mut object = about(client, key);
        object.insert("version".to_owned(), json!(version));
        json::put_bytes(&mut object, "value", &value);
        output.object(object)?;
    } else {
        output.raw(format!("{version}\t").as_bytes())?;
        output.raw(&value)?;
        output.newline_on_terminal()?;
    }
    Ok(Exit::Success)
}

fn print_version(client: &Client, output: &mut Output, key: &OsStr, version: u64) -> Result<Exit, Trouble> {
    if output.is_json() {
        let mut object = about(client, key);
        object.insert("version".to_owned(), json!(version));
        output.object(object)?;
    } else {
        output.line(&version.to_string())?;
    }
    Ok(Exit::Success)
}

/// A good result about `key`, with the node that gave it.
fn about(client: &Client, key: &OsStr) -> Object {
    let mut object = json::object(true, "OK");
    json::put_bytes(&mut object, "key", bytes(key));
    object.insert("endpoint".to_owned(), json!(client.endpoint()));
    object
}

/// The value argument itself, or all of standard input for `-`.
fn read_value(argument: &OsStr) -> Result<Cow<'_, [u8]>, Trouble> {
    if argument != "-" {
        return Ok(Cow::Borrowed(bytes(argument)));
    }
    let mut value = Vec::new();
    io::stdin()
        .lock()
        .take(LARGEST_VALUE as u64 + 1)
        .read_to_end(&mut value)
        .map_err(|error| Trouble::Local("read standard input", error))?;
    if value.len() > LARGEST_VALUE {
        let reason =
            format!("standard input has more than {LARGEST_VALUE} bytes, the most that a value can have; split it over several keys");
        return Err(Trouble::Client(Error::Usage(reason)));
    }
    Ok(Cow::Owned(value))
}
