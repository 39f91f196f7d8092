//! Who holds a slot, and who does not hold others up.

use ashlar_proto::api::Schedulable;

use super::*;
use crate::fills::{FILL_BASE, FILL_BYTES_PER_SECOND};

/// Three volumes of one shard whose replica on one node is lost. The owners of the first two, which
/// come first, have but one replica left in sync; their fresh ones hold both slots of the only disk that
/// is eligible.
fn crowded() -> Bench {
    let mut bench = Bench::with(&["a", "b", "c", "d"], 1);
    let cordon = |bench: &mut Bench, to| {
        let plan = bench.state.plan_schedule_node("d", to).unwrap();
        bench.commit(plan);
    };
    cordon(&mut bench, Schedulable::Cordoned);
    for name in ["u", "v", "w"] {
        bench.ready_small(name);
    }
    bench.settle();
    cordon(&mut bench, Schedulable::Open);
    bench.set_up(1, false);
    for (name, keep) in [("u", vec![2]), ("v", vec![2]), ("w", vec![2, 3])] {
        bench.attach(name, "x");
        bench.keep(name, &keep);
    }
    bench.wait(GRACE + Duration::from_secs(2));
    let fresh = ["u", "v", "w"].map(|name| bench.fresh(name));
    assert_eq!(fresh, [1, 1, 0]);
    assert_eq!(bench.healing().queued, 1);
    bench
}

impl Bench {
    /// The owner commits the set of those on these nodes.
    fn keep(&mut self, name: &str, nodes: &[u64]) {
        let replicas = self.replicas(name);
        let is_kept = |at: &usize| nodes.contains(&replicas[*at].node.get());
        let keep: Vec<usize> = (0..replicas.len()).filter(is_kept).collect();
        self.commit_set(name, &keep);
    }

    /// Fresh replicas of a volume.
    fn fresh(&self, name: &str) -> usize {
        self.replicas(name).iter().filter(|r| r.fresh).count()
    }
}

/// The story: the only in-sync replica of some shards was away, their fresh replicas held all slots of
/// the cluster, and nothing else was healed until it came back.
#[test]
fn what_nobody_can_take_over_holds_no_slot() {
    let mut bench = crowded();
    bench.set_up(2, false);
    bench.heal();
    let fresh = ["u", "v", "w"].map(|name| bench.fresh(name));
    assert_eq!(fresh, [1, 1, 1]);
    assert_eq!(bench.healing().queued, 0);
    // They come back: no more than there are already, but nobody loses its own.
    bench.set_up(2, true);
    bench.wait(Duration::from_secs(3));
    let fresh = ["u", "v", "w"].map(|name| bench.fresh(name));
    assert_eq!(fresh, [1, 1, 1]);
}

#[test]
fn one_that_is_not_filled_in_its_time_makes_room_and_stays() {
    let mut bench = crowded();
    let before = bench.replicas("u");
    let most = FILL_BASE + Duration::from_secs(GIB / FILL_BYTES_PER_SECOND);
    bench.wait(most - Duration::from_secs(10));
    assert_eq!(bench.fresh("w"), 0);
    bench.wait(Duration::from_secs(20));
    assert_eq!(bench.fresh("w"), 1);
    assert_eq!(bench.replicas("u"), before);
    // What comes late is as good.
    bench.settle();
    bench.keep("u", &[2, 4]);
    assert_eq!((bench.fresh("u"), bench.fresh("v")), (0, 1));
}
