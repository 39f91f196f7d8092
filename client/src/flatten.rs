//! Copies what a clone shows of its origin into the clone, so that it needs that no more.
//!
//! ```text
//! the conductor wants it ─▶ where the origin has data, part by part:
//!        hold the blocks ─▶ those absent in the clone ─▶ read of the origin, written, released
//!                    now and then: flushed ─▶ the conductor is told how far
//! all of it is copied ─▶ flushed ─▶ told ─▶ the clone has no origin
//! ```
//!
//! Invariants: what is copied goes nowhere that was written or trimmed, for the blocks are held from the
//! look at them until the copy is acknowledged; what is told as copied is durable; the origin is let go
//! of when the conductor says that the volume has none. An owner that takes over goes on where the
//! conductor was told last.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::api::{ReportFlatten, Volume as VolumeInfo};
use ashlar_proto::limits::{BLOCK_BYTES, BLOCK_BYTES_U64};
use ashlar_proto::message::BlockKind;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{ByteCount, Layer};
use ashlar_reactor::future::join_all;

use crate::block_device::BlockError;
use crate::flush;
use crate::origin::Origin;
use crate::overlap::BlockRange;
use crate::range::push_run;
use crate::read::extents_of;
use crate::route::Piece;
use crate::signal::Signal;
use crate::source::SourceError;
use crate::volume::Core;
use crate::wire::Body;
use crate::write::{checksums_of, send, shard_of, span_of, take};

/// Blocks that are held and copied at once: 256 KiB, as long a write may have to wait.
const PART_BLOCKS: u64 = 64;

/// Parts at once: the volume's own requests come first.
const PARTS_AT_ONCE: usize = 4;

/// Blocks of the origin that are looked at together.
const LOOK_BLOCKS: u64 = 16 << 10;

/// How often the conductor is told how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// The pause after something that fails, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is wanted of an owner.
#[derive(Default)]
pub(crate) struct Flatten {
    /// Below this block all is copied.
    from: Cell<Option<u64>>,
    /// The conductor says that there is no origin.
    is_without: Cell<bool>,
    /// Raised when something else is wanted.
    wanted: Signal,
}

/// Why it does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Device(#[from] BlockError),
    #[error("the conductor is not told")]
    NotTold,
    #[error("it is wanted no more")]
    NotWanted,
}

impl Flatten {
    /// Takes in what the conductor says of the volume.
    pub(crate) fn note(&self, volume: &VolumeInfo) {
        let from = volume.flattening;
        let from = from.map(|flattening| flattening.done_bytes.get() / BLOCK_BYTES_U64);
        let is_without = volume.origin.is_none();
        if (from, is_without) != (self.from.replace(from), self.is_without.replace(is_without)) {
            self.wanted.raise();
        }
    }
}

