//! What an iSCSI server asks of the conductor beside what every owner does.

use std::time::Duration;

use ashlar_proto::PortalGroup;
use ashlar_proto::api::{
    ConfirmReservations, HandOver, RegisterServer, ReservationsConfirmed, ServerHeartbeat,
    ServerRegistered,
};

use ashlar_api_client::ApiClient;

use crate::cluster_source::{Answer, tell};

/// How long who serves a volume is waited for that is to go by new reservations.
const CONFIRM_WAIT: Duration = Duration::from_secs(3);

/// A call on its way.
pub enum ServerCall {
    /// A run of a server is there.
    Register(RegisterServer, Answer<ServerRegistered>),
    /// It still is.
    Beat(PortalGroup, ServerHeartbeat, Answer<()>),
    /// A volume is to be let go.
    HandOver(String, HandOver, Answer<()>),
    /// A version of reservations is gone by.
    Confirm(String, ConfirmReservations, Answer<()>),
    /// Whether it is elsewhere.
    Confirmed(String, u64, Answer<ReservationsConfirmed>),
}

impl ServerCall {
    /// Carries it out. An answer that finds nobody belongs to a server that no longer waits.
    pub async fn carry_out(self, client: &ApiClient) {
        match self {
            Self::Register(request, answer) => {
                let done = client.register_server(&request).await;
                tell(&answer, "*", done);
            }
            Self::Beat(group, request, answer) => {
                let done = client.server_heartbeat(group, &request).await;
                tell(&answer, "*", done);
            }
            Self::HandOver(name, request, answer) => {
                let done = client.hand_over(&name, &request).await;
                tell(&answer, &name, done);
            }
            Self::Confirm(name, request, answer) => {
                let done = client.confirm_reservations(&name, &request).await;
                tell(&answer, &name, done);
            }
            Self::Confirmed(name, version, answer) => {
                let asked = client.reservations_confirmed(&name, version, CONFIRM_WAIT);
                let done = asked.await;
                tell(&answer, &name, done);
            }
        }
    }
}
