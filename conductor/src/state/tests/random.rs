//! Random sequences of what happens to a cluster: the rules hold after every step, and once things
//! calm down every shard is whole on disks that take replicas.

use std::collections::BTreeSet;

use ashlar_proto::api::{
    Ailing, Incident, OwnerSeen, PeerSeen, Replica, ResizeVolume, Schedulable, repair_owner,
};

use super::*;
use crate::evidence::Witness;
use crate::row::VolumeRow;
use crate::state::repairs::NODE_REPAIRS_MAX;
use crate::state::resize::{is_served, shard_count, space};
use crate::state::slots::{DISK_FRESH_MAX, NODE_FRESH_MAX};

const NODES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const VOLUMES: u64 = 8;

mod layers;
mod targets;
use layers::Layers;
use targets::Targets;

/// xorshift64*: the same seed gives the same run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// A cluster with what its stores and owners are up to.
struct World {
    bench: Bench,
    rng: Rng,
    /// Disks that fail while their nodes are up.
    failed: BTreeSet<DiskId>,
    /// Disks that ail, as their stores say, and the incidents until now.
    ailing: BTreeMap<DiskId, Incident>,
    incidents: u32,
    /// Replicas that were made once and are lost.
    missing: BTreeSet<ReplicaId>,
    /// Replicas that stores have made.
    made: BTreeSet<ReplicaId>,
    /// How large they have made each.
    blocks: BTreeMap<ReplicaId, u32>,
    /// Volumes that have grown.
    grown: usize,
    moves_begun: usize,
    moves_called_off: u32,
    /// Stores and owners say anything of each other.
    is_gossip: bool,
    /// What was last seen of the layers.
    layers: Layers,
    /// What was last seen of targets.
    targets: Targets,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut bench = Bench::with(&NODES, 2);
        for n in 0..VOLUMES {
            let request = CreateVolume {
                size_bytes: ByteCount::new((n % 3 * 4 + 1) * GIB),
                ..volume(&format!("v{n}"), u8::try_from(n % 3 + 1).unwrap())
            };
            bench.commit(
                bench
                    .state
                    .plan_create(&bench.live, &request, SHARD_BYTES)
                    .unwrap(),
            );
        }
        bench.settle();
        let replicas = bench.state.shards.values().flat_map(|row| &row.replicas);
        let made = replicas.map(|r| r.id).collect();
        Self {
            bench,
            rng: Rng(seed * 2 + 1),
            failed: BTreeSet::new(),
            ailing: BTreeMap::new(),
            incidents: 0,
            missing: BTreeSet::new(),
            made,
            blocks: BTreeMap::new(),
            grown: 0,
            moves_begun: 0,
            moves_called_off: 0,
            is_gossip: true,
            layers: Layers::default(),
            targets: Targets::new(seed),
        }
    }

    fn is_up(&self, node: u64) -> bool {
        self.bench.state.is_up(NodeId::new(node))
    }

    /// A store that is up says how its disks are.
    fn beat(&mut self, node: u64) {
        let id = NodeId::new(node);
        let disks = self.bench.state.disks.values().filter(|row| row.node == id);
        let reports: Vec<DiskReport> = disks
            .map(|row| {
                let disk = row.report.id;
                let held = self.bench.state.holds.get(&disk).into_iter().flatten();
                let missing = held.map(|(_, held)| held.replica);
                DiskReport {
                    failed: self.failed.contains(&disk).then(|| "broken".to_owned()),
                    ailing: self.ailing.get(&disk).map(|incident| Ailing {
                        reason: "old age".to_owned(),
                        incident: *incident,
                    }),
                    missing: missing.filter(|id| self.missing.contains(id)).collect(),
                    // Small enough for disks to become uneven.
                    usable_bytes: ByteCount::new(20 * GIB),
                    ..report(disk.get())
                }
            })
            .collect();
        self.bench.say(node, &reports);
    }

    /// A store carries out what it is assigned, and says so.
    fn apply(&mut self, node: u64) {
        let id = NodeId::new(node);
        for assignment in self.bench.state.assignments(id) {
            let held = self.blocks.entry(assignment.replica).or_default();
            *held = assignment.blocks.max(*held);
            let is_new = !self.made.contains(&assignment.replica);
            if self.failed.contains(&assignment.disk) {
                continue;
            }
            if is_new && assignment.may_create {
                self.made.insert(assignment.replica);
            } else if is_new || self.missing.contains(&assignment.replica) {
                // Lost: it must not be made again.
                assert!(!assignment.may_create || is_new);
                self.missing.insert(assignment.replica);
            }
        }
        let at = self.bench.state.assigned(id).unwrap();
        self.bench.live.applied.insert(id, at);
        self.beat(node);
        let before = self.bench.state.volumes.clone();
        self.bench
            .commit(self.bench.state.plan_settle(&self.bench.live));
        self.check_grown(&before);
    }

    /// A volume has grown only once its replicas have.
    fn check_grown(&mut self, before: &BTreeMap<VolumeId, VolumeRow>) {
        let state = &self.bench.state;
        let after = state.volumes.values();
        let grown = after.filter(|row| row.size_bytes > before[&row.id].size_bytes);
        for volume in grown {
            self.grown += 1;
            assert_eq!(before[&volume.id].grows_to, Some(volume.size_bytes));
            for shard in state.shards_of(volume.id) {
                for replica in shard.replicas.iter().filter(|r| r.in_sync) {
                    let held = self.blocks.get(&replica.id).copied().unwrap_or_default();
                    assert!(held >= blocks(volume, shard.index), "{replica:?}");
                }
            }
        }
    }

    /// Somebody gives a volume another size, if it may have that.
    fn resize(&mut self) {
        let id = VolumeId::new(self.rng.below(VOLUMES) + 1);
        let row = self.bench.state.volumes[&id].clone();
        let request = ResizeVolume {
            size_bytes: ByteCount::new((self.rng.below(16) + 1) * GIB),
            shrink: self.rng.one_in(2),
            generation: Some(row.generation),
        };
        let (state, live) = (&self.bench.state, &self.bench.live);
        if let Ok(plan) = state.plan_resize(live, &row.name, &request) {
            self.bench.commit(plan);
        }
        self.check_rows();
    }

    fn is_there(&self, replica: &Replica) -> bool {
        self.bench.state.serves(replica.disk)
            && self.made.contains(&replica.id)
            && !self.missing.contains(&replica.id)
    }

    /// Who has a volume lets go of it, cleanly or not.
    fn let_go(&mut self, volume: &VolumeRow) {
        let request = DetachRequest {
            settled: self.rng.one_in(2),
            ..detach(volume.id, volume.generation.get())
        };
        let plan = self.bench.state.plan_detach(&volume.name, &request);
        self.bench.commit(plan.unwrap());
    }

    /// The owner of a volume, user or repair owner, takes one step with every shard.
    fn own(&mut self, volume: &VolumeRow) {
        if volume.attached_by.is_none() {
            return;
        }
        if self.rng.one_in(2) {
            self.report_layers(volume);
        }
        let shards: Vec<ShardRow> = self.bench.state.served_shards(volume).cloned().collect();
        for row in shards {
            if let Some(next) = self.next_set(volume, &row) {
                let proposal = ProposeInSync {
                    volume: volume.id,
                    generation: volume.generation,
                    shard: row.index,
                    epoch: row.epoch,
                    in_sync: next,
                };
                let plan = self.bench.state.plan_in_sync(&volume.name, &proposal);
                self.bench.commit(plan.unwrap());
                self.check_rows();
            }
        }
    }

    /// What an owner would propose: without who is gone, with who is back, without who leaves.
    fn next_set(&self, volume: &VolumeRow, row: &ShardRow) -> Option<Vec<ReplicaId>> {
        let set: Vec<&Replica> = row.replicas.iter().filter(|r| r.in_sync).collect();
        let there: Vec<&&Replica> = set.iter().filter(|r| self.is_there(r)).collect();
        let needed = (set.len() + 1 - volume.ack.ack_count(set.len())).max(1);
        if there.len() < needed {
            return None;
        }
        let ids = |list: &[&&Replica]| list.iter().map(|r| r.id).collect::<Vec<_>>();
        if there.len() < set.len() {
            return Some(ids(&there));
        }
        let mut next: Vec<ReplicaId> = ids(&there);
        let back = row.replicas.iter().find(|r| !r.in_sync && self.is_there(r));
        if let Some(back) = back {
            next.push(back.id);
            return Some(next);
        }
        let leaving = set.iter().find(|r| r.leaving)?;
        next.retain(|id| *id != leaving.id);
        (next.len() >= usize::from(volume.replicas)).then_some(next)
    }

    /// Repair owners attach what they are told to, and let go of the rest.
    fn repair(&mut self) {
        for (number, name) in (1..).zip(NODES) {
            if !self.is_up(number) {
                continue;
            }
            for task in self.bench.state.repairs(NodeId::new(number)) {
                let request = AttachRequest {
                    owner: repair_owner(name),
                    force: false,
                    repair: true,
                    server: None,
                    publication: None,
                };
                let plan = self.bench.state.plan_attach(
                    &self.bench.live,
                    self.bench.now,
                    &task.name,
                    &request,
                );
                if let Ok(plan) = plan {
                    self.bench.commit(plan);
                }
            }
        }
        let held: Vec<VolumeRow> = self.bench.state.volumes.values().cloned().collect();
        for row in held
            .iter()
            .filter(|row| row.attached_for_repair && row.repairer.is_none())
        {
            self.let_go(row);
        }
    }

    fn use_or_leave(&mut self, volume: &VolumeRow) {
        let used = volume.attached_by.is_some() && !volume.attached_for_repair;
        if used {
            self.let_go(volume);
        } else {
            let plan = self.bench.state.plan_attach(
                &self.bench.live,
                self.bench.now,
                &volume.name,
                &by("user", false),
            );
            self.bench.commit(plan.unwrap());
        }
    }

    fn schedule(&mut self, node: u64, schedulable: Schedulable) {
        let name = NODES[usize::try_from(node - 1).unwrap()];
        let plan = self.bench.state.plan_schedule_node(name, schedulable);
        self.bench.commit(plan.unwrap());
    }

    /// Anything that may happen.
    fn happen(&mut self) {
        let node = self.rng.below(NODES.len() as u64) + 1;
        let disk = DiskId::new(u128::from(node + 100 * self.rng.below(2)));
        match self.rng.below(24) {
            0 if self.is_up(node) => self.bench.set_up(node, false),
            0..=2 => self.beat(node),
            3 if self.failed.len() < 2 => {
                self.failed.insert(disk);
            }
            4 => {
                self.failed.clear();
            }
            5 => self.lose_one(),
            6 => self.schedule(node, Schedulable::Draining),
            7 => {
                let state = [Schedulable::Open, Schedulable::Cordoned];
                let state = state[usize::try_from(self.rng.below(2)).unwrap()];
                self.schedule(node, state);
            }
            8 => {
                let plan = self
                    .bench
                    .state
                    .plan_schedule_disk(disk, Schedulable::Draining);
                self.bench.commit(plan.unwrap());
            }
            9 => {
                let plan = self.bench.state.plan_schedule_disk(disk, Schedulable::Open);
                self.bench.commit(plan.unwrap());
            }
            10 => {
                let id = VolumeId::new(self.rng.below(VOLUMES) + 1);
                let row = self.bench.state.volumes[&id].clone();
                self.use_or_leave(&row);
            }
            11 if self.rng.one_in(4) => self.restart(),
            // Now and then more than half of all.
            16 => {
                self.incidents += 1;
                self.ailing.insert(disk, Incident(self.incidents));
            }
            17 if self.rng.one_in(2) => self.clear(disk),
            17 => self.ailing.clear(),
            18..=20 => self.change_snapshots(),
            21 => self.report_some(),
            22..=23 => self.resize(),
            12 => self.wait(GRACE + Duration::from_secs(2)),
            _ => self.wait(Duration::from_secs(3)),
        }
    }

    fn clear(&mut self, disk: DiskId) {
        let plan = self.bench.state.plan_clear_disk(disk);
        self.bench.commit(plan.unwrap());
    }

    /// A replica vanishes, if the shard can do without it.
    fn lose_one(&mut self) {
        let shards = self.bench.state.shards.len() as u64;
        let pick = usize::try_from(self.rng.below(shards)).unwrap();
        let Some(row) = self.bench.state.shards.values().nth(pick) else {
            return;
        };
        // What nobody uses yet is made again.
        if !is_served(&self.bench.state.volumes[&row.volume], row.index) {
            return;
        }
        let there = row
            .replicas
            .iter()
            .filter(|r| r.in_sync && self.is_there(r));
        if there.count() == 3 {
            self.missing.insert(row.replicas[0].id);
        }
    }

    /// The conductor starts anew from its rows.
    fn restart(&mut self) {
        self.bench.state = read_back(&self.bench.state);
        self.bench.state.renew_assignments();
        self.bench.live.applied.clear();
        self.bench.live.absence = Absence::new(GRACE, SILENCE, self.bench.now);
        self.bench.live.fills = Fills::new(SILENCE, self.bench.now);
    }

    fn wait(&mut self, time: Duration) {
        let from = self.bench.now;
        for second in 1..=time.as_secs() {
            self.bench.now = from.later(Duration::from_secs(second));
            self.heal();
        }
    }

    /// Somebody says something, true or not.
    fn gossip(&mut self) {
        let nodes = NODES.len() as u64;
        let (witness, about) = (self.rng.below(nodes) + 1, self.rng.below(nodes) + 1);
        let seen = [about, witness % nodes + 1].map(|node| PeerSeen {
            node: NodeId::new(node),
            reached: self.rng.one_in(2),
        });
        let (now, witness) = (self.bench.now, NodeId::new(witness));
        let evidence = &mut self.bench.live.evidence;
        evidence.note_reach(now, Witness::Node(witness), &seen);
        let volumes: Vec<VolumeRow> = self.bench.state.volumes.values().cloned().collect();
        let owners = volumes.iter().filter(|_| self.rng.one_in(6));
        let owners: Vec<OwnerSeen> = owners
            .map(|volume| OwnerSeen {
                volume: volume.id,
                generation: volume.generation,
                idle_ms: 0,
            })
            .collect();
        evidence.note_sightings(now, witness, Some(&owners));
    }

    /// What is said is weighed, as the conductor does before it heals.
    fn judge(&mut self) {
        let (now, bench) = (self.bench.now, &mut self.bench);
        bench.live.evidence.look(now);
        bench.live.evidence.tidy(now, |_| true);
        for (volume, generation) in bench.state.attached() {
            bench.live.evidence.expect(now, volume, generation);
        }
        bench.live.judgment = bench.state.judge(&bench.live.evidence, now);
        let missed = (1..=NODES.len() as u64).map(NodeId::new);
        let missed = missed.filter(|node| bench.live.judgment.is_missed(*node));
        let up = bench.state.nodes_up();
        let others = up
            .iter()
            .filter(|node| !bench.live.judgment.is_missed(**node));
        let (missed, others) = (missed.count(), others.count());
        assert!(missed == 0 || missed < others, "the many are not missed");
    }

    /// The conductor's look at its clock, with all that it must not do.
    fn heal(&mut self) {
        if self.is_gossip {
            self.gossip();
        }
        self.judge();
        let away = self.bench.state.disks_away(&self.bench.live);
        self.bench.live.absence.note(self.bench.now, &away);
        let fills = self.bench.state.fills();
        self.bench.live.fills.note(self.bench.now, &fills);
        let before = self.bench.state.shards.clone();
        let fresh_before = self.slots_taken();
        let plan = self.bench.state.plan_healing(&self.bench.live);
        let outlook = self.bench.commit(plan);
        let plan = self.bench.state.plan_rebalance(&self.bench.live, &outlook);
        let done = self.bench.commit(plan);
        self.moves_begun += done.begun.len();
        self.moves_called_off += done.called_off;
        for (at, after) in &self.bench.state.shards {
            let in_sync = |row: &ShardRow| {
                let set = row.replicas.iter().filter(|r| r.in_sync);
                set.map(|r| (r.id, r.disk)).collect::<Vec<_>>()
            };
            assert_eq!(in_sync(&before[at]), in_sync(after));
            assert_eq!(before[at].epoch, after.epoch);
        }
        let fresh_after = self.slots_taken();
        for (disk, count) in &fresh_after {
            let was = fresh_before.get(disk).copied().unwrap_or_default();
            assert!(*count <= was.max(DISK_FRESH_MAX));
        }
        let (was, is): (usize, usize) = (fresh_before.values().sum(), fresh_after.values().sum());
        let most = NODE_FRESH_MAX * self.bench.state.nodes_up().len();
        assert!(is <= was.max(most));
        self.check_rows();
        let now = self.bench.now;
        let plan = self.bench.state.plan_repairs(&self.bench.live, now);
        let turns = self.bench.commit(plan);
        self.bench.live.note_turns(now, &turns);
        for node in 1..=NODES.len() as u64 {
            let tasks = self.bench.state.repairs(NodeId::new(node));
            assert!(tasks.len() <= NODE_REPAIRS_MAX);
            assert!(tasks.is_empty() || self.is_up(node));
        }
    }

    /// The slots that fresh replicas hold.
    fn slots_taken(&self) -> BTreeMap<DiskId, usize> {
        let mut counts = BTreeMap::new();
        let fills = self.bench.state.fills();
        for replica in self
            .bench
            .state
            .shards
            .values()
            .flat_map(|row| &row.replicas)
        {
            if fills.contains_key(&replica.id) && !self.bench.live.fills.is_over(replica.id) {
                *counts.entry(replica.disk).or_default() += 1;
            }
        }
        counts
    }

    /// What holds of every shard at all times.
    fn check_rows(&mut self) {
        self.layers.check(&self.bench.state);
        for volume in self.bench.state.volumes.values() {
            let count = self.bench.state.shards_of(volume.id).count();
            assert_eq!(count, shard_count(volume, space(volume)) as usize);
            assert!(volume.grows_to.is_none_or(|to| to > volume.size_bytes));
        }
        for (at, row) in &self.bench.state.shards {
            let wanted = usize::from(self.bench.state.volumes[&at.0].replicas);
            let count = row.replicas.len();
            assert!((wanted..=wanted + 1).contains(&count), "{row:?}");
            assert!(row.replicas.iter().any(|r| r.in_sync), "{row:?}");
            assert!(row.replicas.iter().filter(|r| r.leaving).count() <= 1);
            assert!(!row.rebalancing || row.replicas.iter().any(|r| r.leaving));
            assert!(row.replicas.iter().all(|r| !(r.fresh && r.in_sync)));
            assert!(self.bench.lies_apart(row), "{row:?}");
            assert!(
                row.made
                    .iter()
                    .all(|id| row.replicas.iter().any(|r| r.id == *id))
            );
        }
    }

    /// Everybody does their part for a while.
    fn work(&mut self) {
        for node in 1..=NODES.len() as u64 {
            if self.is_up(node) {
                self.apply(node);
            }
        }
        self.repair();
        let volumes: Vec<VolumeRow> = self.bench.state.volumes.values().cloned().collect();
        for volume in volumes.iter().filter(|row| !is_idle(row)) {
            self.own(volume);
        }
        self.heal();
    }

    fn is_whole(&self) -> bool {
        let mut shards = self.bench.state.shards.values();
        shards.all(|row| self.is_row_whole(row))
    }

    fn is_row_whole(&self, row: &ShardRow) -> bool {
        let wanted = usize::from(self.bench.state.volumes[&row.volume].replicas);
        let is_good = |r: &Replica| {
            let is_open = self.bench.state.schedulable(r.disk) != Schedulable::Draining;
            r.in_sync && !r.leaving && is_open && self.is_there(r)
        };
        row.replicas.len() == wanted && row.replicas.iter().all(is_good)
    }
}

