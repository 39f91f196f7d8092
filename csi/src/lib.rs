//! The Container Storage Interface, version 1.13: what lets Kubernetes and others make volumes, attach
//! them to hosts and mount them.
//!
//! - The conductor's rows are the truth: what the driver keeps in memory may be lost at any moment.
//! - Every call can be repeated, after any crash, and comes to the same end.
//! - Calls for one volume go one after the other; the second is told what is pending.
//!
//! ```text
//! CO ── gRPC ── identity
//!               controller, group controller ── api-client ── conductor
//!               snapshot metadata ── api-client, and block maps that its user reads
//!               node ── attacher (a block device), file systems, mounts
//! ```

mod attacher;
mod capability;
mod command;
mod controller;
mod file_system;
mod group;
mod handle;
mod identity;
mod in_progress;
mod mount_table;
mod names;
mod netlink;
mod node;
mod node_id;
mod pages;
mod parameters;
mod protocol;
mod publish_context;
mod refusal;
mod server;
mod sizes;
mod snapshot_metadata;
mod topology;

pub use attacher::{Attach, Attacher, ByWay, Export, FuseLoop, Iscsi, NbdKernel, NbdServer};
pub use handle::VolumeHandle;
pub use identity::DRIVER_NAME;
pub use node_id::{NodeName, NodeNameError};
pub use server::{ControllerOptions, DriverOptions, NodeOptions, ServeError, serve};
pub use snapshot_metadata::{BlockMaps, ByteRange, MapError, MapPiece, MapQuestion};
pub use topology::{NodeLabels, NodeLabelsError, NodeTopology};
