//! The bytes of rows: those of this version, and those of older ones.

use ashlar_proto::LayerRange;

use super::*;

#[test]
fn rows_survive_their_bytes() {
    let row = AnyRow::Name(NameRow {
        name: "a".to_owned(),
        volume: VolumeId::new(7),
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "name/a");
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
}

#[test]
fn stored_bytes_are_those_of_version_12() {
    let row = NameRow {
        name: "a".to_owned(),
        volume: VolumeId::new(7),
    };
    let Change::Put { value, .. } = AnyRow::Name(row).put() else {
        panic!("a put")
    };
    let golden = r#"{"version":12,"row":{"name":"a","volume":"0000000000000007"}}"#;
    assert_eq!(String::from_utf8(value).unwrap(), golden);
    let row = ShardRow {
        volume: VolumeId::new(7),
        index: ShardIndex::new(0),
        epoch: Epoch::new(1),
        replicas: vec![Replica {
            id: ReplicaId::new(8),
            node: NodeId::new(1),
            disk: DiskId::new(9),
            in_sync: false,
            fresh: true,
            leaving: false,
        }],
        made: vec![ReplicaId::new(8)],
        rebalancing: false,
    };
    let Change::Put { value, .. } = AnyRow::Shard(row).put() else {
        panic!("a put")
    };
    let golden = concat!(
        r#"{"version":12,"row":{"volume":"0000000000000007","index":0,"epoch":1,"#,
        r#""replicas":[{"id":"0000000000000008","node":1,"#,
        r#""disk":"00000000000000000000000000000009","#,
        r#""in_sync":false,"fresh":true,"leaving":false}],"made":["0000000000000008"],"#,
        r#""rebalancing":false}}"#
    );
    assert_eq!(String::from_utf8(value).unwrap(), golden);
    let row = RebalanceRow {
        paused: true,
        active: false,
    };
    let Change::Put { key, value } = AnyRow::Rebalance(row).put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "rebalance");
    let golden = r#"{"version":12,"row":{"paused":true,"active":false}}"#;
    assert_eq!(String::from_utf8(value).unwrap(), golden);
    let row = DeniedRow {
        client: "nbd@a/b *".to_owned(),
        reason: Some("r".to_owned()),
    };
    let Change::Put { key, value } = AnyRow::Denied(row).put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "denied/nbd@a/b *");
    let golden = r#"{"version":12,"row":{"client":"nbd@a/b *","reason":"r"}}"#;
    assert_eq!(String::from_utf8(value).unwrap(), golden);
    let ailing = Ailing {
        reason: "r".to_owned(),
        incident: Incident(5),
    };
    let row = DiskRow {
        node: NodeId::new(1),
        report: DiskReport {
            id: DiskId::new(9),
            path: "/d".to_owned(),
            lanes: 1,
            usable_bytes: ByteCount::new(1),
            used_bytes: ByteCount::new(0),
            volatile_cache: false,
            damage: BTreeMap::new(),
            failed: None,
            ailing: Some(ailing.clone()),
            missing: Vec::new(),
            map: None,
            ..DiskReport::default()
        },
        schedulable: Schedulable::Open,
        ailing: Some(ailing),
        cleared: Some(Incident(4)),
        labels: BTreeMap::new(),
    };
    let Change::Put { value, .. } = AnyRow::Disk(row).put() else {
        panic!("a put")
    };
    let golden = concat!(
        r#"{"version":12,"row":{"node":1,"report":{"id":"00000000000000000000000000000009","#,
        r#""path":"/d","lanes":1,"usable_bytes":1,"used_bytes":0,"volatile_cache":false,"#,
        r#""damage":{},"ailing":{"reason":"r","incident":5}},"schedulable":"open","#,
        r#""ailing":{"reason":"r","incident":5},"cleared":4}}"#
    );
    assert_eq!(String::from_utf8(value).unwrap(), golden);
}

#[test]
fn rows_of_version_1_are_read() {
    let value = concat!(
        r#"{"version":1,"row":{"volume":"0000000000000007","index":0,"epoch":1,"#,
        r#""replicas":[{"id":"0000000000000008","node":1,"#,
        r#""disk":"00000000000000000000000000000009","in_sync":true}]}}"#
    );
    let key = shard_key(VolumeId::new(7), ShardIndex::new(0));
    let AnyRow::Shard(row) = AnyRow::decode(&key, value.as_bytes()).unwrap() else {
        panic!("a shard")
    };
    assert!(row.made.is_empty() && !row.replicas[0].fresh && !row.replicas[0].leaving);
    let value = concat!(
        r#"{"version":1,"row":{"id":1,"name":"a","address":"127.0.0.1:7200","#,
        r#""labels":{},"up":true}}"#
    );
    let AnyRow::Node(row) = AnyRow::decode(&node_key(NodeId::new(1)), value.as_bytes()).unwrap()
    else {
        panic!("a node")
    };
    assert_eq!(row.schedulable, Schedulable::Open);
}

