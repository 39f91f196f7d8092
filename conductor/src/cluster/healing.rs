//! The clock's look at what is amiss: who is away for how long, what is rebuilt, what moves to even
//! out disks, who repairs it, what is needed no more.

use std::sync::Arc;

use super::{Cluster, ClusterError};
use crate::meta::MetaStore;

impl<M: MetaStore> Cluster<M> {
    /// Makes shards whole, evens out disks and gives repair tasks out; to be called a few times per
    /// silence.
    pub(super) async fn heal(self: &Arc<Self>) -> Result<(), ClusterError> {
        let now = self.now();
        let is_calm = self.change_live(|view| {
            let is_news = view.weigh(now);
            let away = view.state.disks_away(&view.live);
            view.live.absence.note(now, &away);
            view.live.fills.note(now, &view.state.fills());
            !is_news
                && view.live.absence.is_empty()
                && view.live.calm == Some(view.state.revision())
        });
        if is_calm {
            return Ok(());
        }
        self.reap().await?;
        let (outlook, _) = self
            .transact(|view| Ok(view.state.plan_healing(&view.live)))
            .await?;
        if outlook.admitted > 0 {
            tracing::info!(
                replicas = outlook.admitted,
                queued = outlook.queued,
                "replicas are made elsewhere"
            );
        }
        let is_waiting = self.rebalance(outlook).await?;
        let (turns, _) = self
            .transact(move |view| Ok(view.state.plan_repairs(&view.live, now)))
            .await?;
        self.change_live(|view| {
            view.live.note_turns(now, &turns);
            let joined = view.state.joined();
            view.live.spell.note(now, outlook.left(), joined);
            // Nothing changes by the passing of time alone, then.
            let is_calm = outlook.left() == 0
                && !is_waiting
                && !view.state.has_repairs()
                && view.live.fills.is_empty();
            view.live.calm = is_calm.then(|| view.state.revision());
        });
        Ok(())
    }
}
