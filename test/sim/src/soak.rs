//! Hours of random overwrites on one lane, nearly full, with snapshots that come and go if wanted: the
//! collector must keep up.
//!
//! The simulated device is slow on purpose, so that writes, moves and checkpoints compete for it
//! and hours of virtual time stay affordable. Every read is held against a plain array of versions.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ashlar_proto::crc::crc32c;
use ashlar_proto::message::BlockKind;
use ashlar_proto::{
    BlockCount, BlockIndex, DiskId, LaneIndex, Layer, LayerRange, LayerTable, ReplicaId, Seq,
    ShardIndex, VolumeId, Window,
};
use ashlar_reactor::sim::{DiskSpec, PAGE_BYTES, Process, Rng, World, pattern, pattern_of};
use ashlar_reactor::{DiskOptions, Reactor};
use ashlar_store::disk::{FormatOptions, format_disk, open_disk};
use ashlar_store::lane::{Lane, LaneError, ShardKey};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const KEY: ShardKey = ShardKey {
    volume: VolumeId::new(7),
    shard: ShardIndex::new(0),
};
/// Writes in flight.
const DEPTH: usize = 8;
/// Of a million requests, how many are reads that check.
const READS_PER_MILLION: u32 = 50_000;
/// Longest that one write may wait, in virtual time.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Share of the second period's throughput that the last must still reach.
const STEADY_PERCENT: u64 = 60;
/// Periods that the run is cut into for the report.
const PERIODS: u32 = 8;

/// What to soak.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct SoakOptions {
    /// Virtual hours of overwrites.
    #[arg(long, default_value_t = 4.0)]
    hours: f64,
    /// Size of the lane's disk, in MiB.
    #[arg(long, default_value_t = 1024)]
    disk_mib: u64,
    /// How full, in percent of what is usable.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u64).range(1..=95))]
    full: u64,
    /// MiB that the device moves in a second.
    #[arg(long, default_value_t = 8)]
    device_mib: u64,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Snapshots that come and go meanwhile: so many at once.
    #[arg(long, default_value_t = 0)]
    snapshots: u32,
    /// Virtual seconds from one to the next.
    #[arg(long, default_value_t = 2)]
    snapshot_seconds: u64,
    /// Whether the device's cache is volatile.
    #[arg(long)]
    volatile: bool,
}

/// The lane, and what it must hold.
struct Bench {
    reactor: Reactor,
    lane: Lane,
    versions: RefCell<Vec<u64>>,
    seq: Cell<u64>,
    rng: RefCell<Rng>,
    written: Cell<u64>,
    longest: Cell<Duration>,
    failure: RefCell<Option<String>>,
    stop: Cell<bool>,
    /// The label that writes carry.
    head: Cell<Layer>,
}

/// Runs it and prints what came of it.
///
/// # Errors
/// What the lane did wrong.
pub fn soak(options: SoakOptions) -> Result<()> {
    let world = World::new(options.seed);
    let spec = DiskSpec {
        volatile_cache: options.volatile,
        latency: Duration::from_micros(100),
        flush_latency: Duration::from_millis(2),
        bytes_per_second: options.device_mib << 20,
        ..DiskSpec::new(options.disk_mib << 20)
    };
    let disk = world.add_disk(HOST, "/disk", spec);
    let process = world.process("lane", HOST);
    let lane = run(&world, &process, prepare(process.reactor().clone()))??;
    let usage = lane.usage();
    let usable = usage.usable.get() / 4096;
    let blocks = usize::try_from(usable * options.full / 100)?;
    println!(
        "disk {} MiB, usable {usable} blocks, {blocks} of them kept live ({} %)",
        options.disk_mib, options.full
    );
    let bench = Rc::new(Bench {
        reactor: process.reactor().clone(),
        lane,
        versions: RefCell::new(vec![0; blocks]),
        seq: Cell::new(Window::new(1).start().get()),
        rng: RefCell::new(world.fork_rng()),
        written: Cell::new(0),
        longest: Cell::new(Duration::ZERO),
        failure: RefCell::default(),
        stop: Cell::new(false),
        head: Cell::new(Layer::new(1)),
    });
    let filler = Rc::clone(&bench);
    run(&world, &process, async move { filler.fill().await })??;
    println!(
        "filled after {:?} of virtual time, {} events",
        world.now(),
        world.events()
    );
    overwrite(&world, &process, &bench, options)?;
    let counters = disk.counters();
    println!(
        "device: {} MiB written, {} MiB read, {} flushes, {} MiB discarded",
        counters.write_bytes >> 20,
        counters.read_bytes >> 20,
        counters.flushes,
        counters.discard_bytes >> 20
    );
    let checker = Rc::clone(&bench);
    run(&world, &process, async move { checker.check_all().await })??;
    // How much fits beside snapshots depends on what they share.
    if options.snapshots == 0 {
        let filler = Rc::clone(&bench);
        let filling = async move { filler.fill_up(usable).await };
        run(&world, &process, filling)??;
    }
    let closing = Rc::clone(&bench);
    run(&world, &process, async move {
        closing.lane.clone().close().await
    })?;
    println!("soak passed");
    Ok(())
}

