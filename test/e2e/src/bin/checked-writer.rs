//! Writes a block device around the cache from several threads, reads back what it wrote, and tells how
//! long it ever stood still: what a guest runs while its paths come and go.
//!
//! `checked-writer DEVICE BYTES STOP` writes the first BYTES of the device until there is a file STOP,
//! then reads every block that it has written. It fails at the first error and at the first block that
//! holds anything else than what was written there last.
//!
//! Invariants: each thread has blocks of its own; a block has one request in flight at most, so that its
//! last write is known.

use anyhow::{Context, Result, ensure};
use nix::libc::O_DIRECT;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const THREADS: u64 = 32;
/// One block in so many is read back at once.
const READ_EVERY: u64 = 8;

/// What threads tell each other.
struct Shared {
    began: Instant,
    /// When the last request of any thread ended, in microseconds since the beginning.
    ended_us: AtomicU64,
    longest_pause_us: AtomicU64,
    longest_request_us: AtomicU64,
    requests: AtomicU64,
    /// A thread has failed: the others need not go on.
    failed: AtomicBool,
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Runs one request and counts it.
    fn timed(&self, request: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
        let began = self.now_us();
        let result = request();
        let now = self.now_us();
        let before = self.ended_us.fetch_max(now, Ordering::SeqCst);
        self.longest_pause_us
            .fetch_max(now.saturating_sub(before), Ordering::SeqCst);
        self.longest_request_us
            .fetch_max(now - began, Ordering::SeqCst);
        self.requests.fetch_add(1, Ordering::SeqCst);
        result
    }
}

/// A block of memory that direct IO takes.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new() -> Self {
        let bytes = vec![0; 2 * BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start }
    }

    fn block(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + BLOCK]
    }
}

/// The blocks of one thread, and what it wrote to each.
struct Region<'a> {
    file: &'a File,
    first: u64,
    /// The number of the last write to each block; 0: none.
    written: Vec<u64>,
    buffer: Aligned,
}

impl Region<'_> {
    fn offset(&self, block: usize) -> u64 {
        (self.first + block as u64) * BLOCK as u64
    }

    fn write(&mut self, shared: &Shared, block: usize, number: u64) -> Result<()> {
        let offset = self.offset(block);
        fill(self.buffer.block(), offset, number);
        let buffer = self.buffer.block();
        let written = shared.timed(|| self.file.write_all_at(buffer, offset));
        written.with_context(|| format!("writing at {offset}"))?;
        self.written[block] = number;
        Ok(())
    }

    fn check(&mut self, shared: &Shared, block: usize) -> Result<()> {
        let offset = self.offset(block);
        let number = self.written[block];
        let buffer = self.buffer.block();
        let read = shared.timed(|| self.file.read_exact_at(buffer, offset));
        read.with_context(|| format!("reading at {offset}"))?;
        let mut wanted = vec![0; BLOCK];
        fill(&mut wanted, offset, number);
        ensure!(
            *buffer == *wanted,
            "at {offset} there is {:x?}…, not write {number}",
            &buffer[..16]
        );
        Ok(())
    }

    /// Writes until told to stop, then checks all; gives how many blocks it checked.
    fn run(&mut self, shared: &Shared, stop: &Path) -> Result<u64> {
        // A walk over all blocks in no order that a disk likes; the step has no factor of any count
        // of blocks that is a power of two.
        let step = 1_000_003;
        let mut number = 0;
        while !stop.exists() && !shared.failed.load(Ordering::SeqCst) {
            number += 1;
            let block = usize::try_from(number * step % self.written.len() as u64)?;
            self.write(shared, block, number)?;
            if number % READ_EVERY == 0 {
                self.check(shared, block)?;
            }
        }
        let mut checked = 0;
        for block in 0..self.written.len() {
            if self.written[block] != 0 {
                self.check(shared, block)?;
                checked += 1;
            }
        }
        Ok(checked)
    }
}

/// What write `number` puts at `offset`.
fn fill(block: &mut [u8], offset: u64, number: u64) {
    let mut word = offset ^ number.rotate_left(32);
    for place in block.chunks_exact_mut(8) {
        place.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, bytes, stop] = arguments.as_slice() else {
        anyhow::bail!("usage: checked-writer DEVICE BYTES STOP");
    };
    let bytes: u64 = bytes.parse().context("BYTES")?;
    let stop = PathBuf::from(stop);
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(O_DIRECT);
    let file = options.open(device).with_context(|| device.clone())?;
    let blocks = bytes / BLOCK as u64 / THREADS;
    ensure!(blocks > 0, "{bytes} bytes are too few");
    let shared = Shared {
        began: Instant::now(),
        ended_us: AtomicU64::new(0),
        longest_pause_us: AtomicU64::new(0),
        longest_request_us: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    };
    let checked = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (file, shared, stop) = (&file, &shared, stop.as_path());
                scope.spawn(move || {
                    let mut region = Region {
                        file,
                        first: thread * blocks,
                        written: vec![0; usize::try_from(blocks)?],
                        buffer: Aligned::new(),
                    };
                    let result = region.run(shared, stop);
                    shared.failed.fetch_or(result.is_err(), Ordering::SeqCst);
                    result
                })
            })
            .collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().expect("it ends"));
        results.sum::<Result<u64>>()
    })?;
    println!(
        "{} requests, longest pause {:?}, longest request {:?}, {checked} blocks as written",
        shared.requests.load(Ordering::SeqCst),
        Duration::from_micros(shared.longest_pause_us.load(Ordering::SeqCst)),
        Duration::from_micros(shared.longest_request_us.load(Ordering::SeqCst)),
    );
    Ok(())
}
