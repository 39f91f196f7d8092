//! Lists in pages, narrowed by labels and names; watches as server-sent events.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::api::{
    CreateVolume, Disk, LabelVolume, List, Revision, Snapshot, SnapshotState, Volume, WatchEvent,
};
use ashlar_proto::{ByteCount, DiskId};
use reqwest::{Method, Response};
use serde_json::json;

use super::support::{Bench, Store, problem, start, volume};
use super::watch::Lines;

async fn create_labelled(bench: &Bench, name: &str, tier: &str) -> Volume {
    let request = CreateVolume {
        size_bytes: ByteCount::new(1 << 20),
        labels: BTreeMap::from([("tier".to_owned(), tier.to_owned())]),
        ..volume(name, 1)
    };
    bench.posted("/v1/volumes", &request).await
}

fn names(list: &List<Volume>) -> Vec<&str> {
    list.items
        .iter()
        .map(|volume| volume.name.as_str())
        .collect()
}

#[tokio::test]
async fn pages_give_each_item_once_whatever_comes_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    for name in ["e", "d", "c", "b", "a"] {
        create_labelled(&bench, name, "gold").await;
    }
    let first: List<Volume> = bench.get("/v1/volumes?limit=2").await;
    assert_eq!(names(&first), ["e", "d"]);
    let token = first.next.unwrap();
    for name in ["e", "c"] {
        bench
            .send(Method::DELETE, &format!("/v1/volumes/{name}"))
            .await;
    }
    create_labelled(&bench, "f", "gold").await;
    let path = format!("/v1/volumes?limit=2&continue={token}");
    let second: List<Volume> = bench.get(&path).await;
    assert_eq!(names(&second), ["b", "a"]);
    assert_eq!(
        second.revision, first.revision,
        "a watch from there misses nothing"
    );
    let path = format!("/v1/volumes?limit=2&continue={}", second.next.unwrap());
    let third: List<Volume> = bench.get(&path).await;
    assert_eq!((names(&third), &third.next), (vec!["f"], &None));
}

#[tokio::test]
async fn lists_are_narrowed_by_labels_and_names() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    for (name, tier) in [("db-1", "gold"), ("db-2", "silver"), ("web-1", "gold")] {
        create_labelled(&bench, name, tier).await;
    }
    for (query, expected) in [
        ("labels=tier=gold", vec!["db-1", "web-1"]),
        ("labels=tier!=gold", vec!["db-2"]),
        ("prefix=db-&labels=tier", vec!["db-1", "db-2"]),
        ("prefix=db-&labels=!tier", vec![]),
        ("labels=tier=gold&limit=1", vec!["db-1"]),
    ] {
        let list: List<Volume> = bench.get(&format!("/v1/volumes?{query}")).await;
        assert_eq!(names(&list), expected, "{query}");
    }
    for query in [
        "limit=0",
        "limit=5001",
        "limit=x",
        "continue=1",
        "continue=x.61",
        "labels==a",
        "labels=",
        "after=1",
    ] {
        let refused = bench
            .send(Method::GET, &format!("/v1/volumes?{query}"))
            .await;
        assert_eq!(problem(refused).await.code, "malformed-request", "{query}");
    }
    let refused = bench.send(Method::GET, "/v1/snapshots?labels=a").await;
    assert_eq!(problem(refused).await.code, "malformed-request");
}

#[tokio::test]
async fn every_list_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    for path in ["/v1/nodes", "/v1/disks"] {
        let page: List<serde_json::Value> = bench.get(&format!("{path}?limit=2")).await;
        assert_eq!(page.items.len(), 2, "{path}");
        let next = format!("{path}?limit=2&continue={}", page.next.unwrap());
        let rest: List<serde_json::Value> = bench.get(&next).await;
        assert_eq!((rest.items.len(), rest.next), (1, None), "{path}");
    }
    for path in [
        "/v1/snapshots",
        "/v1/targets",
        "/v1/iscsi/servers",
        "/v1/clients/denied",
        "/v1/tasks",
    ] {
        let page: List<serde_json::Value> = bench.get(&format!("{path}?limit=1&prefix=x")).await;
        assert_eq!((page.items.len(), page.next), (0, None), "{path}");
    }
}

