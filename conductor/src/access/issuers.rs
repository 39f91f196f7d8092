//! Others whose tokens count: their names, for whom their tokens are, and their public keys as a JWK set
//! (RFC 7517).
//!
//! Their tokens say `sub`, and in `ashlar_role` and `ashlar_projects` what it may do.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ashlar_proto::api::Role;
use jsonwebtoken::{Header, Validation, decode};
use serde::Deserialize;

use super::key_sets::{KEYS_MAX, KeySet};
use super::tokens::refused;
use crate::refusal::AccessRefusal;

/// How far the clocks of others may be ahead or behind, in seconds.
const LEEWAY_SECONDS: u64 = 30;

/// A set of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// It is no JWK set.
    #[error("it is no JWK set: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Its file cannot be read.
    #[error("it cannot be read: {0}")]
    File(#[from] io::Error),
    /// It has no key that could verify anything, or too many keys.
    #[error("it has no public key with a `kid` for signatures, or more than {KEYS_MAX}")]
    Keys,
}

/// Somebody whose tokens count. Clones share the keys.
#[derive(Clone, Debug)]
pub struct Issuer {
    issuer: String,
    audience: String,
    keys: Arc<KeySet>,
}

/// What their tokens say.
#[derive(Debug, Deserialize)]
pub(crate) struct ForeignClaims {
    pub(crate) sub: String,
    pub(crate) jti: Option<String>,
    /// Since when, in seconds since 1970: a number that need not be whole (RFC 7519 section 2).
    #[serde(default)]
    pub(crate) iat: Option<f64>,
    #[serde(rename = "ashlar_role")]
    pub(crate) role: Role,
    #[serde(rename = "ashlar_projects")]
    pub(crate) projects: Option<Vec<String>>,
}

impl Issuer {
    /// One whose tokens say `iss` and `aud` so, and are signed with a key of the set.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn new(issuer: &str, audience: &str, jwks: &[u8]) -> Result<Self, IssuerError> {
        Ok(Self::with(issuer, audience, KeySet::of(jwks)?))
    }

    /// The same with a set that lies in a file, which is read again when it has changed.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn from_file(issuer: &str, audience: &str, jwks: PathBuf) -> Result<Self, IssuerError> {
        Ok(Self::with(issuer, audience, KeySet::from_file(jwks)?))
    }

    fn with(issuer: &str, audience: &str, keys: KeySet) -> Self {
        Self {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            keys: Arc::new(keys),
        }
    }

    /// What such a token says, if one of these keys is the one that it names; what it says counts only
    /// if that has signed it, for this audience, and it has not ended.
    pub(crate) fn verify(
        &self,
        header: &Header,
        token: &str,
    ) -> Option<Result<ForeignClaims, AccessRefusal>> {
        let id = header.kid.as_deref()?;
        let key = self.keys.find(id, Instant::now())?;
        if !key.algorithms.contains(&header.alg) {
            return Some(Err(AccessRefusal::Wrong));
        }
        let mut rules = Validation::new(header.alg);
        rules.leeway = LEEWAY_SECONDS;
        rules.validate_nbf = true;
        rules.set_issuer(&[&self.issuer]);
        rules.set_audience(&[&self.audience]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let decoded = decode::<ForeignClaims>(token, &key.key, &rules);
        let decoded = decoded.map(|decoded| decoded.claims);
        Some(decoded.map_err(|error| refused(&error)))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.issuer
    }
}

#[cfg(test)]
pub(super) mod tests;
