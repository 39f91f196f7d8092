//! Groups of snapshots over HTTP, with owners that answer, are silent, or whose conductor dies.

use std::time::Duration;

use ashlar_proto::api::{
    Attachment, HoldAnswer, HoldOutcome, HoldWord, List, ReportHold, Snapshot, SnapshotGroup,
    SnapshotState, Volume,
};
use ashlar_proto::{GroupId, Layer};
use reqwest::StatusCode;
use serde_json::json;

use super::support::{Bench, Store, problem, start};

const GROUPS: &str = "/v1/snapshot-groups?wait_ms=0";

impl Bench {
    async fn two_volumes(&self) {
        for name in ["a", "b"] {
            self.create(name, 3).await;
        }
    }

    async fn names(&self, volume: &str) -> Vec<String> {
        let path = format!("/v1/volumes/{volume}/snapshots");
        let list: List<Snapshot> = self.get(&path).await;
        list.items.into_iter().map(|s| s.name).collect()
    }

    /// Waits until an owner is told of a hold.
    async fn told(&self, volume: &str) -> GroupId {
        let path = format!("/v1/volumes/{volume}");
        let told = self.until(&path, |volume: &Volume| volume.hold.is_some());
        told.await.hold.unwrap().group
    }

    async fn say(&self, owner: &Attachment, group: GroupId, word: HoldWord) -> HoldAnswer {
        let report = ReportHold {
            volume: owner.volume.id,
            generation: owner.volume.generation,
            group,
            word,
        };
        let path = format!("/v1/volumes/{}/hold", owner.volume.name);
        self.posted(&path, &report).await
    }
}

fn group(name: &str) -> serde_json::Value {
    json!({"name": name, "volumes": ["a", "b"]})
}

#[tokio::test]
async fn a_group_of_detached_volumes_is_ready_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.two_volumes().await;
    let made = bench.post(GROUPS, &group("s")).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: SnapshotGroup = made.json().await.unwrap();
    let volumes: Vec<_> = made
        .snapshots
        .iter()
        .map(|s| s.volume_name.as_str())
        .collect();
    assert_eq!(volumes, ["a", "b"]);
    for snapshot in &made.snapshots {
        assert_eq!(snapshot.state, SnapshotState::Ready);
        assert_eq!(snapshot.group, Some(made.group));
    }
    // A volume of the default project goes by either of its names.
    let long = json!({"name": "long", "volumes": ["default/a", "b"]});
    let long: SnapshotGroup = bench.posted(GROUPS, &long).await;
    let names = |s: &Snapshot| (s.volume_name.clone(), s.name.clone(), s.state);
    let ready = |name: &str| (name.to_owned(), "long".to_owned(), SnapshotState::Ready);
    assert_eq!(
        long.snapshots.iter().map(names).collect::<Vec<_>>(),
        [ready("a"), ready("b")]
    );
    let twice = json!({"name": "twice", "volumes": ["default/a", "a"]});
    let refused = problem(bench.post(GROUPS, &twice).await).await;
    assert_eq!(refused.code, "invalid-request");
    let code = async |body: serde_json::Value| problem(bench.post(GROUPS, &body).await).await.code;
    assert_eq!(code(group("s")).await, "snapshot-exists");
    let one = json!({"name": "t", "volumes": ["a"]});
    assert_eq!(code(one).await, "invalid-request");
    let unknown = json!({"name": "t", "volumes": ["a", "nope"]});
    assert_eq!(code(unknown).await, "volume-not-found");
}

