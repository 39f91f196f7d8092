//! Rows as a conductor might write them, and what the ledger says to them.

use ashlar_proto::VolumeId;

use super::*;

const VOLUME: VolumeId = VolumeId::new(1);

fn volume(generation: u32, owner: Option<&str>) -> Vec<u8> {
    let owner = owner.map_or("null".to_owned(), |owner| format!("\"{owner}\""));
    let row = format!(
        r#"{{"version":3,"row":{{"replicas":2,"state":"ready","generation":{generation},"attached_by":{owner}}}}}"#
    );
    row.into_bytes()
}

/// A shard with replicas given as `(id, disk, state)`; the state is any of `s`ync, `f`resh, `l`eaving.
fn shard(epoch: u32, replicas: &[(u64, u128, &str)]) -> Vec<u8> {
    let replica = |(id, disk, state): &(u64, u128, &str)| Replica {
        id: ReplicaId::new(*id),
        node: ashlar_proto::NodeId::new(1),
        disk: DiskId::new(*disk),
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

/// Two replicas, attached in generation 1.
fn attached() -> Ledger {
    let mut ledger = Ledger::default();
    ledger.changed("volume/1", Some(&volume(0, None)));
    ledger.changed("shard/1/0", Some(&shard(1, &[(1, 1, "s"), (2, 2, "s")])));
    ledger.changed("volume/1", Some(&volume(1, Some("owner"))));
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

fn put_shard(ledger: &mut Ledger, epoch: u32, replicas: &[(u64, u128, &str)]) {
    ledger.changed("shard/1/0", Some(&shard(epoch, replicas)));
}

fn assert_fails(ledger: &Ledger, what: &str) {
    let failure = ledger.failure().expect("it is noticed");
    assert!(failure.contains(what), "{failure}");
}

#[test]
fn a_replica_that_is_proposed_away_is_replaced() {
    let mut ledger = attached();
    propose(&mut ledger, 1, 1, &[1]);
    put_shard(&mut ledger, 2, &[(1, 1, "s"), (2, 2, "")]);
    put_shard(&mut ledger, 2, &[(1, 1, "s"), (3, 3, "f")]);
    propose(&mut ledger, 1, 2, &[1, 3]);
    put_shard(&mut ledger, 3, &[(1, 1, "s"), (3, 3, "s")]);
    assert_eq!(ledger.failure(), None);
    let disks = |ids: [u128; 2]| ids.map(DiskId::new).to_vec();
    assert_eq!(
        ledger.sets(Generation::new(1)),
        [(disks([1, 2]), disks([1, 3]))]
    );
}

#[test]
fn a_set_that_nobody_proposed_is_noticed() {
    let mut ledger = attached();
    propose(&mut ledger, 1, 1, &[1]);
    put_shard(&mut ledger, 2, &[(1, 1, ""), (2, 2, "s")]);
    assert_fails(&ledger, "as no current owner has proposed");
}

#[test]
fn a_proposal_of_a_generation_that_is_over_is_noticed() {
    let mut ledger = attached();
    propose(&mut ledger, 1, 1, &[1]);
    ledger.changed("volume/1", Some(&volume(2, Some("other"))));
    put_shard(&mut ledger, 2, &[(1, 1, "s"), (2, 2, "")]);
    assert_fails(&ledger, "as no current owner has proposed");
}

#[test]
fn a_replica_in_sync_that_is_replaced_is_noticed() {
    let mut ledger = attached();
    put_shard(&mut ledger, 1, &[(1, 1, "s"), (3, 3, "f")]);
    assert_fails(&ledger, "its epoch does not rise");
}

#[test]
fn two_replicas_on_one_node_are_noticed() {
    let mut ledger = attached();
    put_shard(&mut ledger, 1, &[(1, 1, "s"), (2, 2, "sl"), (3, 2, "f")]);
    assert_fails(&ledger, "on one node");
}

#[test]
fn an_id_that_is_used_again_is_noticed() {
    let mut ledger = attached();
    put_shard(&mut ledger, 1, &[(1, 1, "s"), (2, 2, "sl"), (3, 3, "f")]);
    put_shard(&mut ledger, 1, &[(1, 1, "s"), (2, 2, "s")]);
    assert_eq!(ledger.failure(), None);
    put_shard(&mut ledger, 1, &[(1, 1, "s"), (2, 2, "sl"), (3, 3, "f")]);
    assert_fails(&ledger, "used again");
}

#[test]
fn a_volume_that_is_taken_from_its_owner_is_noticed() {
    let mut ledger = attached();
    ledger.changed("volume/1", Some(&volume(1, None)));
    assert_fails(&ledger, "did not ask for");

    let mut ledger = attached();
    ledger.detach(&DetachRequest {
        volume: VOLUME,
        generation: Generation::new(1),
        served: true,
    });
    ledger.changed("volume/1", Some(&volume(1, None)));
    assert_eq!(ledger.failure(), None);
}
