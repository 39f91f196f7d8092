//! Cases of `reply`.
