//! What an owner has seen: counts of what went wrong and was made good.

use std::cell::Cell;

/// How a volume fares, as its owner sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeHealth {
    /// Its shards.
    pub shards: u64,
    /// Shards with fewer live in-sync replicas than the volume asks for.
    pub shards_degraded: u64,
    /// Shards with too few live replicas to acknowledge.
    pub shards_unavailable: u64,
    /// Replicas proposed out of their in-sync set by this owner.
    pub replicas_dropped: u64,
    /// Answers that were damaged, failed their checksum, or showed what was never written.
    pub damage_seen: u64,
    /// Blocks written again where a copy was bad.
    pub blocks_repaired: u64,
    /// Reads that another replica had to answer.
    pub reads_retried: u64,
    /// Reads that were asked of another replica too because they took long.
    pub reads_hedged: u64,
    /// Whether unflushed writes of an earlier owner may be gone.
    pub may_have_lost: bool,
    /// Whether another owner has taken the volume.
    pub fenced: bool,
}

/// The counts, as they grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) replicas_dropped: Counter,
    pub(crate) damage_seen: Counter,
    pub(crate) blocks_repaired: Counter,
    pub(crate) reads_retried: Counter,
    pub(crate) reads_hedged: Counter,
}

/// One count.
#[derive(Debug, Default)]
pub(crate) struct Counter(Cell<u64>);

impl Counter {
    /// One more.
    pub(crate) fn add(&self) {
        self.0.set(self.0.get() + 1);
    }

    /// How many so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }
}
