//! Metadata that lack rows: stores are told nothing until the rows were rebuilt from what they hold.

use std::path::Path;

use ashlar_conductor::RedbStore;
use ashlar_conductor::meta::{Change, Key, MetaStore, Transaction};
use ashlar_proto::api::{
    Assignments, AuditEntry, CheckMetadata, DetachRequest, FoundReplica, Heartbeat,
    HeartbeatAnswer, INVENTORY_VERSION, InventoryPage, List, MetadataChecked, Registered, Revision,
    Volume, VolumeState,
};
use ashlar_proto::{
    BlockCount, DiskId, Epoch, Generation, Layer, LayerTable, NodeId, Window, limits,
};
use reqwest::StatusCode;
use tokio::task::JoinHandle;

use super::support::{Bench, Store, problem, registration, report, start};

/// A store with what its disk holds, which it tells when it is asked.
struct Telling {
    node: NodeId,
    task: JoinHandle<()>,
}

impl Telling {
    async fn start(bench: &Bench, number: u16, holds: Vec<FoundReplica>) -> Self {
        let registered: Registered = bench
            .posted("/v1/nodes/register", &registration(number))
            .await;
        let node = registered.node;
        let (http, base) = (bench.http.clone(), bench.url(&format!("/v1/nodes/{node}")));
        let task = tokio::spawn(async move {
            let mut applied = Revision(0);
            loop {
                let heartbeat = Heartbeat {
                    disks: vec![report(number)],
                    applied,
                    seen: Default::default(),
                };
                let sent = http.post(format!("{base}/heartbeat")).json(&heartbeat);
                let Ok(answer) = sent.send().await else {
                    return;
                };
                let Ok(answer) = answer.json::<HeartbeatAnswer>().await else {
                    return;
                };
                if let Some(asked) = answer.inventory {
                    let page = page(asked, number, holds.clone());
                    let told = http.post(format!("{base}/inventory")).json(&page);
                    let told = told.send().await.unwrap();
                    assert_eq!(told.status(), StatusCode::NO_CONTENT);
                }
                let url = format!("{base}/assignments?after={}&wait_ms=50", applied.0);
                let Ok(list) = http.get(url).send().await else {
                    return;
                };
                let Ok(list) = list.json::<Assignments>().await else {
                    return;
                };
                applied = list.revision;
            }
        });
        Self { node, task }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn page(number: u64, disk: u16, replicas: Vec<FoundReplica>) -> InventoryPage {
    InventoryPage {
        version: INVENTORY_VERSION,
        number,
        page: 0,
        last: true,
        disks: vec![DiskId::new(u128::from(disk))],
        owned: Vec::new(),
        replicas,
    }
}

/// What disk `number` holds of a volume that was attached once, and detached cleanly.
fn holds(volume: &Volume, number: u16) -> Vec<FoundReplica> {
    let disk = DiskId::new(u128::from(number));
    let of_shard = |shard: &ashlar_proto::api::Shard| {
        let replica = shard.replicas.iter().find(|it| it.disk == disk)?;
        Some(FoundReplica {
            disk,
            volume: volume.id,
            shard: shard.index,
            replica: replica.id,
            blocks: BlockCount::new(
                u32::try_from(limits::SHARD_BYTES_DEFAULT / limits::BLOCK_BYTES_U64).unwrap(),
            ),
            generation: Generation::new(1),
            epoch: shard.epoch,
            window: Window::new(1),
            stable: 100,
            highest: 100,
            doubtful: false,
            top: Layer::new(1),
            layers: Some(LayerTable::default()),
        })
    };
    volume.shards.iter().filter_map(of_shard).collect()
}

/// A conductor that made a volume, and was stopped; the volume as it was.
async fn first_run(directory: &Path) -> Volume {
    let bench = start(directory).await;
    let _stores = Store::start_three(&bench).await;
    bench.create("data", 3).await;
    let attached = bench.attached("data", "me").await;
    let detach = DetachRequest {
        volume: attached.volume.id,
        generation: attached.volume.generation,
        served: true,
        settled: true,
    };
    let detached = bench.post("/v1/volumes/data/detach", &detach).await;
    assert!(detached.status().is_success());
    let volume = bench.volume("data").await;
    bench.conductor.shutdown().await;
    volume
}

/// Removes rows while no conductor runs.
async fn lose(directory: &Path, keys: &[String]) {
    let store = RedbStore::open(directory.to_path_buf()).await.unwrap();
    let changes = keys.iter().map(|key| Change::Delete {
        key: Key::new(key.clone()),
    });
    let transaction = Transaction {
        term: None,
        expect: Vec::new(),
        changes: changes.collect(),
    };
    store.commit(transaction).await.unwrap();
}

async fn check(bench: &Bench, repair: bool) -> MetadataChecked {
    let request = CheckMetadata {
        repair,
        all_disks: true,
        wait_ms: Some(3000),
        ..CheckMetadata::default()
    };
    bench.posted("/v1/metadata/check", &request).await
}

fn codes(list: &[ashlar_proto::api::MetadataFinding]) -> Vec<&str> {
    let mut codes: Vec<&str> = list.iter().map(|it| it.code.as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[tokio::test]
async fn lost_shards_are_rebuilt_from_what_stores_hold() {
    let directory = tempfile::tempdir().unwrap();
    let before = first_run(directory.path()).await;
    let lost: Vec<String> = (0..2)
        .map(|index| format!("shard/{}/{index:08x}", before.id))
        .collect();
    lose(directory.path(), &lost).await;
    let bench = start(directory.path()).await;
    let mut stores = Vec::new();
    for number in 1..=3 {
        stores.push(Telling::start(&bench, number, holds(&before, number)).await);
    }

    // Nothing is removed, and nobody gets the volume.
    let path = format!(
        "/v1/nodes/{}/assignments?after=0&wait_ms=200",
        stores[0].node
    );
    let list: Assignments = bench.get(&path).await;
    assert_eq!((list.revision, list.replicas.len()), (Revision(0), 0));
    let refused = bench.attach("data", "me").await;
    assert_eq!(problem(refused).await.code, "metadata-recovering");

    let found = check(&bench, false).await;
    assert_eq!(codes(&found.findings), ["shard-row-lost"]);
    assert!(found.recovering && found.silent.is_empty() && found.mended.is_empty());
    let again = check(&bench, false).await;
    assert_eq!(again.findings, found.findings, "a look changes nothing");

    let mended = check(&bench, true).await;
    assert_eq!(codes(&mended.mended), ["shard-row-lost"]);
    assert!(mended.findings.is_empty() && !mended.recovering);
    let after = bench.attached("data", "other").await.volume;
    assert!(after.generation > before.generation.next());
    let members = |volume: &Volume| {
        let each = volume.shards.iter().map(|shard| {
            let mut ids: Vec<_> = shard.replicas.iter().map(|it| it.id).collect();
            ids.sort_unstable();
            ids
        });
        each.collect::<Vec<_>>()
    };
    assert_eq!(members(&after), members(&before));
    let epochs = |volume: &Volume, index: usize| -> Epoch { volume.shards[index].epoch };
    assert!(epochs(&after, 0) > epochs(&before, 0));
    assert_eq!(
        epochs(&after, 2),
        epochs(&before, 2),
        "its row was not lost"
    );
    let list: Assignments = bench.get(&path).await;
    assert_eq!(list.replicas.len(), 3);
    let audit: List<AuditEntry> = bench.get("/v1/audit").await;
    let is_repair = |entry: &&AuditEntry| entry.what.contains("/v1/metadata/check");
    assert_eq!(audit.items.iter().filter(is_repair).count(), 1);
}

/// The older the metadata, the less they know: of this volume nothing at all but its name.
#[tokio::test]
async fn a_lost_volume_is_rebuilt_under_the_name_that_leads_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let before = first_run(directory.path()).await;
    let mut lost: Vec<String> = (0..3)
        .map(|index| format!("shard/{}/{index:08x}", before.id))
        .collect();
    lost.push(format!("volume/{}", before.id));
    lose(directory.path(), &lost).await;
    let bench = start(directory.path()).await;
    let mut stores = Vec::new();
    for number in 1..=3 {
        stores.push(Telling::start(&bench, number, holds(&before, number)).await);
    }
    let asked = check(&bench, true).await;
    assert!(asked.mended.is_empty() && asked.recovering);
    assert_eq!(
        codes(&asked.findings),
        ["shard-row-lost", "volume-row-lost"]
    );
    let vouched = CheckMetadata {
        repair: true,
        accept: vec![before.id],
        all_disks: true,
        wait_ms: Some(3000),
        ..CheckMetadata::default()
    };
    let mended: MetadataChecked = bench.posted("/v1/metadata/check", &vouched).await;
    assert_eq!(codes(&mended.mended), ["shard-row-lost", "volume-row-lost"]);
    let after = bench.volume("data").await;
    assert_eq!((after.id, after.state), (before.id, VolumeState::Ready));
    assert!(after.size_bytes >= before.size_bytes);
    bench.attached("data", "me").await;
}

/// A store of an older version sends heartbeats, and knows of no inventories.
#[tokio::test]
async fn nothing_is_decided_without_stores_that_tell() {
    let directory = tempfile::tempdir().unwrap();
    let before = first_run(directory.path()).await;
    lose(
        directory.path(),
        &[format!("shard/{}/{:08x}", before.id, 0)],
    )
    .await;
    let bench = start(directory.path()).await;
    let _older = Store::start_three(&bench).await;
    let request = CheckMetadata {
        repair: true,
        wait_ms: Some(300),
        ..CheckMetadata::default()
    };
    let checked: MetadataChecked = bench.posted("/v1/metadata/check", &request).await;
    assert_eq!(checked.silent.len(), 3);
    assert_eq!(codes(&checked.findings), ["disk-unheard", "shard-lost"]);
    assert!(checked.recovering);
    let refused = bench.attach("data", "me").await;
    assert_eq!(problem(refused).await.code, "metadata-recovering");
    // Whoever gives up gets what is left.
    let request = CheckMetadata {
        give_up: true,
        ..request
    };
    let checked: MetadataChecked = bench.posted("/v1/metadata/check", &request).await;
    assert!(!checked.recovering);
}

#[tokio::test]
async fn an_inventory_that_nobody_asked_for_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let told = bench
        .post("/v1/nodes/99/inventory", &page(1, 1, Vec::new()))
        .await;
    assert_eq!(problem(told).await.code, "node-not-found");
    let stores = Store::start_three(&bench).await;
    let path = format!("/v1/nodes/{}/inventory", stores[0].node);
    let told = bench.post(&path, &page(1, 1, Vec::new())).await;
    assert_eq!(told.status(), StatusCode::NO_CONTENT);
    let checked: MetadataChecked = bench
        .posted(
            "/v1/metadata/check",
            &CheckMetadata {
                wait_ms: Some(200),
                ..CheckMetadata::default()
            },
        )
        .await;
    assert_eq!((checked.replicas, checked.silent.len()), (0, 3));
}
