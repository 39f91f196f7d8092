//! How long the device takes: each read, write and flush is counted, and whether it was slow.

use std::cell::Cell;
use std::time::Duration;

use ashlar_reactor::{Instant, Reactor};

/// A request to the device that takes this long is slow, if it did not wait behind many others: a
/// hundred times what a spinning disk takes for one, and less than what a drive spends on retries
/// before it gives up.
pub const SLOW_IO: Duration = Duration::from_secs(2);

/// Requests that may be under way when one begins that is judged: behind more of them a sound disk
/// takes long, too.
const BEFORE_MAX: u64 = 8;

/// Requests to a device since a lane started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounts {
    /// Begun.
    pub begun: u64,
    /// Ended, well or not.
    pub ended: u64,
    /// Of these, the ones that took [`SLOW_IO`] or longer although few were under way before them.
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
        let before = counts.begun - counts.ended;
        counts.begun += 1;
        self.counts.set(counts);
        Timed {
            pace: self,
            reactor,
            since: reactor.now(),
            is_judged: before <= BEFORE_MAX,
        }
    }
}

/// A request under way; one that its caller gives up has ended, too.
#[derive(Debug)]
pub(crate) struct Timed<'a> {
    pace: &'a Pace,
    reactor: &'a Reactor,
    since: Instant,
    is_judged: bool,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let mut counts = self.pace.counts.get();
        counts.ended += 1;
        let is_slow = self.is_judged && self.reactor.now() - self.since >= SLOW_IO;
        counts.slow += u64::from(is_slow);
        self.pace.counts.set(counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_reactor::sim::World;
    use std::net::{IpAddr, Ipv4Addr};

    /// A deep queue on a spinning disk takes seconds, and nothing is wrong with it.
    #[test]
    fn who_waits_behind_many_is_not_slow() {
        let world = World::new(7);
        let process = world.process("store", IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        let (pace, reactor) = (Pace::default(), process.reactor());
        let all: Vec<Timed<'_>> = (0..100).map(|_| pace.begin(reactor)).collect();
        world.run_for(SLOW_IO);
        drop(all);
        let counts = pace.counts();
        assert_eq!((counts.begun, counts.ended), (100, 100));
        assert_eq!(counts.slow, BEFORE_MAX + 1);
        drop(pace.begin(reactor));
        assert_eq!(pace.counts().slow, BEFORE_MAX + 1);
    }
}
