//! iSCSI servers, and what they tell each other of the volumes that they serve: one method a request.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::PortalGroup;
use ashlar_proto::api::{
    ConfirmReservations, HandOver, RegisterServer, ReservationsConfirmed, ServerHeartbeat,
    ServerRegistered,
};

use super::{Cluster, ClusterError, View};
use crate::meta::MetaStore;
use crate::refusal::Refusal;

impl<M: MetaStore> Cluster<M> {
    /// Takes a run of a server in.
    pub(crate) async fn register_server(
        self: &Arc<Self>,
        request: RegisterServer,
    ) -> Result<ServerRegistered, ClusterError> {
        let plan = move |view: &View| view.state.plan_server_register(&request);
        let (group, _) = self.transact(plan).await?;
        let now = self.now();
        self.change_live(|view| view.live.servers.heard(group, now));
        let beat = u64::try_from(self.timing().heartbeat.as_millis()).unwrap_or(u64::MAX);
        Ok(ServerRegistered {
            group,
            heartbeat_ms: beat,
        })
    }

    /// Hears a run of a server.
    pub(crate) async fn hear_server(
        self: &Arc<Self>,
        group: PortalGroup,
        heartbeat: ServerHeartbeat,
    ) -> Result<(), ClusterError> {
        let leaving = heartbeat.leaving;
        let plan = move |view: &View| {
            let state = &view.state;
            state.plan_server_heard(group, &heartbeat.owner, leaving)
        };
        self.transact(plan).await?;
        let now = self.now();
        if !leaving {
            self.change_live(|view| view.live.servers.heard(group, now));
        }
        Ok(())
    }

    /// Forgets a server.
    pub(crate) async fn forget_server(self: &Arc<Self>, name: String) -> Result<(), ClusterError> {
        let plan = move |view: &View| view.state.plan_server_forget(&name);
        self.transact_once(plan).await
    }

    /// Looks for silent servers; to be called a few times per silence.
    pub(super) async fn look_at_servers(self: &Arc<Self>) -> Result<(), ClusterError> {
        let now = self.now();
        let silent = self.change_live(|view| {
            let View { state, live, .. } = view;
            live.confirmed.retain(|volume, _| state.has_volume(*volume));
            live.servers.silent(now)
        });
        if self.read(|view| !view.state.plan_server_silence(&silent).changes.is_empty()) {
            let plan = move |view: &View| Ok(view.state.plan_server_silence(&silent));
            let (names, _) = self.transact(plan).await?;
            for name in names {
                tracing::warn!(
                    server = name,
                    "iSCSI server is down: it sends no heartbeats"
                );
            }
        }
        Ok(())
    }

    /// Asks who has a volume attached to let it go to another server.
    pub(crate) async fn hand_over(
        self: &Arc<Self>,
        volume: String,
        request: HandOver,
    ) -> Result<(), ClusterError> {
        let plan = move |view: &View| view.state.plan_hand_over(&volume, &request);
        self.transact(plan).await.map(|_| ())
    }

    /// Takes in by which version of the reservations a volume is served.
    pub(crate) fn confirm_reservations(
        &self,
        volume: &str,
        request: &ConfirmReservations,
    ) -> Result<(), Refusal> {
        self.change_live(|view| {
            let View { state, live, .. } = view;
            state.note_confirmed(live, volume, request)
        })?;
        self.bells.ring();
        Ok(())
    }

    /// Whether a volume is served by that version of its reservations, once it is or the wait is over.
    pub(crate) async fn reservations_confirmed(
        &self,
        volume: String,
        version: u64,
        wait: Duration,
    ) -> Result<ReservationsConfirmed, Refusal> {
        let look = |view: &View| {
            let View { state, live, .. } = view;
            state.is_confirmed(live, &volume, version)
        };
        let done = |view: &View| match look(view) {
            Ok(false) => None,
            other => Some(other),
        };
        let confirmed = self.wait_for(wait, done).await.unwrap_or(Ok(false))?;
        Ok(ReservationsConfirmed { confirmed })
    }
}