#[tokio::test]
async fn disks_are_narrowed_by_their_own_labels() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let all: List<Disk> = bench.get("/v1/disks").await;
    let of = |disk: &Disk| disk.report.id;
    let ids: Vec<DiskId> = all.items.iter().map(of).collect();
    for (disk, media) in [(ids[0], "nvme"), (ids[1], "hdd")] {
        let labels = json!({"set": {"media": media}});
        let _: Disk = bench
            .posted(&format!("/v1/disks/{disk}/label"), &labels)
            .await;
    }
    for (query, expected) in [
        ("labels=media=nvme", vec![ids[0]]),
        ("labels=media!=nvme", vec![ids[1], ids[2]]),
        ("labels=media", vec![ids[0], ids[1]]),
        ("labels=!media", vec![ids[2]]),
        ("labels=media=nvme,bay", vec![]),
        ("labels=media&limit=1", vec![ids[0]]),
    ] {
        let list: List<Disk> = bench.get(&format!("/v1/disks?{query}")).await;
        let found: Vec<DiskId> = list.items.iter().map(of).collect();
        assert_eq!(found, expected, "{query}");
    }
    let refused = bench.send(Method::GET, "/v1/disks?labels==x").await;
    assert_eq!(problem(refused).await.code, "malformed-request");
    // One that has the label no more is out of sight of whoever watches those that have it.
    let watch = bench.url("/v1/disks?watch=true&labels=media=nvme");
    let mut lines = Lines::of(bench.http.get(watch).send().await.unwrap());
    let first = lines.next::<Disk>().await.unwrap();
    assert!(matches!(&first, WatchEvent::Put { item, .. } if of(item) == ids[0]));
    let path = format!("/v1/disks/{}/label", ids[0]);
    let _: Disk = bench.posted(&path, &json!({"remove": ["media"]})).await;
    let is_gone = |line| matches!(line, WatchEvent::Delete { item, .. } if of(&item) == ids[0]);
    let mut lines_left = 8;
    while !is_gone(lines.next::<Disk>().await.unwrap()) {
        lines_left -= 1;
        assert!(lines_left > 0, "nobody is told that it is gone");
    }
}

/// A watch of server-sent events.
struct Stream {
    response: Response,
    buffer: String,
}

impl Stream {
    async fn open(bench: &Bench, path: &str, last: Option<Revision>) -> Self {
        let get = bench
            .http
            .get(bench.url(path))
            .header("accept", "text/event-stream");
        let get = match last {
            Some(last) => get.header("last-event-id", last.0),
            None => get,
        };
        let response = get.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let buffer = String::new();
        Self { response, buffer }
    }

    /// Id, kind and data of the next event that is no bookmark.
    async fn next(&mut self) -> (Option<u64>, String, WatchEvent<Volume>) {
        loop {
            let event = self.any().await;
            if event.1 != "bookmark" {
                return event;
            }
        }
    }

