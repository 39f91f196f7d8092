//! The gate: from what a request shows to who asks, or why that one is not let in.
//!
//! Invariants:
//! - a credential that is given counts, also where none is needed; a wrong one lets nobody in;
//! - one key at a time is hashed, and none for an address that has failed too often: a flood of wrong
//!   keys costs a bounded part of one processor, and what costs nothing to refuse keeps nobody else out;
//! - a key that was hashed once is remembered, but whether it is good is looked up each time;
//! - who does not know the secret of a key does not learn whether it is revoked, expired or denied.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ashlar_proto::api::{Role, Secret};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::http::HeaderValue;
use jsonwebtoken::decode_header;

use super::caller::{Caller, Means};
use super::hashing::Hashing;
use super::issuers::{ForeignClaims, Issuer};
use super::keys::{self, KEY_PREFIX};
use super::tokens::{self, TOKEN_BYTES_MAX};
use super::{AccessOptions, AuthMode};
use crate::refusal::AccessRefusal;
use crate::row::{ApiKeyRow, UserRow};
use crate::state::ClusterState;

/// Where a request comes from, and what its connection has shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// The address, if it is known.
    pub(crate) address: Option<SocketAddr>,
    /// Who it is by its certificate, if it has shown one that is good: [`Caller::node`].
    pub(crate) certificate: Option<Caller>,
}

impl Peer {
    fn ip(&self) -> IpAddr {
        let ip = self.address.map(|address| address.ip());
        ip.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ip| ip.to_canonical())
    }

    fn is_loopback(&self) -> bool {
        self.ip().is_loopback()
    }
}

/// See the module.
pub(crate) struct Gate {
    mode: AuthMode,
    issuers: Vec<Issuer>,
    process_secret: Option<Secret>,
    hashing: Hashing,
}

/// What has to be known of the state to let somebody in. Short: it is held for no wait.
pub(crate) trait Known: Send + Sync {
    /// Looks at the state.
    fn look<T>(&self, look: impl FnOnce(&ClusterState) -> T) -> T;
}

impl Gate {
    pub(crate) fn new(options: &AccessOptions) -> Self {
        Self {
            mode: options.mode,
            issuers: options.issuers.clone(),
            process_secret: options.process_secret.clone(),
            hashing: Hashing::new(),
        }
    }

    /// Whether a key or token that is shown is looked at: a wrong one is refused then.
    pub(crate) fn looks_at_credentials(&self) -> bool {
        self.mode != AuthMode::Off
    }

    /// Who asks.
    ///
    /// # Errors
    /// [`AccessRefusal`]: nobody who is let in.
    pub(crate) async fn admit(
        &self,
        known: &impl Known,
        peer: &Peer,
        authorization: Option<&HeaderValue>,
    ) -> Result<Caller, AccessRefusal> {
        if self.mode == AuthMode::Off {
            return Ok(Caller::free(Means::Open));
        }
        let Some(authorization) = authorization else {
            return match &peer.certificate {
                Some(caller) => Ok(caller.clone()),
                None if self.mode == AuthMode::LoopbackFree && peer.is_loopback() => {
                    Ok(Caller::free(Means::Loopback))
                }
                None => Err(AccessRefusal::NotKnown),
            };
        };
        let admitted = match bearer(authorization) {
            Some(text) if self.is_of_process(text) => return Ok(Caller::free(Means::Process)),
            Some(key) if key.starts_with(KEY_PREFIX) => {
                return self.by_key(known, peer, key).await;
            }
            Some(token) => self.by_token(known, token),
            None => Err(AccessRefusal::Wrong),
        };
        if matches!(admitted, Err(AccessRefusal::Wrong)) {
            self.hashing.charge_address(peer.ip());
        }
        admitted
    }

    fn is_of_process(&self, text: &str) -> bool {
        let secret = self.process_secret.as_ref().map(Secret::reveal);
        let is_same = |own: &str| verify_slices_are_equal(own.as_bytes(), text.as_bytes()).is_ok();
        secret.is_some_and(is_same)
    }

    async fn by_key(
        &self,
        known: &impl Known,
        peer: &Peer,
        text: &str,
    ) -> Result<Caller, AccessRefusal> {
        let found = keys::parse(text).and_then(|(id, secret)| {
            let row = known.look(|state| state.access().key(id).cloned());
            Some((row?, secret))
        });
        let Some((row, secret)) = found else {
            self.hashing.charge_address(peer.ip());
            return Err(AccessRefusal::Wrong);
        };
        let mut seen = [0; 32];
        seen.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        let is_right = self.hashing.is_right(peer.ip(), seen, secret, &row.hash);
        if !is_right.await? {
            return Err(AccessRefusal::Wrong);
        }
        refuse_over(Some(&row))?;
        let user = known.look(|state| state.access().user(&row.user).cloned());
        let user = user.ok_or(AccessRefusal::Revoked)?;
        by_user(&user, Means::Key(row.id))
    }

