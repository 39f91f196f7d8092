//! How a simulated cluster begins: drawn from the seed, formatted, founded, and then spoilt.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ashlar_conductor::{ClusterOptions, Timing};
use ashlar_proto::api::{AckRule, CreateVolume};
use ashlar_proto::{BlockCount, ByteCount, ClusterId};
use ashlar_reactor::Instant;
use ashlar_reactor::sim::{World, fault::Plan};

use super::conductor::Conductor;
use super::metadata::{Archive, MetaFaults};
use super::stores::{Store, StoreSpec};
use super::{Cluster, ETCD_HOST, Scope, Together, VOLUME_NAME, host};
use crate::workload::{Record, Shape};

/// The cluster.
const CLUSTER: ClusterId = ClusterId::new(0xc1a5);

/// How often stores are heard, and after what silence they are down.
const HEARTBEAT: Duration = Duration::from_millis(300);
const SILENCE: Duration = Duration::from_secs(2);
/// How long the conductor waits for a disk, in ms.
const GRACE_MS: [u64; 2] = [3_000, 20_000];
/// How long the volume may take to be made.
const FOUND_LIMIT: Duration = Duration::from_secs(60);
/// How far clocks drift where they do: as far as the lease of reads allows.
const CLOCK_DRIFT_PPM: u32 = 100_000;
/// How many conductors there are where there are several.
const CONDUCTORS: [usize; 2] = [2, 3];
/// How often the volume is asked for until it is there: who was asked may lead no more.
const FOUND_AGAIN: Duration = Duration::from_secs(3);
/// Blocks of each shard.
const SHARD_BLOCKS: BlockCount = BlockCount::new(256);

impl Cluster {
    /// Draws one.
    pub(super) fn new(world: &World, scope: Scope) -> Self {
        let bug = match scope {
            Scope::Reference(bug) => Some(bug),
            Scope::Whole | Scope::Data => None,
        };
        let mut rng = world.fork_rng();
        let plan = Plan::draw(&mut rng);
        let replicas = [1, 2, 3, 3, 3][rng.index(5)];
        let shard_bytes = SHARD_BLOCKS.bytes();
        let volume_bytes = shard_bytes * rng.between(1, 3);
        let ack = if rng.chance(700_000) {
            AckRule::Majority
        } else {
            AckRule::All
        };
        let together = if rng.chance(200_000) && bug.is_none() {
            Together::One(None)
        } else {
            Together::Apart
        };
        let apart = matches!(together, Together::Apart);
        let mobile = apart && scope == Scope::Whole && rng.chance(500_000);
        let spare = if mobile { rng.index(3) } else { 0 };
        let spec = StoreSpec {
            apart,
            mobile,
            disks: if bug.is_none() {
                [1, 2, 2, 3][rng.index(4)]
            } else {
                1
            },
            tight: bug.is_none() && rng.chance(150_000),
            bug,
        };
        let stores: Vec<Store> = (0..replicas + spare)
            .map(|number| Store::new(world, number, spec, &plan, &mut rng))
            .collect();
        let faulty = replicas == 3 && apart && bug.is_none() && rng.chance(400_000);
        let mut victim = None;
        if faulty {
            let store = &stores[rng.index(replicas)];
            let disks = store.disks();
            let disk = disks[rng.index(disks.len())];
            victim = store.disk(world, disk).map(|_| disk);
        }
        let grace = rng.between(GRACE_MS[0], GRACE_MS[1]);
        let options = ClusterOptions {
            fresh: CLUSTER,
            timing: Timing {
                heartbeat: HEARTBEAT,
                silence: SILENCE,
                owner_silence: Duration::from_millis(rng.between(8_000, 25_000)),
                rebuild_after: Duration::from_millis(grace),
                ..Timing::default()
            },
            shard_bytes: ByteCount::new(shard_bytes),
        };
        let keeps_snapshots = stores.iter().all(Store::is_real) && rng.chance(600_000);
        let makes_clones = keeps_snapshots && rng.chance(500_000);
        let archive = Archive::new(rng.fork());
        let is_alone = !apart || scope != Scope::Whole || rng.chance(500_000);
        let conductor = if is_alone {
            Conductor::new(archive, options, rng.fork())
        } else {
            let etcd = world.process("etcd", host(ETCD_HOST));
            let count = CONDUCTORS[rng.index(CONDUCTORS.len())];
            Conductor::several(archive, options, rng.fork(), count, Some(etcd))
        };
        let shape = Shape::draw(&mut rng, volume_bytes / 512, shard_bytes / 512);
        let grows = scope == Scope::Whole && rng.chance(300_000);
        world.net_faults(|faults| *faults = plan.net());
        if rng.chance(300_000) {
            world.let_clocks_drift(CLOCK_DRIFT_PPM);
        }
        Self {
            world: world.clone(),
            scope,
            rng,
            plan,
            shape,
            replicas,
            stores,
            conductor,
            conductor_away_until: Instant::EPOCH,
            ack,
            record: Record::default(),
            lost: Rc::default(),
            spoilt: Rc::new(RefCell::new(victim.into_iter().collect())),
            served: Rc::default(),
            owners: Vec::new(),
            owner_away_until: Instant::EPOCH,
            owners_started: 0,
            together,
            is_open: false,
            mobile,
            victim,
            keeps_snapshots,
            keeper: None,
            makes_clones,
            cloner: None,
            grows,
            layers: Vec::new(),
        }
    }

    /// Makes the volume once all nodes are there, and waits until it can be attached.
    pub(super) async fn found_volume(&mut self) -> Result<(), String> {
        let archive = self.conductor.archive().clone();
        let request = CreateVolume {
            settings: std::collections::BTreeMap::new(),
            name: VOLUME_NAME.to_owned(),
            size_bytes: ByteCount::new(self.shape.sectors * 512),
            replicas: u8::try_from(self.replicas).unwrap_or(u8::MAX),
            ack: self.ack,
            reserve: ashlar_proto::api::Reserve::None,
            labels: std::collections::BTreeMap::new(),
        };
        let limit = self.world.now() + FOUND_LIMIT;
        let mut asked: Option<Instant> = None;
        while !archive.ledger(|ledger| ledger.is_ready()) {
            if self.world.now() >= limit {
                return Err("the volume is not made".to_owned());
            }
            let now = self.world.now();
            let is_asked = asked.is_some_and(|asked| now - asked < FOUND_AGAIN);
            if !is_asked && archive.ledger(|ledger| ledger.nodes()) == self.stores.len() {
                asked = Some(now);
                let request = request.clone();
                self.conductor.tell(Duration::ZERO, async move |cluster| {
                    if let Err(error) = cluster.create(request, FOUND_LIMIT).await {
                        tracing::info!(%error, "the volume is not made by this request");
                    }
                });
            }
            self.world.sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// From now on requests to the conductor and its metadata have faults.
    pub(super) fn spoil_roads(&mut self) {
        let mut roads = self.conductor.roads.borrow_mut();
        if self.rng.chance(300_000) {
            roads.lost_per_million = 50_000;
        }
        if self.scope != Scope::Whole {
            return;
        }
        if self.rng.chance(300_000) {
            roads.late_per_million = 30_000;
        }
        if self.rng.chance(400_000) {
            roads.echoes_per_million = 300_000;
        }
        let mut rate = || {
            let is_faulty = self.rng.chance(200_000);
            if is_faulty { 20_000 } else { 0 }
        };
        self.conductor.archive().set_faults(MetaFaults {
            errors_per_million: rate(),
            conflicts_per_million: rate(),
            compactions_per_million: rate(),
            held_up_per_million: rate(),
        });
    }
}
