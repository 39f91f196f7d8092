//! Standing for leader: a key bound to a lease, made by whoever finds none.
//!
//! Invariants:
//! - the revision that made the key is the term, and every write of a leader compares it, so one that
//!   has lost the key changes nothing, whatever it believes;
//! - a leader believes no longer than three quarters of its lease by its own clock, counted from when it
//!   asked. If
//!   etcd renews the lease after that, nobody else has led: the same term goes on.
//!
//! ```text
//! nobody leads ──▶ lease, key ──▶ all up to the key's revision followed ──▶ leads ──┐
//!      ▲               │ another was faster                    lease over, key gone │
//!      └───────────────┴──────────────────── follows ◀──────────────────────────────┘
//!                                            (by etcd's word, not by the clock's)
//! ```

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::error::Fault;
use super::follow::Questions;
use super::keys::{LeaderValue, bytes_of};
use super::shared::{Leader, Shared, TXN, term_of};
use super::wire::{
    CompactionRequest, CompactionResponse, Compare, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    PutRequest, Request, TxnRequest, TxnResponse,
};
use crate::meta::{Leadership, Term};

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const KEEP: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const COMPACT: &str = "/etcdserverpb.KV/Compact";

/// How long a leader that is gone keeps others from leading where nothing else is asked for, in seconds.
/// etcd grants no less than one and a half of its election timeouts, which are two seconds where that is
/// as it comes.
pub(super) const LEASE_SECONDS: u16 = 2;

/// A lease is renewed this many times while it lasts, and the answer is waited for as long as the pause
/// between two takes.
const RENEWALS: u32 = 4;

/// How soon again where that failed.
const RENEW_AGAIN: Duration = Duration::from_millis(100);

/// The pause after an election that could not be held.
const PAUSE: Duration = Duration::from_millis(100);

/// How often old history is given up.
const COMPACT_EVERY: Duration = Duration::from_secs(60);

/// A lease, and how long it is known to last.
struct Lease {
    id: i64,
    until: Instant,
}

