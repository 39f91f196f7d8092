//! Backups with damage, rows with flaws, repairs, and rows through a store and back.

use std::collections::BTreeMap;

use ashlar_proto::api::{
    AckRule, DiskReport, Replica, Reserve, Revision, Schedulable, VolumeState,
};
use ashlar_proto::{
    Address, ByteCount, ClusterId, DiskId, Epoch, Generation, Layer, LayerTable, NodeId, ReplicaId,
    ShardIndex, VolumeId,
};

use super::backup::{self, Backup, BackupError};
use super::check::check;
use super::held::Held;
use super::snapshot::{self, Snapshot};
use super::{Rows, repair, restore};
use crate::meta::redb_store::RedbStore;
use crate::meta::{Change, Key};
use crate::row::{
    AnyRow, ClusterRow, DiskRow, NameRow, NodeRow, ShardRow, VolumeRow, cluster_key, name_key,
    recovery_key, shard_key, volume_key,
};

const CLUSTER: ClusterId = ClusterId::new(0xc1);

fn node(id: u64) -> AnyRow {
    AnyRow::Node(NodeRow {
        id: NodeId::new(id),
        name: format!("n{id}"),
        address: "127.0.0.1:7200".parse::<Address>().unwrap(),
        labels: BTreeMap::new(),
        up: true,
        schedulable: Schedulable::Open,
    })
}

fn disk(id: u128, node: u64) -> AnyRow {
    AnyRow::Disk(DiskRow {
        node: NodeId::new(node),
        report: DiskReport {
            id: DiskId::new(id),
            ..DiskReport::default()
        },
        schedulable: Schedulable::Open,
        ailing: None,
        cleared: None,
        labels: BTreeMap::new(),
    })
}

fn volume() -> VolumeRow {
    VolumeRow {
        id: VolumeId::new(1),
        name: "v".to_owned(),
        labels: Default::default(),
        size_bytes: ByteCount::new(3 << 20),
        shard_bytes: ByteCount::new(2 << 20),
        replicas: 2,
        ack: AckRule::Majority,
        state: VolumeState::Ready,
        generation: Generation::new(7),
        head_layer: Layer::new(1),
        attached_by: Some("nbd@a".to_owned()),
        attached_as: None,
        attached_under: None,
        publication: None,
        attached_for_repair: false,
        repairer: None,
        unfenced: false,
        layers: LayerTable::default(),
        layers_applied: 0,
        settled_layer: Layer::new(0),
        settled: true,
        grows_to: None,
        kept_bytes: ByteCount::new(0),
        reserve: Reserve::None,
        origin: None,
        flattened_to: None,
        served_by: None,
        wanted_by: None,
        key_hash: None,
    }
}

fn shard(index: u32) -> ShardRow {
    let replica = |at: u64| Replica {
        id: ReplicaId::new(u64::from(index) * 2 + at),
        node: NodeId::new(at),
        disk: DiskId::new(u128::from(at)),
        in_sync: true,
        fresh: false,
        leaving: false,
    };
    ShardRow {
        volume: VolumeId::new(1),
        index: ShardIndex::new(index),
        epoch: Epoch::new(3),
        replicas: vec![replica(1), replica(2)],
        made: Vec::new(),
        rebalancing: false,
    }
}

/// Two nodes with a disk each, and one that holds nothing; a volume of two shards.
fn rows() -> Rows {
    let cluster = AnyRow::Cluster(ClusterRow {
        id: CLUSTER,
        next_volume: 2,
        next_replica: 5,
        next_node: 3,
        next_group: 1,
    });
    let name = AnyRow::Name(NameRow {
        name: "v".to_owned(),
        volume: VolumeId::new(1),
    });
    let all = [
        cluster,
        name,
        AnyRow::Volume(volume()),
        AnyRow::Shard(shard(0)),
        AnyRow::Shard(shard(1)),
        node(1),
        node(2),
        disk(1, 1),
        disk(2, 2),
        disk(3, 2),
    ];
    let mut rows = Rows::new();
    all.into_iter().for_each(|row| set(&mut rows, row));
    rows
}