/// Whether its owner is one that does nothing.
fn is_idle(volume: &VolumeRow) -> bool {
    volume.attached_by.as_deref() == Some("idle")
}

/// Gives how many moves to even out disks began, and were called off for lost replicas, and how often
/// a volume has gone back to a snapshot.
fn run(seed: u64) -> ((usize, u32), u32, usize) {
    let mut world = World::new(seed);
    for _ in 0..120 {
        world.happen();
        world.change_targets();
        if !world.rng.one_in(3) {
            world.work();
        }
    }
    // Calm: all but one node take replicas, that one is drained, and a disk of another one ails.
    world.failed.clear();
    world.is_gossip = false;
    let drained = world.rng.below(NODES.len() as u64) + 1;
    world.ailing.clear();
    world.incidents += 1;
    let ails = DiskId::new(u128::from(drained % NODES.len() as u64 + 1));
    for node in 1..=NODES.len() as u64 {
        world.beat(node);
        world.schedule(node, Schedulable::Open);
        for disk in [node, node + 100].map(|disk| DiskId::new(u128::from(disk))) {
            world.clear(disk);
            let plan = world
                .bench
                .state
                .plan_schedule_disk(disk, Schedulable::Open);
            world.bench.commit(plan.unwrap());
        }
    }
    world.schedule(drained, Schedulable::Draining);
    world.ailing.insert(ails, Incident(world.incidents));
    for _ in 0..400 {
        world.work();
        world.wait(Duration::from_secs(1));
        let is_calm = !world.bench.state.rebalance.active && !world.is_any_layer_pending();
        if world.is_whole() && is_calm {
            world.work();
            world.work();
            assert!(world.is_whole(), "seed {seed}: it stays whole");
            let held = world.bench.state.volumes.values();
            assert!(
                held.clone().all(|row| row.repairer.is_none()),
                "seed {seed}"
            );
            assert!(
                held.clone().all(|row| !row.attached_for_repair),
                "seed {seed}"
            );
            assert_eq!(world.bench.healing().out_of_sync, 0);
            assert_eq!(world.bench.state.replicas_on(ails), 0, "seed {seed}");
            let state = &world.bench.state;
            assert_eq!(read_back(state).snapshots, state.snapshots, "seed {seed}");
            assert_eq!(read_back(state).targets, state.targets, "seed {seed}");
            assert_eq!(read_back(state).reservations, state.reservations);
            assert!(world.targets.mapped > 0 && world.targets.replaced > 0);
            let rollbacks = world.layers.rollbacks;
            assert!(state.growing.is_empty(), "seed {seed}: all have grown");
            let moves = (world.moves_begun, world.moves_called_off);
            return (moves, rollbacks, world.grown);
        }
    }
    let left = world.bench.healing();
    let shards = world.bench.state.shards.values();
    let bad: Vec<_> = shards.filter(|row| !world.is_row_whole(row)).collect();
    panic!("seed {seed} does not converge: {left:?} {bad:#?}");
}