/// Copies for as long as the volume is attached, whenever that is wanted.
pub(crate) async fn run(core: Weak<Core>) {
    let mut pause = PAUSE_MIN;
    loop {
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let (reactor, flatten) = (strong.reactor.clone(), Rc::clone(&strong.flatten));
        let moment = flatten.wanted.moment();
        if flatten.is_without.get() && strong.origin.take().is_some() {
            tracing::info!(volume = %strong.name, "the volume needs its origin no more");
        }
        let (Some(from), Some(origin)) = (flatten.from.get(), strong.origin()) else {
            drop(strong);
            flatten.wanted.raised_since(moment).await;
            pause = PAUSE_MIN;
            continue;
        };
        let outcome = copy_all(&strong, &origin, from).await;
        match outcome {
            Ok(()) => pause = PAUSE_MIN,
            Err(Failure::NotWanted) => continue,
            Err(failure) => {
                tracing::warn!(volume = %strong.name, %failure,
                    "what the volume shows of its origin is not all copied yet; trying again");
            }
        }
        drop(strong);
        let news = flatten.wanted.raised_since(moment);
        let _elapsed = reactor.timeout(pause, news).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Copies all from a block on.
async fn copy_all(core: &Rc<Core>, origin: &Origin, from: u64) -> Result<(), Failure> {
    let mut told_at = core.reactor.now();
    let mut at = from;
    while at < origin.blocks() {
        let end = (at + LOOK_BLOCKS).min(origin.blocks());
        for parts in parts_with_data(origin, at, end)
            .await?
            .chunks(PARTS_AT_ONCE)
        {
            if core.flatten.from.get().is_none() {
                return Err(Failure::NotWanted);
            }
            let copied = parts.iter().map(|part| copy_part(core, origin, *part));
            for outcome in join_all(copied).await {
                outcome?;
            }
            let done = parts.last().map_or(at, |part| part.end);
            if core.reactor.now() - told_at >= REPORT_EVERY {
                report(core, origin, done).await?;
                told_at = core.reactor.now();
            }
        }
        at = end;
    }
    report(core, origin, origin.blocks()).await
}

/// The parts of a range in which the origin has data, in order.
async fn parts_with_data(
    origin: &Origin,
    first: u64,
    end: u64,
) -> Result<Vec<BlockRange>, BlockError> {
    let mut parts = Vec::new();
    let mut at = first;
    for run in origin.extents(first, end - first, usize::MAX).await? {
        let count = u64::from(run.count.get());
        if run.kind == BlockKind::Data {
            let starts = (at..at + count).step_by(usize::try_from(PART_BLOCKS).unwrap_or(1));
            parts.extend(starts.map(|start| {
                let end = (start + PART_BLOCKS).min(at + count);
                BlockRange::new(start, end)
            }));
        }
        at += count;
    }
    Ok(parts)
}

/// Copies what is absent of a part, while it is held.
async fn copy_part(core: &Rc<Core>, origin: &Origin, part: BlockRange) -> Result<(), BlockError> {
    let bytes = (part.end - part.first) * BLOCK_BYTES_U64;
    let (guard, permit) = take(core, part, bytes).await?;
    let absent = if is_planted(Planted::FlattenOverWrites) {
        vec![part]
    } else {
        absent_in(core, part).await?
    };
    let mut copy = core.reactor.buffer(usize::try_from(bytes).unwrap_or(0));
    let mut pieces = Vec::new();
    for range in absent {
        let count = range.end - range.first;
        let mut to = usize::try_from(range.first - part.first).unwrap_or(0) * BLOCK_BYTES;
        for read in origin.read(&core.zeroes, range.first, count).await? {
            copy[to..to + read.len()].copy_from_slice(&read);
            to += read.len();
        }
        pieces.extend(core.route.data_pieces(range).map(|piece| Piece {
            skip: piece.skip + range.first - part.first,
            ..piece
        }));
    }
    if pieces.is_empty() {
        return Ok(());
    }
    let copy = copy.freeze();
    let body = |piece: &Piece| {
        let from = usize::try_from(piece.skip).unwrap_or(0) * BLOCK_BYTES;
        let len = usize::try_from(piece.count.bytes()).unwrap_or(0);
        let data = copy.slice(from..from + len);
        Body::with_checksums(&checksums_of(&data), vec![data])
    };
    send(core, &pieces, body, true, guard, permit).await
}

/// The blocks of a part that the clone has nothing of.
async fn absent_in(core: &Rc<Core>, part: BlockRange) -> Result<Vec<BlockRange>, BlockError> {
    let mut runs = Vec::new();
    for piece in core.route.span_pieces(part) {
        let shard = shard_of(core, &piece)?;
        let mut span = span_of(&piece);
        while span.count.get() > 0 {
            let mut covered = 0;
            for run in extents_of(core, &shard, Layer::default, span).await? {
                push_run(&mut runs, usize::MAX, u64::from(run.count.get()), run.kind);
                covered += run.count.get();
            }
            span = span.skip(ashlar_proto::BlockCount::new(covered));
        }
    }
    let mut absent = Vec::new();
    let mut at = part.first;
    for run in runs {
        let end = at + u64::from(run.count.get());
        if run.kind == BlockKind::Absent {
            absent.push(BlockRange::new(at, end));
        }
        at = end;
    }
    Ok(absent)
}

/// Has what was copied be durable, and tells the conductor.
async fn report(core: &Rc<Core>, origin: &Origin, done: u64) -> Result<(), Failure> {
    flush::flush(core).await?;
    let report = ReportFlatten {
        volume: core.id,
        generation: core.generation,
        origin_volume: origin.info().volume,
        origin_layer: origin.info().layer,
        done_bytes: ByteCount::new(done * BLOCK_BYTES_U64),
    };
    match core.source.report_flatten(&core.name, &report).await {
        Ok(()) => Ok(()),
        Err(SourceError::Superseded | SourceError::NotFound) => {
            core.fence();
            Err(BlockError::Fenced.into())
        }
        Err(error) => {
            if error != SourceError::Unreachable {
                tracing::warn!(volume = %core.name, %error,
                    "the conductor does not take how far a volume's copy is");
            }
            Err(Failure::NotTold)
        }
    }
}