#[test]
fn rows_of_version_2_are_read() {
    let value = concat!(
        r#"{"version":2,"row":{"volume":"0000000000000007","index":0,"epoch":1,"#,
        r#""replicas":[{"id":"0000000000000008","node":1,"#,
        r#""disk":"00000000000000000000000000000009","#,
        r#""in_sync":true,"fresh":false,"leaving":true}],"made":["0000000000000008"]}}"#
    );
    let key = shard_key(VolumeId::new(7), ShardIndex::new(0));
    let AnyRow::Shard(row) = AnyRow::decode(&key, value.as_bytes()).unwrap() else {
        panic!("a shard")
    };
    assert!(row.replicas[0].leaving && !row.made.is_empty() && !row.rebalancing);
}

#[test]
fn rows_of_version_3_are_read() {
    let value = concat!(
        r#"{"version":3,"row":{"node":1,"report":{"id":"00000000000000000000000000000009","#,
        r#""path":"/d","lanes":1,"usable_bytes":1,"used_bytes":0,"volatile_cache":false,"#,
        r#""damage":{}},"schedulable":"cordoned"}}"#
    );
    let key = disk_key(DiskId::new(9));
    let AnyRow::Disk(row) = AnyRow::decode(&key, value.as_bytes()).unwrap() else {
        panic!("a disk")
    };
    assert_eq!(row.schedulable, Schedulable::Cordoned);
    assert!(row.ailing.is_none() && row.cleared.is_none());
}

fn volume_row() -> VolumeRow {
    let run = |low, high| LayerRange::new(Layer::new(low), Layer::new(high));
    VolumeRow {
        id: VolumeId::new(7),
        name: "a".to_owned(),
        size_bytes: ByteCount::new(8192),
        shard_bytes: ByteCount::new(4096),
        replicas: 3,
        ack: AckRule::Majority,
        state: VolumeState::Ready,
        generation: Generation::new(2),
        head_layer: Layer::new(9),
        attached_by: None,
        attached_as: None,
        attached_under: None,
        publication: None,
        labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
        served_by: None,
        wanted_by: None,
        attached_for_repair: false,
        repairer: None,
        unfenced: false,
        layers: LayerTable {
            version: 3,
            live: vec![run(1, 2), run(3, 8)],
            dropped: vec![run(4, 5)],
        },
        layers_applied: 2,
        settled_layer: Layer::new(6),
        settled: true,
        grows_to: Some(ByteCount::new(16384)),
        kept_bytes: ByteCount::new(12288),
        reserve: ashlar_proto::api::Reserve::All,
        origin: Some(OriginRow {
            volume: VolumeId::new(3),
            layer: Layer::new(2),
            bytes: ByteCount::new(4096),
        }),
        flattened_to: Some(ByteCount::new(4096)),
        key_hash: None,
    }
}

/// The bytes of [`volume_row`] up to what version 5 has added.
const VOLUME_OF_VERSION_4: &str = concat!(
    r#""row":{"id":"0000000000000007","name":"a","size_bytes":8192,"shard_bytes":4096,"#,
    r#""replicas":3,"ack":"majority","state":"ready","generation":2,"head_layer":9,"#,
    r#""attached_by":null,"attached_for_repair":false,"repairer":null,"unfenced":false"#,
);

