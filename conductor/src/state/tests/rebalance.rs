//! Moves between disks that are not alike: when they begin and end, what they keep to.

use ashlar_proto::api::{RebalanceState, Replica, ReplicaUse, Schedulable};
use ashlar_proto::limits::USES_REPORTED_MAX;

use super::*;
use crate::placement::overlap;
use crate::state::rebalance::{Rebalancing, START, STOP};
use crate::state::slots::{DISK_FRESH_MAX, NODE_FRESH_MAX};

/// Nodes of one disk each, whose stores report what is written.
struct Pool {
    bench: Bench,
    usable: BTreeMap<DiskId, u64>,
    written: BTreeMap<At, u64>,
    /// Stores say what the replicas take that take the most; so many of each disk.
    told: usize,
}

impl Pool {
    fn new(names: &[&str]) -> Self {
        let bench = Bench::with(names, 1);
        let disks = bench.state.disks.keys();
        let usable = disks.map(|disk| (*disk, 100 * GIB)).collect();
        Self {
            bench,
            usable,
            written: BTreeMap::new(),
            told: 0,
        }
    }

    /// Volumes of one shard each, so many GiB long, attached and half written.
    fn fill(&mut self, volumes: u64, gib: u64, replicas: u8) {
        for _ in 0..volumes {
            let name = format!("v{}", self.bench.state.volumes.len());
            self.create(&name, gib * GIB, replicas);
            let at = *self.bench.state.shards.keys().next_back().unwrap();
            self.written.insert(at, gib * GIB / 2);
            self.report();
        }
    }

    fn create(&mut self, name: &str, bytes: u64, replicas: u8) {
        let request = CreateVolume {
            size_bytes: ByteCount::new(bytes),
            ..volume(name, replicas)
        };
        let bench = &mut self.bench;
        let Ok(plan) = bench.state.plan_create(&bench.live, &request, SHARD_BYTES) else {
            return;
        };
        bench.commit(plan);
        bench.settle();
        bench.attach(name, "x");
    }

    /// One more node with a disk.
    fn join(&mut self, name: &str) {
        let number = u16::try_from(self.bench.state.nodes.len()).unwrap() + 1;
        let request = node(name, 7000 + number, &[u128::from(number)]);
        let plan = self.bench.state.plan_register(&request).unwrap();
        self.bench.commit(plan);
        let disk = DiskId::new(u128::from(number));
        self.usable.insert(disk, 100 * GIB);
        self.report();
    }

    /// Every store that is up does what it is told to, and says so and how its disks are.
    fn report(&mut self) {
        self.bench.settle();
        for node in self.bench.state.nodes_up() {
            let disks = self.bench.state.disks.values().filter(|d| d.node == node);
            let reports: Vec<DiskReport> = disks.map(|d| self.report_of(d.report.id)).collect();
            self.bench.say(node.get(), &reports);
            let reports = reports.into_iter().map(|report| (report.id, report));
            self.bench.live.reports.extend(reports);
            let assigned = self.bench.state.assigned(node).unwrap();
            self.bench.live.applied.insert(node, assigned);
        }
    }

    fn report_of(&self, disk: DiskId) -> DiskReport {
        let held = self.bench.state.holds.get(&disk).into_iter().flatten();
        let is_filled = |at: &At, id| {
            let replicas = &self.bench.state.shards[at].replicas;
            replicas.iter().any(|r| r.id == id && !r.fresh)
        };
        let filled = held.filter(|(at, held)| is_filled(at, held.replica));
        let uses = filled.map(|(at, held)| {
            let written = self.written.get(at).copied().unwrap_or_default();
            (std::cmp::Reverse(written), held.replica)
        });
        let mut uses: Vec<_> = uses.collect();
        uses.sort_unstable();
        let told = uses
            .iter()
            .take(self.told)
            .map(|&(used, replica)| ReplicaUse {
                replica,
                used_bytes: ByteCount::new(used.0),
            });
        DiskReport {
            usable_bytes: ByteCount::new(self.usable[&disk]),
            used_bytes: ByteCount::new(uses.iter().map(|(used, _)| used.0).sum()),
            largest: told.collect(),
            ..report(disk.get())
        }
    }

