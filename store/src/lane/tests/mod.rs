//! Tests of the whole lane on the simulated disk.

mod basics;
mod bench;
mod model;
mod property;
