//! End-to-end tests: real processes, real clients.
//!
//! The library is the harness; each file of `tests/` is one part of what Ashlar must show. Every
//! process that a test starts is in a process group of its own and dies with the test's thread, and
//! every wait has a limit.

pub mod binary;
pub mod cluster;
pub mod conductors;
pub mod csi;
pub mod filler;
pub mod garbage;
pub mod guest;
pub mod image;
pub mod inspect;
pub mod iscsi;
pub mod ledger;
pub mod manifests;
pub mod namespaces;
pub mod nbd;
pub mod orchestrator;
pub mod process;
pub mod raw_disk;
pub mod secured;
pub mod tool;

pub use cluster::{Cluster, ClusterOptions};
pub use guest::Guest;
pub use process::Service;
pub use secured::Secured;
pub use tool::{Finished, Tool};
