//! How a server is to run: TLS and limits.

use ashlar_front_end::{Limits, TlsServer};

/// Whether connections are encrypted.
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// Never.
    #[default]
    Off,
    /// If the client asks for it.
    Allow(TlsServer),
    /// Always: a client that does not ask is told to, and gets nothing else.
    Require(TlsServer),
}

impl Tls {
    pub(crate) fn server(&self) -> Option<&TlsServer> {
        match self {
            Self::Off => None,
            Self::Allow(server) | Self::Require(server) => Some(server),
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