#[test]
fn random_clusters_keep_the_rules_and_become_whole() {
    let (mut begun, mut called_off, mut rollbacks, mut grown) = (0, 0, 0, 0);
    for seed in 1..=40 {
        let (moves, back, larger) = run(seed);
        begun += moves.0;
        called_off += moves.1;
        rollbacks += back;
        grown += larger;
    }
    assert!(begun > 100 && called_off > 0, "{begun} {called_off}");
    assert!(rollbacks > 30, "{rollbacks}");
    assert!(grown > 20, "{grown}");
}

/// A node is drained of which the owners of most volumes fill nothing, more than there are slots, and
/// they come first: the others become whole nevertheless.
fn run_with_idle_owners(seed: u64) {
    let mut world = World::new(seed);
    let mut owners: Vec<(String, &str)> = (0..VOLUMES).map(|n| (format!("v{n}"), "idle")).collect();
    owners.extend((0..10).map(|n| (format!("idle{n}"), "idle")));
    owners.extend((0..6).map(|n| (format!("user{n}"), "user")));
    for (name, _) in &owners[usize::try_from(VOLUMES).unwrap()..] {
        let request = CreateVolume {
            size_bytes: ByteCount::new(9 * GIB),
            ..volume(name, 3)
        };
        let plan = world
            .bench
            .state
            .plan_create(&world.bench.live, &request, SHARD_BYTES);
        world.bench.commit(plan.unwrap());
    }
    for node in 1..=NODES.len() as u64 {
        world.apply(node);
    }
    for (name, owner) in &owners {
        let plan = world.bench.state.plan_attach(
            &world.bench.live,
            world.bench.now,
            name,
            &by(owner, false),
        );
        world.bench.commit(plan.unwrap());
    }
    let first = world.rng.below(NODES.len() as u64);
    let node = |step: u64| (first + step) % NODES.len() as u64 + 1;
    world.schedule(node(0), Schedulable::Draining);
    for step in 1..3 {
        world.schedule(node(step), Schedulable::Cordoned);
    }
    // Each of a few rounds of slots takes its time.
    for _ in 0..4000 {
        let from = world.bench.now;
        world.bench.now = from.later(Duration::from_secs(4));
        world.work();
        let mut shards = world.bench.state.shards.values();
        let is_done = |row: &ShardRow| {
            is_idle(&world.bench.state.volumes[&row.volume]) || world.is_row_whole(row)
        };
        if shards.all(is_done) {
            return;
        }
    }
    panic!("seed {seed}: {:?}", world.bench.healing());
}

#[test]
fn owners_that_fill_nothing_hold_nobody_up() {
    for seed in 1..=6 {
        run_with_idle_owners(seed);
    }
}
