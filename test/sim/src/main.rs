//! Deterministic simulation of lanes and clusters.

fn main() {}
