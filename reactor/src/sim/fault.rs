//! Faults to inject: by name from a test, or drawn from a seed's plan.
//!
//! Rates are per million events. A plan is drawn once per seed and switches whole families of
//! faults on or off (swarm testing): runs with few kinds of faults go deeper into each.

use std::ops::Range;
use std::time::Duration;

use super::rng::Rng;

/// Which requests a range fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAccess {
    /// Reads only: an unreadable sector.
    Read,
    /// Writes only.
    Write,
    /// Reads and writes.
    Both,
}

/// What is wrong with one disk. All is well by default.
#[derive(Clone, Debug, Default)]
pub struct DiskFaults {
    failing: Vec<(FaultAccess, Range<u64>)>,
    dead: bool,
    lose_next: u32,
    misdirect_to: Option<u64>,
    slow: Duration,
    /// Reads that fail with an IO error.
    pub read_error_per_million: u32,
    /// Writes that fail with an IO error, after any part of them was stored.
    pub write_error_per_million: u32,
    /// Writes that are acknowledged and never stored.
    pub lose_per_million: u32,
    /// Writes that are stored at another place of the first GiB.
    pub misdirect_per_million: u32,
    /// Page writes surviving a power loss that the first read does not show yet.
    pub hide_per_million: u32,
}

impl DiskFaults {
    /// Requests of this kind that touch `range` (in bytes) fail from now on.
    pub fn fail(&mut self, access: FaultAccess, range: Range<u64>) {
        self.failing.push((access, range));
    }

    /// The device fails every request from now on.
    pub fn die(&mut self) {
        self.dead = true;
    }

    /// The next `writes` writes are acknowledged and never stored.
    pub fn lose_writes(&mut self, writes: u32) {
        self.lose_next = writes;
    }

    /// The next write is stored at byte `offset` instead.
    pub fn misdirect_next(&mut self, offset: u64) {
        self.misdirect_to = Some(offset);
    }

    /// Each request takes this much longer from now on.
    pub fn slow_down(&mut self, by: Duration) {
        self.slow = by;
    }

    /// All is well again; what was damaged stays so.
    pub fn heal(&mut self) {
        *self = Self::default();
    }

    pub(super) fn delay(&self) -> Duration {
        self.slow
    }

    pub(super) fn fails(&self, access: FaultAccess, range: &Range<u64>, rng: &mut Rng) -> bool {
        let hit = |(kind, bad): &(FaultAccess, Range<u64>)| {
            (*kind == access || *kind == FaultAccess::Both)
                && bad.start < range.end
                && range.start < bad.end
        };
        let rate = match access {
            FaultAccess::Read => self.read_error_per_million,
            FaultAccess::Write | FaultAccess::Both => self.write_error_per_million,
        };
        self.dead || self.failing.iter().any(hit) || rng.chance(rate)
    }

    pub(super) fn loses(&mut self, rng: &mut Rng) -> bool {
        if self.lose_next > 0 {
            self.lose_next -= 1;
            return true;
        }
        rng.chance(self.lose_per_million)
    }

    pub(super) fn misdirects(&mut self, offset: u64, rng: &mut Rng) -> Option<u64> {
        let drawn = rng.chance(self.misdirect_per_million);
        let other = || (offset ^ (1 + rng.below(1 << 6)) << 12) & !0xfff;
        self.misdirect_to.take().or_else(|| drawn.then(other))
    }
}

/// What is wrong with the network. All is well by default: no loss, no resets.
#[derive(Clone, Copy, Debug)]
pub struct NetFaults {
    /// Shortest time that bytes travel.
    pub delay: Duration,
    /// Longest time beyond that.
    pub jitter: Duration,
    /// Pieces sent whose connection is reset instead.
    pub reset_per_million: u32,
    /// Connection attempts that are refused.
    pub refuse_per_million: u32,
    /// Pieces that are held up for a second, as a lost packet is.
    pub stall_per_million: u32,
}

impl Default for NetFaults {
    fn default() -> Self {
        Self {
            delay: Duration::from_micros(20),
            jitter: Duration::from_micros(60),
            reset_per_million: 0,
            refuse_per_million: 0,
            stall_per_million: 0,
        }
    }
}

/// The swarm options of one seed: which families of faults a run meets, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Whether disks have volatile caches.
    pub volatile_cache: bool,
    /// Whether processes crash (their disks' caches survive).
    pub process_crashes: bool,
    /// Whether hosts lose power.
    pub power_losses: bool,
    /// Whether hosts are cut off from each other.
    pub partitions: bool,
    /// Pieces sent whose connection is reset.
    pub reset_per_million: u32,
    /// Connection attempts that are refused.
    pub refuse_per_million: u32,
    /// Pieces that are held up for a second.
    pub stall_per_million: u32,
    /// Page writes that hide from the first read after a power loss.
    pub hide_per_million: u32,
    /// Longest jitter of the network.
    pub jitter: Duration,
    /// Mean virtual time between two faults.
    pub fault_interval: Duration,
}

impl Plan {
    /// Draws a plan: each family is on in about half of all seeds, and some seeds are calm.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let calm = rng.chance(100_000);
        let mut on = |per_million| !calm && rng.chance(per_million);
        let (process_crashes, power_losses, partitions) = (on(600_000), on(600_000), on(500_000));
        let (resets, refusals, stalls) = (on(300_000), on(300_000), on(300_000));
        let (hides, volatile_cache) = (on(500_000), on(600_000));
        let mut rate = |enabled: bool, most| {
            if enabled {
                narrow(rng.between(1, most))
            } else {
                0
            }
        };
        Self {
            volatile_cache,
            process_crashes,
            power_losses,
            partitions,
            reset_per_million: rate(resets, 300),
            refuse_per_million: rate(refusals, 200_000),
            stall_per_million: rate(stalls, 1_000),
            hide_per_million: rate(hides, 300_000),
            jitter: Duration::from_micros(rng.between(1, 2_000)),
            fault_interval: Duration::from_millis(rng.between(20, 2_000)),
        }
    }

    /// The network's part of the plan.
    #[must_use]
    pub fn net(&self) -> NetFaults {
        NetFaults {
            jitter: self.jitter,
            reset_per_million: self.reset_per_million,
            refuse_per_million: self.refuse_per_million,
            stall_per_million: self.stall_per_million,
            ..NetFaults::default()
        }
    }
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_differ_and_some_are_calm() {
        let plans: Vec<Plan> = (0..300).map(|s| Plan::draw(&mut Rng::new(s))).collect();
        let crashing = plans.iter().filter(|p| p.process_crashes).count();
        assert!((100..250).contains(&crashing), "{crashing}");
        let calm = |p: &&Plan| !p.process_crashes && !p.power_losses && !p.partitions;
        assert!(plans.iter().filter(calm).count() > 10);
    }

    #[test]
    fn range_faults_hit_what_touches_them() {
        let mut rng = Rng::new(0);
        let mut faults = DiskFaults::default();
        faults.fail(FaultAccess::Read, 4096..8192);
        assert!(faults.fails(FaultAccess::Read, &(0..4097), &mut rng));
        assert!(!faults.fails(FaultAccess::Read, &(0..4096), &mut rng));
        assert!(!faults.fails(FaultAccess::Write, &(0..8192), &mut rng));
        faults.die();
        assert!(faults.fails(FaultAccess::Write, &(0..0), &mut rng));
    }
}
