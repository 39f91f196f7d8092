//! List + watch: what is there, what changes, resuming, and readers that go away.

use std::time::Duration;

use ashlar_proto::api::{Disk, Health, List, Node, NodeState, Revision, Volume, WatchEvent};
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;

use super::support::{Bench, Store, problem, start};

/// A watch, line by line.
pub struct Lines {
    response: Response,
    buffer: Vec<u8>,
}

impl Lines {
    pub async fn open(bench: &Bench, path: &str) -> Self {
        Self::of(bench.send(Method::GET, path).await)
    }

    /// One that was opened.
    pub fn of(response: Response) -> Self {
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self {
            response,
            buffer: Vec::new(),
        }
    }

    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<WatchEvent<T>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let wait = Duration::from_secs(10);
            let chunk = tokio::time::timeout(wait, self.response.chunk())
                .await
                .unwrap();
            self.buffer.extend(chunk.unwrap()?);
        }
    }

    /// The next line that is no bookmark.
    pub async fn change<T: DeserializeOwned>(&mut self) -> WatchEvent<T> {
        loop {
            match self.next().await.unwrap() {
                WatchEvent::Bookmark { .. } => {}
                event => return event,
            }
        }
    }
}

#[tokio::test]
async fn volumes_are_listed_then_watched() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let _stores = Store::start_three(&bench).await;
    let made = bench.create("a", 3).await;
    let mut lines = Lines::open(&bench, "/v1/volumes?watch=true").await;
    let Some(WatchEvent::Put::<Volume> { item, revision }) = lines.next().await else {
        panic!()
    };
    assert_eq!(item.id, made.id);
    let Some(WatchEvent::Bookmark::<Volume> { revision: at }) = lines.next().await else {
        panic!()
    };
    assert!(at >= revision);
    bench.attached("a", "me").await;
    let WatchEvent::Put::<Volume> { item, revision } = lines.change().await else {
        panic!()
    };
    assert_eq!(item.attached_by.as_deref(), Some("me"));
    assert!(revision > at);
    let deleted = bench.send(Method::DELETE, "/v1/volumes/a?force=true").await;
    assert!(deleted.status().is_success());
    loop {
        match lines.change::<Volume>().await {
            WatchEvent::Put { item, .. } => assert_eq!(item.id, made.id),
            WatchEvent::Delete { item, .. } => {
                assert_eq!((item.id, item.name.as_str()), (made.id, "a"));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_watch_resumes_after_a_revision_even_of_an_earlier_run() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let stores = Store::start_three(&bench).await;
    bench.create("a", 3).await;
    let list: List<Volume> = bench.get("/v1/volumes").await;
    let b = bench.create("b", 3).await;
    drop(stores);
    bench.conductor.shutdown().await;
    let bench = start(directory.path()).await;
    let path = format!("/v1/volumes?watch=true&after={}", list.revision.0);
    let mut lines = Lines::open(&bench, &path).await;
    let WatchEvent::Put::<Volume> { item, .. } = lines.change().await else {
        panic!()
    };
    assert_eq!(item.id, b.id);
}

#[tokio::test]
async fn revisions_that_are_not_kept_are_reset() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let mut lines = Lines::open(&bench, "/v1/volumes?watch=true&after=999999").await;
    assert_eq!(lines.next::<Volume>().await, Some(WatchEvent::Reset));
    assert_eq!(lines.next::<Volume>().await, None);
}

#[tokio::test]
async fn nodes_and_disks_and_the_health_they_cause_are_watched() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let mut nodes = Lines::open(&bench, "/v1/nodes?watch=true").await;
    let mut disks = Lines::open(&bench, "/v1/disks?watch=true").await;
    let [_one, _two, three] = Store::start_three(&bench).await;
    for _ in 0..3 {
        let WatchEvent::Put::<Node> { item, .. } = nodes.change().await else {
            panic!()
        };
        assert_eq!(item.state, NodeState::Up);
        assert!(matches!(
            disks.change::<Disk>().await,
            WatchEvent::Put { .. }
        ));
    }
    bench.create("a", 3).await;
    let list: List<Volume> = bench.get("/v1/volumes").await;
    let path = format!("/v1/volumes?watch=true&after={}", list.revision.0);
    let mut volumes = Lines::open(&bench, &path).await;
    let node = three.node;
    drop(three);
    loop {
        let WatchEvent::Put::<Node> { item, .. } = nodes.change().await else {
            panic!()
        };
        if item.id == node && item.state == NodeState::Down {
            break;
        }
    }
    let WatchEvent::Put::<Volume> { item, .. } = volumes.change().await else {
        panic!()
    };
    assert_eq!(item.health, Health::Degraded);
}

#[tokio::test]
async fn bookmarks_come_while_nothing_happens() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let mut lines = Lines::open(&bench, "/v1/nodes?watch=true&after=0").await;
    for _ in 0..3 {
        let Some(WatchEvent::Bookmark::<Node> { revision }) = lines.next().await else {
            panic!()
        };
        assert_eq!(revision, Revision(1));
    }
}

#[tokio::test]
async fn watches_are_bounded_and_end_with_their_reader() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let mut open = Vec::new();
    let refused = loop {
        let response = bench.send(Method::GET, "/v1/nodes?watch=true").await;
        if response.status() != 200 {
            break response;
        }
        open.push(response);
        assert!(open.len() <= 256);
    };
    assert_eq!(
        (open.len(), problem(refused).await.code.as_str()),
        (256, "too-many-watches")
    );
    drop(open);
    for _ in 0..100 {
        if bench
            .send(Method::GET, "/v1/nodes?watch=true")
            .await
            .status()
            == 200
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("watches whose readers have gone still count");
}

#[tokio::test]
async fn a_stop_ends_watches_and_waits() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    let store = Store::start(&bench, 1).await;
    let mut lines = Lines::open(&bench, "/v1/nodes?watch=true").await;
    let poll = bench.url(&format!(
        "/v1/nodes/{}/assignments?after=2&wait_ms=60000",
        store.node
    ));
    let poll = tokio::spawn(bench.http.get(poll).send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stop = tokio::time::timeout(Duration::from_secs(4), bench.conductor.shutdown());
    stop.await.expect("a stop does not wait for idle watches");
    while lines.next::<Node>().await.is_some() {}
    poll.await.unwrap().ok();
}