    /// The conductor looks once, with all that it must not do.
    fn look(&mut self) -> Rebalancing {
        let bench = &mut self.bench;
        let away = bench.state.disks_away(&bench.live);
        bench.live.absence.note(bench.now, &away);
        let outlook = bench.commit(bench.state.plan_healing(&bench.live));
        let before = bench.state.clone();
        let plan = before.plan_rebalance(&bench.live, &outlook);
        let again = before.clone().plan_rebalance(&bench.live, &outlook);
        assert_eq!(plan.changes, again.changes, "the same each time");
        assert_eq!(plan.answer, again.answer);
        let done = bench.commit(plan);
        for next in &done.begun {
            self.check_move(&before, next);
        }
        self.check_shards();
        done
    }

    fn check_move(&self, before: &ClusterState, next: &crate::state::rebalance::Move) {
        let row = &before.shards[&next.at];
        assert!(
            row.replicas
                .iter()
                .all(|r| r.in_sync && before.serves(r.disk))
        );
        let to = next.to.1;
        let mut others = row.replicas.iter().filter(|r| r.id != next.replica);
        assert!(others.all(|r| before.node_of(r) != next.to.0));
        assert!(before.serves(to) && before.schedulable(to) == Schedulable::Open);
        assert_eq!(before.schedulable(next.from.1), Schedulable::Open);
        let labels = |node: NodeId| &before.nodes[&node].labels;
        let others = row.replicas.iter().filter(|r| r.id != next.replica);
        let others: Vec<_> = others.map(|r| labels(before.node_of(r))).collect();
        let shared = overlap(labels(next.from.0), &others);
        assert!(overlap(labels(next.to.0), &others) <= shared);
        assert!(next.why.from_after < next.why.from && next.why.to_after < next.why.from);
        assert!(next.why.from_after > next.why.to && next.why.to_after > next.why.to);
    }

    fn check_shards(&self) {
        let state = &self.bench.state;
        let mut on: BTreeMap<DiskId, usize> = BTreeMap::new();
        for (at, row) in &state.shards {
            let wanted = usize::from(state.volumes[&at.0].replicas);
            let in_sync = row.replicas.iter().filter(|r| r.in_sync).count();
            assert!(in_sync >= wanted, "fewer copies than before: {row:?}");
            assert!(self.bench.lies_apart(row), "{row:?}");
            for replica in row.replicas.iter().filter(|r| r.fresh) {
                *on.entry(replica.disk).or_default() += 1;
            }
        }
        assert!(on.values().all(|fresh| *fresh <= DISK_FRESH_MAX));
        assert!(on.values().sum::<usize>() <= NODE_FRESH_MAX * state.nodes_up().len());
    }

    /// Owners bring every fresh replica in, and then leave out who leaves.
    fn finish_moves(&mut self) {
        let moving: Vec<At> = self.moving();
        for at in moving {
            self.commit_set(at, |_| true);
            self.check_shards();
            self.commit_set(at, |r| !r.leaving);
            self.check_shards();
        }
    }

    fn commit_set(&mut self, at: At, keep: impl Fn(&Replica) -> bool) {
        let row = self.bench.state.shards[&at].clone();
        let volume = self.bench.state.volumes[&at.0].clone();
        let kept = row.replicas.iter().filter(|r| keep(r));
        let proposal = ProposeInSync {
            volume: at.0,
            generation: volume.generation,
            shard: at.1,
            epoch: row.epoch,
            in_sync: kept.map(|r| r.id).collect(),
        };
        let plan = self.bench.state.plan_in_sync(&volume.name, &proposal);
        self.bench.commit(plan.unwrap());
    }

    fn moving(&self) -> Vec<At> {
        let shards = self.bench.state.shards.iter();
        let moving = shards.filter(|(_, row)| row.rebalancing);
        moving.map(|(at, _)| *at).collect()
    }

    /// Looks and moves until nothing moves; gives how many moves there were.
    fn settle(&mut self) -> usize {
        let mut moves = 0;
        for _ in 0..1000 {
            let done = self.look();
            moves += done.begun.len();
            if done.begun.is_empty() && self.moving().is_empty() && !done.is_waiting {
                return moves;
            }
            self.report();
            self.finish_moves();
            self.report();
        }
        panic!("it does not come to an end");
    }

