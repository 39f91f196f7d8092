//! The machine's clocks and its randomness.

use crate::Instant;
use std::cell::Cell;

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for the kernel to write; both clocks used here always exist.
    unsafe {
        libc::clock_gettime(clock, &raw mut time);
    }
    time
}

/// The monotonic clock: since boot, so that all reactors of a machine agree. It counts the time that
/// the machine was suspended, too: a lease does not outlive it.
pub(crate) fn now() -> Instant {
    let time = read(libc::CLOCK_BOOTTIME);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}

/// Milliseconds since 1970.
pub(crate) fn wall_clock_ms() -> u64 {
    let time = read(libc::CLOCK_REALTIME);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let millis = u64::try_from(time.tv_nsec / 1_000_000).unwrap_or(0);
    seconds * 1000 + millis
}

/// Random numbers from the kernel, drawn in batches.
#[derive(Default)]
pub(crate) struct Randomness {
    batch: Cell<[u64; 16]>,
    left: Cell<usize>,
}

impl Randomness {
    pub(crate) fn next(&self) -> u64 {
        if self.left.get() == 0 {
            self.batch.set(draw());
            self.left.set(16);
        }
        let left = self.left.get() - 1;
        self.left.set(left);
        self.batch.get()[left]
    }
}

fn draw() -> [u64; 16] {
    let mut batch = [0u64; 16];
    let bytes = size_of_val(&batch);
    loop {
        // SAFETY: the batch is writable for `bytes`; any bits make valid numbers.
        let got = unsafe { libc::getrandom(batch.as_mut_ptr().cast(), bytes, 0) };
        // Requests up to 256 bytes are never cut short once the pool is ready.
        if usize::try_from(got) == Ok(bytes) {
            return batch;
        }
    }
}
