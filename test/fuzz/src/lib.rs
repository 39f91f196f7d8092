//! Fuzzers for every parser of bytes from network or disk.
//!
//! In process, on stable, deterministic: a seed and a number of rounds name a run. Inputs are
//! mutated from a corpus; one that makes the code behave as none before joins the corpus for the
//! rest of the run. What a run finds is a panic, and its message holds the input.
//!
//! ```text
//! corpus ──▶ Mutator ──▶ Target::run ──▶ behaviour ── new? ──▶ corpus
//!                            └── panic ──▶ the input, in hex
//! ```

mod client;
mod corpus;
mod iscsi;
mod mutator;
mod nbd;
mod proto;
mod qcow2;
mod scsi;
mod store;
mod target;

pub use corpus::{from_hex, seeds_of, to_hex};
pub use mutator::Mutator;
pub use target::{Budget, Report, Target, fuzz, run_one};
