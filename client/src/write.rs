//! A write's way: checks, budget, overlap ordering, read-modify-write of edges, checksums, fan-out.
//!
//! Bytes are copied only where a range is not made of whole blocks or its memory is not aligned.

use std::rc::Rc;

use ashlar_proto::crc::crc32c;
use ashlar_proto::limits::{BLOCK_BYTES, BLOCK_BYTES_U64};
use ashlar_proto::message::BlockKind;
use ashlar_proto::{BlockCount, RoomHint};
use ashlar_reactor::{Buffer, SharedBuffer};

use crate::block_device::BlockError;
use crate::budget::Permit;
use crate::group::WriteGroup;
use crate::locks::RangeGuard;
use crate::overlap::BlockRange;
use crate::range::{check_range, check_sized, touched_blocks};
use crate::read;
use crate::route::Piece;
use crate::shard::Shard;
use crate::volume::Core;
use crate::wire::Body;
use crate::write_log::Span;

/// Writes `data` at `offset`; on return it is acknowledged.
pub(crate) async fn write(core: &Rc<Core>, offset: u64, data: Buffer) -> Result<(), BlockError> {
    let len = data.len() as u64;
    check_write(core, offset, len)?;
    check_sized(&core.geometry.get(), offset, len)?;
    let (first, end) = touched_blocks(offset, len);
    let range = BlockRange::new(first, end);
    let (guard, permit) = take(core, range, (end - first) * BLOCK_BYTES_U64).await?;
    let is_whole = offset.is_multiple_of(BLOCK_BYTES_U64) && len.is_multiple_of(BLOCK_BYTES_U64);
    let data = if is_whole {
        data.freeze()
    } else {
        let within = usize::try_from(offset % BLOCK_BYTES_U64).unwrap_or(0);
        merge(core, range, within, &data).await?
    };
    write_blocks(core, range, &data, guard, permit).await
}

/// Whether the volume takes writes, and this one lies in it.
pub(crate) fn check_write(core: &Core, offset: u64, len: u64) -> Result<(), BlockError> {
    core.check()?;
    let geometry = core.geometry.get();
    if geometry.read_only {
        return Err(BlockError::ReadOnly);
    }
    check_range(&geometry, offset, len)
}

/// Budget first, blocks second: who waits for budget holds nobody else up.
pub(crate) async fn take(
    core: &Rc<Core>,
    range: BlockRange,
    bytes: u64,
) -> Result<(RangeGuard, Permit), BlockError> {
    let permit = core.bounded(core.budget.acquire(bytes)).await?;
    let guard = core.bounded(core.locks.acquire(range)).await?;
    core.check()?;
    Ok((guard, permit))
}

/// The blocks of `range` with `bytes` put over them, `within` bytes from the start. The caller
/// holds the range, so nothing comes between the read and the write.
pub(crate) async fn merge(
    core: &Rc<Core>,
    range: BlockRange,
    within: usize,
    bytes: &[u8],
) -> Result<SharedBuffer, BlockError> {
    let blocks = usize::try_from(range.end - range.first).unwrap_or(0);
    let mut merged = core.reactor.buffer(blocks * BLOCK_BYTES);
    let tail = within + bytes.len();
    if within > 0 || tail < BLOCK_BYTES {
        read_into(core, range.first, &mut merged[..BLOCK_BYTES]).await?;
    }
    if blocks > 1 && !tail.is_multiple_of(BLOCK_BYTES) {
        let last = (blocks - 1) * BLOCK_BYTES;
        read_into(core, range.end - 1, &mut merged[last..]).await?;
    }
    merged[within..tail].copy_from_slice(bytes);
    Ok(merged.freeze())
}

async fn read_into(core: &Rc<Core>, block: u64, target: &mut [u8]) -> Result<(), BlockError> {
    let range = BlockRange::new(block, block + 1);
    let mut at = 0;
    for piece in read::read_blocks(core, range).await? {
        target[at..at + piece.len()].copy_from_slice(&piece);
        at += piece.len();
    }
    Ok(())
}

