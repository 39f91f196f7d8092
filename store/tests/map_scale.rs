//! A map far larger than the memory that it may take, on a real disk: the data is right, the memory
//! bounded, and what that costs is printed.
//!
//! At its full size: 5 million blocks of 4 KiB at random places of 1 TiB, with 64 MiB for the map
//! whose leaves take 4 GiB. It takes 32 GiB of disk; `ASHLAR_MAP_PART=n` takes one in n of
//! everything. `ASHLAR_MAP_DIR` says where.
//!
//! ```text
//! ASHLAR_MAP_PART=4 cargo test --release -p ashlar-store --test map_scale -- --ignored --nocapture
//! ```

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ashlar_proto::crc::crc32c;
use ashlar_proto::message::BlockKind;
use ashlar_proto::{
    BLOCK_BYTES, BlockCount, BlockIndex, DiskId, LaneIndex, Layer, ReplicaId, Seq, ShardIndex,
    VolumeId,
};
use ashlar_reactor::future::join_all;
use ashlar_reactor::{CachePolicy, DiskOptions, Engine, Reactor, RuntimeOptions, run};
use ashlar_store::disk::{FormatOptions, format_disk, open_disk};
use ashlar_store::lane::{Lane, LaneOptions, MapCounts, ShardKey};

const MIB: u64 = 1 << 20;
const FULL_WRITES: u32 = 5_000_000;
const FULL_BLOCKS: u32 = 1 << 28;
const FULL_BUDGET: u64 = 64 * MIB;
/// Requests in flight.
const DEPTH: u32 = 64;
const KEY: ShardKey = ShardKey {
    volume: VolumeId::new(1),
    shard: ShardIndex::new(0),
};
const LAYER: Layer = Layer::new(1);

/// How much of the full size: one in so many.
#[derive(Clone, Copy)]
struct Part(u32);

impl Part {
    fn writes(self) -> u32 {
        FULL_WRITES / self.0
    }

    fn blocks(self) -> u32 {
        FULL_BLOCKS / self.0
    }

    fn budget(self) -> u64 {
        FULL_BUDGET / u64::from(self.0)
    }

    /// Of the block of a write: a permutation that leaves no pattern.
    fn block(self, number: u32) -> u32 {
        let mask = self.blocks() - 1;
        let mut x = number;
        for factor in [0x9e37_79b1, 0x85eb_ca6b, 0xc2b2_ae35_u32] {
            x = x.wrapping_mul(factor) & mask;
            x ^= x >> (mask.count_ones() / 2);
        }
        x
    }
}

fn seq_of(number: u32) -> Seq {
    Seq::from_raw(u64::from(number) + 1).unwrap()
}

fn fill(bytes: &mut [u8], number: u32) {
    for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = (u64::from(number) << 16 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Bytes of memory that the process has: now, and at most until now.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() << 10
    };
    (field("VmRSS:"), field("VmHWM:"))
}

async fn write(reactor: &Reactor, lane: &Lane, part: Part, number: u32) {
    let mut buffer = reactor.buffer(BLOCK_BYTES);
    fill(&mut buffer, number);
    let crcs = [crc32c(&buffer)];
    let block = BlockIndex::new(part.block(number));
    let data = vec![buffer.freeze()];
    let written = lane.write(KEY, LAYER, block, seq_of(number), data, &crcs);
    written.await.unwrap();
}

async fn check(lane: &Lane, part: Part, number: u32) {
    let block = BlockIndex::new(part.block(number));
    let read = lane.read(KEY, LAYER, block, BlockCount::new(1)).await;
    let (entries, data) = read.unwrap();
    assert_eq!(
        (entries[0].kind, entries[0].seq),
        (BlockKind::Data, seq_of(number))
    );
    let mut expected = vec![0; BLOCK_BYTES];
    fill(&mut expected, number);
    assert!(data[0][..] == expected[..], "write {number} at {block}");
}

