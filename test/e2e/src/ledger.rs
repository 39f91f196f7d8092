//! A writer that knows what each block may hold: the judge of "no acknowledged write lost".
//!
//! Every block that it writes names itself and its version. Per block the ledger keeps
//!
//! ```text
//! settled   what the last answered write (or a read after a restart) left there
//! since     what was sent after that, oldest first, and not answered
//! ```
//!
//! Processes die here, machines do not: what was answered is on the disks, flushed or not. After a
//! crash a block holds `settled` or anything in `since`, whole; from then on, only what was read.
//! While nothing crashes and nothing is in flight it holds the last that was sent.

use crate::nbd::{Command, NbdClient};
use anyhow::{Result, bail, ensure};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The unit of versions.
pub const BLOCK: usize = 4096;
/// The most blocks of one request.
const REQUEST_BLOCKS_MAX: u64 = 16;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeroes.
    Zero,
    /// The pattern of this version.
    Version(u64),
}

#[derive(Clone, Debug)]
struct History {
    settled: Content,
    since: Vec<Content>,
    in_flight: bool,
}

impl History {
    fn last(&self) -> Content {
        self.since.last().copied().unwrap_or(self.settled)
    }

    fn holds(content: Content) -> Self {
        Self {
            settled: content,
            since: Vec::new(),
            in_flight: false,
        }
    }

    /// The last that was sent was answered.
    fn settle(&mut self) {
        self.settled = self.last();
        self.since.clear();
    }

    fn may_hold(&self, content: Content) -> bool {
        self.settled == content || self.since.contains(&content)
    }
}

#[derive(Debug)]
enum Request {
    Write { first: u64, blocks: u64 },
    Read { first: u64, blocks: u64 },
    Flush,
}

/// How many of each were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Writes and write-zeroes.
    pub writes: u64,
    /// Reads, each compared.
    pub reads: u64,
    /// Flushes.
    pub flushes: u64,
}

/// The writer and its knowledge of `blocks` blocks from `first` on.
#[derive(Clone, Debug)]
pub struct Ledger {
    first: u64,
    histories: Vec<History>,
    version: u64,
    random: Random,
    /// What has been answered in all.
    pub tally: Tally,
    /// How long requests took since this was last taken.
    pub delays: Delays,
}

/// How long requests took, by powers of ten, and the longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// Below 1 ms, 10 ms, 100 ms, 300 ms, 1 s, 3 s, and longer.
    counts: [u64; 7],
    /// The longest.
    pub longest: Duration,
}

impl Delays {
    const BOUNDS_MS: [u64; 6] = [1, 10, 100, 300, 1000, 3000];

    fn note(&mut self, took: Duration) {
        let bound = |ms: &u64| took < Duration::from_millis(*ms);
        let class = Self::BOUNDS_MS.iter().position(bound);
        self.counts[class.unwrap_or(Self::BOUNDS_MS.len())] += 1;
        self.longest = self.longest.max(took);
    }
}

impl std::fmt::Display for Delays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "longest {:.1} ms;", self.longest.as_secs_f64() * 1e3)?;
        for (bound, count) in Self::BOUNDS_MS.iter().zip(self.counts) {
            write!(f, " <{bound} ms: {count}")?;
        }
        write!(f, " more: {}", self.counts[Self::BOUNDS_MS.len()])
    }
}

impl Ledger {
    /// A range that holds zeroes now; of more blocks than 16 times the depth it will be run at.
    #[must_use]
    pub fn new(first: u64, blocks: usize, seed: u64) -> Self {
        Self {
            first,
            histories: vec![History::holds(Content::Zero); blocks],
            version: 0,
            random: Random(seed),
            tally: Tally::default(),
            delays: Delays::default(),
        }
    }