    async fn any(&mut self) -> (Option<u64>, String, WatchEvent<Volume>) {
        loop {
            let Some((event, rest)) = self.buffer.split_once("\n\n") else {
                let wait = Duration::from_secs(10);
                let chunk = tokio::time::timeout(wait, self.response.chunk()).await;
                let chunk = chunk.unwrap().unwrap().expect("the watch goes on");
                self.buffer += std::str::from_utf8(&chunk).unwrap();
                continue;
            };
            let field = |name: &str| {
                let mut lines = event.lines();
                lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
            };
            let id = field("id: ").map(|id| id.parse().unwrap());
            let (kind, data) = (field("event: ").unwrap(), field("data: ").unwrap());
            self.buffer = rest.to_owned();
            return (id, kind, serde_json::from_str(&data).unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_of_events_goes_on_after_the_last_one_that_was_seen() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    create_labelled(&bench, "a", "gold").await;
    let mut stream = Stream::open(&bench, "/v1/volumes", None).await;
    let (id, kind, event) = stream.any().await;
    let WatchEvent::Put { revision, item } = event else {
        panic!("{event:?}")
    };
    assert_eq!((kind.as_str(), item.name.as_str()), ("put", "a"));
    assert_eq!(id, None, "others may follow of the same revision");
    let (id, kind, _) = stream.any().await;
    assert_eq!((id, kind.as_str()), (Some(revision.0), "bookmark"));
    drop(stream);
    bench.attached("a", "me").await;
    let mut stream = Stream::open(&bench, "/v1/volumes", Some(revision)).await;
    let (id, _, event) = stream.next().await;
    let WatchEvent::Put { item, .. } = event else {
        panic!("{event:?}")
    };
    assert!(id > Some(revision.0));
    assert_eq!(item.attached_by.as_deref(), Some("me"));
    // A revision that is still to come is of another history.
    let mut stream = Stream::open(&bench, "/v1/volumes", Some(Revision(1 << 40))).await;
    let (id, kind, _) = stream.next().await;
    assert_eq!((id, kind.as_str()), (None, "reset"));
    let get = bench.http.get(bench.url("/v1/volumes"));
    let get = get
        .header("accept", "text/event-stream")
        .header("last-event-id", "x");
    let refused = get.send().await.unwrap();
    assert_eq!(problem(refused).await.code, "malformed-request");
}

#[tokio::test]
async fn a_watch_of_some_tells_when_one_is_none_of_them_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    create_labelled(&bench, "a", "gold").await;
    create_labelled(&bench, "b", "silver").await;
    let path = "/v1/volumes?watch=true&labels=tier=gold";
    let mut lines = Lines::open(&bench, path).await;
    let WatchEvent::Put::<Volume> { item, .. } = lines.change().await else {
        panic!("no put")
    };
    assert_eq!(item.name, "a");
    let relabel = LabelVolume {
        set: BTreeMap::from([("tier".to_owned(), "silver".to_owned())]),
        remove: Vec::new(),
    };
    let _: Volume = bench.posted("/v1/volumes/a/label", &relabel).await;
    let WatchEvent::Delete::<Volume> { item, .. } = lines.change().await else {
        panic!("no delete")
    };
    assert_eq!(
        (item.name.as_str(), item.labels["tier"].as_str()),
        ("a", "silver")
    );
}

#[tokio::test]
async fn snapshots_targets_servers_and_denials_are_watched() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    create_labelled(&bench, "a", "gold").await;
    let mut snapshots = Lines::open(&bench, "/v1/volumes/a/snapshots?watch=true").await;
    let mut targets = Lines::open(&bench, "/v1/targets?watch=true").await;
    let mut servers = Lines::open(&bench, "/v1/iscsi/servers?watch=true").await;
    let mut denied = Lines::open(&bench, "/v1/clients/denied?watch=true").await;
    let made = bench
        .post("/v1/volumes/a/snapshots", &json!({"name": "s"}))
        .await;
    assert!(made.status().is_success());
    let WatchEvent::Put::<Snapshot> { item, .. } = snapshots.change().await else {
        panic!("no put")
    };
    assert_eq!(
        (item.name.as_str(), item.state),
        ("s", SnapshotState::Ready)
    );
    bench
        .send(Method::DELETE, "/v1/volumes/a/snapshots/s")
        .await;
    let WatchEvent::Delete::<Snapshot> { item, .. } = snapshots.change().await else {
        panic!("no delete")
    };
    assert_eq!(item.name, "s");
    let name = "iqn.2026-11.io.ashlar:t";
    let body = json!({"name": name});
    let _: serde_json::Value = bench.posted("/v1/targets", &body).await;
    bench
        .send(Method::DELETE, &format!("/v1/targets/{name}"))
        .await;
    let server = json!({"name": "s1", "portals": ["10.0.0.1:3260"], "owner": "iscsi@s1"});
    let _: serde_json::Value = bench.posted("/v1/iscsi/servers", &server).await;
    let client = json!({"client": "nbd@a"});
    let _: serde_json::Value = bench.posted("/v1/clients/deny", &client).await;
    bench.post("/v1/clients/allow", &client).await;
    for (lines, field, expected) in [
        (&mut targets, "name", name),
        (&mut servers, "name", "s1"),
        (&mut denied, "client", "nbd@a"),
    ] {
        let event = lines.change::<serde_json::Value>().await;
        let (WatchEvent::Put { item, .. } | WatchEvent::Delete { item, .. }) = event else {
            panic!("{event:?}")
        };
        assert_eq!(item[field], expected);
    }
}

/// A snapshot becomes ready by a change of its volume's row, not of its own.
#[tokio::test]
async fn who_watches_snapshots_learns_when_one_is_ready() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    create_labelled(&bench, "a", "gold").await;
    let attached = bench.attached("a", "me").await;
    let path = "/v1/volumes/a/snapshots";
    let made = bench
        .post(&format!("{path}?wait_ms=0"), &json!({"name": "s"}))
        .await;
    assert_eq!(made.status(), 202);
    let list: List<Snapshot> = bench.get(path).await;
    assert_eq!(list.items[0].state, SnapshotState::Sealing);
    let after = format!("{path}?watch=true&after={}", list.revision.0);
    let mut lines = Lines::open(&bench, &after).await;
    let report = json!({
        "volume": attached.volume.id,
        "generation": attached.volume.generation,
        "settled": list.items[0].layer,
        "table": 0,
    });
    bench.post("/v1/volumes/a/layers", &report).await;
    let WatchEvent::Put::<Snapshot> { item, .. } = lines.change().await else {
        panic!("no put")
    };
    assert_eq!(item.state, SnapshotState::Ready);
}
