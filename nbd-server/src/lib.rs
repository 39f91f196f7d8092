//! NBD front end over [`BlockDevice`](ashlar_client::BlockDevice): the fixed newstyle protocol of
//! doc/proto.md of the NBD project, with structured replies, metadata contexts, extended headers
//! and TLS.
//!
//! ```text
//! server ──▶ handshake ──▶ session ──▶ execute ──▶ BlockDevice
//!               │ haggling    │ request     reply
//!               │ contexts    │
//!               └──── input, transport, tls ────┘ outbox, budget
//! ```
//!
//! `haggling`, `contexts`, `request` and `reply` are pure; what comes from a client is checked there.

mod budget;
mod catalog;
mod contexts;
mod execute;
mod haggling;
mod handshake;
mod in_flight;
mod input;
mod options;
mod outbox;
mod reply;
mod request;
mod server;
mod session;
mod stop;
mod tls;
mod transport;
mod wire;

pub use catalog::{ChangesError, ExportCatalog, ExportDevice, ExportInfo, OpenError};
pub use options::{Limits, NbdOptions, Tls};
pub use server::NbdServer;
pub use tls::{TlsConfigError, tls_config};
