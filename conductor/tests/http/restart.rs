//! What was answered is there after a restart, a stop or a crash; and what keeps a start from
//! happening says so.

use std::path::Path;
use std::time::Duration;

use ashlar_conductor::{Conductor, ConductorOptions, StartError};
use ashlar_proto::Generation;
use ashlar_proto::api::{ClusterStatus, Registered, Volume, VolumeState};
use reqwest::StatusCode;

use super::support::{Store, registration, start};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// What a run leaves: its status, its volume, its grant.
async fn first_run(directory: &Path) -> (ClusterStatus, Volume, Conductor) {
    let bench = start(directory).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    bench.attached("data", "me").await;
    let status: ClusterStatus = bench.get("/v1/status").await;
    (status, bench.volume("data").await, bench.conductor)
}

async fn second_run(directory: &Path, status: &ClusterStatus, volume: &Volume) {
    let bench = start(directory).await;
    let now: ClusterStatus = bench.get("/v1/status").await;
    assert_eq!((now.cluster, now.volumes), (status.cluster, 1));
    assert!(now.revision >= status.revision);
    assert_eq!(&bench.volume("data").await, volume);
    let again: Registered = bench.posted("/v1/nodes/register", &registration(2)).await;
    assert_eq!(again.cluster, status.cluster);
    let _stores = Store::start_three(&bench).await;
    assert_eq!(
        bench.attached("data", "me").await.volume.generation,
        Generation::new(2)
    );
    assert!(bench.create("more", 3).await.id > volume.id);
    bench.conductor.shutdown().await;
}

#[test]
fn everything_is_still_there_after_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (status, volume, conductor) = first_run(directory.path()).await;
        conductor.shutdown().await;
        second_run(directory.path(), &status, &volume).await;
    });
}

#[test]
fn everything_that_was_answered_is_there_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let first = runtime();
    let (status, volume, conductor) = first.block_on(first_run(directory.path()));
    // No shutdown: all tasks are dropped where they stand.
    drop(first);
    drop(conductor);
    runtime().block_on(second_run(directory.path(), &status, &volume));
}

#[test]
fn a_copy_of_the_files_taken_in_flight_opens_with_all_that_was_answered() {
    let directory = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (status, volume, conductor) = first_run(directory.path()).await;
        let name = "metadata.redb";
        std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
        second_run(copy.path(), &status, &volume).await;
        conductor.shutdown().await;
    });
}

#[tokio::test]
async fn a_volume_being_made_is_finished_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _: Registered = bench.posted("/v1/nodes/register", &registration(1)).await;
    let made = bench
        .post("/v1/volumes?wait_ms=0", &super::support::volume("a", 1))
        .await;
    assert_eq!(made.status(), StatusCode::ACCEPTED);
    bench.conductor.shutdown().await;
    let bench = start(directory.path()).await;
    let _store = Store::start(&bench, 1).await;
    bench
        .until("/v1/volumes/a", |v: &Volume| v.state == VolumeState::Ready)
        .await;
}

#[tokio::test]
async fn an_attach_just_after_a_start_waits_for_its_stores() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    drop(stores);
    bench.conductor.shutdown().await;
    let bench = start(directory.path()).await;
    let moved = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for number in 1..=3 {
            let mut registration = registration(number);
            registration.address = format!("127.0.0.1:{}", 8000 + number).parse().unwrap();
            let _: Registered = bench.posted("/v1/nodes/register", &registration).await;
        }
    };
    let (grant, ()) = tokio::join!(bench.attached("data", "me"), moved);
    assert!(
        grant
            .disks
            .iter()
            .all(|disk| disk.address.to_string().contains(":800"))
    );
}

#[tokio::test]
async fn a_start_that_cannot_be_says_why() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bench = start(one.path()).await;
    let listen = bench.conductor.address();
    let options = ConductorOptions {
        data_dir: two.path().to_path_buf(),
        listen,
    };
    let taken = Conductor::start(options).await.unwrap_err();
    assert!(matches!(taken, StartError::AddressInUse { .. }), "{taken}");
    assert!(taken.to_string().contains(&listen.to_string()));
    let options = ConductorOptions {
        data_dir: one.path().to_path_buf(),
        listen: "127.0.0.1:0".parse().unwrap(),
    };
    let busy = Conductor::start(options).await.unwrap_err();
    assert!(
        busy.to_string().contains("in use by another conductor"),
        "{busy}"
    );
    let options = ConductorOptions {
        data_dir: "/proc/no/such".into(),
        listen: "127.0.0.1:0".parse().unwrap(),
    };
    assert!(
        Conductor::start(options)
            .await
            .unwrap_err()
            .to_string()
            .contains("/proc/no/such")
    );
}
