//! Others whose tokens count: their names, for whom their tokens are, and their public keys as a JWK set
//! (RFC 7517).
//!
//! Their tokens say `sub`, and in `ashlar_role` and `ashlar_projects` what it may do. Invariant: only
//! public keys verify, and only by algorithms of their kind, so that nobody who can read a set can sign.

use ashlar_proto::api::Role;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header, Validation, decode};
use serde::Deserialize;

use super::tokens::refused;
use crate::refusal::AccessRefusal;

/// Most keys of a set.
const KEYS_MAX: usize = 64;

/// How far the clocks of others may be ahead or behind, in seconds.
const LEEWAY_SECONDS: u64 = 30;

/// A set of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// It is no JWK set.
    #[error("it is no JWK set: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It has no key that could verify anything, or too many keys.
    #[error("it has no public key with a `kid` for signatures, or more than {KEYS_MAX}")]
    Keys,
}

/// Somebody whose tokens count.
#[derive(Clone, Debug)]
pub struct Issuer {
    issuer: String,
    audience: String,
    keys: Vec<VerifyingKey>,
}

#[derive(Clone, Debug)]
struct VerifyingKey {
    id: String,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
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
        let set: JwkSet = serde_json::from_slice(jwks)?;
        if set.keys.len() > KEYS_MAX {
            return Err(IssuerError::Keys);
        }
        let keys: Vec<VerifyingKey> = set.keys.iter().filter_map(VerifyingKey::read).collect();
        if keys.is_empty() {
            return Err(IssuerError::Keys);
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            keys,
        })
    }

    /// What such a token says, if one of these keys is the one that it names; what it says counts only
    /// if that has signed it, for this audience, and it has not ended.
    pub(crate) fn verify(
        &self,
        header: &Header,
        token: &str,
    ) -> Option<Result<ForeignClaims, AccessRefusal>> {
        let id = header.kid.as_deref()?;
        let key = self.keys.iter().find(|key| key.id == id)?;
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

impl VerifyingKey {
    fn read(jwk: &Jwk) -> Option<Self> {
        let is_secret = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
        let for_signatures = match &jwk.common.public_key_use {
            None | Some(PublicKeyUse::Signature) => true,
            Some(_) => false,
        };
        if is_secret || !for_signatures {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        let algorithms = match jwk.common.key_algorithm {
            Some(algorithm) => vec![algorithm_of(algorithm)?],
            None => key.family().algorithms().to_vec(),
        };
        let is_hmac = |some: &Algorithm| AlgorithmFamily::Hmac.algorithms().contains(some);
        if algorithms.iter().any(is_hmac) {
            return None;
        }
        let id = jwk.common.key_id.clone()?;
        Some(Self {
            id,
            algorithms,
            key,
        })
    }
}

fn algorithm_of(algorithm: KeyAlgorithm) -> Option<Algorithm> {
    algorithm.to_string().parse().ok()
}

#[cfg(test)]
mod tests;