    fn spread_permille(&self) -> u16 {
        let shown = self.bench.state.show_rebalance(&self.bench.live);
        shown.spread_permille
    }

    fn plan_length(&self) -> usize {
        let plan = self.bench.state.show_rebalance_plan(&self.bench.live);
        plan.moves.len()
    }

    fn summary(&self) -> ashlar_proto::api::RebalanceSummary {
        let status = self.bench.state.status(&self.bench.live, self.bench.now);
        status.rebalance
    }

    fn pause(&mut self, paused: bool) {
        let plan = self.bench.state.plan_pause(paused);
        self.bench.commit(plan);
    }

    fn schedule(&mut self, node: &str, schedulable: Schedulable) {
        let plan = self.bench.state.plan_schedule_node(node, schedulable);
        self.bench.commit(plan.unwrap());
        self.report();
    }
}

/// Three nodes that hold all of 20 volumes, and an empty one.
fn joined() -> Pool {
    let mut pool = Pool::new(&["a", "b", "c"]);
    pool.fill(20, 4, 3);
    assert_eq!(pool.look(), Rebalancing::default());
    pool.join("d");
    pool
}

#[test]
fn a_new_disk_gets_its_share() {
    let mut pool = joined();
    let planned = pool.bench.state.show_rebalance_plan(&pool.bench.live);
    assert!(planned.complete && pool.spread_permille() > START.permille());
    let moves = pool.settle();
    assert_eq!(
        moves,
        planned.moves.len(),
        "what was planned is what happens"
    );
    assert!(pool.spread_permille() <= STOP.permille());
    assert!(!pool.bench.state.rebalance.active);
    let counts: Vec<usize> = (1..=4)
        .map(|disk| pool.bench.state.replicas_on(DiskId::new(disk)))
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 60);
    assert!(
        counts.iter().all(|count| (14..=16).contains(count)),
        "{counts:?}"
    );
    for (disk, expected) in planned.disks.iter().zip(counts) {
        let promised = u64::try_from(expected).unwrap() * 4 * GIB;
        let load = crate::placement::Load {
            usable: ByteCount::new(100 * GIB),
            used: ByteCount::new(promised / 2),
            promised: ByteCount::new(promised),
            ..crate::placement::Load::default()
        };
        let off = disk.fill_permille_after.abs_diff(load.fill().permille());
        assert!(off <= STOP.permille(), "{disk:?}");
    }
}

#[test]
fn even_disks_are_left_alone_and_a_little_unevenness_too() {
    let mut pool = joined();
    pool.settle();
    assert_eq!(
        (pool.look(), pool.plan_length()),
        (Rebalancing::default(), 0)
    );
    // Of some, more is written now, of others less.
    for (at, written) in &mut pool.written {
        *written = if at.0.get() % 3 == 0 { 0 } else { 3 * GIB };
    }
    pool.report();
    assert_eq!(pool.look(), Rebalancing::default());
    // A small volume more does not start it either; each placement makes disks more alike.
    pool.fill(3, 2, 1);
    assert_eq!(
        (pool.look(), pool.plan_length()),
        (Rebalancing::default(), 0)
    );
}

#[test]
fn once_begun_it_goes_on_below_the_start_threshold() {
    let mut pool = joined();
    pool.look();
    assert!(pool.bench.state.rebalance.active);
    while pool.spread_permille() > START.permille() {
        pool.report();
        pool.finish_moves();
        pool.report();
        pool.look();
    }
    assert!(pool.spread_permille() > STOP.permille());
    // A conductor that starts anew goes on, too.
    pool.bench.state = read_back(&pool.bench.state);
    assert!(pool.settle() > 0);
    assert!(pool.spread_permille() <= STOP.permille());
    // But from there on it does not begin.
    pool.bench.state = read_back(&pool.bench.state);
    assert_eq!(pool.look(), Rebalancing::default());
}

