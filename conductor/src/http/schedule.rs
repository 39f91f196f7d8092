//! `/v1/nodes/{id}` and `/v1/disks/{id}`: cordon, uncordon, drain, label, remove.
//!
//! A node is named by its name or its id; a name that looks like an id comes first.

use std::sync::Arc;

use ashlar_proto::DiskId;
use ashlar_proto::api::{ClearDisk, Disk, LabelDisk, Node, Schedulable, SetSchedulable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::extract::{JsonBody, PathPart};
use super::operation::op;
use super::problem::{Answer, Code};
use super::routes::Routes;
use super::{Api, Shared};
use crate::meta::MetaStore;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    routes_of_nodes().with(routes_of_disks())
}

fn routes_of_nodes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .delete(
            "/v1/nodes/{id}",
            remove_node::<M>,
            op(
                "removeNode",
                "Forgets a node that is down and holds no replicas, and its disks",
            )
            .done("it is forgotten")
            .keyed()
            .tagged()
            .refuses(&[Code::NodeNotFound, Code::NodeInUse, Code::NodeUp]),
        )
        .post(
            "/v1/nodes/{id}/cordon",
            cordon_node::<M>,
            op("cordonNode", "A node takes no new replicas")
                .body::<SetSchedulable>()
                .gives::<Node>()
                .keyed()
                .tagged()
                .refuses(&[Code::NodeNotFound]),
        )
        .post(
            "/v1/nodes/{id}/uncordon",
            uncordon_node::<M>,
            op("uncordonNode", "A node takes replicas again")
                .body::<SetSchedulable>()
                .gives::<Node>()
                .keyed()
                .tagged()
                .refuses(&[Code::NodeNotFound]),
        )
        .post(
            "/v1/nodes/{id}/drain",
            drain_node::<M>,
            op(
                "drainNode",
                "A node takes none, and loses those that it has",
            )
            .body::<SetSchedulable>()
            .gives::<Node>()
            .keyed()
            .tagged()
            .refuses(&[Code::NodeNotFound]),
        )
}

fn routes_of_disks<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .delete(
            "/v1/disks/{id}",
            remove_disk::<M>,
            op(
                "removeDisk",
                "Forgets a disk that no store serves and that holds no replicas",
            )
            .part::<DiskId>("id")
            .done("it is forgotten")
            .keyed()
            .tagged()
            .refuses(&[Code::DiskNotFound, Code::DiskInUse, Code::DiskServed]),
        )
        .post(
            "/v1/disks/{id}/cordon",
            cordon_disk::<M>,
            op("cordonDisk", "A disk takes no new replicas")
                .part::<DiskId>("id")
                .body::<SetSchedulable>()
                .gives::<Disk>()
                .keyed()
                .tagged()
                .refuses(&[Code::DiskNotFound]),
        )
        .post(
            "/v1/disks/{id}/uncordon",
            uncordon_disk::<M>,
            op("uncordonDisk", "A disk takes replicas again")
                .part::<DiskId>("id")
                .body::<SetSchedulable>()
                .gives::<Disk>()
                .keyed()
                .tagged()
                .refuses(&[Code::DiskNotFound]),
        )
        .post(
            "/v1/disks/{id}/drain",
            drain_disk::<M>,
            op(
                "drainDisk",
                "A disk takes none, and loses those that it has",
            )
            .part::<DiskId>("id")
            .body::<SetSchedulable>()
            .gives::<Disk>()
            .keyed()
            .tagged()
            .refuses(&[Code::DiskNotFound]),
        )
        .post(
            "/v1/disks/{id}/clear",
            clear_disk::<M>,
            op(
                "clearDisk",
                "Uses a disk although its store says that it ails",
            )
            .part::<DiskId>("id")
            .body::<ClearDisk>()
            .gives::<Disk>()
            .keyed()
            .tagged()
            .refuses(&[Code::DiskNotFound]),
        )
        .post(
            "/v1/disks/{id}/label",
            label_disk::<M>,
            op("labelDisk", "Changes some labels of a disk")
                .part::<DiskId>("id")
                .body::<LabelDisk>()
                .gives::<Disk>()
                .keyed()
                .tagged()
                .refuses(&[Code::DiskNotFound]),
        )
}

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

pub(super) async fn label_disk<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(disk): PathPart<DiskId>,
    JsonBody(request): JsonBody<LabelDisk>,
) -> Answer<Json<Disk>> {
    Ok(Json(api.cluster.label_disk(disk, request).await?))
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
