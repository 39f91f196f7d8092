//! One question to the conductor for the maps of all volumes that this process has attached.
//!
//! ```text
//! owner ─┐                                       ┌─▶ each owner whose volume has changed
//! owner ─┼─▶ watch ── POST /v1/maps ──▶ conductor ┤
//! owner ─┘     ▲        a long poll              └─▶ or nobody, when the wait is over
//!              └ who comes meanwhile is in the next question, after GATHER
//! ```
//!
//! Invariants: there is one question under way for each [`MAPS_ASKED_MAX`] volumes, however many owners
//! there are; each owner is answered, at the latest after two waits.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use ashlar_client::SourceError;
use ashlar_proto::api::{AskMaps, AskedMap, Revision, VolumeMap, VolumeMaps};
use ashlar_proto::limits::MAPS_ASKED_MAX;
use ashlar_reactor::channel::remote;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster_source::translate;
use ashlar_api_client::{ApiClient, ApiError};

/// How long owners that come while a question is under way are gathered before it is asked anew.
const GATHER: Duration = Duration::from_millis(100);

/// How long a question waits for news, and an owner for an answer that there is none.
const WAIT: Duration = Duration::from_secs(30);

/// Whom the watch asks.
pub trait MapSource: Clone + Send + Sync + 'static {
    /// The maps that have changed, as soon as one has or `wait` is over.
    fn maps(
        &self,
        request: &AskMaps,
        wait: Duration,
    ) -> impl Future<Output = Result<VolumeMaps, ApiError>> + Send;
}

impl MapSource for ApiClient {
    async fn maps(&self, request: &AskMaps, wait: Duration) -> Result<VolumeMaps, ApiError> {
        self.volume_maps(request, wait).await
    }
}

/// An owner that waits for its volume's map.
#[derive(Debug)]
pub struct Ask {
    /// The volume.
    pub name: String,
    /// The revision of the map that it knows.
    pub after: Revision,
    /// Where its answer goes.
    pub answer: remote::Sender<Result<VolumeMap, SourceError>>,
}

/// Where owners ask; the watch ends with the last clone.
pub type Asks = mpsc::UnboundedSender<Ask>;

/// Begins a watch on this runtime.
pub fn start(source: impl MapSource, runtime: &tokio::runtime::Handle) -> Asks {
    start_with(source, runtime, WAIT)
}

fn start_with(source: impl MapSource, runtime: &tokio::runtime::Handle, wait: Duration) -> Asks {
    let (asks, queue) = mpsc::unbounded_channel();
    let watch = Watch {
        source,
        asks: queue,
        waiting: BTreeMap::new(),
        wait,
    };
    runtime.spawn(watch.run());
    asks
}

/// Those who wait for one volume: more than one only for moments.
struct Waiting {
    /// The oldest that any of them knows.
    after: Revision,
    since: Instant,
    answers: Vec<remote::Sender<Result<VolumeMap, SourceError>>>,
}

impl Waiting {
    fn answer(self, outcome: &Result<VolumeMap, SourceError>) {
        for answer in self.answers {
            // One that finds nobody belongs to an owner that no longer waits.
            let _ = answer.try_send(outcome.clone());
        }
    }
}

/// See the module.
struct Watch<S> {
    source: S,
    asks: mpsc::UnboundedReceiver<Ask>,
    waiting: BTreeMap<String, Waiting>,
    wait: Duration,
}

type Outcome = (AskMaps, Result<VolumeMaps, ApiError>);

impl<S: MapSource> Watch<S> {
    async fn run(mut self) {
        loop {
            if self.waiting.is_empty() {
                let Some(first) = self.asks.recv().await else {
                    return;
                };
                self.take(first);
                tokio::time::sleep(GATHER).await;
            }
            while let Ok(ask) = self.asks.try_recv() {
                self.take(ask);
            }
            if let Some(outcome) = self.round().await {
                self.hand_out(outcome);
            }
            self.let_go();
        }
    }

    fn take(&mut self, ask: Ask) {
        let waiting = self.waiting.entry(ask.name).or_insert(Waiting {
            after: ask.after,
            since: Instant::now(),
            answers: Vec::new(),
        });
        waiting.after = waiting.after.min(ask.after);
        waiting.answers.push(ask.answer);
    }

    /// Asks until there is an answer, or somebody has come meanwhile.
    async fn round(&mut self) -> Option<Outcome> {
        let mut polls = JoinSet::new();
        for request in self.questions() {
            let (source, wait) = (self.source.clone(), self.wait);
            polls.spawn(async move {
                let outcome = source.maps(&request, wait).await;
                (request, outcome)
            });
        }
        let mut anew = None;
        loop {
            let until = anew.unwrap_or_else(|| Instant::now() + self.wait * 2);
            tokio::select! {
                // A poll that panicked is asked again with the others.
                outcome = polls.join_next() => return outcome.and_then(Result::ok),
                Some(ask) = self.asks.recv() => {
                    self.take(ask);
                    anew.get_or_insert(Instant::now() + GATHER);
                }
                () = tokio::time::sleep_until(until) => return None,
            }
        }
    }

    fn questions(&self) -> Vec<AskMaps> {
        let asked = self.waiting.iter().map(|(name, waiting)| AskedMap {
            name: name.clone(),
            after: waiting.after,
        });
        let asked: Vec<AskedMap> = asked.collect();
        let question = |part: &[AskedMap]| AskMaps {
            volumes: part.to_vec(),
        };
        asked.chunks(MAPS_ASKED_MAX).map(question).collect()
    }

    fn hand_out(&mut self, (request, outcome): Outcome) {
        match outcome {
            Ok(VolumeMaps { maps, gone }) => {
                for map in maps {
                    if let Some(waiting) = self.waiting.remove(&map.volume.name) {
                        waiting.answer(&Ok(map));
                    }
                }
                for name in gone {
                    if let Some(waiting) = self.waiting.remove(&name) {
                        waiting.answer(&Err(SourceError::NotFound));
                    }
                }
            }
            Err(error) => {
                for AskedMap { name, .. } in request.volumes {
                    if let Some(waiting) = self.waiting.remove(&name) {
                        waiting.answer(&Err(translate(&name, &error)));
                    }
                }
            }
        }
    }

    /// Tells those who have waited long enough: an owner that is no more ends only when it is answered.
    fn let_go(&mut self) {
        let now = Instant::now();
        let is_over = |waiting: &Waiting| now - waiting.since >= self.wait;
        let over = self.waiting.iter().filter(|(_, one)| is_over(one));
        let over: Vec<String> = over.map(|(name, _)| name.clone()).collect();
        for name in over {
            if let Some(waiting) = self.waiting.remove(&name) {
                waiting.answer(&Err(SourceError::Unchanged));
            }
        }
    }
}

#[cfg(test)]
mod tests;
