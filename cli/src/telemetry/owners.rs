//! The volumes that a front end has attached, as their owners see them.
//!
//! Owners live on a reactor: they are asked through a channel, and a task there answers.

use std::pin::Pin;
use std::time::Duration;

use ashlar_client::VolumeHealth;
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::remote;

use super::Source;
use super::exposition::Family;
use crate::catalog::VolumeCatalog;

/// How long the reactor may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Questions that wait.
const QUESTIONS_MAX: usize = 8;

type Answer = tokio::sync::oneshot::Sender<Vec<(String, VolumeHealth)>>;

/// The owners of a catalog.
pub struct OwnersSource {
    questions: remote::Sender<Answer>,
}

impl OwnersSource {
    /// Of a catalog on this reactor.
    pub fn new(reactor: &Reactor, catalog: &VolumeCatalog) -> Self {
        let (questions, asked) = remote::bounded::<Answer>(QUESTIONS_MAX);
        let catalog = catalog.clone();
        drop(reactor.spawn(async move {
            while let Some(answer) = asked.recv().await {
                // Who asked may have gone.
                let _ = answer.send(catalog.attached());
            }
        }));
        Self { questions }
    }
}

impl Source for OwnersSource {
    fn collect(&self) -> Pin<Box<dyn Future<Output = Vec<Family>> + Send + '_>> {
        Box::pin(async {
            let (answer, answered) = tokio::sync::oneshot::channel();
            if self.questions.try_send(answer).is_err() {
                return Vec::new();
            }
            match tokio::time::timeout(ANSWER_MAX, answered).await {
                Ok(Ok(volumes)) => families(&volumes),
                _ => Vec::new(),
            }
        })
    }
}

type Row = (&'static str, &'static str, fn(&VolumeHealth) -> u64);

const GAUGES: [Row; 4] = [
    (
        "ashlar_volume_shards",
        "Shards of an attached volume.",
        |h| h.shards,
    ),
    (
        "ashlar_volume_shards_degraded",
        "Shards of an attached volume with fewer live in-sync replicas than it asks for.",
        |h| h.shards_degraded,
    ),
    (
        "ashlar_volume_shards_unavailable",
        "Shards of an attached volume with too few live replicas to acknowledge a write.",
        |h| h.shards_unavailable,
    ),
    (
        "ashlar_volume_may_have_lost",
        "1 if unflushed writes of an earlier owner may be gone.",
        |h| if h.may_have_lost { 1 } else { 0 },
    ),
];

const COUNTERS: [Row; 5] = [
    (
        "ashlar_volume_replicas_dropped_total",
        "Replicas that the owner has proposed out of their in-sync set.",
        |h| h.replicas_dropped,
    ),
    (
        "ashlar_volume_damage_seen_total",
        "Answers that were damaged, or showed what was never written.",
        |h| h.damage_seen,
    ),
    (
        "ashlar_volume_blocks_repaired_total",
        "Blocks that were written again where a copy was bad.",
        |h| h.blocks_repaired,
    ),
    (
        "ashlar_volume_reads_retried_total",
        "Reads that another replica had to answer.",
        |h| h.reads_retried,
    ),
    (
        "ashlar_volume_reads_hedged_total",
        "Reads that were asked of a second replica because they took long.",
        |h| h.reads_hedged,
    ),
];

fn families(volumes: &[(String, VolumeHealth)]) -> Vec<Family> {
    let mut attached = Family::gauge("ashlar_volumes_attached", "Volumes that are attached here.");
    attached.push(&[], volumes.len() as u64);
    let mut families = vec![attached];
    let gauges = GAUGES.iter().map(|row| (row, Family::gauge(row.0, row.1)));
    let counters = COUNTERS.iter();
    let counters = counters.map(|row| (row, Family::counter(row.0, row.1)));
    for ((_, _, read), mut family) in gauges.chain(counters) {
        for (name, health) in volumes {
            family.push(&[("volume", name.as_str())], read(health));
        }
        families.push(family);
    }
    families
}
