//! Random requests against a block device, each noted in the history with what came of it.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use ashlar_client::{BlockDevice, BlockError, Durability, ZeroMode};
use ashlar_reactor::Reactor;
use ashlar_reactor::sim::{Rng, SECTOR_BYTES};

use crate::history::{Ending, Flush, History, Life, OpId, OpKind, SECTORS_PER_BLOCK};

/// Sectors of the longest ordinary request.
const SECTORS_MAX: u64 = 64;
/// Sectors of a long one.
const LONG_SECTORS_MAX: u64 = 4096;

/// What the run keeps of one volume: the history and the first thing that was plainly wrong.
#[derive(Clone, Default)]
pub struct Record {
    /// Everything that happened.
    pub history: Rc<RefCell<History>>,
    failure: Rc<RefCell<Option<String>>>,
    completed: Rc<Cell<u64>>,
}

impl Record {
    /// Notes a failure; the first one stays.
    pub fn fail(&self, what: String) {
        self.failure.borrow_mut().get_or_insert(what);
    }

    /// The first failure.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Requests that were done.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.completed.get()
    }
}

/// How a seed's requests are.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sectors of the volume, at first.
    pub sectors: u64,
    /// Requests at a time.
    pub depth: u64,
    /// Of a million requests, how many are whole blocks.
    pub aligned_per_million: u32,
    /// Of a million requests, how many go to a few blocks at each shard's end.
    pub hot_per_million: u32,
    /// Sectors of a shard.
    pub shard_sectors: u64,
    /// Longest pause between two requests of a worker.
    pub pause: Duration,
}

impl Shape {
    /// Draws one.
    #[must_use]
    pub fn draw(rng: &mut Rng, sectors: u64, shard_sectors: u64) -> Self {
        Self {
            sectors,
            shard_sectors,
            depth: rng.between(1, 12),
            aligned_per_million: if rng.chance(500_000) {
                1_000_000
            } else {
                600_000
            },
            hot_per_million: if rng.chance(700_000) {
                800_000
            } else {
                100_000
            },
            pause: Duration::from_micros(rng.between(1, 40_000)),
        }
    }

    fn is_of_one_shard(&self, sectors: &Range<u64>) -> bool {
        let last = sectors.end.max(sectors.start + 1) - 1;
        sectors.start / self.shard_sectors == last / self.shard_sectors
    }

    /// The sectors of the next request.
    pub fn range(&self, rng: &mut Rng) -> Range<u64> {
        let long = rng.chance(10_000);
        let most = if long { LONG_SECTORS_MAX } else { SECTORS_MAX }.min(self.sectors);
        let mut len = if rng.chance(600_000) {
            SECTORS_PER_BLOCK
        } else {
            rng.between(1, most)
        };
        let mut start = rng.below(self.sectors);
        if rng.chance(self.hot_per_million) {
            let shard = rng.below(self.sectors.div_ceil(self.shard_sectors));
            let hot = SECTORS_PER_BLOCK * 8;
            start = (shard * self.shard_sectors).saturating_sub(hot / 2) + rng.below(hot);
        }
        if rng.chance(self.aligned_per_million) {
            start -= start % SECTORS_PER_BLOCK;
            len = len.next_multiple_of(SECTORS_PER_BLOCK);
        }
        let start = start.min(self.sectors - 1);
        start..(start + len).min(self.sectors)
    }
}

/// One worker of a life: requests until the device ends under it.
pub struct Worker<D> {
    /// What it talks to.
    pub device: D,
    /// The process it runs in.
    pub reactor: Reactor,
    /// The attach that it belongs to.
    pub life: Life,
    /// Its choices.
    pub rng: Rng,
    /// How its requests are.
    pub shape: Shape,
    /// Where it notes them.
    pub record: Record,
    /// Set when it is to end.
    pub stop: Rc<Cell<bool>>,
    /// It only reads.
    pub only_reads: bool,
}

impl<D: BlockDevice> Worker<D> {
    /// Runs until told to stop or until the owner is fenced.
    pub async fn run(mut self) {
        while !self.stop.get() {
            if let Err(BlockError::Fenced | BlockError::Detached) = self.request().await {
                return;
            }
            let pause = self.shape.pause.as_micros().try_into().unwrap_or(1);
            let pause = Duration::from_micros(self.rng.between(0, pause));
            self.reactor.sleep(pause).await;
        }
    }

    async fn request(&mut self) -> Result<(), BlockError> {
        self.shape.sectors = sectors_of(&self.device);
        let sectors = self.shape.range(&mut self.rng);
        let durable = self.rng.chance(100_000);
        if self.only_reads {
            return self.read(sectors).await;
        }
        match self.rng.below(100) {
            0..45 => self.write(sectors, durable).await,
            45..85 => self.read(sectors).await,
            85..90 => self.zero(sectors, durable).await,
            90..94 => self.trim(sectors, durable).await,
            _ => self.flush().await,
        }
    }

    fn begin(&self, kind: OpKind, sectors: &Range<u64>, durable: bool) -> OpId {
        let mut history = self.record.history.borrow_mut();
        history.begin(self.life, kind, sectors.clone(), durable)
    }

    /// It ends. What was refused for want of room has had no effect, if it was `whole`.
    fn end(&self, id: OpId, whole: bool, result: Result<(), BlockError>) -> Result<(), BlockError> {
        let mut history = self.record.history.borrow_mut();
        match result {
            Ok(()) => history.end(id, Ending::Done),
            Err(BlockError::NoSpace) if whole => history.end(id, Ending::Refused),
            Err(
                error @ (BlockError::Unaligned | BlockError::OutOfRange | BlockError::ReadOnly),
            ) => {
                self.record
                    .fail(format!("a good request was refused: {error}"));
            }
            Err(_) => history.end(id, |_| Ending::Maybe),
        }
        self.record.completed.set(self.record.completed.get() + 1);
        result
    }

