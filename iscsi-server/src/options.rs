//! How a server is to run.

use crate::catalog::Portal;
use ashlar_front_end::Limits;

/// How a server is to run.
#[derive(Clone, Debug, Default)]
pub struct IscsiOptions {
    /// What clients may use up.
    pub limits: Limits,
    /// The addresses that initiators are told to connect to; none: the one that they came to.
    pub portals: Vec<Portal>,
}
