//! Who leads several simulated conductors: the leader's key and its lease as etcd keeps them, and what each
//! life of a conductor believes.
//!
//! ```text
//!  life ── stand, by and by ──▶ Seat: nobody leads? a new term. It leads? its lease is renewed.
//!    ▲                            │ no renewal for a lease, by etcd's clock: nobody leads
//!    └── believes for three quarters of a lease, by its own clock, counted from when it asked
//! ```
//!
//! A life that is stalled believes on until its clock says otherwise, and what it has under way goes on
//! where it was: in the middle of a commit, if that is where it was. Those that follow hear of commits
//! late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ashlar_conductor::meta::{Leadership, Term};
use ashlar_proto::api::Revision;
use ashlar_reactor::Reactor;
use tokio::sync::watch;

use super::metadata::Archive;

/// How long the lead stays with a life that is not heard of, by etcd's clock.
const LEASE: Duration = Duration::from_secs(2);
/// How long a life believes, by its own.
const BELIEF: Duration = Duration::from_millis(1500);
/// How often etcd looks.
const LOOK: Duration = Duration::from_millis(50);
/// The longest pause between two questions of a life, and the longest way of one, in µs.
const PAUSE_US_MAX: u64 = 400_000;
const TRAVEL_US_MAX: u64 = 20_000;

/// One life of a conductor among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifeId(pub u64);

/// The leader's key.
#[derive(Debug, Default)]
pub struct Seat {
    lead: Option<Lead>,
    last: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lead {
    life: LifeId,
    term: Term,
    is_renewed: bool,
}

impl Seat {
    /// The life that leads.
    pub fn leads(&self) -> Option<LifeId> {
        self.lead.map(|lead| lead.life)
    }

    /// The term there is.
    pub fn term(&self) -> Option<Term> {
        self.lead.map(|lead| lead.term)
    }

    /// Takes the lead if nobody has it, or keeps it; gives the term.
    fn stand(&mut self, life: LifeId) -> Option<Term> {
        if self.lead.is_none() {
            self.last += 1;
            let term = Term(self.last);
            self.lead = Some(Lead {
                life,
                term,
                is_renewed: true,
            });
        }
        let lead = self.lead.as_mut().filter(|lead| lead.life == life)?;
        lead.is_renewed = true;
        Some(lead.term)
    }

    /// Gives the lead up.
    pub fn leave(&mut self, life: LifeId) {
        if self.leads() == Some(life) {
            self.lead = None;
        }
    }
}

/// Ends leases, for as long as etcd's process lives.
pub async fn keep_leases(archive: Archive, reactor: Reactor) {
    let (mut term, mut since) = (None, reactor.now());
    loop {
        reactor.sleep(LOOK).await;
        let now = reactor.now();
        archive.seat(|seat| {
            let is_heard = seat
                .lead
                .as_mut()
                .is_some_and(|lead| std::mem::take(&mut lead.is_renewed));
            if is_heard || seat.term() != term {
                (term, since) = (seat.term(), now);
            } else if now - since >= LEASE {
                seat.lead = None;
            }
        });
    }
}

/// What one life knows.
pub struct Standing {
    pub life: LifeId,
    belief: Mutex<Option<Belief>>,
    /// Times that it gave up the lead: an answer from before that counts no more.
    resigned: AtomicU64,
    /// Told of at each change.
    pub leadership: watch::Sender<Leadership>,
    /// Commits that it has heard of.
    pub seen: watch::Sender<Revision>,
}

#[derive(Clone, Copy, Debug)]
struct Belief {
    term: Term,
    /// By its own clock.
    until: Duration,
}

impl Standing {
    pub fn new(life: LifeId, seen: Revision) -> Self {
        Self {
            life,
            belief: Mutex::default(),
            resigned: AtomicU64::default(),
            leadership: watch::Sender::new(Leadership::Follows { leader: None }),
            seen: watch::Sender::new(seen),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Belief>> {
        self.belief.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it believes at that time of its clock.
    pub fn believes(&self, now: Duration) -> Leadership {
        match *self.lock() {
            Some(belief) if now < belief.until => Leadership::Leads { term: belief.term },
            _ => Leadership::Follows { leader: None },
        }
    }

    /// It has heard of all commits up to that one.
    pub fn see(&self, revision: Revision) {
        self.seen.send_if_modified(|seen| {
            let is_news = *seen < revision;
            *seen = revision.max(*seen);
            is_news
        });
    }

    fn believe(&self, belief: Option<Belief>) {
        *self.lock() = belief;
        let told = match belief {
            Some(Belief { term, .. }) => Leadership::Leads { term },
            None => Leadership::Follows { leader: None },
        };
        self.leadership.send_if_modified(|known| {
            let is_news = *known != told;
            *known = told;
            is_news
        });
    }

    /// Gives up the lead, if it has it.
    pub fn resign(&self, archive: &Archive) {
        self.resigned.fetch_add(1, Ordering::Relaxed);
        self.believe(None);
        archive.seat(|seat| seat.leave(self.life));
    }

    /// Stands for leader, and follows, for as long as its process lives.
    pub async fn stand(self: Arc<Self>, archive: Archive, reactor: Reactor) {
        loop {
            reactor.sleep(archive.draw_time(PAUSE_US_MAX)).await;
            let resigned = self.resigned.load(Ordering::Relaxed);
            let asked = Duration::from_nanos(reactor.now().as_nanos());
            reactor.sleep(archive.draw_time(TRAVEL_US_MAX)).await;
            let term = archive.seat(|seat| seat.stand(self.life));
            let revision = archive.revision();
            reactor.sleep(archive.draw_time(TRAVEL_US_MAX)).await;
            // Whoever leads has heard of all that was committed before.
            self.see(revision);
            if self.resigned.load(Ordering::Relaxed) == resigned {
                let until = asked + BELIEF;
                self.believe(term.map(|term| Belief { term, until }));
            }
        }
    }
}
