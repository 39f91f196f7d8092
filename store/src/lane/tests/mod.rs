//! Tests of the whole lane on the simulated disk.

mod basics;
mod bench;
mod damage;
mod layers_bench;
mod map_memory;
mod model;
mod property;
mod reserve;
mod scale;
