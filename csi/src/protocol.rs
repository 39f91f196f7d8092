//! The types and services that `build.rs` makes of the specification's `csi.proto`.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated; the specification documents it"
)]

tonic::include_proto!("csi.v1");
