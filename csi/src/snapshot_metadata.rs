//! The snapshot metadata service: which bytes of a snapshot hold data, and which were written since an older
//! one of its volume. Backups read these alone.
//!
//! ```text
//! conductor ── which snapshots ──▶ service ── question ──▶ BlockMaps ── the stores
//!                            CO ◀── messages ── batches ◀── ranges, in order
//! ```

mod batches;

use std::fmt;
use std::sync::Arc;

use ashlar_proto::Layer;
use ashlar_proto::api::{Snapshot, SnapshotState};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use self::batches::Batches;
use crate::controller::ControllerService;
use crate::handle::{SnapshotHandle, VolumeHandle};
use crate::protocol as csi;
use crate::protocol::snapshot_metadata_server::SnapshotMetadata;
use crate::refusal;
use crate::sizes::to_wire;

/// Ranges in a message of a CO that does not say how many: some 20 KiB.
const RANGES_DEFAULT: usize = 1024;
/// Messages that wait for the CO to take them.
const QUEUED_MAX: usize = 4;
/// Snapshots that are read at a time; more calls wait.
const READS_MAX: usize = 16;

/// Bytes of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Where they begin.
    pub offset: u64,
    /// How many there are.
    pub len: u64,
}

/// What is asked of a snapshot's map.
#[derive(Clone, Debug)]
pub struct MapQuestion {
    /// The volume.
    pub volume: VolumeHandle,
    /// The snapshot's name.
    pub snapshot: String,
    /// Its layer: another snapshot of that name has another one.
    pub layer: Layer,
    /// Only what was written since the older snapshot of that name and layer, be it zeroes; else all that
    /// holds data.
    pub since: Option<(String, Layer)>,
    /// The byte to begin at.
    pub start: u64,
}

/// Why a map cannot be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A snapshot of the question is no more.
    #[error("the snapshot was deleted meanwhile")]
    Gone,
    /// The stores cannot be asked.
    #[error("the stores cannot be asked now: {0}")]
    Unavailable(String),
}

/// What of a map was read: ranges that follow each other.
pub type MapPiece = Result<Vec<ByteRange>, MapError>;

/// Who reads the maps of snapshots.
pub trait BlockMaps: fmt::Debug + Send + Sync {
    /// Reads a map. Its pieces come in order, an error is the last one; once nobody takes them any more the
    /// reading ends.
    fn read(&self, question: MapQuestion) -> mpsc::Receiver<MapPiece>;
}

/// The service, over the same conductor as the controller's.
#[derive(Debug)]
pub(crate) struct SnapshotMetadataService {
    controller: Arc<ControllerService>,
    maps: Arc<dyn BlockMaps>,
    reads: Arc<Semaphore>,
}

/// What both calls ask.
struct Call {
    snapshot: Snapshot,
    since: Option<Snapshot>,
    start: u64,
    most: usize,
}

impl SnapshotMetadataService {
    /// The service of a controller.
    pub fn new(controller: Arc<ControllerService>, maps: Arc<dyn BlockMaps>) -> Self {
        Self {
            controller,
            maps,
            reads: Arc::new(Semaphore::new(READS_MAX)),
        }
    }

    /// The snapshot of a field, which must be ready.
    async fn snapshot(&self, field: &str, text: &str) -> Result<Snapshot, Status> {
        let text = refusal::required(field, text)?;
        let absent = || refusal::no_snapshot(text);
        let handle = SnapshotHandle::parse(text).ok_or_else(absent)?;
        let found = self.controller.find_snapshot(&handle).await?;
        let snapshot = found.ok_or_else(absent)?;
        if snapshot.state == SnapshotState::Ready {
            Ok(snapshot)
        } else {
            Err(Status::unavailable(format!(
                "snapshot `{text}` is not ready yet: try again"
            )))
        }
    }

    /// Reads the map, and makes messages of it.
    fn answer<M: Send + 'static>(
        &self,
        call: Call,
        message: fn(i64, Vec<csi::BlockMetadata>) -> M,
    ) -> ReceiverStream<Result<M, Status>> {
        let capacity = to_wire(call.snapshot.size_bytes);
        let handle = SnapshotHandle::of(&call.snapshot);
        let question = MapQuestion {
            volume: handle.volume,
            snapshot: call.snapshot.name,
            layer: handle.layer,
            since: call.since.map(|since| (since.name, since.layer)),
            start: call.start,
        };
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        let (maps, reads) = (Arc::clone(&self.maps), Arc::clone(&self.reads));
        tokio::spawn(async move {
            // It is never closed.
            let _permit = reads.acquire_owned().await;
            let mut batches = Batches::of(call.most);
            let mut pieces = maps.read(question);
            let mut is_told = false;
            while let Some(piece) = pieces.recv().await {
                let ranges = match piece {
                    Ok(ranges) => ranges,
                    Err(error) => {
                        let _ = sender.send(Err(refused(&error))).await;
                        return;
                    }
                };
                for range in ranges {
                    if let Some(full) = batches.add(range) {
                        is_told = true;
                        if sender.send(Ok(message(capacity, full))).await.is_err() {
                            return;
                        }
                    }
                }
            }
            let rest = batches.rest();
            // Of an empty map the capacity is told.
            if !rest.is_empty() || !is_told {
                let _ = sender.send(Ok(message(capacity, rest))).await;
            }
        });
        ReceiverStream::new(receiver)
    }
}

