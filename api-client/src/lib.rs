//! The conductor's HTTP API as typed calls, for all that administer the cluster or serve in it.
//!
//! - Every call has a limit of its own; one whose answer was lost may have been carried out.
//! - A refusal keeps the conductor's [`Problem`](ashlar_proto::api::Problem): its code is stable, its
//!   detail is for people.

mod client;
mod tls;

pub use client::{ApiClient, ApiError, OWNER_WAIT, Token, VolumeFilter, VolumeKeys, root_cause};
pub use tls::identify;
