//! Rows as a conductor might write them, and what the ledger says to them.

use ashlar_proto::VolumeId;

use super::*;
use crate::cluster::stores::disk_id;

const VOLUME: VolumeId = VolumeId::new(1);
const VOLUME_KEY: &str = "volume/0000000000000001";
const SHARD_KEY: &str = "shard/0000000000000001/00000000";
const SNAPSHOT_KEY: &str = "snapshot/0000000000000001/00000001";

fn volume(generation: u32, owner: Option<&str>) -> Vec<u8> {
    let owner = owner.map_or("null".to_owned(), |owner| format!("\"{owner}\""));
    let row = format!(
        r#"{{"version":3,"row":{{"replicas":2,"size_bytes":1048576,"shard_bytes":1048576,"state":"ready","generation":{generation},"attached_by":{owner},"head_layer":1}}}}"#
    );
    row.into_bytes()
}

/// A shard with replicas given as `(id, disk, state)`: disks by the number of their store times ten
/// and their own there; the state is any of `s`ync, `f`resh, `l`eaving.
fn shard(epoch: u32, replicas: &[(u64, usize, &str)]) -> Vec<u8> {
    let replica = |(id, disk, state): &(u64, usize, &str)| Replica {
        id: ReplicaId::new(*id),
        node: ashlar_proto::NodeId::new(1),
        disk: disk_at(*disk),
        in_sync: state.contains('s'),
        fresh: state.contains('f'),
        leaving: state.contains('l'),
    };
    let replicas: Vec<Replica> = replicas.iter().map(replica).collect();
    let row = serde_json::json!({
        "version": 3,
        "row": {"index": 0, "epoch": epoch, "replicas": replicas},
    });
    row.to_string().into_bytes()
}

fn disk_at(number: usize) -> DiskId {
    disk_id(number / 10, number % 10, 0)
}

/// Two replicas, attached in generation 1.
fn attached() -> Ledger {
    let mut ledger = Ledger::default();
    ledger.changed(VOLUME_KEY, Some(&volume(0, None)));
    ledger.changed(SHARD_KEY, Some(&shard(1, &[(1, 10, "s"), (2, 20, "s")])));
    ledger.changed(VOLUME_KEY, Some(&volume(1, Some("owner"))));
    ledger
}

fn propose(ledger: &mut Ledger, generation: u32, epoch: u32, set: &[u64]) {
    ledger.propose(&ProposeInSync {
        volume: VOLUME,
        generation: Generation::new(generation),
        shard: ShardIndex::new(0),
        epoch: Epoch::new(epoch),
        in_sync: set.iter().copied().map(ReplicaId::new).collect(),
    });
}

fn put_shard(ledger: &mut Ledger, epoch: u32, replicas: &[(u64, usize, &str)]) {
    ledger.changed(SHARD_KEY, Some(&shard(epoch, replicas)));
}

fn assert_fails(ledger: &Ledger, what: &str) {
    let failure = ledger.failure().expect("it is noticed");
    assert!(failure.contains(what), "{failure}");
}

/// The volume in generation 1, attached or not, with these layers.
fn layered(owner: Option<&str>, head: u32, settled: u32, (table, applied): (u32, u32)) -> Vec<u8> {
    let row = serde_json::json!({
        "version": 5,
        "row": {
            "replicas": 2, "size_bytes": 1 << 20, "shard_bytes": 1 << 20, "state": "ready", "generation": 1, "attached_by": owner,
            "head_layer": head, "settled_layer": settled, "layers_applied": applied,
            "layers": {"version": table, "live": [], "dropped": []},
        },
    });
    row.to_string().into_bytes()
}

fn report(settled: u32, table: u32) -> ReportLayers {
    ReportLayers {
        volume: VOLUME,
        generation: Generation::new(1),
        settled: Layer::new(settled),
        table,
    }
}

#[test]
fn layers_are_settled_and_tables_applied_as_owners_say() {
    let owner = Some("owner");
    let mut ledger = attached();
    ledger.changed(VOLUME_KEY, Some(&layered(owner, 2, 0, (1, 0))));
    assert!(!ledger.is_table_applied());
    ledger.report(&report(1, 1));
    ledger.changed(VOLUME_KEY, Some(&layered(owner, 2, 1, (1, 1))));
    assert_eq!(ledger.failure(), None);
    assert!(ledger.is_table_applied());

    let mut ledger = attached();
    ledger.changed(VOLUME_KEY, Some(&layered(owner, 2, 1, (0, 0))));
    assert_fails(&ledger, "settled, which no owner has said");

    let mut ledger = attached();
    ledger.report(&report(1, 0));
    ledger.changed(VOLUME_KEY, Some(&layered(owner, 2, 0, (1, 1))));
    assert_fails(&ledger, "applied, which no owner has said");

    let mut ledger = attached();
    ledger.report(&report(3, 0));
    ledger.changed(VOLUME_KEY, Some(&layered(owner, 3, 3, (0, 0))));
    assert_fails(&ledger, "the head is settled");
}

