//! Persistent reservations (SPC-4 section 5.13): who is registered, who reserves, and what that
//! leaves to others.
//!
//! Pure: a state machine over [`Registrations`], a plain value that a catalog keeps.
//!
//! ```text
//! PERSISTENT RESERVE OUT ─parameters─▶ Action ─apply─▶ Registrations + Effects
//! PERSISTENT RESERVE IN  ◀──reports── Registrations ──permits──▶ what others may do
//! ```

pub(crate) mod actions;
mod apply;
mod elsewhere;
pub(crate) mod parameters;
mod permits;
pub(crate) mod reports;
mod state;
pub(crate) mod transport_id;

#[cfg(test)]
mod tests;

pub(crate) use apply::apply;
pub(crate) use elsewhere::told_elsewhere;
pub(crate) use permits::{Permits, permits};
pub use state::{
    InitiatorPort, Registrant, Registrations, Reservation, ReservationType, TargetPort,
};
