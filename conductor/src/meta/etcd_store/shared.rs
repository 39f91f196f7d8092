//! What the tasks of a store have in common: the way to etcd, the log that a watch feeds, and what is
//! known of who leads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ashlar_proto::api::Revision;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::error::{EtcdError, Fault};
use super::keys::{FORMAT_CURRENT, Head, Keys, LeaderValue};
use super::link::Link;
use super::log::{EventLog, TRANSACTIONS_KEPT};
use super::transaction::{range, revision};
use super::wire::{EventType, KeyValue, TxnRequest, TxnResponse, WireEvent};
use crate::meta::{Event, Leadership, MetaError, Term};

pub(super) const TXN: &str = "/etcdserverpb.KV/Txn";

/// Who leads, as its key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    /// The revision that made its key.
    pub(super) created: i64,
    pub(super) value: LeaderValue,
}

/// The head and the leader's key at one revision.
pub(super) struct Glance {
    pub(super) head: Option<KeyValue>,
    leader: Option<Leader>,
    /// All of etcd's.
    revision: i64,
}

/// What was followed.
struct Book {
    log: EventLog,
    /// The revision that last changed the head.
    head: i64,
    /// Everything up to here was followed, of rows or not.
    seen: i64,
}

pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) keys: Keys,
    /// This process, among those that write.
    pub(super) by: String,
    /// How long a leader that is gone keeps others from leading, in seconds.
    pub(super) lease_seconds: u16,
    book: Mutex<Book>,
    pub(super) reached: watch::Sender<Revision>,
    pub(super) seen: watch::Sender<i64>,
    pub(super) leader: watch::Sender<Option<Leader>>,
    pub(super) leadership: watch::Sender<Leadership>,
    /// Until when the lease is known to last.
    pub(super) lease_until: Mutex<Option<Instant>>,
    /// Everything up to then was followed.
    pub(super) fresh: Mutex<Instant>,
    /// The watch is to try another member.
    pub(super) kick: Notify,
    /// This process is to lead no more.
    pub(super) resigns: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(link: Link, keys: Keys, by: String, lease_seconds: u16) -> Self {
        Self {
            link,
            keys,
            by,
            lease_seconds,
            book: Mutex::new(Book {
                log: EventLog::new(Revision(0)),
                head: 0,
                seen: 0,
            }),
            reached: watch::Sender::new(Revision(0)),
            seen: watch::Sender::new(0),
            leader: watch::Sender::new(None),
            leadership: watch::Sender::new(Leadership::Follows { leader: None }),
            lease_until: Mutex::default(),
            fresh: Mutex::new(Instant::now()),
            kick: Notify::new(),
            resigns: watch::Sender::new(false),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision that last changed the head, as far as was followed.
    pub(super) fn head(&self) -> i64 {
        self.book().head
    }

    pub(super) fn log<T>(&self, look: impl FnOnce(&EventLog) -> T) -> T {
        look(&self.book().log)
    }

    /// Reads the head and the leader's key.
    pub(super) async fn glance(&self) -> Result<Glance, Fault> {
        let ranges = vec![range(self.keys.head()), range(self.keys.leader())];
        let request = TxnRequest {
            success: ranges,
            ..TxnRequest::default()
        };
        let answer: TxnResponse = self.link.call(TXN, &request).await?;
        Ok(glance_of(answer))
    }

    /// Begins to follow: with as much of the history as is kept, which may be none.
    pub(super) async fn begin(&self) -> Result<i64, MetaError> {
        let glance = self.glance().await.map_err(final_error)?;
        let head = head_of(glance.head.as_ref())?;
        let kept = i64::try_from(TRANSACTIONS_KEPT).unwrap_or(i64::MAX);
        if head == 0 {
            self.restart(0, glance.revision, 0);
        } else {
            let from = (head - kept).max(0);
            self.restart(from, from, 0);
        }
        self.leader.send_replace(glance.leader);
        Ok(head)
    }

    /// Begins anew where what comes next is compacted, up to `compacted`.
    pub(super) async fn begin_after(&self, compacted: i64) -> Result<(), Fault> {
        let glance = self.glance().await?;
        let head = glance.head.as_ref().map_or(0, |head| head.mod_revision);
        if compacted < head {
            self.restart(compacted, compacted, self.head());
        } else {
            self.restart(head, glance.revision, head);
        }
        self.leader.send_replace(glance.leader);
        Ok(())
    }

    fn restart(&self, from: i64, seen: i64, head: i64) {
        let mut book = self.book();
        *book = Book {
            log: EventLog::new(revision(from)),
            head,
            seen,
        };
        let reached = book.log.reached();
        drop(book);
        self.reached.send_replace(reached);
        self.seen.send_replace(seen);
    }

    /// The revision to watch from.
    pub(super) fn next(&self) -> i64 {
        self.book().seen + 1
    }

    /// Takes in what a watch says: whole revisions, in order.
    pub(super) fn take(&self, events: Vec<WireEvent>) {
        let mut book = self.book();
        let mut leader = None;
        let mut rest = events.into_iter().peekable();
        while let Some(at) = rest.peek().and_then(at_of) {
            let mut of_rows = Vec::new();
            let mut is_commit = false;
            while let Some(event) = rest.next_if(|event| at_of(event) == Some(at)) {
                let Some(kv) = event.kv else { continue };
                let is_put = event.kind == i32::from(EventType::Put);
                if kv.key == self.keys.head() {
                    book.head = if is_put { at } else { 0 };
                    is_commit = true;
                } else if kv.key == self.keys.leader() {
                    leader = Some(is_put.then(|| leader_of(&kv)).flatten());
                } else if let Some(key) = self.keys.row_of(&kv.key) {
                    is_commit = true;
                    of_rows.push(Event {
                        revision: revision(at),
                        key,
                        value: is_put.then_some(kv.value),
                        before: event.prev_kv.map(|before| before.value),
                    });
                }
            }
            if is_commit {
                book.log.add(revision(at), of_rows);
            }
            book.seen = book.seen.max(at);
        }
        let (reached, seen) = (book.log.reached(), book.seen);
        drop(book);
        if let Some(leader) = leader {
            self.leader.send_replace(leader);
        }
        self.reached
            .send_if_modified(|known| replace(known, reached));
        self.seen.send_if_modified(|known| replace(known, seen));
    }

    /// The value of the head that the transaction of that number leaves.
    pub(super) fn mark(&self, number: u64) -> Head {
        Head {
            format: FORMAT_CURRENT,
            by: self.by.clone(),
            number,
        }
    }
}

fn replace<T: PartialEq>(known: &mut T, new: T) -> bool {
    let is_news = *known != new;
    *known = new;
    is_news
}

/// The revision of an event. One without a key is of none, and ends the list.
fn at_of(event: &WireEvent) -> Option<i64> {
    event.kv.as_ref().map(|kv| kv.mod_revision)
}

fn leader_of(kv: &KeyValue) -> Option<Leader> {
    let value = serde_json::from_slice(&kv.value).ok()?;
    let created = kv.create_revision;
    Some(Leader { created, value })
}

/// What a transaction found of the head and the leader's key, its last two ranges.
pub(super) fn glance_of(answer: TxnResponse) -> Glance {
    let revision = answer.revision();
    let mut found = answer.ranges().map(|range| range.kvs.into_iter().next());
    let head = found.next().flatten();
    let leader = found.next().flatten();
    Glance {
        head,
        leader: leader.as_ref().and_then(leader_of),
        revision,
    }
}

impl Glance {
    /// The revision that made the leader's key; 0 where nobody leads.
    pub(super) fn term(&self) -> i64 {
        self.leader.as_ref().map_or(0, |leader| leader.created)
    }
}

/// The revision of the head, if this version knows its format.
fn head_of(head: Option<&KeyValue>) -> Result<i64, MetaError> {
    let Some(kv) = head else { return Ok(0) };
    let strange = |_| EtcdError::Strange {
        key: String::from_utf8_lossy(&kv.key).into_owned(),
    };
    let head: Head = serde_json::from_slice(&kv.value).map_err(strange)?;
    if head.format > FORMAT_CURRENT {
        let (found, known) = (head.format, FORMAT_CURRENT);
        return Err(MetaError::Format { found, known });
    }
    Ok(kv.mod_revision)
}

/// What to tell of a call that changes nothing.
pub(super) fn final_error(fault: Fault) -> MetaError {
    let error = match fault {
        Fault::Final(error) => error,
        Fault::Elsewhere(reason) => EtcdError::Unavailable { reason },
        Fault::Login => EtcdError::Denied {
            reason: "it wants a user and a password: give --etcd-user".to_owned(),
        },
        Fault::Compacted => EtcdError::Unavailable {
            reason: "it has compacted what was asked for".to_owned(),
        },
    };
    error.into()
}

/// Terms are revisions too.
pub(super) fn term_of(created: i64) -> Term {
    Term(revision(created).0)
}
