//! Groups of snapshots: one task brings each to its end, whether its caller still waits or not.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{
    CreateSnapshotGroup, HoldAnswer, HoldOutcome, HoldWord, ReportHold, SnapshotGroup,
    SnapshotState,
};
use ashlar_proto::limits::{HOLD_MAX, HOLD_WAIT};
use ashlar_proto::{GroupId, VolumeId};
use tokio::sync::oneshot;

use super::{Cluster, ClusterError, View};
use crate::asking::Asking;
use crate::audited::Asked;
use crate::meta::MetaStore;
use crate::refusal::{GroupRefusal, Refusal};
use crate::state::{Plan, Progress};

/// How long owners may take to say whether they kept still: a conductor that does not answer for a
/// moment is asked again.
const CONFIRM_WAIT: Duration = Duration::from_secs(5);

/// The pause before the end of a group is tried again, and how often it is.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const TRIES: usize = 10;

impl<M: MetaStore> Cluster<M> {
    /// Makes a snapshot of each of some volumes, all of one moment, asked for at `now_ms` since
    /// 1970-01-01 UTC, and waits up to `wait` until they are ready; gives them as they then stand.
    ///
    /// It is brought to its end also where this future is dropped.
    ///
    /// # Errors
    /// [`ClusterError`]; no snapshot is left, or none will be.
    pub async fn create_group(
        self: &Arc<Self>,
        request: CreateSnapshotGroup,
        now_ms: u64,
        wait: Duration,
    ) -> Result<SnapshotGroup, ClusterError> {
        let (answer, answered) = oneshot::channel();
        let (cluster, asking) = (Arc::clone(self), Asking::current());
        // What a task is asked for does not go with it by itself.
        let asked = Asked::current();
        self.runtime.spawn(Box::pin(async move {
            let work = cluster.make_group(asking, &request, now_ms);
            let made = match asked {
                Some(asked) => asked.scope(work).await,
                None => work.await,
            };
            let _ = answer.send(made);
        }));
        let made = answered.await.map_err(|_| ClusterError::Stopping)?;
        let (group, volumes) = made?;
        let settled = |view: &View| {
            let snapshots = view.state.snapshots_of_group(group, &volumes);
            let mut states = snapshots.iter().map(|snapshot| snapshot.state);
            let is_sealing = states.any(|state| state == SnapshotState::Sealing);
            (!is_sealing).then_some(())
        };
        self.wait_for(wait, settled).await;
        let snapshots = self.read(|view| view.state.snapshots_of_group(group, &volumes));
        Ok(SnapshotGroup { group, snapshots })
    }

    /// Takes in what an owner says of a hold. One that holds is answered when it may go on, or after
    /// [`HOLD_MAX`].
    ///
    /// # Errors
    /// [`ClusterError::Refused`].
    pub async fn report_hold(
        &self,
        volume: String,
        request: ReportHold,
    ) -> Result<HoldAnswer, ClusterError> {
        self.leads()?;
        self.change_live(|view| {
            view.state.check_hold(&volume, &request)?;
            let holds = &mut view.live.holds;
            holds.note(request.group, request.volume, request.word);
            Ok::<_, Refusal>(())
        })?;
        self.bells.ring();
        let answer = |view: &View| view.state.hold_answer(&request);
        if request.word == HoldWord::Held {
            let over = |view: &View| {
                let is_waiting = answer(view).outcome == HoldOutcome::Waiting;
                (!is_waiting).then_some(())
            };
            self.wait_for(HOLD_MAX, over).await;
        }
        Ok(self.read(answer))
    }

    /// Ends groups that a conductor before this one has left, or that nobody could end.
    pub(super) async fn fail_groups_left_over(self: &Arc<Self>) -> Result<(), ClusterError> {
        let (now, first) = (self.now(), self.first_group());
        let over = self.change_live(|view| {
            let groups = view.state.groups();
            view.live.holds.left_over(now, groups, first)
        });
        for group in over {
            tracing::warn!(%group, "a group of snapshots was not finished: none of them is kept");
            self.fail_group(group).await?;
        }
        Ok(())
    }

