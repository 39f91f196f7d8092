//! The dirty bitmaps of an export: which of its blocks were written since older snapshots.
//!
//! An export of a volume has one for each of its ready snapshots, an export of a snapshot one for
//! each that is older. Invariant: a handle keeps to the layer that a name stood for when it was
//! first asked. Once that snapshot is gone so is the bitmap; another of its name is not taken for
//! it, since it would leave out what was written before.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use ashlar_client::{BlockError, ClusterSource, SourceError};
use ashlar_nbd_server::{ChangesError, OpenError};
use ashlar_proto::Layer;
use ashlar_proto::api::{Snapshot, SnapshotState};
use ashlar_proto::message::Extent;
use ashlar_reactor::Reactor;

use crate::cluster_source::HttpClusterSource;
use crate::exported::Exported;

/// How long replicas may take to answer before it is asked whether the snapshot is still there:
/// they refuse one that is deleted as they refuse what they cannot tell for other reasons.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a bitmap's name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// The snapshot of that layer.
    Layer(Layer),
    /// A snapshot that is deleted, or newer than the export.
    Gone,
}

/// The bitmaps of one handle on an export.
pub struct Bitmaps {
    reactor: Reactor,
    source: HttpClusterSource,
    export: String,
    since: RefCell<HashMap<String, Since>>,
}

impl Bitmaps {
    /// Of a new handle.
    pub fn new(reactor: &Reactor, source: &HttpClusterSource, export: &str) -> Self {
        Self {
            reactor: reactor.clone(),
            source: source.clone(),
            export: export.to_owned(),
            since: RefCell::default(),
        }
    }

    /// The kinds of the blocks that were written since the snapshot of that name; as
    /// [`Exported::changed_since`].
    ///
    /// # Errors
    /// [`ChangesError::NoBitmap`] once the snapshot is gone.
    pub async fn changes(
        &self,
        device: &Exported,
        bitmap: &str,
        (offset, len): (u64, u64),
        extents_max: usize,
    ) -> Result<Vec<Extent>, ChangesError> {
        let layer = self.layer(device, bitmap).await?;
        let mut asked = pin!(device.changed_since(layer, offset, len, extents_max));
        loop {
            match self.reactor.timeout(PATIENCE, asked.as_mut()).await {
                Ok(Ok(extents)) => return Ok(extents),
                Ok(Err(error)) => {
                    self.check(device, bitmap, layer).await?;
                    return Err(error.into());
                }
                Err(_) => self.check(device, bitmap, layer).await?,
            }
        }
    }

    /// The layer of the snapshot of that name.
    async fn layer(&self, device: &Exported, bitmap: &str) -> Result<Layer, ChangesError> {
        let known = self.since.borrow().get(bitmap).copied();
        let since = match known {
            Some(since) => since,
            None => self.look_up(device, bitmap).await?,
        };
        // Of two that looked it up at the same time, the first to know says what it is.
        let mut all = self.since.borrow_mut();
        match *all.entry(bitmap.to_owned()).or_insert(since) {
            Since::Layer(layer) => Ok(layer),
            Since::Gone => Err(ChangesError::NoBitmap),
        }
    }

    /// What the name stands for now.
    async fn look_up(&self, device: &Exported, bitmap: &str) -> Result<Since, ChangesError> {
        let volume = volume_of(&self.export);
        match self.source.snapshot(volume, bitmap).await {
            Ok(map) => Ok(since(&map.snapshot, device)),
            Err(SourceError::NotFound) => Ok(Since::Gone),
            Err(error) => {
                let export = &self.export;
                tracing::warn!(export, bitmap, %error, "cannot look up the snapshot of a bitmap");
                Err(BlockError::Unavailable.into())
            }
        }
    }

