//! Bytes as lower-case hexadecimal digits: keys, signatures, digests, MAC addresses in names.

/// Two digits for each byte.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a text; `None` where it is no such text. Upper case is read, too.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    // A sign would be read as part of a number.
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        assert_eq!(decode(&encode(&[0, 10, 255])), Some(vec![0, 10, 255]));
        assert_eq!(decode("0A"), Some(vec![10]));
        for wrong in ["0", "0g", "+1", "é"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