    /// From hold to confirm; gives the group and its volumes.
    async fn make_group(
        self: &Arc<Self>,
        asking: Arc<Asking>,
        request: &CreateSnapshotGroup,
        now_ms: u64,
    ) -> Result<(GroupId, Vec<VolumeId>), ClusterError> {
        let request = request.clone();
        let plan = move |view: &View| {
            let planned = view.state.plan_group_hold(&request)?;
            let members = request.volumes.iter();
            let ids: Vec<VolumeId> = members.filter_map(|name| view.state.id_of(name)).collect();
            Ok(Plan {
                reads: planned.reads,
                changes: planned.changes,
                answer: (planned.answer, ids),
            })
        };
        let made = self.make_once(asking, plan).await?;
        let (group, volumes) = made.answer;
        if made.again {
            return self.made_earlier(group, volumes).await;
        }
        match self.seal_and_confirm(group, &volumes, now_ms).await {
            Ok(()) => {
                for volume in &volumes {
                    if let Err(error) = self.bring_on_layers(*volume).await {
                        tracing::error!(%error, "cannot look for who settles a snapshot");
                    }
                }
                Ok((group, volumes))
            }
            Err(error) => {
                tracing::warn!(%group, %error, "a group of snapshots is not made");
                for _ in 0..TRIES {
                    match self.fail_group(group).await {
                        Ok(()) => break,
                        // What is left is found by the clock's look at groups.
                        Err(failure) => tracing::error!(%group, error = %failure,
                            "cannot end a group of snapshots that has failed"),
                    }
                    self.runtime.sleep(RETRY_PAUSE).await;
                }
                Err(error)
            }
        }
    }

    /// Waits for the end of a group that an earlier request has begun.
    async fn made_earlier(
        &self,
        group: GroupId,
        volumes: Vec<VolumeId>,
    ) -> Result<(GroupId, Vec<VolumeId>), ClusterError> {
        let is_over = |view: &View| view.state.group_volumes(group).is_empty().then_some(());
        self.wait_for(HOLD_WAIT + CONFIRM_WAIT, is_over).await;
        let is_made = |view: &View| {
            let is_over = view.state.group_volumes(group).is_empty();
            is_over && !view.state.snapshots_of_group(group, &volumes).is_empty()
        };
        if self.read(is_made) {
            Ok((group, volumes))
        } else {
            Err(Refusal::from(GroupRefusal::Over).into())
        }
    }

    async fn seal_and_confirm(
        self: &Arc<Self>,
        group: GroupId,
        volumes: &[VolumeId],
        now_ms: u64,
    ) -> Result<(), ClusterError> {
        self.hear_all(group, HOLD_WAIT).await?;
        let plan = move |view: &View| {
            let holds = &view.live.holds;
            view.state.plan_group_seal(holds, group, now_ms)
        };
        self.transact(plan).await?;
        self.hear_all(group, CONFIRM_WAIT).await?;
        let mut tries = 0;
        loop {
            let plan = move |view: &View| view.state.plan_group_confirm(&view.live.holds, group);
            let error = match self.transact(plan).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            // One that failed may have been committed all the same: then the group is over, and all of
            // its snapshots are there.
            let is_over = matches!(
                error,
                ClusterError::Refused(Refusal::Group(GroupRefusal::Over))
            );
            let made = self.read(|view| view.state.snapshots_of_group(group, volumes).len());
            if is_over && tries > 0 && made == volumes.len() {
                return Ok(());
            }
            tries += 1;
            if !matches!(error, ClusterError::Meta(_)) || tries == TRIES {
                return Err(error);
            }
            tracing::error!(%group, %error, "cannot confirm a group of snapshots yet");
            self.runtime.sleep(RETRY_PAUSE).await;
        }
    }

    /// Waits until all owners have said what the next step needs.
    async fn hear_all(&self, group: GroupId, wait: Duration) -> Result<(), ClusterError> {
        let come = |view: &View| match view.state.group_progress(&view.live.holds, group) {
            Progress::Waiting => None,
            progress => Some(progress),
        };
        match self.wait_for(wait, come).await {
            Some(Progress::Failed(refusal)) => Err(Refusal::from(refusal).into()),
            Some(_) => Ok(()),
            None => {
                let silent = self.read(|view| view.state.group_silent(&view.live.holds, group));
                Err(Refusal::from(silent).into())
            }
        }
    }

    async fn fail_group(self: &Arc<Self>, group: GroupId) -> Result<(), ClusterError> {
        let plan = move |view: &View| Ok(view.state.plan_group_fail(group));
        let (changes, _) = self.transact(plan).await?;
        for change in changes {
            self.bring_on_layers(change.volume).await?;
        }
        Ok(())
    }
}
