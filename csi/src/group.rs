//! The group controller service: snapshots of several volumes, all of one moment.
//!
//! A group of one volume is a snapshot of it; its handle has the id 0.

use std::collections::BTreeSet;
use std::sync::Arc;

use ashlar_proto::api::{CreateSnapshot, CreateSnapshotGroup, Snapshot, SnapshotState};
use ashlar_proto::limits::GROUP_VOLUMES_MAX;
use ashlar_proto::{GroupId, VolumeId};
use tonic::{Request, Response, Status};

use crate::controller::{ControllerService, checked_name, snapshot_to_protocol, time};
use crate::handle::{GroupHandle, SnapshotHandle};
use crate::protocol as csi;
use crate::protocol::group_controller_server::GroupController;
use crate::protocol::group_controller_service_capability::rpc::Type as Ability;
use crate::protocol::group_controller_service_capability::{Rpc, Type};
use crate::refusal;

/// The service, over the same state as the controller's.
#[derive(Debug)]
pub(crate) struct GroupService {
    /// What the controller shares.
    pub controller: Arc<ControllerService>,
}

impl GroupService {
    /// The snapshots that are left of a group.
    async fn members(&self, group: &GroupHandle) -> Result<Vec<Snapshot>, Status> {
        let mut snapshots = self.controller.all_snapshots().await?;
        let id = (group.id != GroupId::default()).then_some(group.id);
        snapshots.retain(|one| one.group == id && one.name == group.name);
        Ok(snapshots)
    }

    /// Makes the group, or finds it made of the same volumes.
    async fn make(
        &self,
        name: String,
        volumes: &[(VolumeId, String)],
    ) -> Result<Vec<Snapshot>, Status> {
        let named = self.controller.all_snapshots().await?;
        let named: Vec<Snapshot> = named.into_iter().filter(|one| one.name == name).collect();
        if !named.is_empty() {
            let theirs: BTreeSet<VolumeId> = named.iter().map(|one| one.volume).collect();
            let asked: BTreeSet<VolumeId> = volumes.iter().map(|(id, _)| *id).collect();
            let of_one = named.iter().all(|one| one.group == named[0].group);
            if theirs == asked && of_one && (asked.len() == 1 || named[0].group.is_some()) {
                return Ok(named);
            }
            return Err(Status::already_exists(format!(
                "there are snapshots `{name}` of other volumes: choose another name, or delete them first"
            )));
        }
        let names: Vec<String> = volumes.iter().map(|(_, name)| name.clone()).collect();
        if let [volume] = names.as_slice() {
            let made = self
                .controller
                .api()
                .create_snapshot(volume, &CreateSnapshot { name })
                .await;
            return Ok(vec![made.map_err(refusal::of_making)?]);
        }
        let request = CreateSnapshotGroup {
            name,
            volumes: names,
        };
        let made = self.controller.api().create_snapshot_group(&request).await;
        Ok(made.map_err(refusal::of_making)?.snapshots)
    }
}

#[tonic::async_trait]
impl GroupController for GroupService {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<csi::GroupControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::GroupControllerGetCapabilitiesResponse>, Status> {
        let r#type = Ability::CreateDeleteGetVolumeGroupSnapshot.into();
        let rpc = Some(Type::Rpc(Rpc { r#type }));
        Ok(Response::new(csi::GroupControllerGetCapabilitiesResponse {
            capabilities: vec![csi::GroupControllerServiceCapability { r#type: rpc }],
        }))
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<csi::CreateVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::CreateVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        let name = checked_name(&request.name)?;
        let ids: BTreeSet<&String> = request.source_volume_ids.iter().collect();
        if ids.is_empty() {
            return Err(refusal::missing("source_volume_ids"));
        }
        if ids.len() > GROUP_VOLUMES_MAX {
            return Err(Status::resource_exhausted(format!(
                "a group of {} volumes is asked for, and {GROUP_VOLUMES_MAX} are possible",
                ids.len()
            )));
        }
        let _hold = self
            .controller
            .begin_snapshot(&name, "CreateVolumeGroupSnapshot")?;
        let mut volumes = Vec::new();
        for id in ids {
            let volume = self.controller.require(id).await?;
            volumes.push((volume.id, volume.name));
        }
        let snapshots = self.make(name.clone(), &volumes).await?;
        let id = snapshots
            .first()
            .and_then(|one| one.group)
            .unwrap_or_default();
        let group = GroupHandle { name, id };
        Ok(Response::new(csi::CreateVolumeGroupSnapshotResponse {
            group_snapshot: Some(to_protocol(&group, &snapshots)),
        }))
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<csi::DeleteVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::DeleteVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        let text = refusal::required("group_snapshot_id", &request.group_snapshot_id)?;
        if let Some(group) = GroupHandle::parse(text) {
            let _hold = self
                .controller
                .begin_snapshot(&group.name, "DeleteVolumeGroupSnapshot")?;
            for snapshot in self.members(&group).await? {
                let handle = SnapshotHandle::of(&snapshot);
                self.controller.remove_snapshot(&handle).await?;
            }
        }
        Ok(Response::new(csi::DeleteVolumeGroupSnapshotResponse {}))
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::GetVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        let text = refusal::required("group_snapshot_id", &request.group_snapshot_id)?;
        let absent = || Status::not_found(format!("there is no group of snapshots `{text}`"));
        let group = GroupHandle::parse(text).ok_or_else(absent)?;
        let snapshots = self.members(&group).await?;
        if snapshots.is_empty() {
            return Err(absent());
        }
        Ok(Response::new(csi::GetVolumeGroupSnapshotResponse {
            group_snapshot: Some(to_protocol(&group, &snapshots)),
        }))
    }
}

fn to_protocol(group: &GroupHandle, snapshots: &[Snapshot]) -> csi::VolumeGroupSnapshot {
    let made = snapshots.iter().map(|one| one.created_ms).min();
    let snapshots_of_group = snapshots.iter().map(|one| csi::Snapshot {
        group_snapshot_id: group.to_string(),
        ..snapshot_to_protocol(one)
    });
    csi::VolumeGroupSnapshot {
        group_snapshot_id: group.to_string(),
        snapshots: snapshots_of_group.collect(),
        creation_time: made.map(time),
        ready_to_use: snapshots
            .iter()
            .all(|one| one.state == SnapshotState::Ready),
    }
}
