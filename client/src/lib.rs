//! `BlockDevice` and its one great implementation: `Volume`, the owner that orders the writes of a
//! volume, fans them out to its replicas and checks what it reads.

pub mod block_device;
pub mod conformance;
mod memory;
mod range;

pub use block_device::{BlockDevice, BlockError, Durability, Geometry, ZeroMode};
pub use memory::MemoryDevice;
