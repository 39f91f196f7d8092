//! How a server is to run: TLS and limits.

use ashlar_front_end::Limits;
use rustls::ServerConfig;
use std::sync::Arc;

/// Whether connections are encrypted.
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// Never.
    #[default]
    Off,
    /// If the client asks for it.
    Allow(Arc<ServerConfig>),
    /// Always: a client that does not ask is told to, and gets nothing else.
    Require(Arc<ServerConfig>),
}

impl Tls {
    pub(crate) fn config(&self) -> Option<&Arc<ServerConfig>> {
        match self {
            Self::Off => None,
            Self::Allow(config) | Self::Require(config) => Some(config),
        }
    }
}

/// How a server is to run.
#[derive(Clone, Debug, Default)]
pub struct NbdOptions {
    /// Encryption.
    pub tls: Tls,
    /// What clients may use up.
    pub limits: Limits,
}
