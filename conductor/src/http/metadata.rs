//! The metadata as a whole: `GET /v1/metadata/backup`.

use std::sync::Arc;

use ashlar_proto::ClusterId;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::operation::op;
use super::problem::{Answer, Refused};
use super::routes::Routes;
use super::{Api, Shared};
use crate::cluster::ClusterError;
use crate::meta::MetaStore;
use crate::upkeep::backup::{self, Backup};
use crate::upkeep::snapshot::{self, SnapshotError};

/// Its routes.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new().get(
        "/v1/metadata/backup",
        take::<M>,
        op("backUpMetadata", "All metadata at one moment, as a file")
            .text("application/octet-stream", "the file"),
    )
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
