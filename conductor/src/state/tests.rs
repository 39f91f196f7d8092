//! Plans and views of a small cluster, with no store and no clock behind them.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::api::{
    AckRule, AttachRequest, CreateVolume, DetachRequest, DiskReport, Health, ProposeInSync,
    RegisterNode, Replica, VolumeState,
};
use ashlar_proto::limits::SHARD_BYTES_DEFAULT;
use ashlar_proto::{Epoch, Generation};

use ashlar_proto::ByteCount;

use super::*;
use crate::absence::Absence;
use crate::evidence::Evidence;
use crate::fills::Fills;
use crate::live::Live;
use crate::membership::{Membership, Moment};
use crate::refusal::{NodeRefusal, Refusal, VolumeRefusal};

mod ailing;
mod attachers;
mod clients;
mod clones;
mod drain;
mod evidence;
mod groups;
mod healing;
mod identities;
mod labels;
mod pools;
mod publications;
mod random;
mod rebalance;
mod repairs;
mod reservations;
mod resize;
mod servers;
mod settings;
mod slots;
mod snapshots;
mod space;
mod spread;
mod targets;

const GIB: u64 = 1 << 30;

/// Bytes of each shard of a volume.
const SHARD_BYTES: ByteCount = ByteCount::new(SHARD_BYTES_DEFAULT);

/// How long a disk is waited for.
const GRACE: Duration = Duration::from_secs(300);
const SILENCE: Duration = Duration::from_secs(5);
const OWNER_SILENCE: Duration = Duration::from_secs(30);

/// A state with a counter for a store, and a clock.
struct Bench {
    state: ClusterState,
    live: Live,
    now: Moment,
}

fn report(disk: u128) -> DiskReport {
    DiskReport {
        id: DiskId::new(disk),
        path: format!("/disk{disk}"),
        lanes: 2,
        usable_bytes: ByteCount::new(100 * GIB),
        used_bytes: ByteCount::new(0),
        volatile_cache: false,
        damage: BTreeMap::new(),
        failed: None,
        ailing: None,
        missing: Vec::new(),
        map: None,
        ..DiskReport::default()
    }
}

fn node(name: &str, port: u16, disks: &[u128]) -> RegisterNode {
    RegisterNode {
        name: name.to_owned(),
        address: format!("127.0.0.1:{port}").parse().unwrap(),
        labels: BTreeMap::new(),
        disks: disks.iter().map(|disk| report(*disk)).collect(),
    }
}

fn volume(name: &str, replicas: u8) -> CreateVolume {
    let size_bytes = ByteCount::new(10 * GIB);
    CreateVolume {
        settings: std::collections::BTreeMap::new(),
        name: name.to_owned(),
        size_bytes,
        replicas,
        ack: AckRule::Majority,
        reserve: ashlar_proto::api::Reserve::None,
        labels: std::collections::BTreeMap::new(),
    }
}

fn by(owner: &str, force: bool) -> AttachRequest {
    AttachRequest {
        owner: owner.to_owned(),
        force,
        repair: false,
        server: None,
        publication: None,
    }
}

fn detach(volume: VolumeId, generation: u32) -> DetachRequest {
    DetachRequest {
        volume,
        generation: Generation::new(generation),
        served: false,
        settled: false,
    }
}

impl Bench {
    /// A cluster of three nodes with a disk each.
    fn new() -> Self {
        Self::with(&["a", "b", "c"], 1)
    }

    /// A cluster of nodes with these names, 1 and so on, with `disks` disks each. The first of node
    /// 2 is disk 2, its second disk 102.
    fn with(names: &[&str], disks: u128) -> Self {
        let membership = Membership::new(SILENCE, Moment::default());
        let absence = Absence::new(GRACE, SILENCE, Moment::default());
        let fills = Fills::new(SILENCE, Moment::default());
        let evidence = Evidence::new(SILENCE, OWNER_SILENCE);
        let mut bench = Self {
            state: ClusterState::empty(),
            live: Live::new(membership, absence, fills, evidence),
            now: Moment::default(),
        };
        bench.commit(ClusterState::found(ClusterId::new(1)));
        for (i, name) in (1..).zip(names) {
            let of_node: Vec<u128> = (0..disks).map(|d| d * 100 + u128::from(i)).collect();
            let request = node(name, 7000 + i, &of_node);
            bench.commit(bench.state.plan_register(&request).unwrap());
        }
        bench
    }