/// Where a call begins, and how many ranges its messages may have.
fn bounds(snapshot: &Snapshot, start: i64, most: i32) -> Result<(u64, usize), Status> {
    let size = snapshot.size_bytes.get();
    let start = u64::try_from(start)
        .map_err(|_| Status::invalid_argument(format!("`starting_offset` is {start}")))?;
    if start > size {
        return Err(Status::out_of_range(format!(
            "`starting_offset` is {start}, and the snapshot has {size} bytes"
        )));
    }
    let most = usize::try_from(most)
        .map_err(|_| Status::invalid_argument(format!("`max_results` is {most}")))?;
    let most = if most == 0 {
        RANGES_DEFAULT
    } else {
        most.min(RANGES_DEFAULT)
    };
    Ok((start, most))
}

fn refused(error: &MapError) -> Status {
    match error {
        MapError::Gone => Status::not_found(error.to_string()),
        MapError::Unavailable(_) => Status::unavailable(error.to_string()),
    }
}

fn refuse_pair(base: &Snapshot, target: &Snapshot) -> Result<(), Status> {
    if base.volume != target.volume {
        return Err(Status::invalid_argument(
            "the snapshots are of different volumes: give two of one volume",
        ));
    }
    if base.layer > target.layer {
        return Err(Status::invalid_argument(
            "`base_snapshot_id` is of the newer one: give them the other way round",
        ));
    }
    Ok(())
}

#[tonic::async_trait]
impl SnapshotMetadata for SnapshotMetadataService {
    type GetMetadataAllocatedStream =
        ReceiverStream<Result<csi::GetMetadataAllocatedResponse, Status>>;
    type GetMetadataDeltaStream = ReceiverStream<Result<csi::GetMetadataDeltaResponse, Status>>;

    async fn get_metadata_allocated(
        &self,
        request: Request<csi::GetMetadataAllocatedRequest>,
    ) -> Result<Response<Self::GetMetadataAllocatedStream>, Status> {
        let request = request.into_inner();
        let snapshot = self.snapshot("snapshot_id", &request.snapshot_id).await?;
        let (start, most) = bounds(&snapshot, request.starting_offset, request.max_results)?;
        let call = Call {
            snapshot,
            since: None,
            start,
            most,
        };
        let stream = self.answer(call, |volume_capacity_bytes, block_metadata| {
            csi::GetMetadataAllocatedResponse {
                block_metadata_type: csi::BlockMetadataType::VariableLength.into(),
                volume_capacity_bytes,
                block_metadata,
            }
        });
        Ok(Response::new(stream))
    }

    async fn get_metadata_delta(
        &self,
        request: Request<csi::GetMetadataDeltaRequest>,
    ) -> Result<Response<Self::GetMetadataDeltaStream>, Status> {
        let request = request.into_inner();
        let base = self.snapshot("base_snapshot_id", &request.base_snapshot_id);
        let base = base.await?;
        let target = self.snapshot("target_snapshot_id", &request.target_snapshot_id);
        let target = target.await?;
        refuse_pair(&base, &target)?;
        let (start, most) = bounds(&target, request.starting_offset, request.max_results)?;
        // Nothing was written since itself.
        let start = if base.layer == target.layer {
            target.size_bytes.get()
        } else {
            start
        };
        let call = Call {
            snapshot: target,
            since: Some(base),
            start,
            most,
        };
        let stream = self.answer(call, |volume_capacity_bytes, block_metadata| {
            csi::GetMetadataDeltaResponse {
                block_metadata_type: csi::BlockMetadataType::VariableLength.into(),
                volume_capacity_bytes,
                block_metadata,
            }
        });
        Ok(Response::new(stream))
    }
}

#[cfg(test)]
mod tests {
    use ashlar_proto::{ByteCount, VolumeId};
    use tonic::Code;

    use super::*;

    fn snapshot(volume: u64, layer: u32) -> Snapshot {
        Snapshot {
            volume: VolumeId::new(volume),
            volume_name: "data".to_owned(),
            name: format!("s{layer}"),
            layer: Layer::new(layer),
            size_bytes: ByteCount::new(1 << 20),
            created_ms: 0,
            state: SnapshotState::Ready,
            origin: None,
            clones: 0,
            deleted: false,
            group: None,
        }
    }

    #[test]
    fn calls_begin_within_the_snapshot() {
        let of = |start, most| bounds(&snapshot(1, 1), start, most).map_err(|error| error.code());
        assert_eq!(of(0, 0), Ok((0, RANGES_DEFAULT)));
        assert_eq!(of(1 << 20, 7), Ok((1 << 20, 7)));
        assert_eq!(of(0, i32::MAX), Ok((0, RANGES_DEFAULT)));
        assert_eq!(of((1 << 20) + 1, 0), Err(Code::OutOfRange));
        assert_eq!(of(-1, 0), Err(Code::InvalidArgument));
        assert_eq!(of(0, -1), Err(Code::InvalidArgument));
    }

    #[test]
    fn changes_are_those_from_an_older_to_a_newer_snapshot_of_a_volume() {
        let pair = |base: (u64, u32), target: (u64, u32)| {
            let (base, target) = (snapshot(base.0, base.1), snapshot(target.0, target.1));
            refuse_pair(&base, &target).map_err(|error| error.code())
        };
        assert_eq!(pair((1, 2), (1, 3)), Ok(()));
        assert_eq!(pair((1, 2), (1, 2)), Ok(()));
        assert_eq!(pair((1, 3), (1, 2)), Err(Code::InvalidArgument));
        assert_eq!(pair((1, 2), (2, 3)), Err(Code::InvalidArgument));
    }
}
