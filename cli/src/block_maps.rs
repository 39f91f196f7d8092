//! The maps of snapshots, read from the stores by a reactor of the CSI driver's own.
//!
//! ```text
//! gRPC ── question ──▶ reactor thread ── one task a question ── stores
//!      ◀── pieces, in order; who takes them slowly is waited for ──
//! ```

use std::pin::pin;
use std::thread;
use std::time::Duration;

use ashlar_api_client::ApiClient;
use ashlar_client::{
    BlockDevice, BlockError, ClusterSource, OpenSnapshotError, Snapshot, SourceError, VolumeOptions,
};
use ashlar_csi::{BlockMaps, ByteRange, MapError, MapPiece, MapQuestion};
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::message::{BlockKind, Extent};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::remote;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::args::ReactorArgs;
use crate::cluster_source::HttpClusterSource;
use crate::{host, runtime};

/// Questions that wait for the reactor.
const QUESTIONS_QUEUED_MAX: usize = 16;
/// Pieces that wait for who asked.
const PIECES_QUEUED_MAX: usize = 4;
/// Runs in a piece.
const EXTENTS_MAX: usize = 4096;
/// The range that they are asked for.
const WINDOW_BYTES: u64 = 4 << 30;
/// How long replicas may take to answer before it is asked whether the older snapshot is still there: they
/// refuse one that is deleted as they refuse what they cannot tell for other reasons.
const PATIENCE: Duration = Duration::from_secs(1);

/// The reactor takes no more questions.
const NOBODY: &str = "this process cannot read from stores, its log says why";

/// It has begun to answer, and ended.
const BROKEN: &str = "the reading of a map broke off, try again";

struct Asked {
    question: MapQuestion,
    pieces: remote::Sender<MapPiece>,
}

/// See the module.
#[derive(Clone)]
pub struct StoreMaps {
    questions: remote::Sender<Asked>,
    runtime: Handle,
}

impl std::fmt::Debug for StoreMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreMaps").finish_non_exhaustive()
    }
}

impl StoreMaps {
    /// Starts the reactor; it ends with the process.
    ///
    /// # Errors
    /// Where the host gives no thread.
    pub fn start(api: ApiClient, runtime: &Handle) -> anyhow::Result<Self> {
        let source = HttpClusterSource::new(api, runtime);
        let (questions, queue) = remote::bounded(QUESTIONS_QUEUED_MAX);
        let args = ReactorArgs {
            engine: None,
            // Nobody waits for microseconds here.
            spin_us: 0,
        };
        let serve = move || {
            let ended = runtime::run(&args, |reactor| serve(reactor, source, queue));
            if let Err(error) = ended {
                tracing::error!("changed blocks of snapshots cannot be told: {error:#}");
            }
        };
        thread::Builder::new()
            .name("block-maps".to_owned())
            .spawn(serve)?;
        Ok(Self {
            questions,
            runtime: runtime.clone(),
        })
    }
}

impl BlockMaps for StoreMaps {
    fn read(&self, question: MapQuestion) -> mpsc::Receiver<MapPiece> {
        let (told, answer) = mpsc::channel(1);
        let questions = self.questions.clone();
        self.runtime.spawn(async move {
            let (sender, pieces) = remote::bounded(PIECES_QUEUED_MAX);
            let asked = Asked {
                question,
                pieces: sender,
            };
            if questions.send(asked).await.is_err() {
                let _ = told.send(Err(MapError::Unavailable(NOBODY.into()))).await;
                return;
            }
            while let Some(piece) = pieces.recv().await {
                // What holds nothing is the end.
                let is_end = piece.as_ref().is_ok_and(Vec::is_empty);
                if is_end || told.send(piece).await.is_err() {
                    return;
                }
            }
            // Half a map must not be taken for a whole one.
            let _ = told.send(Err(MapError::Unavailable(BROKEN.into()))).await;
        });
        answer
    }
}

async fn serve(
    reactor: Reactor,
    source: HttpClusterSource,
    questions: remote::Receiver<Asked>,
) -> anyhow::Result<()> {
    while let Some(asked) = questions.recv().await {
        let (of, source) = (reactor.clone(), source.clone());
        drop(reactor.spawn(async move {
            let told = tell(&of, &source, &asked).await;
            if told.is_ok() {
                let _ = asked.pieces.send(Ok(Vec::new())).await;
            }
            if let Err(error) = told {
                tracing::warn!(
                    volume = asked.question.volume.name,
                    snapshot = asked.question.snapshot,
                    %error,
                    "the map of a snapshot cannot be read"
                );
                let _ = asked.pieces.send(Err(error)).await;
            }
        }));
    }
    Ok(())
}

