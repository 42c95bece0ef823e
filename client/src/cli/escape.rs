//! Bytes as one line of text that a terminal cannot be confused by, and that can be turned back.

/// Appends `bytes` with `\\`, `\t`, `\n`, `\r`, and `\xNN` for every other control character and every byte that is not UTF-8.
pub(crate) fn escape_into(line: &mut String, bytes: &[u8]) {
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
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    escape_into(&mut line, bytes);
    line
}

fn push_hexadecimal(line: &mut String, bytes: &[u8]) {
    bytes.iter().for_each(|byte| line.push_str(&format!("\\x{byte:02x}")));
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
}