    /// Fails if the snapshot of that layer is gone.
    async fn check(
        &self,
        device: &Exported,
        bitmap: &str,
        layer: Layer,
    ) -> Result<(), ChangesError> {
        let is_gone = match self.look_up(device, bitmap).await {
            Ok(since) => since != Since::Layer(layer),
            // Who cannot be asked has not said so.
            Err(_) => false,
        };
        if !is_gone {
            return Ok(());
        }
        let before = self
            .since
            .borrow_mut()
            .insert(bitmap.to_owned(), Since::Gone);
        if before != Some(Since::Gone) {
            let export = &self.export;
            tracing::warn!(
                export,
                bitmap,
                "the snapshot was deleted: what changed since can be told no more, clients that ask \
                 get EINVAL and have to copy all of the export"
            );
        }
        Err(ChangesError::NoBitmap)
    }
}

/// What a snapshot's name stands for, on an export of its volume.
fn since(snapshot: &Snapshot, device: &Exported) -> Since {
    let is_older = snapshot.volume == device.id() && snapshot.layer < device.layer();
    if snapshot.state == SnapshotState::Ready && is_older {
        Since::Layer(snapshot.layer)
    } else {
        Since::Gone
    }
}

/// The volume of an export, `VOLUME` or `VOLUME@SNAPSHOT`.
pub fn volume_of(export: &str) -> &str {
    export.split(['@', ':']).next().unwrap_or(export)
}

/// The names of the bitmaps of an export, of all snapshots of its volume, oldest first.
///
/// # Errors
/// [`OpenError::Unknown`]: the export is of none of them; [`OpenError::Unavailable`]: of one that is
/// not ready.
pub fn names(export: &str, snapshots: Vec<Snapshot>) -> Result<Vec<String>, OpenError> {
    let is_ready = |snapshot: &Snapshot| snapshot.state == SnapshotState::Ready;
    let below = match export.split_once('@') {
        None => None,
        Some((_, name)) => {
            let own = snapshots.iter().find(|snapshot| snapshot.name == name);
            let own = own.ok_or(OpenError::Unknown)?;
            if !is_ready(own) {
                return Err(OpenError::Unavailable);
            }
            Some(own.layer)
        }
    };
    let mut older: Vec<Snapshot> = snapshots.into_iter().filter(is_ready).collect();
    older.retain(|snapshot| below.is_none_or(|layer| snapshot.layer < layer));
    older.sort_by_key(|snapshot| snapshot.layer);
    Ok(older.into_iter().map(|snapshot| snapshot.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::{ByteCount, VolumeId};

    fn snapshot(name: &str, layer: u32, state: SnapshotState) -> Snapshot {
        Snapshot {
            volume: VolumeId::default(),
            volume_name: "data".to_owned(),
            name: name.to_owned(),
            layer: Layer::new(layer),
            size_bytes: ByteCount::new(1 << 20),
            created_ms: 0,
            state,
            origin: None,
            clones: 0,
            deleted: false,
            group: None,
        }
    }

    #[test]
    fn bitmaps_are_the_older_snapshots_that_are_ready() {
        let all = [
            snapshot("c", 4, SnapshotState::Ready),
            snapshot("a", 1, SnapshotState::Ready),
            snapshot("b", 2, SnapshotState::Ready),
            snapshot("d", 5, SnapshotState::Sealing),
        ];
        let of = |export| names(export, all.to_vec());
        assert_eq!(of("data").unwrap(), ["a", "b", "c"]);
        assert_eq!(of("data@c").unwrap(), ["a", "b"]);
        assert_eq!(of("data@b").unwrap(), ["a"]);
        assert!(of("data@a").unwrap().is_empty());
        assert!(matches!(of("data@d"), Err(OpenError::Unavailable)));
        assert!(matches!(of("data@e"), Err(OpenError::Unknown)));
        assert!(names("data", Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn an_export_names_its_volume() {
        assert_eq!(volume_of("data"), "data");
        assert_eq!(volume_of("data@monday"), "data");
    }
}
