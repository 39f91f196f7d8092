//! The SHA-256 of content that comes in order.

use std::fmt::Write;

use aws_lc_rs::digest::{Context, SHA256};

/// Zeroes that are hashed at once.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A digest under way.
#[derive(Clone)]
pub struct Sha256(Context);

impl Sha256 {
    /// Of nothing.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds `len` zeroes.
    pub fn add_zeroes(&mut self, len: u64) {
        let mut left = len;
        while left > 0 {
            let count = usize::try_from(left).map_or(ZEROES.len(), |n| n.min(ZEROES.len()));
            self.0.update(&ZEROES[..count]);
            left -= count as u64;
        }
    }

    /// What it is so far, in hexadecimal.
    pub fn text(&self) -> String {
        let digest = self.0.clone().finish();
        digest
            .as_ref()
            .iter()
            .fold(String::new(), |mut text, byte| {
                // Writing to a string does not fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_count_like_bytes() {
        let mut hash = Sha256::new();
        assert_eq!(
            hash.text(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let mut other = hash.clone();
        hash.add(b"abc");
        assert_eq!(
            hash.text(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        other.add(b"abc");
        hash.add_zeroes(200_000);
        other.add(&vec![0; 200_000]);
        assert_eq!(hash.text(), other.text());
    }
}
