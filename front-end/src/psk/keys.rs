//! Who may come with which pre-shared key: a file of lines `USER:HEXKEY`, as GnuTLS's `psktool`
//! writes it and nbdkit, QEMU and libnbd read it.
//!
//! A user's name with bytes that a line cannot hold is `#` and these bytes in hexadecimal digits.
//! Empty lines mean nothing; there are no comments.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

/// Shortest key: 128 bits, which RFC 9257 section 6 asks for at least.
pub(crate) const KEY_BYTES_MIN: usize = 16;
/// Longest key: every OpenSSL from 1.1.1 on takes it.
pub(crate) const KEY_BYTES_MAX: usize = 256;
/// Longest name: every OpenSSL from 1.1.1 on passes it on.
pub(crate) const NAME_BYTES_MAX: usize = 128;
/// Longest text that is looked at.
const TEXT_BYTES_MAX: usize = 1 << 20;

// A megabyte has room for a thousand users with everything as long as it may be, in hexadecimal.
const _: () = assert!(TEXT_BYTES_MAX >= 1000 * (2 * KEY_BYTES_MAX + 2 * NAME_BYTES_MAX + 3));

/// Why a text holds no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PskKeysError {
    /// A line is wrong.
    #[error("line {line}: {problem}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What of it.
        problem: LineProblem,
    },
    /// No line has a key.
    #[error("it has no line USER:HEXKEY")]
    Empty,
    /// It is longer than any list of users.
    #[error("it is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
}

/// What is wrong with a line. None of these shows the line: it may hold a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// There is no colon in it.
    #[error("it is not USER:HEXKEY")]
    NoColon,
    /// The name is empty, too long, or has a zero byte.
    #[error("the user's name must have 1 to {NAME_BYTES_MAX} bytes, none of them zero")]
    Name,
    /// A name after `#` is not in hexadecimal digits.
    #[error(
        "a user's name that begins with # must go on in hexadecimal digits; comments there are none"
    )]
    HexName,
    /// The key is not in hexadecimal digits.
    #[error("the key is not in hexadecimal digits, two for each byte")]
    HexKey,
    /// The key is too short or too long.
    #[error("the key must have {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes")]
    KeyLength,
    /// An earlier line is of the same user.
    #[error("the user has a key already, in an earlier line")]
    Twice,
}

/// The keys of all users.
pub struct PskKeys(HashMap<Vec<u8>, Vec<u8>>);

impl fmt::Debug for PskKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PskKeys of {} users", self.0.len())
    }
}

