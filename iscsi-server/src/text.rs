//! Text keys: `key=value` pairs that end in a zero byte (RFC 7143 section 6.1), and the forms of
//! their values.
//!
//! Pairs may be cut anywhere between PDUs: they are gathered whole before they are read.

/// Longest key (section 6.1).
const KEY_BYTES_MAX: usize = 63;
/// Longest value: a CHAP challenge of 1024 bytes in hexadecimal, generously.
const VALUE_BYTES_MAX: usize = 8192;

/// Why text is no list of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TextError {
    /// It does not end with a zero byte.
    #[error("text ends within a pair")]
    Unended,
    /// A pair has no `=`, an empty or too long key, or too long a value.
    #[error("text holds something that is no key=value")]
    NoPair,
    /// A key or a value has bytes that text must not have.
    #[error("text holds bytes that are no text")]
    NoText,
}

/// A key and its value.
pub(crate) type Pair<'a> = (&'a str, &'a str);

/// The pairs of a whole text.
///
/// # Errors
/// [`TextError`].
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Pair<'_>>, TextError> {
    let mut pairs = Vec::new();
    // Initiators pad texts with zero bytes: empty pairs are passed over.
    let Some(text) = text.strip_suffix(&[0]) else {
        return if text.is_empty() {
            Ok(pairs)
        } else {
            Err(TextError::Unended)
        };
    };
    for pair in text
        .split(|&byte| byte == 0)
        .filter(|pair| !pair.is_empty())
    {
        let at = pair
            .iter()
            .position(|&byte| byte == b'=')
            .ok_or(TextError::NoPair)?;
        let (key, value) = (&pair[..at], &pair[at + 1..]);
        if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Err(TextError::NoPair);
        }
        if !key.iter().all(|&byte| is_key_byte(byte)) {
            return Err(TextError::NoText);
        }
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| TextError::NoText);
        let value = text(value)?;
        if value.chars().any(char::is_control) {
            return Err(TextError::NoText);
        }
        pairs.push((text(key)?, value));
    }
    Ok(pairs)
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'@' | b'_' | b'#' | b'/')
}

/// Pairs on their way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(Vec<u8>);

impl Text {
    /// Appends a pair.
    pub(crate) fn put(&mut self, key: &str, value: &str) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'=');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
    }

    /// Appends other pairs.
    pub(crate) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A number in decimal or hexadecimal (section 6.1: decimal-constant, hex-constant).
pub(crate) fn number(value: &str) -> Option<u64> {
    let hex = value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((value, 10), |digits| (digits, 16));
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// `Yes` or `No`.
pub(crate) fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// How a boolean is written.
pub(crate) fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

/// The items of a list, in the order of the other side's preference.
pub(crate) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_are_split_at_zero_bytes() {
        let text = b"InitiatorName=iqn.a\0X-empty=\0HeaderDigest=CRC32C,None\0\0\0";
        let pairs = parse(text).unwrap();
        let expected = [
            ("InitiatorName", "iqn.a"),
            ("X-empty", ""),
            ("HeaderDigest", "CRC32C,None"),
        ];
        assert_eq!(pairs, expected);
        assert_eq!(parse(b""), Ok(vec![]));
        assert_eq!(parse(b"a=b"), Err(TextError::Unended));
        assert_eq!(parse(b"ab\0"), Err(TextError::NoPair));
        assert_eq!(parse(b"=b\0"), Err(TextError::NoPair));
        assert_eq!(parse(&[b'a', b'=', 0xff, 0]), Err(TextError::NoText));
        assert_eq!(parse(b"a=\x07\0"), Err(TextError::NoText));
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("0x1F"), Some(31));
        assert_eq!(number("0X1f"), Some(31));
        for value in ["", "0x", "-1", "+1", "1 ", "0x+1", "99999999999999999999"] {
            assert_eq!(number(value), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&text);
        }

        #[test]
        fn what_was_put_is_read(pairs in proptest::collection::vec(("[A-Za-z.#-]{1,20}", "[ -~]{0,40}"), 0..8)) {
            let mut text = Text::default();
            for (key, value) in &pairs {
                text.put(key, value);
            }
            let bytes = text.into_bytes();
            let expected: Vec<Pair<'_>> = pairs.iter().map(|(key, value)| (&**key, &**value)).collect();
            prop_assert_eq!(parse(&bytes).unwrap(), expected);
        }
    }
}
