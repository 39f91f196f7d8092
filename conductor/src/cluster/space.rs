//! Space: its rules, reservations, and what happens to disks that run full.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{Event, ReserveVolume, SetSpace, Space, Volume};

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;
use crate::refusal::{Refusal, VolumeRefusal};

impl<M: MetaStore> Cluster<M> {
    /// Changes the rules; gives them, and how the cluster stands by them.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn set_space(self: &Arc<Self>, request: SetSpace) -> Result<Space, ClusterError> {
        let plan = move |view: &View| view.state.plan_space(&request);
        self.transact_once(plan).await?;
        self.look_at_space();
        Ok(self.read(|view| view.state.show_space(&view.live)))
    }

    /// Changes what is kept for a volume, and waits up to `wait` for the stores of its replicas that
    /// are up to do so; gives it as it then stands.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn reserve(
        self: &Arc<Self>,
        name: String,
        request: ReserveVolume,
        wait: Duration,
    ) -> Result<Volume, ClusterError> {
        let not_found = VolumeRefusal::NotFound { name: name.clone() };
        let of = name.clone();
        let plan = move |view: &View| view.state.plan_reserve(&view.live, &of, &request);
        let id = self.transact_once(plan).await?;
        let is_kept = |view: &View| {
            let mut nodes = view.state.nodes_up_of(&name);
            nodes.all(|node| Some(view.live.applied(node)) >= view.state.assigned(node))
        };
        // Nothing changes at the conductor when a store has done it: it is looked at again and again.
        let deadline = self.uptime() + wait;
        while !self.read(is_kept) && self.uptime() < deadline {
            self.runtime.sleep(KEPT_POLL).await;
        }
        let volume = self.read(|view| view.state.volume_with_shards(id));
        volume.ok_or_else(|| Refusal::from(not_found).into())
    }

    /// The events after a number, once there are any or the wait is over.
    pub(crate) async fn events(&self, after: u64, wait: Duration) -> Vec<Event> {
        let some = |view: &View| {
            let events = view.live.events.after(after);
            (!events.is_empty()).then_some(events)
        };
        self.wait_for(wait, some).await.unwrap_or_default()
    }

    /// Looks how full disks are and how much is promised.
    pub(super) fn look_at_space(&self) {
        let now_ms = self.runtime.wall_ms();
        let has_news = self.change_live(|view| {
            let has_news = view.state.note_space(&mut view.live, now_ms);
            if has_news {
                view.live.calm = None;
            }
            has_news
        });
        if has_news {
            self.bells.ring();
        }
    }
}

/// How often to look whether stores keep what is to be kept.
const KEPT_POLL: Duration = Duration::from_millis(20);
