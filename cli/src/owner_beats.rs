//! Heartbeats of a process's owners, gathered: one request for all its volumes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ashlar_proto::api::{OWNER_STORES_MAX, OWNER_VOLUMES_MAX, OwnerBeat, OwnerHeartbeat, PeerSeen};
use ashlar_proto::{NodeId, VolumeId};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use ashlar_api_client::ApiClient;

/// How long the first heartbeat waits for others to go with it.
const GATHER: Duration = Duration::from_millis(500);

/// What an owner says next.
#[derive(Default)]
struct Gathered {
    volumes: BTreeMap<VolumeId, OwnerBeat>,
    /// A store that one volume reaches is reached.
    stores: BTreeMap<NodeId, bool>,
}

impl Gathered {
    fn add(&mut self, heartbeat: OwnerHeartbeat) {
        let volumes = heartbeat.volumes.into_iter();
        self.volumes.extend(volumes.map(|beat| (beat.volume, beat)));
        for seen in heartbeat.stores {
            *self.stores.entry(seen.node).or_default() |= seen.reached;
        }
    }
}

type Pending = BTreeMap<String, Gathered>;

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    filled: Notify,
}

/// See the module. Clones gather together.
#[derive(Clone)]
pub struct OwnerBeats {
    shared: Arc<Shared>,
}

impl OwnerBeats {
    /// Heartbeats go out on `runtime`, until the last clone is dropped.
    pub fn new(client: ApiClient, runtime: &Handle) -> Self {
        let shared = Arc::new(Shared::default());
        runtime.spawn(run(client, Arc::downgrade(&shared)));
        Self { shared }
    }

    /// An owner's next heartbeat; it takes the place of one of the same volume that still waits.
    pub fn note(&self, heartbeat: OwnerHeartbeat) {
        let mut pending = lock(&self.shared.pending);
        let of_owner = pending.entry(heartbeat.owner.clone()).or_default();
        of_owner.add(heartbeat);
        self.shared.filled.notify_one();
    }
}

impl Drop for OwnerBeats {
    fn drop(&mut self) {
        // Whoever waits looks whether anybody is left.
        self.shared.filled.notify_one();
    }
}

async fn run(client: ApiClient, shared: Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        // With nothing to send the task is all that holds it: then it ends.
        if Arc::strong_count(&strong) == 1 {
            return;
        }
        strong.filled.notified().await;
        drop(strong);
        tokio::time::sleep(GATHER).await;
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let pending = std::mem::take(&mut *lock(&strong.pending));
        drop(strong);
        for heartbeat in requests(pending) {
            if let Err(error) = client.owner_heartbeat(&heartbeat).await {
                tracing::debug!(%error, "the conductor does not hear the owners here");
            }
        }
    }
}

fn lock(pending: &Mutex<Pending>) -> std::sync::MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to be sent: one request for each owner, or more where it has very many volumes.
fn requests(pending: Pending) -> Vec<OwnerHeartbeat> {
    let mut requests = Vec::new();
    for (owner, Gathered { volumes, stores }) in pending {
        let volumes: Vec<OwnerBeat> = volumes.into_values().collect();
        let stores = stores.into_iter().take(OWNER_STORES_MAX);
        let stores: Vec<PeerSeen> = stores
            .map(|(node, reached)| PeerSeen { node, reached })
            .collect();
        requests.extend(
            volumes
                .chunks(OWNER_VOLUMES_MAX)
                .map(|some| OwnerHeartbeat {
                    owner: owner.clone(),
                    volumes: some.to_vec(),
                    stores: stores.clone(),
                }),
        );
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::Generation;

    fn beat(volume: u64, generation: u32) -> OwnerBeat {
        OwnerBeat {
            volume: VolumeId::new(volume),
            generation: Generation::new(generation),
        }
    }

    #[test]
    fn volumes_of_an_owner_go_together_and_the_last_word_counts() {
        let mut pending = Pending::new();
        let mut note = |owner: &str, beat: OwnerBeat| {
            let of_owner = pending.entry(owner.to_owned()).or_default();
            let node = |id| PeerSeen {
                node: NodeId::new(id),
                reached: id == 7 && beat.volume == VolumeId::new(1),
            };
            of_owner.add(OwnerHeartbeat {
                owner: owner.to_owned(),
                volumes: vec![beat],
                stores: vec![node(7), node(8)],
            });
        };
        note("b", beat(9, 1));
        note("a", beat(1, 1));
        note("a", beat(1, 2));
        for volume in 2..=1500 {
            note("a", beat(volume, 1));
        }
        let requests = requests(pending);
        let counts: Vec<(&str, usize)> = requests
            .iter()
            .map(|request| (request.owner.as_str(), request.volumes.len()))
            .collect();
        assert_eq!(counts, [("a", OWNER_VOLUMES_MAX), ("a", 476), ("b", 1)]);
        assert_eq!(requests[0].volumes[0], beat(1, 2));
        let reached = |request: &OwnerHeartbeat| {
            let stores = request.stores.iter();
            stores.map(|seen| seen.reached).collect::<Vec<_>>()
        };
        assert_eq!(reached(&requests[0]), [true, false]);
        assert_eq!(reached(&requests[2]), [false, false]);
    }
}