fn run<T: 'static>(
    world: &World,
    process: &Process,
    work: impl Future<Output = T> + 'static,
) -> Result<T> {
    let task = process.reactor().spawn(work);
    world
        .run(Duration::from_secs(1_000_000), task)
        .context("the world ended")
}

async fn prepare(reactor: Reactor) -> Result<Lane> {
    let options = DiskOptions::new("/disk");
    let format = FormatOptions::new(DiskId::new(1));
    format_disk(&reactor, options.clone(), format).await?;
    let disk = open_disk(&reactor, options).await?;
    let lane = disk.lane(LaneIndex::new(0)).recover().await?;
    let blocks = u32::try_from(2 * disk.size().get() / 4096)?;
    let blocks = BlockCount::new(blocks);
    lane.create_shards(&[(KEY, ReplicaId::new(1), blocks)])
        .await?;
    Ok(lane)
}

fn overwrite(
    world: &World,
    process: &Process,
    bench: &Rc<Bench>,
    options: SoakOptions,
) -> Result<()> {
    let before = bench.lane.stats();
    let total = Duration::from_secs_f64(options.hours * 3600.0);
    for _ in 0..DEPTH {
        drop(process.reactor().spawn(Rc::clone(bench).overwriter()));
    }
    drop(process.reactor().spawn(Rc::clone(bench).flusher()));
    if options.snapshots > 0 {
        let keeper = Rc::clone(bench).keeper(options.snapshots, options.snapshot_seconds);
        drop(process.reactor().spawn(keeper));
    }
    let mut rates = Vec::new();
    let mut last = (bench.written.get(), bench.lane.stats());
    for period in 1..=PERIODS {
        world.run_for(total / PERIODS);
        let now = (bench.written.get(), bench.lane.stats());
        let rate = (now.0 - last.0) * 1000 / millis(total / PERIODS).max(1);
        let blocks = (now.1.blocks_written - last.1.blocks_written).max(1);
        let logged = now.1.blocks_logged - last.1.blocks_logged;
        println!(
            "{:>5.2} h: {rate} writes/s, write amplification {}.{:02}, {} of {} segments free, \
             longest wait {:?}, {} events",
            (total / PERIODS * period).as_secs_f64() / 3600.0,
            logged / blocks,
            logged * 100 / blocks % 100,
            now.1.segments_free,
            now.1.segments,
            bench.longest.get(),
            world.events()
        );
        rates.push(rate);
        last = now;
        if let Some(what) = bench.failure.borrow().as_ref() {
            bail!("after {:?}: {what}", world.now());
        }
    }
    bench.stop.set(true);
    world.run_for(Duration::from_secs(60));
    let (first, end) = (rates[1], rates[rates.len() - 1]);
    ensure!(
        end * 100 >= first * STEADY_PERCENT,
        "the collector does not keep up: {first} writes/s fell to {end}"
    );
    ensure!(
        bench.longest.get() <= WRITE_WAIT_MAX,
        "a write waited {:?}",
        bench.longest.get()
    );
    let after = bench.lane.stats();
    ensure!(
        after.damage.total() == before.damage.total(),
        "damage: {:?}",
        after.damage
    );
    println!(
        "{} overwrites, {} blocks moved, {} leaves, {} checkpoints, {} segments collected",
        after.blocks_written - before.blocks_written,
        after.blocks_moved - before.blocks_moved,
        after.leaves_written - before.leaves_written,
        after.checkpoints - before.checkpoints,
        after.segments_collected - before.segments_collected
    );
    Ok(())
}

impl Bench {
    fn next_seq(&self) -> Seq {
        self.seq.set(self.seq.get() + 1);
        Seq::from_raw(self.seq.get()).unwrap_or(Seq::MAX)
    }

    async fn write(&self, block: usize) -> Result<(), LaneError> {
        let seq = self.next_seq();
        let mut buffer = self.reactor.buffer(PAGE_BYTES);
        pattern(&mut buffer, seq.get(), wide(block));
        let crc = crc32c(&buffer);
        let began = self.reactor.now();
        let data = vec![buffer.freeze()];
        self.lane
            .write(KEY, self.head.get(), index(block), seq, data, &[crc])
            .await?;
        self.longest
            .set(self.longest.get().max(self.reactor.now() - began));
        self.written.set(self.written.get() + 1);
        if let Some(version) = self.versions.borrow_mut().get_mut(block) {
            *version = (*version).max(seq.get());
        }
        Ok(())
    }

