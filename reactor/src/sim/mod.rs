//! The simulated driver: whole clusters in one thread, from one seed, in virtual time.
//!
//! A [`World`] holds hosts with disks, processes and a network. Each process has a [`Reactor`] of
//! its own, over the `sim` driver, and runs the same code as in production. Invariants: nothing in
//! a world depends on anything but its seed and the test that runs it, so one seed gives one trace
//! hash; disks outlive the processes that use them.
//!
//! ```text
//!  test future ── World::run ──► step: a turn of a process │ an event │ time jumps
//!                                       │                      │
//!                     Reactor ◄── completions ◄── disks, streams (device, net)
//! ```
//!
//! [`Reactor`]: crate::Reactor

mod clock;
mod core;
mod device;
mod disk;
mod driver;
pub mod fault;
mod media;
mod net;
mod rng;
mod trace;
mod world;

pub use device::DiskCounters;
pub use disk::{DiskSpec, SimDisk};
pub use media::{PAGE_BYTES, SECTOR_BYTES, pattern, pattern_of};
pub use rng::Rng;
pub use world::{Process, SimError, World};

#[cfg(test)]
mod tests;
