//! Times in buckets whose bounds grow by halves: 1 µs, 1.5, 2, 3, 4, 6 … up to half a minute.
//!
//! Two buckets an octave keep a quantile within a quarter of what it is, and a histogram in half a KiB.

use std::time::Duration;

use super::Count;

/// Octaves from 1.024 µs on.
const OCTAVES: usize = 25;

/// The first bound, as a power of two of nanoseconds.
const FIRST_BITS: u32 = 10;

/// Buckets with a bound; what is longer counts in one more.
pub const BUCKETS: usize = 2 * OCTAVES;

/// Times, counted by one thread and read by any.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Count; BUCKETS + 1],
    sum_ns: Count,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Count::default()),
            sum_ns: Count::default(),
        }
    }
}

/// The bucket of a time: the first whose bound is not below it.
fn bucket_of(ns: u64) -> usize {
    let first = 1 << FIRST_BITS;
    if ns <= first {
        return 0;
    }
    // Of ns − 1, for a bound belongs to the bucket that it ends.
    let below = ns - 1;
    let bits = below.ilog2();
    let is_upper_half = (below >> (bits - 1)) & 1 == 1;
    let octave = usize::try_from(bits - FIRST_BITS).unwrap_or(usize::MAX);
    (1 + 2 * octave + usize::from(is_upper_half)).min(BUCKETS)
}

/// The longest time of a bucket, in nanoseconds; none of the last, which is unbounded.
#[must_use]
pub fn upper_bound_ns(bucket: usize) -> Option<u64> {
    if bucket >= BUCKETS {
        return None;
    }
    let octave = 1_u64 << (usize::try_from(FIRST_BITS).unwrap_or_default() + bucket / 2);
    Some(if bucket.is_multiple_of(2) {
        octave
    } else {
        octave + octave / 2
    })
}

impl Histogram {
    /// Counts one.
    pub fn note(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].add(1);
        self.sum_ns.add(ns);
    }

    /// As it is.
    #[must_use]
    pub fn read(&self) -> Times {
        Times {
            buckets: self.buckets.iter().map(Count::get).collect(),
            sum_ns: self.sum_ns.get(),
        }
    }
}

/// What a histogram held at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Each bucket without those below; empty, or one more than there are bounds.
    buckets: Vec<u64>,
    sum_ns: u64,
}

impl Times {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The buckets in order, each without those below, the last without a bound.
    #[must_use]
    pub fn buckets(&self) -> &[u64] {
        &self.buckets
    }

    /// Takes over those of another.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (own, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *own += more;
        }
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        self.read() == other.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_grow_by_halves() {
        let bounds: Vec<u64> = (0..6).filter_map(upper_bound_ns).collect();
        assert_eq!(bounds, [1024, 1536, 2048, 3072, 4096, 6144]);
        assert_eq!(upper_bound_ns(BUCKETS), None);
        assert!(upper_bound_ns(BUCKETS - 1) > Some(25_000_000_000));
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_that_it_ends() {
        for bucket in 0..BUCKETS {
            let bound = upper_bound_ns(bucket).unwrap();
            assert_eq!(bucket_of(bound), bucket, "{bound}");
            assert_eq!(bucket_of(bound + 1), bucket + 1, "{bound}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS);
        assert_eq!(bucket_of(0), 0);
    }

    proptest! {
        #[test]
        fn every_time_lies_within_its_bucket(ns in 0..u64::MAX / 2) {
            let bucket = bucket_of(ns);
            if let Some(bound) = upper_bound_ns(bucket) {
                prop_assert!(ns <= bound);
            }
            if let Some(below) = bucket.checked_sub(1).and_then(upper_bound_ns) {
                prop_assert!(ns > below);
            }
        }
    }
}
