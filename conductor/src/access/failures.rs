//! How often wrong credentials may come: by address, and altogether.
//!
//! Each failure costs; what is spent comes back with time (a generic cell rate algorithm, as of ITU-T
//! I.371), and no more is ever owed than the burst, so that nobody waits longer than for one more try. What
//! all together may spend is charged by those alone whose keys are hashed: others cost nothing. Bounded in memory: when there are too many addresses, those that have recovered are
//! forgotten, then all, while the bound over all of them holds on.

use std::collections::HashMap;
use std::net::IpAddr;

/// Failures of one address that are let pass at once, and the time after which one more is.
const OF_ADDRESS: Rate = Rate {
    burst: 10,
    each_ms: 1000,
};

/// The same of all together.
const OF_ALL: Rate = Rate {
    burst: 60,
    each_ms: 100,
};

/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u64,
    each_ms: u64,
}

impl Rate {
    /// How long to wait until another failure is let pass, if that is not now.
    fn wait_ms(self, spent_until_ms: u64, now_ms: u64) -> Option<u64> {
        let allowed = now_ms.saturating_add((self.burst - 1) * self.each_ms);
        (spent_until_ms > allowed).then(|| spent_until_ms - allowed)
    }

    fn charge(self, spent_until_ms: u64, now_ms: u64) -> u64 {
        let most = now_ms.saturating_add(self.burst * self.each_ms);
        let spent = spent_until_ms.max(now_ms).saturating_add(self.each_ms);
        spent.min(most)
    }
}

/// The failures of late. Times are in milliseconds of any one clock.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    by_address: HashMap<IpAddr, u64>,
    all: u64,
}

impl Failures {
    /// How many seconds who asks from there has to wait before another wrong credential is looked at, if
    /// at all.
    pub(crate) fn wait_seconds(&self, from: IpAddr, now_ms: u64) -> Option<u64> {
        let own = self.by_address.get(&from);
        let own = own.and_then(|spent| OF_ADDRESS.wait_ms(*spent, now_ms));
        let wait = own.max(OF_ALL.wait_ms(self.all, now_ms))?;
        Some(wait.div_ceil(1000).max(1))
    }

    /// A secret from there is hashed, which may be wrong.
    pub(crate) fn charge_hashed(&mut self, from: IpAddr, now_ms: u64) {
        self.all = OF_ALL.charge(self.all, now_ms);
        self.charge_address(from, now_ms);
    }

    /// It was right.
    pub(crate) fn give_back(&mut self, from: IpAddr) {
        self.all = self.all.saturating_sub(OF_ALL.each_ms);
        if let Some(spent) = self.by_address.get_mut(&from) {
            *spent = spent.saturating_sub(OF_ADDRESS.each_ms);
        }
    }

    /// Something wrong came from there that cost nothing to refuse.
    pub(crate) fn charge_address(&mut self, from: IpAddr, now_ms: u64) {
        if self.by_address.len() >= ADDRESSES_MAX && !self.by_address.contains_key(&from) {
            self.by_address.retain(|_, spent| *spent > now_ms);
            if self.by_address.len() >= ADDRESSES_MAX {
                self.by_address.clear();
            }
        }
        let spent = self.by_address.entry(from).or_default();
        *spent = OF_ADDRESS.charge(*spent, now_ms);
    }
}

#[cfg(test)]
impl Failures {
    /// Whether that address was charged, and not given back.
    pub(super) fn owes(&self, from: IpAddr) -> bool {
        let spent = self.by_address.get(&from);
        spent.is_some_and(|spent| *spent > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn an_address_is_let_fail_some_times_and_then_once_a_second() {
        let mut failures = Failures::default();
        let (bad, good) = (address(1), address(2));
        for _ in 0..OF_ADDRESS.burst {
            assert_eq!(failures.wait_seconds(bad, 5), None);
            failures.charge_hashed(bad, 5);
        }
        assert_eq!(failures.wait_seconds(bad, 5), Some(1));
        assert_eq!(failures.wait_seconds(good, 5), None);
        assert_eq!(failures.wait_seconds(bad, 1005), None);
        failures.charge_hashed(bad, 1005);
        assert_eq!(failures.wait_seconds(bad, 1006), Some(1));
        assert_eq!(failures.wait_seconds(bad, 100_000), None);
    }

    #[test]
    fn a_flood_from_an_address_is_over_a_second_after_its_end_and_keeps_nobody_else_out() {
        let mut failures = Failures::default();
        for _ in 0..100_000 {
            failures.charge_address(address(1), 5);
        }
        assert_eq!(failures.wait_seconds(address(1), 5), Some(1));
        assert_eq!(failures.wait_seconds(address(1), 1005), None);
        assert_eq!(failures.wait_seconds(address(2), 5), None);
    }

    #[test]
    fn what_all_owe_is_no_more_than_one_try() {
        let mut failures = Failures::default();
        for number in 0..100_000 {
            failures.charge_hashed(address(number), 5);
        }
        assert_eq!(failures.wait_seconds(address(200_000), 5), Some(1));
        let later = 5 + OF_ALL.each_ms;
        assert_eq!(failures.wait_seconds(address(200_000), later), None);
    }

    #[test]
    fn what_was_right_costs_nothing() {
        let mut failures = Failures::default();
        for _ in 0..1000 {
            assert_eq!(failures.wait_seconds(address(1), 5), None);
            failures.charge_hashed(address(1), 5);
            failures.give_back(address(1));
        }
    }

    #[test]
    fn many_addresses_are_bounded_in_rate_and_in_memory() {
        let mut failures = Failures::default();
        let mut let_through = 0;
        for number in 0..100_000 {
            if failures.wait_seconds(address(number), 7).is_none() {
                let_through += 1;
            }
            failures.charge_hashed(address(number), 7);
            assert!(failures.by_address.len() <= ADDRESSES_MAX);
        }
        assert_eq!(let_through, OF_ALL.burst);
    }
}
