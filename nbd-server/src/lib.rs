//! NBD front end over [`BlockDevice`](ashlar_client::BlockDevice): the fixed newstyle protocol of
//! doc/proto.md of the NBD project, with structured replies, metadata contexts, extended headers
//! and TLS.
//!
//! ```text
//! server ──▶ handshake ──▶ session ──▶ execute ──▶ BlockDevice
//!               │ haggling    │ request     reply
//!               │ contexts    │
//!               └──────── front-end ───────┘
//! ```
//!
//! `haggling`, `contexts`, `request` and `reply` are pure; what comes from a client is checked there.

mod catalog;
mod contexts;
mod execute;
mod haggling;
mod handshake;
mod options;
mod reply;
mod request;
mod server;
mod session;
mod wire;

pub use ashlar_front_end::{
    Limits, PskError, PskKeys, PskKeysError, PskServer, PskSource, TlsConfigError, TlsServer,
    tls_config,
};
pub use catalog::{ChangesError, ExportCatalog, ExportDevice, ExportInfo, OpenError};
pub use options::{NbdOptions, Tls};
pub use server::NbdServer;