    fn by_token(&self, known: &impl Known, token: &str) -> Result<Caller, AccessRefusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AccessRefusal::Wrong);
        }
        let header = decode_header(token).map_err(|_| AccessRefusal::Wrong)?;
        let id = header.kid.clone().unwrap_or_default();
        let own = known.look(|state| {
            let key = state.access().signing_key(&id)?;
            Some((state.cluster(), key.clone()))
        });
        let Some((cluster, key)) = own else {
            return self.by_foreign(known, &header, token);
        };
        let claims = tokens::verify(cluster, &key, token)?;
        known.look(|state| {
            let access = state.access();
            if let Some(id) = &claims.key {
                refuse_over(access.key(id))?;
            }
            let user = access.user(&claims.sub);
            let good = user.filter(|user| claims.iat >= user.tokens_since_s);
            match good {
                Some(user) if !access.is_revoked(&claims.jti) => {
                    by_user(user, Means::Token(claims.jti.clone()))
                }
                Some(_) => Err(AccessRefusal::Revoked),
                // Denied, or another user of that name now.
                None => match user {
                    Some(user) if user.denied => Err(denied(user)),
                    _ => Err(AccessRefusal::Revoked),
                },
            }
        })
    }

    fn by_foreign(
        &self,
        known: &impl Known,
        header: &jsonwebtoken::Header,
        token: &str,
    ) -> Result<Caller, AccessRefusal> {
        let mut refusal = AccessRefusal::Wrong;
        for issuer in &self.issuers {
            match issuer.verify(header, token) {
                Some(Ok(claims)) => return known.look(|state| by_claims(state, issuer, claims)),
                Some(Err(error)) => refusal = error,
                None => {}
            }
        }
        Err(refusal)
    }
}

/// The token of `Bearer TOKEN` (RFC 6750 section 2.1).
fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// Refuses a key that is good no more, and what was made with it.
fn refuse_over(key: Option<&ApiKeyRow>) -> Result<(), AccessRefusal> {
    match key {
        None => Err(AccessRefusal::Revoked),
        Some(key) if key.revoked_ms.is_some() => Err(AccessRefusal::Revoked),
        Some(key) if key.expires_ms.is_some_and(|end| end <= now_ms()) => {
            Err(AccessRefusal::Expired)
        }
        Some(_) => Ok(()),
    }
}

fn by_user(user: &UserRow, means: Means) -> Result<Caller, AccessRefusal> {
    if user.denied {
        return Err(denied(user));
    }
    Ok(Caller {
        name: user.name.clone(),
        means,
        role: user.role,
        projects: user.projects.clone(),
    })
}

fn denied(user: &UserRow) -> AccessRefusal {
    let user = user.name.clone();
    AccessRefusal::UserDenied { user }
}

/// Somebody whom another issuer vouches for. A denied user of that name is denied by whomever.
fn by_claims(
    state: &ClusterState,
    issuer: &Issuer,
    claims: ForeignClaims,
) -> Result<Caller, AccessRefusal> {
    let access = state.access();
    let user = access.user(&claims.sub);
    if let Some(user) = user.filter(|user| user.denied) {
        return Err(denied(user));
    }
    if user.is_some_and(|user| !outlasts_denial(user, claims.iat)) {
        return Err(AccessRefusal::Revoked);
    }
    let id = claims.jti.unwrap_or_default();
    if access.is_revoked(&id) {
        return Err(AccessRefusal::Revoked);
    }
    // Who serves shows a certificate or a key of this cluster.
    if matches!(claims.role, Role::Store | Role::FrontEnd) {
        return Err(AccessRefusal::Wrong);
    }
    let name: String = claims.sub.chars().take(128).collect();
    Ok(Caller {
        name: format!("{name} ({})", issuer.name()),
        means: Means::Token(id),
        role: claims.role,
        projects: claims.projects,
    })
}

/// Whether a token that another issuer has made at `iat` (RFC 7519 section 4.1.6) is of after the last
/// denial of that user. One that does not say when it was made is not, once there was a denial.
fn outlasts_denial(user: &UserRow, iat: Option<f64>) -> bool {
    let was_denied = user.tokens_since_s > user.created_ms / 1000;
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds since 1970 are exact for millions of years"
    )]
    let since = user.tokens_since_s as f64;
    !was_denied || iat.is_some_and(|iat| iat >= since)
}

/// Milliseconds since 1970-01-01 UTC; 0 where the clock says that it is earlier.
pub(crate) fn now_ms() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests;