    /// Writes, reads and flushes at random, `depth` at a time, until `limit` has passed or the
    /// connection is lost, which is no error; tells which.
    ///
    /// # Errors
    ///
    /// If a read shows what it must not, or the server refuses a request.
    pub fn run(&mut self, client: &mut NbdClient, depth: usize, limit: Duration) -> Result<bool> {
        let start = Instant::now();
        let mut in_flight: HashMap<u64, (Request, Instant)> = HashMap::new();
        let mut cookie = 0;
        loop {
            while in_flight.len() < depth && start.elapsed() < limit {
                let (request, command, data) = self.next_request();
                cookie += 1;
                let (first, blocks) = match request {
                    Request::Write { first, blocks, .. } | Request::Read { first, blocks } => {
                        (first, blocks)
                    }
                    Request::Flush => (0, 0),
                };
                let offset = first * BLOCK as u64;
                let length = u32::try_from(blocks * BLOCK as u64)?;
                in_flight.insert(cookie, (request, Instant::now()));
                if client
                    .submit(command, cookie, offset, length, &data)
                    .is_err()
                {
                    return self.lost();
                }
            }
            if in_flight.is_empty() {
                return Ok(true);
            }
            let payload = |cookie| match in_flight.get(&cookie) {
                Some((Request::Read { blocks, .. }, _)) => {
                    usize::try_from(*blocks).unwrap_or(0) * BLOCK
                }
                _ => 0,
            };
            let Ok((reply, data)) = client.reply(payload) else {
                return self.lost();
            };
            let Some((request, sent_at)) = in_flight.remove(&reply.cookie) else {
                bail!(
                    "an answer to cookie {}, which is not in flight",
                    reply.cookie
                );
            };
            ensure!(
                reply.error == 0,
                "{request:?} failed with error {}",
                reply.error
            );
            self.delays.note(sent_at.elapsed());
            self.answered(request, &data)?;
        }
    }

    fn lost(&mut self) -> Result<bool> {
        self.histories
            .iter_mut()
            .for_each(|history| history.in_flight = false);
        Ok(false)
    }

    fn next_request(&mut self) -> (Request, Command, Vec<u8>) {
        if self.random.below(48) == 0 {
            return (Request::Flush, Command::Flush, Vec::new());
        }
        let (first, blocks) = loop {
            let count = self.histories.len() as u64;
            let blocks = (1 + self.random.below(REQUEST_BLOCKS_MAX)).min(count);
            let first = self.first + self.random.below(count - blocks + 1);
            // What overlaps may be done in any order: keep to one at a time, as file systems do.
            if !self
                .range(first, blocks)
                .iter()
                .any(|history| history.in_flight)
            {
                break (first, blocks);
            }
        };
        self.range(first, blocks)
            .iter_mut()
            .for_each(|history| history.in_flight = true);
        match self.random.below(10) {
            0 => (Request::Read { first, blocks }, Command::Read, Vec::new()),
            1 => {
                let history = self.range(first, blocks);
                history
                    .iter_mut()
                    .for_each(|history| history.since.push(Content::Zero));
                let request = Request::Write { first, blocks };
                (request, Command::WriteZeroes, Vec::new())
            }
            kind => {
                self.version += 1;
                let content = Content::Version(self.version);
                let mut data = Vec::with_capacity(BLOCK * 16);
                for block in first..first + blocks {
                    data.extend(pattern(block, content));
                }
                let histories = self.range(first, blocks);
                histories
                    .iter_mut()
                    .for_each(|history| history.since.push(content));
                let command = if kind == 2 {
                    Command::WriteFua
                } else {
                    Command::Write
                };
                (Request::Write { first, blocks }, command, data)
            }
        }
    }

    fn range(&mut self, first: u64, blocks: u64) -> &mut [History] {
        let from = usize::try_from(first - self.first).expect("inside the ledger");
        let count = usize::try_from(blocks).expect("inside the ledger");
        &mut self.histories[from..from + count]
    }

