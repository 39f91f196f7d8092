//! Persistent reservations (SPC-4 section 5.13): who is registered, who reserves, and what that
//! leaves to others.

/// The registrations of a logical unit, and its reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registrations {}
