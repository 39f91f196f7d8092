//! The metadata as a whole: `/v1/metadata/backup`, `/v1/metadata/check`.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::ClusterId;
use ashlar_proto::api::{CheckMetadata, MetadataChecked};
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::extract::JsonBody;
use super::operation::op;
use super::problem::{Answer, Refused};
use super::routes::Routes;
use super::{Api, Shared, unless_stopping};
use crate::cluster::ClusterError;
use crate::meta::MetaStore;
use crate::upkeep::backup::{self, Backup};
use crate::upkeep::snapshot::{self, SnapshotError};

/// How long stores are waited for: a few heartbeats.
const CHECK_WAIT: Duration = Duration::from_secs(10);

/// Its routes.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new().get(
        "/v1/metadata/backup",
        take::<M>,
        op("backUpMetadata", "All metadata at one moment, as a file")
            .text("application/octet-stream", "the file"),
    )
    .post(
        "/v1/metadata/check",
        check::<M>,
        op(
            "checkMetadata",
            "Asks stores what they hold, compares the metadata with it, and with `repair` puts right what is \
             safe",
        )
        .body::<CheckMetadata>()
        .gives::<MetadataChecked>(),
    )
}

async fn check<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<CheckMetadata>,
) -> Answer<Json<MetadataChecked>> {
    let wait = super::wait(request.wait_ms, CHECK_WAIT);
    let work = async { Ok(api.cluster.check_metadata(request, wait).await?) };
    unless_stopping(&api, work).await.map(Json)
}

/// All rows at one revision, as a file. The leader answers, as that is an entry of the audit log.
async fn take<M: MetaStore>(State(api): Shared<M>) -> Answer<Response> {
    let taken = snapshot::take(api.cluster.store()).await;
    let snapshot = taken.map_err(|error| match error {
        SnapshotError::Meta(error) => Refused::from(ClusterError::Meta(error)),
        SnapshotError::TooFast => Refused::from(ClusterError::Contended),
    })?;
    let cluster: ClusterId = api.cluster.read(|view| view.state.cluster());
    let bytes = backup::write(&Backup {
        cluster,
        taken_ms: api.cluster.wall_ms(),
        snapshot,
    });
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, bytes).into_response())
}
