//! TLS 1.3 with pre-shared keys that come from outside (RFC 8446 section 4.2.11, RFC 9257), for
//! servers of block protocols; rustls has none, so that this is the system's OpenSSL.
//!
//! ```text
//! PskSource ──▶ PskKeys ──▶ PskServer ──▶ PskStream
//!  (a file)      keys         stream; absent, where it is built without the feature `psk`
//! ```
//!
//! Invariants: keys are used together with a Diffie-Hellman exchange, so what was recorded stays
//! secret when a key becomes known; a handshake that names nobody known goes on to the same check
//! with a key that nobody has, and ends in the same alert; no key is ever shown.

#[cfg(not(feature = "psk"))]
mod absent;
mod keys;
#[cfg(feature = "psk")]
mod stream;

use ashlar_reactor::NetError;
use std::sync::Arc;

#[cfg(not(feature = "psk"))]
pub use absent::{PskServer, PskStream};
pub use keys::{LineProblem, PskKeys, PskKeysError};
#[cfg(feature = "psk")]
pub use stream::{PskServer, PskStream};

/// Where a server finds out, at each handshake, who may come with which key.
pub trait PskSource: Send + Sync + 'static {
    /// The keys of now.
    fn keys(&self) -> Arc<PskKeys>;
}

/// Why TLS with a pre-shared key does not begin, or not go on. Names are as the client gave them,
/// escaped.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PskError {
    /// The program has no such TLS.
    #[error("this program is built without TLS by pre-shared keys (cargo feature `psk`)")]
    NotBuilt,
    /// OpenSSL does not take what it is set up with.
    #[error("OpenSSL refuses its settings: {0}")]
    SetUp(&'static str),
    /// The peer is gone without a good-bye.
    #[error("the peer closed the connection")]
    Closed,
    /// The network failed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Nobody of that name has a key.
    #[error("no client `{client}` is in the file of pre-shared keys")]
    UnknownClient {
        /// Who it says it is.
        client: String,
    },
    /// It has another key than the one of that name.
    #[error("client `{client}` does not have the pre-shared key of that name")]
    WrongKey {
        /// Who it says it is.
        client: String,
    },
    /// The handshake is none, or of another kind: an older version, certificates.
    #[error("handshake for a pre-shared key failed: {0}")]
    Handshake(&'static str),
    /// What came after the handshake is not what TLS sends.
    #[error("encrypted bytes are wrong: {0}")]
    Broken(&'static str),
}