/// Stands for leader until it is dropped; `api` is where others are sent meanwhile.
pub(super) async fn stand(shared: Arc<Shared>, api: String) {
    let mut leader = shared.leader.subscribe();
    loop {
        let known = leader.borrow_and_update().clone();
        // A key of its own that it leads by no more tells nobody where to go.
        let other = known.as_ref().filter(|leader| leader.value.by != shared.by);
        shared.set_leadership(Leadership::Follows {
            // Whoever has the rows alone has no API.
            leader: other
                .map(|leader| leader.value.api.clone())
                .filter(|api| !api.is_empty()),
        });
        if *shared.resigns.borrow() {
            return;
        }
        if known.is_some() {
            if leader.changed().await.is_err() {
                return;
            }
            continue;
        }
        match run(&shared, &api).await {
            Ok(Some((lease, term))) => lead(&shared, lease, term).await,
            Ok(None) => tokio::time::sleep(PAUSE).await,
            Err(fault) => {
                tracing::debug!(?fault, "no election can be held");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One election. Gives the term where it was won.
async fn run(shared: &Shared, api: &str) -> Result<Option<(Lease, i64)>, Fault> {
    let asked = Instant::now();
    let ttl = i64::from(shared.lease_seconds);
    let granted: LeaseGrantResponse = shared
        .link
        .attempt(GRANT, &LeaseGrantRequest { ttl })
        .await?;
    let lease = Lease {
        id: granted.id,
        until: asked + belief(granted.ttl),
    };
    let value = LeaderValue {
        api: api.to_owned(),
        by: shared.by.clone(),
    };
    let put = PutRequest {
        key: shared.keys.leader(),
        value: bytes_of(&value),
        lease: lease.id,
    };
    let request = TxnRequest {
        compare: vec![Compare::created(shared.keys.leader(), 0)],
        success: vec![Request::Put(put).into()],
        failure: Vec::new(),
    };
    let won: Result<TxnResponse, Fault> = shared.link.attempt(TXN, &request).await;
    match won {
        Ok(answer) if answer.succeeded => Ok(Some((lease, answer.revision()))),
        Ok(_) => {
            revoke(shared, lease.id).await;
            Ok(None)
        }
        // The key may be there: it goes with the lease.
        Err(fault) => {
            revoke(shared, lease.id).await;
            Err(fault)
        }
    }
}

async fn revoke(shared: &Shared, id: i64) {
    let request = LeaseRevokeRequest { id };
    let revoked: Result<LeaseRevokeResponse, Fault> = shared.link.attempt(REVOKE, &request).await;
    if let Err(fault) = revoked {
        tracing::debug!(?fault, "a lease was not given up: it ends by itself");
    }
}

/// Leads until the lease is over or the key is gone.
async fn lead(shared: &Shared, mut lease: Lease, term: i64) {
    let mut seen = shared.seen.subscribe();
    // Whoever led before has committed nothing beyond this.
    let catch_up = async { seen.wait_for(|seen| *seen >= term).await.is_ok() };
    let caught_up = tokio::time::timeout_at(lease.until, catch_up).await;
    if caught_up != Ok(true) {
        tracing::warn!("elected, but the rows cannot be followed: standing back");
        return revoke(shared, lease.id).await;
    }
    shared.note_lease(Some(lease.until));
    let term_number = term_of(term);
    shared.set_leadership(Leadership::Leads { term: term_number });
    tracing::info!(term = term_number.0, "this conductor leads");
    let mut compacting = Instant::now() + COMPACT_EVERY;
    let mut leader = shared.leader.subscribe();
    let mut pause = shared.renew_after();
    loop {
        let is_mine =
            |leader: &Option<Leader>| leader.as_ref().is_some_and(|leader| leader.created == term);
        let loss = async { drop(leader.wait_for(|leader| !is_mine(leader)).await) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.resigning() => {
                shared.note_lease(None);
                return revoke(shared, lease.id).await;
            }
            () = loss => break,
        }
        pause = shared.renew_after();
        match renew(shared, &mut lease).await {
            Ok(true) if shared.goes_on(term_number).await => {
                shared.go_on(term_number, lease.until);
            }
            Ok(true) => pause = RENEW_AGAIN,
            Ok(false) => break,
            Err(fault) => {
                tracing::debug!(?fault, "the lease was not renewed");
                pause = RENEW_AGAIN;
            }
        }
        if Instant::now() >= compacting {
            compacting = Instant::now() + COMPACT_EVERY;
            compact(shared).await;
        }
    }
    shared.note_lease(None);
    tracing::warn!(term = term_number.0, "this conductor leads no more");
    // The key is another's now, or goes with the lease: who leads is as the watch says.
    tokio::time::sleep(PAUSE).await;
}

/// Renews; false where the lease is over.
async fn renew(shared: &Shared, lease: &mut Lease) -> Result<bool, Fault> {
    let asked = Instant::now();
    let (send, questions) = mpsc::channel(1);
    let _ = send.try_send(LeaseKeepAliveRequest { id: lease.id });
    drop(send);
    let asking = async {
        let (member, mut answers) = shared
            .link
            .stream::<_, LeaseKeepAliveResponse, _>(KEEP, Questions(questions))
            .await?;
        let answer = answers.message().await;
        answer.map_err(|status| {
            shared.link.avoid(member);
            Fault::from(status)
        })
    };
    let Ok(answer) = tokio::time::timeout(shared.renew_after(), asking).await else {
        shared.link.avoid_first();
        return Err(Fault::Elsewhere("no answer in time".to_owned()));
    };
    match answer? {
        Some(answer) if answer.ttl > 0 => {
            lease.until = asked + belief(answer.ttl);
            Ok(true)
        }
        Some(_) => Ok(false),
        None => Err(Fault::Elsewhere("the stream has ended".to_owned())),
    }
}

/// Gives up the history that no log here keeps any more.
async fn compact(shared: &Shared) {
    let revision = super::transaction::signed(shared.log(super::log::EventLog::from).0);
    if revision <= 0 {
        return;
    }
    let request = CompactionRequest { revision };
    let compacted: Result<CompactionResponse, Fault> = shared.link.attempt(COMPACT, &request).await;
    match compacted {
        // Another has done it.
        Ok(_) | Err(Fault::Compacted) => {}
        Err(fault) => tracing::debug!(?fault, "the history was not compacted"),
    }
}

/// How long a leader believes that it has a lease of so many seconds: three quarters of that, as its clock
/// may be slow, and etcd's fast.
fn belief(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or_default()) * 3 / 4
}

impl Shared {
    /// How long after it began or was renewed a lease is renewed.
    fn renew_after(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into()) / RENEWALS
    }

    fn set_leadership(&self, leadership: Leadership) {
        self.leadership.send_if_modified(|known| {
            let is_news = *known != leadership;
            *known = leadership;
            is_news
        });
    }

    /// Whether a renewal is to be believed. One that came in time is; one that comes late may be of a member
    /// that was suspended and believes that it leads etcd, so a majority is asked whose the key is.
    async fn goes_on(&self, term: Term) -> bool {
        if matches!(self.leadership_now(), Leadership::Leads { .. }) {
            return true;
        }
        let glance = tokio::time::timeout(self.renew_after(), self.glance()).await;
        matches!(glance, Ok(Ok(glance)) if term_of(glance.term()) == term)
    }

    /// The lease is renewed. If it was over by the clock, whoever waits hears of it.
    fn go_on(&self, term: Term, until: Instant) {
        let was_over = !matches!(self.leadership_now(), Leadership::Leads { .. });
        self.note_lease(Some(until));
        if was_over {
            tracing::info!(
                term = term.0,
                "this conductor leads on: nobody else has meanwhile"
            );
            self.leadership.send_replace(Leadership::Leads { term });
        }
    }

    fn note_lease(&self, until: Option<Instant>) {
        *self
            .lease_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// How things stand now: a lease that is over by the clock is over.
    pub(super) fn leadership_now(&self) -> Leadership {
        let until = *self
            .lease_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_leased = until.is_some_and(|until| Instant::now() < until);
        match self.leadership.borrow().clone() {
            Leadership::Leads { .. } if !is_leased => Leadership::Follows { leader: None },
            known => known,
        }
    }

    /// Waits until this process is to lead no more.
    async fn resigning(&self) {
        let mut resigns = self.resigns.subscribe();
        let _ = resigns.wait_for(|resigns| *resigns).await;
    }
}