#[test]
fn stored_volumes_and_snapshots_are_those_of_version_12() {
    let row = AnyRow::Volume(volume_row());
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    let golden = format!(
        "{}{VOLUME_OF_VERSION_4}{}",
        r#"{"version":12,"#,
        concat!(
            r#","layers":{"version":3,"live":[{"low":1,"high":2},{"low":3,"high":8}],"#,
            r#""dropped":[{"low":4,"high":5}]},"layers_applied":2,"settled_layer":6,"#,
            r#""settled":true,"grows_to":16384,"kept_bytes":12288,"reserve":"all","#,
            r#""origin":{"volume":"0000000000000003","layer":2,"bytes":4096},"#,
            r#""flattened_to":4096,"labels":{"tier":"gold"},"served_by":null,"wanted_by":null}}"#
        )
    );
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
    let row = AnyRow::Snapshot(SnapshotRow {
        volume: VolumeId::new(7),
        layer: Layer::new(26),
        name: "before".to_owned(),
        size_bytes: ByteCount::new(8192),
        created_ms: 1_700_000_000_000,
        volume_name: "shop/a".to_owned(),
        origin: None,
        deleted: true,
        group: Some(GroupId::new(3)),
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "snapshot/0000000000000007/0000001a");
    let golden = concat!(
        r#"{"version":12,"row":{"volume":"0000000000000007","layer":26,"name":"before","#,
        r#""size_bytes":8192,"created_ms":1700000000000,"volume_name":"shop/a","#,
        r#""origin":null,"deleted":true,"group":3}}"#
    );
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
    let before = golden.replace(r#","group":3"#, "");
    let before = before.replace(r#""volume_name":"shop/a","#, "");
    let AnyRow::Snapshot(before) = AnyRow::decode(&key, before.as_bytes()).unwrap() else {
        panic!("a snapshot")
    };
    assert_eq!((before.group, before.volume_name.as_str()), (None, ""));
    let row = AnyRow::Group(GroupRow {
        id: GroupId::new(26),
        name: "before".to_owned(),
        members: vec![MemberRow {
            volume: VolumeId::new(7),
            generation: Generation::new(2),
            holds: true,
            sealed: Some(Layer::new(4)),
        }],
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "group/000000000000001a");
    let golden = concat!(
        r#"{"version":12,"row":{"id":26,"name":"before","members":[{"#,
        r#""volume":"0000000000000007","generation":2,"holds":true,"sealed":4}]}}"#
    );
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
}

#[test]
fn stored_targets_are_those_of_version_12() {
    use ashlar_proto::api::{ChapLogin, InitiatorSecret, Secret};
    let login = |user: &str| ChapLogin {
        user: user.to_owned(),
        secret: Secret::new("twelve bytes"),
    };
    let row = AnyRow::Target(TargetRow {
        name: "iqn.2026-11.io.ashlar:a".parse().unwrap(),
        alias: Some("A".to_owned()),
        units: vec![UnitRow {
            lun: ashlar_proto::Lun::FIRST,
            volume: VolumeId::new(7),
            read_only: true,
        }],
        initiators: vec!["iqn.1994-05.com.redhat:*".parse().unwrap()],
        chap: vec![InitiatorSecret {
            login: login("u"),
            initiator: Some("iqn.1994-05.com.redhat:b".parse().unwrap()),
        }],
        mutual: Some(login("t")),
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "target/iqn.2026-11.io.ashlar:a");
    let golden = concat!(
        r#"{"version":12,"row":{"name":"iqn.2026-11.io.ashlar:a","alias":"A","#,
        r#""units":[{"lun":1,"volume":"0000000000000007","read_only":true}],"#,
        r#""initiators":["iqn.1994-05.com.redhat:*"],"#,
        r#""chap":[{"user":"u","secret":"twelve bytes","initiator":"iqn.1994-05.com.redhat:b"}],"#,
        r#""mutual":{"user":"t","secret":"twelve bytes"}}}"#
    );
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
}

#[test]
fn stored_secrets_of_discovery_are_those_of_version_12() {
    use ashlar_proto::api::{ChapLogin, InitiatorSecret, Secret};
    let login = |user: &str| ChapLogin {
        user: user.to_owned(),
        secret: Secret::new("twelve bytes"),
    };
    let row = AnyRow::Discovery(DiscoveryRow {
        chap: vec![InitiatorSecret {
            login: login("u"),
            initiator: None,
        }],
        mutual: Some(login("t")),
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "discovery");
    let golden = concat!(
        r#"{"version":12,"row":{"chap":[{"user":"u","secret":"twelve bytes"}],"#,
        r#""mutual":{"user":"t","secret":"twelve bytes"}}}"#
    );
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
}

#[test]
fn stored_reservations_are_those_of_version_12() {
    use ashlar_proto::api::{
        PersistentReservations, Registration, Reservation, ReservationKey, ReservationType,
        TargetPort,
    };
    let row = AnyRow::Reservations(ReservationsRow {
        volume: VolumeId::new(7),
        version: 3,
        reservations: PersistentReservations {
            generation: 2,
            registrations: vec![Registration {
                initiator: "iqn.1994-05.com.redhat:b,i,0x00023d000001".parse().unwrap(),
                through: Some(TargetPort {
                    target: "iqn.2026-11.io.ashlar:a".parse().unwrap(),
                    portal_group: 1,
                }),
                key: ReservationKey::new(0xabc).unwrap(),
            }],
            reservation: Some(Reservation {
                kind: ReservationType::WriteExclusive,
                holder: Some(0),
            }),
            aborts: 0,
            aptpl: true,
        },
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "reservations/0000000000000007");
    let golden = concat!(
        r#"{"version":12,"row":{"volume":"0000000000000007","version":3,"reservations":{"#,
        r#""generation":2,"registrations":[{"#,
        r#""initiator":"iqn.1994-05.com.redhat:b,i,0x00023d000001","#,
        r#""through":{"target":"iqn.2026-11.io.ashlar:a","portal_group":1},"#,
        r#""key":"0000000000000abc"}],"#,
        r#""reservation":{"type":"write-exclusive","holder":0},"aptpl":true}}}"#
    );
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
}

#[test]
fn volumes_of_version_4_are_read_and_are_not_settled() {
    let value = format!("{}{VOLUME_OF_VERSION_4}}}}}", r#"{"version":4,"#);
    let key = volume_key(VolumeId::new(7));
    let AnyRow::Volume(row) = AnyRow::decode(&key, value.as_bytes()).unwrap() else {
        panic!("a volume")
    };
    let expected = VolumeRow {
        layers: LayerTable::default(),
        layers_applied: 0,
        settled_layer: Layer::default(),
        settled: false,
        grows_to: None,
        kept_bytes: ByteCount::default(),
        reserve: ashlar_proto::api::Reserve::None,
        origin: None,
        flattened_to: None,
        labels: BTreeMap::new(),
        ..volume_row()
    };
    assert_eq!(row, expected);
}

#[test]
fn newer_rows_are_refused() {
    let refused = AnyRow::decode(&cluster_key(), br#"{"version":13,"row":{"what":1}}"#);
    assert!(matches!(
        refused,
        Err(RowError::Version { version: 13, .. })
    ));
    let unknown = AnyRow::decode(&Key::new("what/1"), b"{}");
    assert!(matches!(unknown, Err(RowError::Unknown { .. })));
}

#[test]
fn stored_servers_are_those_of_version_12() {
    let row = AnyRow::Server(ServerRow {
        group: ashlar_proto::PortalGroup::FIRST,
        name: "san-1".to_owned(),
        portals: vec!["10.0.0.1:3260".to_owned()],
        owner: "iscsi@san-1 pid 7".to_owned(),
        up: true,
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "iscsi-server/0001");
    let golden = concat!(
        r#"{"version":12,"row":{"group":1,"name":"san-1","portals":["10.0.0.1:3260"],"#,
        r#""owner":"iscsi@san-1 pid 7","up":true}}"#
    );
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
}

/// Before iSCSI servers had groups of their own, and ended each other's tasks.
#[test]
fn reservations_of_version_8_are_read() {
    let value = concat!(
        r#"{"version":8,"row":{"volume":"0000000000000007","version":3,"reservations":{"#,
        r#""generation":2,"registrations":[{"#,
        r#""initiator":"iqn.1994-05.com.redhat:b,i,0x00023d000001","#,
        r#""key":"0000000000000abc"}],"aptpl":true}}}"#
    );
    let key = reservations_key(VolumeId::new(7));
    let AnyRow::Reservations(row) = AnyRow::decode(&key, value.as_bytes()).unwrap() else {
        panic!("reservations")
    };
    assert_eq!(row.reservations.aborts, 0);
    assert_eq!(row.reservations.registrations[0].through, None);
}

#[test]
fn stored_requests_are_those_of_version_12() {
    let row = AnyRow::Once(OnceRow {
        key: "a/b".to_owned(),
        request: "0123".to_owned(),
        at_ms: 7,
        answer: serde_json::json!("0000000000000007"),
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "once/a/b");
    let golden = concat!(
        r#"{"version":12,"row":{"key":"a/b","request":"0123","at_ms":7,"#,
        r#""answer":"0000000000000007"}}"#
    );
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
}

#[test]
fn rows_of_version_9_are_read() {
    let value = r#"{"version":9,"row":{"client":"nbd@a","reason":null}}"#;
    let row = AnyRow::decode(&denied_key("nbd@a"), value.as_bytes()).unwrap();
    let client = "nbd@a".to_owned();
    let reason = None;
    assert_eq!(row, AnyRow::Denied(DeniedRow { client, reason }));
    let AnyRow::Volume(row) = version_9_volume() else {
        panic!("a volume")
    };
    assert_eq!(row.key_hash, None);
    let labels = BTreeMap::new();
    assert_eq!(
        row,
        VolumeRow {
            labels,
            ..volume_row()
        }
    );
}

/// A volume as version 9 wrote it: it knew of no keys and no labels.
fn version_9_volume() -> AnyRow {
    let Change::Put { key, value } = AnyRow::Volume(volume_row()).put() else {
        panic!("a put")
    };
    let text = String::from_utf8(value).unwrap();
    assert!(!text.contains("key_hash"));
    let text = text.replacen(r#""version":12"#, r#""version":9"#, 1);
    let text = text.replace(r#""labels":{"tier":"gold"},"#, "");
    assert!(!text.contains("labels"));
    AnyRow::decode(&key, text.as_bytes()).unwrap()
}

#[test]
fn rows_of_who_may_do_what_survive_their_bytes_and_show_no_secret() {
    let hidden = |text: &str| Hidden(text.to_owned());
    let key = ApiKeyRow {
        id: "0123456789abcdef".to_owned(),
        user: "ada".to_owned(),
        note: None,
        created_ms: 1,
        expires_ms: None,
        revoked_ms: None,
        hash: HashRow {
            memory_kib: 19456,
            passes: 2,
            lanes: 1,
            salt: hidden("aa55"),
            hash: hidden("55aa"),
        },
    };
    let Change::Put { value, .. } = AnyRow::ApiKey(key.clone()).put() else {
        panic!("a put")
    };
    let golden = concat!(
        r#"{"version":12,"row":{"id":"0123456789abcdef","user":"ada","note":null,"created_ms":1,"#,
        r#""expires_ms":null,"revoked_ms":null,"hash":{"memory_kib":19456,"passes":2,"lanes":1,"#,
        r#""salt":"aa55","hash":"55aa"}}}"#
    );
    assert_eq!(String::from_utf8(value).unwrap(), golden);
    let signing = SigningKeyRow {
        id: "1".to_owned(),
        created_ms: 1,
        private_key: hidden("c0ffee"),
        public_key: "01".to_owned(),
    };
    let user = UserRow {
        name: "ada".to_owned(),
        role: ashlar_proto::api::Role::FrontEnd,
        projects: Some(vec!["p".to_owned()]),
        denied: true,
        created_ms: 1,
        tokens_since_s: 2,
    };
    let project = ProjectRow {
        name: "p".to_owned(),
        quota_bytes: Some(ByteCount::new(7)),
        quota_volumes: None,
    };
    let revoked = RevokedTokenRow {
        id: "j".to_owned(),
        until_ms: 3,
    };
    for row in [
        AnyRow::ApiKey(key),
        AnyRow::SigningKey(signing),
        AnyRow::User(user),
        AnyRow::Project(project),
        AnyRow::RevokedToken(revoked),
    ] {
        let shown = format!("{row:?}");
        assert!(!shown.contains("aa55") && !shown.contains("55aa") && !shown.contains("c0ffee"));
        let Change::Put { key, value } = row.put() else {
            panic!("a put")
        };
        assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
    }
}

#[test]
fn stored_settings_are_those_of_version_12() {
    for (volume, name) in [
        (None, "cluster"),
        (Some(VolumeId::new(7)), "0000000000000007"),
    ] {
        let values = [("rebuild-after".to_owned(), "5m".to_owned())];
        let row = AnyRow::Settings(SettingsRow {
            volume,
            values: values.into(),
        });
        let Change::Put { key, value } = row.put() else {
            panic!("a put")
        };
        assert_eq!(key.as_str(), format!("settings/{name}"));
        let of = volume.map_or("null".to_owned(), |_| format!("\"{name}\""));
        let golden = format!(
            r#"{{"version":12,"row":{{"volume":{of},"values":{{"rebuild-after":"5m"}}}}}}"#
        );
        assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
        assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
    }
}

#[test]
fn stored_settings_of_pools_are_those_of_version_12() {
    let row = AnyRow::PoolSettings(PoolSettingsRow {
        pool: "media=nvme,path=a/b".to_owned(),
        set: [("iops-max".to_owned(), "5".to_owned())].into(),
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "settings/pool/media=nvme,path=a/b");
    let golden = r#"{"version":12,"row":{"pool":"media=nvme,path=a/b","set":{"iops-max":"5"}}}"#;
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
    // Who knows no pools does not take it for the settings of the cluster.
    assert!(AnyRow::decode(&Key::new("settings/cluster"), &value).is_err());
}

#[test]
fn stored_join_tokens_are_those_of_version_12() {
    use ashlar_proto::api::NodeRole;
    let row = AnyRow::JoinToken(JoinTokenRow {
        id: "0123456789abcdef".to_owned(),
        hash: "ab".to_owned(),
        role: NodeRole::FrontEnd,
        name: None,
        expires_ms: 7,
        used: Some(UsedRow {
            name: "n".to_owned(),
            request: "cd".to_owned(),
        }),
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "join-token/0123456789abcdef");
    let golden = concat!(
        r#"{"version":12,"row":{"id":"0123456789abcdef","hash":"ab","role":"front-end","#,
        r#""name":null,"expires_ms":7,"used":{"name":"n","request":"cd"}}}"#
    );
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
}

#[test]
fn stored_denials_of_identities_are_those_of_version_12() {
    use ashlar_proto::api::IdentitySubject;
    let row = AnyRow::DeniedIdentity(DeniedIdentityRow {
        subject: IdentitySubject::Node("n1".to_owned()),
        reason: Some("r".to_owned()),
    });
    let Change::Put { key, value } = row.put() else {
        panic!("a put")
    };
    assert_eq!(key.as_str(), "denied-identity/node/n1");
    let golden = r#"{"version":12,"row":{"subject":{"node":"n1"},"reason":"r"}}"#;
    assert_eq!(String::from_utf8(value.clone()).unwrap(), golden);
    assert_eq!(AnyRow::decode(&key, &value).unwrap(), row);
    let serial = IdentitySubject::Serial("ab".to_owned());
    let rest = denied_identity_key(&serial);
    let rest = rest.as_str().strip_prefix("denied-identity/").unwrap();
    assert_eq!(denied_subject(rest), Some(serial));
    assert_eq!(denied_subject("what/ab"), None);
}

/// Before there were users and join tokens.
#[test]
fn names_of_version_9_are_read() {
    let value = br#"{"version":9,"row":{"name":"a","volume":"0000000000000007"}}"#;
    let AnyRow::Name(row) = AnyRow::decode(&name_key("a"), value).unwrap() else {
        panic!("a name")
    };
    assert_eq!(row.volume, VolumeId::new(7));
}

/// Metadata of version 9 have no settings, and all of their rows are read as they were.
#[test]
fn metadata_of_version_9_have_no_settings() {
    let value = br#"{"version":9,"row":{"paused":true,"active":false}}"#;
    let row = RebalanceRow {
        paused: true,
        active: false,
    };
    let read = AnyRow::decode(&rebalance_key(), value).unwrap();
    assert_eq!(read, AnyRow::Rebalance(row));
}

/// Before disks had labels; and with them.
#[test]
fn labels_of_disks_are_those_of_version_12() {
    let of = |version: u32, labels: &str| {
        let report = concat!(
            r#"{"id":"00000000000000000000000000000009","path":"/d","lanes":1,"usable_bytes":1,"#,
            r#""used_bytes":0,"volatile_cache":false,"damage":{}}"#
        );
        let rest = r#""schedulable":"open","ailing":null,"cleared":null"#;
        format!(r#"{{"version":{version},"row":{{"node":1,"report":{report},{rest}{labels}}}}}"#)
    };
    let key = disk_key(DiskId::new(9));
    let read = |text: &str| match AnyRow::decode(&key, text.as_bytes()).unwrap() {
        AnyRow::Disk(row) => row,
        row => panic!("{row:?} is no disk"),
    };
    let old = read(&of(10, ""));
    assert!(old.labels.is_empty());
    let labels = BTreeMap::from([("media".to_owned(), "nvme".to_owned())]);
    let row = DiskRow { labels, ..old };
    let golden = of(12, r#","labels":{"media":"nvme"}"#);
    let Change::Put { value, .. } = AnyRow::Disk(row.clone()).put() else {
        panic!("a put")
    };
    assert_eq!(String::from_utf8(value).unwrap(), golden);
    assert_eq!(read(&golden), row);
}
