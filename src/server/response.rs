//! Responses as bytes, written in place: a header whose length is filled in once the payload stands, so that a value is copied from
//! the store straight into the response. Pure.

use super::clients::NodeView;
use super::event::Outcome;
use apexkv_client::protocol::{EXTENDED, EXTENDED_RESPONSE_HEADER, RESPONSE_HEADER, Status, encode_response, response_crc};

/// How a request wants to be answered: `None` for a plain frame, the request id for an extended one.
pub(super) type Form = Option<u64>;

/// Appends a header with room for length and CRC, and returns where it starts; [`finish`] completes it.
pub(super) fn begin(out: &mut Vec<u8>, form: Form) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; RESPONSE_HEADER]);
    if let Some(id) = form {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&[0; EXTENDED_RESPONSE_HEADER - RESPONSE_HEADER - 8]);
    }
    start
}

/// Completes the response that [`begin`] opened at `start`; its payload is all that was appended since.
pub(super) fn finish(out: &mut [u8], start: usize, form: Form, status: Status) {
    let frame = &mut out[start..];
    let header = if form.is_some() { EXTENDED_RESPONSE_HEADER } else { RESPONSE_HEADER };
    let length = frame.len() - header;
    assert!(length <= u32::MAX as usize, "a response of {length} bytes does not fit its length field");
    frame[0] = status as u8 | if form.is_some() { EXTENDED } else { 0 };
    frame[1..5].copy_from_slice(&(length as u32).to_le_bytes());
    if form.is_some() {
        let crc = response_crc(frame);
        frame[EXTENDED_RESPONSE_HEADER - 4..EXTENDED_RESPONSE_HEADER].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Appends a response with a text for a person.
pub(super) fn refuse(out: &mut Vec<u8>, form: Form, status: Status, text: &str) {
    encode_response(out, status, &[text.as_bytes()], form);
}

/// Appends the response to a write, or to a read that did not come to a lookup.
pub(super) fn encode_outcome(out: &mut Vec<u8>, form: Form, outcome: &Outcome, view: &dyn NodeView) {
    match outcome {
        Outcome::Written { version } => encode_response(out, Status::Ok, &[&version.to_le_bytes()], form),
        Outcome::NotFound => encode_response(out, Status::NotFound, &[], form),
        Outcome::Conflict { current } => encode_response(out, Status::Conflict, &[&current.to_le_bytes()], form),
        Outcome::NotLeader { leader } => {
            let address = leader.and_then(|leader| view.client_address(leader)).unwrap_or_default();
            encode_response(out, Status::NotLeader, &[address.as_bytes()], form);
        }
        Outcome::Unknown(text) => refuse(out, form, Status::Unknown, text),
        Outcome::Busy(text) => refuse(out, form, Status::Busy, text),
        Outcome::Found(_) | Outcome::Proceed => panic!("{outcome:?} is the answer to a read and was given to a write"),
    }
}