fn set(rows: &mut Rows, row: AnyRow) {
    if let Change::Put { key, value } = row.put() {
        rows.insert(key, value);
    }
}

fn get(rows: &Rows, key: &Key) -> AnyRow {
    AnyRow::decode(key, &rows[key]).unwrap()
}

fn backup() -> Backup {
    Backup {
        cluster: CLUSTER,
        taken_ms: 1_700_000_000_000,
        snapshot: Snapshot {
            revision: Revision(9),
            rows: rows(),
        },
    }
}

fn texts(rows: &Rows) -> Vec<String> {
    check(rows).iter().map(ToString::to_string).collect()
}

#[test]
fn a_backup_is_read_as_it_was_written() {
    assert_eq!(backup::read(&backup::write(&backup())), Ok(backup()));
    let empty = Backup {
        snapshot: Snapshot::default(),
        ..backup()
    };
    assert_eq!(backup::read(&backup::write(&empty)), Ok(empty));
}

#[test]
fn the_bytes_of_a_backup_are_those_of_format_1() {
    let rows = Rows::from([(Key::new("k"), b"v".to_vec())]);
    let snapshot = Snapshot {
        revision: Revision(2),
        rows,
    };
    let bytes = backup::write(&Backup {
        cluster: ClusterId::new(1),
        taken_ms: 3,
        snapshot,
    });
    let head = [
        b"ASHLMETA".as_slice(),
        &1_u32.to_le_bytes(),
        &[0; 4],
        &1_u128.to_le_bytes(),
        &2_u64.to_le_bytes(),
        &3_u64.to_le_bytes(),
        &1_u32.to_le_bytes(),
    ]
    .concat();
    assert_eq!(bytes[..52], head);
    assert_eq!(bytes[56..66], [1, 0, 0, 0, 1, 0, 0, 0, b'k', b'v']);
    assert_eq!(bytes.len(), 56 + 10 + 4 + 4);
}

