//! A conductor driven over real HTTP: volumes, stores, watches, restarts and requests gone wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clients;
mod drain;
mod groups;
mod healing;
mod maps;
mod owners;
mod problems;
mod rebalance;
mod restart;
mod settings;
mod snapshots;
mod support;
mod targets;
mod volumes;
mod watch;
