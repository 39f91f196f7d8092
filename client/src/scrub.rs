//! Scrubbing: what nobody reads is looked at all the same, while there are others to repair it from.
//!
//! ```text
//! maps   every pass: per block and layer, do all replicas in sync show the same version?
//! deep   at a set pace: does what lies on each device match its checksums?
//! ```
//!
//! What is settled must be the same everywhere; of two versions the one with the higher seq is the
//! later write. Versions above the horizon are on their way, and left alone. A replica in no set is
//! caught up as a whole instead. Invariant: a repair writes a version under its own seq, so nothing
//! newer is ever outranked.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::api::VolumeSettings;
use ashlar_proto::crc::crc32c;
use ashlar_proto::limits::{BLOCK_BYTES, BLOCK_BYTES_U64, FRAME_DATA_BLOCKS_MAX};
use ashlar_proto::message::{
    BlockKind, ReadEntry, TAIL_ENTRIES_MAX, Tail, TailEntry, TailKind, decode_tail, decode_verified,
};
use ashlar_proto::{BlockCount, BlockIndex, Layer, Seq, Status};
use ashlar_reactor::future::join_all;
use ashlar_reactor::{Instant, Reactor};

use crate::hedge::note_failed;
use crate::options::VolumeOptions;
use crate::quorum::{Mask, Slot};
use crate::read::{Blocks, verify};
use crate::repair;
use crate::shard::{Replica, Shard};
use crate::signal::Signal;
use crate::volume::Core;
use crate::wire::{self, Body};
use crate::write_log::Span;

/// The least pause between two questions of a scrub: it is in no hurry.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a shard whose replicas are not all well is left alone.
const LATER: Duration = Duration::from_secs(10);

/// The first pass comes after this part of the usual time.
const FIRST_PASS: u32 = 24;

/// Blocks that one question of a deep scrub covers.
const DEEP_BLOCKS: u32 = FRAME_DATA_BLOCKS_MAX as u32;

/// How a volume is scrubbed, by its settings.
#[derive(Debug, Default)]
pub(crate) struct ScrubPace {
    /// The pause before each pass; zero for none.
    interval: Cell<Duration>,
    /// Bytes a second that each replica reads.
    bytes: Cell<u64>,
    changed: Rc<Signal>,
}

impl ScrubPace {
    /// As the settings say, or where they say nothing, as the owner's process has it.
    pub(crate) fn note(&self, options: &VolumeOptions, settings: &VolumeSettings) {
        let interval = settings.scrub_interval_ms.map(Duration::from_millis);
        let interval = interval.unwrap_or(options.scrub_interval);
        let bytes = settings.scrub_bytes_per_second;
        self.bytes
            .set(bytes.map_or(options.scrub_pace, |bytes| bytes.get()));
        if self.interval.replace(interval) != interval {
            self.changed.raise();
        }
    }

    /// Whoever waits looks again.
    pub(crate) fn raise(&self) {
        self.changed.raise();
    }
}

/// Waits for the next pass. The pause begins anew where another one is set; false at the end of the volume.
async fn wait_for_pass(core: &Weak<Core>, reactor: &Reactor, is_first: bool) -> bool {
    loop {
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return false;
        };
        let interval = strong.scrub_pace.interval.get();
        let changed = Rc::clone(&strong.scrub_pace.changed);
        let moment = changed.moment();
        drop(strong);
        if interval.is_zero() {
            changed.raised_since(moment).await;
            continue;
        }
        // Sooner at first: some are never attached for long.
        let pause = if is_first {
            interval / FIRST_PASS
        } else {
            interval
        };
        let raised = reactor.timeout(pause, changed.raised_since(moment)).await;
        if raised.is_err() {
            return true;
        }
    }
}

