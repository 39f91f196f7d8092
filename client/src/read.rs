//! A read's way: a replica that has every acknowledged write to the blocks, checks end to end,
//! another replica where one fails, and the repair of the bad copy.

use std::rc::Rc;

use ashlar_proto::crc::crc32c;
use ashlar_proto::limits::{BLOCK_BYTES, BLOCK_BYTES_U64};
use ashlar_proto::message::{self, BlockKind, Extent, ReadEntry};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{BlockCount, Layer, Seq, Status};
use ashlar_reactor::SharedBuffer;
use ashlar_reactor::future::join_all;
use ashlar_reactor::link::Frame;

use crate::block_device::BlockError;
use crate::hedge::{Attempt, Outcome, note_attempt, note_failed, quickest, read_hedged};
use crate::lease;
use crate::origin::{Origin, assemble_over, push_over};
use crate::overlap::BlockRange;
use crate::quorum::{Mask, Slot};
use crate::range::{check_sized, touched_blocks};
use crate::repair;
use crate::route::Piece;
use crate::shard::Shard;
use crate::volume::Core;
use crate::wire;
use crate::write::{shard_of, span_of};
use crate::write_log::Span;

/// What a replica showed, checked: one entry a block, and the payload of the data blocks in order.
#[derive(Debug)]
pub(crate) struct Shown {
    /// What each block is.
    pub(crate) entries: Vec<ReadEntry>,
    /// The payloads.
    pub(crate) data: Vec<SharedBuffer>,
}

/// Reads `len` bytes at `offset`.
pub(crate) async fn read(
    core: &Rc<Core>,
    offset: u64,
    len: u32,
) -> Result<Vec<SharedBuffer>, BlockError> {
    core.check()?;
    check_sized(&core.geometry.get(), offset, u64::from(len))?;
    let (first, end) = touched_blocks(offset, u64::from(len));
    let bytes = (end - first) * BLOCK_BYTES_U64;
    let _permit = core.bounded(core.budget.acquire(bytes)).await?;
    let pieces = read_blocks(core, BlockRange::new(first, end)).await?;
    let skip = usize::try_from(offset % BLOCK_BYTES_U64).unwrap_or(0);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    Ok(cut(pieces, skip, len))
}

/// Reads whole blocks.
pub(crate) async fn read_blocks(
    core: &Rc<Core>,
    range: BlockRange,
) -> Result<Vec<SharedBuffer>, BlockError> {
    // Before the clone's own replicas are asked: it is let go of once they hold all of it.
    let origin = core.origin();
    let read = read_over(core, origin.as_deref(), range).await;
    if read.is_err() && origin.is_some() && core.origin().is_none() {
        return read_over(core, None, range).await;
    }
    read
}

/// Reads whole blocks, with an origin where there is nothing.
async fn read_over(
    core: &Rc<Core>,
    origin: Option<&Origin>,
    range: BlockRange,
) -> Result<Vec<SharedBuffer>, BlockError> {
    let mut pieces = core.route.data_pieces(range);
    if let (Some(only), None) = (pieces.next(), pieces.next()) {
        let shown = read_piece(core, &only).await?;
        return assemble_over(origin, &core.zeroes, range.first, shown).await;
    }
    let pieces: Vec<Piece> = core.route.data_pieces(range).collect();
    let read = pieces.iter().map(|piece| async move {
        let shown = read_piece(core, piece).await?;
        assemble_over(origin, &core.zeroes, range.first + piece.skip, shown).await
    });
    let mut all = Vec::new();
    for bytes in join_all(read).await {
        all.extend(bytes?);
    }
    Ok(all)
}

/// The bytes from `skip` on, `len` of them.
pub(crate) fn cut(pieces: Vec<SharedBuffer>, mut skip: usize, mut len: usize) -> Vec<SharedBuffer> {
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    if skip == 0 && len == total {
        return pieces;
    }
    let mut kept = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let from = skip.min(piece.len());
        let take = len.min(piece.len() - from);
        if take > 0 {
            kept.push(piece.slice(from..from + take));
        }
        skip -= from;
        len -= take;
    }
    kept
}

/// Puts zeroes where there is no data.
pub(crate) fn assemble(zeroes: &SharedBuffer, shown: Shown) -> Vec<SharedBuffer> {
    let all_data = shown.entries.iter().all(|e| e.kind == BlockKind::Data);
    if all_data {
        return shown.data;
    }
    let mut data = Blocks::new(&shown.data);
    let mut pieces = Vec::new();
    for run in shown.entries.chunk_by(|a, b| a.kind == b.kind) {
        if run[0].kind == BlockKind::Data {
            pieces.extend(run.iter().filter_map(|_| data.next()));
        } else {
            pieces.push(zeroes.slice(..run.len() * BLOCK_BYTES));
        }
    }
    pieces
}

/// The blocks of a payload that lies in several pieces.
pub(crate) struct Blocks<'a> {
    pieces: &'a [SharedBuffer],
    at: usize,
}

