//! DeleteVolume: done when nothing of it is left; what is not there is deleted already.

use std::time::Duration;

use ashlar_api_client::ApiError;
use ashlar_proto::api::{FlattenVolume, Volume};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::ControllerService;
use crate::handle::VolumeHandle;
use crate::protocol::{DeleteVolumeRequest, DeleteVolumeResponse};
use crate::refusal;

/// How long a front end may take to let go of a volume that its last client has left.
const LET_GO_MAX: Duration = Duration::from_secs(5);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(100);

impl ControllerService {
    /// Deletes the volume. One that copies were made of stays until these are independent of it, which
    /// begins here.
    pub(super) async fn delete_volume(
        &self,
        request: DeleteVolumeRequest,
    ) -> Result<DeleteVolumeResponse, Status> {
        let text = refusal::required("volume_id", &request.volume_id)?;
        let Some(handle) = VolumeHandle::parse(text) else {
            return Ok(DeleteVolumeResponse {});
        };
        let _hold = self.begin(&handle.name, "DeleteVolume")?;
        let Some(volume) = self.find(&handle).await? else {
            return Ok(DeleteVolumeResponse {});
        };
        match self.delete_when_let_go(&volume.name).await {
            Ok(()) => {}
            Err(error) if error.http_status() == Some(404) => {}
            Err(error)
                if error
                    .problem()
                    .is_some_and(|one| one.code == "snapshot-has-clones") =>
            {
                let copies = self.free_copies(&volume).await?;
                return Err(Status::failed_precondition(format!(
                    "{error}{}",
                    if copies > 0 {
                        "; copies are being made independent: try again"
                    } else {
                        ""
                    }
                )));
            }
            Err(error) => return Err(refusal::of_api(error)),
        }
        if self.find(&handle).await?.is_some() {
            return Err(Status::aborted(format!(
                "volume `{}` is still being deleted: try again",
                volume.name
            )));
        }
        Ok(DeleteVolumeResponse {})
    }

    /// Deletes a volume that nobody has attached, or will not have in a moment.
    async fn delete_when_let_go(&self, name: &str) -> Result<(), ApiError> {
        let end = Instant::now() + LET_GO_MAX;
        loop {
            match self.api.delete_volume(name, false).await {
                Err(error)
                    if error
                        .problem()
                        .is_some_and(|one| one.code == "volume-attached")
                        && Instant::now() < end =>
                {
                    sleep(TRY_EVERY).await;
                }
                answer => return answer,
            }
        }
    }

    /// Has the copies of a volume copied to their ends, unless that is under way. Those of snapshots that
    /// somebody still sees are left: who made the snapshots deletes them first.
    async fn free_copies(&self, volume: &Volume) -> Result<usize, Status> {
        if volume.snapshots > 0 {
            return Ok(0);
        }
        let volumes = self.api.volumes().await.map_err(refusal::of_api)?.items;
        let of_this = |one: &&Volume| {
            one.origin
                .as_ref()
                .is_some_and(|from| from.volume == volume.id)
        };
        let copies: Vec<&Volume> = volumes.iter().filter(of_this).collect();
        for copy in copies.iter().filter(|copy| copy.flattening.is_none()) {
            let request = FlattenVolume { stop: false };
            let asked = self.api.flatten(&copy.name, &request, Duration::ZERO).await;
            asked.map_err(refusal::of_api)?;
        }
        Ok(copies.len())
    }
}
