//! CRC-32C (Castagnoli), the one checksum of blocks, frames and on-disk structures.
//!
//! RFC 3720 appendix B.4 gives the polynomial and the test vectors.

use crc_fast::{CrcAlgorithm, checksum};

/// CRC-32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // A 32-bit algorithm fills the low half only.
    (checksum(CrcAlgorithm::Crc32Iscsi, bytes) & 0xffff_ffff)
        .try_into()
        .unwrap_or(u32::MAX)
}

/// CRC-32C bit by bit, the oracle that [`self_test`] holds the fast one against.
#[must_use]
pub fn crc32c_reference(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// Compares the hardware path with the reference on lengths that cross every vector width.
///
/// Called once when a process starts: a processor or a build that miscomputes must not write.
///
/// # Panics
/// When the two differ.
pub fn self_test() {
    let pattern: Vec<u8> = (0u32..4099)
        .map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect();
    for length in [0, 1, 3, 8, 15, 16, 31, 64, 127, 255, 256, 1023, 4096, 4099] {
        let bytes = &pattern[..length];
        assert_eq!(
            crc32c(bytes),
            crc32c_reference(bytes),
            "CRC-32C differs at {length} bytes"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3720_vectors_hold() {
        assert_eq!(crc32c(&[0u8; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xffu8; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0u8..32).collect();
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn hardware_path_equals_the_reference() {
        self_test();
    }
}