#[tokio::test]
async fn owners_hold_until_all_do_and_the_caller_may_go() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.two_volumes().await;
    let (a, b) = (
        bench.attached("a", "x").await,
        bench.attached("b", "y").await,
    );
    // Whoever asked hangs up before any owner has answered.
    let body = group("s");
    let asked = bench.post(GROUPS, &body);
    let hung_up = tokio::time::timeout(Duration::from_millis(50), asked).await;
    assert!(hung_up.is_err(), "nobody holds yet");
    let group = bench.told("a").await;
    let (held_a, held_b) = tokio::join!(bench.say(&a, group, HoldWord::Held), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.say(&b, group, HoldWord::Held).await
    });
    for held in [held_a, held_b] {
        assert_eq!(held.outcome, HoldOutcome::Sealed);
        assert_eq!(held.head_layer, Layer::new(2));
    }
    let sealing: Snapshot = bench.get("/v1/volumes/a/snapshots/s").await;
    assert_eq!(sealing.state, SnapshotState::Sealing);
    bench.say(&a, group, HoldWord::Kept).await;
    bench.say(&b, group, HoldWord::Kept).await;
    bench
        .until("/v1/volumes/b", |volume: &Volume| volume.hold.is_none())
        .await;
    for volume in ["a", "b"] {
        assert_eq!(bench.names(volume).await, ["s"]);
    }
    let late = ReportHold {
        volume: a.volume.id,
        generation: a.volume.generation,
        group,
        word: HoldWord::Held,
    };
    let refused = bench.post("/v1/volumes/a/hold", &late).await;
    assert_eq!(problem(refused).await.code, "group-over");
}

#[tokio::test]
async fn an_owner_that_is_silent_or_breaks_its_hold_fails_the_group() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    bench.two_volumes().await;
    let (a, b) = (
        bench.attached("a", "x").await,
        bench.attached("b", "y").await,
    );
    let body = group("s");
    let (refused, held) = tokio::join!(bench.post(GROUPS, &body), async {
        let group = bench.told("a").await;
        bench.say(&a, group, HoldWord::Held).await
    });
    assert_eq!(held.outcome, HoldOutcome::Over);
    let refused = problem(refused).await;
    assert_eq!(refused.code, "group-not-held");
    assert!(refused.detail.contains("volume `b` (`y`)"), "{refused:?}");
    assert!(!refused.detail.contains("volume `a`"), "{refused:?}");
    let (refused, ()) = tokio::join!(bench.post(GROUPS, &body), async {
        let group = bench.told("a").await;
        let (held_a, held_b) = tokio::join!(
            bench.say(&a, group, HoldWord::Held),
            bench.say(&b, group, HoldWord::Held)
        );
        assert_eq!(held_a.outcome, HoldOutcome::Sealed);
        assert_eq!(held_b.outcome, HoldOutcome::Sealed);
        bench.say(&a, group, HoldWord::Kept).await;
        bench.say(&b, group, HoldWord::Broken).await;
    });
    let refused = problem(refused).await;
    assert_eq!(refused.code, "group-failed");
    assert!(refused.detail.contains("volume `b`"), "{refused:?}");
    for volume in ["a", "b"] {
        assert_eq!(bench.names(volume).await, Vec::<String>::new());
        assert_eq!(bench.volume(volume).await.hold, None);
    }
}

#[test]
fn what_a_conductor_leaves_half_done_is_gone_with_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    };
    let first = runtime();
    first.block_on(async {
        let bench = start(directory.path()).await;
        let _stores = Store::start_three(&bench).await;
        bench.two_volumes().await;
        let (a, b) = (
            bench.attached("a", "x").await,
            bench.attached("b", "y").await,
        );
        let body = group("s");
        let asked = bench.post(GROUPS, &body);
        let sealed = async {
            let group = bench.told("a").await;
            let (held, _) = tokio::join!(
                bench.say(&a, group, HoldWord::Held),
                bench.say(&b, group, HoldWord::Held)
            );
            assert_eq!(held.outcome, HoldOutcome::Sealed);
        };
        tokio::select! {
            _ = asked => panic!("it cannot be made"),
            () = sealed => {}
        }
        assert_eq!(bench.names("b").await, ["s"]);
    });
    // It dies with all that it does.
    first.shutdown_timeout(Duration::from_secs(10));
    runtime().block_on(async {
        let bench = start(directory.path()).await;
        for volume in ["a", "b"] {
            let path = format!("/v1/volumes/{volume}/snapshots");
            let none = |list: &List<Snapshot>| list.items.is_empty();
            bench.until(&path, none).await;
            let volume = bench.volume(volume).await;
            assert_eq!((volume.hold, volume.head_layer), (None, Layer::new(2)));
        }
    });
}
