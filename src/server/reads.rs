//! Answers reads from the store, on the connection's own thread: values go from the store straight into the response and never pass
//! the Raft thread. When a value cannot be read for sure, the answer is an error, never other bytes.

use super::clients::NodeView;
use super::event::Outcome;
use super::request::Query;
use super::response::{Form, begin, encode_outcome, finish, refuse};
use crate::error::Result;
use crate::storage::store::{Located, Store};
use apexkv_client::protocol::{SCAN_PAGE_BYTES, Status};

/// Appends the response to a GET or GETV whose location the Raft thread took, or to any read that was refused.
pub(super) fn answer_located(out: &mut Vec<u8>, form: Form, query: &Query<'_>, outcome: &Outcome, store: &Store, view: &dyn NodeView) {
    match (outcome, query) {
        (Outcome::Found(located), Query::Get { key, versioned }) => get(out, form, key, *versioned, located, store),
        // A read never has an open outcome: nothing happened, whatever the reason.
        (Outcome::Unknown(text), _) => refuse(out, form, Status::Busy, text),
        (other, _) => encode_outcome(out, form, other, view),
    }
}

/// Appends the response to a read that may be looked up now.
pub(super) fn answer_now(out: &mut Vec<u8>, form: Form, query: &Query<'_>, store: &Store) {
    match query {
        Query::Get { key, versioned } => match store.lookup(key) {
            Some(located) => get(out, form, key, *versioned, &located, store),
            None => {
                let start = begin(out, form);
                finish(out, start, form, Status::NotFound);
            }
        },
        Query::Scan { prefix, cursor, limit, keys_only } => {
            respond(out, form, |out| scan(out, prefix, cursor, *limit, *keys_only, store));
        }
    }
}

fn get(out: &mut Vec<u8>, form: Form, key: &[u8], versioned: bool, located: &Located, store: &Store) {
    respond(out, form, |out| {
        if versioned {
            out.extend_from_slice(&located.version.to_le_bytes());
        }
        store.read(key, located, out)
    });
}

/// Takes a page of locations under the store's one short lock and copies the values after it.
fn scan(out: &mut Vec<u8>, prefix: &[u8], cursor: &[u8], limit: usize, keys_only: bool, store: &Store) -> Result<()> {
    let page = store.scan(prefix, cursor, limit, SCAN_PAGE_BYTES, keys_only);
    out.push(u8::from(page.more));
    for (key, located) in &page.entries {
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&located.version.to_le_bytes());
        out.extend_from_slice(key);
        if !keys_only {
            let value_at = out.len();
            store.read(key, located, out)?;
            let length = (out.len() - value_at) as u32;
            out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        }
    }
    Ok(())
}

/// Appends an OK response around what `write` appends, or in its place an ERROR if that fails.
fn respond(out: &mut Vec<u8>, form: Form, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) {
    let start = begin(out, form);
    match write(out) {
        Ok(()) => finish(out, start, form, Status::Ok),
        Err(error) => {
            log::error!("a read was refused: {error}");
            out.truncate(start);
            refuse(out, form, Status::Error, &format!("this node cannot read the value: {error}; try another node"));
        }
    }
}