    /// Reads a block; what it shows must be a version from `least` on.
    async fn read(&self, block: usize, least: u64) -> Result<()> {
        let read = self
            .lane
            .read(KEY, self.head.get(), index(block), BlockCount::new(1))
            .await;
        let (entries, data) = read.with_context(|| format!("reading block {block}"))?;
        let entry = entries
            .first()
            .context("a read gives an entry for each block")?;
        let shown = match (entry.kind, data.first()) {
            (BlockKind::Data, Some(bytes)) => {
                let (version, place) = pattern_of(bytes).context("a block holds no pattern")?;
                ensure!(place == wide(block), "block {block} shows block {place}");
                ensure!(
                    version == entry.seq.get(),
                    "block {block} shows another version's data"
                );
                version
            }
            _ => 0,
        };
        ensure!(
            shown >= least,
            "block {block} shows version {shown}, not {least}"
        );
        Ok(())
    }

    async fn fill(&self) -> Result<()> {
        let blocks = self.versions.borrow().len();
        for block in 0..blocks {
            self.write(block)
                .await
                .with_context(|| format!("filling block {block}"))?;
        }
        self.lane.flush().await?;
        self.longest.set(Duration::ZERO);
        Ok(())
    }

    async fn overwriter(self: Rc<Self>) {
        while !self.stop.get() && self.failure.borrow().is_none() {
            let (block, reads) = {
                let mut rng = self.rng.borrow_mut();
                let blocks = self.versions.borrow().len();
                (rng.index(blocks), rng.chance(READS_PER_MILLION))
            };
            let least = self.versions.borrow()[block];
            let result = if reads {
                self.read(block, least).await
            } else {
                self.write(block)
                    .await
                    .with_context(|| format!("overwriting block {block}"))
            };
            if let Err(error) = result {
                self.failure
                    .borrow_mut()
                    .get_or_insert(format!("{error:#}"));
            }
        }
    }

    async fn flusher(self: Rc<Self>) {
        while !self.stop.get() {
            self.reactor.sleep(Duration::from_secs(5)).await;
            let stable = Seq::from_raw(self.seq.get()).unwrap_or(Seq::MAX);
            if let Err(error) = self.lane.flush().await {
                self.failure
                    .borrow_mut()
                    .get_or_insert(format!("flush: {error}"));
            }
            self.lane.note_stable(KEY, stable);
        }
    }

    /// Seals the head from time to time, and joins the oldest snapshot to the next when there are too
    /// many.
    async fn keeper(self: Rc<Self>, most: u32, seconds: u64) {
        let mut version = 0;
        while !self.stop.get() {
            self.reactor.sleep(Duration::from_secs(seconds)).await;
            let head = self.head.get().get() + 1;
            self.head.set(Layer::new(head));
            if head <= most + 1 {
                continue;
            }
            version += 1;
            let oldest = head - most;
            let first = LayerRange::new(Layer::new(1), Layer::new(oldest));
            let others = (oldest + 1..=head).map(|label| {
                let label = Layer::new(label);
                LayerRange::new(label, label)
            });
            let table = LayerTable {
                version,
                live: std::iter::once(first).chain(others).collect(),
                dropped: Vec::new(),
            };
            if let Err(error) = self.lane.set_layers(KEY, table).await {
                self.failure
                    .borrow_mut()
                    .get_or_insert(format!("deleting a snapshot: {error}"));
            }
        }
    }

    async fn check_all(&self) -> Result<()> {
        let versions = self.versions.borrow().clone();
        for (block, &version) in versions.iter().enumerate() {
            self.read(block, version).await?;
        }
        println!("{} blocks read back", versions.len());
        Ok(())
    }

    /// Writes until the lane is full; then reads and trims work, and after a trim writes do.
    async fn fill_up(&self, usable: u64) -> Result<()> {
        let first = self.versions.borrow().len();
        let mut block = first;
        loop {
            match self.write(block).await {
                Ok(()) => block += 1,
                Err(LaneError::NoSpace) => break,
                Err(error) => bail!("writing block {block} of a filling lane: {error}"),
            }
            ensure!(
                wide(block) <= 2 * usable,
                "the lane never says that it is full"
            );
        }
        println!("full at {block} live blocks of {usable} usable");
        ensure!(
            wide(block) * 100 >= usable * 90,
            "the lane says that it is full too early"
        );
        for offset in 0..1000 {
            self.read(offset * first / 1000, 1)
                .await
                .context("reading a full lane")?;
        }
        let count = BlockCount::new(u32::try_from(first / 10)?);
        let seq = self.next_seq();
        self.lane
            .zero(KEY, self.head.get(), index(0), count, seq)
            .await
            .context("trimming a full lane")?;
        self.lane.flush().await?;
        let mut waited = 0;
        while let Err(error) = self.write(block).await {
            ensure!(error == LaneError::NoSpace, "writing after a trim: {error}");
            ensure!(waited < 60, "no space a minute after a trim");
            self.reactor.sleep(Duration::from_secs(1)).await;
            waited += 1;
        }
        for extra in 1..first / 20 {
            self.write(block + extra)
                .await
                .with_context(|| format!("write {extra} after a trim"))?;
        }
        println!("after a trim of {} blocks writes work again", first / 10);
        Ok(())
    }
}

fn index(block: usize) -> BlockIndex {
    BlockIndex::new(u32::try_from(block).unwrap_or(u32::MAX))
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
