//! How often wrong credentials may come: by address, and altogether.
//!
//! Each failure costs; what is spent comes back with time (a generic cell rate algorithm, as of ITU-T
//! I.371). Bounded in memory: when there are too many addresses, those that have recovered are
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
        spent_until_ms.max(now_ms).saturating_add(self.each_ms)
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

    /// A wrong credential came from there.
    pub(crate) fn charge(&mut self, from: IpAddr, now_ms: u64) {
        self.all = OF_ALL.charge(self.all, now_ms);
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
            failures.charge(bad, 5);
        }
        assert_eq!(failures.wait_seconds(bad, 5), Some(1));
        assert_eq!(failures.wait_seconds(good, 5), None);
        assert_eq!(failures.wait_seconds(bad, 1005), None);
        failures.charge(bad, 1005);
        assert_eq!(failures.wait_seconds(bad, 1006), Some(1));
        assert_eq!(failures.wait_seconds(bad, 100_000), None);
    }

    #[test]
    fn many_addresses_are_bounded_in_rate_and_in_memory() {
        let mut failures = Failures::default();
        let mut let_through = 0;
        for number in 0..100_000 {
            if failures.wait_seconds(address(number), 7).is_none() {
                let_through += 1;
            }
            failures.charge(address(number), 7);
            assert!(failures.by_address.len() <= ADDRESSES_MAX);
        }
        assert_eq!(let_through, OF_ALL.burst);
    }
}