/// Scrubs a volume for as long as it is attached.
pub(crate) async fn run(core: Weak<Core>) {
    let Some(strong) = core.upgrade() else { return };
    let reactor = strong.reactor.clone();
    drop(strong);
    let mut is_first = true;
    while wait_for_pass(&core, &reactor, is_first).await {
        is_first = false;
        let mut index = 0;
        loop {
            let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
                return;
            };
            let pace = strong.scrub_pace.bytes.get();
            let Some(shard) = strong.shards().get(index).cloned() else {
                break;
            };
            let whole = compare_maps(&strong, &shard).await;
            drop(strong);
            if whole.is_some() && pace > 0 {
                look_at_all(&core, &reactor, &shard, pace).await;
            }
            reactor
                .sleep(if whole.is_some() { PAUSE } else { LATER })
                .await;
            index += 1;
        }
    }
}

/// Those whose settled versions must be the same; none where there is nothing to compare, or
/// something is going on.
fn comparable(shard: &Shard) -> Option<Mask> {
    let log = shard.log.borrow();
    let quorum = log.quorum();
    let members = quorum.in_sync().and(log.live());
    let is_calm = quorum.proposed().is_none() && log.joining().is_empty();
    let suspect = members.and(shard.suspect.get());
    (is_calm && suspect.is_empty() && members == quorum.in_sync() && members.len() > 1)
        .then_some(members)
}

/// One replica's versions from a block on, and where they end.
struct Page {
    versions: BTreeMap<(BlockIndex, Layer), TailEntry>,
    /// The version of the layer table that it was cut by.
    table: u32,
    /// The first block that it says nothing of; none where it says all.
    end: Option<BlockIndex>,
}

/// Compares the maps of a shard; none where that cannot be done now.
async fn compare_maps(core: &Rc<Core>, shard: &Rc<Shard>) -> Option<()> {
    let mut from = BlockIndex::new(0);
    loop {
        let members = comparable(shard)?;
        let settled = shard.stamp(core).stable;
        let pages = members.slots().map(|slot| page(core, shard, slot, from));
        let pages: Option<Vec<Page>> = join_all(pages).await.into_iter().collect();
        let pages = pages?;
        if pages.iter().any(|page| page.table != pages[0].table) {
            return None;
        }
        let end = pages.iter().filter_map(|page| page.end).min();
        for (at, seq) in differing(&pages, end, settled) {
            mend(core, shard, at, seq).await?;
        }
        match end {
            Some(end) if end > from => from = end,
            // More versions of one block than a page has: it is looked at when it is read.
            Some(_) => from = from.checked_add(BlockCount::new(1))?,
            None => return Some(()),
        }
        core.reactor.sleep(PAUSE).await;
    }
}

async fn page(core: &Rc<Core>, shard: &Rc<Shard>, slot: Slot, from: BlockIndex) -> Option<Page> {
    let request = shard.stamp(core).without_stable();
    let request = request.tail(Seq::NONE, from, Layer::new(0));
    let reply = shard.replica(slot).peer.call(request).await.ok()?;
    if reply.header.status != Status::Ok {
        return None;
    }
    let Tail { table, entries } = decode_tail(wire::meta_of(&reply)?).ok()?;
    let is_full = entries.len() >= TAIL_ENTRIES_MAX;
    let end = entries.last().filter(|_| is_full).map(|last| last.block);
    let versions = entries
        .iter()
        .map(|entry| ((entry.block, entry.layer), *entry));
    Some(Page {
        versions: versions.collect(),
        table,
        end,
    })
}