impl PskKeys {
    /// Reads the text of such a file.
    ///
    /// # Errors
    /// [`PskKeysError`], of the first line that is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, PskKeysError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(PskKeysError::TooLong);
        }
        let mut keys = HashMap::new();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let wrong = |problem| PskKeysError::Line {
                line: index + 1,
                problem,
            };
            let (name, key) = parse_line(line).map_err(wrong)?;
            match keys.entry(name) {
                Entry::Vacant(place) => place.insert(key),
                Entry::Occupied(_) => return Err(wrong(LineProblem::Twice)),
            };
        }
        if keys.is_empty() {
            return Err(PskKeysError::Empty);
        }
        Ok(Self(keys))
    }

    /// How many users there are.
    #[must_use]
    pub fn users(&self) -> usize {
        self.0.len()
    }

    /// The key of a user, by the bytes that a client names itself with.
    #[must_use]
    pub fn key_of(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

fn parse_line(line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), LineProblem> {
    // A name may have colons, a key has none.
    let colon = line.iter().rposition(|&byte| byte == b':');
    let (name, key) = line.split_at(colon.ok_or(LineProblem::NoColon)?);
    let name = match name.strip_prefix(b"#") {
        Some(digits) => from_hex(digits).ok_or(LineProblem::HexName)?,
        None => name.to_vec(),
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
        return Err(LineProblem::Name);
    }
    let key = from_hex(&key[1..]).ok_or(LineProblem::HexKey)?;
    if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()) {
        return Err(LineProblem::KeyLength);
    }
    Ok((name, key))
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |&[high, low]: &[u8; 2]| u8::try_from(digit(high)? << 4 | digit(low)?).ok();
    pairs.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "00112233445566778899aabbCCDDEEFF";

    fn problem(text: &str) -> PskKeysError {
        PskKeys::parse(text.as_bytes()).expect_err("it is wrong")
    }

    fn problem_of_line(text: &str) -> LineProblem {
        match problem(text) {
            PskKeysError::Line { line: 1, problem } => problem,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn users_have_the_keys_of_their_lines() {
        let text = format!("alice:{KEY}\r\n\n#62003a:{KEY}00\nnot\u{e9}:a:{KEY}01");
        // A name with a zero byte would be cut short on its way through OpenSSL.
        assert_eq!(
            problem(&text),
            PskKeysError::Line {
                line: 3,
                problem: LineProblem::Name
            }
        );
        let keys = PskKeys::parse(text.replace("6200", "62ff").as_bytes()).unwrap();
        assert_eq!(keys.users(), 3);
        let alice = keys.key_of(b"alice").unwrap();
        assert_eq!((alice.len(), alice[1], alice[15]), (16, 0x11, 0xff));
        assert_eq!(keys.key_of(b"b\xff:").map(<[u8]>::len), Some(17));
        let named = keys.key_of("not\u{e9}:a".as_bytes()).unwrap();
        assert_eq!(named.last(), Some(&1));
        assert_eq!(keys.key_of(b"mallory"), None);
        assert_eq!(keys.key_of(b""), None);
    }

    #[test]
    fn wrong_lines_are_told_apart() {
        assert_eq!(problem_of_line("alice"), LineProblem::NoColon);
        assert_eq!(problem_of_line(&format!(":{KEY}")), LineProblem::Name);
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(problem_of_line(&format!("{long}:{KEY}")), LineProblem::Name);
        assert_eq!(
            problem_of_line(&format!("# keys of us:{KEY}")),
            LineProblem::HexName
        );
        assert_eq!(problem_of_line(&format!("a:{KEY}0")), LineProblem::HexKey);
        assert_eq!(problem_of_line(&format!("a:{KEY}0x")), LineProblem::HexKey);
        assert_eq!(problem_of_line(&format!("a:{KEY} ")), LineProblem::HexKey);
        assert_eq!(problem_of_line("a:0011"), LineProblem::KeyLength);
        let long = "00".repeat(KEY_BYTES_MAX + 1);
        assert_eq!(
            problem_of_line(&format!("a:{long}")),
            LineProblem::KeyLength
        );
        assert_eq!(
            problem(&format!("a:{KEY}\nb:{KEY}\na:{KEY}")),
            PskKeysError::Line {
                line: 3,
                problem: LineProblem::Twice
            }
        );
        assert_eq!(problem("\n\n"), PskKeysError::Empty);
        assert_eq!(
            problem(&"\n".repeat(TEXT_BYTES_MAX + 1)),
            PskKeysError::TooLong
        );
    }

    #[test]
    fn no_key_is_shown() {
        let keys = PskKeys::parse(format!("alice:{KEY}").as_bytes()).unwrap();
        assert_eq!(format!("{keys:?}"), "PskKeys of 1 users");
        let wrong = problem(&format!("alice:{KEY}zz")).to_string();
        assert!(!wrong.contains("0011"), "{wrong}");
    }

    proptest! {
        /// Any bytes are a list or an error; of a list every key has a length that OpenSSL takes.
        #[test]
        fn any_bytes_are_read_or_refused(text in proptest::collection::vec(
            prop_oneof![Just(b':'), Just(b'\n'), Just(b'#'), Just(b'0'), Just(b'f'), any::<u8>()],
            0..400,
        )) {
            if let Ok(keys) = PskKeys::parse(&text) {
                prop_assert!(keys.users() > 0);
                for (name, key) in &keys.0 {
                    prop_assert!((1..=NAME_BYTES_MAX).contains(&name.len()));
                    prop_assert!((KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()));
                }
            }
        }

        /// What `psktool` would write of names and keys is read as they are.
        #[test]
        fn lists_come_back_as_written(users in proptest::collection::hash_map(
            proptest::collection::vec(1..=u8::MAX, 1..NAME_BYTES_MAX),
            proptest::collection::vec(any::<u8>(), KEY_BYTES_MIN..KEY_BYTES_MAX),
            1..6,
        )) {
            let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
            let lines: Vec<String> =
                users.iter().map(|(name, key)| format!("#{}:{}\n", hex(name), hex(key))).collect();
            let keys = PskKeys::parse(lines.concat().as_bytes()).unwrap();
            prop_assert_eq!(keys.0, users);
        }
    }
}
