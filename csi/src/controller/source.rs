//! Volumes that begin as a snapshot, or as another volume.
//!
//! A copy of a volume is a clone of a snapshot that is made for it and deleted at once: the snapshot's
//! name is derived from the copy's, so that a call that is repeated finds what the first one left:
//!
//! 1. snapshot of the source   2. clone, which is the volume   3. deletion, in effect when the clone goes

use std::time::Duration;

use ashlar_proto::api::{CloneSnapshot, CreateSnapshot, Snapshot, SnapshotState, Volume};
use tonic::Status;

use super::ControllerService;
use crate::handle::SnapshotHandle;
use crate::names;
use crate::parameters::Parameters;
use crate::protocol::VolumeContentSource;
use crate::protocol::volume_content_source::Type;
use crate::refusal;
use crate::sizes::SizeRange;

/// What a volume begins as.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives for the length of a call, none is kept"
)]
pub(super) enum Source {
    /// A snapshot.
    Snapshot(Snapshot),
    /// Another volume, by the snapshot of it with that name.
    Volume(Volume, String),
}

impl Source {
    /// Whether a volume that exists began so, as far as its row tells: one that was made independent of
    /// its origin since has none.
    pub fn is_of(source: Option<&Self>, volume: &Volume) -> bool {
        match (source, &volume.origin) {
            (None, None) => true,
            (Some(Self::Snapshot(snapshot)), Some(origin)) => {
                origin.volume == snapshot.volume && origin.layer == snapshot.layer
            }
            (Some(Self::Volume(source, _)), Some(origin)) => origin.volume == source.id,
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

impl ControllerService {
    /// The source that is asked for, which must be there.
    pub(super) async fn source(
        &self,
        target: &str,
        asked: Option<&VolumeContentSource>,
    ) -> Result<Option<Source>, Status> {
        let Some(asked) = asked else {
            return Ok(None);
        };
        let asked = asked.r#type.as_ref();
        match asked.ok_or_else(|| refusal::missing("volume_content_source.type"))? {
            Type::Snapshot(asked) => {
                let text = refusal::required("snapshot_id", &asked.snapshot_id)?;
                let absent = || refusal::no_snapshot(text);
                let handle = SnapshotHandle::parse(text).ok_or_else(absent)?;
                let snapshot = self.find_snapshot(&handle).await?.ok_or_else(absent)?;
                Ok(Some(Source::Snapshot(snapshot)))
            }
            Type::Volume(asked) => {
                let volume = self.require(&asked.volume_id).await?;
                Ok(Some(Source::Volume(volume, names::of_copy(target))))
            }
        }
    }

    /// Makes the volume from its source.
    pub(super) async fn clone_from(
        &self,
        name: &str,
        sizes: SizeRange,
        parameters: &Parameters,
        source: &Source,
    ) -> Result<Volume, Status> {
        let snapshot = match source {
            Source::Snapshot(snapshot) => snapshot.clone(),
            Source::Volume(volume, copy) => self.copy_snapshot(volume, copy).await?,
        };
        if snapshot.state != SnapshotState::Ready {
            return Err(Status::unavailable(format!(
                "snapshot `{}@{}` is not ready yet: try again",
                snapshot.volume_name, snapshot.name
            )));
        }
        let request = CloneSnapshot {
            name: name.to_owned(),
            size_bytes: Some(sizes.choose(Some(snapshot.size_bytes))?),
            replicas: parameters.replicas,
            ack: parameters.ack,
        };
        let cloned = self
            .api
            .clone_snapshot(&snapshot.volume_name, &snapshot.name, &request);
        cloned.await.map_err(refusal::of_making)
    }

    /// The snapshot that a copy is made from, new or left by an earlier call.
    async fn copy_snapshot(&self, volume: &Volume, copy: &str) -> Result<Snapshot, Status> {
        let request = CreateSnapshot {
            name: copy.to_owned(),
        };
        match self.api.create_snapshot(&volume.name, &request).await {
            Err(error)
                if error
                    .problem()
                    .is_some_and(|one| one.code == "snapshot-exists") =>
            {
                let found = self.api.snapshot(&volume.name, copy).await;
                found.map_err(refusal::of_api)
            }
            made => made.map_err(refusal::of_api),
        }
    }

    /// Takes the snapshot of a copy out of sight, once the copy is there.
    pub(super) async fn drop_copy_snapshot(&self, source: &Source) -> Result<(), Status> {
        let Source::Volume(volume, copy) = source else {
            return Ok(());
        };
        let deleted = self
            .api
            .delete_snapshot(&volume.name, copy, true, Duration::ZERO);
        match deleted.await {
            Err(error) if error.http_status() != Some(404) => Err(refusal::of_api(error)),
            _ => Ok(()),
        }
    }
}
