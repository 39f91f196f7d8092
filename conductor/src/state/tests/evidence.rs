//! What stores and owners say of each other, and what the conductor makes of it.

use ashlar_proto::api::{OwnerSeen, PeerSeen, repair_owner};

use super::*;
use crate::evidence::Witness;

const FOUR: [&str; 4] = ["a", "b", "c", "d"];

fn seen(node: u64, reached: bool) -> PeerSeen {
    PeerSeen {
        node: NodeId::new(node),
        reached,
    }
}

impl Bench {
    fn says(&mut self, node: u64, stores: &[PeerSeen]) {
        let witness = Witness::Node(NodeId::new(node));
        self.live.evidence.note_reach(self.now, witness, stores);
    }

    /// Every store of the list says that it has these owners.
    fn sees(&mut self, nodes: &[u64], owners: &[OwnerSeen]) {
        for node in nodes {
            let node = NodeId::new(*node);
            self.live
                .evidence
                .note_sightings(self.now, node, Some(owners));
        }
    }

    /// Seconds pass in which the stores of the list see no owner.
    fn pass_unseen(&mut self, seconds: u64, nodes: &[u64]) {
        for _ in 0..seconds {
            self.sees(nodes, &[]);
            self.wait(Duration::from_secs(1));
        }
    }

    /// As [`ClusterState::is_orphaned`], of a volume by its name.
    fn is_orphaned(&self, name: &str) -> bool {
        let volume = self.state.volume_named(name).unwrap();
        self.state.is_orphaned(&self.live, self.now, volume)
    }
}

/// A volume on nodes 1 to 3 whose owner was granted it now, and dropped a replica.
fn attached() -> Bench {
    let mut bench = Bench::with(&FOUR, 1);
    bench.ready("v", 3);
    let generation = bench.attach("v", "x");
    let volume = bench.state.volume_by_name("v").unwrap().id;
    bench
        .live
        .evidence
        .note_owner(bench.now, volume, generation);
    bench.commit_set("v", &[0, 2]);
    bench
}

/// The nodes of the first shard that are in sync, and all others.
fn in_sync_and_rest(bench: &Bench) -> (Vec<u64>, Vec<u64>) {
    let replicas = bench.replicas("v");
    let in_sync = replicas.iter().filter(|r| r.in_sync);
    let in_sync: Vec<u64> = in_sync.map(|r| r.node.get()).collect();
    let rest = (1..=4).filter(|node| !in_sync.contains(node)).collect();
    (in_sync, rest)
}

#[test]
fn a_node_that_only_the_conductor_does_not_hear_is_waited_for() {
    let mut bench = Bench::with(&FOUR, 1);
    bench.ready("v", 3);
    bench.attach("v", "x");
    bench.commit_set("v", &[0, 2]);
    let lost = bench.replicas("v")[1].clone();
    let (node, other) = (lost.node.get(), bench.replicas("v")[0].node.get());
    bench.set_up(node, false);
    for _ in 0..2 * GRACE.as_secs() {
        bench.says(other, &[seen(node, true)]);
        bench.wait(Duration::from_secs(1));
    }
    assert_eq!(bench.replicas("v")[1].id, lost.id, "its peers reach it");
    let shown = bench.state.node(lost.node, &bench.live, bench.now).unwrap();
    assert_eq!((shown.reached_by, shown.missed_by), (1, 0));
    // Nobody reaches it any more: from here on its time runs.
    bench.wait(GRACE + Duration::from_secs(10));
    assert_ne!(bench.replicas("v")[1].id, lost.id);
}

#[test]
fn a_node_that_only_the_conductor_hears_is_not_waited_for() {
    let mut bench = Bench::with(&FOUR, 1);
    bench.ready("v", 3);
    bench.attach("v", "x");
    bench.commit_set("v", &[0, 2]);
    let cut_off = bench.replicas("v")[1].clone();
    let node = cut_off.node.get();
    let others: Vec<u64> = (1..=4).filter(|other| *other != node).collect();
    // One who cannot reach it is not enough, nor are several who reach nobody.
    for _ in 0..2 * GRACE.as_secs() {
        bench.says(others[0], &[seen(node, false), seen(others[1], true)]);
        bench.says(others[1], &[seen(node, false), seen(others[0], false)]);
        bench.wait(Duration::from_secs(1));
    }
    assert_eq!(bench.replicas("v")[1].id, cut_off.id);
    for _ in 0..GRACE.as_secs() + 10 {
        bench.says(others[0], &[seen(node, false), seen(others[1], true)]);
        bench.says(others[1], &[seen(node, false), seen(others[0], true)]);
        bench.wait(Duration::from_secs(1));
    }
    let made = bench.replicas("v")[1].clone();
    assert_ne!(made.id, cut_off.id);
    assert_ne!(made.disk, cut_off.disk);
    assert!(bench.replicas("v").iter().filter(|r| r.in_sync).count() == 2);
}