    /// Time passes, and the conductor looks at its clock every second.
    fn wait(&mut self, time: Duration) {
        let from = self.now;
        for second in 1..=time.as_secs() {
            self.now = from.later(Duration::from_secs(second));
            self.heal();
        }
    }

    /// The conductor looks at its clock once.
    fn heal(&mut self) {
        for (volume, generation) in self.state.attached() {
            self.live.evidence.expect(self.now, volume, generation);
        }
        self.live.evidence.look(self.now);
        self.live.judgment = self.state.judge(&self.live.evidence, self.now);
        let away = self.state.disks_away(&self.live);
        self.live.absence.note(self.now, &away);
        self.live.fills.note(self.now, &self.state.fills());
        self.commit(self.state.plan_healing(&self.live));
        let turns = self.commit(self.state.plan_repairs(&self.live, self.now));
        self.live.note_turns(self.now, &turns);
    }

    /// The replicas of the first shard of a volume.
    fn replicas(&self, name: &str) -> Vec<ashlar_proto::api::Replica> {
        let volume = self.state.volume_by_name(name).unwrap();
        volume.shards[0].replicas.clone()
    }

    /// Commits a set of the first shard, given by positions in its row.
    fn commit_set(&mut self, name: &str, keep: &[usize]) {
        let epoch = self.state.volume_by_name(name).unwrap().shards[0].epoch;
        let proposal = self.propose(name, 0, epoch.get(), keep);
        let plan = self.state.plan_in_sync(name, &proposal).unwrap();
        self.commit(plan);
    }

    /// What a store says of its disks.
    fn say(&mut self, node: u64, reports: &[DiskReport]) {
        let plan = self.state.plan_heartbeat(NodeId::new(node), reports);
        self.commit(plan.unwrap());
    }

    fn healing(&self) -> ashlar_proto::api::Healing {
        self.state.status(&self.live, self.now).healing
    }

    fn commit<T>(&mut self, plan: Plan<T>) -> T {
        if !plan.changes.is_empty() {
            let revision = Revision(self.state.revision().0 + 1);
            for change in &plan.changes {
                let value = match change {
                    Change::Put { value, .. } => Some(value.as_slice()),
                    Change::Delete { .. } => None,
                };
                self.state.apply(revision, change.key(), value).unwrap();
                assert_eq!(self.state.totals, self.state.summed_anew(), "{change:?}");
                assert_eq!(self.state.notable, self.state.noted_anew(), "{change:?}");
            }
            self.check_notable();
        }
        plan.answer
    }

    /// Whoever looks at what is notable finds what a look at everything finds.
    fn check_notable(&self) {
        let state = &self.state;
        let shards = state.shards.keys().copied().collect();
        let volumes = state.volumes.keys().copied().collect();
        let healing = |plan: Plan<Outlook>| (plan.answer, format!("{:?}", plan.changes));
        assert_eq!(
            healing(state.plan_healing(&self.live)),
            healing(state.plan_healing_of(&self.live, &shards))
        );
        let repairs = |plan: Plan<Turns>| (plan.answer, format!("{:?}", plan.changes));
        assert_eq!(
            repairs(state.plan_repairs(&self.live, self.now)),
            repairs(state.plan_repairs_of(&self.live, self.now, &volumes))
        );
        let unwell = |volumes| {
            let mut found = state.health_of(volumes);
            found.retain(|health| *health != Health::Healthy);
            found
        };
        let notable = state.notable_volumes(&self.live);
        assert_eq!(unwell(&notable), unwell(&volumes));
    }

    fn create(&mut self, name: &str, replicas: u8) -> VolumeId {
        let plan = self
            .state
            .plan_create(&self.live, &volume(name, replicas), SHARD_BYTES)
            .unwrap();
        self.commit(plan)
    }

