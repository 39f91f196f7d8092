//! How rebuilt replicas spread over the rest of a cluster, and how many are admitted at a time.

use super::*;
use crate::state::slots::{DISK_FRESH_MAX, NODE_FRESH_MAX};

const STORES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// Ten stores of four disks with 200 volumes, one store lost, its replicas out of every set. The
/// n-th volume has `bytes(n)`.
fn with_one_store_lost(bytes: impl Fn(u64) -> u64) -> Bench {
    let mut bench = Bench::with(&STORES, 4);
    for n in 0..200 {
        let request = CreateVolume {
            size_bytes: ByteCount::new(bytes(n)),
            ..volume(&format!("v{n}"), 3)
        };
        bench.commit(
            bench
                .state
                .plan_create(&bench.live, &request, SHARD_BYTES)
                .unwrap(),
        );
    }
    bench.settle();
    bench.set_up(1, false);
    for volume in bench.state.volumes() {
        bench.attach(&volume.name, "x");
        let shards = bench.state.volume_by_name(&volume.name).unwrap().shards;
        for shard in shards {
            let stay = |i: &usize| shard.replicas[*i].node != NodeId::new(1);
            let keep: Vec<usize> = (0..3).filter(stay).collect();
            if keep.len() < 3 {
                let index = shard.index.get();
                let proposal = bench.propose(&volume.name, index, shard.epoch.get(), &keep);
                let plan = bench.state.plan_in_sync(&volume.name, &proposal);
                bench.commit(plan.unwrap());
            }
        }
    }
    bench
}

/// The fresh replicas of all shards: where they lie, and how long they are.
fn fresh(bench: &Bench) -> Vec<(At, ReplicaId, DiskId, u64)> {
    let of_shard = |(at, row): (&At, &ShardRow)| {
        let bytes = shard_bytes(&bench.state.volumes[&at.0], at.1);
        let fresh = row.replicas.iter().filter(|r| r.fresh);
        let fresh = fresh.map(|r| (*at, r.id, r.disk, bytes));
        fresh.collect::<Vec<_>>()
    };
    bench.state.shards.iter().flat_map(of_shard).collect()
}

/// Brings the oldest fresh replica in sync.
fn finish(bench: &mut Bench, at: At) {
    let row = bench.state.shards[&at].clone();
    let name = bench.state.volumes[&at.0].name.clone();
    let proposal = bench.propose(&name, at.1.get(), row.epoch.get(), &[0, 1, 2]);
    let plan = bench.state.plan_in_sync(&name, &proposal).unwrap();
    bench.commit(plan);
}

/// Rebuilds everything; gives the bytes rebuilt on each disk that is left.
fn rebuild(bench: &mut Bench) -> BTreeMap<DiskId, u64> {
    let others = bench
        .state
        .disks
        .values()
        .filter(|d| d.node != NodeId::new(1));
    let mut rebuilt: BTreeMap<DiskId, u64> = others.map(|disk| (disk.report.id, 0)).collect();
    bench.wait(GRACE + Duration::from_secs(1));
    loop {
        let under_way = fresh(bench);
        assert!(under_way.len() <= NODE_FRESH_MAX * 9);
        for disk in rebuilt.keys() {
            let here = under_way.iter().filter(|(_, _, on, _)| on == disk).count();
            assert!(here <= DISK_FRESH_MAX, "{disk}: {here}");
        }
        let Some((at, _, disk, bytes)) = under_way.iter().min_by_key(|(_, id, ..)| *id) else {
            return rebuilt;
        };
        *rebuilt.get_mut(disk).unwrap() += *bytes;
        finish(bench, *at);
        bench.heal();
    }
}

fn assert_even(rebuilt: &BTreeMap<DiskId, u64>) {
    let (all, most) = (rebuilt.values().sum::<u64>(), rebuilt.values().max());
    let mean = all / rebuilt.len() as u64;
    let (most, mean) = (*most.unwrap(), mean);
    assert!(most * 10 < mean * 16, "most {most}, mean {mean}");
}

#[test]
fn a_lost_store_is_rebuilt_evenly_on_the_others() {
    for shards in [1, 2, 5] {
        let mut bench = with_one_store_lost(|_| shards * 4 * GIB);
        let lost = bench.healing().out_of_sync;
        assert!(lost >= 50, "{lost}");
        let rebuilt = rebuild(&mut bench);
        assert_even(&rebuilt);
        assert_eq!(bench.healing().out_of_sync, 0);
    }
}

#[test]
fn volumes_of_many_sizes_are_rebuilt_evenly_too() {
    let mut bench = with_one_store_lost(|n| (n * 7 % 40 + 1) * GIB);
    let rebuilt = rebuild(&mut bench);
    assert_even(&rebuilt);
}

#[test]
fn those_with_the_fewest_replicas_come_first() {
    let mut bench = Bench::with(&STORES[..5], 1);
    let lost = |r: &ashlar_proto::api::Replica| r.node == NodeId::new(1);
    let mut worst = None;
    for n in 0..40 {
        let name = format!("v{n}");
        let request = CreateVolume {
            size_bytes: ByteCount::new(GIB),
            ..volume(&name, 3)
        };
        bench.commit(
            bench
                .state
                .plan_create(&bench.live, &request, SHARD_BYTES)
                .unwrap(),
        );
        bench.settle();
        bench.attach(&name, "x");
        let replicas = bench.replicas(&name);
        let keep: Vec<usize> = (0..3).filter(|i| !lost(&replicas[*i])).collect();
        if keep.len() < 3 {
            bench.commit_set(&name, &keep);
            worst = Some((name, keep[0]));
        }
    }
    // Of the last volume that lost one, only one is left in sync.
    let (worst, left) = worst.unwrap();
    bench.commit_set(&worst, &[left]);
    bench.set_up(1, false);
    bench.wait(GRACE + Duration::from_secs(1));
    assert!(bench.healing().queued > 0);
    let first = fresh(&bench).into_iter().min_by_key(|(_, id, ..)| *id);
    let (at, ..) = first.unwrap();
    assert_eq!(bench.state.volumes[&at.0].name, worst);
}
