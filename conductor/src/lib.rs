//! Cluster state, placement, membership and the HTTP API.
//!
//! [`Conductor::start`] opens the metadata in a directory and serves `/v1` until
//! [`Conductor::shutdown`]. What it decides is pure (`state`, [`placement`], [`membership`]); what
//! it promises is in the [`MetaStore`] before it answers. See `docs/api.md` for the routes.

mod absence;
mod cluster;
mod conductor;
mod fills;
mod http;
mod live;
pub mod membership;
pub mod meta;
pub mod placement;
mod refusal;
mod row;
mod spell;
mod state;

pub use cluster::Timing;
pub use conductor::{Conductor, ConductorOptions, StartError};
pub use meta::MetaStore;
pub use meta::redb_store::RedbStore;