#[test]
fn a_node_that_starts_anew_in_between_does_not_end_it() {
    let mut pool = joined();
    while pool.spread_permille() > START.permille() {
        pool.look();
        pool.report();
        pool.finish_moves();
        pool.report();
    }
    assert!(pool.spread_permille() > STOP.permille());
    pool.bench.set_up(4, false);
    assert_eq!(pool.look().begun, []);
    assert!(pool.bench.state.rebalance.active);
    pool.bench.set_up(4, true);
    pool.report();
    assert!(pool.settle() > 0);
    assert!(pool.spread_permille() <= STOP.permille());
    // One that stays away is waited for as long as its replicas are.
    pool.bench.state.rebalance.active = true;
    pool.bench.set_up(4, false);
    pool.bench.wait(GRACE + Duration::from_secs(1));
    pool.look();
    assert!(!pool.bench.state.rebalance.active);
}

#[test]
fn few_move_at_a_time() {
    let mut pool = joined();
    let done = pool.look();
    assert_eq!(done.begun.len(), DISK_FRESH_MAX);
    assert!(done.is_waiting);
    let summary = pool.summary();
    assert_eq!((summary.state, summary.moving), (RebalanceState::Moving, 2));
    assert_eq!(
        summary.bytes_left.get(),
        u64::from(summary.moving + summary.to_come) * 4 * GIB
    );
    // Nothing is amiss meanwhile.
    let healing = pool.bench.healing();
    assert_eq!(
        (healing.out_of_sync, healing.rebuilding, healing.draining),
        (0, 0, 0)
    );
    assert_eq!(pool.bench.health("v0"), Health::Healthy);
    pool.report();
    assert_eq!(pool.look().begun, [], "its disk is busy");
    pool.finish_moves();
    assert_eq!(
        pool.look().begun,
        [],
        "nobody has told what is on the disks now"
    );
    pool.report();
    assert_eq!(pool.look().begun.len(), DISK_FRESH_MAX);
}

#[test]
fn paused_it_lets_moves_end_and_begins_none() {
    let mut pool = joined();
    pool.look();
    pool.pause(true);
    pool.report();
    assert_eq!(pool.look(), Rebalancing::default());
    assert_eq!(pool.moving().len(), DISK_FRESH_MAX);
    pool.finish_moves();
    pool.report();
    pool.bench.state = read_back(&pool.bench.state);
    assert_eq!(pool.look(), Rebalancing::default());
    let summary = pool.summary();
    assert_eq!(
        (summary.state, summary.to_come),
        (RebalanceState::Paused, 0)
    );
    assert!(pool.plan_length() > 0, "the plan is what a resume would do");
    pool.pause(false);
    assert!(pool.settle() > 0);
    assert!(pool.spread_permille() <= STOP.permille());
}

#[test]
fn shards_that_lack_a_replica_stay_where_they_are() {
    let mut pool = joined();
    for at in pool.bench.state.shards.keys().copied().collect::<Vec<_>>() {
        let first = pool.bench.state.shards[&at].replicas[0].id;
        pool.commit_set(at, |r| r.id != first);
    }
    assert_eq!(pool.plan_length(), 0);
    let outlook = pool.bench.state.plan_healing(&pool.bench.live).answer;
    let plan = pool.bench.state.plan_rebalance(&pool.bench.live, &outlook);
    assert_eq!(plan.answer.begun, []);
}

#[test]
fn disks_that_take_no_replicas_take_no_part() {
    for schedulable in [Schedulable::Cordoned, Schedulable::Draining] {
        let mut pool = joined();
        pool.schedule("d", schedulable);
        assert_eq!(pool.plan_length(), 0);
        pool.schedule("d", Schedulable::Open);
        pool.schedule("a", Schedulable::Cordoned);
        let plan = pool.bench.state.show_rebalance_plan(&pool.bench.live);
        let first = NodeId::new(1);
        assert!(plan.moves.iter().all(|m| m.what.from.node != first));
        assert!(!plan.moves.is_empty());
    }
    let mut pool = joined();
    pool.bench.set_up(4, false);
    assert_eq!(pool.plan_length(), 0);
}

