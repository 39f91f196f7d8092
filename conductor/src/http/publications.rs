//! Publications of volumes to nodes.

use std::sync::Arc;

use ashlar_proto::PublicationId;
use ashlar_proto::api::{PublishVolume, UnpublishVolume, Volume};
use axum::Json;
use axum::extract::State;

use super::extract::{JsonBody, PathPart};
use super::operation::op;
use super::problem::{Answer, Code, Refused};
use super::routes::Routes;
use super::{Api, Shared, unless_stopping};
use crate::meta::MetaStore;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    let refusals = [
        Code::VolumeNotFound,
        Code::VolumeNotReady,
        Code::StaleGeneration,
        Code::MetadataRecovering,
    ];
    Routes::new()
        .post(
            "/v1/volumes/{name}/publish",
            publish::<M>,
            op("publishVolume", "Gives a volume to a node")
                .body::<PublishVolume>()
                .gives::<Volume>()
                .keyed()
                .tagged()
                .refuses(&refusals)
                .refuses(&[Code::VolumePublished, Code::VolumePublishedOtherwise]),
        )
        .post(
            "/v1/volumes/{name}/unpublish",
            unpublish::<M>,
            op(
                "unpublishVolume",
                "Takes a volume from a node, and from who has it attached there",
            )
            .body::<UnpublishVolume>()
            .gives::<Volume>()
            .keyed()
            .tagged()
            .refuses(&refusals),
        )
}

async fn publish<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<PublishVolume>,
) -> Answer<Json<Volume>> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|_| Refused::no_randomness())?;
    let id = PublicationId::new(u64::from_be_bytes(bytes));
    Ok(Json(api.cluster.publish(name, request, id).await?))
}

async fn unpublish<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(name): PathPart<String>,
    JsonBody(request): JsonBody<UnpublishVolume>,
) -> Answer<Json<Volume>> {
    let work = async { Ok(api.cluster.unpublish(name, request).await?) };
    unless_stopping(&api, work).await.map(Json)
}
