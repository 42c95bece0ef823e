//! Answers reads from the store, on the connection's own thread: values go from the store straight into the response and never pass
//! the Raft thread. When a value cannot be read for sure, the answer is an error, never other bytes.

use super::clients::NodeView;
use super::event::Outcome;
use super::request::Query;
use super::response::{Form, begin, encode_outcome, finish, refuse};
use super::stream::{LARGE_BYTES, Large};
use super::values::Values;
use crate::error::{Error, Result};
use crate::storage::store::{Located, Page};
use apexkv_client::protocol::{SCAN_PAGE_BYTES, Status};

/// Appends the response to a GET or GETV whose location the Raft thread took, or to any read that was refused. A large response is
/// returned instead.
pub(super) fn answer_located(
    out: &mut Vec<u8>,
    form: Form,
    query: &Query<'_>,
    outcome: &Outcome,
    values: &Values,
    view: &dyn NodeView,
) -> Option<Large> {
    match (outcome, query) {
        (Outcome::Found(located), Query::Get { key, versioned }) => return get(out, form, key, *versioned, located, values),
        // A read never has an open outcome: nothing happened, whatever the reason.
        (Outcome::Unknown(text), _) => refuse(out, form, Status::Busy, text),
        (other, _) => encode_outcome(out, form, other, view),
    }
    None
}

/// Appends the response to a read that may be looked up now. A large response is returned instead.
pub(super) fn answer_now(out: &mut Vec<u8>, form: Form, query: &Query<'_>, values: &Values) -> Option<Large> {
    match query {
        Query::Get { key, versioned } => match values.lookup(key) {
            Some(located) => get(out, form, key, *versioned, &located, values),
            None => {
                let start = begin(out, form);
                finish(out, start, form, Status::NotFound);
                None
            }
        },
        Query::Scan { prefix, cursor, limit, keys_only } => {
            // Locations are taken under the store's one short lock; the values are copied after it.
            let page = values.scan(prefix, cursor, *limit, SCAN_PAGE_BYTES, *keys_only);
            scan(out, form, &page, *keys_only, values)
        }
        Query::Backup(query) => panic!("{query:?} of a backup is answered by its connection, not from the store"),
    }
}

fn get(out: &mut Vec<u8>, form: Form, key: &[u8], versioned: bool, located: &Located, values: &Values) -> Option<Large> {
    let version = located.version.to_le_bytes();
    let front: &[u8] = if versioned { &version } else { &[] };
    if located.value_bytes as usize > LARGE_BYTES {
        return large(out, form, |large| {
            large.push_bytes(front);
            large.push_value(values.check(key, located)?);
            Ok(())
        });
    }
    respond(out, form, |out| {
        out.extend_from_slice(front);
        values.read(key, located, out)
    });
    None
}

fn scan(out: &mut Vec<u8>, form: Form, page: &Page, keys_only: bool, values: &Values) -> Option<Large> {
    let value_bytes = |located: &Located| if keys_only { 0 } else { located.value_bytes };
    let pair = |key: &[u8], located: &Located, out: &mut Vec<u8>| {
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(&value_bytes(located).to_le_bytes());
        out.extend_from_slice(&located.version.to_le_bytes());
        out.extend_from_slice(key);
    };
    let bytes: usize = page.entries.iter().map(|(key, located)| 16 + key.len() + value_bytes(located) as usize).sum();
    if bytes > LARGE_BYTES {
        return large(out, form, |large| {
            large.push_bytes(&[u8::from(page.more)]);
            let mut front = Vec::new();
            for (key, located) in &page.entries {
                front.clear();
                pair(key, located, &mut front);
                large.push_bytes(&front);
                if !keys_only {
                    large.push_value(values.check(key, located)?);
                }
            }
            Ok(())
        });
    }
    respond(out, form, |out| {
        out.push(u8::from(page.more));
        for (key, located) in &page.entries {
            pair(key, located, out);
            if !keys_only {
                values.read(key, located, out)?;
            }
        }
        Ok(())
    });
    None
}

/// Plans a large response with what `plan` pushes, or appends an ERROR in its place if that fails.
fn large(out: &mut Vec<u8>, form: Form, plan: impl FnOnce(&mut Large) -> Result<()>) -> Option<Large> {
    let mut large = Large::new(form);
    match plan(&mut large) {
        Ok(()) => Some(large),
        Err(error) => {
            refuse_unreadable(out, form, &error);
            None
        }
    }
}

/// Appends an OK response around what `write` appends, or in its place an ERROR if that fails.
fn respond(out: &mut Vec<u8>, form: Form, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) {
    let start = begin(out, form);
    match write(out) {
        Ok(()) => finish(out, start, form, Status::Ok),
        Err(error) => {
            out.truncate(start);
            refuse_unreadable(out, form, &error);
        }
    }
}

fn refuse_unreadable(out: &mut Vec<u8>, form: Form, error: &Error) {
    log::error!("a read was refused: {error}");
    refuse(out, form, Status::Error, &format!("this node cannot read the value: {error}; try another node"));
}
