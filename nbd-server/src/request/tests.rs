//! Cases of `request`.
