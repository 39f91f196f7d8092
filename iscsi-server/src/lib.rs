//! iSCSI front end over [`BlockDevice`](ashlar_client::BlockDevice): RFC 7143 in front of a SCSI
//! device server by SPC-4 and SBC-3.
//!
//! ```text
//! server ──▶ login ──▶ connection ──▶ session ──▶ scsi ──▶ BlockDevice
//!              │ text     │ pdu          tasks      │ cdb, sense, inquiry, mode
//!              │ chap     └── front-end             └ reservations, alua, copy
//! ```
//!
//! `pdu`, `text`, the negotiation in `login`, and all decoding in `scsi` are pure; what comes from
//! an initiator is checked there.

mod catalog;
mod options;
mod scsi;
mod server;

pub use ashlar_front_end::Limits;
pub use catalog::{
    Access, Authentication, CatalogError, ChapSecret, Portal, Reservations, ReservationsError,
    TargetCatalog, TargetInfo, UnitInfo, Versioned,
};
pub use options::IscsiOptions;
pub use scsi::reservations::{
    InitiatorPort, Registrant, Registrations, Reservation, ReservationType, TargetPort,
};
pub use server::IscsiServer;