#[test]
fn a_backup_with_any_byte_changed_is_refused() {
    let bytes = backup::write(&backup());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(backup::read(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn a_backup_that_is_cut_or_longer_is_refused() {
    let bytes = backup::write(&backup());
    for length in 0..bytes.len() {
        assert!(backup::read(&bytes[..length]).is_err(), "{length} bytes");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(backup::read(&longer).is_err());
    assert_eq!(backup::read(b"something else"), Err(BackupError::NoBackup));
    let mut newer = bytes;
    newer[8] = 2;
    assert_eq!(backup::read(&newer), Err(BackupError::Format { found: 2 }));
}

#[test]
fn rows_as_a_conductor_keeps_them_have_no_flaw() {
    assert_eq!(texts(&rows()), [""; 0]);
    assert!(texts(&Rows::new()).is_empty());
}

/// Each row removed or spoilt by itself is noticed, but for a disk and a node that nothing names.
#[test]
fn every_row_that_is_lost_or_damaged_is_noticed() {
    for key in rows().keys() {
        let mut spoilt = rows();
        spoilt.insert(key.clone(), b"{\"version\":9,\"row\":[]}".to_vec());
        assert!(!texts(&spoilt).is_empty(), "{key} spoilt");
        let mut lost = rows();
        lost.remove(key);
        let is_named = *key != crate::row::disk_key(DiskId::new(3));
        assert_eq!(!texts(&lost).is_empty(), is_named, "{key} lost");
    }
}

#[test]
fn what_rows_say_of_each_other_is_compared() {
    let mut of = shard(0);
    of.replicas[0].node = NodeId::new(2);
    of.replicas[1].disk = DiskId::new(9);
    let mut rows = rows();
    set(&mut rows, AnyRow::Shard(of));
    let found = texts(&rows).join("\n");
    assert!(
        found.contains("its disk 00000000000000000000000000000001 is on node 1"),
        "{found}"
    );
    assert!(found.contains("which is not there"), "{found}");
}

#[test]
fn what_is_certain_is_mended_and_the_rest_is_left() {
    let mut rows = rows();
    rows.remove(&name_key("v"));
    rows.insert(Key::new("name/w"), rows[&cluster_key()].clone());
    rows.remove(&Key::new("name/w"));
    set(
        &mut rows,
        AnyRow::Name(NameRow {
            name: "w".to_owned(),
            volume: VolumeId::new(4),
        }),
    );
    let mut of = shard(0);
    of.replicas[0].node = NodeId::new(2);
    set(&mut rows, AnyRow::Shard(of));
    rows.remove(&shard_key(VolumeId::new(1), ShardIndex::new(1)));
    let AnyRow::Cluster(mut cluster) = get(&rows, &cluster_key()) else {
        panic!("the cluster")
    };
    cluster.next_replica = 1;
    set(&mut rows, AnyRow::Cluster(cluster));
    let plan = repair::plan(&rows, &Held::default());
    for change in plan.changes {
        match change {
            Change::Put { key, value } => drop(rows.insert(key, value)),
            Change::Delete { key } => drop(rows.remove(&key)),
        }
    }
    let left: Vec<String> = plan.left.iter().map(ToString::to_string).collect();
    assert_eq!(left, texts(&rows));
    assert_eq!(
        left,
        [format!(
            "{}: its shard 1 is not there",
            volume_key(VolumeId::new(1))
        )]
    );
    assert_eq!(plan.mended.len(), 4, "{:?}", plan.mended);
    assert!(rows.contains_key(&name_key("v")) && !rows.contains_key(&name_key("w")));
}

fn report(disk: u128, shards: &[(u32, u64)]) -> Vec<u8> {
    let shards: Vec<serde_json::Value> = shards
        .iter()
        .map(|(shard, replica)| {
            serde_json::json!({
                "volume": VolumeId::new(1), "shard": shard,
                "replica": ReplicaId::new(*replica), "blocks": 512, "generation": 7,
            })
        })
        .collect();
    let view = serde_json::json!({
        "path": "/d", "disk": DiskId::new(disk), "cluster": CLUSTER, "lanes": [{"shards": shards}],
    });
    serde_json::to_vec(&view).unwrap()
}

#[test]
fn a_replica_is_said_to_be_where_it_was_found() {
    let mut held = Held::default();
    held.add(&report(1, &[(0, 1), (1, 3)]), CLUSTER).unwrap();
    held.add(&report(2, &[(0, 2)]), CLUSTER).unwrap();
    held.add(&report(3, &[(1, 4), (1, 77)]), CLUSTER).unwrap();
    assert!(held.add(&report(3, &[]), CLUSTER).is_err());
    assert!(held.add(&report(4, &[]), ClusterId::new(5)).is_err());
    let rows = rows();
    let found = repair::check_held(&rows, &held);
    assert_eq!(found.len(), 2, "{found:?}");
    let plan = repair::plan(&rows, &held);
    let [Change::Put { key, value }] = &plan.changes[..] else {
        panic!("one shard: {:?}", plan.changes)
    };
    let AnyRow::Shard(shard) = AnyRow::decode(key, value).unwrap() else {
        panic!("a shard")
    };
    assert_eq!(shard.replicas[1].disk, DiskId::new(3));
    assert_eq!(shard.replicas[1].node, NodeId::new(2));
    // What no row names is told, and nothing is made of it.
    assert_eq!(plan.left.len(), 1);
    assert!(plan.left[0].to_string().contains("which no row names"));
}

#[test]
fn a_replica_that_its_disk_does_not_hold_is_told_and_stays_in_the_set() {
    let mut held = Held::default();
    held.add(&report(1, &[(0, 1)]), CLUSTER).unwrap();
    let plan = repair::plan(&rows(), &held);
    assert!(plan.changes.is_empty());
    assert_eq!(plan.left.len(), 1);
    assert!(plan.left[0].to_string().contains("is not on disk"));
}

#[test]
fn what_was_given_out_since_a_backup_is_not_given_out_again() {
    let apart = restore::set_apart(&rows()).unwrap();
    let AnyRow::Volume(row) = get(&apart, &volume_key(VolumeId::new(1))) else {
        panic!("a volume")
    };
    assert!(row.generation > Generation::new(1000) && row.attached_by.is_none() && !row.settled);
    let AnyRow::Shard(row) = get(&apart, &shard_key(VolumeId::new(1), ShardIndex::new(0))) else {
        panic!("a shard")
    };
    assert!(row.epoch > Epoch::new(1000));
    let AnyRow::Cluster(row) = get(&apart, &cluster_key()) else {
        panic!("the cluster")
    };
    assert!(row.next_volume > 1000 && row.next_replica > 1000);
    assert_eq!(texts(&apart), [""; 0]);
    let AnyRow::Recovery(row) = get(&apart, &recovery_key()) else {
        panic!("a recovery")
    };
    assert!(!row.compared && row.epochs_skipped > 1000);
    // What was restored while it recovered is as far behind as both together.
    let AnyRow::Recovery(again) = get(&restore::set_apart(&apart).unwrap(), &recovery_key()) else {
        panic!("a recovery")
    };
    assert_eq!(again.epochs_skipped, 2 * row.epochs_skipped);
}

/// No conductor starts on a row that it cannot read; without it one starts, and has stores say what they hold.
#[test]
fn a_garbled_row_of_a_volume_is_removed_and_a_recovery_begins() {
    let shard = shard_key(VolumeId::new(1), ShardIndex::new(1));
    let mut garbled = rows();
    garbled.insert(shard.clone(), b"{".to_vec());
    let repair = repair::plan(&garbled, &Held::default());
    assert!(
        repair
            .changes
            .contains(&Change::Delete { key: shard.clone() })
    );
    let begun = repair
        .changes
        .iter()
        .any(|change| *change.key() == recovery_key());
    assert!(begun, "{:?}", repair.changes);
    // What a newer build wrote is left to it, and so are rows that no store could tell of.
    let newer = br#"{"version":99,"row":{}}"#.to_vec();
    for (key, value) in [(shard, newer), (cluster_key(), b"{".to_vec())] {
        let mut rows = rows();
        rows.insert(key, value);
        assert_eq!(repair::plan(&rows, &Held::default()).changes, []);
    }
}

#[tokio::test]
async fn rows_go_through_a_store_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::open(directory.path().to_path_buf())
        .await
        .unwrap();
    restore::fill(&store, &rows(), false).await.unwrap();
    store.go_on_after(Revision(100)).await.unwrap();
    let taken = snapshot::take(&store).await.unwrap();
    assert_eq!((taken.revision, &taken.rows), (Revision(100), &rows()));
    // A second time only where it is meant, and then nothing else is left there.
    let other = Rows::from([(cluster_key(), rows()[&cluster_key()].clone())]);
    let refused = restore::fill(&store, &other, false).await;
    assert!(matches!(
        refused,
        Err(restore::RestoreError::NotEmpty { rows: 10 })
    ));
    assert_eq!(snapshot::take(&store).await.unwrap().rows, rows());
    restore::fill(&store, &other, true).await.unwrap();
    assert_eq!(snapshot::take(&store).await.unwrap().rows, other);
}

#[tokio::test]
async fn more_rows_than_a_transaction_takes_are_restored() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::open(directory.path().to_path_buf())
        .await
        .unwrap();
    let large: Rows = (0..1300)
        .map(|i| (Key::new(format!("k/{i:05}")), vec![b'x'; 1000]))
        .collect();
    restore::fill(&store, &large, false).await.unwrap();
    assert_eq!(snapshot::take(&store).await.unwrap().rows, large);
}
