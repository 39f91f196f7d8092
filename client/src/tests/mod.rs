//! The owner against stores in memory, in a simulated world: the rules of replication.md one by
//! one, and random runs.

mod chaos;
mod cluster;
mod damage;
mod holds;
mod idle;
mod replica;
mod scenarios;
mod scrub;
mod trouble;