/// Sends whole blocks that the caller holds; on return they are acknowledged.
pub(crate) async fn write_blocks(
    core: &Rc<Core>,
    range: BlockRange,
    data: &SharedBuffer,
    guard: RangeGuard,
    permit: Permit,
) -> Result<(), BlockError> {
    let body = |piece: &Piece| {
        let from = usize::try_from(piece.skip).unwrap_or(0) * BLOCK_BYTES;
        let bytes = usize::try_from(piece.count.bytes()).unwrap_or(0);
        let data = data.slice(from..from + bytes);
        Body::with_checksums(&checksums_of(&data), vec![data])
    };
    let mut pieces = core.route.data_pieces(range);
    if let (Some(only), None) = (pieces.next(), pieces.next()) {
        return send(core, std::slice::from_ref(&only), body, true, guard, permit).await;
    }
    let pieces: Vec<Piece> = core.route.data_pieces(range).collect();
    send(core, &pieces, body, true, guard, permit).await
}

/// The checksum of each block.
pub(crate) fn checksums_of(blocks: &[u8]) -> Vec<u32> {
    blocks.chunks(BLOCK_BYTES).map(crc32c).collect()
}

/// Sends the pieces of one request and awaits their acknowledgement. Nothing is sent before all
/// of them may be.
pub(crate) async fn send(
    core: &Rc<Core>,
    pieces: &[Piece],
    body: impl Fn(&Piece) -> Body,
    takes_room: bool,
    guard: RangeGuard,
    permit: Permit,
) -> Result<(), BlockError> {
    let growth = if takes_room {
        admit_growth(core, pieces).await?
    } else {
        None
    };
    for _ in pieces {
        core.admit_writes().await?;
    }
    let group = WriteGroup::new(pieces.len(), guard, (permit, growth));
    for piece in pieces {
        let shard = shard_of(core, piece)?;
        shard.submit(core, span_of(piece), body(piece), Rc::clone(&group));
    }
    group.outcome().await
}

/// The shard that a piece lies in.
pub(crate) fn shard_of(core: &Core, piece: &Piece) -> Result<Rc<Shard>, BlockError> {
    core.shard(piece.shard).ok_or(BlockError::OutOfRange)
}

/// The blocks of a piece in its shard.
pub(crate) fn span_of(piece: &Piece) -> Span {
    Span {
        block: piece.block,
        count: piece.count,
    }
}

/// Where room is scarce: what a write that may take some holds until it is acknowledged, so that little
/// of the kind is under way when the soft mark is passed. All replicas have room for that little above
/// it; of more, each would take another part and refuse the rest, and fall behind for it. Who has not
/// heard of a lane for a while asks with that little, too.
async fn admit_growth(core: &Rc<Core>, pieces: &[Piece]) -> Result<Option<Permit>, BlockError> {
    let mut growth = None;
    for piece in pieces {
        let shard = shard_of(core, piece)?;
        let mut room = shard.room(core);
        if room == RoomHint::Scarce && growth.is_none() {
            let blocks: u64 = pieces.iter().map(|p| u64::from(p.count.get())).sum();
            let acquired = core.scarce.acquire(blocks * BLOCK_BYTES_U64);
            let permit = core.bounded(acquired).await?;
            // Those before it may have heard that there is room.
            room = shard.room(core);
            if room == RoomHint::Scarce {
                growth = Some(permit);
            }
        }
        if room >= RoomHint::Soft {
            refuse_growth(core, &shard, piece).await?;
        }
    }
    Ok(growth)
}

/// Above the soft mark only blocks whose data goes as they are written may be: all replicas alike,
/// and before anything is sent. The gap to full exceeds what is in flight.
///
/// What a snapshot shows stays when it is overwritten: only data above the newest one goes.
async fn refuse_growth(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    piece: &Piece,
) -> Result<(), BlockError> {
    let mut span = span_of(piece);
    while span.count.get() > 0 {
        let kept = || core.layers.below_head();
        let runs = read::extents_of(core, shard, kept, span).await?;
        let mut covered = 0;
        for run in &runs {
            if run.kind != BlockKind::Data {
                return Err(BlockError::NoSpace);
            }
            covered += run.count.get();
        }
        span = span.skip(BlockCount::new(covered));
    }
    Ok(())
}
