//! NodePublishVolume and its end: where workloads find the volume.

use std::fs::OpenOptions;
use std::path::Path;

use tonic::Status;

use super::{NodeService, mounts, path_of, volume_of};
use crate::capability::{Capability, Shape};
use crate::mount_table;
use crate::protocol::{
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse,
};
use crate::refusal;

impl NodeService {
    /// Shows the staged volume at the target path.
    pub(super) async fn node_publish_volume(
        &self,
        request: NodePublishVolumeRequest,
    ) -> Result<NodePublishVolumeResponse, Status> {
        refusal::required("volume_id", &request.volume_id)?;
        let target = path_of("target_path", &request.target_path)?;
        let capability = Capability::of(request.volume_capability.as_ref())?;
        if request.staging_target_path.is_empty() {
            return Err(Status::failed_precondition(
                "`staging_target_path` is missing: stage it first",
            ));
        }
        let staging = path_of("staging_target_path", &request.staging_target_path)?;
        let volume = volume_of(&request.volume_id)?;
        let _hold = self.begin(&volume, "NodePublishVolume")?;
        let device = self.attacher.find(&volume).await?;
        let device = device.ok_or_else(|| {
            Status::failed_precondition(format!("volume `{volume}` is not staged here"))
        })?;
        let read_only = request.readonly || capability.read_only;
        if capability.single_place {
            refuse_other_places(&device, &[staging, target])?;
        }
        if let Some(mount) = mount_table::at(target)? {
            return check_same(&device, target, mount.read_only, read_only);
        }
        match capability.shape {
            Shape::Block => publish_block(&device, target, read_only).await?,
            Shape::Mount { .. } => {
                let staged = mount_table::at(staging)?;
                if !staged.is_some_and(|mount| mount_table::is_of(&mount, &device)) {
                    return Err(Status::failed_precondition(format!(
                        "volume `{volume}` is not mounted at {}: stage it first",
                        staging.display()
                    )));
                }
                mounts::make_directory(target)?;
                mounts::bind(staging, target, read_only).await?;
            }
        }
        Ok(NodePublishVolumeResponse {})
    }

    /// Takes the volume from the target path, and the path away.
    pub(super) async fn node_unpublish_volume(
        &self,
        request: NodeUnpublishVolumeRequest,
    ) -> Result<NodeUnpublishVolumeResponse, Status> {
        refusal::required("volume_id", &request.volume_id)?;
        let target = path_of("target_path", &request.target_path)?;
        let volume = volume_of(&request.volume_id)?;
        let _hold = self.begin(&volume, "NodeUnpublishVolume")?;
        mounts::unmount(target).await?;
        let removed = match std::fs::symlink_metadata(target) {
            Ok(found) if found.is_dir() => std::fs::remove_dir(target),
            // What a device was shown over is empty; anything else is not ours.
            Ok(found) if found.is_file() && found.len() == 0 => std::fs::remove_file(target),
            Ok(_) => Err(std::io::Error::other("it is no empty file")),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Status::internal(
                format!("{} cannot be removed: {error}", target.display()),
            )),
            _ => Ok(NodeUnpublishVolumeResponse {}),
        }
    }
}

/// Shows a device as a file. Read-only is up to the device: a mount does not keep writes from it.
async fn publish_block(device: &Path, target: &Path, read_only: bool) -> Result<(), Status> {
    if read_only && !mount_table::is_read_only(device) {
        return Err(Status::failed_precondition(
            "the volume is attached for writing: have the controller publish it read-only",
        ));
    }
    if let Some(parent) = target.parent() {
        mounts::make_directory(parent)?;
    }
    let made = OpenOptions::new().create(true).append(true).open(target);
    made.map_err(|error| {
        Status::internal(format!("{} cannot be made: {error}", target.display()))
    })?;
    mounts::bind(device, target, false).await
}

/// What is at the target is what is asked for.
fn check_same(
    device: &Path,
    target: &Path,
    is_read_only: bool,
    read_only: bool,
) -> Result<NodePublishVolumeResponse, Status> {
    let shown = mount_table::of_device(device)?;
    if !shown.iter().any(|mount| mount.point == target) {
        return Err(Status::failed_precondition(format!(
            "something else is mounted at {}",
            target.display()
        )));
    }
    // A block volume's file can be written as far as its device can.
    let is_block = mount_table::device_number(target).is_some();
    if !is_block && is_read_only != read_only {
        return Err(Status::already_exists(format!(
            "the volume is published at {} with other rights: unpublish it first",
            target.display()
        )));
    }
    Ok(NodePublishVolumeResponse {})
}

/// A volume of one writer shows at one place.
fn refuse_other_places(device: &Path, allowed: &[&Path]) -> Result<(), Status> {
    let shown = mount_table::of_device(device)?;
    match shown
        .iter()
        .find(|mount| !allowed.contains(&mount.point.as_path()))
    {
        Some(other) => Err(Status::failed_precondition(format!(
            "the volume is of a single writer and published at {}",
            other.point.display()
        ))),
        None => Ok(()),
    }
}
