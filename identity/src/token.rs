//! Join tokens: what a node shows to get its first certificate, once.
//!
//! ```text
//! ashlar1.ID.SECRET.FINGERPRINT
//!         │  │      └ SHA-256 of the authority's certificate: the node knows by it whom it speaks with
//!         │  └ 256 random bits; the conductor keeps their SHA-256 alone
//!         └ 64 random bits, by which the conductor finds it
//! ```
//!
//! All parts are hexadecimal digits. A plain hash is enough: nobody can try 2^256 secrets.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{constant_time, digest, rand};

/// What begins a token of this version.
const VERSION: &str = "ashlar1";

const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 64;
const HASH_DIGITS: usize = 64;

/// The secret part of a token. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret(String);

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(…)")
    }
}

impl JoinSecret {
    /// Its SHA-256, in hexadecimal digits: what may be kept.
    #[must_use]
    pub fn hash(&self) -> String {
        sha256_digits(self.0.as_bytes())
    }

    /// Whether that is its hash; takes as long either way.
    #[must_use]
    pub fn has_hash(&self, hash: &str) -> bool {
        constant_time::verify_slices_are_equal(self.hash().as_bytes(), hash.as_bytes()).is_ok()
    }
}

/// A token as people carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenText {
    /// By which the conductor finds it: not secret.
    pub id: String,
    /// What shows that one has it.
    pub secret: JoinSecret,
    /// SHA-256 of the authority's certificate (DER), in hexadecimal digits.
    pub fingerprint: String,
}

/// The text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no join token: `ashlar node token create` prints one")]
pub struct ParseTokenError;

impl TokenText {
    /// A new one for the cluster whose authority has that certificate; `None` where the system gives no
    /// random numbers.
    #[must_use]
    pub fn make(authority_der: &[u8]) -> Option<Self> {
        Some(Self {
            id: random_digits::<{ ID_DIGITS / 2 }>()?,
            secret: JoinSecret(random_digits::<{ SECRET_DIGITS / 2 }>()?),
            fingerprint: sha256_digits(authority_der),
        })
    }

    /// The text.
    #[must_use]
    pub fn reveal(&self) -> String {
        let Self {
            id,
            secret,
            fingerprint,
        } = self;
        format!("{VERSION}.{id}.{}.{fingerprint}", secret.0)
    }

    /// Whether a certificate (DER) is that of the authority.
    #[must_use]
    pub fn is_of(&self, authority_der: &[u8]) -> bool {
        sha256_digits(authority_der) == self.fingerprint
    }
}

impl FromStr for TokenText {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split('.');
        if parts.next() != Some(VERSION) {
            return Err(ParseTokenError);
        }
        let mut next = |digits: usize| {
            let part = parts.next().ok_or(ParseTokenError)?;
            let is_hex = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if part.len() == digits && is_hex {
                Ok(part.to_owned())
            } else {
                Err(ParseTokenError)
            }
        };
        let (id, secret, fingerprint) =
            (next(ID_DIGITS)?, next(SECRET_DIGITS)?, next(HASH_DIGITS)?);
        if parts.next().is_some() {
            return Err(ParseTokenError);
        }
        Ok(Self {
            id,
            secret: JoinSecret(secret),
            fingerprint,
        })
    }
}

/// SHA-256 in hexadecimal digits.
#[must_use]
pub fn sha256_digits(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub(crate) fn random_bytes<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

fn random_digits<const N: usize>() -> Option<String> {
    random_bytes::<N>().map(|bytes| hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_text() {
        let token = TokenText::make(b"authority").unwrap();
        let text = token.reveal();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
        assert!(token.is_of(b"authority") && !token.is_of(b"another"));
        assert_ne!(TokenText::make(b"authority").unwrap(), token);
    }

    #[test]
    fn a_secret_is_known_by_its_hash_and_shown_by_nothing() {
        let token = TokenText::make(b"").unwrap();
        let hash = token.secret.hash();
        assert!(token.secret.has_hash(&hash));
        assert!(!token.secret.has_hash(&hash.replace(&hash[..1], "x")));
        assert!(!token.secret.has_hash(""));
        let text = token.reveal();
        let secret = text.split('.').nth(2).unwrap();
        assert!(!format!("{token:?}").contains(secret) && !hash.contains(secret));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let text = TokenText::make(b"").unwrap().reveal();
        for wrong in [
            "",
            "ashlar1",
            "ashlar1...",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}.00"),
            &text.replace("ashlar1", "ashlar2"),
            &text.replace('.', ":"),
        ] {
            assert_eq!(wrong.parse::<TokenText>(), Err(ParseTokenError), "{wrong}");
        }
    }
}
