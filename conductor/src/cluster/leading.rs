//! Leading and following: what a conductor does when its turn comes, and when it is over.
//!
//! Invariant: whoever begins to lead has applied all that was committed in earlier terms, and knows
//! nothing of what an earlier leader heard. So every node is given its silence anew, every disk its
//! grace, and no silence of a leader counts as that of a node.
//!
//! ```text
//! follows ── store says "leads" ──▶ follow the events, begin anew ──▶ leads: requests, clock
//!    ▲                                                                  │
//!    └────────── store says "follows", or a commit finds the term over ─┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::GroupId;

use super::{Cluster, ClusterError, Reign, Timing};
use crate::absence::Absence;
use crate::evidence::Evidence;
use crate::fills::Fills;
use crate::live::Live;
use crate::membership::{self, Membership, Moment};
use crate::meta::{Leadership, MetaStore, Term};
use crate::state::ClusterState;

/// How long a statement counts, in silences: a witness that is slow is given as long.
const STATEMENT_SILENCES: u32 = membership::TIMEOUTS_MAX;

/// Looks for silent nodes in one silence.
const TICKS_PER_SILENCE: u32 = 10;

/// What is known when nothing was heard yet: who is said to be up is expected to say so.
pub(super) fn fresh_live(state: &ClusterState, timing: Timing, now: Moment) -> Live {
    let absence = Absence::new(timing.rebuild_after, timing.silence, now);
    let evidence = Evidence::new(timing.silence * STATEMENT_SILENCES, timing.owner_silence);
    let mut membership = Membership::new(timing.silence, now);
    for node in state.nodes_up() {
        membership.expect(node, now);
    }
    let fills = Fills::new(timing.silence, now);
    let mut live = Live::new(membership, absence, fills, evidence);
    for server in state.servers_up() {
        live.servers.expect(server, now);
    }
    live
}

impl<M: MetaStore> Cluster<M> {
    /// Leads or follows, as the store has it, and while it leads looks for silent nodes and for what is
    /// amiss; for ever.
    pub async fn keep_time(self: Arc<Self>) {
        let period = self.timing.silence / TICKS_PER_SILENCE;
        let (mut leaderships, mut revisions) = (self.store.leaderships(), self.store.revisions());
        loop {
            if let Err(error) = self.attend().await {
                tracing::error!(%error, "cannot follow the metadata");
                self.runtime.sleep(period).await;
            }
            let leads = self.leads().is_ok();
            if leads && let Err(error) = self.fail_groups_left_over().await {
                tracing::error!(%error, "cannot end groups of snapshots that were left over");
            }
            tokio::select! {
                biased;
                () = self.runtime.sleep(period) => {}
                Ok(()) = leaderships.changed() => continue,
                Ok(()) = revisions.changed(), if !leads => continue,
            }
            if self.leads().is_ok()
                && let Err(error) = self.tick().await
            {
                tracing::error!(%error, "cannot note which nodes are up");
            }
        }
    }

    /// The term in which this conductor leads.
    ///
    /// # Errors
    /// [`ClusterError::NotLeader`].
    pub(crate) fn leads(&self) -> Result<Term, ClusterError> {
        let reign = self.read(|view| view.reign);
        match self.store.leadership() {
            Leadership::Leads { term } if reign.is_some_and(|reign| reign.term == term) => Ok(term),
            Leadership::Leads { .. } => Err(ClusterError::NotLeader { leader: None }),
            Leadership::Follows { leader } => Err(ClusterError::NotLeader { leader }),
        }
    }

    /// Does as the store says: begins to lead, ends, or follows.
    pub(super) async fn attend(&self) -> Result<(), ClusterError> {
        let reign = self.read(|view| view.reign);
        match self.store.leadership() {
            Leadership::Leads { term } if reign.is_some_and(|reign| reign.term == term) => Ok(()),
            Leadership::Leads { term } => self.take_over(term).await,
            Leadership::Follows { .. } => {
                if reign.is_some() {
                    self.change_live(|view| view.reign = None);
                    // Whoever waits for what only a leader knows is to ask another one.
                    self.bells.ring_everybody();
                }
                let _turn = self.turn.lock().await;
                self.follow().await
            }
        }
    }

    async fn take_over(&self, term: Term) -> Result<(), ClusterError> {
        let _turn = self.turn.lock().await;
        self.follow().await?;
        self.begin_recovery(term).await?;
        let (now, timing) = (self.now(), self.timing);
        let revision = self.change_live(|view| {
            view.state.renew_assignments();
            view.live = fresh_live(&view.state, timing, now);
            view.reign = Some(Reign {
                term,
                since: now,
                first_group: view.state.next_group(),
            });
            view.state.revision()
        });
        self.tell(revision);
        self.bells.ring_everybody();
        Ok(())
    }

    /// For how long it has led; forever where it does not.
    pub(super) fn reign_age(&self) -> Duration {
        let reign = self.read(|view| view.reign);
        reign.map_or(Duration::MAX, |reign| self.now().since(reign.since))
    }

    /// The first group of snapshots that is not of an earlier leader.
    pub(super) fn first_group(&self) -> GroupId {
        let reign = self.read(|view| view.reign);
        reign.map_or(GroupId::new(0), |reign| reign.first_group)
    }
}
