//! What a clone shows wherever nothing was written to it: a snapshot of another volume, up to some
//! block, and zeroes beyond.
//!
//! ```text
//! read ─▶ the clone's own replicas ── absent there ─▶ the snapshot's replicas ── absent there ─▶ …
//! ```
//!
//! Who owns a clone reads its origin as anybody reads a snapshot, so the two lie wherever there is room
//! for them, and nothing is copied when one of them moves. Invariants: a block that was written or
//! trimmed in the clone is never absent there again, so that the origin is never shown in its place; an
//! origin never changes, and the conductor keeps it for as long as anything shows it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use ashlar_proto::api::Origin as OriginInfo;
use ashlar_proto::limits::{BLOCK_BYTES, BLOCK_BYTES_U64};
use ashlar_proto::message::{BlockKind, Extent};
use ashlar_reactor::future::join_all;
use ashlar_reactor::{Reactor, SharedBuffer};

use crate::block_device::{BlockDevice, BlockError};
use crate::options::VolumeOptions;
use crate::range::push_run;
use crate::read::{Blocks, Shown, assemble};
use crate::snapshot::{OpenSnapshotError, Snapshot};
use crate::source::AnySource;

/// Bytes that are read of an origin at once.
const PART_BYTES: u64 = 1 << 20;

/// Runs that are asked for at once.
const EXTENTS_AT_ONCE: usize = 4096;

/// Origins have origins: what one does is behind a pointer.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, BlockError>> + 'a>>;

/// The origin of an open volume or snapshot.
pub(crate) struct Origin {
    info: OriginInfo,
    snapshot: Snapshot,
    /// Blocks of it that are shown.
    blocks: u64,
}

impl Origin {
    /// Opens an origin, and what that is a clone of in turn.
    pub(crate) fn open<'a>(
        reactor: &'a Reactor,
        source: Rc<dyn AnySource>,
        info: &'a OriginInfo,
        options: &'a VolumeOptions,
    ) -> Pin<Box<dyn Future<Output = Result<Self, OpenSnapshotError>> + 'a>> {
        Box::pin(async move {
            let snapshot = Snapshot::open_origin(reactor, source, info, options.clone()).await?;
            let bytes = info.bytes.get().min(snapshot.geometry().size_bytes);
            Ok(Self {
                info: info.clone(),
                snapshot,
                blocks: bytes / BLOCK_BYTES_U64,
            })
        })
    }

    /// What the conductor says of it.
    pub(crate) fn info(&self) -> &OriginInfo {
        &self.info
    }

    /// Blocks of it that are shown.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The bytes of `count` blocks from `first` on.
    pub(crate) async fn read(
        &self,
        zeroes: &SharedBuffer,
        first: u64,
        count: u64,
    ) -> Result<Vec<SharedBuffer>, BlockError> {
        let end = (first + count).min(self.blocks).max(first);
        let mut bytes = Vec::new();
        let mut at = first * BLOCK_BYTES_U64;
        while at < end * BLOCK_BYTES_U64 {
            let len = PART_BYTES.min(end * BLOCK_BYTES_U64 - at);
            let narrow = u32::try_from(len).unwrap_or(u32::MAX);
            let read: Boxed<'_, Vec<SharedBuffer>> = Box::pin(self.snapshot.read(at, narrow));
            bytes.extend(read.await?);
            at += len;
        }
        let mut rest = usize::try_from(first + count - end).unwrap_or(0) * BLOCK_BYTES;
        while rest > 0 {
            let len = rest.min(zeroes.len());
            bytes.push(zeroes.slice(..len));
            rest -= len;
        }
        Ok(bytes)
    }

    /// The kinds of `count` blocks from `first` on, or of fewer where there are more than `most` runs.
    pub(crate) async fn extents(
        &self,
        first: u64,
        count: u64,
        most: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        let mut runs = Vec::new();
        let end = first + count;
        let mut at = first;
        while at < end.min(self.blocks) {
            let len = (end.min(self.blocks) - at) * BLOCK_BYTES_U64;
            let offset = at * BLOCK_BYTES_U64;
            let asked = self.snapshot.extents(offset, len, EXTENTS_AT_ONCE);
            let told: Boxed<'_, Vec<Extent>> = Box::pin(asked);
            for run in told.await? {
                let count = u64::from(run.count.get()).min(end - at);
                push_run(&mut runs, usize::MAX, count, run.kind);
                at += count;
            }
            if runs.len() > most && at < end {
                return Ok(runs);
            }
        }
        push_run(&mut runs, usize::MAX, end - at.min(end), BlockKind::Absent);
        Ok(runs)
    }
}

/// The bytes of the blocks from `first` on that are as `shown` says, and as the origin has them where
/// there is nothing.
pub(crate) async fn assemble_over(
    origin: Option<&Origin>,
    zeroes: &SharedBuffer,
    first: u64,
    shown: Shown,
) -> Result<Vec<SharedBuffer>, BlockError> {
    let is_absent = |kind| kind == BlockKind::Absent;
    let is_any_absent = || shown.entries.iter().any(|entry| is_absent(entry.kind));
    let Some(origin) = origin.filter(|_| is_any_absent()) else {
        return Ok(assemble(zeroes, shown));
    };
    let mut absent = Vec::new();
    let mut at = first;
    for run in shown.entries.chunk_by(|a, b| a.kind == b.kind) {
        if is_absent(run[0].kind) {
            absent.push((at, run.len() as u64));
        }
        at += run.len() as u64;
    }
    let asked = absent
        .into_iter()
        .map(|(first, count)| origin.read(zeroes, first, count));
    let mut below = join_all(asked).await.into_iter();
    let mut data = Blocks::new(&shown.data);
    let mut pieces = Vec::new();
    for run in shown.entries.chunk_by(|a, b| a.kind == b.kind) {
        match run[0].kind {
            BlockKind::Data => pieces.extend(run.iter().filter_map(|_| data.next())),
            BlockKind::Zero => pieces.push(zeroes.slice(..run.len() * BLOCK_BYTES)),
            BlockKind::Absent => {
                let read = below.next().unwrap_or_else(|| Ok(Vec::new()));
                pieces.extend(read?);
            }
        }
    }
    Ok(pieces)
}

/// Adds the blocks of a run from `first` on, as the origin has them where there is nothing; false when
/// there was no room for all of them.
pub(crate) async fn push_over(
    origin: Option<&Origin>,
    extents: &mut Vec<Extent>,
    extents_max: usize,
    first: u64,
    run: Extent,
) -> Result<bool, BlockError> {
    let all = u64::from(run.count.get());
    let Some(origin) = origin.filter(|_| run.kind == BlockKind::Absent) else {
        return Ok(push_run(extents, extents_max, all, run.kind));
    };
    let mut told = 0;
    for run in origin.extents(first, all, extents_max).await? {
        let count = u64::from(run.count.get());
        if !push_run(extents, extents_max, count, run.kind) {
            return Ok(false);
        }
        told += count;
    }
    Ok(told == all)
}
