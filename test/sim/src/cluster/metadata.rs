//! The metadata of a simulated cluster: the conductor's rows in memory, which outlive its crashes.
//!
//! A commit takes time before and after the deed, so a conductor that crashes while it waits finds
//! it done or not, never half. Some end in an error that tells nothing, some in a conflict with
//! nobody, and events are soon forgotten. Whatever is committed passes by the [`Ledger`].
//!
//! Where there are several conductors, one leads ([`super::seat`]): a commit of another term than the present
//! one changes nothing, and one that gets by although its conductor does not lead is a failure of the run.

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
use super::seat::{LifeId, Seat, Standing};

/// Longest that a commit takes before and after the deed, in µs.
const COMMIT_US_MAX: u64 = 4_000;
/// Longest that a commit is held up which is, in µs: longer than a lease.
const HELD_UP_US_MAX: u64 = 6_000_000;
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
    /// Of a million commits of one of several conductors, how many are held up on their way.
    pub held_up_per_million: u32,
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
    /// Who leads, where there are several conductors.
    seat: Option<Seat>,
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
            seat: None,
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

    /// There are several conductors from now on: one of them is to lead.
    pub fn have_several(&self) {
        self.lock().seat = Some(Seat::default());
    }

    /// Looks at who leads, or changes that; where there is one conductor nobody does.
    pub fn seat<T>(&self, with: impl FnOnce(&mut Seat) -> T) -> T {
        match &mut self.lock().seat {
            Some(seat) => with(seat),
            None => with(&mut Seat::default()),
        }
    }

    /// The last revision.
    pub fn revision(&self) -> Revision {
        self.lock().revision
    }

    /// Up to so many µs.
    pub fn draw_time(&self, us_max: u64) -> Duration {
        self.lock().micros(us_max)
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

    fn is_held_up(&mut self) -> bool {
        self.rng.chance(self.faults.held_up_per_million)
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

    /// As etcd compares terms; nothing where there is one conductor.
    fn is_of_other_term(&self, transaction: &Transaction) -> bool {
        let term = self.seat.as_ref().map(Seat::term);
        term.is_some_and(|term| transaction.term.is_some() && transaction.term != term)
    }

    /// By who has the lead, whatever the transaction says: only the row of a new cluster is made by others.
    fn judge(&mut self, by: Option<LifeId>) {
        let leads = self.seat.as_ref().and_then(Seat::leads);
        if by.is_some() && leads != by && !self.rows.is_empty() {
            self.ledger
                .fail(format!("{by:?} changes rows, and {leads:?} leads"));
        }
    }

    fn commit(&mut self, transaction: &Transaction, by: Option<LifeId>) -> Outcome {
        if self.is_of_other_term(transaction) {
            return Outcome::Deposed;
        }
        let is_as_expected = transaction.expect.iter().all(|expect| {
            let row = self.rows.get(&expect.key);
            row.map(|row| row.modified) == expect.modified
        });
        if !is_as_expected {
            return Outcome::Conflict;
        }
        self.judge(by);
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

    fn events(&mut self, after: Revision, up_to: Revision) -> Events {
        let up_to = up_to.min(self.revision);
        if self.rng.chance(self.faults.compactions_per_million) {
            self.compacted = self.revision;
            self.events.clear();
        }
        if after < self.compacted || after > up_to {
            return Events::Compacted;
        }
        let is_new = |event: &&Event| event.revision > after && event.revision <= up_to;
        Events::Read {
            list: self.events.iter().filter(is_new).cloned().collect(),
            up_to,
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
    /// What it knows of the others, if there are any.
    standing: Option<Arc<Standing>>,
}

/// Who is alone leads.
const LEADS: Leadership = Leadership::Leads { term: Term(1) };

impl SimStore {
    /// Takes its time by the runtime of that life.
    pub fn new(
        archive: Archive,
        runtime: Arc<SimRuntime>,
        standing: Option<Arc<Standing>>,
    ) -> Self {
        let revision = watch::Sender::new(archive.lock().revision);
        Self {
            archive,
            runtime,
            revision,
            leadership: watch::Sender::new(LEADS),
            standing,
        }
    }

    /// Which of several it is.
    fn life(&self) -> Option<LifeId> {
        self.standing.as_ref().map(|standing| standing.life)
    }

    /// The commits that it has heard of.
    fn seen(&self) -> Revision {
        let seen = self
            .standing
            .as_ref()
            .map(|standing| *standing.seen.borrow());
        seen.unwrap_or(Revision(u64::MAX))
    }

    fn see(&self, revision: Revision) {
        match &self.standing {
            Some(standing) => standing.see(revision),
            None => drop(self.revision.send_replace(revision)),
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
        let page = self.archive.lock().page(prefix, after, limit);
        if self.standing.is_some() {
            self.see(page.revision);
        }
        Ok(page)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, MetaError> {
        let fate = self.archive.lock().fate();
        self.work(COMMIT_US_MAX).await;
        if self.standing.is_some() && self.archive.lock().is_held_up() {
            self.work(HELD_UP_US_MAX).await;
        }
        let outcome = match fate {
            Fate::Conflict => Outcome::Conflict,
            Fate::ErrorBefore => return Err(MetaError::Stopped),
            Fate::Good | Fate::ErrorAfter => self.archive.lock().commit(&transaction, self.life()),
        };
        self.work(COMMIT_US_MAX).await;
        if fate == Fate::ErrorAfter {
            return Err(MetaError::Stopped);
        }
        if let Outcome::Committed(revision) = outcome {
            self.see(revision);
        }
        Ok(outcome)
    }

    async fn events(&self, after: Revision, _: usize) -> Result<Events, MetaError> {
        self.work(READ_US_MAX).await;
        let seen = self.seen();
        Ok(self.archive.lock().events(after, seen))
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        match &self.standing {
            Some(standing) => standing.seen.subscribe(),
            None => self.revision.subscribe(),
        }
    }

    fn leadership(&self) -> Leadership {
        match &self.standing {
            Some(standing) => standing.believes(self.runtime.elapsed()),
            None => LEADS,
        }
    }

    fn leaderships(&self) -> watch::Receiver<Leadership> {
        match &self.standing {
            Some(standing) => standing.leadership.subscribe(),
            None => self.leadership.subscribe(),
        }
    }

    /// The simulated clients take what followers say however old it is.
    fn age(&self) -> Duration {
        Duration::ZERO
    }

    /// The operator makes it ([`Standing::resign`]).
    async fn resign(&self) {}
}
