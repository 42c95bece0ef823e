//! Objects of the JSON output. Text that is not UTF-8 goes under another name, in base64, so that nothing is lost or guessed.

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

/// Base64 of RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * position)) as usize & 63];
            text.push(if position <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_gives_the_vectors_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text, "{bytes}");
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn bytes_that_are_no_text_get_another_name() {
        let mut result = object(true, "OK");
        put_bytes(&mut result, "key", b"k");
        put_bytes(&mut result, "value", b"\xff");
        assert_eq!(Value::Object(result).to_string(), r#"{"ok":true,"status":"OK","key":"k","value_base64":"/w=="}"#);
    }
}
