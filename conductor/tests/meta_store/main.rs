//! The conformance suite of `MetaStore`: what any implementation must do, on each that there is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conductors;
mod etcd;
mod members;
mod redb;
mod secured;
mod suite;
