//! Bytes as text, in the one way in which all programs of the project print them: a line that a terminal cannot be confused by and that
//! can be turned back, or base64 where text has to be UTF-8.

/// Appends `bytes` with `\\`, `\t`, `\n`, `\r`, and `\xNN` for every other control character and every byte that is not UTF-8.
pub fn escape_into(line: &mut String, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => line.push_str("\\\\"),
                '\t' => line.push_str("\\t"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                letter if letter.is_control() => push_hexadecimal(line, letter.encode_utf8(&mut [0; 4]).as_bytes()),
                letter => line.push(letter),
            }
        }
        push_hexadecimal(line, chunk.invalid());
    }
}

/// As [`escape_into`], for a text of its own.
pub fn escape(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    escape_into(&mut line, bytes);
    line
}

fn push_hexadecimal(line: &mut String, bytes: &[u8]) {
    bytes.iter().for_each(|byte| line.push_str(&format!("\\x{byte:02x}")));
}

/// Base64 of RFC 4648 with padding.
pub fn base64(bytes: &[u8]) -> String {
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
    fn whatever_breaks_a_line_or_a_terminal_is_escaped() {
        assert_eq!(escape(b"a\\b\tc\nd\re"), "a\\\\b\\tc\\nd\\re");
        assert_eq!(escape(b"\x1b[31m\x00\x7f"), "\\x1b[31m\\x00\\x7f");
        assert_eq!(escape("é\u{85}".as_bytes()), "é\\xc2\\x85");
        assert_eq!(escape(b"\xff\xfe ok \xc3"), "\\xff\\xfe ok \\xc3");
    }

    #[test]
    fn base64_gives_the_vectors_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text, "{bytes}");
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}
