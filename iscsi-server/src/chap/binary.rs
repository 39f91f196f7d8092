//! Binary values in text: hexadecimal after `0x`, or base64 after `0b` (RFC 7143 section 6.1).

use std::fmt::Write;

/// The bytes in hexadecimal.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes that a text stands for, at most `bytes_max`; `None` if it is malformed.
pub(super) fn decode(text: &str, bytes_max: usize) -> Option<Vec<u8>> {
    let (prefix, digits) = text.split_at_checked(2)?;
    let bytes = match prefix {
        "0x" | "0X" => hexadecimal(digits, bytes_max)?,
        "0b" | "0B" => base64(digits, bytes_max)?,
        _ => return None,
    };
    (bytes.len() <= bytes_max).then_some(bytes)
}

fn hexadecimal(digits: &str, bytes_max: usize) -> Option<Vec<u8>> {
    if digits.is_empty() || digits.len() > 2 * bytes_max {
        return None;
    }
    let digits: Option<Vec<u8>> = digits
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect();
    let mut digits = digits?;
    // The first byte may be written with one digit.
    if !digits.len().is_multiple_of(2) {
        digits.insert(0, 0);
    }
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

fn base64(digits: &str, bytes_max: usize) -> Option<Vec<u8>> {
    if digits.is_empty() || !digits.len().is_multiple_of(4) || digits.len() / 4 * 3 > bytes_max + 2
    {
        return None;
    }
    let stripped = digits.trim_end_matches('=');
    if digits.len() - stripped.len() > 2 {
        return None;
    }
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for digit in stripped.bytes() {
        bits = bits << 6 | u32::from(base64_digit(digit)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            let [.., byte] = (bits >> count).to_be_bytes();
            bytes.push(byte);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

fn base64_digit(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_notations_are_read() {
        assert_eq!(decode("0x0aFF", 2), Some(vec![10, 255]));
        assert_eq!(decode("0xaff", 2), Some(vec![10, 255]));
        assert_eq!(decode("0bZm9vYg==", 16), Some(b"foob".to_vec()));
        assert_eq!(decode("0bZm9vYmE=", 16), Some(b"fooba".to_vec()));
        assert_eq!(decode("0BZm9vYmFy", 6), Some(b"foobar".to_vec()));
    }

    #[test]
    fn what_is_malformed_or_too_long_is_refused() {
        for text in [
            "",
            "0x",
            "0b",
            "0xg0",
            "ff",
            "0bZm9",
            "0bZ===",
            "0bZm9vYh==",
            "0é",
            "0x010203",
        ] {
            assert_eq!(decode(text, 2), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            prop_assert_eq!(decode(&encode(&bytes), 64), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "0[xb]\\PC{0,40}") {
            let _ = decode(&text, 16);
        }
    }
}
