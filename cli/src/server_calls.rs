//! What an iSCSI server asks of the conductor beside what every owner does.

use std::time::Duration;

use ashlar_client::SourceError;
use ashlar_proto::PortalGroup;
use ashlar_proto::api::{
    ConfirmReservations, HandOver, RegisterServer, ReservationsConfirmed, ServerHeartbeat,
    ServerRegistered,
};
use ashlar_reactor::channel::remote;

use crate::api_client::ApiClient;
use crate::cluster_source::translate;

/// How long who serves a volume is waited for that is to go by new reservations.
const CONFIRM_WAIT: Duration = Duration::from_secs(3);

type Answer<T> = remote::Sender<Result<T, SourceError>>;

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
                let _ = answer.try_send(done.map_err(|error| translate("*", &error)));
            }
            Self::Beat(group, request, answer) => {
                let done = client.server_heartbeat(group, &request).await;
                let _ = answer.try_send(done.map_err(|error| translate("*", &error)));
            }
            Self::HandOver(name, request, answer) => {
                let done = client.hand_over(&name, &request).await;
                let _ = answer.try_send(done.map_err(|error| translate(&name, &error)));
            }
            Self::Confirm(name, request, answer) => {
                let done = client.confirm_reservations(&name, &request).await;
                let _ = answer.try_send(done.map_err(|error| translate(&name, &error)));
            }
            Self::Confirmed(name, version, answer) => {
                let done = client.reservations_confirmed(&name, version, CONFIRM_WAIT);
                let done = done.await;
                let _ = answer.try_send(done.map_err(|error| translate(&name, &error)));
            }
        }
    }
}