/// The blocks below `end`, each with the layer in which the pages show different versions of it that are
/// settled, and with the highest of their seqs.
fn differing(
    pages: &[Page],
    end: Option<BlockIndex>,
    settled: Seq,
) -> Vec<((BlockIndex, Layer), Seq)> {
    let keys: BTreeSet<_> = pages.iter().flat_map(|page| page.versions.keys()).collect();
    let is_within = |block: BlockIndex| end.is_none_or(|end| block < end);
    let differs = |key: &(BlockIndex, Layer)| {
        let shown = || pages.iter().map(|page| page.versions.get(key));
        if shown().flatten().any(|entry| entry.seq > settled) {
            return false;
        }
        // A void is nothing, on whoever had an orphan there.
        let is_void = |entry: &&TailEntry| entry.kind == TailKind::Zero && entry.seq.is_void();
        let version = |entry: Option<&TailEntry>| {
            let entry = entry.filter(|entry| !is_void(entry));
            entry.map(|entry| (entry.seq, entry.kind))
        };
        let is_damaged = shown().flatten().any(|e| e.kind == TailKind::Damaged);
        let mut versions = shown().map(version);
        let first = versions.next();
        is_damaged || versions.any(|version| Some(version) != first)
    };
    let differing = keys
        .into_iter()
        .filter(|key| is_within(key.0) && differs(key));
    let with_seq = |key: &(BlockIndex, Layer)| {
        let shown = pages.iter().filter_map(|page| page.versions.get(key));
        let seq = shown.map(|entry| entry.seq).max();
        (*key, seq.unwrap_or(Seq::NONE))
    };
    differing.map(with_seq).collect()
}

/// What one replica shows of a block at a layer: nothing where it cannot.
async fn show(
    core: &Core,
    shard: &Shard,
    replica: &Replica,
    (layer, block): (Layer, Span),
) -> Option<(ReadEntry, Body)> {
    let request = shard.stamp(core).read(layer, block);
    let reply = replica.peer.call(request).await.ok()?;
    if reply.header.status != Status::Ok {
        return None;
    }
    let issued = core.seqs.borrow().last();
    let shown = verify(reply, block.count, issued)?;
    let entry = *shown.entries.first()?;
    let body = match Blocks::new(&shown.data).next() {
        Some(data) => Body::with_checksums(&[entry.crc], vec![data]),
        None => Body::Zeroes,
    };
    Some((entry, body))
}

/// Makes a block the same on all in one layer: as whoever has the latest version, of that seq, shows
/// it.
async fn mend(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    (at, layer): (BlockIndex, Layer),
    seq: Seq,
) -> Option<()> {
    let span = Span {
        block: at,
        count: BlockCount::new(1),
    };
    let block = (layer, span);
    let members = comparable(shard)?;
    // Held: their slots do not change hands meanwhile.
    let held: Vec<_> = members.slots().map(|slot| shard.replica(slot)).collect();
    let shown = held.iter().map(|replica| show(core, shard, replica, block));
    let zeroes_crc = crc32c(&core.zeroes[..BLOCK_BYTES]);
    let shown = join_all(shown).await;
    let content = |entry: &ReadEntry| match entry.kind {
        BlockKind::Data => Some(entry.crc),
        BlockKind::Zero => Some(zeroes_crc),
        BlockKind::Absent => None,
    };
    let readable = shown.iter().flatten();
    let (best, body) = readable.max_by_key(|(entry, _)| entry.seq)?;
    if best.seq != seq || best.seq == Seq::NONE {
        // Written again since, or the latest version is readable nowhere.
        return Some(());
    }
    for (replica, shown) in held.iter().zip(&shown) {
        let is_same = shown
            .as_ref()
            .is_some_and(|(entry, _)| content(entry) == content(best));
        if is_same || comparable(shard)? != members {
            continue;
        }
        core.counters.damage_seen.add();
        tracing::warn!(volume = %core.name, shard = %shard.index, block = %at, %layer,
            replica = %replica.id, seq = %best.seq, "scrub: a replica lacks a settled write");
        let stamp = shard.stamp(core).without_stable();
        let request = stamp.version(layer, span, best.seq, body);
        let reply = replica.peer.call(request).await.ok()?;
        let is_mended = show(core, shard, replica, block)
            .await
            .is_some_and(|(entry, _)| entry.seq >= best.seq);
        if reply.header.status == Status::Ok && is_mended {
            core.counters.blocks_repaired.add();
        }
    }
    Some(())
}

