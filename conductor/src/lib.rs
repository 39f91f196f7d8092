//! Cluster state, placement, membership and the HTTP API.
//!
//! [`Conductor::start`] opens the metadata in a directory and serves `/v1` until
//! [`Conductor::shutdown`]. What it decides is pure (`state`, [`placement`], [`membership`]); what
//! it promises is in the [`MetaStore`] before it answers. See `docs/api.md` for the routes.
//!
//! [`Cluster`] is what lies behind the routes, over any [`MetaStore`] and [`Runtime`].

mod absence;
mod access;
mod asking;
mod audit_file;
mod audited;
mod bells;
mod cluster;
mod conductor;
mod events;
mod evidence;
mod fills;
mod gauges;
mod holds;
mod http;
mod inventories;
mod levels;
mod live;
mod looks;
pub mod membership;
pub mod meta;
pub mod placement;
mod recovery;
mod refusal;
mod row;
mod runtime;
mod selector;
mod settings;
mod spell;
mod state;
mod tasks;
mod tls;
pub mod upkeep;

pub use access::{AccessOptions, AuthMode, Issuer, IssuerError};
pub use cluster::{Cluster, ClusterError, ClusterOptions, Timing};
pub use conductor::{Conductor, ConductorOptions, StartError};
pub use gauges::{Gauges, Observer, Tally};
pub use http::listener::ConnectionLimits;
pub use http::server::serve_plain;
pub use meta::MetaStore;
pub use meta::etcd_store::{EtcdError, EtcdOptions, EtcdStore};
pub use meta::redb_store::RedbStore;
pub use refusal::{
    AccessRefusal, ConditionRefusal, DiskRefusal, GroupRefusal, IdentityRefusal, InvalidRequest,
    InvalidTarget, NodeRefusal, Refusal, ReservationsRefusal, ResizeRefusal, SnapshotRefusal,
    SpaceRefusal, TargetRefusal, TaskRefusal, VolumeRefusal,
};
pub use row::RowError;
pub use runtime::{Runtime, TokioRuntime, Work};
pub use tls::ConductorTls;
