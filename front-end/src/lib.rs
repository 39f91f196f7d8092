//! What the servers of block protocols have in common: they listen, take requests in as long as
//! there is memory for them, carry many out at once and send many replies in one go.
//!
//! ```text
//! server ──▶ a task for each connection, by a Service of the protocol's crate
//!               input · budget ──▶ in_flight ──▶ outbox
//!                 └───── transport, tls, psk ──────┘
//! ```

mod budget;
mod in_flight;
mod input;
mod limits;
mod outbox;
mod psk;
mod server;
mod stop;
mod tls;
mod transport;

pub use budget::{Budget, Ration};
pub use in_flight::InFlight;
pub use input::Input;
pub use limits::Limits;
pub use outbox::{Done, Outbox};
pub use psk::{LineProblem, PskError, PskKeys, PskKeysError, PskServer, PskSource, PskStream};
pub use server::{Server, Service, Shared};
pub use stop::Stop;
pub use tls::{TlsConfigError, TlsServer, tls_config};
pub use transport::{Transport, TransportError};
