//! Heartbeats of a process's owners, gathered: one request for all its volumes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ashlar_proto::VolumeId;
use ashlar_proto::api::{OWNER_VOLUMES_MAX, OwnerBeat, OwnerHeartbeat};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::api_client::ApiClient;

/// How long the first heartbeat waits for others to go with it.
const GATHER: Duration = Duration::from_millis(500);

type Pending = BTreeMap<String, BTreeMap<VolumeId, OwnerBeat>>;

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
        let of_owner = pending.entry(heartbeat.owner).or_default();
        of_owner.extend(
            heartbeat
                .volumes
                .into_iter()
                .map(|beat| (beat.volume, beat)),
        );
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
    for (owner, beats) in pending {
        let beats: Vec<OwnerBeat> = beats.into_values().collect();
        requests.extend(beats.chunks(OWNER_VOLUMES_MAX).map(|some| OwnerHeartbeat {
            owner: owner.clone(),
            volumes: some.to_vec(),
        }));
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
            stores: Vec::new(),
        }
    }

    #[test]
    fn volumes_of_an_owner_go_together_and_the_last_word_counts() {
        let mut pending = Pending::new();
        let mut note = |owner: &str, beat: OwnerBeat| {
            let of_owner = pending.entry(owner.to_owned()).or_default();
            of_owner.insert(beat.volume, beat);
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
    }
}
