//! Many owners, one question.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use ashlar_proto::ByteCount;
use ashlar_proto::api::{AckRule, Health, Volume, VolumeState};
use ashlar_proto::{Generation, Layer, LayerTable, VolumeId};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::*;

/// What the conductor was asked.
#[derive(Debug, Default)]
struct Seen {
    under_way: usize,
    under_way_most: usize,
    questions: usize,
    volumes_most: usize,
}

/// A conductor on which everything is at one revision, but for the volumes that have changed.
#[derive(Clone)]
struct Conductor {
    seen: Arc<Mutex<Seen>>,
    /// Names of volumes that changed, ones that are gone, and whether it answers.
    news: watch::Sender<(BTreeSet<String>, BTreeSet<String>, bool)>,
}

/// Counts a question as long as it is under way.
struct UnderWay(Arc<Mutex<Seen>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        with(&self.0, |seen| seen.under_way -= 1);
    }
}

fn with<T>(seen: &Mutex<Seen>, look: impl FnOnce(&mut Seen) -> T) -> T {
    look(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))
}

const OLD: Revision = Revision(5);
const NEW: Revision = Revision(6);

fn map(name: &str) -> VolumeMap {
    VolumeMap {
        volume: Volume {
            id: VolumeId::new(1),
            name: name.to_owned(),
            size_bytes: ByteCount::new(1 << 20),
            grows_to: None,
            origin: None,
            flattening: None,
            settings: ashlar_proto::api::VolumeSettings::default(),
            shard_bytes: ByteCount::new(1 << 20),
            replicas: 1,
            ack: AckRule::Majority,
            reserve: ashlar_proto::api::Reserve::None,
            state: VolumeState::Ready,
            health: Health::Healthy,
            labels: std::collections::BTreeMap::new(),
            generation: Generation::new(1),
            head_layer: Layer::new(1),
            layers: LayerTable::default(),
            layers_applied: 0,
            settled_layer: Layer::default(),
            snapshots: 0,
            attached_by: None,
            publication: None,
            service: ashlar_proto::api::VolumeService::default(),
            hold: None,
            shards: Vec::new(),
        },
        disks: Vec::new(),
        revision: NEW,
    }
}

impl Conductor {
    fn new() -> Self {
        Self {
            seen: Arc::default(),
            news: watch::Sender::new((BTreeSet::new(), BTreeSet::new(), true)),
        }
    }

    fn changed(&self, name: &str) {
        self.news.send_modify(|news| {
            news.0.insert(name.to_owned());
        });
    }

    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        with(&self.seen, look)
    }
}

impl MapSource for Conductor {
    async fn maps(&self, request: &AskMaps, wait: Duration) -> Result<VolumeMaps, ApiError> {
        self.seen(|seen| {
            seen.questions += 1;
            seen.under_way += 1;
            seen.under_way_most = seen.under_way_most.max(seen.under_way);
            seen.volumes_most = seen.volumes_most.max(request.volumes.len());
        });
        let _under_way = UnderWay(Arc::clone(&self.seen));
        let mut news = self.news.subscribe();
        let answer = |news: &(BTreeSet<String>, BTreeSet<String>, bool)| {
            let of = |set: &BTreeSet<String>| {
                let known = |asked: &&AskedMap| set.contains(&asked.name) && asked.after < NEW;
                let names = request.volumes.iter().filter(known);
                names.map(|asked| asked.name.clone()).collect::<Vec<_>>()
            };
            VolumeMaps {
                maps: of(&news.0).iter().map(|name| map(name)).collect(),
                gone: of(&news.1),
            }
        };
        let is_due = |news: &(BTreeSet<String>, BTreeSet<String>, bool)| {
            !news.2 || answer(news) != VolumeMaps::default()
        };
        match tokio::time::timeout(wait, news.wait_for(is_due)).await {
            Ok(Ok(news)) if !news.2 => Err(ApiError::Address {
                text: String::new(),
            }),
            Ok(Ok(news)) => Ok(answer(&news)),
            Ok(Err(_)) | Err(_) => Ok(VolumeMaps::default()),
        }
    }
}

type Answers = remote::Receiver<Result<VolumeMap, SourceError>>;