    /// Every node carries out what it is assigned.
    fn settle(&mut self) {
        for node in self.state.nodes_up() {
            self.live
                .applied
                .insert(node, self.state.assigned(node).unwrap());
        }
        self.commit(self.state.plan_settle(&self.live));
    }

    /// A volume of one shard.
    fn ready_small(&mut self, name: &str) {
        let small = CreateVolume {
            size_bytes: ByteCount::new(GIB),
            ..volume(name, 3)
        };
        let plan = self.state.plan_create(&self.live, &small, SHARD_BYTES);
        self.commit(plan.unwrap());
        self.settle();
    }

    /// Whether no two replicas of a shard lie on one node, but for one that leaves and its successor.
    fn lies_apart(&self, row: &ShardRow) -> bool {
        row.replicas.iter().enumerate().all(|(at, one)| {
            let node = self.state.node_of(one);
            let same = |other: &&Replica| self.state.node_of(other) == node;
            let mut met = row.replicas[at + 1..].iter().filter(same);
            met.all(|other| one.leaving && !other.leaving)
        })
    }

    fn ready(&mut self, name: &str, replicas: u8) -> VolumeId {
        let id = self.create(name, replicas);
        self.settle();
        id
    }

    fn attach(&mut self, name: &str, owner: &str) -> Generation {
        let plan = self
            .state
            .plan_attach(&self.live, self.now, name, &by(owner, false))
            .unwrap();
        self.commit(plan).volume.generation
    }

    fn propose(&self, name: &str, shard: u32, epoch: u32, keep: &[usize]) -> ProposeInSync {
        let volume = self.state.volume_by_name(name).unwrap();
        let shard = &volume.shards[usize::try_from(shard).unwrap()];
        ProposeInSync {
            volume: volume.id,
            generation: volume.generation,
            shard: shard.index,
            epoch: Epoch::new(epoch),
            in_sync: keep.iter().map(|i| shard.replicas[*i].id).collect(),
        }
    }

    fn set_up(&mut self, node: u64, up: bool) {
        let id = NodeId::new(node);
        let plan = if up {
            let disks = self.state.disks.values().filter(|disk| disk.node == id);
            let reports: Vec<DiskReport> = disks.map(|disk| report(disk.report.id.get())).collect();
            self.state.plan_heartbeat(id, &reports).unwrap()
        } else {
            let plan = self.state.plan_silence(&[id]);
            Plan {
                reads: plan.reads,
                changes: plan.changes,
                answer: (),
            }
        };
        self.commit(plan);
    }

    fn health(&self, name: &str) -> Health {
        self.state.volume_by_name(name).unwrap().health
    }
}

/// A state made from the rows of another, as after a start.
fn read_back(state: &ClusterState) -> ClusterState {
    let mut rows = vec![
        AnyRow::Cluster(state.cluster.clone()),
        AnyRow::Rebalance(state.rebalance),
    ];
    rows.extend(state.volumes.values().cloned().map(AnyRow::Volume));
    rows.extend(state.shards.values().cloned().map(AnyRow::Shard));
    rows.extend(state.snapshots.all().cloned().map(AnyRow::Snapshot));
    rows.extend(state.groups.values().cloned().map(AnyRow::Group));
    rows.extend(state.disks.values().cloned().map(AnyRow::Disk));
    rows.extend(state.nodes.values().cloned().map(AnyRow::Node));
    rows.extend(state.denied.values().cloned().map(AnyRow::Denied));
    rows.extend(state.targets.values().cloned().map(AnyRow::Target));
    rows.extend(
        state
            .reservations
            .values()
            .cloned()
            .map(AnyRow::Reservations),
    );
    rows.extend(state.settings.rows());
    rows.extend(state.names.iter().map(|(name, volume)| {
        let (name, volume) = (name.clone(), *volume);
        AnyRow::Name(crate::row::NameRow { name, volume })
    }));
    let mut puts: Vec<Change> = rows.iter().map(AnyRow::put).collect();
    puts.sort_by(|a, b| a.key().cmp(b.key()));
    let mut again = ClusterState::empty();
    for put in puts {
        let Change::Put { key, value } = put else {
            panic!("a put")
        };
        let at = state.modified(&key);
        again.apply(at, &key, Some(&value)).unwrap();
    }
    again.reached(state.revision());
    again
}

