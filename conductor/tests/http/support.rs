//! A conductor on a free port, and stores that hold replicas in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ashlar_conductor::{Conductor, ConductorOptions, Timing};
use ashlar_proto::api::{
    AckRule, Assignment, Assignments, AttachRequest, Attachment, CreateVolume, DiskReport,
    Heartbeat, Observed, Problem, RegisterNode, Registered, Revision, Volume,
};
use ashlar_proto::{ByteCount, DiskId, NodeId};
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::described::Described;

pub const GIB: u64 = 1 << 30;

/// A conductor and a client of it.
pub struct Bench {
    pub conductor: Conductor,
    pub http: reqwest::Client,
    /// Answers are held against it.
    described: Described,
}

pub async fn start(directory: &Path) -> Bench {
    start_impatient(directory, Duration::from_secs(300)).await
}

/// One that waits for disks this long before it makes their replicas elsewhere.
pub async fn start_impatient(directory: &Path, rebuild_after: Duration) -> Bench {
    let timing = Timing {
        heartbeat: Duration::from_millis(50),
        silence: Duration::from_millis(1500),
        owner_silence: Duration::from_secs(3),
        bookmark: Duration::from_millis(100),
        rebuild_after,
    };
    let listen = "127.0.0.1:0".parse().unwrap();
    let options = ConductorOptions {
        data_dir: directory.to_path_buf(),
        listen,
    };
    Bench::of(Conductor::start_with(options, timing).await.unwrap()).await
}

impl Bench {
    /// With a conductor that runs.
    pub async fn of(conductor: Conductor) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/v1/openapi.json", conductor.address());
        let described = Described::of(&http, &url).await;
        Self {
            conductor,
            http,
            described,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.conductor.address())
    }

    pub async fn send(&self, method: Method, path: &str) -> Response {
        let request = self.http.request(method.clone(), self.url(path));
        let response = request.send().await.unwrap();
        self.checked(&method, path, response).await
    }

    /// The answer, if it is as the document says.
    pub async fn checked(&self, method: &Method, path: &str, response: Response) -> Response {
        let (status, headers) = (response.status(), response.headers().clone());
        let kind = headers
            .get("content-type")
            .map(|kind| kind.to_str().unwrap().to_owned());
        let kind = kind.unwrap_or_default();
        if ["application/x-ndjson", "text/event-stream"].contains(&kind.as_str()) {
            return response;
        }
        let body = response.bytes().await.unwrap();
        self.described.check(method, path, status, &kind, &body);
        let mut whole = http::Response::new(body);
        (*whole.status_mut(), *whole.headers_mut()) = (status, headers);
        whole.into()
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let response = self.send(Method::GET, path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &impl Serialize) -> Response {
        let post = self.http.post(self.url(path)).json(body);
        let response = post.send().await.unwrap();
        self.checked(&Method::POST, path, response).await
    }

    pub async fn posted<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        let response = self.post(path, body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn create(&self, name: &str, replicas: u8) -> Volume {
        self.posted("/v1/volumes", &volume(name, replicas)).await
    }

    pub async fn attach(&self, name: &str, owner: &str) -> Response {
        let request = AttachRequest {
            owner: owner.to_owned(),
            force: false,
            repair: false,
            server: None,
            publication: None,
        };
        self.post(&format!("/v1/volumes/{name}/attach"), &request)
            .await
    }

    pub async fn attached(&self, name: &str, owner: &str) -> Attachment {
        self.attach(name, owner).await.json().await.unwrap()
    }

    pub async fn volume(&self, name: &str) -> Volume {
        self.get(&format!("/v1/volumes/{name}")).await
    }

    /// Asks until it is so, for a few seconds.
    pub async fn until<T: DeserializeOwned>(&self, path: &str, is: impl Fn(&T) -> bool) -> T {
        for _ in 0..500 {
            let answer = self.get(path).await;
            if is(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} does not become as expected")
    }
}

/// The problem of a refused request.
pub async fn problem(response: Response) -> Problem {
    let kind = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    let status = response.status();
    assert_eq!(kind, "application/problem+json");
    let problem: Problem = response.json().await.unwrap();
    assert_eq!(problem.status, status.as_u16());
    assert_eq!(problem.kind, format!("urn:ashlar:problem:{}", problem.code));
    assert!(!problem.detail.is_empty() && !problem.title.is_empty());
    problem
}

pub fn volume(name: &str, replicas: u8) -> CreateVolume {
    let size_bytes = ByteCount::new(10 * GIB);
    CreateVolume {
        settings: std::collections::BTreeMap::new(),
        name: name.to_owned(),
        size_bytes,
        replicas,
        ack: AckRule::Majority,
        reserve: ashlar_proto::api::Reserve::None,
        labels: std::collections::BTreeMap::new(),
    }
}

pub fn report(number: u16) -> DiskReport {
    DiskReport {
        id: DiskId::new(u128::from(number)),
        path: format!("/disk{number}"),
        lanes: 2,
        usable_bytes: ByteCount::new(100 * GIB),
        used_bytes: ByteCount::new(0),
        volatile_cache: false,
        damage: BTreeMap::from([("data".to_owned(), u64::from(number))]),
        failed: None,
        ailing: None,
        missing: Vec::new(),
        map: None,
        ..DiskReport::default()
    }
}

pub fn registration(number: u16) -> RegisterNode {
    RegisterNode {
        name: format!("node-{number}"),
        address: format!("127.0.0.1:{}", 7000 + number).parse().unwrap(),
        labels: BTreeMap::new(),
        disks: vec![report(number)],
    }
}

/// A store that sends heartbeats and holds, in memory, what it is assigned.
pub struct Store {
    pub node: NodeId,
    pub holds: watch::Receiver<Vec<Assignment>>,
    task: JoinHandle<()>,
}

impl Store {
    /// Registers store `number` and lets it live.
    pub async fn start(bench: &Bench, number: u16) -> Self {
        let path = "/v1/nodes/register";
        let registered: Registered = bench.posted(path, &registration(number)).await;
        let node = registered.node;
        let (holds, seen) = watch::channel(Vec::new());
        let (http, base) = (bench.http.clone(), bench.url(&format!("/v1/nodes/{node}")));
        let task = tokio::spawn(async move {
            let mut applied = Revision(0);
            loop {
                let heartbeat = Heartbeat {
                    disks: vec![report(number)],
                    applied,
                    seen: Observed {
                        owners: Some(Vec::new()),
                        ..Observed::default()
                    },
                };
                let sent = http
                    .post(format!("{base}/heartbeat"))
                    .json(&heartbeat)
                    .send()
                    .await;
                let url = format!("{base}/assignments?after={}&wait_ms=100", applied.0);
                let asked = http.get(url).send().await;
                let (Ok(_), Ok(answer)) = (sent, asked) else {
                    return;
                };
                let Ok(list) = answer.json::<Assignments>().await else {
                    return;
                };
                applied = list.revision;
                holds.send_replace(list.replicas);
            }
        });
        Self {
            node,
            holds: seen,
            task,
        }
    }

    /// Some of them.
    pub async fn start_many(bench: &Bench, count: u16) -> Vec<Self> {
        let mut stores = Vec::new();
        for number in 1..=count {
            stores.push(Self::start(bench, number).await);
        }
        stores
    }

    /// Three of them.
    pub async fn start_three(bench: &Bench) -> [Self; 3] {
        [
            Self::start(bench, 1).await,
            Self::start(bench, 2).await,
            Self::start(bench, 3).await,
        ]
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.task.abort();
    }
}
