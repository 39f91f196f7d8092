//! Conductors that share one etcd: what a client of theirs sees.

use std::time::{Duration, Instant};

use ashlar_conductor::{Conductor, Timing};
use reqwest::{Client, StatusCode, redirect::Policy};
use serde_json::{Value, json};

use crate::members::Members;

/// Longest that anything here may take.
const LONG: Duration = Duration::from_secs(30);

struct Bench {
    members: Members,
    http: Client,
}

impl Bench {
    async fn start() -> Self {
        let members = Members::start(1, &[]);
        drop(members.open(None).await);
        let http = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .build();
        let http = http.unwrap();
        Self { members, http }
    }

    async fn conductor(&self) -> Conductor {
        let timing = Timing {
            heartbeat: Duration::from_millis(50),
            silence: Duration::from_millis(1500),
            bookmark: Duration::from_millis(100),
            ..Timing::default()
        };
        let listen = "127.0.0.1:0".parse().unwrap();
        let started = Conductor::start_on_etcd(&self.members.options(), listen, None, timing).await;
        started.unwrap()
    }

    async fn get(&self, conductor: &Conductor, path: &str) -> (StatusCode, Value) {
        let url = format!("http://{}{path}", conductor.address());
        let response = self.http.get(url).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Waits until it leads; gives its term.
    async fn term(&self, conductor: &Conductor) -> u64 {
        let start = Instant::now();
        loop {
            let (_, answer) = self.get(conductor, "/v1/leader").await;
            if let Some(term) = answer["term"].as_u64() {
                return term;
            }
            assert!(start.elapsed() < LONG, "it does not lead: {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it knows that another leads.
    async fn follows(&self, conductor: &Conductor, leader: &Conductor) {
        let expected = json!({"leads": false, "leader": format!("http://{}", leader.address())});
        let start = Instant::now();
        loop {
            let (_, answer) = self.get(conductor, "/v1/leader").await;
            if answer == expected {
                return;
            }
            assert!(start.elapsed() < LONG, "{answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn register(&self, at: &str, name: &str) -> reqwest::Response {
        let node = json!({"name": name, "address": "127.0.0.1:7200", "labels": {}, "disks": []});
        let post = self
            .http
            .post(format!("{at}/v1/nodes/register"))
            .json(&node);
        post.send().await.unwrap()
    }

    /// The nodes that a conductor shows, once there are so many.
    async fn nodes(&self, conductor: &Conductor, count: usize) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let (_, list) = self.get(conductor, "/v1/nodes").await;
            let nodes = list["items"].as_array().unwrap().clone();
            if nodes.len() == count {
                return nodes;
            }
            assert!(start.elapsed() < LONG, "{list}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Bench {
    /// Waits until it shows nodes again.
    async fn nodes_again(&self, conductor: &Conductor) {
        let start = Instant::now();
        while self.get(conductor, "/v1/nodes").await.0 != StatusCode::OK {
            assert!(start.elapsed() < LONG, "it does not mend");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn at(conductor: &Conductor) -> String {
    format!("http://{}", conductor.address())
}

#[tokio::test]
async fn a_follower_answers_reads_and_sends_writes_on() {
    let bench = Bench::start().await;
    let leader = bench.conductor().await;
    bench.term(&leader).await;
    let follower = bench.conductor().await;
    bench.follows(&follower, &leader).await;
    let sent_on = bench.register(&at(&follower), "a").await;
    assert_eq!(sent_on.status(), StatusCode::TEMPORARY_REDIRECT);
    let location = sent_on.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(location, format!("{}/v1/nodes/register", at(&leader)));
    let problem: Value = sent_on.json().await.unwrap();
    assert_eq!(problem["code"], "not-leader");
    assert_eq!(
        bench.register(&at(&leader), "a").await.status(),
        StatusCode::OK
    );
    assert_eq!(bench.nodes(&follower, 1).await[0]["name"], "a");
    let (status, _) = bench.get(&follower, "/v1/events").await;
    assert_eq!(status, StatusCode::TEMPORARY_REDIRECT);
}

#[tokio::test]
async fn a_watch_goes_on_at_a_follower_and_misses_nothing() {
    let bench = Bench::start().await;
    let leader = bench.conductor().await;
    bench.term(&leader).await;
    let follower = bench.conductor().await;
    bench.follows(&follower, &leader).await;
    let (_, list) = bench.get(&leader, "/v1/nodes").await;
    for name in ["a", "b"] {
        assert!(
            bench
                .register(&at(&leader), name)
                .await
                .status()
                .is_success()
        );
    }
    let url = format!(
        "{}/v1/nodes?watch=true&after={}",
        at(&follower),
        list["revision"]
    );
    let mut lines = bench.http.get(url).send().await.unwrap();
    let mut text = String::new();
    let read = async {
        while !(text.contains("\"a\"") && text.contains("\"b\"")) {
            let chunk = lines.chunk().await.unwrap().unwrap();
            text += std::str::from_utf8(&chunk).unwrap();
        }
    };
    tokio::time::timeout(LONG, read).await.unwrap();
    assert!(!text.to_lowercase().contains("reset"), "{text}");
}

#[tokio::test]
async fn who_leads_next_has_all_rows_and_gives_every_node_its_time_anew() {
    let bench = Bench::start().await;
    let first = bench.conductor().await;
    let term = bench.term(&first).await;
    let second = bench.conductor().await;
    bench.follows(&second, &first).await;
    assert!(bench.register(&at(&first), "a").await.status().is_success());
    // Longer than a silence: what the former leader heard tells the next one nothing.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    first.shutdown().await;
    assert!(bench.term(&second).await > term);
    let node = &bench.nodes(&second, 1).await[0];
    assert_eq!((&node["name"], &node["state"]), (&json!("a"), &json!("up")));
    assert!(
        bench
            .register(&at(&second), "b")
            .await
            .status()
            .is_success()
    );
    // And one that is not heard by the new leader either is down in the end.
    let start = Instant::now();
    while bench.nodes(&second, 2).await[0]["state"] != "down" {
        assert!(start.elapsed() < LONG, "it is never called down");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_conductor_that_comes_back_follows_the_one_that_leads() {
    let bench = Bench::start().await;
    let first = bench.conductor().await;
    bench.term(&first).await;
    assert!(bench.register(&at(&first), "a").await.status().is_success());
    // Without a word, as in a crash.
    drop(first);
    let second = bench.conductor().await;
    bench.term(&second).await;
    let again = bench.conductor().await;
    bench.follows(&again, &second).await;
    bench.nodes(&again, 1).await;
}

/// Whoever is shut out must not go on reading at a conductor that hears of nothing any more.
#[tokio::test]
async fn who_follows_and_hears_nothing_answers_for_itself_alone() {
    let mut bench = Bench::start().await;
    let conductor = bench.conductor().await;
    bench.term(&conductor).await;
    bench.nodes(&conductor, 0).await;
    bench.members.kill(0);
    let start = Instant::now();
    loop {
        let (status, answer) = bench.get(&conductor, "/v1/nodes").await;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(answer["code"], "no-leader");
            break;
        }
        assert!(start.elapsed() < LONG, "it answers for ever");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (status, answer) = bench.get(&conductor, "/v1/leader").await;
    assert_eq!((status, &answer["leads"]), (StatusCode::OK, &json!(false)));
    bench.members.revive(0);
    bench.nodes_again(&conductor).await;
}
