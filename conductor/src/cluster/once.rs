//! Changes that are made once for a request, however often it is sent, and only if its object is as the
//! request says.
//!
//! What the change has made is kept with it, in one transaction. Whoever sends the request again gets what
//! it made as that then stands: nothing is done a second time.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Cluster, ClusterError, View};
use crate::asking::Asking;
use crate::meta::MetaStore;
use crate::refusal::{ConditionRefusal, Refusal};
use crate::row::OnceRow;
use crate::state::Plan;

/// What a change has made.
pub(super) struct Made<T> {
    pub(super) answer: T,
    /// It was made by an earlier request of the same key.
    pub(super) again: bool,
}

impl<M: MetaStore> Cluster<M> {
    /// As [`Cluster::transact`], for the change that the request being served is for.
    pub(super) async fn transact_once<T>(
        self: &Arc<Self>,
        plan: impl FnMut(&View) -> Result<Plan<T>, Refusal> + Send + 'static,
    ) -> Result<T, ClusterError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        Ok(self.make_once(Asking::current(), plan).await?.answer)
    }

    /// The same for a request that another task serves.
    pub(super) async fn make_once<T>(
        self: &Arc<Self>,
        asking: Arc<Asking>,
        mut plan: impl FnMut(&View) -> Result<Plan<T>, Refusal> + Send + 'static,
    ) -> Result<Made<T>, ClusterError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        let (at_ms, serving) = (self.runtime.wall_ms(), Arc::clone(&asking));
        let plan = move |view: &View| {
            if let Some(row) = asking.done(&view.state)? {
                // Of another form it is of another change.
                let answer = serde_json::from_value(row.answer.clone());
                let answer = answer.map_err(|_| ConditionRefusal::KeyReused)?;
                let again = true;
                return Ok(Plan::nothing(Made { answer, again }));
            }
            asking.check(&view.state)?;
            let mut planned = plan(view)?;
            let has_changes = !planned.changes.is_empty();
            if let Some(keyed) = asking.keyed.as_ref().filter(|_| has_changes) {
                let row = OnceRow {
                    key: keyed.key.clone(),
                    request: keyed.request.clone(),
                    at_ms,
                    answer: serde_json::to_value(&planned.answer).unwrap_or_default(),
                };
                planned.changes.extend(view.state.remember(row));
            }
            let again = false;
            let answer = planned.answer;
            Ok(Plan {
                reads: planned.reads,
                changes: planned.changes,
                answer: Made { answer, again },
            })
        };
        let (made, _) = self.transact(plan).await?;
        if made.again {
            serving.note_replay();
        }
        Ok(made)
    }
}