#[test]
fn a_node_that_was_drained_and_takes_replicas_again_gets_its_share() {
    let mut pool = Pool::new(&["a", "b", "c", "d"]);
    pool.fill(20, 4, 3);
    pool.schedule("d", Schedulable::Draining);
    for _ in 0..40 {
        pool.look();
        pool.report();
        let moving: Vec<At> = pool
            .bench
            .state
            .shards
            .iter()
            .filter(|(_, row)| row.replicas.iter().any(|r| r.leaving))
            .map(|(at, _)| *at)
            .collect();
        for at in moving {
            pool.commit_set(at, |_| true);
            pool.commit_set(at, |r| !r.leaving);
        }
        pool.report();
    }
    assert_eq!(pool.bench.state.replicas_on(DiskId::new(4)), 0);
    pool.schedule("d", Schedulable::Open);
    assert!(pool.settle() >= 12);
    assert!(pool.spread_permille() <= STOP.permille());
}

#[test]
fn a_move_to_a_disk_that_is_lost_is_called_off() {
    let mut pool = joined();
    pool.look();
    let before = pool.moving();
    pool.report();
    pool.bench.set_up(4, false);
    pool.bench.wait(GRACE - Duration::from_secs(1));
    assert_eq!(pool.moving(), before, "it is waited for");
    pool.bench.wait(Duration::from_secs(2));
    assert_eq!(pool.moving(), []);
    let replicas = pool
        .bench
        .state
        .shards
        .values()
        .flat_map(|row| &row.replicas);
    assert!(replicas.clone().all(|r| r.in_sync && !r.leaving));
    assert_eq!(replicas.count(), 60);
}

#[test]
fn a_drain_of_the_disk_that_a_replica_leaves_goes_on_with_its_move() {
    let mut pool = joined();
    let from = pool.look().begun[0].from.0;
    let name = pool.bench.state.nodes[&from].name.clone();
    let before = pool.bench.state.shards.clone();
    pool.schedule(&name, Schedulable::Draining);
    pool.look();
    let at = *before.iter().find(|(_, row)| row.rebalancing).unwrap().0;
    assert_eq!(pool.bench.state.shards[&at].replicas, before[&at].replicas);
    // Called off, the drain leaves the move to what it was begun for.
    pool.schedule(&name, Schedulable::Open);
    pool.look();
    assert_eq!(pool.bench.state.shards[&at].replicas, before[&at].replicas);
    assert!(pool.bench.state.shards[&at].rebalancing);
}

/// The only other disk that could take a lost replica is being filled by moves.
#[test]
fn a_lost_replica_that_waits_for_a_slot_takes_it_from_a_move() {
    let mut pool = joined();
    pool.look();
    pool.report();
    assert_eq!(pool.moving().len(), DISK_FRESH_MAX);
    let is_lost = |r: &Replica| r.node == NodeId::new(1);
    for at in pool.bench.state.shards.keys().copied().collect::<Vec<_>>() {
        pool.commit_set(at, |r| !is_lost(r) && r.in_sync);
    }
    pool.bench.set_up(1, false);
    pool.bench.wait(GRACE + Duration::from_secs(1));
    let outlook = pool.bench.state.plan_healing(&pool.bench.live).answer;
    assert!(outlook.urgent > 0);
    let plan = pool.bench.state.plan_rebalance(&pool.bench.live, &outlook);
    let called_off = pool.bench.commit(plan).called_off;
    assert!(called_off > 0);
    assert_eq!(pool.moving(), []);
    pool.bench.heal();
    let fresh = pool
        .bench
        .state
        .shards
        .values()
        .flat_map(|row| &row.replicas);
    let fresh: Vec<&Replica> = fresh.filter(|r| r.fresh).collect();
    assert_eq!(fresh.len(), DISK_FRESH_MAX);
    assert!(pool.bench.state.shards.values().all(|row| !row.rebalancing));
}

