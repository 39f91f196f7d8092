//! NodeStageVolume and its end: the device, and its file system at the staging path.

use std::path::Path;

use tonic::Status;

use super::formatting::{self, Mark};
use super::{NodeService, mounts, path_of, volume_of};
use crate::attacher::Export;
use crate::capability::{Capability, Shape};
use crate::parameters::{FileSystem, attach_of_context, fs_of_context};
use crate::protocol::{
    NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnstageVolumeRequest,
    NodeUnstageVolumeResponse,
};
use crate::publish_context::PublishContext;
use crate::{file_system, mount_table, refusal};

impl NodeService {
    /// Attaches the volume and, unless it is wanted as a block device, mounts it.
    pub(super) async fn node_stage_volume(
        &self,
        request: NodeStageVolumeRequest,
    ) -> Result<NodeStageVolumeResponse, Status> {
        refusal::required("volume_id", &request.volume_id)?;
        let staging = path_of("staging_target_path", &request.staging_target_path)?;
        let capability = Capability::of(request.volume_capability.as_ref())?;
        let volume = volume_of(&request.volume_id)?;
        let fs_of_class = fs_of_context(&request.volume_context)?;
        let attach = attach_of_context(&request.volume_context)?;
        let _hold = self.begin(&volume, "NodeStageVolume")?;
        let published = PublishContext::of(&request.publish_context)?;
        let export = Export {
            volume,
            publication: published.publication,
            read_only: capability.read_only || published.read_only,
            attach,
        };
        let device = self.attacher.attach(&export).await?;
        if let Shape::Mount { fs, flags } = capability.shape {
            let wanted = fs.or(fs_of_class);
            let mark = Mark::of(&self.state, export.volume.id, export.publication);
            stage_mount(&device, staging, wanted, &flags, export.read_only, &mark).await?;
        }
        Ok(NodeStageVolumeResponse {})
    }

    /// Unmounts and detaches the volume.
    pub(super) async fn node_unstage_volume(
        &self,
        request: NodeUnstageVolumeRequest,
    ) -> Result<NodeUnstageVolumeResponse, Status> {
        refusal::required("volume_id", &request.volume_id)?;
        let staging = path_of("staging_target_path", &request.staging_target_path)?;
        let volume = volume_of(&request.volume_id)?;
        let _hold = self.begin(&volume, "NodeUnstageVolume")?;
        mounts::unmount(staging).await?;
        formatting::clear(&self.state, volume.id)?;
        self.attacher.detach(&volume).await?;
        Ok(NodeUnstageVolumeResponse {})
    }
}

async fn stage_mount(
    device: &Path,
    staging: &Path,
    wanted: Option<FileSystem>,
    flags: &[String],
    read_only: bool,
    mark: &Mark,
) -> Result<(), Status> {
    mounts::make_directory(staging)?;
    match mount_table::at(staging)? {
        Some(mount) if mount_table::is_of(&mount, device) => {
            if mount.read_only != read_only {
                return Err(Status::already_exists(format!(
                    "the volume is staged at {} with other rights: unstage it first",
                    staging.display()
                )));
            }
            return Ok(());
        }
        // What a device that has died since showed there.
        Some(mount) if mount.fs.parse::<FileSystem>().is_ok() && !device_lives(&mount.device) => {
            mounts::unmount(staging).await?;
        }
        Some(mount) => {
            return Err(Status::failed_precondition(format!(
                "something else (`{}`) is mounted at {}",
                mount.fs,
                staging.display()
            )));
        }
        None => {}
    }
    let fs = find_or_make(device, wanted, read_only, mark).await?;
    let mut options: Vec<String> = flags.to_vec();
    options.extend(
        file_system::mount_options(fs)
            .iter()
            .map(|one| (*one).to_owned()),
    );
    if read_only {
        options.push("ro".to_owned());
    }
    mounts::mount(device, staging, &fs.to_string(), &options).await?;
    // A volume that was made from a smaller one holds a smaller file system.
    match mount_table::at(staging)? {
        Some(mount) if !read_only => file_system::grow(device, &mount).await,
        _ => Ok(()),
    }
}

/// The file system of the device: there already, or made now where it is empty, or where the making of
/// one was begun here and cut short.
async fn find_or_make(
    device: &Path,
    wanted: Option<FileSystem>,
    read_only: bool,
    mark: &Mark,
) -> Result<FileSystem, Status> {
    if (!mark.is_set()? || read_only)
        && let Some(fs) = file_system::find(device, wanted, read_only).await?
    {
        return Ok(fs);
    }
    let fs = wanted.unwrap_or_default();
    mark.set()?;
    file_system::format(device, fs).await?;
    mark.clear()?;
    Ok(fs)
}

/// Whether a block device of that number is there and has a size.
fn device_lives(number: &str) -> bool {
    let size = std::fs::read_to_string(format!("/sys/dev/block/{number}/size"));
    size.is_ok_and(|size| size.trim() != "0")
}
