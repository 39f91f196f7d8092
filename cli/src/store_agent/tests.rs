//! The agent against a real conductor over HTTP, with a store that keeps its replicas in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ashlar_conductor::{Conductor, ConductorOptions};
use ashlar_proto::api::{
    AckRule, AttachRequest, CreateVolume, DetachRequest, NodeState, ProposeInSync, RepairTask,
    Volume, VolumeState, repair_owner,
};
use ashlar_proto::{ByteCount, DiskId};
use ashlar_reactor::channel::remote;
use ashlar_store::Refusal;

use super::*;

const GIB: u64 = 1 << 30;

#[derive(Default)]
struct Held {
    cluster: Option<ClusterId>,
    replicas: Vec<Assignment>,
    /// Refusals to give before it does what it is told.
    refusals: usize,
    /// Which of the stores it is, from 0.
    number: u16,
    /// Whether its disk was found to be of another cluster.
    foreign: bool,
}

#[derive(Clone, Default)]
struct MemoryStore(Arc<Mutex<Held>>);

impl MemoryStore {
    fn with<T>(&self, look: impl FnOnce(&mut Held) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Store for MemoryStore {
    async fn report(&self) -> Result<Vec<DiskReport>, ControlError> {
        Ok(vec![DiskReport {
            id: DiskId::new(u128::from(self.with(|held| held.number)) + 1),
            path: "/disk".to_owned(),
            lanes: 1,
            usable_bytes: ByteCount::new(100 * GIB),
            used_bytes: ByteCount::new(0),
            volatile_cache: false,
            damage: BTreeMap::new(),
            failed: self
                .with(|held| held.foreign)
                .then(|| "of another cluster".to_owned()),
            ailing: None,
            missing: Vec::new(),
            map: None,
            ..DiskReport::default()
        }])
    }

    async fn observe(&self, _: Option<Vec<PeerTarget>>) -> Result<Observed, ControlError> {
        Ok(Observed::default())
    }

    async fn inventory(&self) -> Result<Option<Inventory>, ControlError> {
        Ok(None)
    }

    async fn set_cluster(&self, cluster: ClusterId) -> Result<(), ControlError> {
        self.with(|held| match *held.cluster.get_or_insert(cluster) {
            found if found == cluster => Ok(()),
            found => {
                held.foreign = true;
                let (disk, path) = (DiskId::new(1), "/disk".to_owned());
                Err(ControlError::OtherCluster {
                    disk,
                    path,
                    found,
                    expected: cluster,
                })
            }
        })
    }

    async fn apply(&self, replicas: Vec<Assignment>) -> Result<Applied, ControlError> {
        self.with(|held| {
            let refusal = if held.foreign {
                Refusal::DiskFailed
            } else if held.refusals > 0 {
                held.refusals -= 1;
                Refusal::DiskFailed
            } else {
                held.replicas = replicas;
                return Ok(Applied::default());
            };
            let refuse = |assignment| Refused {
                assignment,
                refusal,
            };
            Ok(Applied {
                refused: replicas.into_iter().map(refuse).collect(),
            })
        })
    }
}

async fn conductor(directory: &Path, listen: SocketAddr) -> Conductor {
    let options = ConductorOptions {
        data_dir: directory.to_path_buf(),
        listen,
    };
    Conductor::start(options).await.unwrap()
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn agent(client: &ApiClient, store: &MemoryStore) -> StoreAgent {
    agent_with(client, store).0
}

/// The agent, and the repair tasks that it sends.
fn agent_with(
    client: &ApiClient,
    store: &MemoryStore,
) -> (StoreAgent, remote::Receiver<Vec<RepairTask>>) {
    let number = store.with(|held| held.number);
    let options = AgentOptions {
        name: ["one", "two"][usize::from(number)].to_owned(),
        address: format!("127.0.0.1:{}", 7200 + number).parse().unwrap(),
        labels: BTreeMap::new(),
    };
    let (tasks, repairs) = remote::bounded(4);
    let (runtime, client) = (Handle::current(), client.clone());
    let agent = StoreAgent::start(&runtime, client, options, store.clone(), tasks);
    (agent, repairs)
}

async fn create(client: &ApiClient, name: &str) -> Volume {
    create_with(client, name, 1).await
}

async fn create_with(client: &ApiClient, name: &str, replicas: u8) -> Volume {
    for _ in 0..500 {
        let (name, size_bytes) = (name.to_owned(), ByteCount::new(GIB));
        let request = CreateVolume {
            settings: std::collections::BTreeMap::new(),
            name,
            size_bytes,
            replicas,
            ack: AckRule::Majority,
            reserve: ashlar_proto::api::Reserve::None,
            labels: std::collections::BTreeMap::new(),
        };
        match client.create_volume(&request).await {
            Ok(volume) => return volume,
            // The store has yet to register.
            Err(error) => assert!(
                error.http_status() == Some(507) || error.is_unreachable(),
                "{error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the store does not register")
}

#[tokio::test]
async fn a_store_waits_for_its_conductor_and_outlives_it() {
    let directory = tempfile::tempdir().unwrap();
    let address = free_address();
    let client = ApiClient::new(&address.to_string()).unwrap();
    let store = MemoryStore::default();
    let agent = agent(&client, &store);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let first = conductor(directory.path(), address).await;
    assert_eq!(create(&client, "a").await.state, VolumeState::Ready);
    assert_eq!(store.with(|held| held.replicas.len()), 1);
    first.shutdown().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let second = conductor(directory.path(), address).await;
    assert_eq!(create(&client, "b").await.state, VolumeState::Ready);
    assert_eq!(store.with(|held| held.replicas.len()), 2);
    client.delete_volume("a", false).await.unwrap();
    assert_eq!(store.with(|held| held.replicas.len()), 1);
    let nodes = client.nodes().await.unwrap().items;
    assert_eq!((nodes.len(), nodes[0].state), (1, NodeState::Up));
    agent.stop().await;
    second.shutdown().await;
}

#[tokio::test]
async fn what_could_not_be_made_is_tried_again_and_not_reported_as_made() {
    let directory = tempfile::tempdir().unwrap();
    let conductor = conductor(directory.path(), free_address()).await;
    let client = ApiClient::new(&conductor.address().to_string()).unwrap();
    let store = MemoryStore::default();
    let _agent = agent(&client, &store);
    create(&client, "a").await;
    store.with(|held| held.refusals = 3);
    assert_eq!(create(&client, "b").await.state, VolumeState::Ready);
    assert_eq!(
        store.with(|held| (held.refusals, held.replicas.len())),
        (0, 2)
    );
}

#[tokio::test]
async fn a_conductor_with_other_metadata_removes_nothing() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let address = free_address();
    let client = ApiClient::new(&address.to_string()).unwrap();
    let store = MemoryStore::default();
    let first = conductor(one.path(), address).await;
    let _agent = agent(&client, &store);
    create(&client, "a").await;
    first.shutdown().await;
    let stranger = conductor(two.path(), address).await;
    for _ in 0..500 {
        if client.status().await.unwrap().disks_failed == 1 {
            assert_eq!(store.with(|held| held.replicas.len()), 1);
            stranger.shutdown().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the disk of another cluster is not reported as failed")
}

/// Attaches, commits these replicas of the first shard, and detaches.
async fn commit(client: &ApiClient, name: &str, owner: String, repair: bool, keep: &[usize]) {
    let force = false;
    let request = AttachRequest {
        owner,
        force,
        repair,
        server: None,
        publication: None,
    };
    let volume = client.attach(name, &request).await.unwrap().volume;
    let shard = &volume.shards[0];
    let proposal = ProposeInSync {
        volume: volume.id,
        generation: volume.generation,
        shard: shard.index,
        epoch: shard.epoch,
        in_sync: keep.iter().map(|i| shard.replicas[*i].id).collect(),
    };
    client.propose_in_sync(name, &proposal).await.unwrap();
    let detach = DetachRequest {
        volume: volume.id,
        generation: volume.generation,
        served: false,
        settled: false,
    };
    client.detach(name, &detach).await.unwrap();
}

/// The next list of tasks for which it holds.
async fn tasks_until(
    repairs: &remote::Receiver<Vec<RepairTask>>,
    is: impl Fn(&[RepairTask]) -> bool,
) {
    let arrives = async {
        while let Some(tasks) = repairs.recv().await {
            if is(&tasks) {
                return;
            }
        }
        panic!("the agent has ended");
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), arrives).await;
    in_time.expect("the tasks arrive");
}

#[tokio::test]
async fn a_repair_task_is_handed_on_until_the_volume_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let conductor = conductor(directory.path(), free_address()).await;
    let client = ApiClient::new(&conductor.address().to_string()).unwrap();
    let stores = [0, 1].map(|number| {
        let store = MemoryStore::default();
        store.with(|held| held.number = number);
        store
    });
    let agents = [
        agent_with(&client, &stores[0]),
        agent_with(&client, &stores[1]),
    ];
    let volume = create_with(&client, "a", 2).await;
    let in_sync = volume.shards[0].replicas[0].node;
    commit(&client, "a", "user".to_owned(), false, &[0]).await;
    let nodes = client.nodes().await.unwrap().items;
    let name = &nodes.iter().find(|node| node.id == in_sync).unwrap().name;
    let (_, repairs) = &agents[usize::from(name == "two")];
    tasks_until(repairs, |tasks| tasks.len() == 1 && tasks[0].name == "a").await;
    commit(&client, "a", repair_owner(name), true, &[0, 1]).await;
    tasks_until(repairs, <[RepairTask]>::is_empty).await;
    conductor.shutdown().await;
}