#[test]
fn a_volume_is_ready_when_all_its_nodes_have_applied() {
    let mut bench = Bench::new();
    let id = bench.create("v", 3);
    let of = |bench: &Bench| bench.state.volume(id).unwrap().state;
    assert_eq!(of(&bench), VolumeState::Creating);
    for node in [1, 2] {
        let at = bench.state.assigned(NodeId::new(node)).unwrap();
        bench.live.applied.insert(NodeId::new(node), at);
    }
    bench.commit(bench.state.plan_settle(&bench.live));
    assert_eq!(of(&bench), VolumeState::Creating);
    bench.settle();
    assert_eq!(of(&bench), VolumeState::Ready);
}

#[test]
fn assignments_name_every_shard_with_its_length() {
    let mut bench = Bench::new();
    bench.create("v", 3);
    for node in [1, 2, 3] {
        let list = bench.state.assignments(NodeId::new(node));
        let blocks: Vec<u32> = list.iter().map(|a| a.blocks).collect();
        assert_eq!(blocks, [1 << 20, 1 << 20, 1 << 19]);
    }
}

#[test]
fn replicas_are_made_only_while_their_volume_is_created() {
    let mut bench = Bench::new();
    let made = |bench: &Bench| -> Vec<bool> {
        let list = bench.state.assignments(NodeId::new(1));
        list.iter()
            .map(|assignment| assignment.may_create)
            .collect()
    };
    bench.create("v", 3);
    assert_eq!(made(&bench), [true; 3]);
    bench.settle();
    assert_eq!(made(&bench), [false; 3]);
}

#[test]
fn a_name_is_taken_until_its_volume_is_gone_and_ids_are_not_given_again() {
    let mut bench = Bench::new();
    let first = bench.ready("v", 3);
    let taken = bench
        .state
        .plan_create(&bench.live, &volume("v", 1), SHARD_BYTES)
        .unwrap_err();
    assert_eq!(
        taken,
        VolumeRefusal::Exists {
            name: "v".to_owned()
        }
        .into()
    );
    let plan = bench.state.plan_delete("v", false).unwrap();
    bench.commit(plan);
    assert!(
        bench
            .state
            .plan_create(&bench.live, &volume("v", 1), SHARD_BYTES)
            .is_err()
    );
    assert!(bench.state.assignments(NodeId::new(1)).is_empty());
    bench.settle();
    assert_eq!(bench.state.volume(first), None);
    assert_ne!(bench.create("v", 1), first);
}

#[test]
fn a_deletion_does_not_wait_for_a_node_that_is_down() {
    let mut bench = Bench::new();
    let id = bench.ready("v", 3);
    bench.set_up(3, false);
    let plan = bench.state.plan_delete("v", false).unwrap();
    bench.commit(plan);
    for node in [1, 2].map(NodeId::new) {
        let at = bench.state.assigned(node).unwrap();
        bench.live.applied.insert(node, at);
    }
    bench.commit(bench.state.plan_settle(&bench.live));
    assert_eq!(bench.state.volume(id), None);
}

#[test]
fn attach_is_exclusive_and_each_grant_is_a_new_generation() {
    let mut bench = Bench::new();
    bench.create("v", 3);
    let early = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &by("x", false))
        .unwrap_err();
    assert!(matches!(
        early,
        Refusal::Volume(VolumeRefusal::NotReady { .. })
    ));
    bench.settle();
    assert_eq!(bench.attach("v", "x"), Generation::new(1));
    let other = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &by("y", false))
        .unwrap_err();
    assert!(other.to_string().contains("attached by `x`"), "{other}");
    assert_eq!(bench.attach("v", "x"), Generation::new(2));
    let id = bench.state.volume_by_name("v").unwrap().id;
    let plan = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &by("y", true))
        .unwrap();
    assert_eq!(bench.commit(plan).volume.generation, Generation::new(3));
    let stale = bench.state.plan_detach("v", &detach(id, 2)).unwrap_err();
    assert!(matches!(
        stale,
        Refusal::Volume(VolumeRefusal::StaleGeneration { .. })
    ));
    let plan = bench.state.plan_detach("v", &detach(id, 3)).unwrap();
    bench.commit(plan);
    let again = bench.state.plan_detach("v", &detach(id, 3)).unwrap();
    assert!(again.changes.is_empty());
    assert_eq!(bench.attach("v", "z"), Generation::new(4));
}