impl<'a> Blocks<'a> {
    /// From the first.
    pub(crate) fn new(pieces: &'a [SharedBuffer]) -> Self {
        Self { pieces, at: 0 }
    }
}

impl Iterator for Blocks<'_> {
    type Item = SharedBuffer;

    fn next(&mut self) -> Option<SharedBuffer> {
        while let Some(piece) = self.pieces.first() {
            if self.at + BLOCK_BYTES <= piece.len() {
                let block = piece.slice(self.at..self.at + BLOCK_BYTES);
                self.at += BLOCK_BYTES;
                return Some(block);
            }
            self.pieces = &self.pieces[1..];
            self.at = 0;
        }
        None
    }
}

/// Reads one piece; block by block where no single replica has a good copy of all of it.
async fn read_piece(core: &Rc<Core>, piece: &Piece) -> Result<Shown, BlockError> {
    let shard = shard_of(core, piece)?;
    let span = span_of(piece);
    let whole = read_span(core, &shard, span).await;
    if whole.as_ref().err() != Some(&BlockError::Corrupt) || span.count.get() == 1 {
        return whole;
    }
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for at in 0..span.count.get() {
        let block = Span {
            count: BlockCount::new(1),
            ..span.skip(BlockCount::new(at))
        };
        let shown = read_span(core, &shard, block).await?;
        entries.extend(shown.entries);
        data.extend(shown.data);
    }
    Ok(Shown { entries, data })
}

/// Reads a span from a replica that may show it, and from another where that one fails.
async fn read_span(core: &Rc<Core>, shard: &Rc<Shard>, span: Span) -> Result<Shown, BlockError> {
    let mut bad = Mask::EMPTY;
    let mut failed = Mask::EMPTY;
    let mut deadline = None;
    loop {
        core.check()?;
        let moment = core.progress.moment();
        let vanished = shard.vanished.get();
        let readable = shard.log.borrow().readable(span);
        let Some(slot) = choose(core, shard, readable.minus(bad).minus(failed)) else {
            // All who may answer are bad: another may come back if one is away, or once it is known
            // what becomes of a proposal.
            let missing = shard.log.borrow().quorum().targets().minus(bad);
            if missing.is_empty() {
                return Err(BlockError::Corrupt);
            }
            let now = core.reactor.now();
            let deadline = *deadline.get_or_insert(now + core.options.io_timeout);
            if now >= deadline {
                return Err(BlockError::Unavailable);
            }
            let pause = (deadline - now).min(RETRY_PAUSE);
            let raised = core.progress.raised_since(moment);
            let _elapsed = core.reactor.timeout(pause, raised).await;
            failed = Mask::EMPTY;
            continue;
        };
        lease::keep(core, shard);
        let others = readable.minus(bad).minus(failed).without(slot);
        let (slot, outcome) = match read_hedged(core, shard, slot, others, span).await {
            Outcome::One(slot, attempt) => (slot, attempt),
            Outcome::Both(earlier, slot, attempt) => {
                note_attempt(core, shard, span, earlier, (&mut bad, &mut failed));
                (slot, attempt)
            }
        };
        match outcome {
            Attempt::Shown(shown) => {
                hold_until_acknowledged(core, shard, &shown).await?;
                lease::hold(core, shard).await?;
                if shard.vanished.get() != vanished {
                    continue;
                }
                if !bad.is_empty() {
                    repair::start(core, shard, span, bad, slot);
                }
                return Ok(shown);
            }
            Attempt::Again => core.reactor.yield_now().await,
            failed_one => {
                let masks = (&mut bad, &mut failed);
                note_attempt(core, shard, span, (slot, failed_one), masks);
            }
        }
    }
}

/// How long a read waits before it looks for replicas again.
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// One read in so many goes to any replica, so that one that was slow is tried again.
const EXPLORE_EVERY: u64 = 32;

/// The candidate that is expected to answer first, or now and then any of them. Drawn, not counted:
/// else requests that come in a pattern would have the same blocks read there each time.
fn choose(core: &Core, shard: &Shard, candidates: Mask) -> Option<Slot> {
    let drawn = core.reactor.random_u64();
    if drawn.is_multiple_of(EXPLORE_EVERY) && !candidates.is_empty() {
        let position = drawn / EXPLORE_EVERY % candidates.len() as u64;
        return candidates
            .slots()
            .nth(usize::try_from(position).unwrap_or(0));
    }
    quickest(shard, candidates)
}

/// What a reply shows, if every part of it holds: as many entries as asked for, a payload for each
/// data block that matches its checksum, and no seq that was never given.
pub(crate) fn verify(reply: Frame, count: BlockCount, issued: Seq) -> Option<Shown> {
    let blocks = usize::try_from(count.get()).ok()?;
    let entries = message::decode_read(wire::meta_of(&reply)?, blocks).ok()?;
    let mut data = Blocks::new(&reply.data);
    for entry in &entries {
        if entry.seq > issued {
            return None;
        }
        let is_whole = |block: &[u8]| crc32c(block) == entry.crc;
        if entry.kind == BlockKind::Data
            && !is_whole(&data.next()?)
            && !is_planted(Planted::NoChecksums)
        {
            return None;
        }
    }
    if data.next().is_some() {
        return None;
    }
    Some(Shown {
        entries,
        data: reply.data,
    })
}

