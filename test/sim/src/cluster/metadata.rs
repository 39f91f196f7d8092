//! The metadata of a simulated cluster: the conductor's rows in memory, which outlive its crashes.
//!
//! A commit takes time before and after the deed, so a conductor that crashes while it waits finds
//! it done or not, never half. Some end in an error that tells nothing, some in a conflict with
//! nobody, and events are soon forgotten. Whatever is committed passes by the [`Ledger`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ashlar_conductor::Runtime;
use ashlar_conductor::meta::{
    Change, Event, Events, Key, Leadership, MetaError, MetaStore, Outcome, PAGE_ROWS_MAX, Page,
    Row, Term, Transaction,
};
use ashlar_proto::api::Revision;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_reactor::sim::Rng;
use tokio::sync::watch;

use super::ledger::Ledger;
use super::runtime::SimRuntime;

/// Longest that a commit takes before and after the deed, in µs.
const COMMIT_US_MAX: u64 = 4_000;
/// Longest that reading takes, in µs.
const READ_US_MAX: u64 = 300;
/// Events that are kept, at most.
const EVENTS_KEPT: usize = 64;

/// What goes wrong with the metadata.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetaFaults {
    /// Of a million commits, how many end in an error, whether they took effect or not.
    pub errors_per_million: u32,
    /// Of a million commits, how many fail as if another conductor had been faster.
    pub conflicts_per_million: u32,
    /// Of a million questions for events, how many come too late.
    pub compactions_per_million: u32,
}

/// The rows, whoever reads and writes them. Clones are the same.
#[derive(Clone)]
pub struct Archive(Arc<Mutex<Shelf>>);

struct Shelf {
    rows: BTreeMap<Key, Row>,
    events: VecDeque<Event>,
    revision: Revision,
    /// Events up to here are forgotten.
    compacted: Revision,
    rng: Rng,
    faults: MetaFaults,
    ledger: Ledger,
    /// With [`Planted::ForgetCommits`]: the rows that a crash goes back to.
    durable: Option<(BTreeMap<Key, Row>, Revision)>,
}

/// How a commit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    Conflict,
    ErrorBefore,
    ErrorAfter,
}

