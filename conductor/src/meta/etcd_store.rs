//! [`MetaStore`] on etcd: for several conductors, of which one leads.
//!
//! Invariants:
//! - every transaction compares and changes one key, the head. So a transaction that is sent twice
//!   takes effect once, and one whose answer was lost is found in the head's history;
//! - a transaction with a term compares the leader's key too: who does not lead changes nothing;
//! - a commit is answered when its events have come by the watch: who has the answer finds the events.
//!
//! The revisions are etcd's own, so they may skip some.

mod alone;
mod election;
mod error;
mod follow;
mod freshness;
mod keys;
mod link;
mod log;
mod shared;
mod transaction;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::Revision;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

pub use error::EtcdError;
use error::Fault;
use keys::{Head, Keys, bytes_of};
pub use link::EtcdOptions;
use link::{CALL_MAX, Link};
use shared::{Glance, Shared, TXN, final_error, glance_of};
use transaction::{Ground, beyond_compares, build, look_up, range, revision, signed};
use wire::{KeyValue, RangeRequest, RangeResponse, Request, TxnRequest, TxnResponse};

use super::{
    Events, Expect, Key, Leadership, MetaError, MetaStore, Outcome, PAGE_ROWS_MAX, Page, Row,
    Transaction,
};

const RANGE: &str = "/etcdserverpb.KV/Range";

/// Times that a transaction is sent anew because another was faster.
const HEADS_MAX: usize = 16;

/// Heads that are looked through for a transaction whose answer was lost.
const HISTORY_MAX: usize = 256;

/// How long a watch may lag behind a commit before another member is asked.
const LAG_MAX: Duration = Duration::from_millis(800);

/// Rows in etcd. Clones are the same; the last one dropped ends the watch and the leadership.
#[derive(Clone)]
pub struct EtcdStore(Arc<Opened>);

