//! How long the device takes: each read, write and flush is counted, and whether it was slow.

use std::cell::Cell;
use std::time::Duration;

use ashlar_reactor::{Instant, Reactor};

/// A request to the device that takes this long is slow, however busy it is: a hundred times what a
/// spinning disk takes for one, and less than what a drive spends on retries before it gives up.
pub const SLOW_IO: Duration = Duration::from_secs(2);

/// Requests to a device since a lane started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounts {
    /// Begun.
    pub begun: u64,
    /// Ended, well or not.
    pub ended: u64,
    /// Of these, the ones that took [`SLOW_IO`] or longer.
    pub slow: u64,
}

/// Counts a lane's requests.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    counts: Cell<IoCounts>,
}

impl Pace {
    pub(crate) fn counts(&self) -> IoCounts {
        self.counts.get()
    }

    /// A request begins; it ends when what this gives is dropped.
    pub(crate) fn begin<'a>(&'a self, reactor: &'a Reactor) -> Timed<'a> {
        let mut counts = self.counts.get();
        counts.begun += 1;
        self.counts.set(counts);
        Timed {
            pace: self,
            reactor,
            since: reactor.now(),
        }
    }
}

/// A request under way; one that its caller gives up has ended, too.
#[derive(Debug)]
pub(crate) struct Timed<'a> {
    pace: &'a Pace,
    reactor: &'a Reactor,
    since: Instant,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let mut counts = self.pace.counts.get();
        counts.ended += 1;
        counts.slow += u64::from(self.reactor.now() - self.since >= SLOW_IO);
        self.pace.counts.set(counts);
    }
}
