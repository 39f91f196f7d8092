//! iSCSI front end over [`BlockDevice`](ashlar_client::BlockDevice): RFC 7143 in front of a SCSI
//! device server by SPC-4 and SBC-3.
//!
//! ```text
//! server ──▶ login ──▶ connection ──▶ session ──▶ scsi ──▶ BlockDevice
//!    │         │ negotiation │ framing   │ order     │ cdb, sense, inquiry, mode
//! sessions     │ chap, text  │ transfer  │ task      └ reservations, alua, copy
//!              └ discovery   └ pdu       └ management
//! ```
//!
//! `pdu`, `text`, `chap`, `order`, `transfer`, the negotiation in `login`, and all decoding
//! in `scsi` are pure; what comes from an initiator is checked there.

mod catalog;
mod chap;
mod connection;
mod discovery;
mod framing;
mod link;
mod login;
mod management;
mod options;
mod order;
mod parameters;
mod pdu;
mod scsi;
mod server;
mod session;
mod sessions;
mod standing;
mod task;
mod text;
mod transfer;
mod work;

pub use ashlar_front_end::Limits;
pub use catalog::{
    Access, Authentication, CatalogError, ChapSecret, Portal, Reservations, ReservationsError,
    ServerIdentity, TargetCatalog, TargetInfo, UnitInfo, Versioned,
};
pub use options::IscsiOptions;
pub use scsi::fuzz_scsi;
pub use scsi::reservations::{
    InitiatorPort, Registrant, Registrations, Reservation, ReservationType, TargetPort,
};
pub use server::IscsiServer;
pub use standing::{Mark, ServerPort, Standing, Taking, UnitOwner};
