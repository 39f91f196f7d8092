//! A writer that may be told that there is no space, and knows what it has left where.
//!
//! Invariant: a write that was refused has changed nothing; anything but success and ENOSPC is a
//! failure of the test.

use crate::ledger::{BLOCK, Content, Random, pattern, recognise};
use crate::nbd::{Command, NbdClient};
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What NBD says where there is no space.
pub const ENOSPC: u32 = 28;
/// Blocks that are read at once.
const READ_BLOCKS: u64 = 256;

/// What came of some writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Answered with success.
    pub written: u64,
    /// Answered with ENOSPC.
    pub refused: u64,
    /// The longest that an answer took.
    pub longest: Duration,
}

/// The writer and what each block holds.
#[derive(Debug)]
pub struct Filler {
    contents: Vec<Content>,
    version: u64,
    random: Random,
    /// Blocks written in all; others may look at it meanwhile.
    pub written: Arc<AtomicU64>,
}

impl Filler {
    /// For a volume of so many blocks, all of them zeroes.
    #[must_use]
    pub fn new(blocks: u64, seed: u64) -> Self {
        let blocks = usize::try_from(blocks).expect("a test's volume fits");
        Self {
            contents: vec![Content::Zero; blocks],
            version: 0,
            random: Random(seed),
            written: Arc::default(),
        }
    }

    /// Blocks that hold data.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        let data = self.contents.iter().filter(|held| **held != Content::Zero);
        data.count() as u64
    }

    /// What the blocks hold now, to compare a snapshot with later.
    #[must_use]
    pub fn contents(&self) -> Vec<Content> {
        self.contents.clone()
    }

    /// Writes the spans of blocks that `next` gives, `depth` at a time, until it gives none or one
    /// was refused. One that overlaps another in flight is left out.
    ///
    /// # Errors
    ///
    /// If one fails with anything but ENOSPC.
    pub fn write(
        &mut self,
        client: &mut NbdClient,
        depth: usize,
        mut next: impl FnMut(&mut Random) -> Option<(u64, u64)>,
    ) -> Result<Outcome> {
        let mut in_flight: HashMap<u64, (u64, u64, Instant)> = HashMap::new();
        let mut outcome = Outcome::default();
        let mut is_over = false;
        loop {
            while !is_over && in_flight.len() < depth {
                let Some((first, blocks)) = next(&mut self.random) else {
                    is_over = true;
                    break;
                };
                let overlaps = |(other, count, _): &(u64, u64, Instant)| {
                    first < other + count && *other < first + blocks
                };
                if in_flight.values().any(overlaps) {
                    continue;
                }
                self.version += 1;
                let content = Content::Version(self.version);
                let data: Vec<u8> = (first..first + blocks)
                    .flat_map(|block| pattern(block, content))
                    .collect();
                in_flight.insert(self.version, (first, blocks, Instant::now()));
                let length = u32::try_from(data.len())?;
                let offset = first * BLOCK as u64;
                client.submit(Command::Write, self.version, offset, length, &data)?;
            }
            if in_flight.is_empty() {
                return Ok(outcome);
            }
            let (reply, _) = client.reply(|_| 0)?;
            let answered = in_flight.remove(&reply.cookie);
            let (first, blocks, sent_at) = answered.context("an answer to nothing")?;
            outcome.longest = outcome.longest.max(sent_at.elapsed());
            match reply.error {
                0 => {
                    outcome.written += 1;
                    self.written.fetch_add(blocks, Ordering::Relaxed);
                    self.note(first, blocks, Content::Version(reply.cookie))?;
                }
                ENOSPC => {
                    outcome.refused += 1;
                    is_over = true;
                }
                error => bail!(
                    "a write of {blocks} blocks at {first} failed with error {error} after {:?}",
                    sent_at.elapsed()
                ),
            }
        }
    }

    /// Writes the blocks from `first` to `end`, `step` at a time, until one is refused.
    ///
    /// # Errors
    ///
    /// As [`Filler::write`].
    pub fn write_through(
        &mut self,
        client: &mut NbdClient,
        (depth, step): (usize, u64),
        (first, end): (u64, u64),
    ) -> Result<Outcome> {
        let mut at = first;
        self.write(client, depth, |_| {
            let blocks = step.min(end - at);
            at += blocks;
            (blocks > 0).then_some((at - blocks, blocks))
        })
    }

    /// Writes `count` single blocks at random below `end`, until one is refused.
    ///
    /// # Errors
    ///
    /// As [`Filler::write`].
    pub fn overwrite(
        &mut self,
        client: &mut NbdClient,
        depth: usize,
        end: u64,
        count: u64,
    ) -> Result<Outcome> {
        let mut left = count;
        self.write(client, depth, |random| {
            left = left.checked_sub(1)?;
            Some((random.below(end), 1))
        })
    }

    /// Trims blocks; they read as zeroes from then on.
    ///
    /// # Errors
    ///
    /// If it fails, in whatever way.
    pub fn trim(&mut self, client: &mut NbdClient, (first, end): (u64, u64)) -> Result<()> {
        let length = u32::try_from((end - first) * BLOCK as u64)?;
        let error = client.call(Command::Trim, first * BLOCK as u64, length, &[])?;
        ensure!(error == 0, "a trim failed with error {error}");
        self.note(first, end - first, Content::Zero)
    }

    fn note(&mut self, first: u64, blocks: u64, content: Content) -> Result<()> {
        let first = usize::try_from(first)?;
        let blocks = usize::try_from(blocks)?;
        self.contents[first..first + blocks].fill(content);
        Ok(())
    }

    /// Compares all blocks with what they must hold.
    ///
    /// # Errors
    ///
    /// If one holds anything else, or a read fails.
    pub fn verify(&self, client: &mut NbdClient) -> Result<()> {
        verify(client, &self.contents)
    }
}

/// Compares the first blocks of an export with what they must hold.
///
/// # Errors
///
/// If one holds anything else, or a read fails.
pub fn verify(client: &mut NbdClient, contents: &[Content]) -> Result<()> {
    let end = contents.len() as u64;
    for first in (0..end).step_by(usize::try_from(READ_BLOCKS)?) {
        let blocks = READ_BLOCKS.min(end - first);
        let length = usize::try_from(blocks)? * BLOCK;
        let data = client.read(first * BLOCK as u64, length)?;
        for (block, data) in (first..).zip(data.chunks(BLOCK)) {
            let expected = contents[usize::try_from(block)?];
            let found = recognise(block, data)?;
            ensure!(
                found == expected,
                "block {block} holds {found:?}, expected {expected:?}"
            );
        }
    }
    Ok(())
}
