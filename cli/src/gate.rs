//! From arguments to how a conductor lets others in.

use anyhow::Context;
use ashlar_conductor::{AccessOptions, AuthMode, Issuer};

use crate::args::GateArgs;

/// What the arguments say.
///
/// # Errors
/// A JWK set that cannot be read or has no key that can be used.
pub fn options(args: &GateArgs) -> anyhow::Result<AccessOptions> {
    let mut issuers = Vec::new();
    if let (Some(path), Some(issuer), Some(audience)) =
        (&args.jwt_keys, &args.jwt_issuer, &args.jwt_audience)
    {
        let named = || format!("--jwt-keys {}", path.display());
        let set = Issuer::from_file(issuer, audience, path.clone());
        issuers.push(set.with_context(named)?);
    }
    Ok(AccessOptions {
        mode: args.auth.into(),
        issuers,
        process_secret: None,
        audit_file: args.audit_log.clone(),
    })
}

/// Says what follows from that where it may surprise.
pub fn warn(options: &AccessOptions, listen: std::net::SocketAddr) {
    if listen.ip().is_loopback() {
        return;
    }
    match options.mode {
        AuthMode::Off => tracing::warn!(
            %listen,
            "whoever reaches the API is an admin: give --auth required, and keys to who needs them"
        ),
        AuthMode::LoopbackFree | AuthMode::Required => tracing::info!(
            %listen,
            "who reaches the API from another machine needs a key, a token or a certificate"
        ),
    }
}
