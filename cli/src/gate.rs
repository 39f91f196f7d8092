//! From arguments to how a conductor lets others in.

use anyhow::Context;
use ashlar_conductor::{AccessOptions, AuthMode, ConnectionLimits, Issuer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

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
        limits: limits(args),
        audit_file: args.audit_log.clone(),
    })
}

/// How many may be connected, as far as this process may open files; it may open as many as the system lets it.
fn limits(args: &GateArgs) -> ConnectionLimits {
    let limits = ConnectionLimits {
        connections: args.connections_max.get(),
        of_address: args.connections_per_address.get(),
        ..ConnectionLimits::default()
    };
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return limits;
    };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let files = if raised { hard } else { soft };
    let fitting = limits.within_files(files);
    if fitting.connections < limits.connections {
        tracing::warn!(
            files,
            connections = fitting.connections,
            "the limit of open files (LimitNOFILE, ulimit -n) leaves room for fewer connections than \
             --connections-max"
        );
    }
    fitting
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
