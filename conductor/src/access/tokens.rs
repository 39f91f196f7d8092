//! Tokens of this cluster: JWT (RFC 7519), signed by Ed25519 (RFC 8037) with a key of the metadata.
//!
//! A token says whose it is, and no more: what that user may do is looked up when it is shown, so that a
//! denial or another role counts at once.

use ashlar_proto::ClusterId;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use super::keys::{NoKey, hex, random, unhex};
use crate::refusal::AccessRefusal;
use crate::row::{ApiKeyRow, Hidden, SigningKeyRow};

/// Who has made tokens of this cluster.
const ISSUER: &str = "ashlar";

/// Longest token that is looked at.
pub(crate) const TOKEN_BYTES_MAX: usize = 8192;

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    aud: String,
    /// Whose it is.
    pub(crate) sub: String,
    /// Which it is.
    pub(crate) jti: String,
    /// Since when, in seconds since 1970.
    pub(crate) iat: u64,
    /// Until when.
    pub(crate) exp: u64,
    /// The key that it was made with, and with which it ends.
    #[serde(
        rename = "ashlar_key",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) key: Option<String>,
}

impl Claims {
    /// Of a token of a user, which ends after `ttl_s`, and with the key that makes it, if one does.
    pub(crate) fn new(
        cluster: ClusterId,
        user: &str,
        made_by: Option<&ApiKeyRow>,
        now_s: u64,
        ttl_s: u64,
    ) -> Result<Self, NoKey> {
        let end = made_by.and_then(|key| key.expires_ms);
        let end = end.map_or(u64::MAX, |end_ms| end_ms / 1000);
        Ok(Self {
            iss: ISSUER.to_owned(),
            aud: audience(cluster),
            sub: user.to_owned(),
            jti: hex(&random::<16>()?),
            iat: now_s,
            exp: now_s.saturating_add(ttl_s).min(end),
            key: made_by.map(|key| key.id.clone()),
        })
    }
}

/// For whom a token of this cluster is.
fn audience(cluster: ClusterId) -> String {
    format!("ashlar:{cluster}")
}

/// A new key to sign with.
pub(crate) fn fresh_key(now_ms: u64) -> Result<SigningKeyRow, NoKey> {
    let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
    let id = hex(&random::<8>()?);
    let pair = private
        .ok()
        .and_then(|private| Some((Ed25519KeyPair::from_pkcs8(private.as_ref()).ok()?, private)));
    let (pair, private) = pair.ok_or_else(NoKey::unsigned)?;
    Ok(SigningKeyRow {
        id,
        created_ms: now_ms,
        private_key: Hidden(hex(private.as_ref())),
        public_key: hex(pair.public_key().as_ref()),
    })
}

impl NoKey {
    fn unsigned() -> Self {
        Self::because("there is no key to sign with")
    }
}

/// Signs a token that says so.
pub(crate) fn sign(key: &SigningKeyRow, claims: &Claims) -> Result<String, NoKey> {
    let header = Header {
        kid: Some(key.id.clone()),
        ..Header::new(Algorithm::EdDSA)
    };
    let private = unhex(&key.private_key.0).ok_or_else(NoKey::unsigned)?;
    let token = encode(&header, claims, &EncodingKey::from_ed_der(&private));
    token.map_err(|_| NoKey::unsigned())
}

/// What a token says, if that key has signed it for this cluster and it has not ended.
pub(crate) fn verify(
    cluster: ClusterId,
    key: &SigningKeyRow,
    token: &str,
) -> Result<Claims, AccessRefusal> {
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.leeway = 0;
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&[audience(cluster)]);
    rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let public = unhex(&key.public_key).ok_or(AccessRefusal::Wrong)?;
    let decoded = decode::<Claims>(token, &DecodingKey::from_ed_der(&public), &rules);
    decoded
        .map(|decoded| decoded.claims)
        .map_err(|error| refused(&error))
}

/// Why a token is not good, for who shows it: that it has ended, or nothing more.
pub(super) fn refused(error: &jsonwebtoken::errors::Error) -> AccessRefusal {
    match error.kind() {
        ErrorKind::ExpiredSignature => AccessRefusal::Expired,
        _ => AccessRefusal::Wrong,
    }
}

#[cfg(test)]
mod tests;