#[test]
fn snapshots_go_and_generations_end_only_when_somebody_asks() {
    let mut ledger = attached();
    ledger.changed(SNAPSHOT_KEY, None);
    assert_fails(&ledger, "removed, which nobody asked for");
    let mut ledger = attached();
    ledger.delete_snapshot();
    ledger.changed(SNAPSHOT_KEY, None);
    assert_eq!(ledger.failure(), None);
    ledger.roll_back();
    ledger.changed(VOLUME_KEY, Some(&volume(2, None)));
    assert_eq!((ledger.failure(), ledger.rollbacks()), (None, 1));
    ledger.changed(VOLUME_KEY, Some(&volume(3, None)));
    assert_fails(&ledger, "granted to nobody");
}

#[test]
fn a_replica_that_is_proposed_away_is_replaced() {
    let mut ledger = attached();
    propose(&mut ledger, 1, 1, &[1]);
    put_shard(&mut ledger, 2, &[(1, 10, "s"), (2, 20, "")]);
    put_shard(&mut ledger, 2, &[(1, 10, "s"), (3, 30, "f")]);
    propose(&mut ledger, 1, 2, &[1, 3]);
    put_shard(&mut ledger, 3, &[(1, 10, "s"), (3, 30, "s")]);
    assert_eq!(ledger.failure(), None);
    let disks = |ids: [usize; 2]| ids.map(disk_at).to_vec();
    assert_eq!(
        ledger.sets(Generation::new(1)),
        [(disks([10, 20]), disks([10, 30]))]
    );
}

#[test]
fn a_set_that_nobody_proposed_is_noticed() {
    let mut ledger = attached();
    propose(&mut ledger, 1, 1, &[1]);
    put_shard(&mut ledger, 2, &[(1, 10, ""), (2, 20, "s")]);
    assert_fails(&ledger, "as no current owner has proposed");
}

#[test]
fn a_proposal_of_a_generation_that_is_over_is_noticed() {
    let mut ledger = attached();
    propose(&mut ledger, 1, 1, &[1]);
    ledger.changed(VOLUME_KEY, Some(&volume(2, Some("other"))));
    put_shard(&mut ledger, 2, &[(1, 10, "s"), (2, 20, "")]);
    assert_fails(&ledger, "as no current owner has proposed");
}

#[test]
fn a_replica_in_sync_that_is_replaced_is_noticed() {
    let mut ledger = attached();
    put_shard(&mut ledger, 1, &[(1, 10, "s"), (3, 30, "f")]);
    assert_fails(&ledger, "its epoch does not rise");
}

#[test]
fn two_replicas_on_one_node_are_noticed() {
    let mut ledger = attached();
    put_shard(&mut ledger, 1, &[(1, 10, "sl"), (2, 20, "s"), (3, 21, "f")]);
    assert_fails(&ledger, "on one node");
}

#[test]
fn one_takes_the_place_of_another_on_its_node_and_never_counts_beside_it() {
    let begun = [(1, 10, "s"), (2, 20, "sl"), (3, 21, "f")];
    let mut ledger = attached();
    put_shard(&mut ledger, 1, &begun);
    propose(&mut ledger, 1, 1, &[1, 3]);
    put_shard(&mut ledger, 2, &[(1, 10, "s"), (3, 21, "s")]);
    assert_eq!(ledger.failure(), None);

    let mut ledger = attached();
    put_shard(&mut ledger, 1, &begun);
    propose(&mut ledger, 1, 1, &[1, 2, 3]);
    put_shard(&mut ledger, 2, &[(1, 10, "s"), (2, 20, "sl"), (3, 21, "s")]);
    assert_fails(&ledger, "on one node");

    // Of two on different nodes, the one does not take the other's place in one step.
    let mut ledger = attached();
    put_shard(&mut ledger, 1, &[(1, 10, "s"), (2, 20, "sl"), (3, 30, "f")]);
    propose(&mut ledger, 1, 1, &[1, 3]);
    put_shard(&mut ledger, 2, &[(1, 10, "s"), (3, 30, "s")]);
    assert_fails(&ledger, "and another out");
}

#[test]
fn an_id_that_is_used_again_is_noticed() {
    let mut ledger = attached();
    put_shard(&mut ledger, 1, &[(1, 10, "s"), (2, 20, "sl"), (3, 30, "f")]);
    put_shard(&mut ledger, 1, &[(1, 10, "s"), (2, 20, "s")]);
    assert_eq!(ledger.failure(), None);
    put_shard(&mut ledger, 1, &[(1, 10, "s"), (2, 20, "sl"), (3, 30, "f")]);
    assert_fails(&ledger, "used again");
}

#[test]
fn a_volume_that_is_taken_from_its_owner_is_noticed() {
    let mut ledger = attached();
    ledger.changed(VOLUME_KEY, Some(&volume(1, None)));
    assert_fails(&ledger, "did not ask for");

    let mut ledger = attached();
    ledger.detach(&DetachRequest {
        volume: VOLUME,
        generation: Generation::new(1),
        served: true,
        settled: false,
    });
    ledger.changed(VOLUME_KEY, Some(&volume(1, None)));
    assert_eq!(ledger.failure(), None);
}
