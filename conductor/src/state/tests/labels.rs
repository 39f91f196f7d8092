//! Labels of disks: kept whatever their stores say, and places are chosen by them.

use ashlar_proto::api::{LabelDisk, Verdict};
use proptest::prelude::*;

use super::*;
use crate::state::labels::labels_of_place;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    pairs.collect()
}

impl Bench {
    fn label_disk(&mut self, disk: u128, set: &[(&str, &str)], remove: &[&str]) {
        let request = LabelDisk {
            set: labels(set),
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        };
        let plan = self.state.plan_label_disk(DiskId::new(disk), &request);
        self.commit(plan.unwrap());
    }

    fn labels_of(&self, disk: u128) -> BTreeMap<String, String> {
        let disk = self.state.disk(DiskId::new(disk), &self.live);
        disk.unwrap().labels
    }
}

#[test]
fn a_disk_keeps_its_labels_when_its_store_registers_again() {
    let mut bench = Bench::with(&["a"], 1);
    bench.label_disk(1, &[("media", "nvme"), ("bay", "3")], &[]);
    bench.label("a", 1, "x");
    bench.label_disk(1, &[], &["bay", "none"]);
    assert_eq!(bench.labels_of(1), labels(&[("media", "nvme")]));
    let same = LabelDisk {
        set: labels(&[("media", "nvme")]),
        ..LabelDisk::default()
    };
    let plan = bench.state.plan_label_disk(DiskId::new(1), &same).unwrap();
    assert!(plan.changes.is_empty());
    let nowhere = bench.state.plan_label_disk(DiskId::new(9), &same);
    assert!(nowhere.is_err());
}

#[test]
fn a_pool_takes_disks_by_their_own_labels_before_those_of_their_nodes() {
    let mut bench = Bench::with(&["a", "b", "c"], 1);
    for (name, number, zone) in [("a", 1, "x"), ("b", 2, "y"), ("c", 3, "y")] {
        bench.label(name, number, zone);
    }
    // One joins the pool by its own label, one leaves it.
    bench.label_disk(1, &[("zone", "y")], &[]);
    bench.label_disk(2, &[("zone", "z")], &[]);
    let mut request = volume("v", 2);
    request.settings = labels(&[("pool", "zone=y")]);
    let explained = bench
        .state
        .explain(&bench.live, &request, SHARD_BYTES)
        .unwrap();
    assert!(explained.possible, "{explained:?}");
    let verdicts = explained.disks.iter().map(|disk| disk.verdict);
    let expected = [Verdict::Chosen, Verdict::Refused, Verdict::Chosen];
    assert_eq!(verdicts.collect::<Vec<_>>(), expected);
    assert_eq!(explained.disks[0].labels, labels(&[("zone", "y")]));
}

#[test]
fn a_replica_stays_when_its_disk_leaves_the_pool_and_a_lost_one_waits_for_a_disk_of_it() {
    let mut bench = Bench::with(&["a", "b", "c"], 1);
    bench.label_disk(1, &[("media", "nvme")], &[]);
    bench.label_disk(2, &[("media", "nvme")], &[]);
    bench.configure(None, &[("pool", "media=nvme")]);
    bench.ready("v", 2);
    bench.attach("v", "o");
    let before = bench.replicas("v");
    assert!(before.iter().all(|r| r.disk != DiskId::new(3)));
    bench.label_disk(2, &[], &["media"]);
    bench.wait(Duration::from_secs(2));
    assert_eq!(bench.replicas("v"), before);
    let lost = before.iter().position(|r| r.disk == DiskId::new(1));
    let lost = lost.unwrap();
    bench.set_up(1, false);
    bench.commit_set("v", &[1 - lost]);
    bench.wait(GRACE + Duration::from_secs(2));
    assert_eq!(bench.replicas("v")[lost].disk, DiskId::new(1));
    assert!(bench.healing().without_place > 0);
    bench.label_disk(3, &[("media", "nvme")], &[]);
    bench.wait(Duration::from_secs(2));
    assert_eq!(bench.replicas("v")[lost].disk, DiskId::new(3));
}

proptest! {
    #[test]
    fn a_place_has_every_label_and_the_disks_where_both_have_one(
        own in proptest::collection::btree_map("[a-d]", "[x-z]", 0..4),
        nodes in proptest::collection::btree_map("[a-d]", "[x-z]", 0..4),
    ) {
        let mut bench = Bench::with(&["a"], 1);
        let set: Vec<(&str, &str)> = own.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        bench.label_disk(1, &set, &[]);
        let mut node = bench.state.nodes.values().next().unwrap().clone();
        node.labels = nodes.clone();
        let found = labels_of_place(&node, bench.state.disks.get(&DiskId::new(1)));
        for name in ["a", "b", "c", "d"] {
            let expected = own.get(name).or_else(|| nodes.get(name));
            prop_assert_eq!(found.get(name), expected);
        }
    }
}