#[test]
fn attached_volumes_are_deleted_only_by_force() {
    let mut bench = Bench::new();
    bench.ready("v", 1);
    bench.attach("v", "x");
    assert!(bench.state.plan_delete("v", false).is_err());
    assert!(bench.state.plan_delete("v", true).is_ok());
}

#[test]
fn in_sync_sets_change_by_the_current_generation_and_epoch_only() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.attach("v", "x");
    let proposal = bench.propose("v", 1, 1, &[0, 2]);
    let plan = bench.state.plan_in_sync("v", &proposal).unwrap();
    let committed = bench.commit(plan).shard;
    assert_eq!(committed.epoch, Epoch::new(2));
    let flags: Vec<bool> = committed.replicas.iter().map(|r| r.in_sync).collect();
    assert_eq!(flags, [true, false, true]);
    // Repeated, it is answered as the first time.
    let again = bench.state.plan_in_sync("v", &proposal).unwrap();
    assert!(again.changes.is_empty());
    assert_eq!(again.answer.shard, committed);
    // Another set on the old epoch is not.
    let other = bench.propose("v", 1, 1, &[0]);
    let stale = bench.state.plan_in_sync("v", &other).unwrap_err();
    assert!(matches!(
        stale,
        Refusal::Volume(VolumeRefusal::StaleEpoch { .. })
    ));
    let empty = bench.propose("v", 1, 2, &[]);
    assert!(matches!(
        bench.state.plan_in_sync("v", &empty),
        Err(Refusal::Invalid(_))
    ));
    let foreign = ProposeInSync {
        shard: ShardIndex::new(0),
        epoch: Epoch::new(1),
        ..proposal.clone()
    };
    assert!(matches!(
        bench.state.plan_in_sync("v", &foreign),
        Err(Refusal::Volume(VolumeRefusal::ReplicaGone { .. }))
    ));
    // After another attach, not even the same is.
    bench.attach("v", "x");
    let stale = bench.state.plan_in_sync("v", &proposal).unwrap_err();
    assert!(matches!(
        stale,
        Refusal::Volume(VolumeRefusal::StaleGeneration { .. })
    ));
}

#[test]
fn health_follows_nodes_and_sets() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.attach("v", "x");
    assert_eq!(bench.health("v"), Health::Healthy);
    bench.set_up(1, false);
    assert_eq!(bench.health("v"), Health::Degraded);
    bench.set_up(2, false);
    assert_eq!(bench.health("v"), Health::Unavailable);
    bench.set_up(2, true);
    bench.set_up(1, true);
    assert_eq!(bench.health("v"), Health::Healthy);
    let plan = bench
        .state
        .plan_in_sync("v", &bench.propose("v", 0, 1, &[0, 1]))
        .unwrap();
    bench.commit(plan);
    assert_eq!(bench.health("v"), Health::Degraded);
    assert_eq!(
        bench.state.status(&bench.live, Moment::default()).health,
        Health::Degraded
    );
}

#[test]
fn placement_uses_nodes_that_are_up() {
    let mut bench = Bench::new();
    bench.set_up(2, false);
    let refused = bench
        .state
        .plan_create(&bench.live, &volume("v", 3), SHARD_BYTES)
        .unwrap_err();
    let text = refused.to_string();
    assert!(
        text.starts_with("3 replicas need 3 nodes with room, 2 are up"),
        "{text}"
    );
    bench.ready("v", 2);
}

#[test]
fn a_node_keeps_its_id_by_its_name() {
    let mut bench = Bench::new();
    let moved = node("b", 9999, &[2]);
    let plan = bench.state.plan_register(&moved).unwrap();
    assert_eq!(bench.commit(plan), NodeId::new(2));
    let fresh = node("d", 7004, &[4]);
    let plan = bench.state.plan_register(&fresh).unwrap();
    assert_eq!(bench.commit(plan), NodeId::new(4));
    let again = bench.state.plan_register(&fresh).unwrap();
    assert!(again.changes.is_empty(), "nothing is new");
}

