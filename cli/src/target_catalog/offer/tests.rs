//! Who is offered what, and what names it.

use ashlar_proto::api::{DiscoverySecrets, InitiatorSecret, Revision, Secret, TargetUnit};
use ashlar_proto::limits::{ISCSI_NAME_BYTES_MAX, NAME_BYTES_MAX};

use super::*;

const CLUSTER: ClusterId = ClusterId::new(5);

fn volume(id: u64, name: &str) -> UnitOf {
    UnitOf {
        volume: VolumeId::new(id),
        volume_name: name.to_owned(),
        layer: None,
        publication: None,
    }
}

fn snapshot(id: u64, name: &str, layer: u32, of: &str) -> UnitOf {
    UnitOf {
        layer: Some((Layer::new(layer), of.to_owned())),
        ..volume(id, name)
    }
}

fn published(id: u64, name: &str, publication: u64) -> UnitOf {
    UnitOf {
        publication: Some(PublicationId::new(publication)),
        ..volume(id, name)
    }
}

fn served(name: &str, volumes: &[u64]) -> ServedTargets {
    let unit = |id: &u64| TargetUnit {
        lun: Lun::new(u16::try_from(*id).unwrap()).unwrap(),
        volume: VolumeId::new(*id),
        volume_name: format!("v{id}"),
        read_only: true,
    };
    ServedTargets {
        discovery: DiscoverySecrets::default(),
        revision: Revision(1),
        cluster: CLUSTER,
        targets: vec![ServedTarget {
            name: name.parse().unwrap(),
            alias: Some("an alias".to_owned()),
            units: volumes.iter().map(unit).collect(),
            initiators: vec!["iqn.1994-05.com.redhat:a".parse().unwrap()],
            chap: vec![InitiatorSecret {
                login: login("u"),
                initiator: None,
            }],
            mutual: Some(login("t")),
        }],
        servers: Vec::new(),
    }
}

fn login(user: &str) -> ChapLogin {
    ChapLogin {
        user: user.to_owned(),
        secret: Secret::new("twelve bytes"),
    }
}

fn names(offers: &[Offer]) -> Vec<&str> {
    offers.iter().map(|o| o.target.name.as_str()).collect()
}

#[test]
fn texts_of_units_survive() {
    for (unit, text) in [
        (volume(7, "data"), "data#0000000000000007"),
        (
            snapshot(7, "data", 3, "monday"),
            "data@monday#0000000000000007.3",
        ),
        (
            published(7, "shop/data", 9),
            "shop/data:0000000000000009#0000000000000007",
        ),
    ] {
        assert_eq!(unit.to_string(), text);
        assert_eq!(text.parse(), Ok(unit));
    }
    for text in [
        "",
        "data",
        "data#7",
        "data@monday#0000000000000007",
        "data#0000000000000007.3",
        "data:9x#0000000000000007",
        "data:0000000000000009@monday#0000000000000007.3",
    ] {
        assert_eq!(text.parse::<UnitOf>(), Err(NoUnit), "{text:?}");
    }
}

/// These are on the disks of initiators, in the names of devices: a change takes devices away.
#[test]
fn identifiers_are_what_they_ever_were() {
    let id = |unit: UnitOf| format!("{:032x}", unit.id(CLUSTER));
    assert_eq!(id(volume(7, "data")), IDENTIFIER_OF_VOLUME);
    assert_eq!(id(volume(7, "renamed")), IDENTIFIER_OF_VOLUME);
    let of_snapshot = id(snapshot(7, "data", 3, "monday"));
    assert_eq!(of_snapshot, IDENTIFIER_OF_SNAPSHOT);
    assert_ne!(id(volume(8, "data")), IDENTIFIER_OF_VOLUME);
    let of_first = id(published(7, "data", 1));
    assert_eq!(of_first, id(published(7, "renamed", 1)));
    for other in [volume(7, "data"), published(7, "data", 2)] {
        assert_ne!(of_first, id(other));
    }
}

const IDENTIFIER_OF_VOLUME: &str = "1563c79abbb89c60fe05099247bb3f52";
const IDENTIFIER_OF_SNAPSHOT: &str = "2dbdadf7a2cb756f589b6c893f1aa5d4";