/// Prints what a step did and asserts that the map has kept to its memory.
fn show(what: &str, count: u32, took: Duration, lane: &Lane, before: MapCounts) {
    let map = lane.stats().map;
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    let (now, most) = memory();
    let (hits, misses) = (map.hits - before.hits, map.misses - before.misses);
    let scanned = map.scanned - before.scanned;
    let mean = (map.load_nanos - before.load_nanos) / (misses + scanned).max(1) / 1000;
    println!(
        "{what}: {count} in {:.0} s, {:.0} a second\n  \
         of {} leaves {:.1} % in memory; {misses} read, and {scanned} for folds and the like: \
         {mean} us each; {} evictions\n  \
         budget {:.1} MiB: leaves {:.1}, overlay {:.1}; root pages {:.1}; process {:.0}, at most {:.0}",
        took.as_secs_f64(),
        f64::from(count) / took.as_secs_f64(),
        hits + misses,
        100.0 * hits as f64 / (hits + misses).max(1) as f64,
        map.evictions - before.evictions,
        mib(map.budget_bytes),
        mib(map.leaf_bytes),
        mib(map.overlay_bytes),
        mib(map.root_bytes),
        mib(now),
        mib(most),
    );
    let slack = u64::from(DEPTH) * 512;
    assert!(map.leaf_bytes + map.overlay_bytes <= map.budget_bytes + slack);
}

/// Runs requests, so many in flight, and shows what came of it.
async fn run_all<F: Future<Output = ()>>(
    what: &str,
    lane: &Lane,
    numbers: std::ops::Range<u32>,
    one: impl Fn(u32) -> F,
) {
    let (before, since) = (lane.stats().map, Instant::now());
    let worker = async |first: u32| {
        for number in (numbers.start + first..numbers.end).step_by(DEPTH as usize) {
            one(number).await;
        }
    };
    join_all((0..DEPTH).map(worker)).await;
    let count = numbers.end - numbers.start;
    show(what, count, since.elapsed(), lane, before);
}

async fn measure(reactor: Reactor, path: PathBuf, part: Part) {
    // Half as much again as the data, for leaves and what waits for the collector.
    let bytes = u64::from(part.writes()) * BLOCK_BYTES as u64 * 3 / 2 + 2048 * MIB;
    std::fs::File::create(&path)
        .unwrap()
        .set_len(bytes)
        .unwrap();
    let disk = || DiskOptions {
        cache: CachePolicy::WriteThrough,
        ..DiskOptions::new(&path)
    };
    let options = FormatOptions::new(DiskId::new(1));
    format_disk(&reactor, disk(), options).await.unwrap();
    let options = LaneOptions {
        map_bytes: usize::try_from(part.budget()).unwrap(),
        ..LaneOptions::default()
    };
    let start = async || {
        let opened = open_disk(&reactor, disk()).await.unwrap();
        let lane = opened.lane(LaneIndex::new(0));
        lane.recover_with(options.clone()).await.unwrap()
    };
    let lane = start().await;
    let shard = (KEY, ReplicaId::new(1), BlockCount::new(part.blocks()));
    lane.create_shards(&[shard]).await.unwrap();
    println!("process at first: {} MiB", memory().0 / MIB);
    let all = 0..part.writes();
    run_all("writes", &lane, all.clone(), |n| {
        write(&reactor, &lane, part, n)
    })
    .await;
    run_all("reads", &lane, all.clone(), |n| check(&lane, part, n)).await;
    for _ in 0..3 {
        let few = 0..part.writes() / 1000;
        run_all("reads of a few", &lane, few, |n| check(&lane, part, n)).await;
    }
    lane.close().await;
    let since = Instant::now();
    let lane = start().await;
    println!("start: {} ms", since.elapsed().as_millis());
    let some = 0..part.writes() / 10;
    run_all("reads after a start", &lane, some, |n| {
        check(&lane, part, n)
    })
    .await;
    lane.close().await;
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn a_map_far_larger_than_its_memory() {
    let set = |name: &str| std::env::var(name).ok();
    let part = Part(set("ASHLAR_MAP_PART").map_or(1, |part| part.parse().unwrap()));
    assert!(part.0.is_power_of_two());
    let directory = set("ASHLAR_MAP_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = directory.join(format!("ashlar-map-{}", std::process::id()));
    let ended = std::panic::catch_unwind(|| {
        run(RuntimeOptions::new(Engine::IoUring), |reactor| {
            measure(reactor, path.clone(), part)
        })
    });
    std::fs::remove_file(&path).unwrap();
    ended.unwrap().unwrap();
}
