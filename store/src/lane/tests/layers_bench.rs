//! What lookups cost in a volume with many snapshots. Prints times and asserts none:
//!
//! ```text
//! cargo test --release -p ashlar-store layers_cost -- --ignored --nocapture
//! ```

use std::time::Duration;

use ashlar_proto::Handle;
use ashlar_reactor::sim::DiskSpec;

use super::bench::{Bench, layer};
use crate::lane::Lane;
use crate::lane::leaf_cache::Use;
use crate::lane::lookup::{Trust, View};
use crate::lane::read::leaf_ranges;

const BLOCKS: u32 = 1 << 20;
const WRITES: u32 = 20_000;
const READS: u32 = 40_000;

/// A permutation of the blocks in which neighbours lie apart.
fn scattered(number: u32) -> u32 {
    number.wrapping_mul(2_654_435_761) % BLOCKS
}

/// Writes the same blocks, at so many labels in turn.
fn written(labels: u32, folded: bool, spread: u32) -> (Bench, Lane, Handle) {
    let bench = Bench::new(7, DiskSpec::write_through(2 << 30), None);
    let lane = bench.start();
    let shard = bench.create(&lane, 1, BLOCKS);
    for number in 0..WRITES {
        let label = 1 + number * labels / WRITES;
        let block = scattered(number) % spread;
        let raw = u64::from(number) + 1;
        bench
            .run(bench.write_at(&lane, shard, label, (block, 1), raw))
            .unwrap();
    }
    let core = lane.core().clone();
    if folded {
        bench.run(core.fold_all());
    }
    let handle = core.state.borrow().shards.handle_of(shard).unwrap();
    (bench, lane, handle)
}

/// What this thread has had of a processor, in nanoseconds: others may be busy on it.
fn cpu_nanos() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    told.split(' ').next().unwrap().parse().unwrap()
}

fn nanos_a_lookup((bench, lane, handle): &(Bench, Lane, Handle), spread: u32) -> f64 {
    let core = lane.core().clone();
    let look = |number: u32| {
        let core = core.clone();
        let block = scattered(number % WRITES) % spread;
        let range = leaf_ranges(*handle, block, 1).next().unwrap();
        async move {
            let view = View::Layer(layer(u32::MAX));
            let found = core.resolve(range, view, Trust::Served, Use::Request, |found| found);
            assert!(found.await.unwrap()[0].is_data());
        }
    };
    bench.run(async {
        for number in 0..WRITES {
            look(number).await;
            // What it has begun goes on.
            core.reactor.sleep(Duration::from_micros(1)).await;
        }
        let since = cpu_nanos();
        for number in 0..READS {
            look(number.wrapping_mul(7919)).await;
        }
        (cpu_nanos() - since) / f64::from(READS)
    })
}

#[test]
#[ignore = "prints times"]
fn layers_cost() {
    for (what, folded, spread) in [
        ("in leaves, 5 blocks a leaf, 1 GiB", true, BLOCKS),
        ("in leaves, 200 blocks a leaf, 25 MiB", true, 6400),
        ("in the overlay, 5 blocks a leaf, 1 GiB", false, BLOCKS),
    ] {
        let one = nanos_a_lookup(&written(1, folded, spread), spread);
        for labels in [200, 1000] {
            let many = nanos_a_lookup(&written(labels, folded, spread), spread);
            println!(
                "{what}: {one:.0} ns with one label, {many:.0} ns with {labels}: x{:.1}",
                many / one
            );
        }
    }
}
