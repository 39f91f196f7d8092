//! Committed inputs: `corpus/TARGET/NAME.hex`, hexadecimal text in which `#` begins a comment.

use std::path::PathBuf;

/// The committed inputs of a target, in the order of their names.
///
/// # Panics
/// If a file cannot be read or is no hexadecimal text.
#[must_use]
pub fn seeds_of(target: &str) -> Vec<Vec<u8>> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "corpus", target]
        .iter()
        .collect();
    let Ok(entries) = std::fs::read_dir(&folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("corpus files are text");
        from_hex(&text).unwrap_or_else(|| panic!("{} is no hexadecimal text", path.display()))
    };
    paths.iter().map(read).collect()
}

/// Bytes from hexadecimal text with white space and comments.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let mut digits = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        for digit in line.chars().filter(|c| !c.is_whitespace()) {
            digits.push(u8::try_from(digit.to_digit(16)?).ok()?);
        }
    }
    if digits.len() % 2 != 0 {
        return None;
    }
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

/// Bytes as hexadecimal text.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_text_may_have_comments() {
        let bytes = from_hex("0a ff # the start\n  01\n").unwrap();
        assert_eq!(bytes, [10, 255, 1]);
        assert_eq!(from_hex(&to_hex(&bytes)).unwrap(), bytes);
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("xy"), None);
    }
}
