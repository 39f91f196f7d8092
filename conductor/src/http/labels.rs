//! Labels of volumes.

use std::sync::Arc;

use ashlar_proto::api::{LabelVolume, SetLabels, Volume};
use axum::Json;
use axum::extract::State;

use super::extract::{JsonBody, PathPart};
use super::operation::op;
use super::problem::{Answer, Code};
use super::routes::Routes;
use super::{Api, Shared};
use crate::meta::MetaStore;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .post(
            "/v1/volumes/{name}/label",
            label::<M>,
            op("labelVolume", "Changes some labels of a volume")
                .body::<LabelVolume>()
                .gives::<Volume>()
                .keyed()
                .tagged()
                .refuses(&[Code::VolumeNotFound]),
        )
        .put(
            "/v1/volumes/{name}/labels",
            set::<M>,
            op("setLabels", "Gives a volume these labels, and no others")
                .body::<SetLabels>()
                .gives::<Volume>()
                .keyed()
                .replaces()
                .refuses(&[Code::VolumeNotFound]),
        )
}

async fn label<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<LabelVolume>,
) -> Answer<Json<Volume>> {
    Ok(Json(api.cluster.label(name, request).await?))
}

async fn set<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<SetLabels>,
) -> Answer<Json<Volume>> {
    Ok(Json(api.cluster.set_labels(name, request).await?))
}
