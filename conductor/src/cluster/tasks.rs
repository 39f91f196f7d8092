//! Long operations: noted as the clock goes, waited for, called off.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{Task, TaskState};

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;
use crate::refusal::{Refusal, TaskRefusal};

impl<M: MetaStore> Cluster<M> {
    /// Looks what is under way.
    pub(crate) fn look_at_tasks(&self) {
        if self.read(|view| view.live.tasks.is_idle(view.state.revision())) {
            return;
        }
        let (now, wall_ms) = (self.now(), self.runtime.wall_ms());
        let is_news = self.change_live(|view| {
            let underway = view.state.underway();
            let at = view.state.revision();
            view.live.tasks.note(now, wall_ms, at, underway)
        });
        if is_news {
            self.bells.ring();
        }
    }

    /// A task, once it has ended or the wait is over.
    pub(crate) async fn task(&self, id: String, wait: Duration) -> Result<Task, ClusterError> {
        self.look_at_tasks();
        let has_ended = |view: &View| {
            let task = view.live.tasks.task(&id);
            let runs = task.is_some_and(|task| task.state == TaskState::Running);
            (!runs).then_some(())
        };
        self.wait_for(wait, has_ended).await;
        let task = self.read(|view| view.live.tasks.task(&id).cloned());
        task.ok_or_else(|| Refusal::from(TaskRefusal::NotFound { id }).into())
    }

    /// Calls a task off; gives it as it then stands.
    pub(crate) async fn cancel_task(self: &Arc<Self>, id: String) -> Result<Task, ClusterError> {
        self.look_at_tasks();
        let of = id.clone();
        let plan = move |view: &View| view.state.plan_cancel(&view.live, &of);
        self.transact_once(plan).await?;
        self.change_live(|view| view.live.tasks.note_canceled(&id));
        self.settle().await?;
        self.heal().await?;
        self.task(id, Duration::ZERO).await
    }
}