#[test]
fn a_volume_that_nobody_uses_is_moved_by_a_repair_owner() {
    let mut pool = joined();
    for volume in pool.bench.state.volumes() {
        let request = detach(volume.id, volume.generation.get());
        let plan = pool.bench.state.plan_detach(&volume.name, &request);
        pool.bench.commit(plan.unwrap());
    }
    let done = pool.look();
    let volume = pool.bench.state.volumes[&done.begun[0].at.0].name.clone();
    pool.bench.heal();
    assert!(
        pool.bench
            .state
            .volumes
            .values()
            .all(|row| row.repairer.is_none())
    );
    pool.report();
    pool.bench.heal();
    let row = &pool.bench.state.volumes[&done.begun[0].at.0];
    let repairer = row.repairer.expect("its store has made the replica");
    let name = pool.bench.state.nodes[&repairer].name.clone();
    let request = AttachRequest {
        owner: ashlar_proto::api::repair_owner(&name),
        force: false,
        repair: true,
        server: None,
        publication: None,
    };
    let plan = pool
        .bench
        .state
        .plan_attach(&pool.bench.live, pool.bench.now, &volume, &request)
        .unwrap();
    pool.bench.commit(plan);
    let at = done.begun[0].at;
    pool.commit_set(at, |_| true);
    pool.bench.heal();
    assert!(
        pool.bench.state.volumes[&at.0].repairer.is_some(),
        "one is to leave"
    );
    pool.commit_set(at, |r| !r.leaving);
    pool.bench.heal();
    assert_eq!(pool.bench.state.volumes[&at.0].repairer, None);
}

/// What is full of one volume and what is empty would only change places.
#[test]
fn one_big_replica_does_not_wander() {
    let mut pool = Pool::new(&["a", "b", "c"]);
    pool.fill(1, 4, 1);
    for usable in pool.usable.values_mut() {
        *usable = 8 * GIB;
    }
    pool.report();
    assert!(pool.spread_permille() > START.permille());
    assert_eq!(
        (pool.look(), pool.plan_length()),
        (Rebalancing::default(), 0)
    );
}

/// Seven replicas on one disk, five on another: bounds do not tell whether the move of one helps, what its
/// store says of it does.
#[test]
fn what_stores_say_of_replicas_makes_disks_even() {
    for (told, even) in [(0, false), (USES_REPORTED_MAX, true)] {
        let mut pool = Pool::new(&["a", "b"]);
        pool.told = told;
        for usable in pool.usable.values_mut() {
            *usable = 14 * GIB;
        }
        pool.schedule("b", Schedulable::Cordoned);
        pool.fill(7, 1, 1);
        pool.schedule("b", Schedulable::Open);
        pool.schedule("a", Schedulable::Cordoned);
        pool.fill(5, 1, 1);
        pool.schedule("a", Schedulable::Open);
        for (number, written) in pool.written.values_mut().enumerate() {
            *written = if number < 7 {
                4 * GIB / 10
            } else {
                6 * GIB / 10
            };
        }
        pool.report();
        pool.bench.state.rebalance.active = true;
        assert!(pool.spread_permille() > STOP.permille());
        pool.settle();
        assert_eq!(pool.spread_permille() <= STOP.permille(), even, "{told}");
    }
}

/// xorshift64*.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// A cluster of disks of all sizes in some zones, filled while part of it took no replicas.
fn random_pool(rng: &mut Rng) -> Pool {
    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let count = usize::try_from(rng.below(5) + 4).unwrap();
    let names = &NAMES[..count];
    let mut pool = Pool::new(names);
    pool.told = if rng.below(2) == 0 {
        0
    } else {
        USES_REPORTED_MAX
    };
    let disks = 1 + u128::from(rng.below(2));
    pool.bench = Bench::with(names, disks);
    pool.usable = pool
        .bench
        .state
        .disks
        .keys()
        .map(|disk| (*disk, 0))
        .collect();
    for usable in pool.usable.values_mut() {
        *usable = (40 + rng.below(120)) * GIB;
    }
    let zones = rng.below(4);
    for (number, name) in (1..).zip(names) {
        let of_node: Vec<u128> = (0..disks).map(|d| d * 100 + u128::from(number)).collect();
        let mut request = node(name, 7000 + number, &of_node);
        if zones > 0 {
            let zone = (u64::from(number) % zones).to_string();
            request.labels.insert("zone".to_owned(), zone);
        }
        let plan = pool.bench.state.plan_register(&request).unwrap();
        pool.bench.commit(plan);
    }
    pool.report();
    let late = usize::try_from(rng.below(u64::try_from(count).unwrap() - 2)).unwrap();
    for name in &names[count - late..] {
        pool.schedule(name, Schedulable::Cordoned);
    }
    for n in 0..rng.below(60) + 10 {
        let most = 3.min(u64::try_from(count - late).unwrap());
        let replicas = u8::try_from(rng.below(most) + 1).unwrap();
        let bytes = (rng.below(9) + 1) * GIB;
        pool.create(&format!("v{n}"), bytes, replicas);
        for at in pool.bench.state.shards.keys() {
            let bytes = shard_bytes(&pool.bench.state.volumes[&at.0], at.1);
            let part = rng.below(5);
            pool.written.entry(*at).or_insert(bytes / 4 * part);
        }
        pool.report();
    }
    for name in names {
        pool.schedule(name, Schedulable::Open);
    }
    pool
}