struct Opened {
    shared: Arc<Shared>,
    /// One transaction at a time: the number of the last one.
    turn: Mutex<u64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl EtcdStore {
    /// Connects, and reads as much of the history as is kept. With `api`, where others are sent, it
    /// stands for leader; without, it only looks, or changes what nobody leads.
    ///
    /// # Errors
    /// [`MetaError`] when etcd does not answer, refuses, or holds a newer format.
    pub async fn open(options: &EtcdOptions, api: Option<String>) -> Result<Self, MetaError> {
        let link = Link::new(options)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(MetaError::Random)?;
        let by = format!("{:016x}", u64::from_le_bytes(random));
        let lease = options.lease_seconds.unwrap_or(election::LEASE_SECONDS);
        let shared = Shared::new(link, Keys::new(&options.root), by, lease.max(1));
        let shared = Arc::new(shared);
        let head = shared.begin().await?;
        let mut tasks = vec![tokio::spawn(follow::follow(Arc::clone(&shared)))];
        if let Some(api) = api {
            tasks.push(tokio::spawn(election::stand(Arc::clone(&shared), api)));
            tasks.push(tokio::spawn(freshness::keep(Arc::clone(&shared))));
        }
        let turn = Mutex::new(0);
        let store = Self(Arc::new(Opened {
            shared,
            turn,
            tasks,
        }));
        store.follow_to(revision(head)).await?;
        Ok(store)
    }

    fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// Waits until the watch has brought everything up to `revision`.
    async fn follow_to(&self, revision: Revision) -> Result<(), MetaError> {
        let mut reached = self.shared().reached.subscribe();
        let follow = async {
            loop {
                let come = reached.wait_for(|reached| *reached >= revision);
                if tokio::time::timeout(LAG_MAX, come).await.is_ok() {
                    return;
                }
                self.shared().kick.notify_one();
            }
        };
        let followed = tokio::time::timeout(CALL_MAX, follow).await;
        followed.map_err(|_| {
            let reason = "its watch does not bring what was committed".to_owned();
            EtcdError::OutcomeUnknown { reason }.into()
        })
    }

    /// Sends a transaction until it is known how it went, on whatever head there is.
    async fn carry_out(&self, work: &Transaction, number: u64) -> Result<Outcome, MetaError> {
        let mark = bytes_of(&self.shared().mark(number));
        for _ in 0..HEADS_MAX {
            let head = self.shared().head();
            if !self.holds(beyond_compares(work)).await? {
                return Ok(Outcome::Conflict);
            }
            let ground = Ground {
                head,
                mark: mark.clone(),
            };
            let request = build(&self.shared().keys, work, ground)?;
            let answer = self.send(&request, head, &mark).await?;
            if answer.succeeded {
                return Ok(Outcome::Committed(revision(answer.revision())));
            }
            let found = glance_of(answer);
            if let Some(outcome) = self.judge(work, &found, head, &mark).await? {
                return Ok(outcome);
            }
            let moved = found.head.map_or(0, |kv| kv.mod_revision);
            self.follow_to(revision(moved)).await?;
        }
        Ok(Outcome::Conflict)
    }

    /// One request, on as many members as it takes.
    async fn send(
        &self,
        request: &TxnRequest,
        head: i64,
        mark: &[u8],
    ) -> Result<TxnResponse, MetaError> {
        let mut is_uncertain = false;
        let link = &self.shared().link;
        let fault = match link.call_noting(TXN, request, &mut is_uncertain).await {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        if !is_uncertain {
            return Err(final_error(fault));
        }
        // Some member took it. If it is in the history it was carried out, else nobody can tell.
        let reason = match fault {
            Fault::Elsewhere(reason) => reason,
            other => final_error(other).to_string(),
        };
        let unknown = || EtcdError::OutcomeUnknown {
            reason: reason.clone(),
        };
        let found = self.shared().glance().await.map_err(|_| unknown())?;
        match self.find(found.head, head, mark).await {
            Ok(Some(at)) => Ok(TxnResponse {
                header: Some(wire::ResponseHeader { revision: at }),
                succeeded: true,
                responses: Vec::new(),
            }),
            Ok(None) | Err(_) => Err(unknown().into()),
        }
    }

    /// Why a transaction was not carried out at `head`; nothing where it may be tried on another.
    async fn judge(
        &self,
        work: &Transaction,
        found: &Glance,
        head: i64,
        mark: &[u8],
    ) -> Result<Option<Outcome>, MetaError> {
        if let Some(at) = self.find(found.head.clone(), head, mark).await? {
            // An earlier sending of it was, and its answer was lost.
            return Ok(Some(Outcome::Committed(revision(at))));
        }
        if work.term.is_some_and(|term| signed(term.0) != found.term()) {
            return Ok(Some(Outcome::Deposed));
        }
        let moved = found.head.as_ref().map_or(0, |kv| kv.mod_revision);
        Ok((moved == head).then_some(Outcome::Conflict))
    }

    /// Looks for a mark in the heads after `from`; gives its revision.
    async fn find(
        &self,
        mut head: Option<KeyValue>,
        from: i64,
        mark: &[u8],
    ) -> Result<Option<i64>, MetaError> {
        for _ in 0..HISTORY_MAX {
            let Some(kv) = head.filter(|kv| kv.mod_revision > from) else {
                return Ok(None);
            };
            if kv.value == mark {
                return Ok(Some(kv.mod_revision));
            }
            if kv.mod_revision - 1 <= from {
                return Ok(None);
            }
            let before = RangeRequest {
                key: self.shared().keys.head(),
                revision: kv.mod_revision - 1,
                ..RangeRequest::default()
            };
            let page: RangeResponse = match self.shared().link.call(RANGE, &before).await {
                Ok(page) => page,
                Err(Fault::Compacted) => break,
                Err(fault) => return Err(final_error(fault)),
            };
            head = page.kvs.into_iter().next();
        }
        let reason = "the history is compacted".to_owned();
        Err(EtcdError::OutcomeUnknown { reason }.into())
    }

    /// Whether rows are as expected, by reading them.
    async fn holds(&self, mut expect: &[Expect]) -> Result<bool, MetaError> {
        while !expect.is_empty() {
            let request = look_up(&self.shared().keys, expect);
            let asked = request.success.len();
            let answer: TxnResponse = self.ask(TXN, &request).await?;
            let found = answer.ranges().map(|range| {
                let row = range.kvs.into_iter().next();
                row.map(|kv| revision(kv.mod_revision))
            });
            let (part, rest) = expect.split_at(asked);
            let found: Vec<Option<Revision>> = found.collect();
            if !found.iter().eq(part.iter().map(|expect| &expect.modified)) {
                return Ok(false);
            }
            expect = rest;
        }
        Ok(true)
    }

    async fn ask<Q, A>(&self, path: &'static str, question: &Q) -> Result<A, MetaError>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        self.shared()
            .link
            .call(path, question)
            .await
            .map_err(final_error)
    }

    fn row(&self, kv: KeyValue) -> Result<Row, MetaError> {
        let strange = || EtcdError::Strange {
            key: String::from_utf8_lossy(&kv.key).into_owned(),
        };
        let key = self.shared().keys.row_of(&kv.key).ok_or_else(strange)?;
        Ok(Row {
            key,
            value: kv.value,
            created: revision(kv.create_revision),
            modified: revision(kv.mod_revision),
        })
    }
}

impl MetaStore for EtcdStore {
    async fn read(&self, key: &Key) -> Result<Option<Row>, MetaError> {
        let request = RangeRequest {
            key: self.shared().keys.row(key.as_str()),
            ..RangeRequest::default()
        };
        let page: RangeResponse = self.ask(RANGE, &request).await?;
        let found = page.kvs.into_iter().next();
        found.map(|kv| self.row(kv)).transpose()
    }

    async fn scan(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, MetaError> {
        let (key, range_end) = self.shared().keys.rows(prefix, after);
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let rows = RangeRequest {
            key,
            range_end,
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
            ..RangeRequest::default()
        };
        let request = TxnRequest {
            success: vec![
                Request::Range(rows).into(),
                range(self.shared().keys.head()),
            ],
            ..TxnRequest::default()
        };
        let answer: TxnResponse = self.ask(TXN, &request).await?;
        let mut ranges = answer.ranges();
        let page = ranges.next().unwrap_or_default();
        let head = ranges.next().and_then(|range| range.kvs.into_iter().next());
        let head = revision(head.map_or(0, |kv| kv.mod_revision));
        self.follow_to(head).await?;
        let rows: Result<Vec<Row>, MetaError> =
            page.kvs.into_iter().map(|kv| self.row(kv)).collect();
        Ok(Page {
            revision: head,
            rows: rows?,
            more: page.more,
        })
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, MetaError> {
        // To its end, even when the caller goes away: the next one begins with what this one left.
        let store = self.clone();
        let work = tokio::spawn(async move {
            let mut turn = store.0.turn.lock().await;
            *turn += 1;
            let outcome = store.carry_out(&transaction, *turn).await?;
            if let Outcome::Committed(revision) = outcome {
                store.follow_to(revision).await?;
            }
            Ok(outcome)
        });
        work.await.map_err(|_| MetaError::Stopped)?
    }

    async fn events(&self, after: Revision, limit: usize) -> Result<Events, MetaError> {
        Ok(self.shared().log(|log| log.after(after, limit)))
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.shared().reached.subscribe()
    }

    fn leadership(&self) -> Leadership {
        self.shared().leadership_now()
    }

    fn leaderships(&self) -> watch::Receiver<Leadership> {
        self.shared().leadership.subscribe()
    }

    fn age(&self) -> Duration {
        self.shared().age()
    }

    async fn resign(&self) {
        let mut leadership = self.leaderships();
        self.shared().resigns.send_replace(true);
        let over = leadership.wait_for(|it| !matches!(it, Leadership::Leads { .. }));
        // If it cannot be given up, the lease ends by itself.
        let _ = tokio::time::timeout(LAG_MAX, over).await;
    }
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Head { by, .. } = self.shared().mark(0);
        f.debug_struct("EtcdStore")
            .field("by", &by)
            .finish_non_exhaustive()
    }
}
