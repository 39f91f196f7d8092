//! Zeroes and trims of any length: whole blocks as one frame a shard, edges as read-modify-write.

use std::rc::Rc;

use ashlar_proto::limits::{BLOCK_BYTES_U64, FRAME_DATA_BLOCKS_MAX};
use ashlar_reactor::future::join_all;

use crate::block_device::{BlockError, ZeroMode};
use crate::overlap::BlockRange;
use crate::range::whole_blocks;
use crate::route::Piece;
use crate::volume::Core;
use crate::wire::Body;
use crate::write::{check_write, merge, send, take, write_blocks};

/// Frames in flight at once of one long request.
const FRAMES_AT_ONCE: usize = 16;

/// Makes the bytes read as zeroes.
pub(crate) async fn write_zeroes(
    core: &Rc<Core>,
    offset: u64,
    len: u64,
    mode: ZeroMode,
) -> Result<(), BlockError> {
    check_write(core, offset, len)?;
    let (first, end) = whole_blocks(offset, len);
    let last_block = (offset + len - 1) / BLOCK_BYTES_U64;
    if first >= end && offset / BLOCK_BYTES_U64 == last_block {
        return zero_edge(core, offset, len).await;
    }
    zero_edge(core, offset, first * BLOCK_BYTES_U64 - offset).await?;
    match mode {
        ZeroMode::Unmap => unmap(core, first, end).await?,
        ZeroMode::Allocate => allocate(core, first, end).await?,
    }
    let tail = end * BLOCK_BYTES_U64;
    zero_edge(core, tail, offset + len - tail).await
}

/// Gives back the whole blocks of the range.
pub(crate) async fn trim(core: &Rc<Core>, offset: u64, len: u64) -> Result<(), BlockError> {
    check_write(core, offset, len)?;
    let (first, end) = whole_blocks(offset, len);
    unmap(core, first, end).await
}

/// Zeroes a part of one block.
async fn zero_edge(core: &Rc<Core>, offset: u64, len: u64) -> Result<(), BlockError> {
    if len == 0 {
        return Ok(());
    }
    let block = offset / BLOCK_BYTES_U64;
    let range = BlockRange::new(block, block + 1);
    let (guard, permit) = take(core, range, BLOCK_BYTES_U64).await?;
    let within = usize::try_from(offset % BLOCK_BYTES_U64).unwrap_or(0);
    let len = usize::try_from(len).unwrap_or(0);
    let merged = merge(core, range, within, &core.zeroes[..len]).await?;
    write_blocks(core, range, &merged, guard, permit).await
}

/// Zeroes whole blocks without payload, some shards at a time.
async fn unmap(core: &Rc<Core>, first: u64, end: u64) -> Result<(), BlockError> {
    if first >= end {
        return Ok(());
    }
    let mut pieces = core.route.span_pieces(BlockRange::new(first, end));
    loop {
        let some: Vec<Piece> = pieces.by_ref().take(FRAMES_AT_ONCE).collect();
        if some.is_empty() {
            return Ok(());
        }
        let zeroed = some.into_iter().map(|piece| async move {
            let at = first + piece.skip;
            let range = BlockRange::new(at, at + u64::from(piece.count.get()));
            let (guard, permit) = take(core, range, 0).await?;
            let pieces = std::slice::from_ref(&piece);
            send(core, pieces, |_| Body::Zeroes, false, guard, permit).await
        });
        join_all(zeroed)
            .await
            .into_iter()
            .collect::<Result<(), _>>()?;
    }
}

/// Writes zeroes as data, so that the space is kept.
async fn allocate(core: &Rc<Core>, first: u64, end: u64) -> Result<(), BlockError> {
    let step = u64::from(FRAME_DATA_BLOCKS_MAX);
    let mut at = first;
    while at < end {
        let upto = end.min(at + step * FRAMES_AT_ONCE as u64);
        let starts = (at..upto).step_by(usize::from(FRAME_DATA_BLOCKS_MAX));
        let written = starts.map(|start| async move {
            let range = BlockRange::new(start, upto.min(start + step));
            let bytes = (range.end - range.first) * BLOCK_BYTES_U64;
            let (guard, permit) = take(core, range, bytes).await?;
            let zeroes = core.zeroes.slice(..usize::try_from(bytes).unwrap_or(0));
            write_blocks(core, range, &zeroes, guard, permit).await
        });
        join_all(written)
            .await
            .into_iter()
            .collect::<Result<(), _>>()?;
        at = upto;
    }
    Ok(())
}
