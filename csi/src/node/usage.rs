//! How full a published volume is, and its growth on this host.

use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use tonic::Status;

use super::{NodeService, volume_of};
use crate::file_system;
use crate::mount_table::{self, Mount};
use crate::protocol::volume_usage::Unit;
use crate::protocol::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, VolumeUsage,
};
use crate::refusal;
use crate::sizes::SizeRange;

impl NodeService {
    /// Bytes and inodes of a file system, the bytes of a block volume.
    pub(super) async fn node_get_volume_stats(
        &self,
        request: NodeGetVolumeStatsRequest,
    ) -> Result<NodeGetVolumeStatsResponse, Status> {
        refusal::required("volume_id", &request.volume_id)?;
        let path = Path::new(refusal::required("volume_path", &request.volume_path)?);
        let (device, mount) = self.shown(&request.volume_id, path).await?;
        let usage = if mount_table::device_number(path).is_some() {
            vec![VolumeUsage {
                total: to_wire(device_bytes(&device)?),
                unit: Unit::Bytes.into(),
                ..VolumeUsage::default()
            }]
        } else {
            let of = mount.point.clone();
            let looked = tokio::task::spawn_blocking(move || file_system_usage(&of)).await;
            looked.map_err(|error| Status::internal(error.to_string()))??
        };
        Ok(NodeGetVolumeStatsResponse { usage })
    }

    /// Makes device and file system as large as the volume.
    pub(super) async fn node_expand_volume(
        &self,
        request: NodeExpandVolumeRequest,
    ) -> Result<NodeExpandVolumeResponse, Status> {
        refusal::required("volume_id", &request.volume_id)?;
        let path = Path::new(refusal::required("volume_path", &request.volume_path)?);
        let sizes = SizeRange::of(request.capacity_range.as_ref())?;
        let (device, mount) = self.shown(&request.volume_id, path).await?;
        let volume = volume_of(&request.volume_id)?;
        let _hold = self.begin(&volume, "NodeExpandVolume")?;
        self.attacher.refresh(&volume).await?;
        let bytes = device_bytes(&device)?;
        if !sizes.holds(ashlar_proto::ByteCount::new(bytes)) {
            return Err(Status::failed_precondition(format!(
                "{} has {bytes} bytes, not as many as are asked for: this attacher cannot change the size \
                 of a device in use; stage the volume again",
                device.display()
            )));
        }
        if mount_table::device_number(path).is_none() && !mount.read_only {
            file_system::grow(&device, &mount).await?;
        }
        Ok(NodeExpandVolumeResponse {
            capacity_bytes: to_wire(bytes),
        })
    }

    /// The device of a volume and how it shows at a path.
    async fn shown(&self, volume_id: &str, path: &Path) -> Result<(PathBuf, Mount), Status> {
        let volume = volume_of(volume_id)?;
        let device = self.attacher.find(&volume).await?;
        let device = device.ok_or_else(|| refusal::no_volume(volume_id))?;
        let shown = mount_table::of_device(&device)?.into_iter();
        let mount = shown.rev().find(|mount| mount.point == path);
        let mount = mount.ok_or_else(|| {
            Status::not_found(format!("volume `{volume}` is not at {}", path.display()))
        })?;
        Ok((device, mount))
    }
}

fn device_bytes(device: &Path) -> Result<u64, Status> {
    let size = std::fs::File::open(device).and_then(|mut file| file.seek(SeekFrom::End(0)));
    size.map_err(|error| Status::internal(format!("{}: {error}", device.display())))
}

fn file_system_usage(point: &Path) -> Result<Vec<VolumeUsage>, Status> {
    let found = statvfs(point)
        .map_err(|error| Status::internal(format!("{}: {error}", point.display())))?;
    let unit = found.fragment_size();
    let usage = |total: u64, free: u64, available: u64, factor: u64, unit: Unit| VolumeUsage {
        available: to_wire(available.saturating_mul(factor)),
        total: to_wire(total.saturating_mul(factor)),
        used: to_wire(total.saturating_sub(free).saturating_mul(factor)),
        unit: unit.into(),
    };
    let (blocks, files) = (found.blocks(), found.files());
    Ok(vec![
        usage(
            blocks,
            found.blocks_free(),
            found.blocks_available(),
            unit,
            Unit::Bytes,
        ),
        usage(
            files,
            found.files_free(),
            found.files_available(),
            1,
            Unit::Inodes,
        ),
    ])
}

fn to_wire(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
