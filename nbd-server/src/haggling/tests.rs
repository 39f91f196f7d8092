//! Cases of `haggling`.
