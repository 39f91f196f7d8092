//! Header and data digests: CRC-32C over pieces (RFC 7143 section 13.1).

use crc_fast::{CrcAlgorithm, Digest as Crc};

/// Bytes of a digest on the wire.
pub(crate) const DIGEST_BYTES: usize = 4;

/// A digest that is being computed over pieces.
pub(crate) struct Digest(Crc);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(Crc::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// As it goes over the wire: the least significant byte first.
    pub(crate) fn wire(&self) -> [u8; DIGEST_BYTES] {
        let low = self.0.finalize() & 0xffff_ffff;
        u32::try_from(low).unwrap_or(u32::MAX).to_le_bytes()
    }
}

/// The digest of pieces in a row.
pub(crate) fn digest_of(pieces: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    let mut digest = Digest::new();
    for piece in pieces {
        digest.update(piece);
    }
    digest.wire()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7143 section 13.1 points to the examples of RFC 3720 appendix B.4.
    #[test]
    fn vectors_of_the_rfc_come_out_in_wire_order() {
        assert_eq!(digest_of(&[&[0; 32]]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(digest_of(&[&[0xff; 32]]), [0x43, 0xab, 0xa8, 0x62]);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(digest_of(&[&up]), [0x4e, 0x79, 0xdd, 0x46]);
        assert_eq!(
            digest_of(&[&up[..7], &[], &up[7..]]),
            [0x4e, 0x79, 0xdd, 0x46]
        );
    }
}
