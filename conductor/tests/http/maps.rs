//! The maps of many volumes, asked for at once.

use std::time::{Duration, Instant};

use ashlar_proto::api::{AskMaps, AskedMap, Revision, VolumeMap, VolumeMaps};
use ashlar_proto::limits::{MAPS_ANSWERED_MAX, MAPS_ASKED_MAX};
use reqwest::StatusCode;

use super::support::{Bench, Store, problem, start, volume};

fn asked(list: &[(&str, Revision)]) -> AskMaps {
    let volume = |&(name, after): &(&str, Revision)| AskedMap {
        name: name.to_owned(),
        after,
    };
    AskMaps {
        volumes: list.iter().map(volume).collect(),
    }
}

async fn ask(bench: &Bench, wait_ms: u64, request: &AskMaps) -> VolumeMaps {
    bench
        .posted(&format!("/v1/maps?wait_ms={wait_ms}"), request)
        .await
}

fn names(answer: &VolumeMaps) -> Vec<&str> {
    let maps = answer.maps.iter();
    maps.map(|map| map.volume.name.as_str()).collect()
}

#[tokio::test]
async fn only_maps_that_have_changed_are_answered() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    for name in ["a", "b", "c"] {
        bench.create(name, 3).await;
    }
    let none = Revision(0);
    let first = ask(&bench, 0, &asked(&[("a", none), ("b", none), ("x", none)])).await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first.gone, ["x"]);
    let alone: VolumeMap = bench.get("/v1/volumes/a/map").await;
    assert_eq!(first.maps[0].volume, alone.volume);
    assert_eq!(first.maps[0].disks, alone.disks);
    let after = first.maps[0].revision;
    let known = asked(&[("a", after), ("b", after), ("c", after)]);
    let begun = Instant::now();
    let nothing = ask(&bench, 200, &known).await;
    assert_eq!(nothing, VolumeMaps::default());
    assert!(begun.elapsed() >= Duration::from_millis(200));
    // What changes meanwhile ends the wait, and is all that is told.
    let change = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.attached("b", "me").await
    };
    let (news, attached) = tokio::join!(ask(&bench, 30_000, &known), change);
    assert_eq!(names(&news), ["b"]);
    assert_eq!(news.maps[0].volume.generation, attached.volume.generation);
    // A revision that is not reached yet is of another cluster.
    let ahead = asked(&[("c", Revision(1 << 40))]);
    assert_eq!(names(&ask(&bench, 30_000, &ahead).await), ["c"]);
}

#[tokio::test]
async fn a_question_and_its_answer_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let made = u64::try_from(MAPS_ANSWERED_MAX).unwrap() + 6;
    for number in 0..made {
        let request = volume(&format!("v{number}"), 1);
        let path = "/v1/volumes?wait_ms=0";
        assert!(bench.post(path, &request).await.status().is_success());
    }
    let all: Vec<String> = (0..made).map(|number| format!("v{number}")).collect();
    let all: Vec<(&str, Revision)> = all
        .iter()
        .map(|name| (name.as_str(), Revision(0)))
        .collect();
    let some = ask(&bench, 0, &asked(&all)).await;
    assert_eq!(some.maps.len(), MAPS_ANSWERED_MAX);
    let rest = ask(&bench, 0, &asked(&all[MAPS_ANSWERED_MAX..])).await;
    assert_eq!(rest.maps.len(), 6);
    let long = "x".repeat(63);
    let many = vec![(long.as_str(), Revision(u64::MAX)); MAPS_ASKED_MAX];
    assert_eq!(
        ask(&bench, 0, &asked(&many)).await.gone.len(),
        MAPS_ASKED_MAX
    );
    let more = vec![(long.as_str(), Revision(0)); MAPS_ASKED_MAX + 1];
    let refused = bench.post("/v1/maps", &asked(&more)).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem(refused).await.code, "invalid-request");
}
