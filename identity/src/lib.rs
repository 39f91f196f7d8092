//! Who is who in a cluster: its certificate authority, the certificates of nodes, join tokens, and TLS 1.3
//! that goes by them. No sockets, no HTTP; files only in [`IdentityDir`].
//!
//! Invariants:
//! - a private key is in a file that only its owner may read, and in no message;
//! - whoever is let in has shown a certificate of this cluster's authority that is neither expired nor
//!   denied, and that names a role which may come in there;
//! - what a certificate is replaced by is used by the next connection, without a restart.
//!
//! ```text
//! authority ── issues ─▶ certificate: ashlar://CLUSTER/ROLE/NAME
//!     ▲                        │ credentials (reload) ─┐
//! request (PKCS #10)           ▼                       ▼
//! token ── first contact   verify: chain, role, denied ─▶ config: rustls server and client
//! ```

mod authority;
mod config;
mod credentials;
mod denied;
mod directory;
mod name;
mod presented;
mod request;
mod token;
mod verify;

pub use authority::{Authority, AuthorityError, CERTIFICATE_TTL, Subject};
pub use config::{ConfigError, client_config, first_contact_config, server_config};
pub use credentials::{Credentials, CredentialsError};
pub use denied::Denied;
pub use directory::{DirectoryError, IdentityDir};
pub use name::{Identity, ParseIdentityError};
pub use presented::{Presented, PresentedError};
pub use request::{KeyAndRequest, RequestError};
pub use token::{JoinSecret, ParseTokenError, TokenText, sha256_digits as fingerprint};
pub use verify::Admission;
