//! Log-structured lanes and the replica service over them.

mod ailing;
mod codec;
mod control;
pub mod disk;
mod disks;
mod gate;
mod health;
mod heard;
pub mod lane;
mod map_budget;
mod peers;
mod place;
mod pull;
mod replica;
mod report;
mod service;
mod session;
mod worker;

pub use control::{Applied, ControlError, Inventory, Refusal, Refused, StoreControl};
pub use map_budget::{LANE_MAP_BYTES_MIN, MapBudget};
pub use service::{
    CONNECTIONS_MAX, HELLO_WITHIN, StartStoreError, StoreHandle, StoreOptions, StoreService,
};