/// Has every replica of a shard compare what lies on its device with its checksums, so many bytes
/// of it a second. It lasts: the volume is held only while a question is under way.
async fn look_at_all(core: &Weak<Core>, reactor: &Reactor, shard: &Rc<Shard>, pace: u64) {
    let mut rest = None;
    loop {
        let Some(core) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let size = core.geometry.get().size_bytes;
        let span: Span = rest.unwrap_or_else(|| Span {
            block: BlockIndex::new(0),
            count: BlockCount::new(core.route.blocks_of(size, shard.index)),
        });
        if span.count.get() == 0 {
            return;
        }
        let started: Instant = reactor.now();
        let part = Span {
            count: span.count.min(BlockCount::new(DEEP_BLOCKS)),
            ..span
        };
        let Some(blocks) = look_at_part(&core, shard, part).await else {
            return;
        };
        rest = Some(span.skip(part.count));
        drop(core);
        let bytes = blocks * BLOCK_BYTES_U64;
        let due = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / pace.max(1));
        reactor.sleep_until(started + due.max(PAUSE)).await;
    }
}

/// Has every replica look at a span. The blocks of data that one of them, at most, has read there;
/// none where the scrub of the shard cannot go on.
async fn look_at_part(core: &Rc<Core>, shard: &Rc<Shard>, span: Span) -> Option<u64> {
    let members = comparable(shard)?;
    let mut most = 0;
    for slot in members.slots() {
        if comparable(shard) != Some(members) {
            return None;
        }
        most = most.max(look_at(core, shard, members, slot, span).await);
    }
    Some(most)
}

/// Has one replica look at a span; what is bad there is repaired from another. The blocks of data
/// that it has read.
async fn look_at(core: &Rc<Core>, shard: &Rc<Shard>, members: Mask, slot: Slot, span: Span) -> u64 {
    let stamp = shard.stamp(core);
    let replica = shard.replica(slot);
    let reply = replica
        .peer
        .call(stamp.verify(core.layers.head(), span))
        .await;
    let Ok(reply) = reply else { return 0 };
    let all = u64::from(span.count.get());
    match reply.header.status {
        Status::Ok => {
            let read = wire::meta_of(&reply).and_then(|meta| decode_verified(meta).ok());
            return read.map_or(all, |read| u64::from(read.get()));
        }
        Status::Damaged => {}
        Status::Device => note_failed(core, shard, slot, Status::Device),
        _ => return 0,
    }
    let Some(source) = members.without(slot).slots().next() else {
        return all;
    };
    core.counters.damage_seen.add();
    tracing::warn!(volume = %core.name, shard = %shard.index, block = %span.block,
        replica = %replica.id, "scrub: a replica has a bad copy");
    drop(replica);
    let bad = Mask::EMPTY.with(slot);
    if !core.layers.has_sealed() {
        repair::run(core, shard, core.layers.head(), span, bad, source).await;
        return all;
    }
    for version in versions(core, shard, source, span).await {
        let block = Span {
            block: version.block,
            count: BlockCount::new(1),
        };
        repair::run(core, shard, version.layer, block, bad, source).await;
    }
    all
}

/// Every version that a replica has of some blocks.
async fn versions(core: &Core, shard: &Shard, slot: Slot, span: Span) -> Vec<TailEntry> {
    let replica = shard.replica(slot);
    let (mut found, mut rest, mut from) = (Vec::new(), span, Layer::default());
    loop {
        let stamp = shard.stamp(core).without_stable();
        let request = stamp.tail_of(Seq::NONE, rest, from);
        let reply = replica.peer.call(request).await.ok();
        let tail = reply.and_then(|reply| decode_tail(wire::meta_of(&reply)?).ok());
        let page = tail.map_or_else(Vec::new, |tail| tail.entries);
        let is_full = page.len() >= TAIL_ENTRIES_MAX;
        let last = page.last().map(|last| (last.block, last.layer));
        found.extend(page);
        match last.filter(|last| is_full && last.0 >= rest.block) {
            Some((block, layer)) => {
                let past = block.get() - rest.block.get();
                rest = rest.skip(BlockCount::new(past));
                from = layer.next();
            }
            None => return found,
        }
    }
}