#[test]
fn two_stores_cannot_share_a_name_or_a_disk() {
    let mut bench = Bench::new();
    let impostor = bench
        .state
        .plan_register(&node("a", 9000, &[77]))
        .unwrap_err();
    assert!(matches!(
        impostor,
        Refusal::Node(NodeRefusal::NameTaken { .. })
    ));
    let copy = bench
        .state
        .plan_register(&node("d", 9000, &[1]))
        .unwrap_err();
    assert!(matches!(
        copy,
        Refusal::Node(NodeRefusal::DiskElsewhere { .. })
    ));
    // A disk may move from a node that is down, and takes its replicas with it.
    bench.ready("v", 3);
    bench.set_up(1, false);
    let plan = bench.state.plan_register(&node("d", 9000, &[1])).unwrap();
    let moved = bench.commit(plan);
    assert_eq!(bench.state.assignments(moved).len(), 3);
    assert!(bench.state.assignments(NodeId::new(1)).is_empty());
    let shards = bench.state.volume_by_name("v").unwrap().shards;
    assert!(
        shards[0]
            .replicas
            .iter()
            .any(|replica| replica.node == moved)
    );
}

#[test]
fn a_disk_that_is_no_longer_reported_has_failed() {
    let mut bench = Bench::new();
    let plan = bench.state.plan_heartbeat(NodeId::new(1), &[]).unwrap();
    bench.commit(plan);
    let disk = bench.state.disk(DiskId::new(1), &bench.live).unwrap();
    assert!(disk.report.failed.is_some());
    assert_eq!(
        bench
            .state
            .status(&bench.live, Moment::default())
            .disks_failed,
        1
    );
    bench.set_up(1, true);
    assert_eq!(
        bench
            .state
            .status(&bench.live, Moment::default())
            .disks_failed,
        0
    );
}

#[test]
fn a_little_usage_is_not_worth_a_commit_but_damage_is() {
    let bench = Bench::new();
    let node = NodeId::new(1);
    let little = DiskReport {
        used_bytes: ByteCount::new(GIB),
        ..report(1)
    };
    assert!(
        bench
            .state
            .plan_heartbeat(node, &[little])
            .unwrap()
            .changes
            .is_empty()
    );
    let much = DiskReport {
        used_bytes: ByteCount::new(2 * GIB),
        ..report(1)
    };
    assert_eq!(
        bench
            .state
            .plan_heartbeat(node, &[much])
            .unwrap()
            .changes
            .len(),
        1
    );
    let damage = BTreeMap::from([("leaf".to_owned(), 1)]);
    let damaged = DiskReport {
        damage,
        ..report(1)
    };
    assert_eq!(
        bench
            .state
            .plan_heartbeat(node, &[damaged])
            .unwrap()
            .changes
            .len(),
        1
    );
}

#[test]
fn a_transaction_expects_what_its_plan_has_read() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.attach("v", "x");
    let plan = bench
        .state
        .plan_in_sync("v", &bench.propose("v", 0, 1, &[0, 1]))
        .unwrap();
    let transaction = bench.state.transaction(&plan.reads, plan.changes);
    let keys: Vec<&str> = transaction.expect.iter().map(|e| e.key.as_str()).collect();
    assert!(
        keys[0].starts_with("volume/") && keys[1].starts_with("shard/"),
        "{keys:?}"
    );
    assert!(transaction.expect.iter().all(|e| e.modified.is_some()));
}

#[test]
fn a_state_read_back_row_by_row_is_the_same() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.attach("v", "x");
    let again = read_back(&bench.state);
    assert_eq!(
        again.status(&bench.live, Moment::default()),
        bench.state.status(&bench.live, Moment::default())
    );
    for node in [1, 2, 3].map(NodeId::new) {
        assert_eq!(again.assignments(node), bench.state.assignments(node));
    }
}
