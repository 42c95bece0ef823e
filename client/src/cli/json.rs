//! Objects of the JSON output. Text that is not UTF-8 goes under another name, in base64, so that nothing is lost or guessed.

use apexkv_client::text::base64;
use serde_json::{Map, Value, json};

/// One result, its fields in the order in which they were put.
pub(crate) type Object = Map<String, Value>;

/// Starts a result: `{"ok":…,"status":…`.
pub(crate) fn object(ok: bool, status: &str) -> Object {
    let mut object = Object::new();
    object.insert("ok".to_owned(), json!(ok));
    object.insert("status".to_owned(), json!(status));
    object
}

/// Puts bytes under `name` as text, or under `name_base64` where they are not UTF-8.
pub(crate) fn put_bytes(object: &mut Object, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => object.insert(format!("{name}_base64"), json!(base64(bytes))),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_get_another_name() {
        let mut result = object(true, "OK");
        put_bytes(&mut result, "key", b"k");
        put_bytes(&mut result, "value", b"\xff");
        assert_eq!(Value::Object(result).to_string(), r#"{"ok":true,"status":"OK","key":"k","value_base64":"/w=="}"#);
    }
}
