//! Keys as text, and their hashes.
//!
//! ```text
//! ashlar_ 0123456789abcdef _ 64 hexadecimal digits
//!         id, to find it by  256 bits of randomness
//! ```
//!
//! The hash is Argon2id (RFC 9106) with what OWASP asks of it at least: 19 MiB, two passes.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use ashlar_proto::api::Secret;

use crate::row::{HashRow, Hidden};

/// What each key begins with.
pub(crate) const KEY_PREFIX: &str = "ashlar_";

/// What the key of a volume begins with.
const VOLUME_KEY_PREFIX: &str = "ashlar-volume_";

const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Most that a stored hash may ask for: rows are trusted, but not to stop the conductor.
const MEMORY_KIB_MAX: u32 = 256 * 1024;

/// The system gives no random numbers, or a hash cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("no key can be made: {reason}")]
pub(crate) struct NoKey {
    reason: &'static str,
}

impl NoKey {
    pub(super) fn because(reason: &'static str) -> Self {
        Self { reason }
    }
}

/// A new key.
pub(crate) struct FreshKey {
    pub(crate) id: String,
    pub(crate) secret: Secret,
    pub(crate) hash: HashRow,
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoKey> {
    let mut bytes = [0; N];
    let reason = "the system gives no random numbers";
    getrandom::fill(&mut bytes).map_err(|_| NoKey { reason })?;
    Ok(bytes)
}

/// Hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).ok();
    (0..digits.len()).step_by(2).map(pair).collect()
}

/// Makes a key. Takes some tens of milliseconds of one processor.
pub(crate) fn generate() -> Result<FreshKey, NoKey> {
    let id = hex(&random::<ID_BYTES>()?);
    let secret = hex(&random::<SECRET_BYTES>()?);
    let text = format!("{KEY_PREFIX}{id}_{secret}");
    let salt = random::<SALT_BYTES>()?;
    let mut row = HashRow {
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        lanes: LANES,
        salt: Hidden(hex(&salt)),
        hash: Hidden(String::new()),
    };
    let hashed = hash(&secret, &row).ok_or(NoKey {
        reason: "it cannot be hashed",
    })?;
    row.hash = Hidden(hex(&hashed));
    Ok(FreshKey {
        id,
        secret: Secret::new(text),
        hash: row,
    })
}

/// The id and the secret of a key, if the text has the shape of one.
pub(crate) fn parse(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.strip_prefix(KEY_PREFIX)?.split_once('_')?;
    let is_hex = |text: &str, bytes: usize| {
        text.len() == 2 * bytes
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    (is_hex(id, ID_BYTES) && is_hex(secret, SECRET_BYTES)).then_some((id, secret))
}

/// Whether a secret is the one that was hashed. Takes as long as [`generate`].
pub(crate) fn matches(secret: &str, row: &HashRow) -> bool {
    let Some(stored) = unhex(&row.hash.0) else {
        return false;
    };
    hash(secret, row).is_some_and(|hash| verify_slices_are_equal(&hash, &stored).is_ok())
}

fn hash(secret: &str, row: &HashRow) -> Option<[u8; HASH_BYTES]> {
    if row.memory_kib > MEMORY_KIB_MAX {
        return None;
    }
    let params = Params::new(row.memory_kib, row.passes, row.lanes, Some(HASH_BYTES)).ok()?;
    let salt = unhex(&row.salt.0)?;
    let mut hash = [0; HASH_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(secret.as_bytes(), &salt, &mut hash)
        .ok()?;
    Some(hash)
}

/// A new key of a volume, and its hash.
pub(crate) fn volume_key() -> Result<(Secret, Hidden), NoKey> {
    let text = format!("{VOLUME_KEY_PREFIX}{}", hex(&random::<SECRET_BYTES>()?));
    let hash = volume_key_hash(&text);
    Ok((Secret::new(text), hash))
}

/// What is kept of the key of a volume.
pub(crate) fn volume_key_hash(text: &str) -> Hidden {
    Hidden(hex(digest(&SHA256, text.as_bytes()).as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_matches_its_hash_and_no_other() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        let (id, secret) = parse(one.secret.reveal()).unwrap();
        assert_eq!(id, one.id);
        assert!(matches(secret, &one.hash));
        assert!(!matches(secret, &other.hash));
        let greedy = HashRow {
            memory_kib: u32::MAX,
            ..one.hash.clone()
        };
        assert!(!matches(secret, &greedy));
        let shown = format!("{:?}", one.hash);
        assert!(!shown.contains(&one.hash.hash.0) && !shown.contains(&one.hash.salt.0));
    }

    #[test]
    fn what_has_not_the_shape_of_a_key_is_none() {
        let good = format!("ashlar_{}_{}", "0".repeat(16), "a".repeat(64));
        assert!(parse(&good).is_some());
        for text in [
            "",
            "ashlar_",
            "ashlar__",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}0"),
            &good.to_uppercase(),
            &good.replace('a', "g"),
            &format!("ashlar_{}_{}", "0".repeat(16), "é".repeat(32)),
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
        assert_eq!(unhex("0aFF"), Some(vec![10, 255]));
        assert!(unhex("0").is_none() && unhex("0g").is_none() && unhex("é0").is_none());
    }
}