#[test]
fn who_may_log_in_is_told_what_to_show_and_others_are_denied() {
    let served = served("iqn.2026-11.com.example:t", &[1, 2]);
    let of = |name: &str| name.parse::<IscsiName>().unwrap();
    let granted = configured(&served, Some(&of("iqn.1994-05.com.redhat:a")));
    let target = &granted[0].target;
    let Access::Granted(authentication) = &target.access else {
        panic!("it is on the list")
    };
    assert_eq!(authentication.initiator[0].name, "u");
    assert_eq!(authentication.initiator[0].secret, b"twelve bytes");
    assert_eq!(authentication.target.as_ref().unwrap().name, "t");
    let units: Vec<(u16, &str)> = target
        .units
        .iter()
        .map(|u| (u.lun, u.volume.as_str()))
        .collect();
    assert_eq!(
        units,
        [(1, "v1#0000000000000001"), (2, "v2#0000000000000002")]
    );
    assert!(target.units.iter().all(|unit| unit.read_only));
    assert_eq!(granted[0].units[1].0, target.units[1].id);
    for other in [Some(of("iqn.1994-05.com.redhat:b")), None] {
        let denied = configured(&served, other.as_ref());
        assert_eq!(denied[0].target.access, Access::Denied);
    }
}

#[test]
fn volumes_that_no_target_offers_have_one_of_their_own_and_snapshots_too() {
    let listed = Listed {
        units: vec![
            volume(1, "v1"),
            volume(2, "v2"),
            snapshot(1, "v1", 3, "monday"),
        ],
    };
    let served = served("iqn.2026-11.com.example:t", &[1]);
    let offers = others(&served, &listed);
    assert_eq!(
        names(&offers),
        [
            "iqn.2026-11.io.ashlar:v2",
            "iqn.2026-11.io.ashlar:v1:monday"
        ]
    );
    for offer in &offers {
        assert_eq!(
            offer.target.access,
            Access::Granted(Authentication::default())
        );
        assert_eq!(offer.target.units[0].lun, 1);
        assert!(may_be_of_volume(&offer.target.name));
    }
    assert!(!offers[0].target.units[0].read_only && offers[1].target.units[0].read_only);
}

#[test]
fn a_target_that_somebody_has_made_hides_the_volume_of_its_name() {
    let listed = Listed {
        units: vec![volume(1, "v1"), volume(2, "v2")],
    };
    let served = served("iqn.2026-11.io.ashlar:v2", &[1]);
    assert!(others(&served, &listed).is_empty());
}

#[test]
fn the_longest_names_make_names_of_targets() {
    let longest = "_".repeat(NAME_BYTES_MAX);
    for volume in [longest.clone(), format!("{longest}/{longest}")] {
        let unit = snapshot(1, &volume, 1, &longest);
        let offer = offer_alone(CLUSTER, &unit);
        assert!(offer.target.name.len() <= ISCSI_NAME_BYTES_MAX);
        let name: IscsiName = offer.target.name.parse().unwrap();
        assert_eq!(name.as_str(), offer.target.name);
    }
}

#[test]
fn volumes_of_projects_have_targets_that_no_snapshot_has() {
    let volume = offer_alone(CLUSTER, &volume(1, "a/b"));
    let snapshot = offer_alone(CLUSTER, &snapshot(2, "a", 1, "b"));
    assert_eq!(volume.target.name, "iqn.2026-11.io.ashlar.projects:a:b");
    assert_eq!(snapshot.target.name, "iqn.2026-11.io.ashlar:a:b");
    assert!(may_be_of_volume(&volume.target.name));
}

#[test]
fn targets_of_publications_are_known_by_their_names() {
    for (volume, export) in [
        ("data", "data:000000000000000c"),
        ("shop/data", "shop/data:000000000000000c"),
    ] {
        let offer = offer_alone(CLUSTER, &published(1, volume, 12));
        let name = offer.target.name;
        assert!(may_be_of_volume(&name));
        assert_eq!(export_of_published(&name).as_deref(), Some(export));
        assert!(without_units(&name).units.is_empty());
    }
    for other in [
        offer_alone(CLUSTER, &volume(1, "a/b")).target.name,
        format!("{PUBLISHED_PREFIX}data"),
        format!("{PUBLISHED_PREFIX}x:data"),
    ] {
        assert_eq!(export_of_published(&other), None, "{other}");
    }
}
