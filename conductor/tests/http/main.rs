//! A conductor driven over real HTTP: volumes, stores, watches, restarts and requests gone wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod audit;
mod clients;
mod described;
mod drain;
mod groups;
mod heads;
mod healing;
mod maps;
mod once;
mod openapi;
mod owners;
mod pages;
mod problems;
mod projects;
mod publications;
mod rebalance;
mod recovery;
mod restart;
mod secured;
mod servers;
mod settings;
mod snapshots;
mod support;
mod targets;
mod volume_keys;
mod volumes;
mod watch;
