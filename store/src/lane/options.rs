//! What a lane is tuned with.

use std::time::Duration;

/// How a lane uses its machine.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// Batches of one stream in flight before the next writes gather.
    pub batches_in_flight: usize,
    /// Most room that is given out, in bytes; a tenth of the lane never is.
    pub room_bytes_max: u64,
    /// Memory for the map, in bytes: the sweep keeps the overlay to half of it, writes wait while
    /// it has three quarters, leaves get what the overlay leaves. Root pages come beside it.
    pub map_bytes: usize,
    /// Most leaves to keep in memory, whatever there is for them.
    pub leaves_max: usize,
    /// Layers that a read may go through before what they have is kept side by side.
    pub strata_labels_min: usize,
    /// Log between two checkpoints, in bytes; none: by the size of the lane.
    pub checkpoint_bytes: Option<u64>,
    /// How long something new waits for a checkpoint at most.
    pub checkpoint_interval: Duration,
    /// How long a lane is idle after a flush before it logs what is durable.
    pub idle_after: Duration,
    #[cfg(test)]
    pub(crate) planted: crate::lane::planted::Planted,
    /// Of reads, the longest pause between looking up and reading.
    #[cfg(test)]
    pub(crate) read_pause: Duration,
    /// The longest pause before a leaf is read.
    #[cfg(test)]
    pub(crate) leaf_pause: Duration,
    /// The longest pause before the header of a segment is written.
    #[cfg(test)]
    pub(crate) header_pause: Duration,
    /// Recovery does not see some batches above this LSN and not among these, which were flushed:
    /// the device hides them once.
    #[cfg(test)]
    pub(crate) hide_above: Option<(ashlar_proto::Lsn, std::collections::BTreeSet<u64>)>,
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            batches_in_flight: 8,
            room_bytes_max: u64::MAX,
            map_bytes: 256 << 20,
            leaves_max: usize::MAX,
            strata_labels_min: 8,
            checkpoint_bytes: None,
            checkpoint_interval: Duration::from_secs(30),
            idle_after: Duration::from_millis(100),
            #[cfg(test)]
            planted: crate::lane::planted::Planted::NONE,
            #[cfg(test)]
            read_pause: Duration::ZERO,
            #[cfg(test)]
            leaf_pause: Duration::ZERO,
            #[cfg(test)]
            header_pause: Duration::ZERO,
            #[cfg(test)]
            hide_above: None,
        }
    }
}

impl LaneOptions {
    #[cfg(test)]
    pub(crate) fn planted(&self) -> crate::lane::planted::Planted {
        self.planted
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        reason = "builds with tests keep it in the options"
    )]
    pub(crate) fn planted(&self) -> crate::lane::planted::Planted {
        crate::lane::planted::Planted::NONE
    }
}