/// A version that is not acknowledged yet is not shown: the next read may not find it.
async fn hold_until_acknowledged(
    core: &Rc<Core>,
    shard: &Shard,
    shown: &Shown,
) -> Result<(), BlockError> {
    let in_flight = || {
        let log = shard.log.borrow();
        shown.entries.iter().any(|entry| log.is_unacked(entry.seq))
    };
    if !in_flight() || is_planted(Planted::ShowUnacknowledged) {
        return Ok(());
    }
    acknowledged(core, || !in_flight()).await
}

/// Waits until it is so, which acknowledgements bring about.
async fn acknowledged(core: &Rc<Core>, is_so: impl Fn() -> bool) -> Result<(), BlockError> {
    let waiting = async {
        loop {
            let moment = core.acks.moment();
            if is_so() || !core.is_running() {
                return;
            }
            core.acks.raised_since(moment).await;
        }
    };
    core.bounded(waiting).await?;
    core.check()
}

/// The kinds of the blocks from the start of `span` on, as far as one replica tells; of what lies
/// above a layer.
pub(crate) async fn extents_of(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    above: impl Fn() -> Layer,
    span: Span,
) -> Result<Vec<Extent>, BlockError> {
    let deadline = core.reactor.now() + core.options.io_timeout;
    let mut failed = Mask::EMPTY;
    loop {
        core.check()?;
        let moment = core.progress.moment();
        let vanished = shard.vanished.get();
        let readable = shard.log.borrow().readable(span).minus(failed);
        let Some(slot) = choose(core, shard, readable) else {
            let now = core.reactor.now();
            if now >= deadline {
                return Err(BlockError::Unavailable);
            }
            let raised = core.progress.raised_since(moment);
            let _elapsed = core.reactor.timeout(RETRY_PAUSE, raised).await;
            failed = Mask::EMPTY;
            continue;
        };
        lease::keep(core, shard);
        let layers = (above(), core.layers.head());
        let request = shard.stamp(core).extents(layers, span);
        let asked_at = core.reactor.now();
        let replica = shard.replica(slot);
        let reply = replica.peer.call(request).await;
        let Ok(reply) = reply else {
            failed = failed.with(slot);
            continue;
        };
        shard.note_confirmed(core, slot, asked_at, &reply.header);
        if reply.header.status == Status::Fenced && reply.header.generation > core.generation {
            core.fence();
            return Err(BlockError::Fenced);
        }
        let runs = wire::meta_of(&reply).and_then(|meta| message::decode_extents(meta).ok());
        let runs = runs.filter(|runs| reply.header.status == Status::Ok && covers(runs, span));
        match runs {
            Some(runs) => {
                // What is under way may be shown in these, and may never have been.
                let upto = core.seqs.borrow().last();
                let count = runs.iter().map(|run| run.count.get()).sum();
                let told = Span {
                    count: BlockCount::new(count),
                    ..span
                };
                let is_settled = || !shard.log.borrow().has_unacked_in(told, upto);
                acknowledged(core, is_settled).await?;
                lease::hold(core, shard).await?;
                if shard.vanished.get() != vanished {
                    continue;
                }
                return Ok(runs);
            }
            None => {
                if reply.header.status != Status::Ok {
                    note_failed(core, shard, slot, reply.header.status);
                }
                failed = failed.with(slot);
            }
        }
    }
}

/// Whether runs begin the span and do not go beyond it.
pub(crate) fn covers(runs: &[Extent], span: Span) -> bool {
    let covered: u64 = runs.iter().map(|run| u64::from(run.count.get())).sum();
    covered > 0 && covered <= u64::from(span.count.get())
}

/// The kinds of the blocks from `offset` on, of what lies above a layer.
pub(crate) async fn extents(
    core: &Rc<Core>,
    above: Layer,
    offset: u64,
    len: u64,
    extents_max: usize,
) -> Result<Vec<Extent>, BlockError> {
    core.check()?;
    let size = core.geometry.get().size_bytes;
    if offset >= size || len == 0 || len > size - offset {
        return Err(BlockError::OutOfRange);
    }
    let (first, end) = touched_blocks(offset, len);
    let extents_max = extents_max.max(1);
    let mut extents = Vec::new();
    let origin = core.origin().filter(|_| above == Layer::default());
    let mut at = first;
    for piece in core.route.span_pieces(BlockRange::new(first, end)) {
        let shard = shard_of(core, &piece)?;
        let mut span = span_of(&piece);
        while span.count.get() > 0 {
            let mut covered = 0;
            for run in extents_of(core, &shard, || above, span).await? {
                covered += run.count.get();
                let origin = origin.as_deref();
                if !push_over(origin, &mut extents, extents_max, at, run).await? {
                    return Ok(extents);
                }
                at += u64::from(run.count.get());
            }
            span = span.skip(BlockCount::new(covered));
        }
    }
    Ok(extents)
}

#[cfg(test)]
mod tests;
