//! Disks that ail: emptied a few at a time, cleared by people, and never all at once.

use ashlar_proto::api::{Ailing, Evacuation, Incident, Schedulable};

use super::*;

const FOUR: [&str; 4] = ["a", "b", "c", "d"];

impl Bench {
    /// The store of a node says so of its disk of the same number.
    fn say_ailing(&mut self, number: u64, incident: Option<u32>) {
        let ailing = incident.map(|incident| Ailing {
            reason: format!("reason {incident}"),
            incident: Incident(incident),
        });
        let report = DiskReport {
            ailing,
            ..report(u128::from(number))
        };
        self.say(number, &[report]);
        self.heal();
    }

    fn evacuation(&self, disk: u128) -> Evacuation {
        self.state.evacuation(DiskId::new(disk))
    }

    fn clear(&mut self, disk: u128) {
        let plan = self.state.plan_clear_disk(DiskId::new(disk)).unwrap();
        self.commit(plan);
        self.heal();
    }
}

/// A volume of one shard on three of the nodes, attached; the disk of its first replica, whose node
/// has the same number.
fn attached() -> (Bench, u64) {
    let mut bench = Bench::with(&FOUR, 1);
    bench.ready_small("v");
    bench.attach("v", "x");
    let first = bench.replicas("v")[0].node.get();
    (bench, first)
}

#[test]
fn replicas_leave_a_disk_that_ails_by_themselves() {
    let (mut bench, first) = attached();
    let disk = u128::from(first);
    assert_eq!(bench.evacuation(disk), Evacuation::None);
    bench.say_ailing(first, Some(1));
    assert_eq!(bench.evacuation(disk), Evacuation::Moving);
    let during = bench.replicas("v");
    assert_eq!(during.len(), 4);
    assert!(during[0].leaving && during[0].in_sync && during[3].fresh);
    assert_eq!(bench.health("v"), Health::Healthy);
    bench.settle();
    bench.commit_set("v", &[0, 1, 2, 3]);
    bench.commit_set("v", &[1, 2, 3]);
    assert_eq!(bench.evacuation(disk), Evacuation::Done);
    // And none come back: nobody has asked for that, so nothing of it looks like a cordon.
    assert_eq!(
        bench.state.schedulable(DiskId::new(disk)),
        Schedulable::Cordoned
    );
    let shown = bench.state.disk(DiskId::new(disk), &bench.live).unwrap();
    assert_eq!(shown.schedulable, Schedulable::Open);
    assert_eq!(shown.report.ailing.unwrap().reason, "reason 1");
    let status = bench.state.status(&bench.live, bench.now);
    assert_eq!((status.disks_ailing, status.disks_failed), (1, 0));
}

#[test]
fn a_disk_ails_until_it_is_cleared_whoever_restarts() {
    let (mut bench, first) = attached();
    let disk = u128::from(first);
    bench.say_ailing(first, Some(1));
    // A store that starts anew knows nothing of it.
    bench.say_ailing(first, None);
    bench.state = read_back(&bench.state);
    assert_eq!(bench.evacuation(disk), Evacuation::Moving);
    let shown = bench.state.disk(DiskId::new(disk), &bench.live).unwrap();
    assert_eq!(shown.report.ailing.unwrap().reason, "reason 1");
    bench.clear(disk);
    assert_eq!(bench.evacuation(disk), Evacuation::None);
    assert_eq!(bench.replicas("v").len(), 3);
}

#[test]
fn a_cleared_disk_is_used_until_the_next_incident() {
    let (mut bench, first) = attached();
    let disk = u128::from(first);
    bench.say_ailing(first, Some(1));
    bench.clear(disk);
    bench.say_ailing(first, Some(1));
    assert_eq!(bench.evacuation(disk), Evacuation::Cleared);
    assert_eq!(
        bench.state.schedulable(DiskId::new(disk)),
        Schedulable::Open
    );
    assert!(bench.replicas("v").iter().all(|r| !r.leaving));
    let again = bench.state.plan_clear_disk(DiskId::new(disk)).unwrap();
    assert!(again.changes.is_empty());
    bench.say_ailing(first, Some(2));
    assert_eq!(bench.evacuation(disk), Evacuation::Moving);
}

#[test]
fn an_operators_drain_and_a_disk_that_ails_do_not_mix() {
    let (mut bench, first) = attached();
    let disk = DiskId::new(u128::from(first));
    let plan = bench.state.plan_schedule_disk(disk, Schedulable::Draining);
    bench.commit(plan.unwrap());
    bench.say_ailing(first, Some(1));
    bench.clear(disk.get());
    assert_eq!(bench.state.schedulable(disk), Schedulable::Draining);
    bench.say_ailing(first, Some(2));
    let plan = bench.state.plan_schedule_disk(disk, Schedulable::Open);
    bench.commit(plan.unwrap());
    assert_eq!(bench.evacuation(disk.get()), Evacuation::Moving);
}

#[test]
fn a_bounded_part_of_the_disks_is_emptied_at_a_time() {
    let mut bench = Bench::with(&["a", "b", "c", "d", "e", "f", "g", "h"], 1);
    for n in 0..8 {
        bench.ready(&format!("v{n}"), 3);
    }
    let all = |bench: &Bench| (1..=8).map(|d| bench.evacuation(d)).collect::<Vec<_>>();
    for number in 1..=3 {
        bench.say_ailing(number, Some(1));
    }
    use Evacuation::{Cleared, Done, Moving, Waiting, Withheld};
    let none = Evacuation::None;
    assert_eq!(
        all(&bench),
        [Moving, Moving, Waiting, none, none, none, none, none]
    );
    let waiting = bench.state.schedulable(DiskId::new(3));
    assert_eq!(waiting, Schedulable::Cordoned);
    // One that is empty gives its turn to the next.
    let held = bench.state.holds.remove(&DiskId::new(1));
    assert!(held.is_some_and(|held| !held.is_empty()));
    bench.state.totals = bench.state.summed_anew();
    assert_eq!(all(&bench)[..4], [Done, Moving, Moving, none]);
    // One that has failed is no matter of ailing.
    let failed = DiskReport {
        failed: Some("broken".to_owned()),
        ..report(2)
    };
    bench.say(2, &[failed]);
    assert_eq!(all(&bench)[..4], [Done, none, Moving, none]);
    // Half of them may ail, but not more.
    for number in 4..=5 {
        bench.say_ailing(number, Some(1));
    }
    assert_eq!(all(&bench)[2..6], [Moving, Moving, Waiting, none]);
    bench.say_ailing(6, Some(1));
    assert_eq!(all(&bench)[2..6], [Withheld; 4]);
    for number in 3..=6 {
        let schedulable = bench.state.schedulable(DiskId::new(number));
        assert_eq!(schedulable, Schedulable::Open);
    }
    bench.clear(6);
    assert_eq!(all(&bench)[2..6], [Moving, Moving, Waiting, Cleared]);
}

#[test]
fn what_finds_no_place_stays() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.say_ailing(1, Some(1));
    assert_eq!(bench.evacuation(1), Evacuation::Moving);
    let replicas = bench.replicas("v");
    assert!(replicas.len() == 3 && replicas.iter().all(|r| r.in_sync && !r.leaving));
    assert!(bench.healing().without_place > 0);
    assert_eq!(bench.health("v"), Health::Healthy);
}