    fn answered(&mut self, request: Request, data: &[u8]) -> Result<()> {
        match request {
            Request::Write { first, blocks } => {
                self.tally.writes += 1;
                for history in self.range(first, blocks) {
                    history.in_flight = false;
                    history.settle();
                }
            }
            Request::Read { first, blocks } => {
                self.tally.reads += 1;
                for (block, data) in (first..first + blocks).zip(data.chunks(BLOCK)) {
                    let found = recognise(block, data)?;
                    let history = &mut self.range(block, 1)[0];
                    history.in_flight = false;
                    let expected = history.last();
                    ensure!(
                        found == expected,
                        "block {block}: {found:?}, expected {expected:?}"
                    );
                }
            }
            Request::Flush => self.tally.flushes += 1,
        }
        Ok(())
    }

    /// Reads all after a restart: each block must hold what it may, twice the same, and is held to
    /// that from now on. Gives how many blocks hold something older than the last that was sent.
    ///
    /// # Errors
    ///
    /// If an acknowledged write is lost, a block is torn or foreign, or two reads differ.
    pub fn verify(&mut self, client: &mut NbdClient) -> Result<usize> {
        let mut older = 0;
        let end = self.first + self.histories.len() as u64;
        let mut block = self.first;
        while block < end {
            let blocks = (end - block).min(64);
            let length = usize::try_from(blocks)? * BLOCK;
            let data = client.read(block * BLOCK as u64, length)?;
            let again = client.read(block * BLOCK as u64, length)?;
            ensure!(data == again, "blocks from {block}: two reads differ");
            for (block, data) in (block..block + blocks).zip(data.chunks(BLOCK)) {
                let found = recognise(block, data)?;
                let history = &mut self.range(block, 1)[0];
                ensure!(
                    history.may_hold(found),
                    "block {block} holds {found:?}; answered: {:?}, sent later: {:?}",
                    history.settled,
                    history.since
                );
                older += usize::from(found != history.last());
                *history = History::holds(found);
            }
            block += blocks;
        }
        Ok(older)
    }
}

/// The bytes of a block's version.
#[must_use]
pub fn pattern(block: u64, content: Content) -> Vec<u8> {
    let Content::Version(version) = content else {
        return vec![0; BLOCK];
    };
    let mut random = Random(block.rotate_left(32) ^ version);
    let mut data = Vec::with_capacity(BLOCK);
    data.extend(block.to_le_bytes());
    data.extend(version.to_le_bytes());
    while data.len() < BLOCK {
        data.extend(random.next().to_le_bytes());
    }
    data
}

/// Which version of `block` these bytes are.
///
/// # Errors
///
/// If they are no whole version of this block.
pub fn recognise(block: u64, data: &[u8]) -> Result<Content> {
    if data.iter().all(|&byte| byte == 0) {
        return Ok(Content::Zero);
    }
    let field = |at: usize| {
        let bytes = data.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    let content = Content::Version(field(8));
    ensure!(
        field(0) == block,
        "block {block} holds bytes of block {}",
        field(0)
    );
    ensure!(
        pattern(block, content) == data,
        "block {block} is torn: its head says {content:?}"
    );
    Ok(content)
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_foreign_block_is_recognised() {
        let mut data = pattern(7, Content::Version(3));
        assert_eq!(recognise(7, &data).unwrap(), Content::Version(3));
        assert!(recognise(8, &data).is_err());
        data[4000] ^= 1;
        assert!(recognise(7, &data).is_err());
        assert_eq!(recognise(7, &[0; BLOCK]).unwrap(), Content::Zero);
    }

    #[test]
    fn an_answer_settles_what_was_sent() {
        let mut ledger = Ledger::new(0, 1, 1);
        ledger.histories[0].since = vec![Content::Version(1), Content::Version(2)];
        for content in [Content::Zero, Content::Version(1), Content::Version(2)] {
            assert!(ledger.histories[0].may_hold(content));
        }
        let request = Request::Write {
            first: 0,
            blocks: 1,
        };
        ledger.answered(request, &[]).unwrap();
        ledger.histories[0].since.push(Content::Version(3));
        assert!(ledger.histories[0].may_hold(Content::Version(2)));
        assert!(ledger.histories[0].may_hold(Content::Version(3)));
        assert!(!ledger.histories[0].may_hold(Content::Version(1)));
    }
}