impl Archive {
    /// Empty.
    pub fn new(rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(Shelf {
            rows: BTreeMap::new(),
            events: VecDeque::new(),
            revision: Revision(0),
            compacted: Revision(0),
            rng,
            faults: MetaFaults::default(),
            ledger: Ledger::default(),
            durable: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: MetaFaults) {
        self.lock().faults = faults;
    }

    /// Looks at what is committed, or notes what passes by it.
    pub fn ledger<T>(&self, with: impl FnOnce(&mut Ledger) -> T) -> T {
        with(&mut self.lock().ledger)
    }

    /// The conductor's process has ended.
    pub fn crash(&self) {
        let mut shelf = self.lock();
        if let Some((rows, revision)) = shelf.durable.take() {
            shelf.compacted = revision;
            shelf.events.clear();
            shelf.revision = revision;
            let values = rows.iter().map(|(key, row)| (key, row.value.as_slice()));
            shelf.ledger.go_back(values);
            shelf.rows = rows;
        }
    }
}

impl Shelf {
    fn micros(&mut self, most: u64) -> Duration {
        Duration::from_micros(self.rng.below(most))
    }

    fn fate(&mut self) -> Fate {
        let faults = self.faults;
        if self.rng.chance(faults.conflicts_per_million) {
            Fate::Conflict
        } else if self.rng.chance(faults.errors_per_million) {
            let before = self.rng.chance(500_000);
            if before {
                Fate::ErrorBefore
            } else {
                Fate::ErrorAfter
            }
        } else {
            Fate::Good
        }
    }

    fn commit(&mut self, transaction: &Transaction) -> Outcome {
        let is_as_expected = transaction.expect.iter().all(|expect| {
            let row = self.rows.get(&expect.key);
            row.map(|row| row.modified) == expect.modified
        });
        if !is_as_expected {
            return Outcome::Conflict;
        }
        if is_planted(Planted::ForgetCommits) && (self.durable.is_none() || self.rng.chance(50_000))
        {
            self.durable = Some((self.rows.clone(), self.revision));
        }
        let revision = Revision(self.revision.0 + 1);
        self.revision = revision;
        for change in &transaction.changes {
            let (key, value) = match change {
                Change::Put { key, value } => (key, Some(value)),
                Change::Delete { key } => (key, None),
            };
            let before = self.rows.remove(key);
            if let Some(value) = value {
                let created = before.as_ref().map_or(revision, |row| row.created);
                let row = Row {
                    key: key.clone(),
                    value: value.clone(),
                    created,
                    modified: revision,
                };
                self.rows.insert(key.clone(), row);
            }
            self.ledger.changed(key.as_str(), value.map(Vec::as_slice));
            self.events.push_back(Event {
                revision,
                key: key.clone(),
                value: value.cloned(),
                before: before.map(|row| row.value),
            });
        }
        while self.events.len() > EVENTS_KEPT
            && let Some(first) = self.events.pop_front()
        {
            self.compacted = first.revision;
        }
        Outcome::Committed(revision)
    }

    fn events(&mut self, after: Revision) -> Events {
        if self.rng.chance(self.faults.compactions_per_million) {
            self.compacted = self.revision;
            self.events.clear();
        }
        if after < self.compacted || after > self.revision {
            return Events::Compacted;
        }
        let new = self.events.iter().filter(|event| event.revision > after);
        Events::Read {
            list: new.cloned().collect(),
            up_to: self.revision,
        }
    }

    fn page(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Page {
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let is_wanted =
            |key: &Key| key.as_str().starts_with(prefix) && after.is_none_or(|after| key > after);
        let mut rows = self.rows.values().filter(|row| is_wanted(&row.key));
        let page = rows.by_ref().take(limit).cloned().collect();
        Page {
            revision: self.revision,
            rows: page,
            more: rows.next().is_some(),
        }
    }
}

/// The rows as one life of the conductor reaches them.
pub struct SimStore {
    archive: Archive,
    runtime: Arc<SimRuntime>,
    revision: watch::Sender<Revision>,
    leadership: watch::Sender<Leadership>,
}

/// There is one conductor: it leads.
const LEADS: Leadership = Leadership::Leads { term: Term(1) };

impl SimStore {
    /// Takes its time by the runtime of that life.
    pub fn new(archive: Archive, runtime: Arc<SimRuntime>) -> Self {
        let revision = watch::Sender::new(archive.lock().revision);
        Self {
            archive,
            runtime,
            revision,
            leadership: watch::Sender::new(LEADS),
        }
    }

    async fn work(&self, us_max: u64) {
        let time = self.archive.lock().micros(us_max);
        self.runtime.sleep(time).await;
    }
}

impl MetaStore for SimStore {
    async fn read(&self, key: &Key) -> Result<Option<Row>, MetaError> {
        self.work(READ_US_MAX).await;
        Ok(self.archive.lock().rows.get(key).cloned())
    }

    async fn scan(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, MetaError> {
        self.work(READ_US_MAX).await;
        Ok(self.archive.lock().page(prefix, after, limit))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, MetaError> {
        let fate = self.archive.lock().fate();
        self.work(COMMIT_US_MAX).await;
        let outcome = match fate {
            Fate::Conflict => Outcome::Conflict,
            Fate::ErrorBefore => return Err(MetaError::Stopped),
            Fate::Good | Fate::ErrorAfter => self.archive.lock().commit(&transaction),
        };
        self.work(COMMIT_US_MAX).await;
        if fate == Fate::ErrorAfter {
            return Err(MetaError::Stopped);
        }
        if let Outcome::Committed(revision) = outcome {
            self.revision.send_replace(revision);
        }
        Ok(outcome)
    }

    async fn events(&self, after: Revision, _: usize) -> Result<Events, MetaError> {
        self.work(READ_US_MAX).await;
        Ok(self.archive.lock().events(after))
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    fn leadership(&self) -> Leadership {
        LEADS
    }

    fn leaderships(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}
