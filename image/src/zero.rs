//! Finding zeroes in bytes.

use std::ops::Range;

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    let is_clear = |word: &[u8; 64]| word.iter().fold(0, |all, byte| all | byte) == 0;
    words.iter().all(is_clear) && rest.iter().all(|byte| *byte == 0)
}

/// The runs of blocks of `block_bytes` that are not all zero, as ranges of bytes. The last block may
/// be short.
///
/// # Panics
/// If `block_bytes` is 0.
pub fn data_runs(bytes: &[u8], block_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let next = |at: usize| &bytes[at..bytes.len().min(at + block_bytes)];
        while at < bytes.len() && is_zero(next(at)) {
            at += next(at).len();
        }
        let start = at;
        while at < bytes.len() && !is_zero(next(at)) {
            at += next(at).len();
        }
        (start < at).then_some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_is_not_zero() {
        let mut bytes = vec![0; 4 * 4096 + 100];
        let runs = |bytes: &[u8]| data_runs(bytes, 4096).collect::<Vec<_>>();
        assert_eq!(runs(&bytes), []);
        bytes[4096] = 1;
        bytes[3 * 4096 - 1] = 1;
        bytes[4 * 4096 + 99] = 1;
        let whole = [4096..3 * 4096, 4 * 4096..4 * 4096 + 100];
        assert_eq!(runs(&bytes), whole);
        assert_eq!(runs(&[]), []);
    }

    #[test]
    fn one_byte_is_enough() {
        for len in [1, 63, 64, 65, 4096] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            bytes[len - 1] = 0x80;
            assert!(!is_zero(&bytes));
        }
    }
}