/// Tells the map, until its end or until nobody wants to know.
async fn tell(
    reactor: &Reactor,
    source: &HttpClusterSource,
    asked: &Asked,
) -> Result<(), MapError> {
    let question = &asked.question;
    let (volume, name) = (&question.volume, &question.snapshot);
    let options = VolumeOptions::new(host::owner("csi"));
    let opened = Snapshot::open(reactor, source.clone(), &volume.name, name, options).await;
    let snapshot = opened.map_err(|error| match error {
        OpenSnapshotError::Source(SourceError::NotFound) => MapError::Gone,
        error => MapError::Unavailable(error.to_string()),
    })?;
    let info = snapshot.info();
    if (info.volume, info.layer) != (volume.id, question.layer) {
        return Err(MapError::Gone);
    }
    let size = info.size_bytes.get();
    let mut at = question.start / BLOCK_BYTES_U64 * BLOCK_BYTES_U64;
    while at < size && !asked.pieces.is_closed() {
        let len = WINDOW_BYTES.min(size - at);
        let mut reading = pin!(read(&snapshot, question, at, len));
        let extents = loop {
            match reactor.timeout(PATIENCE, reading.as_mut()).await {
                Ok(Ok(extents)) => break extents,
                Ok(Err(error)) => {
                    check(source, &snapshot, question).await?;
                    return Err(MapError::Unavailable(error.to_string()));
                }
                Err(_) if asked.pieces.is_closed() => return Ok(()),
                Err(_) => check(source, &snapshot, question).await?,
            }
        };
        let (ranges, end) = ranges(&extents, at, question.since.is_some());
        if !ranges.is_empty() && asked.pieces.send(Ok(ranges)).await.is_err() {
            return Ok(());
        }
        at = end;
    }
    Ok(())
}

async fn read(
    snapshot: &Snapshot,
    question: &MapQuestion,
    at: u64,
    len: u64,
) -> Result<Vec<Extent>, BlockError> {
    match &question.since {
        Some((_, layer)) => snapshot.changed_since(*layer, at, len, EXTENTS_MAX).await,
        None => snapshot.extents(at, len, EXTENTS_MAX).await,
    }
}

/// Fails if a snapshot of the question is gone.
async fn check(
    source: &HttpClusterSource,
    snapshot: &Snapshot,
    question: &MapQuestion,
) -> Result<(), MapError> {
    if snapshot.is_gone() {
        return Err(MapError::Gone);
    }
    let own = (&question.snapshot, question.layer);
    let since = question.since.as_ref().map(|(name, layer)| (name, *layer));
    for (name, layer) in [Some(own), since].into_iter().flatten() {
        match source.snapshot(&question.volume.name, name).await {
            Err(SourceError::NotFound) => return Err(MapError::Gone),
            Ok(map) if map.snapshot.layer != layer => return Err(MapError::Gone),
            // Who cannot be asked has not said so.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// The ranges that are wanted of the runs from `at` on, and where they end.
fn ranges(extents: &[Extent], mut at: u64, is_change: bool) -> (Vec<ByteRange>, u64) {
    let mut wanted = Vec::new();
    for extent in extents {
        let len = u64::from(extent.count.get()) * BLOCK_BYTES_U64;
        let is_wanted = match extent.kind {
            BlockKind::Data => true,
            // A copy that begins with zeroes has these; one that is brought up to date has not.
            BlockKind::Zero => is_change,
            BlockKind::Absent => false,
        };
        if is_wanted {
            wanted.push(ByteRange { offset: at, len });
        }
        at += len;
    }
    (wanted, at)
}

#[cfg(test)]
mod tests {
    use ashlar_proto::BlockCount;

    use super::*;

    #[test]
    fn zeroes_are_changes_and_no_data() {
        use BlockKind::{Absent, Data, Zero};
        let runs = [(1, Absent), (2, Zero), (3, Data), (4, Absent), (5, Data)];
        let extents = runs.map(|(count, kind)| Extent {
            count: BlockCount::new(count),
            kind,
        });
        let of = |is_change| {
            let (ranges, end) = ranges(&extents, 40 * BLOCK_BYTES_U64, is_change);
            assert_eq!(end, 55 * BLOCK_BYTES_U64);
            let blocks =
                |range: &ByteRange| (range.offset / BLOCK_BYTES_U64, range.len / BLOCK_BYTES_U64);
            ranges.iter().map(blocks).collect::<Vec<_>>()
        };
        assert_eq!(of(false), [(43, 3), (50, 5)]);
        assert_eq!(of(true), [(41, 2), (43, 3), (50, 5)]);
    }
}
