//! Snapshots: their names are the CO's, unique over all volumes, though the cluster asks for less.

use std::time::Duration;

use ashlar_proto::api::{CreateSnapshot, Snapshot, SnapshotState};
use prost_types::Timestamp;
use tonic::Status;

use super::ControllerService;
use super::create::checked_name;
use crate::handle::{GroupHandle, SnapshotHandle, VolumeHandle};
use crate::pages::page;
use crate::protocol as csi;
use crate::refusal;
use crate::sizes::to_wire;

impl ControllerService {
    /// Keeps the volume as it is, or finds that kept under the name. It may not be ready yet: the caller
    /// asks again.
    pub(super) async fn create_snapshot(
        &self,
        request: csi::CreateSnapshotRequest,
    ) -> Result<csi::CreateSnapshotResponse, Status> {
        let name = checked_name(&request.name)?;
        refusal::required("source_volume_id", &request.source_volume_id)?;
        if let Some(key) = request
            .parameters
            .keys()
            .find(|key| !key.starts_with("csi.storage.k8s.io/"))
        {
            return Err(Status::invalid_argument(format!(
                "snapshots have no parameter `{key}`"
            )));
        }
        let _hold = self.begin_snapshot(&name, "CreateSnapshot")?;
        let volume = self.require(&request.source_volume_id).await?;
        let named = self.all_snapshots().await?;
        let mut named = named.into_iter().filter(|one| one.name == name);
        let found = match (named.next(), named.next()) {
            (None, _) => None,
            (Some(one), None) if one.volume == volume.id => Some(one),
            (Some(other), _) => {
                return Err(Status::already_exists(format!(
                    "there is a snapshot `{name}` of volume `{}`: choose another name, or delete it first",
                    other.volume_name
                )));
            }
        };
        let snapshot = match found {
            Some(snapshot) => snapshot,
            None => {
                let made = self
                    .api
                    .create_snapshot(&volume.name, &CreateSnapshot { name })
                    .await;
                made.map_err(refusal::of_making)?
            }
        };
        Ok(csi::CreateSnapshotResponse {
            snapshot: Some(to_protocol(&snapshot)),
        })
    }

    /// Deletes a snapshot; one that has clones goes out of sight until they are gone.
    pub(super) async fn delete_snapshot(
        &self,
        request: csi::DeleteSnapshotRequest,
    ) -> Result<csi::DeleteSnapshotResponse, Status> {
        let text = refusal::required("snapshot_id", &request.snapshot_id)?;
        if let Some(handle) = SnapshotHandle::parse(text) {
            let _hold = self.begin_snapshot(text, "DeleteSnapshot")?;
            self.remove_snapshot(&handle).await?;
        }
        Ok(csi::DeleteSnapshotResponse {})
    }

    /// Deletes a snapshot, if it is there.
    pub(crate) async fn remove_snapshot(&self, handle: &SnapshotHandle) -> Result<(), Status> {
        let Some(snapshot) = self.find_snapshot(handle).await? else {
            return Ok(());
        };
        let (volume, name) = (&snapshot.volume_name, &snapshot.name);
        match self
            .api
            .delete_snapshot(volume, name, true, Duration::ZERO)
            .await
        {
            Err(error) if error.http_status() != Some(404) => Err(refusal::of_api(error)),
            _ => Ok(()),
        }
    }

    /// The snapshots by volume and age, all or some.
    pub(super) async fn list_snapshots(
        &self,
        request: csi::ListSnapshotsRequest,
    ) -> Result<csi::ListSnapshotsResponse, Status> {
        let mut snapshots = self.all_snapshots().await?;
        if !request.source_volume_id.is_empty() {
            let volume = VolumeHandle::parse(&request.source_volume_id);
            snapshots.retain(|one| {
                volume
                    .as_ref()
                    .is_some_and(|volume| volume.id == one.volume)
            });
        }
        if !request.snapshot_id.is_empty() {
            let wanted = SnapshotHandle::parse(&request.snapshot_id);
            snapshots.retain(|one| wanted.as_ref() == Some(&SnapshotHandle::of(one)));
        }
        let key = |one: &Snapshot| (one.volume.get(), one.layer.get());
        let page = page(snapshots, request.max_entries, &request.starting_token, key)?;
        let entries = page
            .items
            .iter()
            .map(|snapshot| csi::list_snapshots_response::Entry {
                snapshot: Some(to_protocol(snapshot)),
            });
        Ok(csi::ListSnapshotsResponse {
            entries: entries.collect(),
            next_token: page.next,
        })
    }

    /// One snapshot.
    pub(super) async fn get_snapshot(
        &self,
        request: csi::GetSnapshotRequest,
    ) -> Result<csi::GetSnapshotResponse, Status> {
        let text = refusal::required("snapshot_id", &request.snapshot_id)?;
        let absent = || refusal::no_snapshot(text);
        let handle = SnapshotHandle::parse(text).ok_or_else(absent)?;
        let snapshot = self.find_snapshot(&handle).await?.ok_or_else(absent)?;
        Ok(csi::GetSnapshotResponse {
            snapshot: Some(to_protocol(&snapshot)),
        })
    }
}

/// A snapshot as the protocol has it.
pub(crate) fn to_protocol(snapshot: &Snapshot) -> csi::Snapshot {
    let handle = SnapshotHandle::of(snapshot);
    let group = snapshot.group.map(|id| GroupHandle {
        name: snapshot.name.clone(),
        id,
    });
    csi::Snapshot {
        size_bytes: to_wire(snapshot.size_bytes),
        snapshot_id: handle.to_string(),
        source_volume_id: handle.volume.to_string(),
        creation_time: Some(time(snapshot.created_ms)),
        ready_to_use: snapshot.state == SnapshotState::Ready,
        group_snapshot_id: group.map(|group| group.to_string()).unwrap_or_default(),
        accessible_topology: Vec::new(),
    }
}

/// Milliseconds since 1970 as the protocol has them.
pub(crate) fn time(ms: u64) -> Timestamp {
    let nanos = (ms % 1000).saturating_mul(1_000_000);
    Timestamp {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos).unwrap_or(0),
    }
}
