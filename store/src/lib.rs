//! Log-structured lanes and the replica service over them.

mod codec;
pub mod disk;
pub mod lane;
