//! Who asks, and whether that one may: callers, the table of routes, keys and tokens, and the gate that
//! lets them in.
//!
//! Invariants: what is not in the table takes an admin; a credential that is given and not good lets
//! nobody in, whatever else would; nothing here prints a secret.

pub(crate) mod caller;
pub(crate) mod failures;
pub(crate) mod gate;
mod hashing;
pub(crate) mod issuers;
mod key_sets;
pub(crate) mod keys;
pub(crate) mod routes;
pub(crate) mod tokens;

use std::path::PathBuf;

use ashlar_proto::api::Secret;

use crate::http::listener::ConnectionLimits;

pub use issuers::{Issuer, IssuerError};

/// Who has to say who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// Everybody.
    Required,
    /// Everybody but who is on this machine: that one is an admin.
    #[default]
    LoopbackFree,
    /// Nobody: whoever reaches the API is an admin.
    Off,
}

/// How a conductor lets others in, and what it writes down of that.
#[derive(Clone, Debug, Default)]
pub struct AccessOptions {
    /// Who has to say who it is.
    pub mode: AuthMode,
    /// Others whose tokens count.
    pub issuers: Vec<Issuer>,
    /// What other parts of this process show: they are admins by it.
    pub process_secret: Option<Secret>,
    /// How many may be connected.
    pub limits: ConnectionLimits,
    /// A file that each entry of the audit log is appended to.
    pub audit_file: Option<PathBuf>,
}
