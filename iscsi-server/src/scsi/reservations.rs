//! Persistent reservations (SPC-4 section 5.13): who is registered, who reserves, and what that
//! leaves to others.

mod state;

pub use state::{
    InitiatorPort, Registrant, Registrations, Reservation, ReservationType, TargetPort,
};