#[test]
fn random_pools_keep_the_rules_and_come_to_an_end() {
    let (mut moved, mut even) = (0, 0);
    for seed in 1..=60 {
        let mut rng = Rng(seed * 2 + 1);
        let mut pool = random_pool(&mut rng);
        let all: usize = pool
            .bench
            .state
            .shards
            .values()
            .map(|row| row.replicas.len())
            .sum();
        let before = pool.spread_permille();
        let moves = pool.settle();
        assert!(moves <= all, "seed {seed}: {moves} moves of {all} replicas");
        assert!(
            pool.spread_permille() <= before.max(STOP.permille()),
            "seed {seed}"
        );
        // Neither does it begin anew, nor would any single move help.
        assert_eq!(pool.look(), Rebalancing::default(), "seed {seed}");
        if moves > 0 {
            pool.bench.state.rebalance.active = true;
            assert_eq!(pool.plan_length(), 0, "seed {seed}: a move would help");
        }
        moved += moves;
        even += usize::from(pool.spread_permille() <= STOP.permille());
    }
    assert!(moved > 1000, "{moved} moves in all");
    assert!(even > 40, "{even} of them even");
}

/// While moves go on, reports of what is written change, and so does it after the end: that makes
/// no moves back and forth.
#[test]
fn changing_reports_make_no_ping_pong() {
    for seed in 1..=30 {
        let mut rng = Rng(seed * 2 + 1);
        let mut pool = random_pool(&mut rng);
        let all: usize = pool
            .bench
            .state
            .shards
            .values()
            .map(|row| row.replicas.len())
            .sum();
        let mut moves = pool.settle();
        for _ in 0..20 {
            for (at, written) in &mut pool.written {
                let most = shard_bytes(&pool.bench.state.volumes[&at.0], at.1);
                let step = rng.below(most / 64 + 1);
                *written = (*written + step).min(most);
            }
            pool.report();
            moves += pool.settle();
        }
        assert!(moves <= all, "seed {seed}: {moves} moves of {all} replicas");
    }
}

#[test]
fn moves_keep_to_the_hard_rules_of_volumes() {
    let mut pool = Pool::new(&["a", "b", "c"]);
    for (name, number, zone) in [("a", 1, "x"), ("b", 2, "y"), ("c", 3, "y")] {
        pool.bench.label(name, number, zone);
    }
    let rules = [("spread", "zone"), ("spread-rule", "hard")];
    pool.bench.configure(None, &rules);
    pool.fill(16, 4, 2);
    let check = |pool: &Pool| {
        for row in pool.bench.state.shards.values() {
            let zone = |r: &Replica| pool.bench.state.nodes[&r.node].labels["zone"].clone();
            let stays = row.replicas.iter().filter(|r| !r.leaving);
            let zones: std::collections::BTreeSet<String> = stays.clone().map(zone).collect();
            assert_eq!(zones.len(), stays.count(), "{row:?}");
        }
    };
    check(&pool);
    // Half of zone x may go to d, and nothing else: half of zone y would lie beside its other copy. Who
    // says nothing of its zone gets nothing.
    pool.join("d");
    pool.bench.label("d", 4, "x");
    pool.join("e");
    pool.report();
    for _ in 0..200 {
        let begun = pool.look().begun.len();
        check(&pool);
        pool.report();
        pool.finish_moves();
        pool.report();
        if begun == 0 && pool.moving().is_empty() {
            break;
        }
    }
    let on = |disk| pool.bench.state.replicas_on(DiskId::new(disk));
    assert!(on(4) >= 4, "{}", on(4));
    assert_eq!((on(1) + on(4), on(2) + on(3), on(5)), (16, 16, 0));
}