/// The data network falls in two, and the conductor hears all.
#[test]
fn nobody_is_missed_where_the_network_falls_apart() {
    let mut bench = Bench::with(&["a", "b", "c", "d", "e"], 1);
    bench.ready("v", 3);
    let sides = [vec![1, 3, 5], vec![2, 4]];
    for _ in 0..2 * GRACE.as_secs() {
        for node in 1..=5u64 {
            let watched = (1..=3).map(|next| (node + next - 1) % 5 + 1);
            let reaches = |other: u64| {
                let with = |side: &Vec<u64>| side.contains(&node) && side.contains(&other);
                sides.iter().any(with)
            };
            let said: Vec<PeerSeen> = watched.map(|other| seen(other, reaches(other))).collect();
            bench.says(node, &said);
        }
        bench.wait(Duration::from_secs(1));
    }
    assert!(bench.state.disks_away(&bench.live).is_empty());
    assert_eq!(bench.healing().queued, 0);
}

#[test]
fn a_volume_whose_owner_is_gone_is_repaired_and_may_be_attached_without_force() {
    let mut bench = attached();
    let all = [1, 2, 3, 4];
    bench.pass_unseen(OWNER_SILENCE.as_secs() - 1, &all);
    assert!(!bench.is_orphaned("v"));
    let refused = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &by("other", false));
    assert!(refused.is_err());
    bench.pass_unseen(2, &all);
    assert!(bench.is_orphaned("v"));
    let repairer = (1..=4).find(|node| !bench.state.repairs(NodeId::new(*node)).is_empty());
    let name = FOUR[usize::try_from(repairer.unwrap() - 1).unwrap()];
    let repair = AttachRequest {
        owner: repair_owner(name),
        force: false,
        repair: true,
        server: None,
        publication: None,
    };
    let repaired = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &repair);
    assert!(repaired.is_ok());
    let plan = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &by("other", false));
    bench.commit(plan.unwrap());
    // That was of the generation before: nobody takes it from the next owner.
    let third = bench
        .state
        .plan_attach(&bench.live, bench.now, "v", &by("third", false));
    assert!(third.is_err());
}

#[test]
fn an_owner_that_any_replica_hears_is_not_gone() {
    let mut bench = attached();
    let (in_sync, rest) = in_sync_and_rest(&bench);
    let volume = bench.state.volume_by_name("v").unwrap();
    let owner = OwnerSeen {
        volume: volume.id,
        generation: volume.generation,
        idle_ms: 5000,
    };
    for _ in 0..60 {
        bench.sees(&rest, &[]);
        bench.sees(&in_sync[..1], &[]);
        bench.sees(&in_sync[1..], &[owner]);
        bench.wait(Duration::from_secs(1));
        assert!(!bench.is_orphaned("v"));
    }
}

#[test]
fn an_owner_is_not_gone_where_replicas_that_say_nothing_could_acknowledge() {
    let mut bench = attached();
    let (in_sync, rest) = in_sync_and_rest(&bench);
    // Of two in the set both must acknowledge: the word of one will do. It is of three as well as
    // long as two say so.
    bench.pass_unseen(60, &rest);
    assert!(
        !bench.is_orphaned("v"),
        "no replica in the set says anything"
    );
    let all_but_one = [&rest[..], &in_sync[..1]].concat();
    bench.pass_unseen(60, &all_but_one);
    assert!(bench.is_orphaned("v"));
    bench.wait(Duration::from_secs(10));
    assert!(!bench.is_orphaned("v"), "what was said is too old");
    bench.commit_set("v", &[0, 1, 2]);
    bench.pass_unseen(60, &in_sync[..1]);
    assert!(!bench.is_orphaned("v"), "the other two may have an owner");
    bench.pass_unseen(60, &[1, 2, 3, 4]);
    assert!(bench.is_orphaned("v"));
}

#[test]
fn each_store_watches_the_next_ones_and_is_watched_by_as_many() {
    let bench = Bench::with(&["a", "b", "c", "d", "e", "f"], 1);
    let mut watched: BTreeMap<u64, usize> = BTreeMap::new();
    for node in 1..=6 {
        let peers = bench.state.peers_of(NodeId::new(node));
        assert_eq!(peers.len(), 3);
        for peer in peers {
            assert_ne!(peer.node.get(), node);
            *watched.entry(peer.node.get()).or_default() += 1;
        }
    }
    assert!(watched.values().all(|count| *count == 3) && watched.len() == 6);
    let pair = Bench::with(&["a", "b"], 1);
    assert_eq!(pair.state.peers_of(NodeId::new(2)).len(), 1);
}
