//! One suite for everything a reactor promises, run over each driver.
//!
//! A test is an async function over a [`Lab`]; `suite!` makes it a test of its own under each of
//! `uring`, `aio` and `sim`. Where io_uring is not permitted, its tests say so and pass.

mod conformance {
    pub mod channels;
    pub mod disks;
    pub mod lab;
    pub mod streams;
    pub mod tasks;
    pub mod threads;
}