fn ask(asks: &Asks, name: &str, after: Revision) -> Answers {
    let (answer, answers) = remote::bounded(1);
    let name = name.to_owned();
    let sent = asks.send(Ask {
        name,
        after,
        answer,
    });
    assert!(sent.is_ok());
    answers
}

/// Waits until the conductor has been asked for that many volumes at once.
async fn asked_for(conductor: &Conductor, volumes: usize) {
    let wait = async {
        while conductor.seen(|seen| seen.volumes_most) < volumes {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(20), wait).await;
    assert!(
        asked.is_ok(),
        "{:?}",
        conductor.seen(|seen| seen.volumes_most)
    );
}

#[tokio::test]
async fn two_thousand_owners_ask_one_question() {
    let conductor = Conductor::new();
    let asks = start(conductor.clone(), &Handle::current());
    let name = |n: usize| format!("v{n}");
    let mut owners: Vec<Answers> = (0..2000).map(|n| ask(&asks, &name(n), OLD)).collect();
    asked_for(&conductor, 2000).await;
    conductor.changed("v7");
    let news = owners.swap_remove(7).recv().await.unwrap().unwrap();
    assert_eq!((news.volume.name.as_str(), news.revision), ("v7", NEW));
    // It asks again, and only for what comes after.
    let again = ask(&asks, "v7", NEW);
    conductor.changed("v1234");
    let news = owners.swap_remove(1234).recv().await.unwrap().unwrap();
    assert_eq!(news.volume.name, "v1234");
    tokio::time::sleep(GATHER * 3).await;
    assert!(again.try_recv().is_none());
    assert!(owners.iter().all(|answers| answers.try_recv().is_none()));
    let (most, questions) = conductor.seen(|seen| (seen.under_way_most, seen.questions));
    // One that is given up may take a moment to go.
    assert!(most <= 2 && questions < 20, "{most} {questions}");
}

#[tokio::test]
async fn more_volumes_than_fit_are_asked_for_in_parts() {
    let conductor = Conductor::new();
    let asks = start(conductor.clone(), &Handle::current());
    let count = MAPS_ASKED_MAX + 10;
    let name = |n: usize| format!("v{n:05}");
    let mut owners: Vec<Answers> = (0..count).map(|n| ask(&asks, &name(n), OLD)).collect();
    asked_for(&conductor, MAPS_ASKED_MAX).await;
    conductor.changed(&name(count - 1));
    let news = owners.pop().unwrap().recv().await.unwrap().unwrap();
    assert_eq!(news.volume.name, name(count - 1));
    let (volumes, most) = conductor.seen(|seen| (seen.volumes_most, seen.under_way_most));
    assert!(volumes == MAPS_ASKED_MAX && most <= 4, "{volumes} {most}");
}

#[tokio::test]
async fn who_waits_in_vain_is_told() {
    let conductor = Conductor::new();
    let wait = Duration::from_millis(300);
    let asks = start_with(conductor.clone(), &Handle::current(), wait);
    let begun = Instant::now();
    let answers = ask(&asks, "a", OLD);
    assert_eq!(answers.recv().await.unwrap(), Err(SourceError::Unchanged));
    assert!(begun.elapsed() >= wait);
    // Also where others keep the watch busy.
    let answers = ask(&asks, "a", OLD);
    let busy = async {
        loop {
            let _gone = ask(&asks, "b", OLD);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        answer = answers.recv() => assert_eq!(answer.unwrap(), Err(SourceError::Unchanged)),
        () = busy => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("not answered"),
    }
}

#[tokio::test]
async fn what_is_gone_or_fails_is_told_to_whom_it_concerns() {
    let conductor = Conductor::new();
    let asks = start(conductor.clone(), &Handle::current());
    let (gone, other) = (ask(&asks, "a", OLD), ask(&asks, "b", OLD));
    conductor.news.send_modify(|news| {
        news.1.insert("a".to_owned());
    });
    assert_eq!(gone.recv().await.unwrap(), Err(SourceError::NotFound));
    assert!(other.try_recv().is_none());
    conductor.news.send_modify(|news| news.2 = false);
    let failed = other.recv().await.unwrap().unwrap_err();
    assert!(matches!(failed, SourceError::Refused { .. }), "{failed}");
}