    async fn write(&self, sectors: Range<u64>, durable: bool) -> Result<(), BlockError> {
        let id = self.begin(OpKind::Write, &sectors, durable);
        let mut buffer = self.reactor.buffer(bytes(&sectors));
        crate::history::fill(id, sectors.start, &mut buffer);
        let result = self
            .device
            .write(offset(&sectors), buffer, durability(durable))
            .await;
        self.end(id, self.shape.is_of_one_shard(&sectors), result)
    }

    async fn zero(&mut self, sectors: Range<u64>, durable: bool) -> Result<(), BlockError> {
        let id = self.begin(OpKind::Zero, &sectors, durable);
        let mode = if self.rng.chance(500_000) {
            ZeroMode::Unmap
        } else {
            ZeroMode::Allocate
        };
        let (at, len) = (offset(&sectors), wide(bytes(&sectors)));
        let result = self
            .device
            .write_zeroes(at, len, mode, durability(durable))
            .await;
        // The blocks that it covers in part are written for themselves.
        let is_aligned = sectors.start.is_multiple_of(SECTORS_PER_BLOCK)
            && sectors.end.is_multiple_of(SECTORS_PER_BLOCK);
        let is_whole = is_aligned && self.shape.is_of_one_shard(&sectors);
        self.end(id, is_whole, result)
    }

    /// A trim zeroes the whole blocks of its range only.
    async fn trim(&self, sectors: Range<u64>, durable: bool) -> Result<(), BlockError> {
        let first = sectors.start.next_multiple_of(SECTORS_PER_BLOCK);
        let last = sectors.end - sectors.end % SECTORS_PER_BLOCK;
        let id = self.begin(OpKind::Zero, &(first..last.max(first)), durable);
        let (at, len) = (offset(&sectors), wide(bytes(&sectors)));
        let result = self.device.trim(at, len, durability(durable)).await;
        self.end(id, self.shape.is_of_one_shard(&sectors), result)
    }

    async fn read(&self, sectors: Range<u64>) -> Result<(), BlockError> {
        read_into(&self.device, self.life, sectors, &self.record).await
    }

    async fn flush(&self) -> Result<(), BlockError> {
        let invoked = self.record.history.borrow_mut().tick();
        self.device.flush().await?;
        let mut history = self.record.history.borrow_mut();
        let done = history.tick();
        history.flushes.push(Flush { invoked, done });
        self.record.completed.set(self.record.completed.get() + 1);
        Ok(())
    }
}

/// Sectors that a device has now.
pub fn sectors_of(device: &impl BlockDevice) -> u64 {
    device.geometry().size_bytes / wide(SECTOR_BYTES)
}

/// Reads a range and notes what it saw; data that nobody wrote there fails the run.
///
/// # Errors
/// What the device says.
pub async fn read_into<D: BlockDevice>(
    device: &D,
    life: Life,
    sectors: Range<u64>,
    record: &Record,
) -> Result<(), BlockError> {
    let (at, len) = (offset(&sectors), bytes(&sectors));
    let id = {
        let mut history = record.history.borrow_mut();
        history.begin(life, OpKind::Read(Vec::new()), sectors, false)
    };
    let pieces = device
        .read(at, u32::try_from(len).unwrap_or(u32::MAX))
        .await?;
    let mut data = Vec::with_capacity(len);
    for piece in &pieces {
        data.extend_from_slice(piece);
    }
    if data.len() != len {
        record.fail(format!("a read of {len} bytes gave {}", data.len()));
        return Ok(());
    }
    if let Err(wrong) = record.history.borrow_mut().end_read(id, &data) {
        record.fail(format!(
            "op {id} read what was never written there: {wrong:?}"
        ));
    }
    record.completed.set(record.completed.get() + 1);
    Ok(())
}

fn durability(durable: bool) -> Durability {
    if durable {
        Durability::Durable
    } else {
        Durability::Accepted
    }
}

fn offset(sectors: &Range<u64>) -> u64 {
    sectors.start * wide(SECTOR_BYTES)
}

fn bytes(sectors: &Range<u64>) -> usize {
    usize::try_from(sectors.end - sectors.start).unwrap_or(0) * SECTOR_BYTES
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear;
    use ashlar_client::MemoryDevice;
    use ashlar_reactor::sim::World;
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn a_device_in_memory_is_linearizable() {
        for seed in 0..20 {
            let world = World::new(seed);
            let process = world.process("owner", IpAddr::V4(Ipv4Addr::LOCALHOST));
            let mut rng = world.fork_rng();
            let shape = Shape::draw(&mut rng, 4096, 2048);
            let device = MemoryDevice::new(process.reactor(), shape.sectors * 512);
            let (record, stop) = (Record::default(), Rc::new(Cell::new(false)));
            let life = record.history.borrow_mut().serve(false);
            for _ in 0..shape.depth {
                let worker = Worker {
                    device: device.clone(),
                    reactor: process.reactor().clone(),
                    life,
                    rng: rng.fork(),
                    shape,
                    record: record.clone(),
                    stop: Rc::clone(&stop),
                    only_reads: false,
                };
                drop(process.reactor().spawn(worker.run()));
            }
            world.run_for(Duration::from_millis(500));
            assert_eq!(record.failure(), None, "seed {seed}");
            assert!(record.completed() > 20);
            linear::check(&record.history.borrow(), shape.sectors).unwrap();
        }
    }
}
