//! `/v1/nodes/{id}` and `/v1/disks/{id}`: cordon, uncordon, drain, remove.
//!
//! A node is named by its name or its id; a name that looks like an id comes first.

use ashlar_proto::DiskId;
use ashlar_proto::api::{ClearDisk, Disk, Node, Schedulable, SetSchedulable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Shared;
use super::extract::{JsonBody, PathPart};
use super::problem::Answer;
use crate::meta::MetaStore;

/// Handlers that set a node's or a disk's state.
macro_rules! schedule {
    ($node:ident, $disk:ident, $schedulable:expr) => {
        pub(super) async fn $node<M: MetaStore>(
            State(api): Shared<M>,
            PathPart(node): PathPart<String>,
            JsonBody(SetSchedulable {}): JsonBody<SetSchedulable>,
        ) -> Answer<Json<Node>> {
            Ok(Json(api.cluster.schedule_node(node, $schedulable).await?))
        }

        pub(super) async fn $disk<M: MetaStore>(
            State(api): Shared<M>,
            PathPart(disk): PathPart<DiskId>,
            JsonBody(SetSchedulable {}): JsonBody<SetSchedulable>,
        ) -> Answer<Json<Disk>> {
            Ok(Json(api.cluster.schedule_disk(disk, $schedulable).await?))
        }
    };
}

schedule!(cordon_node, cordon_disk, Schedulable::Cordoned);
schedule!(uncordon_node, uncordon_disk, Schedulable::Open);
schedule!(drain_node, drain_disk, Schedulable::Draining);

pub(super) async fn clear_disk<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(disk): PathPart<DiskId>,
    JsonBody(ClearDisk {}): JsonBody<ClearDisk>,
) -> Answer<Json<Disk>> {
    Ok(Json(api.cluster.clear_disk(disk).await?))
}

pub(super) async fn remove_node<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(node): PathPart<String>,
) -> Answer<StatusCode> {
    api.cluster.remove_node(node).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove_disk<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(disk): PathPart<DiskId>,
) -> Answer<StatusCode> {
    api.cluster.remove_disk(disk).await?;
    Ok(StatusCode::NO_CONTENT)
}
