//! CHAP (RFC 7143 section 12.1.3, RFC 1994): challenges, and what proves that a secret is known.
//!
//! Invariants: responses are compared in constant time; neither secrets nor responses are logged;
//! a challenge that comes back to us is never answered, so that an initiator cannot have us
//! compute its own response.

mod binary;
mod exchange;

pub(crate) use exchange::{ChapStep, Exchange};

use aws_lc_rs::{constant_time, digest};
use md5::Digest as _;

/// Longest response of any algorithm, in bytes.
const RESPONSE_BYTES_MAX: usize = 32;
/// Bytes of our challenges (section 12.1.3 asks for the length of the response at least).
pub(crate) const CHALLENGE_BYTES: usize = 32;
/// Longest challenge of an initiator (section 12.1.3).
const CHALLENGE_BYTES_MAX: usize = 1024;
/// Shortest challenge of an initiator that is answered.
const CHALLENGE_BYTES_MIN: usize = 16;

/// How a response is computed: values of `CHAP_A`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha3,
}

impl Algorithm {
    pub(crate) fn of(number: u64) -> Option<Self> {
        match number {
            5 => Some(Self::Md5),
            6 => Some(Self::Sha1),
            7 => Some(Self::Sha256),
            8 => Some(Self::Sha3),
            _ => None,
        }
    }

    pub(crate) fn number(self) -> &'static str {
        match self {
            Self::Md5 => "5",
            Self::Sha1 => "6",
            Self::Sha256 => "7",
            Self::Sha3 => "8",
        }
    }

    /// The hash of identifier, secret and challenge.
    pub(crate) fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Md5 => {
                let mut hash = md5::Md5::new();
                hash.update([identifier]);
                hash.update(secret);
                hash.update(challenge);
                return hash.finalize().to_vec();
            }
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha3 => &digest::SHA3_256,
        };
        let mut context = digest::Context::new(algorithm);
        context.update(&[identifier]);
        context.update(secret);
        context.update(challenge);
        context.finish().as_ref().to_vec()
    }
}

/// Whether two responses are the same; takes as long whether or not they are.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

#[cfg(test)]
mod tests;
